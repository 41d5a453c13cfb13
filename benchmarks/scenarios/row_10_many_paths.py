"""Row 10: one process and many paths: the memory of an idle object, and the cost of a pass as their number
grows."""

from __future__ import annotations

import gc
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import elections, peers
from benchmarks.measuring.harness import Crowd, Track
from benchmarks.measuring.measures import (
    BYTES,
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
)
from dogpile_fs._os import kept_open

__all__ = ["Holding", "measure", "scenario"]

DATAFILE = "Datafile"
OURS = (peers.DOGPILE, peers.READER, DATAFILE)
PREAD = "bare pread of 2048 bytes"
OTHERS = (PREAD, peers.FILELOCK, peers.FASTENERS_RW, peers.OVER_FILELOCK)
#: Seconds for which all objects rest before each of them passes once. With 10,000, a round takes longer anyway.
#: With fewer, this is long enough that the 10 ms are over for which an object trusts that its file is at its path.
REST = 0.02
MAKING, FIRST, MEMORY, DESCRIPTORS, SAME, EACH = (
    "making one",
    "its first pass",
    "memory each",
    "descriptors each",
    "a pass of one of them",
    "a pass of each in turn, after a rest",
)
MOST_MEMORY, MOST_DESCRIPTORS, FLAT = 2048, 2, 1.3
_HOUR = 3600
#: Descriptors that an object needs, if more than one; and those left for the rest of a process.
_NEEDS = {peers.READER: 2}
_SPARE = 100
_PATIENCE = 60.0


@dataclass(frozen=True)
class Size:
    numbers: tuple[int, ...]
    rounds: int
    turn: float  # seconds


FULL = Size(numbers=(1, 100, 10_000), rounds=7, turn=0.02)
QUICK = Size(numbers=(1, 100), rounds=3, turn=0.002)


@dataclass(frozen=True)
class Holding:
    """The outcome of so many objects of a kind."""

    number: int
    #: Bytes of memory, and descriptors, of each.
    memory: float
    descriptors: float
    #: Seconds of processor time to make one, and of its first pass.
    making: float
    first_pass: float
    #: Seconds of processor time of a pass, by round: of an object that is alone; of the same one among the others;
    #: of all of them, one after the other, after a rest.
    alone: list[float]
    same: list[float]
    each: list[float]


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    found: dict[str, list[Holding]] = {}
    too_slow: list[str] = []
    for name in (*OURS, *OTHERS):
        for number in size.numbers:
            crowd = Crowd(scratch, _PATIENCE)
            crowd.add(name, _hold, name, number, size, tempfile.mkdtemp(dir=scratch))
            (track,) = crowd.run()
            if track.finished:
                found.setdefault(name, []).append(Holding(**track.reported))
            else:
                too_slow.append(f"{number:,} of {name}")
    return [scenario(found, too_slow)]


# Measuring


def _hold(track: Track, name: str, number: int, size: Size, place: str) -> None:
    track.begin()
    number = min(number, _permitted(number, _NEEDS.get(name, 1)))
    paths = [f"{place}/{n:06}" for n in range(number)]
    make, use = _KINDS[name]
    object_ = make(f"{place}/first")  # imports, and objects that are made once, do not count
    use(object_)

    def first() -> None:
        use(object_)

    passes = max(1, int(size.turn / _cost(first, 20)))
    alone = [_cost(first, passes) for _ in range(size.rounds)]
    gc.collect()
    memory, descriptors = _resident(), _open_descriptors()
    started = time.process_time()
    objects = [make(path) for path in paths]
    made = time.process_time()
    for one in objects:
        use(one)
    passed = time.process_time()
    gc.collect()
    track.reported.update(
        number=number,
        making=(made - started) / number,
        first_pass=(passed - made) / number,
        memory=(_resident() - memory) / number,
        descriptors=(_open_descriptors() - descriptors) / number,
    )
    same = [_cost(first, passes) for _ in range(size.rounds)]
    each = []
    for _ in range(size.rounds):
        time.sleep(REST)
        started = time.process_time()
        for one in objects:
            use(one)
        each.append((time.process_time() - started) / number)
    track.reported.update(alone=alone, same=same, each=each)


def _cost(one: Callable[[], object], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        one()
    return (time.process_time() - started) / times


def _permitted(number: int, descriptors_each: int) -> int:
    """Return how many objects the limit of descriptors allows, after it was raised as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return number
    wanted = 2 * (number * descriptors_each + _SPARE)  # half of them may be kept open
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, hard), max(wanted, hard)))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return min(number, (kept_open.limit() - _SPARE) // descriptors_each)
    return number


def _resident() -> int:
    """Return the bytes of memory in use by this process alone; memory that a fork shares with its parent was there
    before."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _nothing() -> None:
    pass


def _dogpile(path: str) -> Any:
    from dogpile_fs import Dogpile

    return Dogpile(_HOUR, path, init=True)


def _reader(path: str) -> Any:
    from dogpile_fs import SyncReaderDogpile

    return SyncReaderDogpile(_HOUR, path, init=True)


def _datafile(path: str) -> Any:
    from dogpile_fs import Datafile

    with open(path, "w"):
        pass
    datafile = Datafile(path, _HOUR)
    datafile.touch()
    return datafile


def _descriptor(path: str) -> Any:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    os.write(fd, bytes(2048))
    return fd


def _pass(dogpile: Any) -> None:
    with dogpile.acquire():
        pass


def _block(block: Any) -> None:
    with block:
        pass


def _made_block(make: Any) -> None:
    with make():
        pass


#: The functions that make an object of each kind, and use it once. Only the object is kept.
_KINDS: dict[str, tuple[Callable[[str], Any], Callable[[Any], object]]] = {
    peers.DOGPILE: (_dogpile, _pass),
    peers.READER: (_reader, _pass),
    DATAFILE: (_datafile, lambda datafile: datafile.path()),
    PREAD: (_descriptor, lambda fd: os.pread(fd, 2048, 0)),
    peers.FILELOCK: (peers.LOCKS[peers.FILELOCK], _block),
    peers.FASTENERS_RW: (lambda path: peers.READ_WRITE[peers.FASTENERS_RW].open(path)[0], _made_block),
    peers.OVER_FILELOCK: (
        lambda path: elections.ELECTIONS[peers.OVER_FILELOCK].open(path, _nothing, _HOUR),
        lambda once: once(),
    ),
}


# Computing


def scenario(found: dict[str, list[Holding]], too_slow: Sequence[str]) -> Scenario:
    """Return the row, from the outcomes of each kind, the smallest number first; *too_slow* were not ready in
    time."""
    row = Scenario(
        number=10,
        title="Many paths in one process",
        setting="So many objects, each with a path of its own, that have passed once and are kept. Memory is "
        "the growth of the process, divided; a pass is in processor time.",
        ours=list(OURS),
        limit=PREAD,
        notes=[
            "A small number of objects fits into memory that the process had already, or takes a whole page: "
            "their share means little.",
            f"In turn: all rest for {REST * 1000:g} ms, then each passes once, so that each looks whether its "
            "file is still at its path. A single pass after a rest finds the processor and its caches cold: it is "
            "many times as expensive, of whatever kind; with 100 and more, that is the first one's share.",
            "filelock's ReadWriteLock keeps an SQLite connection for each path while it is held; it is in row 2.",
        ],
        plots=[
            Plot(
                "lines", "A pass as their number grows", EACH, x="objects", y="seconds per pass", logarithmic=True
            ),
            Plot("bars", "Memory of an idle object", MEMORY, x="bytes", limit=MOST_MEMORY),
        ],
    )
    row.checks.append(
        Check(f"all are made and passed within {_PATIENCE:g} s", not too_slow, ", ".join(too_slow) or "all were")
    )
    for name, holdings in found.items():
        last = holdings[-1]
        for one in holdings:
            at = one.number
            row.figures += [
                Figure(name, MAKING, SECONDS, Spread.of([one.making]), at=at),
                Figure(name, FIRST, SECONDS, Spread.of([one.first_pass]), at=at),
                Figure(name, DESCRIPTORS, COUNT, Spread.of([one.descriptors]), at=at),
                Figure(name, SAME, SECONDS, Spread.of(one.same), at=at),
                Figure(name, EACH, SECONDS, Spread.of(one.each), at=at),
            ]
        row.figures.append(Figure(name, MEMORY, BYTES, Spread.of([last.memory]), at=last.number))
        if name != peers.DOGPILE:
            ours = found[peers.DOGPILE][-1]
            row.ratios.append(Ratio(name, peers.DOGPILE, EACH, paired(last.each, ours.each), at=last.number))
        if name not in OURS:
            continue
        label = f"{name}, {last.number:,} objects"
        row.bars += [
            Bar(f"{label}: at most 2 KiB each", MOST_MEMORY, "at most", Spread.of([last.memory]), BYTES),
            Bar(
                f"{label}: at most 2 descriptors each",
                MOST_DESCRIPTORS,
                "at most",
                Spread.of([max(one.descriptors for one in holdings)]),
            ),
            Bar(
                f"{label}: a pass of one, against that before the others were there: at most {FLAT:g} times",
                FLAT,
                "at most",
                paired(last.same, last.alone),
            ),
        ]
        if len(holdings) > 2:
            fewer = holdings[-2]
            row.bars.append(
                Bar(
                    f"{label}: a pass of each in turn, against that with {fewer.number:,}: at most {FLAT:g} times",
                    FLAT,
                    "at most",
                    paired(last.each, fewer.each),
                )
            )
        row.checks.append(
            Check(
                f"{name}: at most {MOST_DESCRIPTORS} descriptors each",
                all(one.descriptors <= MOST_DESCRIPTORS for one in holdings),
                ", ".join(f"{one.descriptors:g}" for one in holdings),
            )
        )
    return row
