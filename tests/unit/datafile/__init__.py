"""Tests of dogpile_fs._datafile."""
