"""How far coordination reaches, as an interface: a scope keeps the record and makes the locks.

:class:`.ThreadScope` keeps the record in memory, :class:`.ProcessScope` in a file beside the resource.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

from .._locks.holds import Holder, Taker
from .._locks.waits import Wait
from .._os.waiting import INHERIT, Deadline, Timeout
from .._sidecar.fingerprint import Fingerprint
from .._sidecar.journal import Entry, Place
from .._sidecar.record import Record
from .._sidecar.snapshot import Snapshot
from ..errors import LockTimeout
from .event import Callback
from .guard import ReusableGuard

__all__ = ["Journal", "Mutex", "NoJournal", "NoReaders", "ReadWriteLock", "Readers", "Scope"]


class Mutex(Protocol):
    """The creation mutex: its holder runs the creator."""

    @property
    def held(self) -> bool: ...
    @property
    def lost(self) -> bool: ...
    def acquire(self, wait: bool = True, timeout: Timeout = INHERIT, *, taker: Taker | None = None) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def _wait_released(self, deadline: Deadline) -> bool: ...
    def _waiting_for_release(self, deadline: Deadline, me: Holder) -> Wait: ...
    def _timed_out(self, wait: Wait) -> LockTimeout: ...
    def _pass_on(self, me: Holder) -> Holder | None: ...
    def _release_hold(self, hold: Any) -> None: ...


class Readers(Protocol):
    """The readers of a resource, as an election and a swap see them."""

    def _inside(self) -> Literal["reader", "writer", ""]: ...
    def _make_file(self) -> None: ...
    def _enter(self, deadline: Deadline) -> Any: ...
    def _enter_now(self, *, behind_writers: bool) -> Any: ...
    def _leave(self, hold: Any) -> None: ...
    def _let_go(self) -> None: ...
    def write(self, timeout: Timeout = INHERIT) -> AbstractContextManager[None]: ...


class ReadWriteLock(Readers, Protocol):
    """A lock that keeps readers out while a resource is swapped."""

    def acquire_write_lock(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool: ...
    def release_write_lock(self) -> None: ...


class NoReaders:
    """The readers of a resource that is swapped while they use it: none is ever inside."""

    def _inside(self) -> Literal["reader", "writer", ""]:
        return ""

    def _make_file(self) -> None:
        pass

    def _enter(self, deadline: Deadline) -> None:
        pass

    def _enter_now(self, *, behind_writers: bool) -> None:
        pass

    def _leave(self, hold: None) -> None:
        pass

    def _let_go(self) -> None:
        pass

    def write(self, timeout: Timeout = INHERIT) -> AbstractContextManager[None]:
        return nullcontext()


class Journal(Protocol):
    """What tells how the last attempts ended."""

    def place(self) -> Place | None: ...
    def append(self, entry: Entry, place: Place | None = None) -> None: ...
    def entries(self) -> list[Entry]: ...
    def input_signs(self, generation: int) -> str | None: ...


class NoJournal:
    """The journal of a resource that has none."""

    def place(self) -> None:
        pass

    def append(self, entry: Entry, place: Place | None = None) -> None:
        pass

    def entries(self) -> list[Entry]:
        return []

    def input_signs(self, generation: int) -> None:
        pass


class Scope(Protocol):
    """Where the record is kept, and which locks coordinate its users."""

    #: Called with the events of the object that uses it.
    on_event: Callback | None

    @property
    def name(self) -> str:
        """The resource, for messages."""

    @property
    def path(self) -> str | None: ...

    @property
    def sidecar_path(self) -> str | None:
        """The file that has the record, if it is in one."""

    def peek(self) -> Snapshot:
        """Return the record, at the price of a fresh pass."""

    def reusable_guard(self, snapshot: Snapshot, timeout: float | None, until: float) -> ReusableGuard | None:
        """Return a guard for the callers that find *snapshot* until that wall-clock time, if there can be one."""

    @property
    def mutex(self) -> Mutex: ...

    @property
    def journal(self) -> Journal: ...

    def read(self) -> Record:
        """Return the record as it is now."""

    def last_read(self) -> float:
        """Return the time of the last :meth:`peek`, within 10 ms; 0 if nothing is kept open for the next one."""

    def let_go(self) -> None:
        """Keep nothing open for later calls."""

    def look_anew(self) -> None:
        """Have the next :meth:`read` see what any host has written until now; the caller holds the mutex."""

    def fingerprint(self) -> Fingerprint | None:
        """Return the fingerprint of the file at the path, if the resource is looked at."""

    def record_of(self, found: os.stat_result) -> Record:
        """Return the record if it is of the file that *found* describes; else :data:`~.record.MISSING`."""

    def change(self, make: Callable[[Record], Record]) -> None:
        """Replace the record by ``make(record)``."""

    def sync(self) -> None:
        """Make the record outlast a crash of the machine."""

    def wait_for_change(self, seen: Record, deadline: Deadline) -> None:
        """Wait until the record is no longer *seen*, or *deadline* comes. It may return sooner."""

    def read_write_lock(self) -> ReadWriteLock: ...
