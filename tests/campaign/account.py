"""The histories of a round, taken together: creations, invalidations, stops, deaths, and harm by another program.

Only certain moments count. Between ``creating`` and ``created`` a creator certainly runs; when an operation has
ended, its effect is certainly there. An operation that has begun and not ended may have had its effect at any
moment since, or none.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from .history import Event, Operation

__all__ = ["LOOKED_AT", "MTIME_TICK", "Creation", "History"]

#: Seconds by which an mtime may be earlier than a reading of the clock before it: it is that of the kernel's last
#: tick.
MTIME_TICK = 0.02
#: Seconds for which a process may trust its last look at an input.
LOOKED_AT = 0.010

_IN_CREATOR = ("creating", "hanging", "raising", "exiting", "asking", "writing", "swapped", "written", "created")
_INVALIDATIONS = ("soft", "hard", "miss")


@dataclass(slots=True)
class Creation:
    """One run of a creator, for the operation *caller*; *maker* is the part of an operation with its events."""

    caller: Operation
    maker: Operation
    #: Whether a command made it, which outlives its caller.
    by_command: bool
    version: int
    began: Event
    #: The last moment at which it certainly ran.
    last: Event
    returned: bool
    #: When its version certainly was in place and stamped; None if that may not have happened.
    sure_at: float | None
    #: When its version certainly was in place.
    visible_at: float | None
    #: When it was certainly over, by the monotonic and by the wall clock.
    over_at: float
    over_wall: float


@dataclass(slots=True)
class History:
    """All events of one round."""

    operations: list[Operation]
    expiretime: float
    synced: bool = False
    #: Whether a clock was set.
    clocks: bool = False
    #: For files: whether a reader reads the version that it opened, however late. A directory is opened anew each
    #: time.
    opens: bool = True
    #: Seconds in which no caller tries again after a first failure, but for the jitter.
    backoff: float = 0.0
    #: Seconds past expiry for which readers get a version.
    max_stale: float = math.inf
    #: Whether a reader gets the old version where its own creation fails.
    tolerant: bool = False
    #: How many keys the pattern has of which this is one; 0: it is no key.
    keys: int = 0
    #: How many failures the status tells after the round.
    failures_at_last: int | None = None
    creations: list[Creation] = field(default_factory=list)
    _by_version: dict[int, Creation] = field(default_factory=dict)
    _by_caller: dict[int, Creation] = field(default_factory=dict)
    _visible_at: list[float] = field(default_factory=list)
    _newest: list[Creation] = field(default_factory=list)
    _deaths: dict[str, Event] = field(default_factory=dict)
    _stops: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    #: What another program harmed: looked for at each read, of which there are thousands.
    _harm: list[Operation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._note_what_the_nemeses_did()
        self._harm = list(self.of("tamper"))
        commands: dict[tuple[str, int], Operation] = {}
        for operation in self.operations:
            creating = operation.event("creating")
            if creating is not None and "for_process" in creating.more:
                commands[creating.more["for_process"], creating.more["for_op"]] = operation
        for operation in self.operations:
            if "for_process" not in operation.began.more and operation.do != "creator":
                maker = commands.get((operation.process, operation.op), operation)
                self.creations += self._creations_of(operation, maker)
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

    def _creations_of(self, caller: Operation, maker: Operation) -> Iterator[Creation]:
        """Yield all creations of one operation.

        It creates again if another creation ran at the same time, if the version is gone before it was opened, or
        if the version expires before a block inside the block.
        """
        begin = [number for number, event in enumerate(maker.events) if event.what == "creating"]
        for since, until in pairwise([*begin, None]):
            run = Operation(maker.process, maker.op, maker.events[since:until])
            told_by = run if maker is caller or until is not None else caller
            next_one = None if until is None else maker.events[until]
            yield self._creation(caller, run, told_by, next_one, by_command=maker is not caller)

    def _creation(
        self, caller: Operation, run: Operation, told_by: Operation, next_one: Event | None, *, by_command: bool
    ) -> Creation:
        """Return the creation with the events of *run*.

        :param told_by: has the events that tell that it was over.
        :param next_one: the beginning of the operation's next creation.
        """
        creating, created = run.began, run.event("created")
        if created is not None and self._got_the_old_version(caller, told_by, creating):
            created = None
        swapped = run.event("swapped")
        # A command outlives the process that started it.
        told = run.event("stamped") or run.event("counted-as-failure")
        over = told_by.ended or next_one or told or (None if by_command else self._deaths.get(caller.process))
        sure = None
        if created is not None:
            after = [
                told_by.event("entered"),
                told_by.event("refreshed"),
                told if told is not None and told.what == "stamped" else None,
                told_by.ended if caller.went_well else None,
            ]
            exited = told_by.event("exited")
            if exited is not None:
                after = [exited if exited.more["status"] == 0 else None]
            sure = min((event.at for event in after if event is not None and event.at > created.at), default=None)
        return Creation(
            caller,
            run,
            by_command,
            creating.more["version"],
            creating,
            [event for event in run.events if event.what in _IN_CREATOR][-1],
            created is not None,
            sure,
            swapped.at if swapped is not None else sure,
            math.inf if over is None else over.at,
            math.inf if over is None else over.wall,
        )

    def _got_the_old_version(self, caller: Operation, told_by: Operation, creating: Event) -> bool:
        """Return whether the creator has returned, and then its version could not be put in place."""
        may_fail = (
            caller.began.more.get("timeout") is not None  # the swap waits for readers
            or bool(caller.began.more.get("starved"))
            or self.tampered("directory", creating.at, self.end_of(caller))
        )
        read = [event.more["version"] for event in told_by.events if event.what in ("read", "loaded")]
        return self.tolerant and may_fail and bool(read) and max(read) < creating.more["version"]

    def end_of(self, operation: Operation) -> float:
        """Return when it was certainly over."""
        ended = operation.ended or self._deaths.get(operation.process)
        return math.inf if ended is None else ended.at

    def left_at(self, operation: Operation) -> float:
        """Return when its caller had certainly left; what it has begun may go on."""
        return self.end_of(operation) if operation.cancelled is None else operation.cancelled.at

    def of(self, *dos: str) -> Iterator[Operation]:
        return (operation for operation in self.operations if operation.do in dos)

    def tampered(self, file: str, since: float, until: float) -> bool:
        """Return whether another program may have harmed *file* (or its directory) in that time."""
        return self.tamperings(file, since, until) > 0

    def tamperings(self, file: str, since: float, until: float, how: str = "") -> int:
        """Return how often, or how often *how*."""
        return sum(
            operation.began.more["file"] in (file, "directory")
            and (not how or operation.began.more["how"] == how)
            and operation.began.at <= until
            and self.end_of(operation) >= since
            for operation in self._harm
        )

    def invalidated(self, since: float, until: float, *dos: str) -> bool:
        """Return whether an invalidation, or harm with the same effect, may have happened in that time."""
        return self.tampered("sidecar", since, until) or any(
            operation.began.at <= until and self.end_of(operation) >= since
            for operation in self.of(*(dos or _INVALIDATIONS))
        )

    def may_be_pruned(self, creation: Creation | None, since: float, until: float) -> bool:
        """Return whether a ``prune`` may have removed the version of *creation*, or any, in that time."""
        return any(
            prune.began.at <= until and self.end_of(prune) >= since and self._may_remove(prune, creation)
            for prune in self.of("prune")
        )

    def _may_remove(self, prune: Operation, creation: Creation | None) -> bool:
        pruned, pruning, ended = prune.event("pruned"), prune.event("pruning"), prune.ended
        if pruning is None or (pruned is not None and pruned.more["gone"] == 0):
            return False
        older_than = pruning.more.get("older_than")
        if older_than is None or creation is None or self.clocks or ended is None:
            return True
        # Of one that is not stamped, or whose stamp was harmed, the file's mtime counts.
        is_stamped = creation.sure_at is not None and not self.tampered("sidecar", creation.began.at, ended.at)
        created = creation.last.wall if is_stamped else creation.began.wall - MTIME_TICK
        return bool(created + older_than < ended.wall)

    def stopped_for(self, process: str, since: float, until: float) -> float:
        """Return for how many seconds *process* was stopped in that time."""
        return sum(max(0.0, min(until, end) - max(since, begin)) for begin, end in self._stops.get(process, ()))

    def inputs_in(self, since: float, until: float) -> set[str]:
        """Return the states of the input that there may have been in that time, those in the middle of a change
        included.
        """
        states, state, came = set(), "first", -math.inf
        for change in self.of("input"):
            began, ended = change.began.at, self.end_of(change)
            if came <= until and ended >= since:
                states.add(state)
            if began <= until and ended >= since:
                states.add(f"change {change.op}")
            state, came = change.began.more["state"], began
        if came <= until:
            states.add(state)
        return states

    def created_by(self, operation: Operation) -> Creation | None:
        """Return the last creation of *operation*."""
        return self._by_caller.get(id(operation))

    def creation_of(self, version: int) -> Creation | None:
        return self._by_version.get(version)

    def crossed_since(self, creation: Creation) -> float:
        """Return when it was requested, or, if earlier, another creation that ran at the same time."""
        return min(
            other.caller.began.at
            for other in self.creations
            if other.began.at <= creation.last.at and other.last.at >= creation.caller.began.at
        )

    def newest_before(self, at: float) -> Creation | None:
        """Return the newest of the creations that were certainly in place."""
        number = bisect_left(self._visible_at, at)
        return self._newest[number - 1] if number else None

    def failed_creations(self) -> Iterator[Creation]:
        """Yield the creations that certainly were counted as failures, by their callers or the next ones."""
        for creation in self.creations:
            if creation.by_command:
                continue  # a command may have been ended, which counts as nothing
            raised, died = creation.maker.event("raising"), self._deaths.get(creation.caller.process)
            if raised is not None and not creation.returned:
                if creation.caller.ended is not None or creation.caller.event("counted-as-failure") is not None:
                    yield creation
            elif creation.caller.cancelled is not None or self.created_by(creation.caller) is not creation:
                continue  # how it ended is not known
            elif not creation.returned and creation.caller.ended is None and died is not None:
                yield creation

    def may_be_too_old(self, creation: Creation, wall: float, at: float) -> bool:
        """Return whether readers may not get its version any more at a moment."""
        return (
            self.clocks
            or creation.began.wall + self.expiretime + self.max_stale <= wall
            or (self.max_stale < math.inf and self.invalidated(creation.caller.began.at, at))
            or (self.max_stale < math.inf and len(self.inputs_in(creation.caller.began.at - LOOKED_AT, at)) > 1)
        )

    def between(self, events: Iterable[Event]) -> list[Event]:
        """Return all events from the first to the last of *events* in the operations that they belong to."""
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
