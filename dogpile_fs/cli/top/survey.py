"""Find all resources below a directory, and look at each of them as ``status`` does.

A resource is found by its sidecar, and keys of ``Datafiles`` by the file that tells their pattern. Nothing is
written or removed, and nothing is waited for.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from time import monotonic
from typing import NamedTuple

from ... import Dogpile, Status
from ..._datafile import at_path
from ..._dogpile.key_pattern import KeyPattern, patterns_in
from ..._dogpile.process_scope import ProcessScope
from ..._layout import HIDDEN_DIRECTORY, LOCK_SUFFIX, SIDECAR_SUFFIX, is_hidden_directory
from ..._sidecar.key_records import KeyRecords
from ..._sidecar.record import DAMAGED
from ...errors import DogpileError
from ..exits import message_of

__all__ = ["Finding", "Survey"]

#: How the name of coordination files ends that are not beside their resource (``directory=``).
_ELSEWHERE = re.compile(r"-[0-9a-f]{16}$")
#: The least part of the time that is not spent on counting keys, in counts: a file of 100,000 keys takes a while.
_REST = 20.0


#: The permission bits that each coordination file has.
_OWNERS = stat.S_IRUSR | stat.S_IWUSR


class Finding(NamedTuple):
    """What is known of one resource, or of all keys of a pattern, at one moment.

    *path*: its path, or the pattern. *status*: ``None`` for keys, and for what cannot be looked at: *complaint*
    says why. *size*: in bytes; ``None``: no file, or a directory. *keys*: how many keys there are, and how many of
    them *failing*.
    """

    path: str
    status: Status | None = None
    size: int | None = None
    keys: int | None = None
    failing: int = 0
    complaint: str = ""


class _Count(NamedTuple):
    """A count of keys, the records' time of change for which it holds, and the time until which it will do."""

    keys: int
    failing: int
    at: int
    until: float


class Survey:
    """All resources below *directory*.

    :raises OSError: if it is no directory, or may not be listed.
    """

    def __init__(self, directory: str) -> None:
        os.scandir(directory).close()
        self.directory = directory
        self._counts: dict[str, _Count] = {}

    def findings(self) -> list[Finding]:
        """Return what there is now. An entry that cannot be looked at is among them, and hides no other."""
        here = f"{os.curdir}{os.sep}"
        return [finding._replace(path=finding.path.removeprefix(here)) for finding in self._findings()]

    def _findings(self) -> Iterator[Finding]:
        pending = [self.directory]
        while pending:
            directory = pending.pop()
            try:
                with os.scandir(directory) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
            except FileNotFoundError:
                continue  # removed meanwhile
            except OSError as error:
                yield Finding(directory, complaint=f"cannot be listed: {error.strerror}")
                continue
            for entry in entries:
                try:
                    is_directory = entry.is_dir(follow_symlinks=False)
                except OSError as error:
                    yield Finding(entry.path, complaint=message_of(error))
                    continue
                if not is_directory:
                    if entry.name.endswith(SIDECAR_SUFFIX) and entry.name != SIDECAR_SUFFIX:
                        yield _found(entry)
                elif not is_hidden_directory(entry.name):
                    pending.append(entry.path)
                elif entry.name == HIDDEN_DIRECTORY:
                    yield from self._keys(directory)

    def _keys(self, fixed: str) -> Iterator[Finding]:
        try:
            patterns = list(patterns_in(fixed))
        except OSError as error:
            yield Finding(os.path.join(fixed, HIDDEN_DIRECTORY), complaint=message_of(error))
            return
        for pattern in patterns:
            try:
                count = self._count(pattern)
            except (DogpileError, OSError) as error:
                yield Finding(str(pattern), complaint=message_of(error))
            else:
                yield Finding(str(pattern), keys=count.keys, failing=count.failing)

    def _count(self, pattern: KeyPattern) -> _Count:
        path, now = pattern.records_path, monotonic()
        try:
            at = os.stat(path).st_mtime_ns
        except FileNotFoundError:
            return _Count(0, 0, 0, 0.0)
        last = self._counts.get(path)
        if last is not None and (last.at == at or now < last.until):
            return last
        keys = failing = 0
        for _, record in KeyRecords(path, mode=None, timeout=None, make=lambda: None).all():
            keys += 1
            failing += record.failures > 0
        took = monotonic() - now
        self._counts[path] = count = _Count(keys, failing, at, now + took * _REST)
        return count


def _found(entry: os.DirEntry[str]) -> Finding:
    path = os.path.join(os.path.dirname(entry.path), entry.name.removesuffix(SIDECAR_SUFFIX))
    try:
        for suffix in (SIDECAR_SUFFIX, LOCK_SUFFIX):
            if complaint := _obstacle(path + suffix):
                return Finding(path, complaint=complaint)
        dogpile = _dogpile_at(path)
        status = dogpile.status()
        if not status.generation and status.invalidated and _is_damaged(dogpile):
            return Finding(path, complaint=f"{entry.name!r} holds no sound record")
        return Finding(path, status, at_path.size_at(path))
    except (DogpileError, OSError) as error:
        return Finding(path, complaint=message_of(error))


def _obstacle(path: str) -> str:
    """Return why the coordination file at *path* cannot be opened; an empty string if nothing is known of it.

    To ask for the status would repair it: remove what is no regular file, and restore its owner's permission.
    """
    try:
        st = os.lstat(path)
    except FileNotFoundError:
        return ""
    name = os.path.basename(path)
    if not stat.S_ISREG(st.st_mode):
        return f"{name!r} is no regular file"
    if st.st_uid == os.geteuid() and st.st_mode & _OWNERS != _OWNERS:
        return f"{name!r} has lost its owner's permission to read and write"
    return ""


def _is_damaged(dogpile: Dogpile) -> bool:
    scope = dogpile._shared.scope
    return isinstance(scope, ProcessScope) and scope.sidecar.read().record == DAMAGED


def _dogpile_at(path: str) -> Dogpile:
    if _ELSEWHERE.search(path) and not at_path.exists(path):
        # Its resource is elsewhere, and nothing tells where. The record alone tells of it.
        dogpile = Dogpile(None, path)
        dogpile.expiretime = dogpile.status().expiretime
        return dogpile
    return at_path.dogpile_at(path)
