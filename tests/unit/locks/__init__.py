"""Tests of dogpile_fs._locks."""
