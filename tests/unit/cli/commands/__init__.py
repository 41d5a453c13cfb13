"""Tests of dogpile_fs.cli.commands."""
