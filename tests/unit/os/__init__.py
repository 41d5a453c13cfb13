"""Tests of dogpile_fs._os."""
