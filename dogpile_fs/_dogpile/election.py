"""The algorithm: one caller's way through a dogpile. It passes, or waits, or is elected and creates.

===============  ========  ==============================================================================
the record says  mutex     then
===============  ========  ==============================================================================
missing                    wait for the mutex; read again; create if it is still missing
fresh                      pass through
stale            free      elected: read again under the mutex; create if it is still stale
stale            taken     pass through
===============  ========  ==============================================================================

A version that is too old for any reader (``expired``) counts as missing. Where a creation may begin early, a fresh
version counts as stale for the caller that is elected. After failures no process creates before their backoff is
over: a stale version passes, and a caller for which there is nothing gets :class:`.CreationFailed`.

Reading again under the mutex makes it exactly one creation per expiry: there a process learns that another one has
just finished (I1). The stamp is written after the creator has returned, so that a death in between costs one more
creation and never calls old data fresh (I5, I6).

A caller that is inside a reader's block of the same resource passes in every row: no new version can be swapped in
before it leaves. It creates only if a value function has no value, or if it calls ``refresh``.

The algorithm does no waiting. :meth:`Acquisition.election` and :meth:`Acquisition.forced` are generators. They
yield each step that may take long, as a function without arguments: wait for the mutex, call a value function, run
the creator, sleep, wait for a change of the record. The driver calls the step, and sends its result or throws its
exception into the generator. :func:`run` is the driver for the calling thread. A generator that is closed gives
the mutex back.
"""

from __future__ import annotations

import logging
import math
import time as clock
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from time import monotonic, time
from types import EllipsisType, TracebackType
from typing import Any

from .._locks.holds import Taker
from .._os.waiting import FOREVER, Deadline, Timeout, checked_seconds, checked_timeout
from .._sidecar.record import CLOCK_TOLERANCE, Attempt
from ..errors import (
    NO_PERMISSION,
    CreationFailed,
    DogpileError,
    LockFileError,
    LockTimeout,
    NeedRegenerationException,
    SidecarError,
    WouldDeadlock,
)
from .background import Background, Place
from .creation import Creation
from .event import tell
from .guard import Guard
from .outcome import Outcome
from .plain_call import called
from .scope import Scope
from .shared_state import NOTHING, Judgement, SharedState
from .stamp import Made
from .status import creator_in, status_in

__all__ = ["Acquisition", "Election", "ReaderAcquisition", "Step", "run"]

log = logging.getLogger("dogpile_fs")

_EARLIEST = -CLOCK_TOLERANCE
#: Seconds for which an object that lost an election does not try again. It keeps stale passes as cheap as fresh
#: ones, and is short enough to notice a creator's death.
_AFTER_LOSING = 0.005
#: The same after the system refused this process the permission to create. It bounds how often that is logged.
_AFTER_REFUSAL = 1.0
#: Seconds of the first and the longest pause where the mutex cannot be had although no creator runs.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.010
#: A function that may take long.
Step = Callable[[], Any]
#: Yields steps, is resumed with their results, returns the block's value.
Election = Generator[Step, Any, Any]
#: The same, for a part that finds the block's value and the state.
_Finding = Generator[Step, Any, tuple[Any, Judgement]]


def run(election: Election) -> Any:
    """Run each step of *election* in the calling thread, and return its result."""
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
                answer = called(step)
            except BaseException as failure:
                error = failure
        raise error  # here, so that the RuntimeError does not become its context
    finally:
        election.close()  # an exception between two steps leaves no mutex held
        error = None  # or its traceback would refer to itself


class Acquisition(Guard):
    """One caller's own way through, and the guard of its block. To be entered once."""

    __slots__ = (
        "_deadline",
        "_has_handed_over",
        "creator",
        "must_create",
        "mutex_hold",
        "outcome",
        "shared",
        "value_and_created_fn",
        "value_fn",
    )

    scope: Scope

    def __init__(
        self,
        shared: SharedState,
        creator: Callable[[], Any] | None,
        value_fn: Callable[[], Any] | None,
        value_and_created_fn: Callable[[], tuple[Any, float]] | None,
        timeout: Timeout,
    ) -> None:
        bound = shared.timeout if isinstance(timeout, EllipsisType) else checked_timeout(timeout)
        Guard.__init__(self, shared.scope, bound)
        self.shared = shared
        self.creator = creator
        self.value_fn = value_fn
        self.value_and_created_fn = value_and_created_fn
        self._deadline: Deadline | None = None
        self.must_create = False
        #: Whether this caller has waited in vain for a creation in the background.
        self._has_handed_over = False
        #: The answer of :meth:`refresh`.
        self.outcome = Outcome.fresh

    def __enter__(self) -> Any:
        shared = self.shared
        snapshot = self.scope.peek()
        self.seen = record = snapshot.record
        if self.value_fn is None and self.value_and_created_fn is None:
            now = time()
            if _EARLIEST <= now - record.fresh_from < shared.max_age:
                until = record.fresh_from + shared.max_age
                shared.last_guard = self.scope.reusable_guard(snapshot, shared.timeout, until)
                return None
            until = shared.passes_until(record, now)
            if until > now:  # stale, and another caller was elected a moment ago, or its creation has failed
                shared.last_guard = self.scope.reusable_guard(snapshot, shared.timeout, until)
                return None
        return self._run(self.election())

    @property
    def deadline(self) -> Deadline:
        """The deadline of all waits of this acquisition, from the first on; the creator's time does not count."""
        if self.timeout is None:
            return FOREVER
        if self._deadline is None:
            self._deadline = Deadline(self.timeout)
        return self._deadline

    def refresh(self, *, force: bool) -> Outcome:
        """Create if it is not fresh and no other caller creates, or by *force*; return what was done.

        Lacking the permission to create is an error.
        """
        self.must_create = True
        try:
            if force:
                self._run(self.forced())
            else:
                self.seen = self.scope.read()
                self._run(self.election())
        except CreationFailed:
            if self.outcome != Outcome.backing_off:
                raise  # the creator's own
        return self.outcome

    def election(self) -> Election:
        """Return the algorithm, from the record read last on. It returns the block's value."""
        return self._giving_mutex_back(self._elect())

    def forced(self) -> Election:
        """Return the algorithm of a forced refresh: wait for the mutex and create, however fresh the resource
        is."""
        return self._giving_mutex_back(self._force())

    def handed_over(self, begun: Attempt, adopt: Callable[[Taker], bool]) -> Election:
        """Return the algorithm of the process that creates in the background.

        :param begun: the attempt of the caller that was elected.
        :param adopt: has a taker hold the mutex that was handed over; returns False if it was lost on the way.
        """
        self.must_create = True
        return self._giving_mutex_back(self._go_on_for(begun, adopt))

    def _giving_mutex_back(self, algorithm: Election) -> Election:
        self.mutex_hold = None
        try:
            return (yield from algorithm)
        finally:
            try:
                self._give_mutex_back()
            except BaseException:
                self._give_mutex_back()  # an interrupt came first
                raise

    def _give_mutex_back(self) -> None:
        """Release the mutex if this election has taken it, also where an interrupt has kept it from learning
        that."""
        if self.mutex_hold is not None:
            self.scope.mutex._release_hold(self.mutex_hold)

    def _elect(self) -> Election:
        value, state = yield from self._look()
        if self.shared.is_to_ask(self.seen, time()) and not self._is_reading():
            yield self._ask_origin
            value, state = yield from self._read_and_look()
        if state == "fresh":
            return value
        self._note_changed_input()
        if state == "expired":
            self.shared.tell_expired(self.seen)
        if state not in NOTHING:
            if not self._is_elected():
                return value
        else:
            value, state = yield from self._wait_for_first_creation()
            if self._is_to_refresh(state):
                return (yield from self._elect())
            if state not in NOTHING:
                return value
        return (yield from self._create_if_still(state))

    def _note_changed_input(self) -> None:
        """Record since when an input has been another one, if a version may be too old for readers by that."""
        record, shared, now = self.seen, self.shared, time()
        if (
            shared.inputs is None
            or record.stale_since is not None
            or record.expires_at(shared.expiretime, shared.max_stale) == math.inf
            or record.state(now, shared.expiretime, shared.max_stale) != "fresh"
        ):
            return
        with suppress(DogpileError):  # a process that may only read leaves that to others
            self.scope.change(
                lambda last: last.replace(stale_since=now) if last.generation == record.generation else last
            )

    def _force(self) -> Election:
        yield self._acquire_mutex
        yield self._begin_work
        self.scope.look_anew()
        self.seen = self.scope.read()
        creation, background = Creation(self.shared, self.seen), self._background()
        place = None if background is None else background.place()
        creation.count_death()
        creation.begin(None if place is None else place.kind)
        if place is not None and (yield partial(self._start_in, place, creation)):
            return (yield from self._go_on_beside(creation, None, "missing"))
        return (yield from self._create(creation, None, "missing"))

    def _go_on_for(self, begun: Attempt, adopt: Callable[[Taker], bool]) -> Election:
        is_held = adopt(self)
        self.scope.look_anew()
        self.seen = self.scope.read()
        if not is_held or self.seen.attempt != begun:
            self.outcome = Outcome.fenced
            return None
        creation = Creation(self.shared, self.seen)
        creation.begin()
        return (yield from self._create(creation, None, "missing"))

    def _look(self) -> _Finding:
        """Find the block's value and the state, from the record read last and the value functions."""
        record = self.seen
        value = None
        try:
            if self.value_and_created_fn is not None:
                value, createdtime = _pair(self.value_and_created_fn, (yield self.value_and_created_fn))
                record = record.replace(createdtime=createdtime)
            elif self.value_fn is not None and record.has_value:
                value = yield self.value_fn
        except NeedRegenerationException:
            return None, "missing"
        return value, self.shared.judge(record, time())

    def _read_and_look(self) -> _Finding:
        self.seen = self.scope.read()
        return (yield from self._look())

    def _is_to_refresh(self, state: Judgement) -> bool:
        """Return whether this caller refreshes, and what it has waited for is stale already."""
        return self.must_create and state == "stale"

    def _is_elected(self) -> bool:
        """Win the mutex without waiting."""
        shared = self.shared
        if self.creator is None:
            return False
        if self._is_backing_off():
            with suppress(LockFileError):
                if self.must_create and self.scope.mutex.locked():  # by a forced creation
                    self.outcome = Outcome.creating
            return False
        if not self.must_create:
            if monotonic() < shared.next_election:
                return False
            if shared.host is not None and shared.host.others_create_until(self.seen, time()) > time():
                return False
            if self._is_reading():
                return False  # inside its own outer block: its creator could not wait for readers
        try:
            if self._try_mutex():
                return True
        except LockFileError as error:
            self._pass_without_permission(error)
            return False
        log.debug("%s: stale: another creates, passing through", self.scope.name)
        self.outcome = Outcome.creating
        shared.next_election = monotonic() + _AFTER_LOSING
        shared.tell_if_overdue(self.seen)
        return False

    def _is_backing_off(self) -> bool:
        """Return whether creations have failed and it is too early for another one, by the record read last."""
        is_backing_off = self.shared.backoff_left(self.seen, time()) > 0
        if is_backing_off:
            self.outcome = Outcome.backing_off
        return is_backing_off

    def _wait_for_first_creation(self) -> _Finding:
        """Wait until it is there, or this caller holds the mutex and there is nothing.

        All waiters sleep until the mutex comes free, without taking it, and so wake together (I8). A caller
        without a creator sleeps until another one begins to create.

        :raises CreationFailed: if there is a creator, but it is too early to try again.
        """
        scope = self.scope
        if self._is_reading():
            return (yield from self._go_on_inside())
        if self.shared.host is not None:
            return (yield from self._wait_for_any_host())
        pause = 0.0
        while True:
            if self.creator is not None and self._is_backing_off() and not scope.mutex.locked():
                raise self._creation_failed()
            if self._try_mutex():
                return None, "missing"
            log.debug("%s: missing: waiting for a creation", scope.name)
            if self.creator is not None:
                self.shared.tell_if_overdue(self.seen)
            if not (yield self._wait_released):
                raise self._timed_out()
            value, state = yield from self._read_and_look()
            if state not in NOTHING:
                self.outcome = Outcome.fresh
                return value, state
            if self.deadline.left == 0:
                raise self._timed_out()
            if self.creator is None:
                yield self._wait_for_change
            elif pause:
                # No creator runs, and yet the mutex is taken: a process was stopped while it asked for the mutex.
                yield partial(self._pause, min(pause, self.deadline.left))
            pause = min(max(_FIRST_PAUSE, 2 * pause), _LONGEST_PAUSE)

    def _wait_for_any_host(self) -> _Finding:
        """Wait as :meth:`_wait_for_first_creation`, and ask the origin meanwhile: another host may create."""
        while True:
            if self.creator is not None and self._is_backing_off() and not self.scope.mutex.locked():
                raise self._creation_failed()
            if self._try_mutex():
                return None, "missing"
            if self.shared.is_to_ask(self.seen, time()):
                yield self._ask_origin
            value, state = yield from self._read_and_look()
            if state not in NOTHING:
                self.outcome = Outcome.fresh
                return value, state
            if self.deadline.left == 0:
                raise self._timed_out()
            assert self.shared.host is not None
            yield partial(self._wait_for_change_within, self.shared.host.next_question_in(self.seen))

    def _go_on_inside(self) -> _Finding:
        """Let a caller pass that is inside a reader's block: the version there stays until it leaves.

        A creator may wait for this caller to leave, so this caller must not wait for a creator.
        """
        if not self.must_create:
            try:
                if self.value_and_created_fn is not None:
                    value, _ = _pair(self.value_and_created_fn, (yield self.value_and_created_fn))
                else:
                    value = None if self.value_fn is None else (yield self.value_fn)
                return value, "stale"
            except NeedRegenerationException:
                pass  # only a creation gives a value
        if self._try_mutex():
            return None, "missing"
        raise self._would_deadlock("a reader")

    def _run(self, election: Election) -> Any:
        return run(election)

    # The steps that are no functions of the user's. A caller that must not block its thread has others.

    def _wait_released(self) -> bool:
        return self.scope.mutex._wait_released(self.deadline)

    def _wait_for_change(self) -> None:
        self.scope.wait_for_change(self.seen, self.deadline)

    def _wait_for_change_within(self, seconds: float) -> None:
        self.scope.wait_for_change(self.seen, self.deadline.within(seconds))

    def _pause(self, seconds: float) -> None:
        clock.sleep(seconds)

    def _ask_origin(self) -> None:
        assert self.shared.host is not None
        self.shared.host.ask()

    def _begin_work(self) -> None:
        """Go on where files may be written and the creator may run: this caller holds the mutex."""

    def _try_mutex(self) -> bool:
        """Take the mutex without waiting, if there is a creator to run."""
        return self.creator is not None and self.scope.mutex.acquire(wait=False, taker=self)

    def _create_if_still(self, before: Judgement) -> Election:
        yield self._begin_work
        self.scope.look_anew()
        value, state = yield from self._read_and_look()
        if state == "fresh" or (before in NOTHING and state not in NOTHING and not self._is_to_refresh(state)):
            log.debug("%s: another has created it just now", self.scope.name)
            self.outcome = Outcome.fresh
            return value
        creation, background = Creation(self.shared, self.seen), self._background()
        place = None if background is None else background.place()
        try:
            creation.count_death()
            self.seen = creation.seen
            if self._is_backing_off():
                if state in NOTHING:
                    raise self._creation_failed()
                return value
            if background is not None and place is None and state not in NOTHING:
                self.outcome = Outcome.creating  # as many as may run at once, of other resources
                return value
            creation.begin(None if place is None else place.kind)
        except (SidecarError, LockFileError) as error:
            if state in NOTHING:
                raise
            self._pass_without_permission(error)
            return value
        if place is not None and (yield partial(self._start_in, place, creation)):
            return (yield from self._go_on_beside(creation, value, state))
        return (yield from self._create(creation, value, state))

    def _background(self) -> Background | None:
        """Return where this caller has the creator run; ``None``: here."""
        background = self.shared.background
        if background is None or (self.must_create and not background.refreshes) or self._is_reading():
            return None  # a swap would wait for this caller, which might wait for the swap
        return background

    def _start_in(self, place: Place, creation: Creation) -> bool:
        assert self.creator is not None
        return place.start(creation, self.creator, self)

    def _go_on_beside(self, creation: Creation, value: Any, state: Judgement) -> Election:
        """Go on while *creation* runs in the background: with the old version, or else wait for its end.

        :raises CreationFailed: if this caller has waited for it, and it has failed.
        """
        self.outcome, before = Outcome.creating, creation.seen
        if state not in NOTHING and not self.must_create:
            return value
        if not (yield self._wait_released):
            raise self._timed_out("the creation in the background of")
        value, state = yield from self._read_and_look()
        if state not in NOTHING and not self.must_create:
            return value
        record = self.seen
        if record.generation > before.generation:
            is_new = record.version != before.version
            self.outcome = Outcome.created if is_new else Outcome.unchanged
        elif record.failures_total > before.failures_total:
            raise self._creation_failed()
        elif self.must_create or self._has_handed_over:
            if record.attempt is None:
                self.outcome = Outcome.fenced
            elif self._try_mutex():
                self.scope.look_anew()
                creation = Creation(self.shared, self.scope.read())
                creation.count_death()
                self.seen = creation.seen
                raise self._creation_failed()
        if not self.must_create:
            self._has_handed_over = True
            return (yield from self._elect())
        return value

    def _creation_failed(self) -> CreationFailed:
        """Return the error of a caller that may not create yet, caused by the creator's if that was raised
        here."""
        record = self.seen
        error = CreationFailed(self.scope.path, record.failures, record.retry_at or time(), record.failed_type)
        failed_at, cause = self.shared.last_failure
        if failed_at == record.failed_at:
            error.__cause__ = cause
        return error

    def _create(self, creation: Creation, old_value: Any, before: Judgement) -> Election:
        """Run the creator and stamp; the mutex is held. Returns the block's value.

        :param creation: has begun.
        :param before: the state, in which *old_value* was found.
        """
        assert self.creator is not None
        log.debug("%s: creating generation %d", self.scope.name, self.seen.generation + 1)
        started = monotonic()
        try:
            value = yield self.creator
        except BaseException as error:
            if creation.has_failed(error) and not self.must_create and self._tolerates(before):
                tell(self.scope, "stale_served", self.seen, error=error)
                return old_value
            raise
        made = value if isinstance(value, Made) else Made(value, value)
        value, self.outcome = made.value, creation.finish(made.stamp, monotonic() - started)
        self.seen, self._deadline = creation.seen, None
        if made.stamp is not value and not self.outcome:  # another host has created, or does
            return (yield from self._look())[0]
        return value if self.value_and_created_fn is None else _pair(self.creator, value)[0]

    def _tolerates(self, before: Judgement) -> bool:
        """Return whether a reader gets the old version, after its creation has failed."""
        record, shared, now = self.scope.read(), self.shared, time()
        state = shared.judge(record, now)
        if before in NOTHING or state in NOTHING:
            return False
        return state in ("fresh", "early") or shared.policy._tolerates(now - record.stale_from(shared.expiretime))

    def _pass_without_permission(self, error: LockFileError | SidecarError) -> None:
        """Let a process that may only read go on with the stale version; raise any other error."""
        if self.must_create or error.errno not in NO_PERMISSION:
            raise error
        self.shared.next_election = monotonic() + _AFTER_REFUSAL
        log.warning("%s: passing through, though it is stale: %s", self.scope.name, error)

    def _is_reading(self) -> bool:
        """Return whether this caller is inside as a reader; inside as the writer it must not acquire."""
        inside = self.shared.readers._inside()
        if inside == "writer":
            raise self._would_deadlock("the writer")
        return inside == "reader"

    def _acquire_mutex(self) -> None:
        mutex = self.scope.mutex
        if not self._is_reading():
            try:
                mutex.acquire(timeout=self.timeout, taker=self)
            except LockTimeout as error:
                raise self._timed_out("the creation that runs now of") from error
        elif not mutex.acquire(wait=False, taker=self):
            raise self._would_deadlock("a reader")

    def _would_deadlock(self, inside: str) -> WouldDeadlock:
        return WouldDeadlock(
            f"this thread is inside {self.scope.name} as {inside}, and a creator may wait for it: it would wait "
            "for itself, for ever. Hint: leave the block before you create."
        )

    def _timed_out(self, awaited: str = "the first creation of") -> LockTimeout:
        status = status_in(self.shared)
        hint = "a longer timeout, or create ahead with refresh()"
        if not status.creating and self.creator is None:
            hint = "this caller has no creator: let another one create, with refresh()"
        elif status.creating and status.creating_since is None:
            hint = "find the program that has locked it, with fuser(1)"
        return LockTimeout(
            f"{awaited} {self.scope.name} did not end within {self.timeout} s: {creator_in(status)}. Hint: {hint}."
        )


def _pair(function: Callable[..., object], returned: Any) -> tuple[Any, float]:
    """Return value and createdtime, which *function* has *returned*; an error names the function."""
    try:
        value, createdtime = returned
    except (TypeError, ValueError):
        raise TypeError(f"{function!r} must return (value, createdtime), not {returned!r}") from None
    return value, checked_seconds(f"the createdtime that {function!r} returns", createdtime, least=-math.inf)


class ReaderAcquisition(Acquisition):
    """One reader's own way through, and the guard of its block. To be entered once."""

    __slots__ = ("hold",)

    def __enter__(self) -> Any:
        value = Acquisition.__enter__(self)
        self.hold = self.shared.readers._enter(self.deadline)
        return value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shared.readers._leave(self.hold)
        if error is not None:
            Guard.__exit__(self, kind, error, trace)
