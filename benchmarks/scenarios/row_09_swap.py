"""Row 9: the cost of swapping a datafile above that of the bare system calls in it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path

from benchmarks.measuring.measures import (
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

__all__ = ["measure", "scenario"]

KB, MB = 1024, 1024 * 1024
SIZES = {KB: "1 KB", MB: "1 MB", 100 * MB: "100 MB"}
ABOVE_AT_MOST = 1.1
JUDGED_FROM = MB

DATAFILE, ATOMIC = "Datafile.refresh", "atomic_write"
BARE, BARE_WITH_DIRECTORY = "bare write, fsync, rename", "bare write, fsync, rename, fsync of the directory"
BARE_FAST = "bare write, rename"
STAMPED = "the bare calls between two stamps, under a mutex"
DURABLE, FAST = "durable", "not durable"
TIME = "from calling to returning"

_PIECE = os.urandom(MB)


@dataclass(frozen=True)
class Size:
    #: Rounds for each size of file.
    rounds: dict[int, int]


FULL = Size({KB: 60, MB: 30, 100 * MB: 8})
QUICK = Size({KB: 5, MB: 3})

Swap = Callable[[], object]


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    found: dict[tuple[str, str, int], list[float]] = {}
    wrong: list[str] = []
    for bytes_, rounds in size.rounds.items():
        place = Path(tempfile.mkdtemp(dir=scratch))
        swaps = _contenders(place, bytes_)
        # Durable ones apart from the others, whose bytes reach the disk at any later time.
        for kind in (DURABLE, FAST):
            its_swaps = {key: swap for key, swap in swaps.items() if key[0] == kind}
            # Twice: the pages of memory that the system caches files in come slowly the first time, above all to a
            # virtual machine, whose host has to find them.
            for swap in (*its_swaps.values(), *its_swaps.values()):
                swap()
            for number in range(rounds):
                for key in rotated(list(its_swaps), number):
                    os.sync()  # the bytes of other contenders are not to be written during this one
                    started = time.perf_counter()
                    its_swaps[key]()
                    found.setdefault((*key, bytes_), []).append(time.perf_counter() - started)
        wrong += [str(path) for path in place.glob("*.data") if path.stat().st_size != bytes_]
        wrong += [path.name for path in place.glob(".dogpile/*")]
        shutil.rmtree(place)
    return [scenario(found, wrong)]


# Measuring


def _contenders(place: Path, size: int) -> dict[tuple[str, str], Swap]:
    """Return functions that write the same bytes in the same pieces, by durability and name."""
    from dogpile_fs import Datafile, atomic_write

    def creator(target: str) -> None:
        with open(target, "wb", buffering=0) as file:
            _write(file.fileno(), size)

    def atomic(durable: bool) -> Swap:
        path = place / f"atomic-{durable}.data"

        def swap() -> None:
            with atomic_write(path, durable=durable) as file:
                _write(file.fileno(), size)

        return swap

    def bare(name: str, file_too: bool, directory_too: bool) -> Swap:
        path = str(place / f"{name}.data")
        new = path + ".new"

        def swap() -> None:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            _write(fd, size)
            if file_too:
                os.fsync(fd)
            os.close(fd)
            os.rename(new, path)
            if directory_too:
                fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
                os.fsync(fd)
                os.close(fd)

        return swap

    def stamped(name: str, durable: bool) -> Swap:
        """Return the least that coordination adds to a swap: a flock, and two writes of a record."""
        swap_it = bare(f"stamped-{name}", durable, durable)
        sidecar, lock_file = str(place / f"{name}.sidecar"), str(place / f"{name}.lock")

        def stamp() -> None:
            fd = os.open(sidecar, os.O_RDWR | os.O_CREAT, 0o666)
            flock(fd, LOCK_EX)
            os.pread(fd, 2048, 0)
            os.pwrite(fd, _PIECE[:2048], 0)
            os.close(fd)

        def swap() -> None:
            mutex = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o666)
            flock(mutex, LOCK_EX)
            stamp()
            swap_it()
            stamp()
            os.close(mutex)

        return swap

    def refreshing(durable: bool) -> Swap:
        datafile = Datafile(place / f"datafile-{durable}.data", 3600, creator, durable=durable)
        return lambda: datafile.refresh(force=True)

    return {
        (DURABLE, DATAFILE): refreshing(True),
        (DURABLE, ATOMIC): atomic(True),
        (DURABLE, BARE): bare("file", True, False),
        (DURABLE, BARE_WITH_DIRECTORY): bare("directory", True, True),
        (DURABLE, STAMPED): stamped("durable", True),
        (FAST, DATAFILE): refreshing(False),
        (FAST, ATOMIC): atomic(False),
        (FAST, BARE_FAST): bare("fast", False, False),
        (FAST, STAMPED): stamped("fast", False),
    }


def _write(fd: int, size: int) -> None:
    piece = memoryview(_PIECE)
    while size > 0:
        size -= os.write(fd, piece[:size])


# Computing


def scenario(found: dict[tuple[str, str, int], list[float]], wrong: list[str]) -> Scenario:
    """Return the row, from the seconds of each swap, round by round."""
    row = Scenario(
        number=9,
        title="Swapping a datafile",
        setting="From calling to returning: build the new version of so many bytes beside the old one, put it "
        "in its place, and (Datafile) stamp it. All write the same bytes in pieces of 1 MB; the processor's "
        "cache has them.",
        ours=[f"{name}, {kind}" for kind in (DURABLE, FAST) for name in (DATAFILE, ATOMIC)],
        limit=f"{BARE}, {DURABLE}",
        notes=[
            "Without an fsync of the directory the new name may be lost in a power cut (fsync(2)); a stamp must "
            "not be on the disk before what it describes. So the bare sequence that promises the same has that "
            "too, and both are shown.",
            "Between two stamps: the same calls, a flock around them, and a record of 2048 bytes written before "
            "and after, each under a flock of its own. That is the least that a creation needs, in no more Python "
            "than it takes to call it: what is above it is what this package's Python costs.",
            "Of the peers, portalocker's ``open_atomic`` refuses to replace a file; the others have no such "
            "function.",
        ],
        plots=[
            Plot(
                "lines",
                "Swapping a datafile: times the bare system calls",
                TIME,
                x="bytes",
                y="times",
                logarithmic=True,
                limit=ABOVE_AT_MOST,
                ratios=True,
            )
        ],
    )
    for (kind, name, size), costs in found.items():
        contender = f"{name}, {kind}"
        row.figures.append(Figure(contender, TIME, SECONDS, Spread.of(costs), at=size))
        bare = BARE_WITH_DIRECTORY if kind == DURABLE else BARE_FAST
        if name == bare:
            continue
        times = paired(costs, found[kind, bare, size])
        row.ratios.append(Ratio(contender, "the bare calls", TIME, times, at=size))
        if name == DATAFILE and size >= JUDGED_FROM:
            label = f"{SIZES[size]}, {kind}"
            text = f"{label}: Datafile against {bare}: at most {ABOVE_AT_MOST:g} times"
            row.bars.append(Bar(text, ABOVE_AT_MOST, "at most", times))
            if kind == DURABLE:
                times = paired(costs, found[kind, BARE, size])
                text = f"{label}: the same against {BARE}: at most {ABOVE_AT_MOST:g} times"
                row.bars.append(Bar(text, ABOVE_AT_MOST, "at most", times))
    row.checks.append(Check("every version is whole, and nothing is left beside it", not wrong, f"{wrong}"))
    return row
