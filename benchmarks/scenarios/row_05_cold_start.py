"""Row 5: many processes come at once and there is no version yet: one creates, how soon are the others through?"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import elections, peers
from benchmarks.measuring.harness import Crowd, Track, seconds
from benchmarks.measuring.measures import (
    COUNT,
    SECONDS,
    Bar,
    Check,
    Figure,
    Plot,
    Ratio,
    Scenario,
    Spread,
    paired,
    percentile,
    rotated,
)

__all__ = ["Outcome", "measure", "outcome", "scenario"]

CONTENDERS = (
    peers.DOGPILE,
    peers.OVER_FILELOCK,
    peers.DBM,
    peers.STAMPEDE,
    *(f"{name}, by hand" for name in (peers.FLOCK, peers.PORTALOCKER, peers.FASTENERS, peers.DISKCACHE)),
)
LIMIT = f"{peers.FLOCK}, by hand"
CREATIONS, MEDIAN, LAST = "creations", "to the median return", "to the last return"
JUDGED_AT = 50
_HOUR = 3600.0


@dataclass(frozen=True)
class Size:
    #: The number of rounds with so many processes.
    rounds: dict[int, int]
    creation: float  # seconds
    patience: float
    contenders: tuple[str, ...] = CONTENDERS


FULL = Size(rounds={10: 3, 50: 5, 200: 2}, creation=0.2, patience=15.0)
QUICK = Size(
    rounds={10: 1, 50: 1},
    creation=0.15,
    patience=60.0,  # a check says that all are through, and must not depend on the machine
    contenders=(peers.DOGPILE, peers.OVER_FILELOCK, LIMIT),
)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one cold start; times in seconds from the end of the (last) creation."""

    creations: int
    #: The number of processes that were not through in time.
    missing: int
    median: float
    last: float


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    found: dict[tuple[str, int], list[Outcome]] = {}
    for count, rounds in size.rounds.items():
        for number in range(rounds):
            for name in rotated(size.contenders, number):
                found.setdefault((name, count), []).append(_once(name, count, size, scratch))
    return [scenario(found, size.creation, size.patience)]


# Measuring


def _once(name: str, count: int, size: Size, scratch: Path) -> Outcome:
    path = str(Path(tempfile.mkdtemp(dir=scratch)) / "resource")
    peers.prepare(name)
    crowd = Crowd(scratch, size.patience)
    crowd.add(name, _come, name, path, size.creation, count=count)
    return outcome(crowd.run())


def _come(track: Track, name: str, path: str, creation: float) -> None:
    def creator() -> None:
        track.mark("creation begins")
        time.sleep(creation)
        track.mark("creation ends")

    # A pass elsewhere first: a forked process pays for every page of memory that it touches for the first time.
    # The resource is cold here, not the process.
    elections.ELECTIONS[name].open(f"{path}-{os.getpid()}", lambda: None, _HOUR)()
    once = elections.ELECTIONS[name].open(path, creator, _HOUR)
    track.begin()
    once()
    track.mark("through")


# Computing


def outcome(tracks: Sequence[Track]) -> Outcome:
    """Return the outcome in the tracks of one cold start.

    A process that created is no waiter. Where several created, the last creation counts: earlier returns are then
    negative.
    """
    ends = [at for track in tracks for at in track.moments("creation ends")]
    if not ends:
        return Outcome(0, len(tracks), float("nan"), float("nan"))
    through = [
        seconds(max(ends), at)
        for track in tracks
        if track.at("creation ends") is None and (at := track.at("through")) is not None
    ]
    missing = sum(track.at("through") is None for track in tracks)
    if not through:
        return Outcome(len(ends), missing, float("nan"), float("nan"))
    return Outcome(len(ends), missing, percentile(through, 50), max(through))


def scenario(found: dict[tuple[str, int], list[Outcome]], creation: float, patience: float) -> Scenario:
    """Return the row, from the outcomes of each contender with each number of processes, round by round."""
    row = Scenario(
        number=5,
        title="Cold start",
        setting=f"So many processes are set up, begin at one moment, and find no version. The creator sleeps for "
        f"{creation:g} s. Measured from its end to the moments at which the others are through; a process that "
        "is through sleeps until all are.",
        ours=[peers.DOGPILE],
        limit=LIMIT,
        notes=[
            "By hand: look whether it is fresh, lock, look again, create. A flock wakes one waiter after the "
            "other; the libraries sleep and try again, each in its rhythm.",
            "memoize_stampede guards a value that is about to expire, and not the first one: all compute it.",
            "portalocker's and filelock's shares of this row are their own polling intervals, 0.25 s and 0.05 s.",
        ],
        plots=[
            Plot(
                "lines",
                "Cold start: from the end of the creation to the last return",
                LAST,
                x="processes",
                y="seconds",
                logarithmic=True,
            )
        ],
    )
    order = {name: number for number, name in enumerate(CONTENDERS)}
    for (name, count), outcomes in sorted(found.items(), key=lambda item: (item[0][1], order[item[0][0]])):
        label = f"{name}, {count} processes"
        row.figures.append(Figure(name, CREATIONS, COUNT, Spread.of(one.creations for one in outcomes), at=count))
        said = _said(outcomes, count, patience)
        for what in (MEDIAN, LAST):
            spread = None if said else Spread.of(_seconds(outcomes, what))
            row.figures.append(Figure(name, what, SECONDS, spread, at=count, said=said))
        if name == peers.DOGPILE:
            seen = ", ".join(str(one.creations) for one in outcomes)
            row.checks.append(
                Check(f"exactly one creation: {label}", all(one.creations == 1 for one in outcomes), seen)
            )
            seen = ", ".join(str(one.missing) for one in outcomes)
            row.checks.append(Check(f"all are through: {label}", not any(one.missing for one in outcomes), seen))
            continue
        ours = found[(peers.DOGPILE, count)]
        if not said:
            for what in (MEDIAN, LAST):
                ratio = paired(_seconds(outcomes, what), _seconds(ours, what))
                row.ratios.append(Ratio(name, peers.DOGPILE, what, ratio, at=count))
    ours, theirs = found[(peers.DOGPILE, JUDGED_AT)], found[(peers.OVER_FILELOCK, JUDGED_AT)]
    for what in (MEDIAN, LAST):
        text = f"{what}, {JUDGED_AT} processes, against dogpile.Lock over filelock: at most half"
        row.bars.append(Bar(text, 0.5, "at most", paired(_seconds(ours, what), _seconds(theirs, what))))
    return row


def _seconds(outcomes: Sequence[Outcome], what: str) -> list[float]:
    return [one.median if what == MEDIAN else one.last for one in outcomes]


def _said(outcomes: Sequence[Outcome], count: int, patience: float) -> str:
    """Return why there are no times; empty if there are."""
    missing = max(one.missing for one in outcomes)
    if missing:
        return f"{missing} not through in {patience:g} s"
    created = max(one.creations for one in outcomes)
    if created > 1:
        return "all created" if created == count else f"{created} created"
    return ""
