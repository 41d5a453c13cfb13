"""Tests of dogpile_fs._sidecar."""
