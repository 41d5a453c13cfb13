"""Row 13: processes ask all the time, and the creator takes seconds: how many requests does an expiry hold up?

The peers have different answers: a request may run the creator itself, or a thread may, and it may begin before
the expiry. So what counts is the time in which the next value is overdue or being made.
"""

from __future__ import annotations

import mmap
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.contenders import peers
from benchmarks.contenders.backgrounds import BACKGROUNDS, Creator
from benchmarks.measuring.harness import Crowd, Track, seconds
from benchmarks.measuring.measures import COUNT, SECONDS, Bar, Check, Figure, Plot, Scenario, Spread, rotated

__all__ = ["Outcome", "Size", "measure", "outcome", "scenario"]

OURS = (peers.PROCESS, peers.THREAD)
CREATIONS, REQUESTS, WAITED, FAILED, SLOWEST = "creations", "requests", "waited", "failed", "slowest request"
#: Seconds by which a request is slower than a usual one, if it has waited. Preemption takes less.
LONG = 0.1
#: Seconds between two requests of a process. Without it the processes would wait for the processors.
_PAUSE = 0.002


@dataclass(frozen=True)
class Size:
    processes: int
    rounds: int
    creation: float  # seconds
    patience: float  # seconds, beside those of the round

    @property
    def expiretime(self) -> float:
        # Longer than a creation: one that began with the last value would else be late.
        return 1.5 * self.creation


FULL = Size(processes=8, rounds=3, creation=3.0, patience=30.0)
QUICK = Size(processes=4, rounds=1, creation=1.0, patience=60.0)


@dataclass(frozen=True)
class Outcome:
    """The requests from one expiry, or from the creation if that began before, until the new value is there."""

    #: Creations that began before the new value was there.
    creations: int
    requests: int
    waited: int
    failed: int
    slowest: float  # seconds
    #: The error of one that failed; empty if none did.
    error: str


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    there = [name for name in BACKGROUNDS if peers.is_installed(name)]
    found: dict[str, list[Outcome]] = {name: [] for name in there}
    for number in range(size.rounds):
        for name in rotated(there, number):
            found[name].append(_once(name, size, scratch))
    return [scenario(found, size)]


# Measuring


def _once(name: str, size: Size, scratch: Path) -> Outcome:
    place = Path(tempfile.mkdtemp(dir=scratch))
    creator = Creator(place / "begun", size.creation)
    board = mmap.mmap(-1, 1)  # shared: whether there is a value
    peers.prepare(name)
    crowd = Crowd(scratch, patience=size.expiretime + 2 * size.creation + size.patience)
    for number in range(size.processes):
        crowd.add(name, _ask_and_ask, name, place, creator, size.expiretime, board, number == 0)
    tracks = crowd.run()
    begun = [int(line) for line in creator.begun.read_text().split()]
    return outcome(tracks, begun, size.expiretime)


def _ask_and_ask(
    track: Track, name: str, place: Path, creator: Creator, expiretime: float, board: mmap.mmap, is_first: bool
) -> None:
    """Ask until there is another value than the one that the first process has made before all begin."""
    if is_first:
        ask = BACKGROUNDS[name](place, creator, expiretime)
        ask()
        board[0] = True
    else:
        while not board[0]:
            time.sleep(0.001)
        ask = BACKGROUNDS[name](place, creator, expiretime)
    requests: list[tuple[int, int, str]] = []
    values: list[list[int]] = []
    track.reported.update(requests=requests, values=values)
    track.begin()
    _ask_until_new(ask, requests, values)


def _ask_until_new(
    ask: Callable[[], list[int]], requests: list[tuple[int, int, str]], values: list[list[int]]
) -> None:
    clock = time.monotonic_ns
    while len(values) < 2:
        error = ""
        began = clock()
        try:
            value = ask()
        except Exception as raised:
            error = type(raised).__name__
        requests.append((began, clock(), error))
        if not error and value not in values:
            values.append(value)
        time.sleep(_PAUSE)


# Computing


def outcome(tracks: Sequence[Track], begun: Sequence[int], expiretime: float) -> Outcome:
    """Return the outcome in the tracks of one expiry, with the moments at which creations have *begun*.

    :raises ValueError: if no process has got another value.
    """
    values = sorted((value for track in tracks for value in track.reported["values"]), key=lambda value: value[1])
    old = values[0]
    new = next((value for value in values if value != old), None)
    if new is None:
        raise ValueError("no process has got another value")
    since, until = min(old[1] + int(expiretime * 1e9), new[0]), new[1]
    every = [request for track in tracks for request in track.reported["requests"]]
    usual = median([ended - began for began, ended, _ in every if ended <= since] or [0])
    of_interest = [request for request in every if request[1] > since and request[0] < until]
    errors = [error for _, _, error in of_interest if error]
    return Outcome(
        creations=sum(old[1] <= at < until for at in begun),
        requests=len(of_interest),
        waited=sum(ended - began > usual + LONG * 1e9 for began, ended, _ in of_interest),
        failed=len(errors),
        slowest=max((seconds(began, ended) for began, ended, _ in of_interest), default=0.0),
        error=errors[0] if errors else "",
    )


def scenario(found: dict[str, list[Outcome]], size: Size) -> Scenario:
    """Return the row, from the outcomes of each contender, round by round."""
    row = Scenario(
        number=13,
        title="A slow creator",
        setting=f"{size.processes} processes ask for a value, each every {1000 * _PAUSE:g} ms. The value expires "
        f"after {size.expiretime:g} s, and its creator takes {size.creation:g} s. Counted are the requests from "
        "the expiry until the new value is there, or from the beginning of its creation where that came before "
        f"the expiry. A request that took {1000 * LONG:g} ms more than a usual one has waited.",
        ours=list(OURS),
        notes=[
            "With dogpile.cache, the request that is elected runs the creator; the others get the old value.",
            "memoize_stampede begins before the expiry, in a thread, at a moment that it draws at each request. "
            "The more requests there are, and the slower the creator is, the earlier: here soon after the last "
            "creation. Where no request comes before the expiry, all that come after it run the creator.",
            "cachier with next_time starts a thread, and removes its mark that the value is being made as soon as "
            "the thread is queued: later requests start more. Its requests lock a file, for which they wait in "
            "steps of 0.25 s.",
            "A creation in a thread ends with its process. One in a process of its own does not.",
        ],
        plots=[Plot("bars", "Requests that an expiry holds up", WAITED, x="requests")],
    )
    missing = [name for name in BACKGROUNDS if name not in found]
    if missing:
        row.notes.append(f"Not installed here: {', '.join(missing)}.")
    for name, outcomes in found.items():
        waited = Spread.of(one.waited for one in outcomes)
        failed = Spread.of(one.failed for one in outcomes)
        row.figures += [
            Figure(name, CREATIONS, COUNT, Spread.of(one.creations for one in outcomes)),
            Figure(name, REQUESTS, COUNT, Spread.of(one.requests for one in outcomes)),
            Figure(name, WAITED, COUNT, waited),
            Figure(name, FAILED, COUNT, failed),
            Figure(name, SLOWEST, SECONDS, Spread.of(one.slowest for one in outcomes)),
        ]
        errors = sorted({one.error for one in outcomes if one.error})
        if errors:
            row.notes.append(f"{name}: the requests that failed raised {', '.join(errors)}.")
        if name not in OURS:
            continue
        row.bars += [
            Bar(f"{name}: no request waits", 0, "at most", waited),
            Bar(f"{name}: no request fails", 0, "at most", failed),
        ]
        row.checks += [
            Check(
                f"{name}: exactly one creation per expiry",
                all(one.creations == 1 for one in outcomes),
                ", ".join(str(one.creations) for one in outcomes),
            ),
            Check(
                f"{name}: no request fails",
                not any(one.failed for one in outcomes),
                ", ".join(str(one.failed) for one in outcomes),
            ),
        ]
    return row
