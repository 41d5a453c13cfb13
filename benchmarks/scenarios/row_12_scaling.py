"""Row 12: 1 to 64 processes pass the same resource as fast as they can: do more of them achieve less?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import elections, peers
from benchmarks.measuring.harness import Crowd, Track, processor_seconds
from benchmarks.measuring.measures import (
    COUNT,
    PER_SECOND,
    SECONDS,
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

__all__ = ["Outcome", "measure", "outcome", "scenario"]

CONTENDERS = (
    peers.DOGPILE,
    peers.READER,
    peers.OVER_FILELOCK,
    peers.FLOCK,
    peers.FASTENERS_RW,
    peers.FILELOCK_RW,
)
RATE, IN_KERNEL, LEAST_LUCKY = "passes per second", "kernel time per pass", "passes of the least lucky process"
FROM, TO, KEPT_AT_LEAST = 2, 64, 0.8
_HOUR = 3600.0
_BATCH = 50


@dataclass(frozen=True)
class Size:
    numbers: tuple[int, ...]
    rounds: int
    duration: float  # seconds
    patience: float  # seconds, beside those
    contenders: tuple[str, ...] = CONTENDERS


FULL = Size(numbers=(1, 2, 4, 8, 16, 32, 64), rounds=3, duration=0.2, patience=20.0)
QUICK = Size(
    numbers=(2, 64),
    rounds=1,
    duration=0.1,
    patience=60.0,
    contenders=(peers.DOGPILE, peers.READER, peers.FLOCK),
)


@dataclass(frozen=True)
class Outcome:
    """The outcome of so many processes together."""

    passes_per_second: float
    #: Seconds of processor time that the kernel spent on each pass.
    in_kernel: float
    fewest_passes: int


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    found: dict[tuple[str, int], list[Outcome]] = {}
    for number in range(size.rounds):
        for name in rotated(size.contenders, number):
            for processes in size.numbers:
                found.setdefault((name, processes), []).append(_once(name, processes, size, scratch))
    return [scenario(found, size.duration)]


# Measuring


def _once(name: str, number: int, size: Size, scratch: Path) -> Outcome:
    path = str(Path(tempfile.mkdtemp(dir=scratch)) / "resource")
    if name in elections.ELECTIONS:
        elections.ELECTIONS[name].open(path, lambda: None, _HOUR)()  # the one creation
    peers.prepare(name)
    crowd = Crowd(scratch, patience=size.duration + size.patience)
    crowd.add(name, _pass_and_pass, name, path, size.duration, count=number)
    return outcome(crowd.run())


def _pass_and_pass(track: Track, name: str, path: str, duration: float) -> None:
    once = _opened(name, path)
    once()
    begin = track.begin()
    end = begin + int(duration * 1e9)
    _, before = processor_seconds()
    passes = 0
    # A slow contender must not exceed the end by a batch, a quick one must not read the clock at every pass.
    batch = 1
    now = time.monotonic_ns()
    while not passes or now < end:  # once at least: on a few cores some come late
        for _ in range(batch):
            once()
        passes += batch
        later = time.monotonic_ns()
        batch = _BATCH if (later - now) / batch < 20_000 else 1
        now = later
    _, after = processor_seconds()
    track.reported.update(passes=passes, seconds=(now - begin) / 1e9, in_kernel=after - before)


def _opened(name: str, path: str) -> Callable[[], object]:
    if name in elections.ELECTIONS:

        def creator() -> None:
            raise AssertionError("it is fresh")

        return elections.ELECTIONS[name].open(path, creator, _HOUR)
    reading, _ = peers.READ_WRITE[name].open(path)

    def once() -> None:
        with reading():
            pass

    return once


# Computing


def outcome(tracks: Sequence[Track]) -> Outcome:
    """Return the outcome in the tracks of so many processes. Each one's rate is its own passes over its own time.

    A process that was interrupted in its first pass counts as one without passes.
    """
    reports = [track.reported for track in tracks if track.finished]
    passes = sum(one["passes"] for one in reports)
    return Outcome(
        passes_per_second=sum(one["passes"] / one["seconds"] for one in reports),
        in_kernel=ratio(sum(one["in_kernel"] for one in reports), passes),
        fewest_passes=min(track.reported.get("passes", 0) for track in tracks),
    )


def scenario(found: dict[tuple[str, int], list[Outcome]], duration: float) -> Scenario:
    """Return the row, from the outcomes of each contender with each number of processes, round by round."""
    row = Scenario(
        number=12,
        title="More and more processes",
        setting=f"So many processes pass the same fresh resource for {duration:g} s, as fast as they can. Kernel "
        "time is the time in the kernel of all of them, divided by their passes: it grows where they contend for "
        "its locks.",
        ours=[peers.DOGPILE, peers.READER],
        limit=peers.FLOCK,
        plots=[
            Plot("lines", "Throughput", RATE, x="processes", y="passes per second", logarithmic=True),
            Plot("lines", "Kernel time per pass", IN_KERNEL, x="processes", y="seconds", logarithmic=True),
        ],
    )
    for (name, number), outcomes in found.items():
        rates = [one.passes_per_second for one in outcomes]
        row.figures += [
            Figure(name, RATE, PER_SECOND, Spread.of(rates), at=number),
            Figure(name, IN_KERNEL, SECONDS, Spread.of(one.in_kernel for one in outcomes), at=number),
            Figure(name, LEAST_LUCKY, COUNT, Spread.of(one.fewest_passes for one in outcomes), at=number),
        ]
        if name != peers.DOGPILE:
            ours = [one.passes_per_second for one in found[peers.DOGPILE, number]]
            row.ratios.append(Ratio(name, peers.DOGPILE, RATE, paired(rates, ours), at=number))
    for name in row.ours:
        few = [one.passes_per_second for one in found[name, FROM]]
        many = [one.passes_per_second for one in found[name, TO]]
        row.bars.append(
            Bar(
                f"{name}: throughput of {TO} processes at least {KEPT_AT_LEAST:g} of that of {FROM}",
                KEPT_AT_LEAST,
                "at least",
                paired(many, few),
            )
        )
        least = min(one.fewest_passes for key, outcomes in found.items() if key[0] == name for one in outcomes)
        row.checks.append(Check(f"{name}: every process passes", least > 0, f"the least lucky {least} times"))
    return row
