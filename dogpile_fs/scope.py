"""How far coordination reaches: between threads, or between processes, behind one small interface.

A scope keeps the record and makes the locks. Thread scope keeps it in memory; process scope in files that it
names after the resource.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Literal, Protocol

from .forking import forget_in_child
from .mutex import FileMutex
from .observed import ObservedRecord
from .paths import coordination_base
from .record import NOTHING, Record
from .sidecar import Sidecar
from .standing import Standing
from .threads import BorrowedMutex, LockLike, ThreadMutex, ThreadReadWriteLock, wait_for
from .waiting import INHERIT, Deadline, Timeout
from .watching import wait_for_change

__all__ = ["Mutex", "ProcessScope", "ReadWriteLock", "Scope", "ThreadScope"]


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

    def inside(self) -> Literal["reader", "writer", ""]: ...
    def make_file(self) -> None: ...
    def enter(self, deadline: Deadline) -> Any: ...
    def leave(self, hold: Any) -> None: ...
    def acquire_write_lock(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool: ...
    def release_write_lock(self) -> None: ...


class Scope(Protocol):
    """Where the record is kept and which locks coordinate its users."""

    mutex: Mutex
    read: Callable[[], Record]  # the record, at the price of a fresh pass
    look: Callable[[], Record]  # the record, as surely as it can be known
    standing: Callable[[], Standing | None]  # what stands at the path, if that is looked at

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
        self.standing = _not_looked_at
        self._timeout = timeout
        self._record = NOTHING
        self._changing = threading.Condition()
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
        self._changing = threading.Condition()  # the record itself is the child's as well

    def _read(self) -> Record:
        return self._record


class ProcessScope:
    """Coordination between all processes that name the same path, through files beside it or in *directory*.

    *observed*: what stands at the path is looked at, and corrects the record.
    """

    def __init__(
        self,
        path: str,
        *,
        lock: LockLike | None,
        timeout: float | None,
        directory: str | os.PathLike[str] | None,
        mode: int | None,
        observed: bool = False,
    ) -> None:
        base = coordination_base(path, directory)
        self._rwlock_path = base + ".dogpile.rwlock"
        self._timeout = timeout
        self._mode = mode
        self.sidecar = Sidecar(base + ".dogpile", mode, timeout)
        self.mutex: Mutex = (
            BorrowedMutex(lock)
            if lock is not None
            else FileMutex(base + ".dogpile.lock", timeout=timeout, mode=mode)
        )
        self.read = self.sidecar.read
        self.look = self.sidecar.look
        self.standing = _not_looked_at
        if observed:
            record = ObservedRecord(self.sidecar, path)
            self.read, self.look, self.standing = record.read, record.look, record.standing

    def change(self, make: Callable[[Record], Record]) -> None:
        self.sidecar.change(make)

    def wait_for_change(self, seen: Record, deadline: Deadline) -> None:
        wait_for_change(self.sidecar.path, lambda: self.look() != seen, deadline)

    def read_write_lock(self) -> ReadWriteLock:
        # Here, because portalocker takes long to import, and only those who have readers need it.
        from .readwrite import ReadWriteFileLock

        return ReadWriteFileLock(self._rwlock_path, timeout=self._timeout, mode=self._mode)


def _not_looked_at() -> Standing | None:
    return None
