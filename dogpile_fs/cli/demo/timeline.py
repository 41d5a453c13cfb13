"""What several processes did with one datafile, as a timeline: events in, spans of time and rows of cells out.

Pure: no I/O and no clock of its own. Times are seconds since the demo began. A row of cells has no more than one
state per cell; the exact spans are what a picture is drawn from.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

__all__ = [
    "LEGEND",
    "Attempt",
    "Event",
    "Outcome",
    "Passed",
    "Span",
    "Stand",
    "State",
    "Timeline",
    "What",
    "ticks",
]

What = Literal["asks", "creates", "swaps", "reads", "leaves", "killed", "ends", "fails"]
#: How a pass came to read: past a fresh version, past a stale one, after a wait for the first, by creating.
Outcome = Literal["", "fresh", "stale", "waited", "created"]
Ending = Literal["running", "done", "killed", "failed"]
State = Literal["pause", "wait", "fresh", "stale", "create", "swap", "killed"]

#: What the states are, in the order in which a legend tells them.
LEGEND: Final[dict[State, str]] = {
    "fresh": "reads, fresh",
    "stale": "reads, stale",
    "pause": "pauses",
    "wait": "waits",
    "create": "creates",
    "swap": "swaps, once readers have left",
    "killed": "killed (SIGKILL)",
}

#: By which event an attempt is over, and how.
_ENDINGS: Final[dict[What, Ending]] = {"reads": "done", "killed": "killed", "fails": "failed"}

#: However short they are, the cell in which they begin shows them, the first of these before the others.
_MARKS: Final[tuple[State, ...]] = ("killed", "swap", "create")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a *worker* (from 1) did *at* that many seconds.

    *version*: which is created or read. *outcome*: of who ``reads``. *age*: of the version when its creator
    ``reads`` it, in seconds since its createdtime. *torn*: whether who ``leaves`` had read a mixture. *why*: of
    who ``fails``.
    """

    at: float
    worker: int
    what: What
    version: int = 0
    outcome: Outcome = ""
    age: float = 0.0
    torn: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A worker's *state* from *begin* to *end*."""

    begin: float
    end: float
    state: State


@dataclass(frozen=True, slots=True)
class Stand:
    """What stood at the datafile's path from *begin* to *end*; no *version* while there was nothing yet."""

    begin: float
    end: float
    state: Literal["nothing", "fresh", "stale"]
    version: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of the creator. *built*: when it had returned and the swap was asked for. *ended*: when the swap
    was over, or when its worker died. Neither is known (``None``) of one that still runs."""

    worker: int
    version: int
    began: float
    built: float | None = None
    ended: float | None = None
    how: Ending = "running"


@dataclass(frozen=True, slots=True)
class Passed:
    """One pass of a *worker*: when it *asked*, and when it was inside (*entered*)."""

    worker: int
    asked: float
    entered: float
    outcome: Outcome
    version: int


def _state_after(event: Event) -> State | None:
    match event.what:
        case "asks":
            return "wait"
        case "creates":
            return "create"
        case "swaps":
            return "swap"
        case "reads":
            return "stale" if event.outcome == "stale" else "fresh"
        case "leaves":
            return "pause"
        case "killed":
            return "killed"
        case "ends" | "fails":
            return None


class Timeline:
    """The events of *workers* processes, numbered from 1, on a datafile that is stale after *expiretime*."""

    def __init__(self, workers: int, expiretime: float, events: Iterable[Event] = ()) -> None:
        self.workers = workers
        self.expiretime = expiretime
        self._events: defaultdict[int, list[Event]] = defaultdict(list)
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Take up the next event of its worker."""
        self._events[event.worker].append(event)

    def events(self, *whats: What) -> list[Event]:
        """All events, or those of these kinds, in the order in which they happened."""
        found = (e for events in self._events.values() for e in events if not whats or e.what in whats)
        return sorted(found, key=lambda event: event.at)

    @property
    def waiting(self) -> int:
        """How many workers have asked and are not yet inside, now."""
        return sum(events[-1].what == "asks" for events in self._events.values())

    @property
    def end(self) -> float:
        """When the last event happened; 0 before the first."""
        return max((events[-1].at for events in self._events.values()), default=0.0)

    def spans(self, worker: int, now: float) -> list[Span]:
        """What *worker* did until *now*, without gaps from its first event to its end."""
        spans: list[Span] = []
        began, state = 0.0, None
        for event in self._events[worker]:
            if event.at >= now:
                break
            if state is not None and event.at > began:
                spans.append(Span(began, event.at, state))
            began, state = event.at, _state_after(event)
        if state is not None and now > began:
            spans.append(Span(began, now, state))
        return spans

    def attempts(self) -> list[Attempt]:
        """All runs of the creator, in the order in which they began."""
        attempts: list[Attempt] = []
        for events in self._events.values():
            running: Attempt | None = None
            for event in events:
                if event.what == "creates":
                    running = Attempt(event.worker, event.version, event.at)
                elif running is not None and event.what == "swaps":
                    running = replace(running, built=event.at)
                elif running is not None and event.what in _ENDINGS:
                    attempts.append(replace(running, ended=event.at, how=_ENDINGS[event.what]))
                    running = None
            if running is not None:
                attempts.append(running)
        return sorted(attempts, key=lambda attempt: attempt.began)

    def passes(self) -> list[Passed]:
        """All passes that got inside, in the order in which they did."""
        passes: list[Passed] = []
        for events in self._events.values():
            asked = 0.0
            for event in events:
                if event.what == "asks":
                    asked = event.at
                elif event.what == "reads":
                    passes.append(Passed(event.worker, asked, event.at, event.outcome, event.version))
        return sorted(passes, key=lambda passed: passed.entered)

    def stands(self, now: float) -> list[Stand]:
        """What stood at the datafile's path, from 0 to *now*, without gaps."""
        swapped = [event for event in self.events("reads") if event.outcome == "created"]
        stands: list[Stand] = []
        if now > 0:
            stands.append(Stand(0.0, swapped[0].at if swapped else now, "nothing"))
        ends = [event.at for event in swapped[1:]] + [now]
        for event, end in zip(swapped, ends, strict=False):
            stale = min(max(event.at, event.at - event.age + self.expiretime), end)
            stands.append(Stand(event.at, stale, "fresh", event.version))
            if stale < end:
                stands.append(Stand(stale, end, "stale", event.version))
        return [stand for stand in stands if stand.begin < stand.end]

    def cells(self, worker: int, columns: int, end: float, now: float) -> list[State | None]:
        """What *worker* did, in *columns* cells that share the time from 0 to *end*.

        A cell shows what filled most of it, but for what began in it and must not be overlooked: a death, a swap,
        a creation. ``None``: nothing (before its first event, after its end, after *now*).
        """
        width = end / columns
        filled: list[defaultdict[State, float]] = [defaultdict(float) for _ in range(columns)]
        cells: list[State | None] = [None] * columns
        rank = len(_MARKS)
        ranks = [rank] * columns
        for span in self.spans(worker, min(now, end)):
            first = min(columns - 1, int(span.begin / width))
            last = min(columns - 1, max(first, math.ceil(span.end / width) - 1))
            if span.state == "killed":
                last = first  # a moment
            if span.state in _MARKS and (rank := _MARKS.index(span.state)) < ranks[first]:
                cells[first], ranks[first] = span.state, rank
            for cell in range(first, last + 1):
                covered = min(span.end, (cell + 1) * width) - max(span.begin, cell * width)
                filled[cell][span.state] += covered
        for cell, states in enumerate(filled):
            if cells[cell] is None and states:
                cells[cell] = max(states, key=states.__getitem__)
        return cells

    def death(self, worker: int) -> Event | None:
        """The event of *worker* being killed, if it was."""
        return next((event for event in self._events[worker] if event.what == "killed"), None)


def ticks(end: float, most: int, steps: Sequence[float] = (1, 2, 5, 10)) -> list[float]:
    """The round seconds from 0 up to *end* that an axis names, at most *most* of them if that can be.

    >>> ticks(12, 7)
    [0, 2, 4, 6, 8, 10, 12]
    """
    step = next((step for step in steps if end / step + 1 <= most), steps[-1])
    return [number * step for number in range(int(end / step) + 1)]
