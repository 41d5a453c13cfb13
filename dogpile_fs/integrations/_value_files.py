"""A value for each of many keys, in a file of its own: what the backends of caches are made of.

A file begins with a checksum and the moment at which its value expires. It is renamed without being synced to the
disk, because a cache may lose a value; the checksum finds what a crash of the machine has left of one.

The files are in one directory and not in many, because a cache with a limit on its entries counts them by listing
it. Their names are digests, so that any text is a key.

Each key has two mutexes, all of them in one lock file. A caller that changes a value holds the one for *writing*,
for microseconds. A caller that creates a value holds the one for *creating*, for as long as that takes; so other
callers can set and delete the value meanwhile.
"""

from __future__ import annotations

import hashlib
import math
import operator
import os
import re
import secrets
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from time import time
from types import TracebackType
from typing import NamedTuple, Protocol

from .. import KeyMutexes

__all__ = ["NEVER", "Mutex", "Value", "ValueFile", "ValueFiles"]

#: When a value expires that does not.
NEVER = math.inf

#: Permission bits: values may be private, and those that are pickled run code in each process that reads them.
_DIRECTORY_MODE, _FILE_MODE = 0o700, 0o600
_LOCK_FILE = "keys.lock"
_SUFFIX = ".value"
#: Hexadecimal digits of a key's digest (128 bits).
_DIGITS = 32
_NAME = re.compile(rf"[0-9a-f]{{{_DIGITS}}}{re.escape(_SUFFIX)}")
#: The name of a file that is being written; a killed writer leaves it.
_NEW = re.compile(rf"{_NAME.pattern}\.[0-9a-f]{{16}}\.new")
#: Seconds after which such a file is a leftover: far longer than a value takes to be written.
_LEFTOVER = 3600.0

#: What the file is; the checksum of all that follows; when the value expires, as seconds of the epoch.
_HEADER = struct.Struct(">8sId")
_UNTIL = struct.Struct(">d")
_MAGIC = b"dogpile\1"
#: Where the bytes begin that the checksum is of.
_CHECKED = _HEADER.size - _UNTIL.size


class Mutex(Protocol):
    """What dogpile.cache and this package call of a mutex."""

    def acquire(self, wait: bool = True) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def __enter__(self) -> object: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> object: ...


class Value(NamedTuple):
    """A value: its bytes, and when it expires, as seconds of the epoch."""

    data: bytes
    until: float


class ValueFile:
    """The value of one key."""

    __slots__ = ("_files", "_name", "path")

    def __init__(self, files: ValueFiles, name: str) -> None:
        self._files = files
        self._name = name
        self.path = os.path.join(files.directory, name)

    def read(self) -> Value | None:
        """Return the value; ``None`` if there is none, it is expired, or the file was harmed."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                content = file.read()
        except FileNotFoundError:
            return None
        checksum, until = _unpacked(content)
        if time() >= until or zlib.crc32(memoryview(content)[_CHECKED:]) != checksum:
            return None
        return Value(content[_HEADER.size :], until)

    def is_expired(self) -> bool:
        """Return whether there is no value, or one that is expired; the value itself is not read."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                _, until = _unpacked(file.read(_HEADER.size))
        except FileNotFoundError:
            return True
        return time() >= until

    def creating(self) -> Mutex:
        """Return the mutex of the caller that creates the value."""
        self._files.make_directory()
        return self._files.mutexes[f"create {self._name}"]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep all other callers from changing the value."""
        self._files.make_directory()
        with self._files.mutexes[f"write {self._name}"]:
            yield

    def write(self, data: bytes, until: float = NEVER) -> None:
        """Have *data* as the value. The caller is :meth:`writing`."""
        header = _HEADER.pack(_MAGIC, zlib.crc32(data, zlib.crc32(_UNTIL.pack(until))), until)
        new = f"{self.path}.{secrets.token_hex(8)}.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
        try:
            with open(fd, "wb", buffering=0) as file:
                _write_all(file.fileno(), header + data)
            os.rename(new, self.path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(new)
            raise

    def remove(self) -> bool:
        """Remove the value, and return whether there was one. The caller is :meth:`writing`."""
        was_there = self.read() is not None
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        return was_there


class ValueFiles:
    """The values of all keys in a *directory*, which is made when it is needed."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = os.path.abspath(os.fspath(directory))
        self.mutexes = KeyMutexes(os.path.join(self.directory, _LOCK_FILE), mode=_FILE_MODE)

    def __getitem__(self, key: str) -> ValueFile:
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_DIGITS // 2).hexdigest()
        return ValueFile(self, f"{digest}{_SUFFIX}")

    def make_directory(self) -> None:
        """Make the directory and those above it, for its user alone, or find it there."""
        missing = []
        directory = self.directory
        while not os.path.isdir(directory):
            missing.append(directory)
            directory = os.path.dirname(directory)
        for directory in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(directory, _DIRECTORY_MODE)

    def names(self) -> list[str]:
        """Return the names of all files with values, expired or not."""
        try:
            return [name for name in os.listdir(self.directory) if _NAME.fullmatch(name)]
        except FileNotFoundError:
            return []

    def discard(self, name: str) -> None:
        """Remove the value in the file of this *name*, whichever it is."""
        file = ValueFile(self, name)
        with file.writing():
            file.remove()

    def prune(self, older_than: float | timedelta | None, max_bytes: int | None) -> int:
        """Remove values: those that are expired, those that are old, and the oldest until the rest is small.

        What killed writers have left goes as well.

        :param older_than: seconds (or a ``timedelta``) since a value was written after which it goes.
        :param max_bytes: what the files that are left may have together.
        :returns: how many values went.
        :raises TypeError, ValueError: for an argument of the wrong type or value.
        """
        longest = _seconds(older_than)
        most = math.inf if max_bytes is None else operator.index(max_bytes)
        if most < 0:
            raise ValueError(f"max_bytes must be a number of bytes, not {max_bytes!r}")
        self.remove_leftovers()
        now, gone = time(), 0
        all_found = sorted(found for name in self.names() if (found := self._look(name)) is not None)
        left = sum(each.size for each in all_found)
        for each in all_found:
            file = ValueFile(self, each.name)
            goes = left > most or now - each.at > longest or file.is_expired()
            if goes and self._remove(file, each):
                left -= each.size
                gone += 1
        return gone

    def _look(self, name: str) -> _Found | None:
        try:
            found = os.stat(os.path.join(self.directory, name))
        except FileNotFoundError:
            return None
        return _Found(found.st_mtime, found.st_size, found.st_ino, name)

    def _remove(self, file: ValueFile, found: _Found) -> bool:
        """Remove the *file* if it is what was *found*, and was not written again."""
        with file.writing():
            if self._look(found.name) != found:
                return False
            os.unlink(file.path)
            return True

    def remove_leftovers(self) -> None:
        """Remove the files that killed writers have left an hour ago or earlier."""
        with suppress(FileNotFoundError):
            for name in filter(_NEW.fullmatch, os.listdir(self.directory)):
                found = self._look(name)
                if found is not None and time() - found.at > _LEFTOVER:
                    with suppress(FileNotFoundError):
                        os.unlink(os.path.join(self.directory, name))


class _Found(NamedTuple):
    """A file: when it was written, its size, its inode, and its name."""

    at: float
    size: int
    inode: int
    name: str


def _unpacked(content: bytes) -> tuple[int, float]:
    """Return the checksum, and when the value expires: long ago where this is the beginning of no value."""
    if len(content) < _HEADER.size:
        return 0, -NEVER
    magic, checksum, until = _HEADER.unpack_from(content)
    return checksum, until if magic == _MAGIC else -NEVER


def _seconds(older_than: float | timedelta | None) -> float:
    if older_than is None:
        return math.inf
    seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else float(older_than)
    if not seconds >= 0:
        raise ValueError(f"older_than must be a number of seconds from 0 on, not {older_than!r}")
    return seconds


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
