"""Row 10: one process and many paths: what an idle object keeps, and what a pass costs as their number grows."""

from __future__ import annotations

import gc
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import elections, peers
from benchmarks.harness import Crowd, Track
from benchmarks.measures import BYTES, COUNT, SECONDS, Bar, Check, Figure, Plot, Ratio, Scenario, Spread, paired

__all__ = ["Holding", "measure", "scenario"]

DATAFILE = "Datafile"
OURS = (peers.DOGPILE, peers.READER, DATAFILE)
PREAD = "bare pread of 512 bytes"
OTHERS = (PREAD, peers.FILELOCK, peers.FASTENERS_RW, peers.OVER_FILELOCK)
#: Seconds after which an object asks again whether its file is at its path: the 10 ms between have run out.
REST = 0.02
MAKING, FIRST, MEMORY, DESCRIPTORS, SAME, EACH, RESTED = (
    "making one",
    "its first pass",
    "memory each",
    "descriptors each",
    "a pass of one of them",
    "a pass of each in turn",
    f"a pass after a rest of {REST * 1000:g} ms",
)
MOST_MEMORY, MOST_DESCRIPTORS, FLAT = 2048, 2, 1.3
_HOUR = 3600
#: Descriptors that an object needs, if more than one; and what is left for all else that a process has open.
_NEEDS = {peers.READER: 2}
_SPARE = 100
_PATIENCE = 60.0


@dataclass(frozen=True)
class Size:
    numbers: tuple[int, ...]
    rounds: int
    turn: float  # seconds
    rests: int  # in each round


FULL = Size(numbers=(1, 100, 10_000), rounds=7, turn=0.02, rests=30)
QUICK = Size(numbers=(1, 100), rounds=3, turn=0.002, rests=2)


@dataclass(frozen=True)
class Holding:
    """What so many objects of a kind came to."""

    number: int
    #: Bytes of memory, and descriptors, of each.
    memory: float
    descriptors: float
    #: Seconds of processor time to make one, and of its first pass.
    making: float
    first_pass: float
    #: Seconds of processor time of a pass, by round: of an object that is alone; of the same one among the others;
    #: of all of them, one after the other; of the first, still alone, after a rest (where that was measured).
    alone: list[float]
    same: list[float]
    each: list[float]
    rested: list[float]


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
                found.setdefault(name, []).append(Holding(**track.told))
            else:
                too_slow.append(f"{number:,} of {name}")
    return [scenario(found, too_slow)]


# Measuring


def _hold(track: Track, name: str, number: int, size: Size, place: str) -> None:
    track.begin()
    last = number == size.numbers[-1]
    number = min(number, _permitted(number, _NEEDS.get(name, 1)))
    paths = [f"{place}/{n:06}" for n in range(number)]
    first = _MAKERS[name](f"{place}/first")  # what is imported, and made once, counts for nobody
    first()
    passes = max(1, int(size.turn / _cost(first, 20)))
    alone = [_cost(first, passes) for _ in range(size.rounds)]
    # Once is enough for each kind: in the process with the most objects, with which it is compared.
    rests = size.rests if name in OURS and last else 0
    rested = [_cost_after_a_rest(first, rests) for _ in range(size.rounds if rests else 0)]
    gc.collect()
    memory, descriptors = _resident(), _open_descriptors()
    started = time.process_time()
    objects = [_MAKERS[name](path) for path in paths]
    made = time.process_time()
    for one in objects:
        one()
    passed = time.process_time()
    gc.collect()
    track.told.update(
        number=number,
        making=(made - started) / number,
        first_pass=(passed - made) / number,
        memory=(_resident() - memory) / number,
        descriptors=(_open_descriptors() - descriptors) / number,
    )
    same = [_cost(first, passes) for _ in range(size.rounds)]
    turns = max(1, passes // number)
    each = []
    for _ in range(size.rounds):
        started = time.process_time()
        for _ in range(turns):
            for one in objects:
                one()
        each.append((time.process_time() - started) / turns / number)
    track.told.update(alone=alone, same=same, each=each, rested=rested)


def _cost(one: Callable[[], object], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        one()
    return (time.process_time() - started) / times


def _cost_after_a_rest(one: Callable[[], object], times: int) -> float:
    """The median of so many passes, each by itself, with processor caches that others have used meanwhile."""
    clock = time.process_time
    costs = []
    for _ in range(times):
        time.sleep(REST)
        started = clock()
        one()
        passed = clock()
        again = clock()
        costs.append((passed - started) - (again - passed))  # without the clock's own share: it is a system call
    return statistics.median(costs)


def _permitted(number: int, descriptors_each: int) -> int:
    """How many objects the limit of descriptors leaves room for, after it was raised as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return number
    wanted = number * descriptors_each + _SPARE
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, hard), max(wanted, hard)))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return (hard - _SPARE) // descriptors_each
    return number


def _resident() -> int:
    """Bytes of memory that this process has in use; what a fork shares with its parent was there before."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _nothing() -> None:
    pass


def _dogpile(path: str) -> Callable[[], object]:
    from dogpile_fs import Dogpile

    return _entering(Dogpile(_HOUR, path, init=True).acquire)


def _reader(path: str) -> Callable[[], object]:
    from dogpile_fs import SyncReaderDogpile

    return _entering(SyncReaderDogpile(_HOUR, path, init=True).acquire)


def _datafile(path: str) -> Callable[[], object]:
    from dogpile_fs import Datafile

    with open(path, "w"):
        pass
    datafile = Datafile(path, _HOUR)
    datafile.touch()
    return datafile.path


def _pread(path: str) -> Callable[[], object]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    os.write(fd, bytes(512))
    return lambda: os.pread(fd, 512, 0)


def _filelock(path: str) -> Callable[[], object]:
    return _entering_again(peers.LOCKS[peers.FILELOCK](path))


def _fasteners(path: str) -> Callable[[], object]:
    return _entering(peers.READ_WRITE[peers.FASTENERS_RW].open(path)[0])


def _over_filelock(path: str) -> Callable[[], object]:
    return elections.ELECTIONS[peers.OVER_FILELOCK].open(path, _nothing, _HOUR)


def _entering(make: Callable[[], peers.Block]) -> Callable[[], object]:
    def once() -> None:
        with make():
            pass

    return once


def _entering_again(block: peers.Block) -> Callable[[], object]:
    def once() -> None:
        with block:
            pass

    return once


#: What makes an object of each kind, as one pass of it: the closure around it weighs some 150 bytes, for all.
_MAKERS: dict[str, Callable[[str], Callable[[], object]]] = {
    peers.DOGPILE: _dogpile,
    peers.READER: _reader,
    DATAFILE: _datafile,
    PREAD: _pread,
    peers.FILELOCK: _filelock,
    peers.FASTENERS_RW: _fasteners,
    peers.OVER_FILELOCK: _over_filelock,
}


# Computing


def scenario(found: dict[str, list[Holding]], too_slow: Sequence[str]) -> Scenario:
    """The row, from what was held of each kind, the smallest number first; *too_slow* were not ready in time."""
    row = Scenario(
        number=10,
        title="Many paths in one process",
        setting="So many objects, each with a path of its own, that have passed once and are kept. Memory is "
        "what the process grows by, divided; a pass is in processor time.",
        ours=list(OURS),
        limit=PREAD,
        notes=[
            "A small number of objects fits into memory that the process had already, or takes a whole page: "
            "their share tells little.",
            "Whether a file still is at its path is asked every 10 ms for each object. Who passes them one "
            "after the other, so many that a round takes longer, is asked at every pass, and finds the "
            f"processor's caches cold. So does a single object that has rested for {REST * 1000:g} ms; its code "
            "is cold as well then, which that of many in turn is not, so its pass may cost much more.",
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
        if last.rested:
            row.figures.append(Figure(name, RESTED, SECONDS, Spread.of(last.rested), at=1))
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
            Bar(
                f"{label}: a pass of each in turn, against the same: at most {FLAT:g} times",
                FLAT,
                "at most",
                paired(last.each, last.alone),
            ),
        ]
        if last.rested:
            row.bars.append(
                Bar(
                    f"{label}: a pass of each in turn, against a pass after a rest, with one object: "
                    f"at most {FLAT:g} times",
                    FLAT,
                    "at most",
                    paired(last.each, last.rested),
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
