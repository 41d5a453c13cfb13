"""Remove keys that are old, or take too much room: their files, records, earlier versions and leftovers.

Each key goes under its creation mutex, the file first: a process that is killed in between leaves a record without
a file, which means that there is nothing. A file without its record would count as created at its mtime, and an
invalidation would be forgotten. Empty shards go last, each while no process creates in it.
"""

from __future__ import annotations

import errno
import logging
import operator
import os
import re
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from time import time
from typing import Any, NamedTuple

from .._dogpile.key_pattern import shard_of
from .._dogpile.key_scope import Keys
from .._layout import KIND_KEPT, KIND_NEW, TEMP_PREFIX, temp_affixes
from .._locks.key_mutex import shard_for_removal
from .._os import replace
from .._os.filesystem import look_anew
from .._os.waiting import checked_seconds
from .._sidecar.fingerprint import fingerprint_at
from .._sidecar.record import MISSING, Record
from ..errors import DatafileError, os_errors_as
from .hidden_directory import hidden_beside
from .names import names_in

__all__ = ["prune"]

log = logging.getLogger("dogpile_fs")

_SHARD = re.compile("[0-9a-f]{2}")
#: The names of versions that are built or kept begin so; the digest is that of their resource's name.
_OF_A_VERSION = re.compile(rf"{re.escape(TEMP_PREFIX)}(?:{KIND_NEW}|{KIND_KEPT})-([0-9a-f]+)-")


class _Taker:
    """Has the hold of a key's mutex."""

    mutex_hold: Any = None


class _Found(NamedTuple):
    """A key: when it was created or tried last, the bytes of its versions, and its name."""

    at: float
    size: int
    name: str


def prune(keys: Keys, older_than: float | timedelta | None, max_bytes: int | None) -> int:
    """Remove keys; see :meth:`.Datafiles.prune`."""
    if older_than is None and max_bytes is None:
        raise TypeError("prune() needs to know what shall go: give older_than=, max_bytes=, or both")
    longest = None if older_than is None else checked_seconds("older_than", older_than)
    most = None if max_bytes is None else operator.index(max_bytes)
    if most is not None and most < 0:
        raise ValueError(f"max_bytes must be a number of bytes, not {max_bytes!r}")
    pruning, now, gone = _Pruning(keys), time(), 0
    all_found = sorted(pruning.look())
    left = sum(each.size for each in all_found)
    for each in all_found:
        is_too_old = longest is not None and now - each.at > longest
        is_too_much = most is not None and left > most and each.size > 0
        if (is_too_old or is_too_much) and pruning.remove(each):
            left -= each.size
            gone += 1
    pruning.remove_empty_shards()
    return gone


class _Pruning:
    """One look at all keys, and the removal of some."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._pattern = keys.pattern
        self._shards: list[str] = []
        #: Of each directory with files of keys: where their versions are built and kept, and what is there, by the
        #: digests of their names.
        self._versions: dict[str, tuple[str, dict[str, list[str]]]] = {}

    def look(self) -> Iterator[_Found]:
        """Yield what there is of each key."""
        fixed = self._pattern.fixed
        with_file, with_record = set[str](), set[str]()
        for shard in filter(_SHARD.fullmatch, _listing(fixed)):
            directory = os.path.join(fixed, shard)
            if not os.path.isdir(directory) or os.path.islink(directory):
                continue
            self._shards.append(directory)
            for component in _listing(directory):
                if (name := self._pattern.name_in(component)) is not None and shard == shard_of(name):
                    with_file.add(name)
            # Of a key without file and record, if another program has removed those.
            for _, found in self._versions_in(directory)[1].items():
                for version in found:
                    if (name := self._pattern.name_in(version.split(".", 2)[-1])) and shard == shard_of(name):
                        with_file.add(name)
        for name, record in self._keys.records.all():
            with_record.add(name)
            yield self._found(name, record)
        for name in with_file - with_record:
            yield self._found(name, MISSING)

    def _found(self, name: str, record: Record) -> _Found:
        path = self._pattern.path_of(name)
        with os_errors_as(DatafileError, path, "look at", reading=True):
            found = fingerprint_at(path)
        record = record.reconcile(found and found[:2])
        size = 0 if found is None else found[0].size
        for version in self._versions_of(path):
            with suppress(OSError):
                size += os.lstat(version).st_size
        tried = 0.0 if record.attempt is None else record.attempt.since
        return _Found(max(record.createdtime, record.failed_at or 0.0, tried), size, name)

    def remove(self, found: _Found) -> bool:
        """Remove a key; False if it is in use, has been created again, or is gone already."""
        name, taker = found.name, _Taker()
        mutex, record, path = self._keys.mutex(name), self._keys.record(name), self._pattern.path_of(name)
        try:
            if not mutex.acquire(wait=False, taker=taker):
                return False
            look_anew(self._pattern.records_path, *self._pattern.directories_to(path))
            known = record.read().record
            if self._found(name, known).at != found.at or not self._is_anything(path, known):
                return False
            try:
                self._remove_files(path)
            except OSError as error:
                log.warning("%r is to be pruned, and cannot be removed: %s", path, error)
                return False
            self._keys.records.erase(record)
            return True
        finally:
            if taker.mutex_hold is not None:
                mutex._release_hold(taker.mutex_hold)

    def _is_anything(self, path: str, record: Record) -> bool:
        return record != MISSING or any(map(os.path.lexists, (path, *self._versions_of(path))))

    def _remove_files(self, path: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path)
        for each in self._versions_of(path):
            replace.remove(each)
        directory = os.path.dirname(path)
        # Directories of this key alone: no other caller is in them while the mutex is held.
        while directory not in self._shards and directory.startswith(self._pattern.fixed + os.sep):
            _remove_if_empty(directory)
            directory = os.path.dirname(directory)

    def _versions_of(self, path: str) -> list[str]:
        """Return the paths of earlier versions of the file at *path*, and of what killed creators left of it."""
        hidden, versions = self._versions_in(os.path.dirname(path))
        if not versions:
            return []
        begin, _ = temp_affixes(KIND_NEW, path)
        return [os.path.join(hidden, name) for name in versions.get(_digest_in(begin) or "", ())]

    def _versions_in(self, directory: str) -> tuple[str, dict[str, list[str]]]:
        if directory not in self._versions:
            by_digest: dict[str, list[str]] = {}
            hidden = directory
            try:
                hidden = hidden_beside(os.path.join(directory, "-"))
            except DatafileError as error:  # also: another prune has removed it at this moment
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                    raise
            for name in _listing(hidden):
                if digest := _digest_in(name):
                    by_digest.setdefault(digest, []).append(name)
            self._versions[directory] = hidden, by_digest
        return self._versions[directory]

    def remove_empty_shards(self) -> None:
        """Remove the directories in which no key is left."""
        for directory in self._shards:
            held = shard_for_removal(self._pattern.lock_path, int(os.path.basename(directory), 16))
            if held is not None:
                with closing(held):
                    _remove_if_empty(directory)


def _remove_if_empty(directory: str) -> None:
    """Remove *directory*, with the hidden sub-directory in it, if nothing is in them."""
    with suppress(OSError, DatafileError):
        os.rmdir(hidden_beside(os.path.join(directory, "-")))
    with suppress(OSError):
        os.rmdir(directory)


def _digest_in(name: str) -> str | None:
    found = _OF_A_VERSION.match(name)
    return None if found is None else found[1]


def _listing(directory: str) -> list[str]:
    return names_in(directory, "", needed=True)
