"""Row 7: many processes pass as fast as they can, the resource expires, and one of them creates: what do the
others notice?

A check counts that our lock lets every process pass while one creates, and must not depend on speed: the creation
lasts until every process has passed, however slow the machine; the patience of the crowd bounds it.
"""

from __future__ import annotations

import mmap
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import elections, peers
from benchmarks.measuring.harness import Crowd, Track, seconds
from benchmarks.measuring.measures import (
    COUNT,
    PER_SECOND,
    SECONDS,
    SHARE,
    Bar,
    Check,
    Figure,
    Plot,
    Ratio,
    Scenario,
    Spread,
    paired,
    ratio,
    rotated,
)

__all__ = ["Outcome", "Slice", "measure", "outcome", "scenario"]

FILELOCK_BY_HAND = f"{peers.FILELOCK}, by hand"
OURS = (peers.DOGPILE, peers.READER)
CONTENDERS = (*OURS, peers.OVER_FILELOCK, FILELOCK_BY_HAND)
BEFORE, DURING, KEPT, SLOWEST_BEFORE, SLOWEST_DURING, TIMES_SLOWER, CREATIONS = (
    "passes per second before",
    "during the creation",
    "kept",
    "slowest pass before",
    "slowest during",
    "times the slowest before",
    "creations",
)
KEPT_AT_LEAST, SLOWER_AT_MOST = 85.0, 2.0
_SLICE = 10_000_000
_SETTLE = 0.1  # seconds, until all processes run


@dataclass(frozen=True)
class Size:
    processes: int
    rounds: int
    #: Seconds before the expiry that are evaluated, and that the creator sleeps.
    window: float
    patience: float  # seconds, beside those


FULL = Size(processes=16, rounds=4, window=1.0, patience=20.0)
QUICK = Size(processes=16, rounds=1, window=0.3, patience=60.0)


@dataclass(frozen=True)
class Slice:
    """About ten milliseconds of one process: passes that began there. Moments in nanoseconds, times in seconds."""

    begin: int
    end: int
    passes: int
    slowest: float


@dataclass(frozen=True)
class Outcome:
    """The outcome of one expiry. Rates are passes per second, of all processes together."""

    creations: int
    before: float
    during: float
    slowest_before: float
    slowest_during: float
    #: Passes that began during the creation in the process with the fewest.
    fewest_during: int
    #: Seconds from the expiry, passes per second: for the picture.
    timeline: list[tuple[float, float]]
    #: When the creation began and ended, from the expiry.
    creation: tuple[float, float]


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    found: dict[str, list[Outcome]] = {}
    for number in range(size.rounds):
        for name in rotated(CONTENDERS, number):
            found.setdefault(name, []).append(_once(name, size, scratch))
    return [scenario(found, size)]


# Measuring


def _once(name: str, size: Size, scratch: Path) -> Outcome:
    path = str(Path(tempfile.mkdtemp(dir=scratch)) / "resource")
    # Shared: the stage of the round, and whether each process has passed since the creation began.
    board = mmap.mmap(-1, 1 + size.processes)
    peers.prepare(name)
    crowd = Crowd(scratch, patience=3 * size.window + size.patience)
    for number in range(size.processes):
        crowd.add(name, _pass_and_pass, name, path, size.window, board, 1 + number)
    return outcome(crowd.run(), size.window)


_NOTHING, _FRESH, _CREATING, _CREATED = range(4)


def _lifetime(window: float) -> float:
    return _SETTLE + window


def _pass_and_pass(track: Track, name: str, path: str, window: float, board: mmap.mmap, me: int) -> None:
    """Pass until the second creation is over. The first is at the beginning, and takes no time."""
    created = 0
    expiretime = _lifetime(window)

    def creator() -> None:
        nonlocal created
        created += 1
        if board[0] == _NOTHING:
            board[0] = _FRESH
            return
        track.mark("creation begins")
        board[0] = max(board[0], _CREATING)
        time.sleep(window)
        board[me] = True
        while name in OURS and not all(board[1:]):
            time.sleep(0.001)
        track.mark("creation ends")
        board[0] = _CREATED

    once = elections.ELECTIONS[name].open(path, creator, expiretime)
    clock = time.monotonic_ns
    slices: list[tuple[int, int, int, int]] = []
    track.reported["slices"] = slices
    begin = track.begin()
    end = begin + int((expiretime + window + _SETTLE) * 1e9)
    now = begin
    while now < end or board[0] != _CREATED:
        creating = board[0] == _CREATING  # before the moment is taken: then the slice lies in the creation
        slice_began = now = clock()
        slice_ends = now + _SLICE
        passes = slowest = 0
        while now < slice_ends:
            before = created
            once()
            after = clock()
            if created == before:  # a creation is no pass
                passes += 1
                if after - now > slowest:
                    slowest = after - now
            now = after
        slices.append((slice_began, now, passes, slowest))
        if creating and passes:
            board[me] = True


# Computing


def outcome(tracks: Sequence[Track], window: float) -> Outcome:
    """Return the outcome in the tracks of one expiry.

    A slice in which the creation begins or ends counts for neither rate; but its slowest pass counts as one during
    the creation, because a pass that the expiry delayed began before it. A creation that begins when the new
    version has expired again belongs to the next expiry: a process may be kept from running for so long.
    """
    begins = sorted(at for track in tracks for at in track.moments("creation begins"))
    ends = sorted(at for track in tracks for at in track.moments("creation ends"))
    if not begins or not ends:
        raise ValueError("no process created, or a process did not pass meanwhile")
    begin, end = begins[0], ends[0]
    early = begin - int(window * 1e9)
    before: list[Slice] = []
    during: list[Slice] = []
    touched: list[float] = []
    fewest = []
    everything: list[Slice] = []
    for track in tracks:
        slices = [Slice(b, e, passes, slowest / 1e9) for b, e, passes, slowest in track.reported["slices"]]
        everything += slices
        before += [one for one in slices if one.begin >= early and one.end <= begin]
        mine = [one for one in slices if one.begin >= begin and one.end <= end]
        during += mine
        touched += [one.slowest for one in slices if one.end > begin and one.begin < end]
        if not track.moments("creation begins"):
            fewest.append(sum(one.passes for one in mine))
    return Outcome(
        creations=sum(at < end + int(_lifetime(window) * 1e9) for at in begins),
        before=sum(one.passes for one in before) / seconds(early, begin),
        during=sum(one.passes for one in during) / seconds(begin, end),
        slowest_before=max((one.slowest for one in before), default=0.0),
        slowest_during=max(touched, default=0.0),
        fewest_during=min(fewest, default=0),
        timeline=_timeline(everything, begin),
        creation=(0.0, seconds(begin, end)),
    )


def _timeline(slices: Sequence[Slice], zero: int, bins: float = 0.05) -> list[tuple[float, float]]:
    """Return the passes per second in bins of so many seconds from *zero* on; a slice counts where its middle
    lies."""
    counts: dict[int, int] = {}
    for one in slices:
        middle = (one.begin + one.end) // 2
        number = int(seconds(zero, middle) // bins)
        counts[number] = counts.get(number, 0) + one.passes
    whole = range(min(counts) + 1, max(counts))  # the first and the last are not full
    return [((number + 0.5) * bins, counts.get(number, 0) / bins) for number in whole]


def scenario(found: dict[str, list[Outcome]], size: Size) -> Scenario:
    """Return the row, from the outcomes of each contender, round by round."""
    some = found[peers.DOGPILE][-1]
    row = Scenario(
        number=7,
        title="Expiry under load",
        setting=f"{size.processes} processes pass as fast as they can. After {size.window:g} s the resource "
        f"expires, and the elected process sleeps for {size.window:g} s in its creator.",
        ours=list(OURS),
        notes=[
            "With more processes than cores the slowest pass is one that was preempted; it is the same before and "
            "during, if the lock delays no process.",
            "FileLock by hand shows what a plain lock does here: a process that finds it stale waits.",
            "memoize_stampede does not take part: it creates at random moments before the expiry, in a thread.",
        ],
        plots=[
            Plot(
                "series",
                "Passes per second around an expiry",
                x="seconds from the beginning of the creation",
                y="passes per second",
                logarithmic=True,
                series={name: outcomes[-1].timeline for name, outcomes in found.items()},
                spans={"creation": some.creation},
            )
        ],
    )
    for name, outcomes in found.items():
        before = [one.before for one in outcomes]
        kept = Spread.of(100 * ratio(one.during, one.before) for one in outcomes)
        slower = Spread.of(one.slowest_during / max(one.slowest_before, 1e-9) for one in outcomes)
        for what, unit, spread in (
            (CREATIONS, COUNT, Spread.of(one.creations for one in outcomes)),
            (BEFORE, PER_SECOND, Spread.of(before)),
            (DURING, PER_SECOND, Spread.of(one.during for one in outcomes)),
            (KEPT, SHARE, kept),
            (SLOWEST_BEFORE, SECONDS, Spread.of(one.slowest_before for one in outcomes)),
            (SLOWEST_DURING, SECONDS, Spread.of(one.slowest_during for one in outcomes)),
            (TIMES_SLOWER, COUNT, slower),
        ):
            row.figures.append(Figure(name, what, unit, spread))
        if name != peers.DOGPILE:
            ours = [one.before for one in found[peers.DOGPILE]]
            row.ratios.append(Ratio(name, peers.DOGPILE, BEFORE, paired(before, ours)))
        if name in row.ours:
            row.bars += [
                Bar(f"{name}: at least {KEPT_AT_LEAST:g} % kept", KEPT_AT_LEAST, "at least", kept, SHARE),
                Bar(
                    f"{name}: slowest pass at most {SLOWER_AT_MOST:g} times the slowest before",
                    SLOWER_AT_MOST,
                    "at most",
                    slower,
                ),
            ]
            row.checks += [
                Check(
                    f"{name}: exactly one creation per expiry",
                    all(one.creations == 1 for one in outcomes),
                    ", ".join(str(one.creations) for one in outcomes),
                ),
                Check(
                    f"{name}: every process passes while one creates",
                    all(one.fewest_during > 0 for one in outcomes),
                    f"the least lucky {min(one.fewest_during for one in outcomes)} times",
                ),
            ]
    return row
