"""The library, broken on purpose: the checker must report each mutant.

Each mutant changes one behaviour of the running process, as a careless commit might. The first ones remove the
rules that the protocol is based on.
"""

from __future__ import annotations

import math
import os
import sys
from asyncio import CancelledError
from collections.abc import Callable
from time import sleep, time
from typing import Any

import portalocker

from dogpile_fs._datafile import pruning
from dogpile_fs._dogpile import shared_state
from dogpile_fs._dogpile.creation import Creation, this_process
from dogpile_fs._dogpile.election import Acquisition
from dogpile_fs._dogpile.inputs import Inputs
from dogpile_fs._locks import holds, mutex, reader_pool, readwrite, rw_protocol
from dogpile_fs._locks.mutex import FileMutex, MutexHold
from dogpile_fs._os import fork, replace
from dogpile_fs._os.openfile import OpenFile
from dogpile_fs._sidecar import record
from dogpile_fs._sidecar.record import Record

__all__ = ["MUTANTS", "apply"]


def apply(name: str) -> None:
    """Break this process's copy of the library in the way called *name*."""
    MUTANTS[name]()


def _no_look_again() -> None:
    """The elected caller creates at once, without a second look."""

    def create(self: Acquisition, before: Any) -> Any:
        creation = Creation(self.shared, self.seen)
        creation.begin()
        return self._create(creation, None, before)

    Acquisition._create_if_still = create  # type: ignore[method-assign]


def _stamp_before_swap() -> None:
    """The stamp is written when the creation begins."""
    create = Acquisition._create

    def stamp_and_create(self: Acquisition, *args: Any) -> Any:
        before, now = self.seen, time()

        def stamp(record: Record) -> Record:
            return record.created(before, now + 0.001, cost=0.0, **this_process())

        self.scope.change(stamp)
        return create(self, *args)

    Acquisition._create = stamp_and_create  # type: ignore[assignment,method-assign]


def _no_fork_reset() -> None:
    """A forked child keeps its parent's holds."""
    fork._fork_aware.clear()
    fork._fork_aware = _NeverFilled()


class _NeverFilled(set[Any]):
    def add(self, thing: Any) -> None:
        pass


def _no_writer_preference() -> None:
    """A writer does not lock the pending byte before it waits."""

    def enter_as_writer(open_file: OpenFile, deadline: Any) -> bool:
        return rw_protocol._lock_file(open_file, portalocker.LOCK_EX, deadline)

    rw_protocol.enter_as_writer = enter_as_writer


def _no_read_lock() -> None:
    """Readers do not lock the file."""
    reader_pool.ReaderSlot.__enter__ = lambda self, deadline=None: self.close()  # type: ignore[method-assign]
    reader_pool.ReaderSlot.__exit__ = lambda self, kind, error, trace: None  # type: ignore[method-assign]
    lock = readwrite.ReadWriteFileLock
    lock._enter = lambda self, deadline: reader_pool.ReaderSlot(self.path)  # type: ignore[method-assign]


def _no_mutex() -> None:
    """Every caller wins the election."""
    mutex._lock_now = lambda hold: True


def _waits_when_stale() -> None:
    """A caller that loses an election waits for the winner."""

    def is_elected(self: Acquisition) -> bool:
        if self.creator is None:
            return False
        self.scope.mutex.acquire()
        return True

    Acquisition._is_elected = is_elected  # type: ignore[method-assign]


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

    replace.rename = rename


def _keeps_the_mutex() -> None:
    """A creator that fails leaves the mutex locked."""
    release = FileMutex.release

    def release_unless_it_failed(self: FileMutex) -> None:
        if sys.exc_info()[0] is None:
            release(self)

    FileMutex.release = release_unless_it_failed  # type: ignore[assignment,method-assign]


def _forgets_hard() -> None:
    """A creation that ends undoes the invalidation that came meanwhile."""
    created = Record.created

    def created_anyhow(self: Record, seen: Record, *args: Any, **options: Any) -> Record:
        return created(self, seen, *args, **options).replace(invalidated=None)

    Record.created = created_anyhow  # type: ignore[method-assign]


def _never_expires() -> None:
    """A version stays fresh for ever."""
    record.max_age = lambda expiretime: math.inf
    vars(shared_state)["max_age"] = record.max_age


def _forgets_soft() -> None:
    """A soft invalidation does nothing."""
    invalidate = Record.invalidate
    Record.invalidate = (  # type: ignore[method-assign]
        lambda self, *, hard, now: invalidate(self, hard=True, now=now) if hard else self
    )


def _forces_nothing() -> None:
    """A forced refresh creates only if the resource is stale."""

    def forced(self: Acquisition) -> Any:
        self.seen = self.scope.read()
        return self.election()

    Acquisition.forced = forced  # type: ignore[method-assign]


def _tries_again_at_once() -> None:
    """No caller looks at the backoff."""
    Record.backoff_left = lambda self, now: 0.0  # type: ignore[method-assign]


def _forgets_deaths() -> None:
    """An attempt on record is overwritten by the next one."""
    Creation.count_death = lambda self: None  # type: ignore[method-assign]


def _forgets_failures() -> None:
    """A failure ends the attempt, and is not counted."""

    def ended(self: Record, attempt: Any, *args: Any) -> Record:
        return self.ended(attempt)

    Record.failed = ended  # type: ignore[assignment,method-assign]


def _counts_from_one() -> None:
    """Each failure counts as the first one, so that the backoff never grows."""
    failed = Record.failed
    Record.failed = (  # type: ignore[method-assign]
        lambda self, *args: failed(self.replace(failures=0), *args)
    )


def _never_too_old() -> None:
    """Readers get a version of any age."""
    Record.expires_at = lambda self, expiretime, max_stale: math.inf  # type: ignore[method-assign]


def _refuses_stale() -> None:
    """Within the backoff a caller gets an error, although there is an old version."""
    backs_off = Acquisition._is_backing_off

    def refuse(self: Acquisition) -> bool:
        if backs_off(self):
            raise self._creation_failed()
        return False

    Acquisition._is_backing_off = refuse  # type: ignore[method-assign]


def _never_looks_at_inputs() -> None:
    """A version stays fresh whatever becomes of what it was made from."""
    Inputs.have_changed_since = lambda self, digest: False  # type: ignore[method-assign]


def _digests_afterwards() -> None:
    """The digest of the inputs is taken when the creator has returned."""
    stamp = Creation._stamp

    def stamp_with_what_is_there_now(self: Creation, *args: Any) -> bool:
        if self.shared.inputs is not None:
            self.inputs = self.shared.inputs.digest()
        return stamp(self, *args)

    Creation._stamp = stamp_with_what_is_there_now  # type: ignore[assignment,method-assign]


def _leaks() -> None:
    """Closed descriptors stay open."""
    close = OpenFile.close
    left: list[int] = []

    def close_almost(self: OpenFile) -> None:
        if self.fd >= 0 and len(left) < 5:
            left.append(os.dup(self.fd))
        close(self)

    OpenFile.close = close_almost  # type: ignore[method-assign]


def _hands_over_with_a_gap() -> None:
    """The caller unlocks the mutex when it hands it over, and the process that gets it does not look."""
    never = property(lambda self: False, lambda self, value: None)
    MutexHold.is_handed_over = never  # type: ignore[assignment,misc]

    def adopt(self: FileMutex, fd: int, byte: int, *, taker: Any) -> bool:
        hold = taker.mutex_hold = self._new_hold()
        hold.adopt(fd)
        hold.byte, hold.holder, self._hold = byte, holds.current(), hold
        return True

    def go_on(self: Acquisition, begun: Any, adopt: Any) -> Any:
        adopt(self)
        self.seen = self.scope.read()
        creation = Creation(self.shared, self.seen)
        creation.begin()
        return (yield from self._create(creation, None, "missing"))

    FileMutex._adopt = adopt  # type: ignore[method-assign]
    Acquisition._go_on_for = go_on  # type: ignore[method-assign]


def _tasks_lock_another_file() -> None:
    """Tasks have a creation mutex of their own."""

    def elsewhere(mutex: Any) -> FileMutex:
        return FileMutex(f"{mutex.path}.tasks", timeout=mutex.timeout)

    _tasks_lock(elsewhere)


def _tasks_lock_another_byte() -> None:
    """Tasks have a byte of their own for each key."""

    def elsewhere(mutex: Any) -> Any:
        mutex._byte += 1
        return mutex

    _tasks_lock(elsewhere)


def _tasks_lock(elsewhere: Callable[[Any], Any]) -> None:
    from dogpile_fs._aio.acquisition import AsyncAcquisition

    init = AsyncAcquisition.__init__
    changed: dict[Any, Any] = {}

    def init_elsewhere(self: Any, shared: Any, *args: Any, **options: Any) -> None:
        if shared.scope not in changed:
            changed[shared.scope] = shared.scope._mutex = elsewhere(shared.scope.mutex)
        init(self, shared, *args, **options)

    AsyncAcquisition.__init__ = init_elsewhere  # type: ignore[method-assign]


def _unlocks_for_the_cancelled() -> None:
    """A task that is cancelled gives the mutex back, although its creator goes on."""
    from dogpile_fs._aio.acquisition import AsyncAcquisition

    work = AsyncAcquisition._work

    async def work_and_unlock(self: Any, election: Any) -> Any:
        hold = self.mutex_hold
        try:
            return await work(self, election)
        except BaseException:
            self.scope.mutex._release_hold(hold)
            raise

    AsyncAcquisition._work = work_and_unlock  # type: ignore[method-assign]


def _loses_the_cancelled() -> None:
    """A creation whose task is cancelled is not stamped."""
    from dogpile_fs._aio.acquisition import AsyncAcquisition

    work, create_here = AsyncAcquisition._work, AsyncAcquisition._create_here
    left: list[Any] = []

    async def work_and_leave(self: Any, election: Any) -> Any:
        try:
            return await work(self, election)
        except BaseException:
            left.append(self)
            raise

    def create(self: Any) -> Any:
        value = create_here(self)
        if any(each is self for each in left):
            raise CancelledError
        return value

    AsyncAcquisition._work = work_and_leave  # type: ignore[method-assign]
    AsyncAcquisition._create_here = create  # type: ignore[method-assign]


def _prunes_without_the_mutex() -> None:
    """A key goes also while it is created."""

    def remove(self: Any, found: Any) -> bool:
        self._remove_files(self._pattern.path_of(found.name))
        self._keys.records.erase(self._keys.record(found.name))
        return True

    pruning._Pruning.remove = remove  # type: ignore[method-assign]


def _prunes_only_records() -> None:
    """The file of a key that is pruned stays."""
    pruning._Pruning._remove_files = lambda self, path: None  # type: ignore[method-assign]


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
    "tries-again-at-once": _tries_again_at_once,
    "forgets-deaths": _forgets_deaths,
    "forgets-failures": _forgets_failures,
    "counts-from-one": _counts_from_one,
    "never-too-old": _never_too_old,
    "refuses-stale": _refuses_stale,
    "hands-over-with-a-gap": _hands_over_with_a_gap,
    "never-looks-at-inputs": _never_looks_at_inputs,
    "digests-afterwards": _digests_afterwards,
    "tasks-lock-another-file": _tasks_lock_another_file,
    "tasks-lock-another-byte": _tasks_lock_another_byte,
    "unlocks-for-the-cancelled": _unlocks_for_the_cancelled,
    "loses-the-cancelled": _loses_the_cancelled,
    "prunes-without-the-mutex": _prunes_without_the_mutex,
    "prunes-only-records": _prunes_only_records,
}
