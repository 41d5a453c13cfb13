"""What is known of a resource at one moment, for people and for monitoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._sidecar.record import Record, State

__all__ = ["Status"]


@dataclass(frozen=True, slots=True)
class Status:
    """*state*: ``"fresh"``, ``"stale"`` or ``"nothing"``. *age*: seconds since the creator finished. *remaining*:
    seconds until it is stale: 0 if it is not fresh, ``None`` if it never will be stale by time. *createdtime*:
    epoch seconds. *generation*: creations so far. *cost*: seconds that the last creator ran. *host*, *pid*: who
    ran it. *invalidated*: ``"soft"``, ``"hard"`` or ``None``. *creating*: whether someone creates now;
    *creating_host*, *creating_pid*, *creating_since* (epoch seconds): who. *failed_host*, *failed_pid*,
    *failed_since*: who began the last creation, and when, if it ended without a result. *expiretime*: seconds
    that the last creator went by, or before the first, who has begun (``None``: never, or unknown). *about*: size
    (of a directory: less than 0), mtime in ns and inode of what the stamp describes, and the generation that it
    came with (negative: it is not stamped yet).

    What only a creation tells is ``None`` before the first.
    """

    state: State
    age: float | None
    remaining: float | None
    createdtime: float | None
    generation: int
    cost: float | None
    host: str | None
    pid: int | None
    invalidated: Literal["soft", "hard"] | None
    creating: bool
    creating_host: str | None
    creating_pid: int | None
    creating_since: float | None
    failed_host: str | None
    failed_pid: int | None
    failed_since: float | None
    expiretime: float | None
    about: tuple[int, int, int, int] | None

    @classmethod
    def of(cls, record: Record, now: float, expiretime: float | None, *, creating: bool) -> Status:
        """The status of what *record* tells at wall-clock time *now*."""
        state = record.state(now, expiretime)
        remaining = None if expiretime is None else max(0.0, record.basis + expiretime - now)
        known = record.createdtime > 0
        by_creator = known and record.host != ""  # else a foreign hand put it there
        nobody = (None, None, None)
        creator = record.attempt if creating and record.attempt else nobody
        failed = record.attempt if not creating and record.attempt else nobody
        return cls(
            state=state,
            age=now - record.createdtime if known else None,
            remaining=remaining if state == "fresh" else 0.0,
            createdtime=record.createdtime if known else None,
            generation=record.generation,
            cost=record.cost if record.generation else None,
            host=record.host if by_creator else None,
            pid=record.pid if by_creator else None,
            invalidated=record.invalidated,
            creating=creating,
            creating_host=creator[0],
            creating_pid=creator[1],
            creating_since=creator[2],
            failed_host=failed[0],
            failed_pid=failed[1],
            failed_since=failed[2],
            expiretime=record.expiretime,
            about=record.about,
        )
