"""The verdict over a record: one creation per expiry, and no request failed, waited or read a torn index.

Pure: events in, faults out. Each rule is a function that yields a sentence per fault. None has a
tolerance in milliseconds: the events of the record are written *inside* the block or the creator that
they describe, so two intervals that overlap on record did overlap, on however slow a machine.
Where the record leaves a doubt (a killed process records no end), no fault is found.

The library swaps, and does not record it. The swap came after its version was "built", and before a request read
that version. The readers prove that no reader was inside meanwhile: each opens the datafile by its name twice,
first and last in its block, and finds one version; as every swap brings a higher one, there was none in between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from moduleindex.crowd import Answer
from moduleindex.record import Event, Kind
from moduleindex.server import Kill

#: What one request did: its event of each kind.
Request = Mapping[Kind, Event]


@dataclass(frozen=True)
class Creation:
    """One run of the creator: the facts about it, in monotonic nanoseconds."""

    version: int
    pid: int
    begin: Event
    built: Event | None
    done: int | None  # since when its version was in place for certain
    finished: bool  # its request got inside, so the stamp had been written
    over: int  # no other creator may have run before this; a killed one ended when it was killed


@dataclass(frozen=True)
class Story:
    """A record, brought into order."""

    requests: Mapping[str, Request]
    repeated: Sequence[str]
    kills: Mapping[int, Kill]

    @classmethod
    def of(cls, events: Iterable[Event], kills: Iterable[Kill] = ()) -> Story:
        """Bring *events* into order; *kills* are those that the test has made."""
        requests: dict[str, dict[Kind, Event]] = defaultdict(dict)
        repeated = []
        for event in sorted(events, key=lambda event: event.monotonic):
            if event.kind in requests[event.request]:
                repeated.append(f"request {event.request} did {event.kind} twice")
            requests[event.request].setdefault(event.kind, event)
        return cls(requests, repeated, {kill.pid: kill for kill in kills})

    def died(self, pid: int) -> int:
        """Return until when *pid* was certainly alive, if it was killed; else never."""
        return self.kills[pid].asked if pid in self.kills else _NEVER

    @cached_property
    def creations(self) -> list[Creation]:
        """Return all runs of the creator, killed ones among them, in the order of their begin."""
        found = []
        for request in self.requests.values():
            if begin := request.get("creation-begin"):
                built, end = request.get("built"), request.get("creation-end")
                seen = [end.monotonic] if end else []
                if built:
                    seen += [at for at, version in self.readings if version == begin.version]
                found.append(
                    Creation(
                        version=begin.version,
                        pid=begin.pid,
                        begin=begin,
                        built=built,
                        done=min(seen, default=None),
                        finished=end is not None,
                        over=built.monotonic if built else self.died(begin.pid),
                    )
                )
        return sorted(found, key=lambda creation: creation.begin.monotonic)

    @cached_property
    def readings(self) -> list[tuple[int, int]]:
        """Return when a request had read which version."""
        leaves = [request["leave"] for request in self.requests.values() if "leave" in request]
        return [(leave.monotonic, leave.version) for leave in leaves]

    @cached_property
    def finished(self) -> list[Creation]:
        """Return the creations that were not killed."""
        return [creation for creation in self.creations if creation.finished]

    def in_place(self, since: int, until: int) -> set[int]:
        """Return the versions that may have been in place at some time between *since* and *until*."""
        known = [c.version for c in self.creations if c.done is not None and c.done <= since]
        latest = max(known, default=0)
        possible = {c.version for c in self.creations if c.built and c.built.monotonic < until}
        return {latest} | {version for version in possible if version > latest}

    @cached_property
    def createdtimes(self) -> Mapping[int, float]:
        """Per version the createdtime that requests saw with it.

        Between a swap and its stamp a request sees the new version with the old createdtime: the
        latest seen counts.
        """
        seen: dict[int, float] = {}
        for request in self.requests.values():
            if "enter" in request and "leave" in request:
                version = request["leave"].version
                seen[version] = max(seen.get(version, -1.0), request["enter"].createdtime)
        return seen

    @cached_property
    def passes_beside_a_creation(self) -> int:
        """Return how many requests came in the first half of a build, and so could have been made wait."""
        return sum(1 for _ in _beside(self))


_NEVER = 2**63


def _either(versions: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(versions)))


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:.3f} s"


def one_creation_per_expiry(story: Story, expire: float) -> Iterator[str]:
    """Creations never overlap, none begins before the datafile is stale, none is lost."""
    yield from story.repeated
    previous: Creation | None = None
    fresh_since = None
    for creation in story.creations:
        name = f"creation of version {creation.version} by {creation.pid}"
        if not creation.finished and creation.pid not in story.kills:
            yield f"{name} did not finish, and was not killed"
        if previous and creation.begin.monotonic < previous.over:
            yield f"{name} began while {previous.pid} was creating version {previous.version}"
        if fresh_since is not None and creation.begin.time - fresh_since < expire:
            age = creation.begin.time - fresh_since
            yield f"{name} began when the datafile was {age:.3f} s old, fresh for {expire:g} s"
        before = story.in_place(creation.begin.monotonic, creation.begin.monotonic)
        if creation.version - 1 not in before:
            yield f"{name} came after version {_either(before)}"
        if creation.finished and creation.built:
            seen = story.createdtimes.get(creation.version, -1.0)
            fresh_since = max(creation.built.time, seen)
        if previous is None or creation.over > previous.over:
            previous = creation


def no_failed_request(story: Story, expire: float) -> Iterator[str]:
    """Each request was answered with 200, but for those that died with their worker."""
    for name, request in story.requests.items():
        pid = next(iter(request.values())).pid
        if answer := request.get("answer"):
            if answer.status != 200:
                fault = request["leave"].fault if "leave" in request else ""
                yield f"request {name} was answered with {answer.status}: {fault}"
        elif pid not in story.kills:
            yield f"request {name} to worker {pid} was never answered"


def nobody_waited(story: Story, expire: float) -> Iterator[str]:
    """After the first creation, no request waited for the creator of another request.

    A request has waited if it came in the first half of a build and was let in only after its end. On a loaded
    machine a process that is ready may get no processor for a while, but hardly for half a build that itself
    needed the processor. The time from the end of the build to the end of the swap does not count: there readers
    may be held for the swap.
    """
    for name, acquire, enter, creation in _beside(story):
        if creation.built and enter > creation.built.monotonic:
            yield (
                f"request {name} waited {_seconds(enter - acquire)} for the creation of "
                f"version {creation.version} by {creation.pid}"
            )


def _beside(story: Story) -> Iterator[tuple[str, int, int, Creation]]:
    """Return the requests that came in the first half of another's build, when they got in, and which."""
    for creation in story.finished[1:]:
        if creation.built is None:
            continue
        begin, built = creation.begin.monotonic, creation.built.monotonic
        for name, request in story.requests.items():
            if "acquire" in request and "enter" in request and "creation-begin" not in request:
                acquire, enter = request["acquire"].monotonic, request["enter"].monotonic
                if begin <= acquire <= begin + (built - begin) // 2:
                    yield name, acquire, enter, creation


def nobody_inside_during_a_swap(story: Story, expire: float) -> Iterator[str]:
    """No request was inside its block while a version was swapped in.

    A request that found two versions in its block records so itself. For one that was killed inside it, it is
    certain only if it came before the version was built and lived until another request had read it.
    """
    for name, request in story.requests.items():
        if "enter" not in request:
            continue
        enter, leave = request["enter"], request.get("leave")
        if leave and leave.version != leave.last:
            yield (
                f"request {name} was inside its block while version {leave.version} became version {leave.last}"
            )
        left = leave.monotonic if leave else story.died(enter.pid)
        for creation in story.creations:
            if creation.built and enter.monotonic < creation.built.monotonic and (creation.done or _NEVER) < left:
                yield (
                    f"request {name} was inside its block while {creation.pid} "
                    f"swapped in version {creation.version}"
                )


def no_torn_datafile(story: Story, expire: float) -> Iterator[str]:
    """Each request read one whole datafile: one that was in place while it was inside its block."""
    for name, request in story.requests.items():
        if "enter" not in request or "leave" not in request:
            continue
        enter, leave = request["enter"], request["leave"]
        current = story.in_place(enter.monotonic, leave.monotonic)
        if leave.fault:
            yield f"request {name} found the datafile torn: {leave.fault}"
        elif leave.version not in current:
            yield f"request {name} read version {leave.version} when version {_either(current)} was in place"


Rule = Callable[[Story, float], Iterator[str]]

RULES: Sequence[Rule] = (
    one_creation_per_expiry,
    no_failed_request,
    nobody_waited,
    nobody_inside_during_a_swap,
    no_torn_datafile,
)


def faults(story: Story, expire: float) -> list[str]:
    """Return all faults by the record, one sentence each; empty when every rule was kept."""
    return [fault for rule in RULES for fault in rule(story, expire)]


def client_faults(story: Story, answers: Iterable[Answer]) -> Iterator[str]:
    """Return the failures on the clients' side that the kills do not explain.

    A killed worker takes with it the requests that it had accepted. A client's failure is due to a kill only when
    the request was on its way before that worker was gone, failed after the kill, and is on the record of no
    process but the killed worker, or (accepted, but not yet read) on none at all. All others count, and nothing is
    tried again.
    """
    for answer in answers:
        request = story.requests.get(answer.request, {})
        if answer.status:
            if answer.status != 200:
                yield f"{answer.request} got {answer.status}: {answer.failure}"
            elif "answer" not in request:
                yield f"{answer.request} got an answer that is on no worker's record"
            continue
        pids = {event.pid for event in request.values()} or set(story.kills)
        explained = any(
            kill.pid in pids and answer.sent < kill.gone and kill.asked < answer.ended
            for kill in story.kills.values()
        )
        if not explained:
            yield f"{answer.request} failed, and no kill explains it: {answer.failure}"
