"""Tests of dogpile_fs.cli."""
