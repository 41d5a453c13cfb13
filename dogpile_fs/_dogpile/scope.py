"""How far coordination reaches: between threads, or between processes, behind one small interface.

A scope keeps the record and makes the locks. Thread scope keeps it in memory; process scope in files that it
names after the resource.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from .._locks.holds import Taker
from .._locks.mutex import FileMutex
from .._locks.threads import BorrowedMutex, LockLike, ThreadMutex, ThreadReadWriteLock, wait_for
from .._os import fork as forking
from .._os.paths import coordination_base
from .._os.waiting import INHERIT, Deadline, Timeout
from .._os.watch import wait_for_change
from .._sidecar.file import Sidecar, Sighting, unseen
from .._sidecar.fingerprint import Standing, corrected, standing_of, stands
from .._sidecar.reconciled import ObservedRecord
from .._sidecar.record import NOTHING, Record

__all__ = ["Mutex", "ProcessScope", "ReadWriteLock", "Scope", "ThreadScope"]


class Mutex(Protocol):
    """The creation mutex: its holder runs the creator."""

    @property
    def held(self) -> bool: ...
    @property
    def lost(self) -> bool: ...
    def acquire(self, wait: bool = True, timeout: Timeout = INHERIT, *, taker: Taker | None = None) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def wait_released(self, deadline: Deadline) -> bool: ...
    def release_hold(self, hold: Any) -> None: ...


class ReadWriteLock(Protocol):
    """Synchronizes readers while a resource is swapped."""

    def inside(self) -> Literal["reader", "writer", ""]: ...
    def make_file(self) -> None: ...
    def enter(self, deadline: Deadline) -> Any: ...
    def leave(self, hold: Any) -> None: ...
    def write(self, timeout: Timeout = INHERIT) -> AbstractContextManager[None]: ...
    def acquire_write_lock(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool: ...
    def release_write_lock(self) -> None: ...


class Scope(Protocol):
    """Where the record is kept and which locks coordinate its users."""

    def sight(self) -> Sighting:
        """The record, at the price of a fresh pass."""

    def standing(self) -> Standing | None:
        """What stands at the path, if that is looked at."""

    @property
    def mutex(self) -> Mutex: ...

    def look(self) -> Record:
        """The record, as surely as it can be known."""

    def record_of(self, found: os.stat_result) -> Record:
        """The record, if *found* is what it describes; else :data:`~.record.NOTHING`."""

    def change(self, make: Callable[[Record], Record]) -> None:
        """Replace the record by what *make* makes of it."""

    def sync(self) -> None:
        """Have the record outlast the machine."""

    def wait_for_change(self, seen: Record, deadline: Deadline) -> None:
        """Wait until the record is no longer *seen*, or *deadline* comes; it may return sooner."""

    def read_write_lock(self) -> ReadWriteLock: ...


class ThreadScope:
    """Coordination between the threads of this process; no file is touched."""

    mutex: Mutex

    def __init__(self, *, lock: LockLike | None, timeout: float | None) -> None:
        self.mutex = BorrowedMutex(lock) if lock is not None else ThreadMutex(timeout)
        self._timeout = timeout
        self._sighting = unseen(NOTHING)
        self._changing = threading.Condition()
        forking.forget_in_child(self)

    def change(self, make: Callable[[Record], Record]) -> None:
        with self._changing:
            self._sighting = unseen(make(self._sighting.record))
            self._changing.notify_all()

    def sync(self) -> None:
        pass

    def wait_for_change(self, seen: Record, deadline: Deadline) -> None:
        with self._changing:
            wait_for(self._changing, lambda: self.look() is not seen, deadline)

    def read_write_lock(self) -> ReadWriteLock:
        return ThreadReadWriteLock(self._timeout)

    def after_fork(self) -> None:
        self._changing = threading.Condition()  # the record itself is the child's as well

    def sight(self) -> Sighting:
        return self._sighting

    def look(self) -> Record:
        return self._sighting.record

    def record_of(self, found: os.stat_result) -> Record:
        return NOTHING

    def standing(self) -> None:
        pass


class ProcessScope:
    """Coordination between all processes that name the same path, through files beside it or in *directory*.

    *observed*: what stands at the path is looked at, and corrects the record.
    """

    __slots__ = ("_mutex", "_seer", "sidecar")

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
        self.sidecar = Sidecar(coordination_base(path, directory) + ".dogpile", mode, timeout)
        self._mutex: Mutex | None = None if lock is None else BorrowedMutex(lock)
        self._seer = ObservedRecord(self.sidecar, path) if observed else self.sidecar

    @property
    def mutex(self) -> Mutex:
        """Made when it is first asked for: who only passes needs none."""
        mutex = self._mutex
        if mutex is None:
            made = FileMutex(self.sidecar.path + ".lock", timeout=self.sidecar.timeout, mode=self.sidecar.mode)
            with forking.once:  # or two threads could make two
                mutex = self._mutex = self._mutex or made
        return mutex

    def sight(self) -> Sighting:
        return self._seer.sight()

    def look(self) -> Record:
        return self._seer.look().record

    def record_of(self, found: os.stat_result) -> Record:
        record, standing = self.sidecar.sight().record, standing_of(found)
        if record.about is None and record.createdtime <= 0:
            return corrected(record, (standing, found.st_mtime))  # it is there, and nobody has stamped it
        return record if record.about is not None and stands(record.about, standing) else NOTHING

    def standing(self) -> Standing | None:
        return self._seer.standing()

    def change(self, make: Callable[[Record], Record]) -> None:
        self.sidecar.change(make)

    def sync(self) -> None:
        self.sidecar.sync()

    def wait_for_change(self, seen: Record, deadline: Deadline) -> None:
        wait_for_change(self.sidecar.path, lambda: self.look() != seen, deadline)

    def read_write_lock(self) -> ReadWriteLock:
        # Here, because portalocker takes long to import, and only those who have readers need it.
        from .._locks.readwrite import ReadWriteFileLock

        sidecar = self.sidecar
        return ReadWriteFileLock(sidecar.path + ".rwlock", timeout=sidecar.timeout, mode=sidecar.mode)
