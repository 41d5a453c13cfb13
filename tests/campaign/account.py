"""What the histories of a round tell together: who created what when, who was stopped or killed, and what a
foreign hand did meanwhile.

Told are certain moments only. Between ``creating`` and ``created`` a creator certainly runs; when an operation has
ended, its effect certainly is there. Of one that has begun and not ended, nobody knows when it took effect, or
whether.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from .history import Event, Operation

__all__ = ["Creation", "History"]

_IN_CREATOR = ("creating", "hanging", "raising", "exiting", "asking", "writing", "swapped", "written", "created")
_INVALIDATIONS = ("soft", "hard", "miss")


@dataclass(slots=True)
class Creation:
    """One run of a creator, for the operation *caller*; *maker*: where its own events are."""

    caller: Operation
    maker: Operation
    version: int
    began: Event
    #: The last moment at which it certainly ran.
    last: Event
    returned: bool
    #: When its version certainly was in place and stamped; None if that may not have happened.
    sure_at: float | None
    #: When its version certainly was in place.
    visible_at: float | None
    #: When it certainly was over, by the monotonic and by the wall clock.
    over_at: float
    over_wall: float


@dataclass(slots=True)
class History:
    """What happened in one round."""

    operations: list[Operation]
    expiretime: float
    synced: bool = False
    #: Whether a clock was set.
    clocks: bool = False
    #: Of files: whether what was opened is what is read, whenever that is.
    opens: bool = True
    creations: list[Creation] = field(default_factory=list)
    _by_version: dict[int, Creation] = field(default_factory=dict)
    _by_caller: dict[int, Creation] = field(default_factory=dict)
    _visible_at: list[float] = field(default_factory=list)
    _newest: list[Creation] = field(default_factory=list)
    _deaths: dict[str, Event] = field(default_factory=dict)
    _stops: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._note_what_the_nemeses_did()
        commands: dict[tuple[str, int], Operation] = {}
        for operation in self.operations:
            creating = operation.event("creating")
            if creating is not None and "for_process" in creating.more:
                commands[creating.more["for_process"], creating.more["for_op"]] = operation
        for operation in self.operations:
            maker = commands.get((operation.process, operation.op), operation)
            creating = maker.event("creating")
            if creating is not None and "for_process" not in operation.began.more and operation.do != "creator":
                self.creations.append(self._creation(operation, maker, creating))
        self.creations.sort(key=lambda creation: creation.began.at)
        self._by_version = {creation.version: creation for creation in self.creations}
        self._by_caller = {id(creation.caller): creation for creation in self.creations}
        visible = sorted(
            (c for c in self.creations if c.visible_at is not None), key=lambda c: c.visible_at or 0.0
        )
        self._visible_at = [creation.visible_at or 0.0 for creation in visible]
        self._newest = list(accumulate(visible, _newer))

    def _note_what_the_nemeses_did(self) -> None:
        stopped: dict[str, float] = {}
        for operation in self.operations:
            for event in operation.events:
                process = event.more.get("process", "")
                if event.what == "reaped":
                    self._deaths[process] = event
                elif event.what == "stopped":
                    stopped[process] = event.at
                elif event.what == "continued" and process in stopped:
                    self._stops.setdefault(process, []).append((stopped.pop(process), event.at))
        for process, since in stopped.items():
            self._stops.setdefault(process, []).append((since, math.inf))

    def _creation(self, caller: Operation, maker: Operation, creating: Event) -> Creation:
        # The last one: a creation that another crossed is repeated.
        creating = [event for event in maker.events if event.what == "creating"][-1]
        created = next(
            (event for event in maker.events if event.what == "created" and event.at > creating.at), None
        )
        swapped = maker.event("swapped")
        # A command outlives the process that started it.
        over = caller.ended or (self._deaths.get(caller.process) if maker is caller else None)
        sure = None
        if created is not None:
            after = [
                caller.event("entered"),
                caller.event("refreshed"),
                caller.ended if caller.went_well else None,
            ]
            exited = caller.event("exited")
            if exited is not None:
                after = [exited if exited.more["status"] == 0 else None]
            sure = min((event.at for event in after if event is not None and event.at > created.at), default=None)
        return Creation(
            caller,
            maker,
            creating.more["version"],
            creating,
            [event for event in maker.events if event.what in _IN_CREATOR][-1],
            created is not None,
            sure,
            swapped.at if swapped is not None else sure,
            math.inf if over is None else over.at,
            math.inf if over is None else over.wall,
        )

    def end_of(self, operation: Operation) -> float:
        """When it certainly was over."""
        ended = operation.ended or self._deaths.get(operation.process)
        return math.inf if ended is None else ended.at

    def of(self, *dos: str) -> Iterator[Operation]:
        return (operation for operation in self.operations if operation.do in dos)

    def tampered(self, file: str, since: float, until: float) -> bool:
        """Whether a foreign hand may have done something to *file* (or its directory) in that time."""
        return self.tamperings(file, since, until) > 0

    def tamperings(self, file: str, since: float, until: float) -> int:
        """How often."""
        return sum(
            operation.began.more["file"] in (file, "directory")
            and operation.began.at <= until
            and self.end_of(operation) >= since
            for operation in self.of("tamper")
        )

    def invalidated(self, since: float, until: float, *dos: str) -> bool:
        """Whether somebody may have invalidated in that time, or a foreign hand have had the same effect."""
        return self.tampered("sidecar", since, until) or any(
            operation.began.at <= until and self.end_of(operation) >= since
            for operation in self.of(*(dos or _INVALIDATIONS))
        )

    def stopped_for(self, process: str, since: float, until: float) -> float:
        """How long *process* was stopped in that time."""
        return sum(max(0.0, min(until, end) - max(since, begin)) for begin, end in self._stops.get(process, ()))

    def created_by(self, operation: Operation) -> Creation | None:
        return self._by_caller.get(id(operation))

    def creation_of(self, version: int) -> Creation | None:
        return self._by_version.get(version)

    def crossed_since(self, creation: Creation) -> float:
        """Since when it, or one that ran at the same time by a foreign hand's doing, was asked for."""
        return min(
            other.caller.began.at
            for other in self.creations
            if other.began.at <= creation.last.at and other.last.at >= creation.caller.began.at
        )

    def newest_before(self, at: float) -> Creation | None:
        """The newest creation of those that certainly were in place."""
        number = bisect_left(self._visible_at, at)
        return self._newest[number - 1] if number else None

    def between(self, events: Iterable[Event]) -> list[Event]:
        """All that happened from the first to the last of *events* in the operations that they belong to."""
        concerned = {(event.process, event.op) for event in events}
        first, last = min(event.at for event in events), max(event.at for event in events)
        return sorted(
            (
                event
                for operation in self.operations
                if (operation.process, operation.op) in concerned
                for event in operation.events
                if first <= event.at <= last
            ),
            key=lambda event: event.at,
        )


def _newer(one: Creation, other: Creation) -> Creation:
    return max(one, other, key=lambda creation: creation.version)
