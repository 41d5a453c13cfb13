"""The library, broken on purpose: what the checker must notice, or it would notice nothing.

Each changes one thing in the running process, as a careless commit might. Those that are named first take out what
the protocol stands on.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from time import sleep, time
from typing import Any

import portalocker

from dogpile_fs._dogpile import dogpile
from dogpile_fs._dogpile.election import Passage, whoami
from dogpile_fs._locks import mutex, readwrite
from dogpile_fs._locks import reader_pool as seats
from dogpile_fs._locks import rw_protocol as room
from dogpile_fs._locks.mutex import FileMutex
from dogpile_fs._os import fork as forking
from dogpile_fs._os import replace as swap
from dogpile_fs._os.openfile import Description
from dogpile_fs._sidecar import record
from dogpile_fs._sidecar.record import Record

__all__ = ["MUTANTS", "apply"]


def apply(name: str) -> None:
    """Break this process's copy of the library in the way called *name*."""
    MUTANTS[name]()


def _no_look_again() -> None:
    """Who is elected creates at once."""

    def create(self: Passage, before: str) -> Any:
        self._begin()
        return self._create()

    Passage._create_if_still = create  # type: ignore[method-assign]


def _stamp_before_swap() -> None:
    """The stamp is written when the creation begins."""
    create = Passage._create

    def stamp_and_create(self: Passage) -> Any:
        before, now = self.seen, time()

        def stamp(record: Record) -> Record:
            return record.created(before, now + 0.001, cost=0.0, **whoami())

        self.scope.change(stamp)
        return create(self)

    Passage._create = stamp_and_create  # type: ignore[method-assign]


def _no_fork_reset() -> None:
    """A forked child believes that it holds what its parent does."""
    forking._forgetful.clear()
    forking._forgetful = _Deaf()


class _Deaf(set[Any]):
    def add(self, thing: Any) -> None:
        pass


def _no_writer_preference() -> None:
    """A writer does not shut the door before he waits."""

    def enter_as_writer(description: Description, deadline: Any) -> bool:
        return room._lock_room(description, portalocker.LOCK_EX, deadline)

    room.enter_as_writer = enter_as_writer


def _no_read_lock() -> None:
    """Readers do not lock the room."""
    seats.ReaderSlot.__enter__ = lambda self, deadline=None: self.close()  # type: ignore[method-assign]
    seats.ReaderSlot.__exit__ = lambda self, kind, error, trace: None  # type: ignore[method-assign]
    lock = readwrite.ReadWriteFileLock
    lock.enter = lambda self, deadline: seats.ReaderSlot(self.path)  # type: ignore[method-assign]


def _no_mutex() -> None:
    """Everybody wins the election."""
    mutex._lock_now = lambda hold: True


def _waits_when_stale() -> None:
    """Who loses an election waits for the winner."""

    def is_elected(self: Passage) -> bool:
        if self.creator is None:
            return False
        self.scope.mutex.acquire()
        return True

    Passage._is_elected = is_elected  # type: ignore[method-assign]


def _swaps_in_place() -> None:
    """The new version is written over the old one."""

    def rename(new: str, path: str) -> None:
        with open(new, "rb") as source, open(path, "r+b" if os.path.exists(path) else "wb") as target:
            while piece := source.read(4096):
                target.write(piece)
                target.flush()
                sleep(0.0005)  # a slow disk
            target.truncate()
        os.unlink(new)

    swap.rename = rename


def _keeps_the_mutex() -> None:
    """A creator that fails leaves the mutex locked."""
    release = FileMutex.release

    def release_unless_it_failed(self: FileMutex) -> None:
        if sys.exc_info()[0] is None:
            release(self)

    FileMutex.release = release_unless_it_failed  # type: ignore[method-assign]


def _forgets_hard() -> None:
    """A creation that ends undoes the invalidation that came meanwhile."""
    created = Record.created

    def created_anyhow(self: Record, seen: Record, *args: Any, **options: Any) -> Record:
        return created(self, seen, *args, **options).replace(invalidated=None)

    Record.created = created_anyhow  # type: ignore[method-assign]


def _never_expires() -> None:
    """What was created once stays fresh."""
    record.lifetime = lambda expiretime: math.inf
    vars(dogpile)["lifetime"] = record.lifetime


def _forgets_soft() -> None:
    """A soft invalidation does nothing."""
    invalidate = Record.invalidate
    Record.invalidate = (  # type: ignore[method-assign]
        lambda self, *, hard: invalidate(self, hard=True) if hard else self
    )


def _forces_nothing() -> None:
    """Who is to create in any case does so only if it is stale."""
    Passage.create_in_any_case = Passage.create_if_not_fresh  # type: ignore[method-assign]


def _leaks() -> None:
    """What is closed stays open."""
    close = Description.close
    left: list[int] = []

    def close_almost(self: Description) -> None:
        if self.fd >= 0 and len(left) < 5:
            left.append(os.dup(self.fd))
        close(self)

    Description.close = close_almost  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    "no-look-again": _no_look_again,
    "stamp-before-swap": _stamp_before_swap,
    "no-fork-reset": _no_fork_reset,
    "no-writer-preference": _no_writer_preference,
    "no-read-lock": _no_read_lock,
    "no-mutex": _no_mutex,
    "waits-when-stale": _waits_when_stale,
    "swaps-in-place": _swaps_in_place,
    "keeps-the-mutex": _keeps_the_mutex,
    "forgets-hard": _forgets_hard,
    "leaks": _leaks,
    "never-expires": _never_expires,
    "forgets-soft": _forgets_soft,
    "forces-nothing": _forces_nothing,
}
