"""Caches of many keys: ours, and those of the peers.

The function that they cache is one at the top level of this module, because some of them know a function by its
module and name. A process gives it its creator when it opens a cache.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.contenders.peers import (
    CACHED_FILE,
    CACHIER_FILES,
    DATAFILES,
    DBM,
    DISKCACHE_BY_HAND,
    DJANGO,
    JOBLIB,
    STAMPEDE,
)

__all__ = ["CACHES", "Cache", "Value", "opened", "value_of"]

Value = dict[str, Any]
_HOUR = 3600
#: More than there are keys: Django's cache removes a third of them otherwise.
_MOST = 10_000_000


@dataclass(frozen=True)
class Cache:
    """A cache that is open in this process."""

    #: Returns the value of a key; creates it if there is none.
    get: Callable[[str], Value]
    #: Puts many values there, where that is quicker than to ask for one after the other.
    fill: Callable[[Sequence[str]], object] | None = None
    #: Removes the keys that were created, or used, so many seconds ago.
    prune: Callable[[float], object] | None = None
    #: Removes all keys; of ours and of joblib, those of age 0.
    clear: Callable[[], object] | None = None


def value_of(key: str) -> Value:
    """Return the value that is cached for *key*: 200 bytes of JSON."""
    return {"key": key, "rows": list(range(50))}


_creator: Callable[[str], Value] = value_of


def create(key: str) -> Value:
    """Return the value of *key*, from the creator of this process."""
    return _creator(key)


def opened(name: str, place: Path, creator: Callable[[str], Value] = value_of) -> Cache:
    """Return the cache *name* in the directory *place*. All caches of a process have the same *creator*."""
    global _creator
    _creator = creator
    return CACHES[name](place)


def _put(file: Any, key: str) -> None:
    """Put a file of ours there that was made elsewhere: a fifth of what creating it takes."""
    os.makedirs(os.path.dirname(file._path), exist_ok=True)
    _create_file(key, file._path)
    file.touch()


def _create_file(key: str, target: str) -> None:
    with open(target, "w") as file:
        json.dump(create(key), file)


def _datafiles(place: Path) -> Cache:
    from dogpile_fs import Datafiles

    files = Datafiles(place / "{key}.json", _HOUR, _create_file, durable=False)

    def fill(keys: Sequence[str]) -> None:
        for key in keys:
            _put(files[key], key)

    def get(key: str) -> Value:
        value: Value = files[key].load(json.load)
        return value

    return Cache(
        get,
        fill,
        prune=lambda seconds: files.prune(older_than=seconds),
        clear=lambda: files.prune(older_than=0),
    )


def _cached_file(place: Path) -> Cache:
    from dogpile_fs import cached_file

    cached = cached_file(place, _HOUR, durable=False)(create)

    def fill(keys: Sequence[str]) -> None:
        for key in keys:
            _put(cached._file((key,), {}), key)

    return Cache(
        cached,
        fill,
        prune=lambda seconds: cached.files.prune(older_than=seconds),
        clear=lambda: cached.files.prune(older_than=0),
    )


def _stampede(place: Path) -> Cache:
    import diskcache

    cache = diskcache.Cache(str(place))
    return Cache(
        diskcache.memoize_stampede(cache, _HOUR, name="create")(create),
        prune=lambda seconds: cache.expire(now=time.time() + _HOUR - seconds),
        clear=cache.clear,
    )


def _diskcache_by_hand(place: Path) -> Cache:
    import diskcache

    cache = diskcache.Cache(str(place))

    def get(key: str) -> Value:
        value: Value | None = cache.get(key)
        if value is None:
            with diskcache.Lock(cache, f"lock of {key}"):
                value = cache.get(key)
                if value is None:
                    value = create(key)
                    cache.set(key, value, expire=_HOUR)
        return value

    return Cache(get, prune=lambda seconds: cache.expire(now=time.time() + _HOUR - seconds), clear=cache.clear)


def _dbm(place: Path) -> Cache:
    from dogpile.cache import make_region

    with open(place / "keys.opening", "w") as opening:
        # It makes its files without its lock: of two processes that do so at once, one may fail.
        fcntl.flock(opening, fcntl.LOCK_EX)
        region = make_region().configure(
            "dogpile.cache.dbm", expiration_time=_HOUR, arguments={"filename": str(place / "keys.dbm")}
        )

    def get(key: str) -> Value:
        value: Value = region.get_or_create(key, lambda: create(key))
        return value

    return Cache(get, lambda keys: region.set_multi({key: create(key) for key in keys}))


def _joblib(place: Path) -> Cache:
    from joblib import Memory, expires_after

    memory = Memory(str(place), verbose=0)
    return Cache(
        memory.cache(create, cache_validation_callback=expires_after(seconds=_HOUR)),
        prune=lambda seconds: memory.reduce_size(age_limit=timedelta(seconds=seconds)),
        clear=lambda: memory.reduce_size(age_limit=timedelta(0)),
    )


def _cachier(place: Path) -> Cache:
    from cachier import cachier

    cached = cachier(stale_after=timedelta(seconds=_HOUR), cache_dir=place, separate_files=True)(create)
    return Cache(cached, clear=cached.clear_cache)


def _django(place: Path) -> Cache:
    from django.core.cache.backends.filebased import FileBasedCache

    class Filled(FileBasedCache):  # type: ignore[misc,unused-ignore]
        """Does not list all files at every ``set``, to see whether there are too many."""

        def _cull(self) -> None:
            pass

    options = {"TIMEOUT": _HOUR, "OPTIONS": {"MAX_ENTRIES": _MOST}}
    cache = FileBasedCache(str(place), options)

    def get(key: str) -> Value:
        found: Any = cache.get_or_set(key, lambda: create(key))
        value: Value = found
        return value

    def fill(keys: Sequence[str]) -> None:
        Filled(str(place), options).set_many({key: create(key) for key in keys})

    return Cache(get, fill, clear=cache.clear)


#: Called by each process with a directory.
CACHES: dict[str, Callable[[Path], Cache]] = {
    DATAFILES: _datafiles,
    CACHED_FILE: _cached_file,
    STAMPEDE: _stampede,
    DISKCACHE_BY_HAND: _diskcache_by_hand,
    DBM: _dbm,
    JOBLIB: _joblib,
    CACHIER_FILES: _cachier,
    DJANGO: _django,
}
