"""Row 14: what the elected reader pays for a creation in the background, and whether another can come in between.

Two measurements, because the second takes a processor of its own: times, in one process without a competitor; and
the gap, with one that tries the mutex all the time.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal
from unittest.mock import patch

from benchmarks.contenders import peers
from benchmarks.contenders.backgrounds import Creator, Value, datafile
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
    rotated,
)

__all__ = ["HandOver", "Size", "Watch", "measure", "scenario", "watched"]

POPEN = "subprocess.Popen, bare"
OURS = (peers.PROCESS, peers.THREAD)
HANDED, STALE, BEGINS = "handing over", "a stale pass", "until the creator begins"
TRIES, GOT, BEFORE = "tries of another", "it got the mutex", "tried during the hand-over"
_HOUR = 3600.0
#: Stale passes beside each creation; their median counts.
_PASSES = 20
#: Seconds between two passes of a caller: longer than the 5 ms for which an object that has lost an election makes
#: no other attempt.
_AGAIN = 0.006
_PATIENCE = 60.0


@dataclass(frozen=True)
class Size:
    #: Of the times, and of the gap.
    rounds: int
    creation: float = 0.05  # seconds


FULL = Size(rounds=40)
QUICK = Size(rounds=2)


@dataclass(frozen=True)
class HandOver:
    """The times of one election, in seconds."""

    elected: float  # the pass that was elected
    stale: float  # a pass beside the creation
    begins: float  # from the beginning of the elected pass to that of the creator


@dataclass(frozen=True)
class Watch:
    """One hand-over beside a competitor, from the election until the creator has ended."""

    tries: int
    got: int
    #: Whether it was refused before the elected pass had ended, and so tried during the hand-over.
    is_from_before: bool


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    place = Path(tempfile.mkdtemp(dir=scratch))
    files = {name: _opened(name, place, size) for name in OURS}
    for each in files.values():
        each.refresh()
        _hand_over(each)  # the first one imports modules
    times: dict[str, list[HandOver]] = {name: [] for name in OURS}
    bare: list[float] = []
    for number in range(size.rounds):
        for name in rotated((*OURS, POPEN), number):
            if name == POPEN:
                bare.append(_popen())
            else:
                times[name].append(_hand_over(files[name]))
    watches = {name: [_once(name, size, scratch) for _ in range(size.rounds)] for name in OURS}
    return [scenario(times, bare, watches)]


def _opened(name: str, place: Path, size: Size) -> Any:
    kinds: dict[str, Literal["process", "thread"]] = {peers.PROCESS: "process", peers.THREAD: "thread"}
    own = place / kinds[name]
    own.mkdir()
    return datafile(own, Creator(own / "begun", size.creation), _HOUR, background=kinds[name])


# The times


def _hand_over(file: Any) -> HandOver:
    clock = time.monotonic_ns
    old: Value = file.load(json.load)
    file.invalidate()
    began = clock()
    with file.acquire():
        pass
    elected = clock()
    passes = []
    for _ in range(_PASSES):
        before = clock()
        with file.acquire():
            pass
        passes.append(clock() - before)
    while (new := file.load(json.load)) == old:
        time.sleep(_AGAIN)
    time.sleep(_AGAIN)  # until the child has ended: the next measurement should not pay for that
    return HandOver(seconds(began, elected), median(passes) / 1e9, seconds(began, new[0]))


def _popen() -> float:
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    took = time.perf_counter() - started
    process.wait()
    return took


# The gap


def _once(name: str, size: Size, scratch: Path) -> Watch:
    place = Path(tempfile.mkdtemp(dir=scratch))
    board = mmap.mmap(-1, 2)  # shared: whether the competitor tries, and whether the new version is there
    crowd = Crowd(scratch, _PATIENCE)
    crowd.add("caller", _call, partial(_opened, name, place, size), board)
    crowd.add("competitor", _compete, place, board)
    return watched(*crowd.run())


def _call(track: Track, opened: Callable[[], Any], board: mmap.mmap) -> None:
    """Pass until this caller is elected, and wait until the new version is there."""
    file = opened()
    file.refresh()
    old: Value = file.load(json.load)
    file.invalidate()
    kind = type(file._dogpile.dogpilelock)
    take, taken = kind.acquire, []

    def acquire(*args: Any, **options: Any) -> bool:
        is_taken: bool = take(*args, **options)
        if is_taken:
            taken.append(time.monotonic_ns())
        return is_taken

    track.begin()
    while not board[0]:
        time.sleep(0.001)
    with patch.object(kind, "acquire", acquire):
        while not taken:
            time.sleep(_AGAIN)
            with file.acquire():
                pass
    track.reported.update(taken=taken[0], passed=time.monotonic_ns())
    while (new := file.load(json.load)) == old:
        time.sleep(_AGAIN)
    track.reported["value"] = new
    board[1] = True


def _compete(track: Track, place: Path, board: mmap.mmap) -> None:
    """Try the mutex, and give it back at once, until the new version is there."""
    track.begin()
    (lock,) = place.glob("*/*.lock")
    fd = os.open(lock, os.O_RDWR)
    refused: list[int] = []
    got: list[int] = []
    clock = time.monotonic_ns
    while not board[1]:
        board[0] = True
        try:
            flock(fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            refused.append(clock())
        else:
            got.append(clock())  # first: the caller takes it as soon as it is given back
            flock(fd, LOCK_UN)
    track.reported.update(refused=refused, got=got)


# Computing


def watched(caller: Track, competitor: Track) -> Watch:
    """Return what the tracks of *caller* and *competitor* say, from the election until the creator has ended.

    Until the caller has taken the mutex, the competitor may get it. A refusal alone does not show that the caller
    has it: one that has lost an election looks whether a creator runs, and has a shared lock meanwhile.
    """
    taken, ended = caller.reported["taken"], caller.reported["value"][1]
    refused = [at for at in competitor.reported["refused"] if taken <= at <= ended]
    got = sum(taken <= at <= ended for at in competitor.reported["got"])
    return Watch(len(refused) + got, got, bool(refused) and refused[0] < caller.reported["passed"])


def scenario(times: dict[str, list[HandOver]], bare: Sequence[float], watches: dict[str, list[Watch]]) -> Scenario:
    """Return the row, from the hand-overs of each kind, the bare starts of a process, and the gap."""
    row = Scenario(
        number=14,
        title="Handing over",
        setting="A reader finds a datafile stale, is elected, and hands the creation over: the time of its pass "
        "without that of a stale pass beside the creation. Then, with another process that tries to take the "
        "mutex (``LOCK_EX | LOCK_NB``) in a loop until the creator has ended: how often it got it.",
        ours=list(OURS),
        limit=POPEN,
        notes=[
            "The bare one starts ``python -c pass``, and does not wait for its end.",
            "The time until the creator begins counts from the beginning of the elected pass. In a process it is "
            "that of starting an interpreter and of importing dogpile_fs and the creator.",
            "The tries count from the moment at which the reader has taken the mutex. A gap that is shorter than "
            "the time between two tries would be seen only in some rounds.",
        ],
        plots=[Plot("bars", "Handing over a creation", HANDED, x="seconds")],
    )
    handed = {name: [one.elected - one.stale for one in some] for name, some in times.items()}
    for name, some in times.items():
        watch = watches[name]
        row.figures += [
            Figure(name, HANDED, SECONDS, Spread.of(handed[name])),
            Figure(name, STALE, SECONDS, Spread.of(one.stale for one in some)),
            Figure(name, BEGINS, SECONDS, Spread.of(one.begins for one in some)),
            Figure(name, TRIES, COUNT, Spread.of(one.tries for one in watch)),
            Figure(name, GOT, COUNT, Spread.of(one.got for one in watch)),
            Figure(name, BEFORE, COUNT, None, said=_rounds(watch)),
        ]
        row.ratios.append(Ratio(name, POPEN, HANDED, paired(handed[name], bare)))
        got = sum(one.got for one in watch)
        text = f"{name}: no other process gets the mutex until the creator has ended"
        row.bars.append(Bar(text, 0, "at most", Spread.of([got])))
        row.checks.append(Check(text, not got, f"{got} times"))
    row.figures.append(Figure(POPEN, HANDED, SECONDS, Spread.of(bare)))
    return row


def _rounds(watch: Sequence[Watch]) -> str:
    """
    >>> _rounds([Watch(9, 0, is_from_before=True), Watch(7, 0, is_from_before=False)])
    'in 1 of 2 rounds'
    """
    return f"in {sum(one.is_from_before for one in watch)} of {len(watch)} rounds"
