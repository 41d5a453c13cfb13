"""What a user would pick instead, each used as its own documentation recommends, in the shapes the scenarios need.

Nothing is imported before it is used: a scenario pays for the peers that take part in it, and the tests for none.
What many processes need is imported before they are forked, by :func:`prepare`: importing is row 11.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from importlib import import_module
from typing import Any

__all__ = ["LOCKS", "READ_WRITE", "Block", "ReadWrite", "flocked", "prepare"]

#: A ``with`` block to be entered again and again.
Block = AbstractContextManager[Any]

DOGPILE = "Dogpile"
READER = "SyncReaderDogpile"
OVER_FILELOCK = "dogpile.Lock over filelock"
DBM = "dogpile.cache, dbm backend"
STAMPEDE = "diskcache memoize_stampede"
FLOCK = "bare flock"
FILELOCK = "filelock FileLock"
PORTALOCKER = "portalocker Lock"
FASTENERS = "fasteners InterProcessLock"
DISKCACHE = "diskcache Lock"
FILELOCK_RW = "filelock ReadWriteLock"
FASTENERS_RW = "fasteners reader/writer lock"


@dataclass(frozen=True)
class ReadWrite:
    """One way to keep readers and a writer apart."""

    name: str
    #: Called by each process with a path; returns what makes a reader's block, and what makes a writer's.
    open: Callable[[str], tuple[Callable[[], Block], Callable[[], Block]]]


def prepare(name: str) -> None:
    """Import what the election or the lock of this name will import."""
    for start, modules in _IMPORTS.items():
        if name.startswith(start):
            for module in modules:
                import_module(module)


_IMPORTS = {
    DOGPILE: ("dogpile_fs._dogpile.dogpile",),
    READER: ("dogpile_fs._dogpile.dogpile", "dogpile_fs._locks.readwrite"),
    OVER_FILELOCK: ("dogpile.lock", "filelock"),
    DBM: ("dogpile.cache", "dogpile.cache.backends.file", "dbm.dumb"),
    "diskcache": ("diskcache",),
    "filelock": ("filelock",),
    "portalocker": ("portalocker",),
    "fasteners": ("fasteners",),
}


# Plain locks


@contextmanager
def flocked(fd: int, kind: int = LOCK_EX) -> Iterator[None]:
    """A block inside ``flock`` on a descriptor that is kept open."""
    flock(fd, kind)
    try:
        yield
    finally:
        flock(fd, LOCK_UN)


class _Flock:
    """Exclusive ``flock``, as a block: no more than the system calls."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def __enter__(self) -> None:
        flock(self.fd, LOCK_EX)

    def __exit__(self, *_: object) -> None:
        flock(self.fd, LOCK_UN)


def _filelock(path: str) -> Block:
    from filelock import FileLock

    return FileLock(path)


def _portalocker(path: str) -> Block:
    import portalocker

    # Its documentation gives every lock a timeout; the default of 5 s would end the wait for a creator.
    return portalocker.Lock(path, timeout=600)


def _fasteners(path: str) -> Block:
    from fasteners import InterProcessLock

    lock: Block = InterProcessLock(path)
    return lock


def _diskcache(path: str) -> Block:
    import diskcache

    lock: Block = diskcache.Lock(diskcache.Cache(path + ".cache"), "lock")
    return lock


#: Mutexes: name, and what makes one of a path.
LOCKS: dict[str, Callable[[str], Block]] = {
    FLOCK: _Flock,
    FILELOCK: _filelock,
    PORTALOCKER: _portalocker,
    FASTENERS: _fasteners,
    DISKCACHE: _diskcache,
}


# Readers and writers


def _reader_dogpile(path: str) -> tuple[Callable[[], Block], Callable[[], Block]]:
    from dogpile_fs import SyncReaderDogpile

    dogpile = SyncReaderDogpile(None, path, init=True)
    return dogpile.acquire, dogpile.acquire_write_lock


def _reader_flock(path: str) -> tuple[Callable[[], Block], Callable[[], Block]]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    return lambda: flocked(fd, LOCK_SH), lambda: flocked(fd, LOCK_EX)


def _reader_filelock(path: str) -> tuple[Callable[[], Block], Callable[[], Block]]:
    from filelock import ReadWriteLock

    lock = ReadWriteLock(path + ".db")
    return lock.read_lock, lock.write_lock


def _reader_fasteners(path: str) -> tuple[Callable[[], Block], Callable[[], Block]]:
    from fasteners import InterProcessReaderWriterLock

    lock = InterProcessReaderWriterLock(path)
    return lock.read_lock, lock.write_lock


READ_WRITE: dict[str, ReadWrite] = {
    lock.name: lock
    for lock in (
        ReadWrite(READER, _reader_dogpile),
        ReadWrite(FILELOCK_RW, _reader_filelock),
        ReadWrite(FASTENERS_RW, _reader_fasteners),
        ReadWrite(FLOCK, _reader_flock),
    )
}
