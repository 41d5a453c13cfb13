"""What all callers of one Dogpile share: what they want, and how they judge a record by that."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from time import monotonic, time
from typing import TYPE_CHECKING, Literal, cast

from .._os import fork
from .._sidecar.record import Attempt, Record, State, max_age, sooner
from .event import tell
from .guard import Guard, ReusableGuard
from .policy import ORIGINAL, Policy, drawn
from .scope import NoReaders, Readers, Scope

if TYPE_CHECKING:
    from .background import Background
    from .host_election import HostElection
    from .inputs import Inputs

__all__ = ["NOTHING", "Judgement", "SharedState"]

#: A state of the record; ``early``: fresh, and a creation may begin all the same.
Judgement = State | Literal["early"]
#: Seconds for which an input is not looked at again by this process.
LOOK_EVERY = 0.010
#: The states in which callers wait for a creation.
NOTHING = ("missing", "expired")


@dataclass(slots=True, weakref_slot=True, eq=False)
class SharedState:
    """What all acquisitions of one Dogpile share."""

    scope: Scope
    #: Seconds that each wait may last; ``None``: no bound.
    timeout: float | None
    policy: Policy = ORIGINAL
    #: What the resource is made from, if it depends on anything.
    inputs: Inputs | None = None
    expiretime: float | None = None
    #: Seconds below which a version passes by its age alone; see :meth:`expire_after`.
    max_age: float = 0.0
    #: Where creators run, as of :class:`.Attempt`; ``None``: in the caller that was elected.
    kind: str | None = None
    #: Where creators run instead, with the old version in use.
    background: Background | None = None
    #: Seconds after which an attempt is ended; ``None``: never.
    creator_timeout: float | None = None
    readers: Readers = field(default_factory=NoReaders)
    #: How hosts agree, if they do.
    host: HostElection | None = None
    # Racing threads may write these; either value is right.
    #: Monotonic time of the next election.
    next_election: float = 0.0
    #: The guard that later callers may reuse.
    last_guard: ReusableGuard | None = None
    #: The guard of the callers that have opened the resource before they passed.
    opened_guard: Guard | None = None
    #: The last error of a creator in this process, and the record's time of that failure.
    last_failure: tuple[float | None, BaseException | None] = (None, None)
    # What this object's callers have told already.
    told_expired: tuple[int, ...] | None = None
    told_overdue: Attempt | None = None

    @property
    def max_stale(self) -> float | None:
        return cast("float | None", self.policy.max_stale)  # a number, whatever it was made of

    def expire_after(self, expiretime: float | None) -> None:
        """Call each version stale after *expiretime* seconds from now on; ``None``: never."""
        self.expiretime = expiretime
        early = self.policy.refresh_early
        self.max_age = (
            max_age(expiretime) * (1.0 if early is None else early) if self.inputs is None else -math.inf
        )
        if self.host is not None:
            self.max_age = self.host.scope.pass_by_age(self.max_age)
        self.last_guard = None

    def judge(self, record: Record, now: float) -> Judgement:
        """Return the state of the resource for callers of this object at wall-clock time *now*."""
        state = record.state(now, self.expiretime, self.max_stale)
        if state == "fresh":
            if self.inputs is not None and self.inputs.have_changed_since(record.inputs):
                return "stale" if now < record.expires_at(self.expiretime, self.max_stale) else "expired"
            if self.policy.refresh_early is not None and now >= self.early_from(record):
                return "early"
        return state

    def is_to_ask(self, record: Record, now: float) -> bool:
        """Return whether an origin is to be asked at wall-clock time *now*."""
        return self.host is not None and self.host.is_to_ask(record, now)

    def early_from(self, record: Record) -> float:
        """Return the wall-clock time from which on a creation may begin, if the version is fresh by then."""
        until = record.fresh_until(self.expiretime)
        early = self.policy.refresh_early
        return until if early is None else record.createdtime + early * (until - record.createdtime)

    def tell_expired(self, record: Record) -> None:
        """Tell that a caller has found *record* too old for any reader, once per version."""
        with fork.once:
            is_news, self.told_expired = self.told_expired != record.version, record.version
        if is_news:
            tell(self.scope, "expired", record)

    def tell_if_overdue(self, record: Record) -> None:
        """Tell that the attempt of *record*, which keeps a caller from creating, takes too long, once per
        attempt."""
        attempt, now = record.attempt, time()
        if attempt is None or not record.is_overdue(now):
            return
        with fork.once:
            is_news, self.told_overdue = self.told_overdue != attempt, attempt
        if is_news:
            generation, cost = record.generation + 1, now - attempt.since
            tell(self.scope, "overdue", record, generation=generation, cost=cost, pid=attempt.pid)

    def last_used(self) -> float:
        """Return when a caller passed last, within 10 ms; 0 if nothing is kept open."""
        return self.scope.last_read()

    def let_go(self) -> None:
        """Keep nothing open for later callers."""
        self.last_guard = None
        self.scope.let_go()
        self.readers._let_go()

    def drawn_lifetime(self, expires_in: float | None = None) -> float | None:
        """Return the lifetime of a new version, drawn once for all processes; ``None``: only *expiretime*
        counts."""
        lifetime = sooner(self.expiretime, expires_in)
        if lifetime is not None and self.policy.jitter:
            lifetime *= 1.0 - drawn(0.0, self.policy.jitter)
        return None if lifetime == self.expiretime else lifetime

    def backoff_left(self, record: Record, now: float) -> float:
        """Return for how many seconds from *now* this object's callers do not create."""
        return record.backoff_left(now) if self.policy.backoff is not None else 0.0

    def passes_until(self, record: Record, now: float) -> float:
        """Return until which wall-clock time callers pass without an election; it may be over."""
        judgement, bound = self.judge(record, now), math.inf
        if self.host is not None:
            bound = self.host.ask_at(record, now)
        if judgement == "fresh":
            until = min(self.early_from(record), bound)
            return until if self.inputs is None else min(until, now + LOOK_EVERY)
        if judgement in NOTHING:
            return now
        until = now + max(self.next_election - monotonic(), self.backoff_left(record, now))
        if self.host is not None:
            until = max(until, self.host.others_create_until(record, now))
        return min(until, bound, record.expires_at(self.expiretime, self.max_stale))
