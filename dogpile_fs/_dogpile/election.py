"""One caller's way through a dogpile: pass, or wait, or be elected and create.

===============  ========  ==============================================================================
the record says  mutex     then
===============  ========  ==============================================================================
nothing yet                wait for the mutex; look again; create if there is still nothing
fresh                      pass through
stale            free      elected: look again under the mutex; create if it is still stale
stale            taken     pass through
===============  ========  ==============================================================================

Looking again under the mutex makes it exactly one creation per expiry: it is where a process learns that
another one has just finished. A stamp is written after the creator has returned, so that dying in between
costs one more creation and never calls old data fresh.

A thread that is inside a reader's block of the same resource passes in every row: no new version can be swapped in
before it leaves. It creates only if a value function has no value, or if it calls ``refresh``.

The algorithm does no waiting. :meth:`Passage.election` and :meth:`Passage.forced` are generators. They yield each
step that may take long, as a function without arguments: wait for the mutex, call a value function, run the
creator, sleep, wait for a change of the record. The driver calls the step, and sends its result or throws its
exception into the generator. :func:`run` is the driver for the calling thread. A generator that is closed gives
the mutex back.
"""

from __future__ import annotations

import logging
import os
import time as clock
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from time import monotonic, time
from types import EllipsisType, TracebackType
from typing import Any

from .._os.waiting import FOREVER, Deadline, Timeout, checked_timeout
from .._sidecar.record import CLOCK_TOLERANCE, Record, State
from ..errors import (
    NO_PERMISSION,
    LockFileError,
    LockTimeout,
    NeedRegenerationException,
    SidecarError,
    WouldDeadlock,
)
from .guard import Pass, PassThrough
from .scope import ReadWriteLock, Scope

__all__ = ["Election", "Passage", "ReadingPassage", "Step", "Terms", "run", "whoami"]

log = logging.getLogger("dogpile_fs")

_EARLIEST = -CLOCK_TOLERANCE
#: Seconds for which an object that lost an election does not stand again: stale passes stay cheap, and a
#: creator's death is noticed soon enough.
_AFTER_LOSING = 0.005
#: The same where this process turned out not to be permitted to create.
_AFTER_REFUSAL = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.010


@dataclass(slots=True)
class Terms:
    """What all passages of one Dogpile share."""

    path: str | None
    scope: Scope
    timeout: float | None
    expiretime: float | None = None
    #: What record.lifetime makes of it.
    lifetime: float = 0.0
    readers: ReadWriteLock | None = None
    # Racing threads may write these; whichever wins is right.
    #: Monotonic time of the next election.
    next_election: float = 0.0
    #: Who passed last.
    passed: PassThrough | None = None

    @property
    def name(self) -> str:
        """What is coordinated, for messages."""
        return "the resource" if self.path is None else repr(self.path)


#: What may take long.
Step = Callable[[], Any]
#: Yields steps, is resumed with their results, returns the block's value.
Election = Generator[Step, Any, Any]
#: The same, for a part that finds the block's value and the state.
_Finding = Generator[Step, Any, tuple[Any, State]]


def run(election: Election) -> Any:
    """Do each step of *election* in the calling thread, and return what it returns."""
    answer: Any = None
    error: BaseException | None = None
    try:
        while True:
            try:
                step = election.send(answer) if error is None else election.throw(error)
            except StopIteration as end:
                return end.value
            except RuntimeError as failure:
                # PEP 479: a generator turns the StopIteration of a step into a RuntimeError.
                if failure is error or not isinstance(error, StopIteration) or failure.__cause__ is not error:
                    raise
                break
            answer = error = None
            try:
                answer = step()
            except BaseException as failure:
                error = failure
        raise error  # here, so that the RuntimeError does not become its context
    finally:
        election.close()  # an exception between two steps leaves no mutex held
        error = None  # or its traceback would refer to itself


class Passage(Pass):
    """One caller's own way through. To be entered once."""

    __slots__ = (
        "_deadline",
        "created",
        "creator",
        "must_create",
        "mutex_hold",
        "terms",
        "value_and_created_fn",
        "value_fn",
    )

    def __init__(
        self,
        terms: Terms,
        creator: Callable[[], Any] | None,
        value_fn: Callable[[], Any] | None,
        value_and_created_fn: Callable[[], tuple[Any, float]] | None,
        timeout: Timeout,
    ) -> None:
        bound = terms.timeout if isinstance(timeout, EllipsisType) else checked_timeout(timeout)
        Pass.__init__(self, terms.scope, bound)
        self.terms = terms
        self.creator = creator
        self.value_fn = value_fn
        self.value_and_created_fn = value_and_created_fn
        self._deadline: Deadline | None = None
        self.must_create = False
        self.created = False

    def __enter__(self) -> Any:
        terms = self.terms
        sighting = self.scope.sight()
        self.seen = record = sighting.record
        if self.value_fn is None and self.value_and_created_fn is None:
            now = time()
            if _EARLIEST <= now - record.basis < terms.lifetime:  # fresh
                if sighting.description is not None:
                    until = min(sighting.until, record.basis + terms.lifetime)
                    terms.passed = PassThrough(self.scope, terms.timeout, sighting, until)
                return None
            left = terms.next_election - monotonic()
            if left > 0 and record.has_value:  # stale, and another was elected a moment ago
                if sighting.description is not None:
                    terms.passed = PassThrough(
                        self.scope, terms.timeout, sighting, min(sighting.until, now + left)
                    )
                return None
        return self.pass_or_create()

    @property
    def deadline(self) -> Deadline:
        """Of all waits of this passage, from the first on; what the creator takes does not count."""
        if self.timeout is None:
            return FOREVER
        if self._deadline is None:
            self._deadline = Deadline(self.timeout)
        return self._deadline

    def pass_or_create(self) -> Any:
        """Run the election in the calling thread. Returns the block's value."""
        return run(self.election())

    def election(self) -> Election:
        """The algorithm, from the record seen last on. Returns the block's value."""
        self.mutex_hold = None
        try:
            value, state = yield from self._look()
            if state == "fresh":
                return value
            if state == "stale":
                if not self._is_elected():
                    return value
            else:
                value, state = yield from self._wait_for_first_creation()
                if state != "nothing":
                    return value
            return (yield from self._create_if_still(state))
        finally:
            try:
                self._give_mutex_back()
            except BaseException:
                self._give_mutex_back()  # an interrupt came first
                raise

    def forced(self) -> Election:
        """The algorithm of a forced refresh: wait for the mutex and create, however fresh the resource is."""
        self.mutex_hold = None
        try:
            yield self._acquire_mutex
            self.seen = self.scope.look()
            self._begin()
            return (yield from self._create())
        finally:
            try:
                self._give_mutex_back()
            except BaseException:
                self._give_mutex_back()  # an interrupt came first
                raise

    def create_if_not_fresh(self) -> None:
        """Create, unless it is fresh or another creates; to lack the permission is an error."""
        self.must_create = True
        self.seen = self.scope.look()
        self.pass_or_create()

    def create_in_any_case(self) -> None:
        """Wait for the mutex and create, however fresh the resource is."""
        run(self.forced())

    def _give_mutex_back(self) -> None:
        """Release the mutex if this election has taken it, also where an interrupt has kept it from being told."""
        if self.mutex_hold is not None:
            self.scope.mutex.release_hold(self.mutex_hold)

    def _create(self) -> Election:
        """Run the creator and stamp; the mutex is held. Returns the block's value."""
        assert self.creator is not None
        log.debug("creating, as generation %d", self.seen.generation + 1)
        started = monotonic()
        value = yield self.creator
        cost = monotonic() - started
        self.created = True
        self._deadline = None
        if self.scope.mutex.held:
            standing, now = self.scope.standing(), time()
            before, expiretime, me = self.seen, self.terms.expiretime, whoami()

            def stamp(record: Record) -> Record:
                self.seen = record.created(before, now, cost=cost, expiretime=expiretime, standing=standing, **me)
                return self.seen

            self.scope.change(stamp)
            log.debug("created in %.3f s", cost)
        else:
            log.debug("not stamped: a child forked inside the creator leaves that to its parent")
        return value if self.value_and_created_fn is None else value[0]

    def _look_again(self) -> _Finding:
        self.seen = self.scope.look()
        return (yield from self._look())

    def _look(self) -> _Finding:
        """The block's value and the state, as the record seen last and the value functions tell."""
        record = self.seen
        value = None
        try:
            if self.value_and_created_fn is not None:
                value, createdtime = yield self.value_and_created_fn
                record = record.replace(createdtime=createdtime)
            elif self.value_fn is not None and record.has_value:
                value = yield self.value_fn
        except NeedRegenerationException:
            return None, "nothing"
        return value, record.state(time(), self.terms.expiretime)

    def _is_elected(self) -> bool:
        """Win the mutex without waiting."""
        terms = self.terms
        if self.creator is None:
            return False
        if not self.must_create:
            if monotonic() < terms.next_election:
                return False
            if self._is_reading():
                return False  # inside its own outer block: its creator could not wait for readers
        try:
            if self.scope.mutex.acquire(wait=False, taker=self):
                return True
        except LockFileError as error:
            self._pass_for_lack_of_permission(error)
            return False
        log.debug("stale, and another creates: passing through")
        terms.next_election = monotonic() + _AFTER_LOSING
        return False

    def _wait_for_first_creation(self) -> _Finding:
        """Until there is something, or this thread holds the mutex and the state is ``"nothing"``.

        All waiters sleep until the mutex comes free, without taking it, and so wake together. Who brought no
        creator sleeps until one comes along.
        """
        scope = self.scope
        if self._is_reading():
            return (yield from self._go_on_inside())
        pause = 0.0
        while True:
            if self._takes_mutex():
                return None, "nothing"
            log.debug("nothing yet: waiting for a creation")
            if not (yield partial(scope.mutex.wait_released, self.deadline)):
                raise self._timed_out()
            value, state = yield from self._look_again()
            if state != "nothing":
                return value, state
            if self.deadline.left == 0:
                raise self._timed_out()
            if self.creator is None:
                yield partial(scope.wait_for_change, self.seen, self.deadline)
            elif pause:
                # Nobody creates, and yet the mutex is not to be had: somebody was stopped while he looked at it.
                yield partial(clock.sleep, min(pause, self.deadline.left))
            pause = min(max(_FIRST_PAUSE, 2 * pause), _LONGEST_PAUSE)

    def _go_on_inside(self) -> _Finding:
        """Let a thread pass that is inside a reader's block: the version there stays until the thread leaves.

        A creator may wait for this thread to leave, so this thread must not wait for a creator.
        """
        if not self.must_create:
            try:
                if self.value_and_created_fn is not None:
                    value, _ = yield self.value_and_created_fn
                else:
                    value = None if self.value_fn is None else (yield self.value_fn)
                return value, "stale"
            except NeedRegenerationException:
                pass  # creating is the only way to a value
        if self._takes_mutex():
            return None, "nothing"
        raise self._would_deadlock("a reader")

    def _takes_mutex(self) -> bool:
        """Take the mutex without waiting, if there is a creator to run."""
        return self.creator is not None and self.scope.mutex.acquire(wait=False, taker=self)

    def _create_if_still(self, before: State) -> Election:
        value, state = yield from self._look_again()
        if state == "fresh" or (state == "stale" and before == "nothing"):
            log.debug("another has created it just now")
            return value
        try:
            self._begin()
        except (SidecarError, LockFileError) as error:
            if state == "nothing":
                raise
            self._pass_for_lack_of_permission(error)
            return value
        return (yield from self._create())

    def _begin(self) -> None:
        # Told to who asks for the status; and a full disk or a lack of permission shows before the work is done.
        host, pid = whoami().values()
        attempt = (host, pid, time())
        expiretime = self.terms.expiretime
        self.scope.change(lambda record: record.begun(attempt, expiretime))
        self.seen = self.seen.begun(attempt, expiretime)
        if self.terms.readers is not None:
            self.terms.readers.make_file()  # for readers who may not

    def _pass_for_lack_of_permission(self, error: LockFileError | SidecarError) -> None:
        """Let who may only read go on with what is stale; raise what is not his fault."""
        if self.must_create or error.errno not in NO_PERMISSION:
            raise error
        self.terms.next_election = monotonic() + _AFTER_REFUSAL
        log.warning("passing through what is stale: %s", error)

    def _is_reading(self) -> bool:
        """Whether this thread is inside as a reader. As a writer, it has no business here."""
        readers = self.terms.readers
        inside = "" if readers is None else readers.inside()
        if inside == "writer":
            raise self._would_deadlock("the writer")
        return inside == "reader"

    def _acquire_mutex(self) -> None:
        mutex = self.scope.mutex
        if not self._is_reading():
            mutex.acquire(timeout=self.timeout, taker=self)
        elif not mutex.acquire(wait=False, taker=self):
            raise self._would_deadlock("a reader")

    def _would_deadlock(self, inside: str) -> WouldDeadlock:
        return WouldDeadlock(
            f"this thread is inside {self.terms.name} as {inside}, and a creator may wait for it: it would wait "
            "for itself, for ever. Cure: leave the block before you create."
        )

    def _timed_out(self) -> LockTimeout:
        return LockTimeout(
            f"the first creation of {self.terms.name} did not end within {self.timeout} s. "
            "Cure: a longer timeout, or create ahead with refresh()."
        )


class ReadingPassage(Passage):
    """One reader's own way through. To be entered once."""

    __slots__ = ("hold",)

    def __enter__(self) -> Any:
        value = Passage.__enter__(self)
        readers = self.terms.readers
        assert readers is not None
        self.hold = readers.enter(self.deadline)
        return value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        readers = self.terms.readers
        assert readers is not None
        readers.leave(self.hold)
        if error is not None:
            Pass.__exit__(self, kind, error, trace)


def whoami() -> dict[str, Any]:
    """This process, for the record."""
    return {"host": os.uname().nodename, "pid": os.getpid()}
