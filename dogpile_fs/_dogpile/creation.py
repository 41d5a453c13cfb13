"""A creation by this caller, and what is put on record of it: its beginning, and its end if it comes to one.

All of this happens under the creation mutex. An attempt that is on record while the mutex is free has died. The
end of each attempt is written to the journal as well, and callbacks are called with the events.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from functools import lru_cache
from time import monotonic, time
from typing import Any

from .._os.process_identity import own_identity
from .._sidecar.journal import Entry, Place
from .._sidecar.record import DIED, Attempt, Record, cleaned_host
from ..errors import DogpileError, WouldDeadlock, without_frames
from .event import Kind, tell
from .host_outcome import counts_nothing
from .interruption import is_interruption
from .outcome import Outcome
from .plain_call import called
from .shared_state import SharedState
from .stamp import NOT_SWAPPED, Stamp

__all__ = ["Creation", "this_process"]

log = logging.getLogger("dogpile_fs")

#: Seconds for which an attempt may have run so that its death counts from the moment at which it is noticed.
_NOTICED_LATE = 60.0
#: Exit statuses are smaller. A user's own error may have an attribute of that name which is none.
_MOST_STATUS = 256
#: What callers are told that have asked an origin, and have not created.
_NOT_CREATED = (Outcome.fresh, Outcome.creating, Outcome.backing_off, Outcome.fenced)
#: Of a creator that tells nothing of what it has put in place.
_PLAIN = Stamp(None, is_new=False)


class Creation:
    """One creation, by the holder of the mutex, which has *seen* this record."""

    __slots__ = ("_began", "_changed_input", "_place", "_signs", "attempt", "inputs", "scope", "seen", "shared")

    def __init__(self, shared: SharedState, seen: Record) -> None:
        self.shared = shared
        self.scope = shared.scope
        #: The record as this creation has left it.
        self.seen = seen
        #: This creation, on record; ``None`` before it begins.
        self.attempt: Attempt | None = None
        #: The digest of what the resource is made from, taken before the creator runs.
        self.inputs: str | None = None
        # For the journal: the monotonic time at which it began, where the journal was then, the signs of what the
        # resource is made from, and which of that had changed.
        self._began = 0.0
        self._place: Place | None = None
        self._signs: str | None = None
        self._changed_input: str | None = None

    def count_death(self) -> None:
        """Count the attempt on record as a death: the mutex is held, and no end of that attempt was recorded.

        The next attempt after one death comes at once, because a process may be killed for reasons of its own.
        """
        dead, backoff = self.seen.attempt, self.shared.policy.backoff
        if dead is None:
            return
        again, now = self.seen.failed_type == DIED, time()
        retry_after = backoff.delay(self.seen.failures + 1) if again and backoff is not None else 0.0
        # The delay begins now, where the death is noticed. It is over if the attempt began long before.
        at = now if now - dead.since < retry_after + _NOTICED_LATE else min(now, dead.since)

        self.scope.change(lambda record: record.failed(dead, at, DIED, retry_after))
        self.seen = self.seen.failed(dead, at, DIED, retry_after)
        log.warning(
            "%s: a creation that process %d of %s began %.1f s ago has ended without a result: it died",
            self.scope.name,
            dead.pid,
            dead.host,
            now - dead.since,
        )
        self._note(dead, DIED)
        self._tell("died", is_stamped=False, pid=dead.pid)

    def begin(self, kind: str | None = None) -> None:
        """Record the attempt: ``status`` shows it, and a full disk or a lack of permission shows before the
        work.

        :param kind: where it runs, as of :class:`.Attempt`; default: as the users of this object have it.
        """
        now, longest = time(), self.shared.creator_timeout
        attempt = self.attempt = Attempt(
            **this_process(),
            since=now,
            **own_identity()._asdict(),
            kind=kind or self.shared.kind,
            deadline=None if longest is None else now + longest,
        )
        expiretime, inputs = self.shared.expiretime, self.shared.inputs
        self.inputs = None if inputs is None else inputs.digest()
        self.shared.readers._make_file()  # for readers that may not make it; before an attempt is on record
        self.scope.change(lambda record: record.begun(attempt, expiretime))
        self.seen = self.seen.begun(attempt, expiretime)
        self._began, self._place = monotonic(), self.scope.journal.place()
        if inputs is not None:
            self._signs = inputs.signs()
            self._changed_input = inputs.changed_since(self.scope.journal.input_signs(self.seen.generation))
        try:
            self._tell("creating", is_stamped=False)
        except BaseException as error:  # an interruption, or the end of the process
            self.has_failed(error)
            raise

    def adopt(self, attempt: Attempt) -> None:
        """Go on with *attempt*, which another process has begun, and which is on record."""
        self.attempt = attempt
        self._began, self._place = monotonic() - max(0.0, time() - attempt.since), self.scope.journal.place()

    def interrupt(self, error: BaseException | None = None) -> None:
        """Take the attempt off the record: it ends without a result, and that counts nothing."""
        self.end()
        self._note(self.attempt, "interrupted", monotonic() - self._began, error)

    def end(self) -> None:
        """Take the attempt off the record; leave the record alone if it is another's, or of another resource."""
        record = self.scope.read()
        if record.ended(self.attempt) is not record:
            self.scope.change(lambda record: record.ended(self.attempt))

    def _count_failure(self, error: Exception) -> None:
        """Record that the attempt has failed with *error*, and log that."""
        backoff = self.shared.policy.backoff
        retry_after = 0.0 if backoff is None else backoff.delay(self.seen.failures + 1)
        name, now, cost = _name_of(error), time(), monotonic() - self._began
        text = "%s: the creation failed: %s: %s; the next attempt is due in %.1f s"
        is_refusal = isinstance(error, DogpileError)  # it says all that there is to know
        log.log(
            logging.WARNING if is_refusal else logging.ERROR,
            text,
            self.scope.name,
            name,
            error,
            retry_after,
            exc_info=None if is_refusal else error,
            extra={"failure": error},
        )
        if self.scope.mutex.lost:
            self.end()  # the path may lead to another resource by now, which has not failed
        else:
            self.shared.last_failure = (now, without_frames(error))
            self.scope.change(lambda record: record.failed(self.attempt, now, name, retry_after))
        self._note(self.attempt, "failed", cost, error)
        self._tell("failed", is_stamped=False, cost=cost, error=error)

    def run(self, creator: Callable[[], Any], *, counts_failures: Callable[[], bool]) -> None:
        """Run *creator* in this thread, and record how it ends.

        :param counts_failures: returns whether an error of the creator is its own fault.
        :raises: what *creator* raises that is no ``Exception``.
        :raises SidecarError: if the end cannot be recorded.
        """
        began = monotonic()
        try:
            value = called(creator)
        except BaseException as error:
            if counts_failures():
                self.has_failed(error)
            else:
                self.interrupt(error)
            if isinstance(error, Exception):
                return
            raise
        self.finish(value, monotonic() - began)

    def finish(self, value: Any, cost: float) -> Outcome:
        """Stamp, after the creator has returned *value* and has run for *cost* seconds; return what was done."""
        stamp = value if isinstance(value, Stamp) else _PLAIN
        if not self.scope.mutex.held:
            log.debug("%s: not stamped: a child forked in the creator leaves that to its parent", self.scope.name)
            return Outcome.created
        if stamp.outcome in _NOT_CREATED and stamp is not NOT_SWAPPED:
            self.end()
            self.seen = self.scope.read()
            if stamp.outcome == Outcome.fenced:
                self._note(self.attempt, Outcome.fenced, cost)
                self._tell("fenced", cost=cost)
            return stamp.outcome
        outcome, is_swapped = Outcome.fenced, stamp.is_new and stamp is not NOT_SWAPPED
        if stamp is not NOT_SWAPPED and self._stamp(stamp, cost):
            log.debug("%s: created in %.3f s", self.scope.name, cost)
            outcome = stamp.outcome
        else:
            self.end()
            if stamp is not NOT_SWAPPED:
                log.warning(
                    "%s: not stamped: the lock file was removed, or the path came to lead elsewhere, while the "
                    "creator ran",
                    self.scope.name,
                )
        self._note(self.attempt, outcome, cost)
        if is_swapped:
            self._tell("swapped", is_stamped=bool(outcome), cost=cost)
        if outcome:
            self._tell("unchanged" if outcome == Outcome.unchanged else "created", cost=cost)
        return outcome

    def has_failed(self, error: BaseException) -> bool:
        """Record the end of a creation whose creator has raised *error*; return whether that counts as a failure.

        An error that ends the process leaves the attempt on record: it counts as a death.
        """
        if not self.scope.mutex.held:
            return False  # a child that was forked inside the creator: the attempt is its parent's
        try:
            if isinstance(error, WouldDeadlock) or is_interruption(error) or counts_nothing(error):
                self.interrupt(error)
            elif isinstance(error, Exception):
                self._count_failure(error)
                return True
        except DogpileError as failure:  # it must not hide the creator's error
            log.warning("%s: the end of the creation is not recorded: %s", self.scope.name, failure)
        return False

    def _stamp(self, stamp: Stamp, cost: float) -> bool:
        """Stamp what the creator has put in place; False, and nothing is stamped, if the mutex was lost (I1).

        The path may come to lead elsewhere at any time. So the fingerprint is taken before the last look at the
        lock file, and that look when the sidecar is open already: all three are of one directory then (I6).

        :param cost: seconds that the creator ran.
        """
        before, shared, me = self.seen, self.shared, this_process()
        if stamp.is_on_record:
            self.seen = self.scope.read()
            shared.last_failure = (None, None)
            return True
        if self.scope.mutex.lost:
            return False  # another caller may have created meanwhile, and its stamp must stay
        fingerprint, now = stamp.fingerprint or self.scope.fingerprint(), time()
        lifetime, is_lost = shared.drawn_lifetime(stamp.expires_in), False

        def stamped(record: Record) -> Record:
            nonlocal is_lost
            is_lost = self.scope.mutex.lost
            if is_lost:
                return record
            self.seen = record.created(
                before,
                now,
                cost=cost,
                expiretime=shared.expiretime,
                fingerprint=fingerprint,
                swapped=stamp.is_new,
                is_unfinished=stamp.is_unfinished or (before.is_unfinished and not stamp.is_new),
                lifetime=lifetime,
                max_stale=shared.max_stale,
                note=stamp.note,
                inputs=self.inputs,
                **me,
            )
            return self.seen

        self.scope.change(stamped)
        shared.last_failure = (None, None)
        return not is_lost

    def _note(
        self,
        attempt: Attempt | None,
        outcome: str,
        cost: float | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Write to the journal how *attempt*, this one or one that died, has ended; it ran for *cost* seconds."""
        assert attempt is not None
        is_stamped = outcome in (Outcome.created, Outcome.unchanged)
        exit_status, number = _end_of_child(error)
        entry = Entry(
            attempt.host,
            attempt.pid,
            attempt.since,
            str(outcome),
            self.seen.generation if is_stamped else self.seen.generation + 1,
            attempt.kind,
            cost,
            error_type=None if error is None else _name_of(error),
            exit_status=exit_status,
            signal=number,
            changed_input=self._changed_input,
            input_signs=self._signs if is_stamped else None,
        )
        self.scope.journal.append(entry, self._place)

    def _tell(self, kind: Kind, *, is_stamped: bool = True, **more: Any) -> None:
        """Call the callbacks; *is_stamped*: whether the creation that the event is about is on record."""
        generation = self.seen.generation if is_stamped else self.seen.generation + 1
        tell(self.scope, kind, self.seen, generation=generation, **more)


def _name_of(error: BaseException) -> str:
    """Return the name of the type of *error*. The command's errors have one type, and say what has failed."""
    return str(getattr(error, "failure_name", type(error).__name__))


def _end_of_child(error: BaseException | None) -> tuple[int | None, int | None]:
    """Return the exit status of the child that *error* is about, and the number of the signal that ended it.

    Such as of ``subprocess.CalledProcessError``, and of the command's errors.
    """
    code = getattr(error, "returncode", None)
    if type(code) is not int or not -signal.NSIG < code < _MOST_STATUS:
        return None, None
    return (code, None) if code >= 0 else (None, -code)


def this_process() -> dict[str, Any]:
    """Return host and pid of this process, for the record."""
    return {"host": _host(os.uname().nodename), "pid": os.getpid()}


_host = lru_cache(maxsize=1)(cleaned_host)
