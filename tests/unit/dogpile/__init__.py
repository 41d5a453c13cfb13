"""Tests of dogpile_fs._dogpile."""
