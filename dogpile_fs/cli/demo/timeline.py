"""What several processes did with one datafile, as a timeline: events in, spans of time and rows of cells out.

Pure: no I/O and no clock of its own. Times are seconds since the demo began. A row of cells has one state per cell
at most; a picture is drawn from the exact spans.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

__all__ = [
    "BACKGROUND",
    "LEGEND",
    "Attempt",
    "Event",
    "Outcome",
    "Span",
    "State",
    "Timeline",
    "What",
    "label_of",
    "name_of",
    "ticks",
]

#: Stands for a worker's number: the process that creates in the background. There is one at a time.
BACKGROUND: Final = 0

What = Literal["asks", "creates", "raises", "swaps", "placed", "reads", "leaves", "killed", "ends", "fails"]
#: How a pass came to read: it found a fresh version, found a stale one, waited for the first, or created.
Outcome = Literal["", "fresh", "stale", "waited", "created"]
#: The states of a worker; those of the datafile are ``fresh``, ``stale`` and ``missing``.
State = Literal["pause", "wait", "fresh", "stale", "create", "raise", "swap", "killed", "missing"]

#: What the states of a worker mean, in the order of the legend.
LEGEND: Final[dict[State, str]] = {
    "fresh": "reads, fresh",
    "stale": "reads, stale",
    "pause": "pauses",
    "wait": "waits",
    "create": "creates",
    "raise": "fails",
    "swap": "swaps, once readers have left",
    "killed": "killed (SIGKILL)",
}

#: The state that an event begins; after any other event a worker has none.
_STATE_AFTER: Final[dict[What, State]] = {
    "asks": "wait",
    "creates": "create",
    "raises": "raise",
    "swaps": "swap",
    "reads": "fresh",
    "leaves": "pause",
    "killed": "killed",
}

#: The cell in which one of these begins shows it, however short it is; the first of them before the others.
_MARKS: Final[tuple[State, ...]] = ("killed", "raise", "swap", "create")

#: Seconds between the ticks of an axis.
_STEPS: Final = (1, 2, 5, 10)


@dataclass(frozen=True, slots=True)
class Event:
    """What a *worker* (from 1, or :data:`BACKGROUND`) did *at* that many seconds.

    *version*: the version that is created or read. Of ``creates`` in the background: *elected*, the worker that
    started it. Of ``reads``: *outcome*; *waited*, the seconds since the worker asked. Of ``placed``, the end of a
    creation in the background, and of ``reads`` by the worker that created the version: *age*, the seconds since
    its createdtime. Of ``leaves``: *torn*, whether the worker has read a mixture of versions. Of ``raises``, a
    creation that failed as planned, and ``fails``, which was not planned: *why*.
    """

    at: float
    worker: int
    what: What
    version: int = 0
    outcome: Outcome = ""
    waited: float = 0.0
    age: float = 0.0
    torn: bool = False
    why: str = ""
    elected: int = 0

    @property
    def is_in_place(self) -> bool:
        """Whether its version has just been put in place."""
        return self.what == "placed" or self.outcome == "created"


@dataclass(frozen=True, slots=True)
class Span:
    """The *state* of a worker, or of a *version* of the datafile, from *begin* to *end*."""

    begin: float
    end: float
    state: State
    version: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of the creator in *worker*, from the time *began* on.

    *built*: when the creator returned and the swap was next; ``None``: it did not return. *ended*: when the swap
    was over, the creator raised, or the worker was killed or failed; infinite while it runs. *last*: the event
    that ended it. *succeeded*: whether its version was swapped in. *elected*: the worker that started it in the
    background.
    """

    worker: int
    version: int
    began: float
    built: float | None = None
    ended: float = math.inf
    last: What = "creates"
    succeeded: bool = False
    elected: int = 0


class Timeline:
    """The events of *workers* processes, numbered from 1, on a datafile that is stale after *expiretime*.

    After a creation that failed, no worker tries again for *backoff* seconds.
    """

    def __init__(
        self, workers: int, expiretime: float, events: Iterable[Event] = (), *, backoff: float = 0.0
    ) -> None:
        self.workers = workers
        self.expiretime = expiretime
        self.backoff = backoff
        self._events: defaultdict[int, list[Event]] = defaultdict(list)
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Add the next event of its worker."""
        self._events[event.worker].append(event)

    def events(self, *whats: What) -> list[Event]:
        """Return all events, or those of these kinds, in the order in which they happened."""
        found = (e for events in self._events.values() for e in events if not whats or e.what in whats)
        return sorted(found, key=lambda event: event.at)

    @property
    def rows(self) -> list[int]:
        """The workers, and :data:`BACKGROUND` as soon as it has done something."""
        return [*range(1, self.workers + 1), *([BACKGROUND] if BACKGROUND in self._events else [])]

    @property
    def waiting(self) -> int:
        """How many workers have asked and are not yet inside, now."""
        return sum(events[-1].what == "asks" for events in self._events.values())

    @property
    def end(self) -> float:
        """When the last event happened; 0 before the first."""
        return max((events[-1].at for events in self._events.values()), default=0.0)

    def spans(self, worker: int, now: float) -> list[Span]:
        """Return what *worker* did until *now*, without gaps from its first event to its end."""
        spans: list[Span] = []
        events = self._events[worker]
        for event, end in zip(events, [other.at for other in events[1:]] + [now], strict=False):
            state = _STATE_AFTER.get(event.what)
            if state is not None and event.at < min(end, now):
                spans.append(Span(event.at, min(end, now), "stale" if event.outcome == "stale" else state))
        return spans

    def attempts(self) -> list[Attempt]:
        """Return all runs of the creator, in the order in which they began."""
        attempts: list[Attempt] = []
        for events in self._events.values():
            running: Attempt | None = None
            for event in events:
                if event.what == "creates":
                    running = Attempt(event.worker, event.version, event.at, elected=event.elected)
                elif running is not None and event.what == "swaps":
                    running = replace(running, built=event.at)
                elif running is not None and event.what in ("reads", "placed", "raises", "killed", "fails"):
                    attempts.append(replace(running, ended=event.at, last=event.what, succeeded=event.is_in_place))
                    running = None
            if running is not None:
                attempts.append(running)
        return sorted(attempts, key=lambda attempt: attempt.began)

    def path_states(self, now: float) -> list[Span]:
        """Return the states of the datafile from 0 to *now*, without gaps; ``missing`` has version 0."""
        swapped = [event for event in self.events("reads", "placed") if event.is_in_place]
        ends = [event.at for event in swapped] + [now]
        states = [Span(0.0, ends[0], "missing")]
        for event, end in zip(swapped, ends[1:], strict=True):
            stale = min(max(event.at, event.at - event.age + self.expiretime), end)
            states.append(Span(event.at, stale, "fresh", event.version))
            states.append(Span(stale, end, "stale", event.version))
        return [state for state in states if state.begin < state.end]

    def cells(self, worker: int, columns: int, end: float, now: float) -> list[State | None]:
        """Return what *worker* did, in *columns* cells that share the time from 0 to *end*.

        A cell shows the state that filled most of it; a death, a swap or a creation that began in it comes first.
        ``None``: no state (before the first event, after the worker's end, after *now*).
        """
        width = end / columns
        filled: list[defaultdict[State, float]] = [defaultdict(float) for _ in range(columns)]
        for span in self.spans(worker, min(now, end)):
            first = min(columns - 1, int(span.begin / width))
            last = min(columns - 1, max(first, math.ceil(span.end / width) - 1))
            if span.state in _MARKS:
                filled[first][span.state] = (len(_MARKS) - _MARKS.index(span.state)) * end  # more than any time
            if span.state != "killed":  # a death is a moment
                for cell in range(first, last + 1):
                    filled[cell][span.state] += min(span.end, (cell + 1) * width) - max(span.begin, cell * width)
        return [max(states.items(), key=lambda item: item[1])[0] if states else None for states in filled]

    @property
    def starter(self) -> Event | None:
        """The event of the first creation in the background, if there was one; its worker is *elected*."""
        return next((event for event in self._events.get(BACKGROUND, ()) if event.what == "creates"), None)

    def death(self, worker: int) -> Event | None:
        """Return the event of *worker* being killed, if it was."""
        return next((event for event in self._events[worker] if event.what == "killed"), None)


def label_of(worker: int) -> str:
    """Return the name of the row of *worker*."""
    return "background" if worker == BACKGROUND else f"worker {worker}"


def name_of(worker: int) -> str:
    """Return the name of *worker* in a sentence."""
    return "the background process" if worker == BACKGROUND else f"worker {worker}"


def ticks(end: float, most: int) -> list[float]:
    """Return the round seconds from 0 to *end* that an axis names: at most *most*, where a step allows it.

    >>> ticks(12, 7)
    [0, 2, 4, 6, 8, 10, 12]
    """
    step = next((step for step in _STEPS if end / step + 1 <= most), _STEPS[-1])
    return [number * step for number in range(int(end / step) + 1)]
