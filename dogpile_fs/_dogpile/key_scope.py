"""Coordination between all processes that use the same key of a pattern, through the few files of all its keys."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, cast

from .._locks.key_mutex import KeyMutex
from .._os import fork
from .._os.waiting import Deadline
from .._os.watch import wait_for_change
from .._sidecar.key_records import HOME_BITS, KeyRecord, KeyRecords
from .._sidecar.reconciled import ReconciledRecord
from .._sidecar.record import Record
from .._sidecar.snapshot import Snapshot
from .dogpile import Dogpile
from .event import Callback
from .key_pattern import KeyPattern, digest_in, shard_of
from .policy import Policy
from .process_scope import ProcessScope
from .scope import Mutex, NoJournal, ReadWriteLock

if TYPE_CHECKING:
    from .._sidecar.file import Sidecar

__all__ = ["KeyDogpile", "KeyScope", "Keys"]


class Keys:
    """What all keys of a *pattern* share in this process: one descriptor, however many they are.

    *timeout*, *mode*: as of :class:`.Dogpile`. *make*: makes the coordination directory, or finds it there.
    """

    __slots__ = ("make", "mode", "pattern", "records", "timeout")

    def __init__(
        self, pattern: KeyPattern, *, timeout: float | None, mode: int | None, make: Callable[[], object]
    ) -> None:
        self.pattern = pattern
        self.timeout = timeout
        self.mode = mode
        self.make = make
        self.records = KeyRecords(pattern.records_path, mode=mode, timeout=timeout, make=make)

    def mutex(self, name: str) -> KeyMutex:
        """Return the creation mutex of the key with this *name*."""
        return KeyMutex(
            self.pattern.lock_path,
            self.pattern.path_of(name),
            lock_bits(name),
            int(shard_of(name), 16),
            make=self.make,
            timeout=self.timeout,
            mode=self.mode,
        )

    def record(self, name: str) -> KeyRecord:
        """Return the record of the key with this *name*."""
        return KeyRecord(self.records, name, home(name))


# Of different digits, so that two keys with one byte have homes of their own.


def lock_bits(name: str) -> int:
    """Return the bits of a key's digest that choose the byte of its mutex."""
    return int(digest_in(name)[-16:], 16)


def home(name: str) -> int:
    """Return the bits of a key's digest that choose where its record is."""
    return int(digest_in(name)[: HOME_BITS // 4], 16)


class KeyScope(ProcessScope):
    """The scope of the key with this *name*: one without files of its own."""

    __slots__ = ("_keys", "_name")

    def __init__(self, keys: Keys, name: str) -> None:
        self.path = keys.pattern.path_of(name)
        self._keys = keys
        self._name = name
        self.sidecar = cast("Sidecar", keys.record(name))  # which is to a key what that is to a path
        self._record = ReconciledRecord(self.sidecar, self.path)
        self._mutex = None
        self.on_event: Callback | None = None

    @property
    def sidecar_path(self) -> None:  # type: ignore[override]
        """Return ``None``: that file changes with all keys, so no callback for this one is called by it."""

    @property
    def mutex(self) -> Mutex:
        """Made when it is first asked for: callers that only pass need none."""
        mutex = self._mutex
        if mutex is None:
            made = self._keys.mutex(self._name)
            with fork.once:  # or two threads could make two
                mutex = self._mutex = self._mutex or made
        return mutex

    @property
    def _records_path(self) -> str:
        return self._keys.pattern.records_path

    @property
    def _directories(self) -> list[str]:
        return self._keys.pattern.directories_to(self.path)

    @property
    def journal(self) -> NoJournal:  # type: ignore[override]
        return _NO_JOURNAL

    def reusable_guard(self, snapshot: Snapshot, timeout: float | None, until: float) -> None:
        """Return ``None``: a guard is reused while a file keeps its length, and this one changes with all keys."""

    def wait_for_change(self, seen: Record, deadline: Deadline) -> None:
        path = self.sidecar.path
        if not os.path.isdir(os.path.dirname(path)):
            path = os.path.dirname(path)  # then the directory of that is watched, until it is made
        wait_for_change(path, lambda: self.read() != seen, deadline)

    def read_write_lock(self) -> ReadWriteLock:
        raise ValueError(
            "readers=True is not for keys, which have no lock for each one's readers. Hint: let them open a "
            "version, which stays what it was; or make a Datafile for each path."
        )


_NO_JOURNAL = NoJournal()


class KeyDogpile(Dogpile):
    """The :class:`.Dogpile` of one key."""

    def __init__(
        self, expiretime: float | None, scope: KeyScope, *, timeout: float | None, policy: Policy
    ) -> None:
        self.path = scope.path
        self._use(scope, timeout, policy, "file")
        self.expiretime = expiretime

    def __reduce__(self) -> NoReturn:
        raise TypeError("the Dogpile of a key is not copied or pickled. Hint: copy the Datafiles that it is of.")
