"""What a trial has seen, as the judge reads it: reads, creations, requests to the origin, and faults."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..history import Operation

__all__ = ["FOR_EVER", "Creation", "Harm", "Read", "Request", "State", "Tale", "tale_of"]

#: The end of an operation that has none: its process died.
FOR_EVER = float("inf")


@dataclass(frozen=True)
class State:
    """The head of an origin. *sha*: of the version that it names; *published*: the nonces of the last
    publications, the latest first; *attempt*: that of the attempt on record. All are empty for an empty origin.
    """

    lineage: str = ""
    generation: int = 0
    sha: str = ""
    published: tuple[str, ...] = ()
    attempt: str = ""


@dataclass(frozen=True)
class Request:
    """A request about the head. *what*: ``look`` or ``swap``; *state*: the head that was read, or that is to be
    written; *tag*: of the head that is to be replaced; *answer*: ``won``, ``lost``, ``down``, ``found``,
    ``unchanged``, or "" if there was none; *new_tag*: of the head that was found or written.
    """

    process: str
    what: str
    began: float
    ended: float
    answer: str
    state: State | None = None
    tag: str = ""
    new_tag: str = ""

    @property
    def tells(self) -> State | None:
        """The head that the origin had at a moment of this request; ``None`` if it does not say."""
        return self.state if self.answer in ("won", "found") else None


@dataclass(frozen=True)
class Creation:
    """*sha*: of what the creator wrote. *is_fenced*: the process has said that its result was dropped."""

    process: str
    began: float
    ended: float
    sha: str
    is_fenced: bool = False


@dataclass(frozen=True)
class Read:
    """*sha*: of what was read; "" if it failed. *error*: the type of the exception. *worked*: its process created,
    fetched, or wrote to the origin meanwhile.
    """

    host: str
    process: str
    began: float
    ended: float
    sha: str = ""
    error: str = ""
    message: str = ""
    worked: bool = False


@dataclass(frozen=True)
class Harm:
    """*what*: ``killed`` or ``stopped`` (a process), or ``loss``: the origin has lost what it had."""

    what: str
    began: float
    ended: float
    process: str = ""


@dataclass(frozen=True)
class Tale:
    """*ttl*: of the origin, in seconds. *is_unfit*: the server ignores conditions. *has_settled*: whether all
    hosts had one version in time, when the fault was over.
    """

    reads: tuple[Read, ...] = ()
    creations: tuple[Creation, ...] = ()
    requests: tuple[Request, ...] = ()
    harms: tuple[Harm, ...] = ()
    ttl: float = 1.0
    is_unfit: bool = False
    has_settled: bool = True


def tale_of(operations: Iterable[Operation], *, ttl: float, is_unfit: bool, has_settled: bool) -> Tale:
    """Return what *operations* tell; those of the trial itself are its harms."""
    operations = list(operations)
    requests, creations, harms = list[Request](), list[Creation](), list[Harm]()
    busy: dict[str, list[tuple[float, float]]] = {}
    for op in operations:
        began, ended, more = op.began, op.ended, op.began.more
        until = FOR_EVER if ended is None else ended.at
        answer = {} if ended is None else ended.more
        if op.do in ("look", "swap"):
            told = more if op.do == "swap" else answer
            requests.append(
                Request(
                    op.process,
                    op.do,
                    began.at,
                    until,
                    answer.get("answer", ""),
                    _state(told.get("state")),
                    more.get("tag") or "",
                    answer.get("tag", ""),
                )
            )
        elif op.do == "create":
            is_fenced = op.event("fenced") is not None
            creations.append(Creation(op.process, began.at, until, more["sha"], is_fenced))
        elif op.do == "harm":
            harms.append(Harm(more["harm"], began.at, until, more.get("of", "")))
        if op.do in ("swap", "get", "put", "now", "create") and not more.get("beats"):
            busy.setdefault(op.process, []).append((began.at, until))
    reads = []
    for op in operations:
        if op.do != "read":
            continue
        until = FOR_EVER if op.ended is None else op.ended.at
        answer = {} if op.ended is None else op.ended.more
        worked = any(one <= until and op.began.at <= other for one, other in busy.get(op.process, ()))
        host, error = op.process[:2], answer.get("error", "")
        message = answer.get("message", "")
        reads.append(Read(host, op.process, op.began.at, until, answer.get("sha", ""), error, message, worked))
    return Tale(tuple(reads), tuple(creations), tuple(requests), tuple(harms), ttl, is_unfit, has_settled)


def _state(told: dict[str, Any] | None) -> State | None:
    return None if told is None else State(**{**told, "published": tuple(told.get("published", ()))})
