"""What is known of a resource at one moment, for people and for monitoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .record import Record, State

__all__ = ["Status"]


@dataclass(frozen=True, slots=True)
class Status:
    """*state*: ``"fresh"``, ``"stale"`` or ``"nothing"``. *age*: seconds since the creator finished. *remaining*:
    seconds until it is stale: 0 if it is not fresh, ``None`` if it never will be stale by time. *createdtime*:
    epoch seconds. *generation*: creations so far. *cost*: seconds that the last creator ran. *host*, *pid*: who
    ran it. *invalidated*: ``"soft"``, ``"hard"`` or ``None``. *creating*: whether someone creates now.

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

    @classmethod
    def of(cls, record: Record, now: float, expiretime: float | None, *, creating: bool) -> Status:
        """The status of what *record* tells at wall-clock time *now*."""
        state = record.state(now, expiretime)
        remaining = None if expiretime is None else max(0.0, record.basis + expiretime - now)
        known = record.createdtime > 0
        return cls(
            state=state,
            age=now - record.createdtime if known else None,
            remaining=remaining if state == "fresh" else 0.0,
            createdtime=record.createdtime if known else None,
            generation=record.generation,
            cost=record.cost if known else None,
            host=record.host if known else None,
            pid=record.pid if known else None,
            invalidated=record.invalidated,
            creating=creating,
        )
