"""Coordination between all processes that name the same path, through files beside it or in another directory."""

from __future__ import annotations

import os
from collections.abc import Callable

from .._layout import JOURNAL_SUFFIX, LOCK_SUFFIX, RWLOCK_SUFFIX, SIDECAR_SUFFIX
from .._locks.mutex import FileMutex
from .._locks.threads import BorrowedMutex, LockLike
from .._os import fork
from .._os.filesystem import look_anew
from .._os.waiting import Deadline
from .._os.watch import wait_for_change
from .._sidecar.file import Sidecar
from .._sidecar.fingerprint import Fingerprint, fingerprint_of
from .._sidecar.journal import Journal
from .._sidecar.reconciled import ReconciledRecord
from .._sidecar.record import MISSING, Record
from .._sidecar.snapshot import Snapshot
from .event import Callback
from .guard import ReusableGuard
from .resource_path import checked_base
from .scope import Mutex, ReadWriteLock

__all__ = ["ProcessScope"]


class ProcessScope:
    """A scope of processes. *reconciled*: the record is reconciled with the file at the path."""

    __slots__ = ("_journal", "_mutex", "_record", "on_event", "path", "sidecar")

    def __init__(
        self,
        path: str,
        *,
        lock: LockLike | None,
        timeout: float | None,
        directory: str | os.PathLike[str] | None,
        mode: int | None,
        reconciled: bool = False,
    ) -> None:
        self.path = path
        self.sidecar = Sidecar(checked_base(path, directory) + SIDECAR_SUFFIX, mode, timeout)
        self._mutex: Mutex | None = None if lock is None else BorrowedMutex(lock)
        self._record = ReconciledRecord(self.sidecar, path) if reconciled else self.sidecar
        self._journal: Journal | None = None
        self.on_event: Callback | None = None

    @property
    def name(self) -> str:
        return repr(self.path)

    @property
    def sidecar_path(self) -> str:
        return self.sidecar.path

    @property
    def mutex(self) -> Mutex:
        """Made when it is first asked for: callers that only pass need none."""
        mutex = self._mutex
        if mutex is None:
            made = FileMutex(self._base + LOCK_SUFFIX, timeout=self.sidecar.timeout, mode=self.sidecar.mode)
            with fork.once:  # or two threads could make two
                mutex = self._mutex = self._mutex or made
        return mutex

    @property
    def journal(self) -> Journal:
        """Made when it is first asked for, and of the resource that the sidecar is of."""
        journal = self._journal
        if journal is None:  # racing threads may each make one; the creator's is kept
            journal = self._journal = Journal("", self.sidecar.mode, name=self.name)
        journal.path = self._base + JOURNAL_SUFFIX
        return journal

    @property
    def _base(self) -> str:
        return self.sidecar.path.removesuffix(SIDECAR_SUFFIX)

    def peek(self) -> Snapshot:
        return self._record.peek()

    def reusable_guard(self, snapshot: Snapshot, timeout: float | None, until: float) -> ReusableGuard | None:
        return None if snapshot.open_file is None else ReusableGuard(self, timeout, snapshot, until)

    def read(self) -> Record:
        return self._record.read().record

    def last_read(self) -> float:
        return self.sidecar.last_read()

    def let_go(self) -> None:
        self._record.let_go()

    def look_anew(self) -> None:
        look_anew(self._records_path, *self._directories)

    @property
    def _records_path(self) -> str:
        """The file that the record is in."""
        return self.sidecar.path

    @property
    def _directories(self) -> list[str]:
        """Directories with names that other hosts may change, and that lead to the file at the path."""
        return [os.path.dirname(self.path)]

    def fingerprint(self) -> Fingerprint | None:
        return self._record.fingerprint()

    def record_of(self, found: os.stat_result) -> Record:
        record = self.sidecar.peek().record
        stamped = record.fingerprint
        if stamped is not None:
            return record if stamped.is_of_file(found) else MISSING
        if record.createdtime > 0:
            return MISSING
        return self._of_unstamped(record.reconcile((fingerprint_of(found), found.st_mtime)))

    def _of_unstamped(self, record: Record) -> Record:
        """Return *record*, of a file that is there and was never stamped, as callers shall see it."""
        return record

    def change(self, make: Callable[[Record], Record]) -> None:
        self.sidecar.change(make)

    def sync(self) -> None:
        self.sidecar.sync()

    def wait_for_change(self, seen: Record, deadline: Deadline) -> None:
        wait_for_change(self.sidecar.path, lambda: self.read() != seen, deadline)

    def read_write_lock(self) -> ReadWriteLock:
        # Imported here: portalocker takes long to import, and only resources with readers need it.
        from .._locks.readwrite import ReadWriteFileLock

        sidecar = self.sidecar
        return ReadWriteFileLock(self._base + RWLOCK_SUFFIX, timeout=sidecar.timeout, mode=sidecar.mode)
