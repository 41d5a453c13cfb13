"""Django's tests of its cache on files, with ``DatafileCache`` in its place.

It is run beside Django's own tests, which it imports; ``python -m tests.django_suite`` puts it there.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from cache import tests  # type: ignore[import-not-found]
from django.core.cache import cache as _cache
from django.test import override_settings

from dogpile_fs.integrations.django import DatafileCache

__all__ = ["DatafileCachePathTests", "DatafileCacheTests"]

cache: Any = _cache
_FileBasedCacheTests: Any = tests.FileBasedCacheTests
_BaseCacheTests: Any = tests.BaseCacheTests
_settings = tests.caches_setting_for_tests(BACKEND="dogpile_fs.integrations.django.DatafileCache")


@override_settings(CACHES=_settings)
class DatafileCacheTests(_FileBasedCacheTests):  # type: ignore[misc]
    """All of them. Three use private names of Django's class, or its clock: here they ask by other means."""

    dirname: str | Path

    def test_it_is_this_cache(self) -> None:
        assert type(cache._connections[cache._alias]) is DatafileCache

    def test_get_ignores_enoent(self) -> None:
        cache.set("foo", "bar")
        os.unlink(self._only_value())
        assert cache.get("foo", "baz") == "baz"

    def test_empty_cache_file_considered_expired(self) -> None:
        cache.set("foo", "bar")
        self._only_value().write_bytes(b"")
        assert cache.has_key("foo") is False

    def test_touch(self) -> None:
        # Of Django's own class it stops the clock, which the class has in its module: here the time passes.
        _BaseCacheTests.test_touch(self)

    def _only_value(self) -> Path:
        [value] = Path(self.dirname).glob("*.value")
        return value


class DatafileCachePathTests(DatafileCacheTests):
    """The same with a ``pathlib.Path`` as ``LOCATION``."""

    def mkdtemp(self) -> Path:
        return Path(tempfile.mkdtemp())


# The runner runs every class of tests that has a name here.
del _FileBasedCacheTests
