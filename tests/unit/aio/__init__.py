"""Tests of ``dogpile_fs.aio``. The promises are tested from one source for all classes: ``tests/promises``."""
