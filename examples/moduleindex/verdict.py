"""The verdict over a record: was there one creation per expiry, and did nobody fail, wait or tear?

Pure: events in, faults out. Each rule is a function that yields a sentence per fault. None has a
tolerance in milliseconds: the events of the record are written *inside* what they tell of (the
block, the swap, the creator), so two intervals that overlap on record did overlap, on however slow
a machine. Where the record leaves a doubt (a killed process tells no end), the doubt is the
accused's.
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
    """One run of the creator: what is known of it, in monotonic nanoseconds."""

    version: int
    pid: int
    begin: Event
    built: int | None  # asked for the write lock
    swap: tuple[int, int] | None
    swapped: bool  # the swap's end is on record, too
    end: Event | None
    finished: bool  # its request got inside, so the stamp had been written
    over: int  # nobody's creator may have run before this; a killed one ended when it was killed


@dataclass(frozen=True)
class Story:
    """A record, brought into order."""

    requests: Mapping[str, Request]
    repeated: Sequence[str]
    kills: Mapping[int, Kill]

    @classmethod
    def of(cls, events: Iterable[Event], kills: Iterable[Kill] = ()) -> Story:
        """Bring *events* into order; *kills* are those that the test is to blame for."""
        requests: dict[str, dict[Kind, Event]] = defaultdict(dict)
        repeated = []
        for event in sorted(events, key=lambda event: event.monotonic):
            if event.kind in requests[event.request]:
                repeated.append(f"request {event.request} did {event.kind} twice")
            requests[event.request].setdefault(event.kind, event)
        return cls(requests, repeated, {kill.pid: kill for kill in kills})

    def died(self, pid: int) -> int:
        """When *pid* was still alive for certain, if it was killed; else never."""
        return self.kills[pid].asked if pid in self.kills else _NEVER

    @cached_property
    def creations(self) -> list[Creation]:
        """All runs of the creator, killed ones among them, in the order of their begin."""
        found = []
        for request in self.requests.values():
            if begin := request.get("creation-begin"):
                end, asked = request.get("creation-end"), request.get("swap-ask")
                died = self.died(begin.pid)
                swap, swap_end = None, request.get("swap-end")
                if swap_begin := request.get("swap-begin"):
                    swap = (swap_begin.monotonic, swap_end.monotonic if swap_end else died)
                found.append(
                    Creation(
                        version=begin.version,
                        pid=begin.pid,
                        begin=begin,
                        built=asked.monotonic if asked else None,
                        swap=swap,
                        swapped=swap_end is not None,
                        end=end,
                        finished=end is not None and "enter" in request,
                        over=end.monotonic if end else died,
                    )
                )
        return sorted(found, key=lambda creation: creation.begin.monotonic)

    @cached_property
    def finished(self) -> list[Creation]:
        """The creations that nobody killed."""
        return [creation for creation in self.creations if creation.finished]

    @cached_property
    def in_place(self) -> list[tuple[int, frozenset[int]]]:
        """Since when which version may be in place: one, or two after a kill in the swap itself."""
        places = [(-1, frozenset({0}))]
        for creation in self.creations:
            if creation.swap:
                before = frozenset() if creation.swapped else places[-1][1]
                places.append((creation.swap[1], before | {creation.version}))
        return places

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
        """How many requests came in the first half of a build, and so could have been made wait."""
        return sum(1 for _ in _beside(self))


_NEVER = 2**63


def _in_place(story: Story, moment: int) -> frozenset[int]:
    return [versions for since, versions in story.in_place if since < moment][-1]


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
            yield f"{name} did not finish, and nobody killed it"
        if previous and creation.begin.monotonic < previous.over:
            yield f"{name} began while {previous.pid} was creating version {previous.version}"
        if fresh_since is not None and creation.begin.time - fresh_since < expire:
            age = creation.begin.time - fresh_since
            yield f"{name} began when the datafile was {age:.3f} s old, fresh for {expire:g} s"
        before = _in_place(story, creation.begin.monotonic)
        if creation.version - 1 not in before:
            yield f"{name} came after version {_either(before)}"
        if creation.finished and creation.end:
            seen = story.createdtimes.get(creation.version, -1.0)
            fresh_since = max(creation.end.time, seen)
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
    """After the first creation, no request waited for somebody else's creator.

    To have waited is to have asked in the first half of a build and to be let in only after its
    end. On a loaded machine a process that is ready may get no processor for a while, but hardly
    for half a build that itself needed the processor. The time from the end of the build to the end
    of the swap does not count: there readers are held for the swap's sake.
    """
    for name, acquire, enter, creation in _beside(story):
        if enter > (creation.built or _NEVER):
            yield (
                f"request {name} waited {_seconds(enter - acquire)} for the creation of "
                f"version {creation.version} by {creation.pid}"
            )


def _beside(story: Story) -> Iterator[tuple[str, int, int, Creation]]:
    """The requests that asked in the first half of another's build, when they got in, and which."""
    for creation in story.finished[1:]:
        begin, built = creation.begin.monotonic, creation.built or 0
        for name, request in story.requests.items():
            if "acquire" in request and "enter" in request and "creation-begin" not in request:
                acquire, enter = request["acquire"].monotonic, request["enter"].monotonic
                if begin <= acquire <= begin + (built - begin) // 2:
                    yield name, acquire, enter, creation


def nobody_inside_during_a_swap(story: Story, expire: float) -> Iterator[str]:
    """No request was inside its block while a creator was inside ``acquire_write_lock()``."""
    for name, request in story.requests.items():
        if "enter" not in request:
            continue
        enter = request["enter"].monotonic
        leave = request["leave"].monotonic if "leave" in request else story.died(request["enter"].pid)
        for creation in story.creations:
            if creation.swap and enter < creation.swap[1] and creation.swap[0] < leave:
                yield (
                    f"request {name} was inside its block while {creation.pid} "
                    f"swapped in version {creation.version}"
                )


def no_torn_datafile(story: Story, expire: float) -> Iterator[str]:
    """Each request read one whole datafile: that of the last swap before it entered."""
    for name, request in story.requests.items():
        if "enter" not in request or "leave" not in request:
            continue
        leave = request["leave"]
        current = _in_place(story, request["enter"].monotonic)
        if leave.fault:
            yield f"request {name} found the datafile torn: {leave.fault}"
        elif leave.version not in current:
            yield (f"request {name} read version {leave.version} when version {_either(current)} was in place")


Rule = Callable[[Story, float], Iterator[str]]

RULES: Sequence[Rule] = (
    one_creation_per_expiry,
    no_failed_request,
    nobody_waited,
    nobody_inside_during_a_swap,
    no_torn_datafile,
)


def faults(story: Story, expire: float) -> list[str]:
    """All that is wrong by the record, one sentence each; empty when every rule was kept."""
    return [fault for rule in RULES for fault in rule(story, expire)]


def client_faults(story: Story, answers: Iterable[Answer]) -> Iterator[str]:
    """What went wrong on the clients' side that the kills do not explain.

    A killed worker takes with it the requests that it had accepted. A client's failure is laid to a
    kill only when the request was on its way before that worker was gone, failed after the kill,
    and is on nobody's record but the killed worker's, or (accepted, but not yet read) on none at
    all. All others count, and nothing is tried again.
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
