"""How far coordination reaches: between threads, or between processes, behind one small interface.

A scope keeps the record and makes the locks. Thread scope keeps it in memory; process scope in files that it
names after the resource.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable
from typing import Any, Protocol

from .errors import PathError, explained
from .forking import forget_in_child
from .mutex import FileMutex
from .readwrite import ReadWriteFileLock
from .record import NOTHING, Record
from .sidecar import Sidecar
from .threads import BorrowedMutex, LockLike, ThreadMutex, ThreadReadWriteLock, wait_for
from .waiting import INHERIT, Deadline, Timeout
from .watching import wait_for_change

__all__ = ["Mutex", "ProcessScope", "ReadWriteLock", "Scope", "ThreadScope", "checked_path"]


class Mutex(Protocol):
    """The creation mutex: who holds it runs the creator."""

    @property
    def held(self) -> bool: ...
    def acquire(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def wait_released(self, deadline: Deadline) -> bool: ...


class ReadWriteLock(Protocol):
    """Synchronizes readers while a resource is swapped."""

    @property
    def reading(self) -> bool: ...
    def enter(self, deadline: Deadline) -> Any: ...
    def leave(self, hold: Any) -> None: ...
    def acquire_write_lock(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool: ...
    def release_write_lock(self) -> None: ...


class Scope(Protocol):
    """Where the record is kept and which locks coordinate its users."""

    mutex: Mutex
    read: Callable[[], Record]  # the record, at the price of a fresh pass
    look: Callable[[], Record]  # the record, as surely as it can be known

    def change(self, make: Callable[[Record], Record]) -> None:
        """Replace the record by what *make* makes of it."""

    def wait_for_change(self, seen: Record, deadline: Deadline) -> None:
        """Wait until the record is no longer *seen*, or *deadline* comes; it may return sooner."""

    def read_write_lock(self) -> ReadWriteLock: ...


class ThreadScope:
    """Coordination between the threads of this process; no file is touched."""

    def __init__(self, *, lock: LockLike | None, timeout: float | None) -> None:
        self.mutex: Mutex = BorrowedMutex(lock) if lock is not None else ThreadMutex(timeout)
        self.read = self.look = self._read
        self._timeout = timeout
        self._record = NOTHING
        self._changing = threading.Condition(threading.Lock())
        forget_in_child(self)

    def change(self, make: Callable[[Record], Record]) -> None:
        with self._changing:
            self._record = make(self._record)
            self._changing.notify_all()

    def wait_for_change(self, seen: Record, deadline: Deadline) -> None:
        with self._changing:
            wait_for(self._changing, lambda: self._record is not seen, deadline)

    def read_write_lock(self) -> ReadWriteLock:
        return ThreadReadWriteLock(self._timeout)

    def after_fork(self) -> None:
        self._changing = threading.Condition(threading.Lock())  # the record itself is the child's as well

    def _read(self) -> Record:
        return self._record


class ProcessScope:
    """Coordination between all processes that name the same path, through files beside it or in *directory*."""

    def __init__(
        self,
        path: str,
        *,
        lock: LockLike | None,
        timeout: float | None,
        directory: str | None,
        mode: int | None,
    ) -> None:
        base = path if directory is None else _base_in(directory, path)
        _check_place(base)
        self._rwlock_path = base + ".dogpile.rwlock"
        self._timeout = timeout
        self._mode = mode
        self.sidecar = Sidecar(base + ".dogpile", mode)
        self.mutex: Mutex = (
            BorrowedMutex(lock)
            if lock is not None
            else FileMutex(base + ".dogpile.lock", timeout=timeout, mode=mode)
        )
        self.read = self.sidecar.read
        self.look = self.sidecar.look

    def change(self, make: Callable[[Record], Record]) -> None:
        self.sidecar.change(make)

    def wait_for_change(self, seen: Record, deadline: Deadline) -> None:
        wait_for_change(self.sidecar.path, lambda: self.look() != seen, deadline)

    def read_write_lock(self) -> ReadWriteLock:
        return ReadWriteFileLock(self._rwlock_path, timeout=self._timeout, mode=self._mode)


def checked_path(path: str | os.PathLike[str]) -> str:
    """The absolute path of a resource that a process scope can coordinate.

    :raises TypeError: if it is no path.
    :raises PathError: if it is a directory, its directory is missing, it is a symbolic link that leads nowhere
        or to itself, or a name that the system does not take.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"path must be a string or an os.PathLike, not {path!r} "
            "(expiretime and path are positional, init= and lock= are not)"
        )
    given = os.fspath(path)
    if not isinstance(given, str):
        raise TypeError(f"path must be text, not {given!r}: decode it with os.fsdecode()")
    if not given or "\0" in given or given.endswith(os.sep):
        raise PathError(errno.EINVAL, f"{given!r} names no file. Cure: give the path of the resource.")
    absolute = os.path.abspath(given)
    try:
        kind = os.stat(absolute).st_mode
    except FileNotFoundError as error:
        if os.path.islink(absolute):
            raise PathError(
                errno.ENOENT,
                f"{absolute!r} is a symbolic link to {os.readlink(absolute)!r}, which does not exist. "
                "Cure: remove the link, or make what it points to.",
            ) from error
    except PermissionError:
        pass  # it may be opened by others; the coordination files tell when they cannot
    except OSError as error:
        raise explained(PathError, absolute, "coordinate", error) from error
    else:
        if stat.S_ISDIR(kind):
            raise PathError(
                errno.EISDIR,
                f"{absolute!r} is a directory. Cure: give the path of a file; it need not exist yet.",
            )
    return absolute


def _check_place(base: str) -> None:
    """:raises PathError: if no coordination file can stand at *base* and its suffixes."""
    longest = base + ".dogpile.rwlock"
    try:
        os.lstat(longest)
    except FileNotFoundError as error:
        parent = os.path.dirname(base)
        if not os.path.isdir(parent):
            raise PathError(
                errno.ENOENT, f"the directory {parent!r} does not exist. Cure: make it first."
            ) from error
    except PermissionError:
        pass
    except OSError as error:
        raise explained(PathError, longest, "coordinate through", error) from error


def _base_in(directory: str, path: str) -> str:
    """What the coordination files of *path* are called in *directory*, without their suffixes.

    Two resources may share a directory of locks and a last name: a digest of the whole path keeps them apart.
    Of the directory its real path counts, so that all who reach it, by whichever link, agree.
    """
    parent, name = os.path.split(path)
    whole = os.path.join(os.path.realpath(parent), name)
    digest = hashlib.blake2b(os.fsencode(whole), digest_size=8).hexdigest()
    return os.path.join(os.path.abspath(directory), f"{name[:100]}-{digest}")
