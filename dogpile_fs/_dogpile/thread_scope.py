"""Coordination between the threads that share one object; no file is touched."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from .._locks.threads import BorrowedMutex, LockLike, ThreadMutex, ThreadReadWriteLock, wait_for
from .._os import fork
from .._os.waiting import Deadline
from .._sidecar.record import MISSING, Record
from .._sidecar.snapshot import Snapshot, unverified
from .event import Callback
from .scope import Mutex, NoJournal, ReadWriteLock

__all__ = ["ThreadScope"]


class ThreadScope:
    """A scope of threads. *lock*: the user's own mutex; *timeout*: seconds that each wait may last."""

    name = "the resource"
    path = None
    journal = NoJournal()
    sidecar_path = None
    mutex: Mutex
    on_event: Callback | None

    def __init__(self, *, lock: LockLike | None, timeout: float | None) -> None:
        self.mutex = BorrowedMutex(lock) if lock is not None else ThreadMutex(timeout)
        self._timeout = timeout
        self.on_event = None
        self._snapshot = unverified(MISSING)
        self._changing = threading.Condition()
        fork.reset_after_fork(self)

    def after_fork(self) -> None:
        self._changing = threading.Condition()  # the record itself is the child's as well

    def peek(self) -> Snapshot:
        return self._snapshot

    def reusable_guard(self, snapshot: Snapshot, timeout: float | None, until: float) -> None:
        pass

    def read(self) -> Record:
        return self._snapshot.record

    def last_read(self) -> float:
        return 0.0

    def let_go(self) -> None:
        pass

    def look_anew(self) -> None:
        pass

    def fingerprint(self) -> None:
        pass

    def record_of(self, found: os.stat_result) -> Record:
        return MISSING

    def change(self, make: Callable[[Record], Record]) -> None:
        with self._changing:
            self._snapshot = unverified(make(self._snapshot.record))
            self._changing.notify_all()

    def sync(self) -> None:
        pass

    def wait_for_change(self, seen: Record, deadline: Deadline) -> None:
        with self._changing:
            wait_for(self._changing, lambda: self.read() is not seen, deadline)

    def read_write_lock(self) -> ReadWriteLock:
        return ThreadReadWriteLock(self._timeout)
