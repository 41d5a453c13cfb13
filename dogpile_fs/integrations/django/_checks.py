"""Checks of Django's for the directories of registered datafiles and of caches; docs/django.rst lists them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from django import conf
from django.core import checks
from django.core.cache import caches

from ... import Datafiles
from ._cache import DatafileCache
from ._mounted import filesystem_of, is_shared
from ._registry import registered

__all__ = ["check_caches", "check_datafiles", "check_exposed_caches"]


def check_datafiles(app_configs: object, **options: object) -> list[checks.CheckMessage]:
    """Return what is wrong with the directories of registered datafiles."""
    found: list[checks.CheckMessage] = []
    for name, datafile in registered().items():
        read = datafile.pattern.partition("{key}")[0] if isinstance(datafile, Datafiles) else datafile.name
        what = f"the datafile {name!r}"
        for directory in datafile.writes_to:
            found += _unwritable(what, directory, datafile)
        for directory in datafile.writes_to or (os.path.dirname(read),):
            found += _shared(
                what,
                directory,
                "Put it on a file system of the host's own. Hosts share a datafile by its origin=.",
                datafile,
            )
    return found


def check_caches(app_configs: object, **options: object) -> list[checks.CheckMessage]:
    """Return what is wrong with the directories of caches that are a :class:`.DatafileCache`."""
    found: list[checks.CheckMessage] = []
    for alias, cache in _caches():
        what, source = f"the cache {alias!r}", f"CACHES[{alias!r}]"
        location = conf.settings.CACHES[alias].get("LOCATION")
        if not location:
            found.append(
                checks.Error(
                    f"{_capital(what)} has no LOCATION.",
                    hint="Name a directory that the cache has for itself.",
                    obj=source,
                    id="dogpile_fs.E003",
                )
            )
            continue
        if not os.path.isabs(location):
            found.append(
                checks.Warning(
                    f"The LOCATION of {what}, {os.fspath(location)!r}, is relative: processes that are started in "
                    "other directories have other caches.",
                    hint="Give an absolute path, such as BASE_DIR / 'cache'.",
                    obj=source,
                    id="dogpile_fs.W002",
                )
            )
        directory = cache.directory
        while not os.path.lexists(directory):
            directory = os.path.dirname(directory)  # the missing ones will be made in it
        found += _unwritable(what, directory, source)
        found += _shared(
            what,
            directory,
            "Give each host a directory of its own. For a cache that hosts share there are Redis and Memcached.",
            source,
        )
    return found


def check_exposed_caches(app_configs: object, **options: object) -> list[checks.CheckMessage]:
    """Return which caches are where files for visitors are, as Django asks of its own cache on files."""
    found: list[checks.CheckMessage] = []
    public = [(name, os.path.realpath(path)) for name, path in _public_directories()]
    for alias, cache in _caches():
        own = os.path.realpath(cache.directory)
        for name in dict.fromkeys(name for name, path in public if _overlap(own, path)):
            found.append(
                checks.Warning(
                    f"The LOCATION of the cache {alias!r}, {own!r}, is inside {name}, or the reverse: visitors "
                    "may get to read values, and files of theirs may get to be values, which are pickled.",
                    hint="Give it a directory that no web server sends files from.",
                    obj=f"CACHES[{alias!r}]",
                    id="dogpile_fs.W003",
                )
            )
    return found


def _caches() -> Iterator[tuple[str, DatafileCache]]:
    for alias in conf.settings.CACHES:
        cache = caches[alias]
        if isinstance(cache, DatafileCache):
            yield alias, cache


def _public_directories() -> Iterator[tuple[str, str]]:
    for name in ("MEDIA_ROOT", "STATIC_ROOT"):
        if path := getattr(conf.settings, name, None):
            yield name, path
    for path in getattr(conf.settings, "STATICFILES_DIRS", ()):
        yield "STATICFILES_DIRS", path[1] if isinstance(path, list | tuple) else path


def _overlap(one: str, other: str) -> bool:
    return os.path.commonpath([one, other]) in (one, other)


def _unwritable(what: str, directory: str, source: Any) -> Iterable[checks.CheckMessage]:
    """Yield an error if no file can be made in *directory*."""
    if not os.path.isdir(directory):
        is_there = os.path.lexists(directory)
        yield checks.Error(
            f"{_capital(what)} is to be made in {directory!r}, which "
            f"{'is no directory' if is_there else 'does not exist'}.",
            hint="Move it away, or name another directory."
            if is_there
            else "Make the directory, or pass parents=True to have it made.",
            obj=source,
            id="dogpile_fs.E002",
        )
    elif not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        yield checks.Error(
            f"{_capital(what)} is to be made in {directory!r}, which the user with the id {os.geteuid()} may not "
            "write.",
            hint="Let the user that runs the server own it, and run the checks as that user. A process that only "
            "reads has a datafile without a creator.",
            obj=source,
            id="dogpile_fs.E001",
        )


def _shared(what: str, directory: str, hint: str, source: Any) -> Iterable[checks.CheckMessage]:
    """Yield a warning if other hosts may share the file system of *directory*."""
    try:
        filesystem = filesystem_of(directory)
    except OSError:
        return  # another check tells, where that is a fault
    if filesystem is not None and is_shared(filesystem):
        yield checks.Warning(
            f"{_capital(what)} is in {directory!r}, on a file system ({filesystem}) that other hosts may share: "
            "its locks may not reach from one host to another, and each of them waits for the network.",
            hint=hint,
            obj=source,
            id="dogpile_fs.W001",
        )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
