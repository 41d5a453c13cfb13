"""What is known of a resource at one moment, for people and for monitoring."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from time import time
from typing import Literal

from .._os.process_identity import Identity, has_ended
from .._sidecar.fingerprint import FILE
from .._sidecar.record import DIED, Attempt, Record, State, cleaned_host, sooner
from .shared_state import SharedState

__all__ = ["Status", "creator_in", "status_in"]


@dataclass(frozen=True, slots=True)
class Status:
    """The answer of ``status()``. What only a creation tells is ``None`` before the first.

    *state*: ``"fresh"``, ``"stale"``, ``"expired"`` (too old for any reader) or ``"missing"``. *age*: seconds
    since the creator finished. *remaining*: seconds until it is stale: 0 if it is not fresh, ``None`` if time
    never makes it stale. *fresh_until*: the epoch seconds of that moment, or ``None``. *createdtime*: epoch
    seconds. *generation*: creations so far. *version*: which version is in place; every swap makes another.
    *resource*: ``"file"`` or ``"directory"`` if the file at the path is looked at, else ``None``. *cost*: seconds
    that the last creator ran. *host*, *pid*: the process that ran it; ``None`` if another program put the file
    there. *invalidated*: ``"soft"``, ``"hard"`` or ``None``. *creating*: whether a creator runs now;
    *creating_host*, *creating_pid*, *creating_since* (epoch seconds): in which process, since when. *expiretime*:
    seconds after which the last creator's process called it stale, or before the first creation, that of the
    process that has begun it (``None``: never, or unknown). *unlinked*: whether the file at the path has no name
    any more, because it is mounted by itself (in a container) and was replaced where it comes from. Later versions
    are not seen here: mount its directory instead.

    *failures*: creations in a row that have failed, or died, since the last one that succeeded; *failures_total*:
    how many in all. *failed_since*, *failed_at*: epoch seconds of the first and of the last in a row.
    *failed_type*: the name of the last error's type, or ``"died"``. *failed_pid*: the process of the last.
    *retry_at*: epoch seconds of the next attempt; ``None`` if it need not wait. *overdue*: whether the creation
    that runs now is past its deadline, or has taken ten times as long as the last one.

    *max_stale*: seconds past expiry after which no reader gets it (``None``: it may be of any age). *content*: the
    SHA-256 of the file in hexadecimal digits, where an origin knows it (of a directory: that of its manifest).

    *origin*: the URL of the origin; ``None`` without one. *origin_asked_at*: epoch seconds of its last answer.
    *origin_down_since*: epoch seconds since when it does not answer; ``None`` if it does.
    """

    state: State
    age: float | None
    remaining: float | None
    fresh_until: float | None
    createdtime: float | None
    generation: int
    version: tuple[int, ...] | None
    resource: Literal["file", "directory"] | None
    cost: float | None
    host: str | None
    pid: int | None
    invalidated: Literal["soft", "hard"] | None
    creating: bool
    creating_host: str | None
    creating_pid: int | None
    creating_since: float | None
    failures: int
    failures_total: int
    failed_since: float | None
    failed_at: float | None
    failed_type: str | None
    retry_at: float | None
    failed_pid: int | None
    expiretime: float | None
    unlinked: bool = False
    overdue: bool = False
    origin: str | None = None
    origin_asked_at: float | None = None
    origin_down_since: float | None = None
    max_stale: float | None = None
    content: str | None = None

    @classmethod
    def _of(cls, record: Record, now: float, shared: SharedState, *, creating: bool) -> Status:
        """Return the status that *record* means at wall-clock time *now*, for the users of *shared*."""
        judgement = shared.judge(record, now)
        state: State = "fresh" if judgement == "early" else judgement
        fresh_until = record.fresh_until(shared.expiretime)
        is_created = record.createdtime > 0
        has_creator = is_created and record.host != ""
        creator = record.attempt if creating and not _has_died(record.attempt) else None
        dead = None if creator is not None else record.attempt
        if dead is not None:
            record = record.failed(dead, dead.since, DIED, 0.0)
        fingerprint = record.fingerprint
        return cls(
            state=state,
            age=now - record.createdtime if is_created else None,
            remaining=0.0 if state != "fresh" else None if fresh_until == math.inf else fresh_until - now,
            fresh_until=fresh_until if is_created and fresh_until < math.inf else None,
            createdtime=record.createdtime if is_created else None,
            generation=record.generation,
            version=record.version if record.has_value else None,
            resource=None if fingerprint is None else "file" if fingerprint.kind == FILE else "directory",
            cost=record.cost if record.generation else None,
            host=record.host if has_creator else None,
            pid=record.pid if has_creator else None,
            invalidated=record.invalidated,
            creating=creating,
            creating_host=creator and creator.host,
            creating_pid=creator and creator.pid,
            creating_since=creator and creator.since,
            failures=record.failures,
            failures_total=record.failures_total,
            failed_since=record.first_failed_at,
            failed_at=record.failed_at,
            failed_type=record.failed_type or None,
            retry_at=record.retry_at,
            failed_pid=record.failed_pid or None,
            expiretime=record.expiretime,
            overdue=creator is not None and record.is_overdue(now),
            max_stale=sooner(shared.max_stale, record.max_stale),
            content=record.content if record.has_value else None,
        )


def _has_died(attempt: Attempt | None) -> bool:
    """Return whether *attempt* has died though the mutex is locked, by a creator that is not on record yet."""
    return (
        attempt is not None
        and attempt.kind != "process"  # one that is handed over begins in one process and goes on in another
        and attempt.host == cleaned_host(os.uname().nodename)
        and has_ended(attempt.pid, Identity(attempt.boot, attempt.pid_ns, attempt.start))
    )


def status_in(shared: SharedState) -> Status:
    """Return the status now, without waiting, for the users of *shared*."""
    scope = shared.scope
    record = scope.read()
    creating = scope.mutex.locked()
    if record.attempt is not None and not creating:
        # An attempt is dead if it is on record before and after a look that finds the mutex free. It may have
        # ended between the two calls, or another may have begun.
        later = scope.read()
        creating, record = later.attempt not in (None, record.attempt), later
    status = Status._of(record, time(), shared, creating=creating)
    if shared.host is None:
        return status
    watch = shared.host.scope.last_watch()
    return replace(
        status,
        origin=shared.host.scope.origin.url,
        origin_asked_at=watch.asked_at,
        origin_down_since=watch.down_since,
    )


def creator_in(status: Status) -> str:
    """Return a clause that tells which process creates, for the error of a caller that has waited in vain."""
    if not status.creating:
        return "no process creates it"
    if status.creating_since is None:
        return "its mutex is locked, and no creation is on record"
    seconds = f"has been creating it for {max(0.0, time() - status.creating_since):.1f} s"
    if (status.creating_host, status.creating_pid) == (cleaned_host(os.uname().nodename), os.getpid()):
        return f"this process, by another thread or task, {seconds}"
    return f"process {status.creating_pid} on {status.creating_host} {seconds}"
