"""The alternatives, each used as its own documentation recommends, in the shapes that the scenarios need.

Each is imported where it is used: a scenario pays for its own peers only, and the tests for none. :func:`prepare`
imports before many processes are forked: importing is row 11.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from importlib import import_module
from importlib.util import find_spec
from typing import Any

__all__ = ["LOCKS", "READ_WRITE", "Block", "ReadWrite", "flocked", "is_installed", "prepare"]

#: A ``with`` block to be entered again and again.
Block = AbstractContextManager[Any]

DOGPILE = "Dogpile"
PROCESS = "Datafile, in a process"
THREAD = "Datafile, in a thread"
READER = "SyncReaderDogpile"
OVER_FILELOCK = "dogpile.Lock over filelock"
DBM = "dogpile.cache, dbm backend"
STAMPEDE = "diskcache memoize_stampede"
CACHIER = "cachier, next_time"
CACHIER_FILES = "cachier, separate_files"
DATAFILES = "Datafiles"
CACHED_FILE = "cached_file"
JOBLIB = "joblib.Memory"
DJANGO = "Django, file-based cache"
FLOCK = "bare flock"
FILELOCK = "filelock FileLock"
PORTALOCKER = "portalocker Lock"
FASTENERS = "fasteners InterProcessLock"
DISKCACHE = "diskcache Lock"
DISKCACHE_BY_HAND = f"{DISKCACHE}, by hand"
FILELOCK_RW = "filelock ReadWriteLock"
FASTENERS_RW = "fasteners reader/writer lock"


@dataclass(frozen=True)
class ReadWrite:
    """One way to keep readers and a writer apart."""

    name: str
    #: Called by each process with a path; returns the functions that make a reader's and a writer's block.
    open: Callable[[str], tuple[Callable[[], Block], Callable[[], Block]]]


def prepare(name: str) -> None:
    """Import the modules of the election or the lock of this name."""
    for start, modules in _IMPORTS.items():
        if name.startswith(start):
            for module in modules:
                import_module(module)


def is_installed(name: str) -> bool:
    """Return whether the packages of the contender of this name are there."""
    modules = [module for start, some in _IMPORTS.items() if name.startswith(start) for module in some]
    return all(find_spec(module.partition(".")[0]) for module in modules)


_IMPORTS = {
    DOGPILE: ("dogpile_fs._dogpile.dogpile",),
    READER: ("dogpile_fs._dogpile.dogpile", "dogpile_fs._locks.readwrite"),
    "Datafile": ("dogpile_fs._datafile.datafile", "dogpile_fs._datafile.child"),
    DATAFILES: ("dogpile_fs._datafile.datafiles",),
    CACHED_FILE: ("dogpile_fs._datafile.cached_file",),
    OVER_FILELOCK: ("dogpile.lock", "filelock"),
    DBM: ("dogpile.cache", "dogpile.cache.backends.file", "dbm.dumb"),
    "diskcache": ("diskcache",),
    "cachier": ("cachier",),
    JOBLIB: ("joblib",),
    DJANGO: ("django.core.cache.backends.filebased",),
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
    """Exclusive ``flock``, as a block: the system calls alone."""

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


#: Mutexes: name, and the function that makes one of a path.
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
