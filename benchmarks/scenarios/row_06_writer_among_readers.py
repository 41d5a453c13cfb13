"""Row 6: a writer among readers that overlap without a gap: does it get in, how soon, and at what cost to the
readers?

A check counts that our lock lets every process in, and must not depend on speed: a round of ours lasts until every
process was inside so often, however slow the machine; the patience of the crowd bounds it.
"""

from __future__ import annotations

import mmap
import tempfile
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import peers
from benchmarks.measuring.harness import Crowd, Track, seconds
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
    percentile,
    rotated,
)

__all__ = ["Outcome", "measure", "outcome", "scenario"]

HOLD = 0.002
_PAUSE = 0.010  # between two writes; a writer that is always there would leave nothing to read
MOST_HOLDS = 5
#: The entries of each process at least, before a round of ours ends.
_AT_LEAST = 3
MEDIAN, HIGH, MOST, READS, WRITES = (
    "writer's wait, p50",
    "writer's wait, p99",
    "writer's wait, longest",
    "reads per second",
    "writes",
)

Span = tuple[int, int]


@dataclass(frozen=True)
class Size:
    readers: tuple[int, ...]
    rounds: int
    duration: float  # seconds
    patience: float  # seconds, beside those


FULL = Size(readers=(1, 8, 32), rounds=2, duration=2.0, patience=20.0)
QUICK = Size(readers=(8,), rounds=1, duration=0.5, patience=60.0)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one round. Waits in seconds."""

    #: The last may have failed: so long the writer had waited when the round ended.
    waits: list[float]
    writes: int
    reads_per_second: float
    #: The number of readers that ended in time.
    readers_through: int
    #: The entries of the reader that got in least often.
    fewest_reads: int
    #: The number of readers' blocks that share a moment with a writer's.
    overlaps: int


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    found: dict[tuple[str, int], list[Outcome]] = {}
    for number in range(size.rounds):
        for count in size.readers:
            for name in rotated(list(peers.READ_WRITE), number):
                found.setdefault((name, count), []).append(_once(name, count, size, scratch))
    return [scenario(found, size.duration)]


# Measuring


def _once(name: str, readers: int, size: Size, scratch: Path) -> Outcome:
    path = str(Path(tempfile.mkdtemp(dir=scratch)) / "resource")
    at_least = _AT_LEAST if name == peers.READER else 0
    enough = mmap.mmap(-1, 1)  # shared: whether the writer has been in often enough
    enough[0] = not at_least
    peers.prepare(name)
    crowd = Crowd(scratch, patience=size.duration + size.patience)
    crowd.add("writer", _write, name, path, size.duration, at_least, enough)
    crowd.add("reader", _read, name, path, size.duration, at_least, enough, count=readers)
    tracks = crowd.run()
    return outcome(tracks[0], tracks[1:])


def _read(track: Track, name: str, path: str, duration: float, at_least: int, enough: mmap.mmap) -> None:
    reading, _ = peers.READ_WRITE[name].open(path)
    blocks: list[Span] = []
    track.reported["blocks"] = blocks
    now, sleep = time.monotonic_ns, time.sleep
    end = track.begin() + int(duration * 1e9)
    while now() < end or not enough[0] or len(blocks) < at_least:
        with reading():
            entered = now()
            sleep(HOLD)
            left = now()
        blocks.append((entered, left))


def _write(track: Track, name: str, path: str, duration: float, at_least: int, enough: mmap.mmap) -> None:
    """Write again and again. The last wait may end only when the readers have left: then the round is over."""
    _, writing = peers.READ_WRITE[name].open(path)
    attempts: list[tuple[int, int, int]] = []  # requested, entered, left
    now = time.monotonic_ns
    begin = track.begin()
    end = begin + int(duration * 1e9)
    track.reported.update(attempts=attempts, begin=begin, end=end)
    time.sleep(5 * HOLD)  # until all readers run
    while (asked := now()) < end or len(attempts) < at_least:
        with writing():
            entered = now()
            left = now()
        attempts.append((asked, entered, left))
        if len(attempts) == at_least:
            track.reported["end"] = max(end, left)
            enough[0] = 1
        time.sleep(_PAUSE)


# Computing


def outcome(writer: Track, readers: Sequence[Track]) -> Outcome:
    """Return the outcome in the tracks of one round.

    The last attempt had not succeeded when the round ended. It counts as a wait of the time that it had lasted, if
    that is longer than all others; else it was merely cut short. A writer that was interrupted in its first
    attempt has waited all the time.
    """
    begin: int = writer.reported["begin"]
    end: int = writer.reported["end"]
    attempts: list[tuple[int, int, int]] = [tuple(attempt) for attempt in writer.reported["attempts"]]
    waits = [seconds(asked, entered) for asked, entered, _ in attempts if entered <= end]
    in_vain = [seconds(asked, end) for asked, entered, _ in attempts if asked < end < entered]
    blocks: list[list[Span]] = [[tuple(block) for block in reader.reported["blocks"]] for reader in readers]
    writes = [(entered, left) for _, entered, left in attempts]
    longer = [wait for wait in in_vain if wait > max(waits, default=0.0)]
    return Outcome(
        waits=waits + longer or [seconds(begin, end)],
        writes=len(waits),
        reads_per_second=sum(left <= end for some in blocks for _, left in some) / seconds(begin, end),
        readers_through=sum(reader.finished for reader in readers),
        fewest_reads=min(map(len, blocks)),
        overlaps=sum(overlapping(some, writes) for some in blocks),
    )


def overlapping(ones: Sequence[Span], others: Sequence[Span]) -> int:
    """Return how many of *ones* share a moment with one of *others*; both are in order, and neither overlaps
    itself.

    >>> overlapping([(0, 2), (3, 5), (9, 10)], [(1, 4), (5, 6)])
    2
    """
    ends = [end for _, end in others]
    found = 0
    for begin, end in ones:
        next_one = bisect_left(ends, begin + 1)  # the first that ends after this one begins
        found += next_one < len(others) and others[next_one][0] < end
    return found


def scenario(found: dict[tuple[str, int], list[Outcome]], duration: float) -> Scenario:
    """Return the row, from the outcomes of each lock with each number of readers, round by round."""
    row = Scenario(
        number=6,
        title="A writer among gapless readers",
        setting=f"So many processes stay inside for {HOLD * 1000:g} ms and come back at once; one writer comes "
        f"{_PAUSE * 1000:g} ms after it has left, for {duration:g} s.",
        ours=[peers.READER],
        limit=peers.FLOCK,
        notes=[
            "A flock is given to readers as long as others hold it, so overlapping readers keep a writer out for "
            "ever; fasteners' lock is one (of another kind) with polling on top, and so is portalocker's.",
            "dogpile.cache's ``ReadWriteMutex`` is for threads; diskcache has no such lock.",
        ],
        plots=[
            Plot("lines", "Writer's wait, p99", HIGH, x="readers", y="seconds", logarithmic=True),
            Plot("lines", "Reads per second beside a writer", READS, x="readers", y="reads per second"),
        ],
    )
    for (name, count), outcomes in found.items():
        row.figures.append(Figure(name, WRITES, COUNT, Spread.of(one.writes for one in outcomes), at=count))
        for what, share in ((MEDIAN, 50.0), (HIGH, 99.0), (MOST, 100.0)):
            if not any(one.writes for one in outcomes):
                longest = max(wait for one in outcomes for wait in one.waits)
                said = f"did not get in within {longest:.1f} s"
                row.figures.append(Figure(name, what, SECONDS, None, at=count, said=said))
                continue
            spread = Spread.of(percentile(one.waits, share) for one in outcomes)
            row.figures.append(Figure(name, what, SECONDS, spread, at=count))
        reads = [one.reads_per_second for one in outcomes]
        row.figures.append(Figure(name, READS, PER_SECOND, Spread.of(reads), at=count))
        ours = found[(peers.READER, count)]
        if name != peers.READER:
            ratio = paired(reads, [one.reads_per_second for one in ours])
            row.ratios.append(Ratio(name, peers.READER, READS, ratio, at=count))
            continue
        label = f"{count} readers" if count > 1 else "1 reader"
        holds = Spread.of(percentile(one.waits, 99) / HOLD for one in outcomes)
        row.bars.append(
            Bar(f"the writer's p99 with {label}: at most {MOST_HOLDS} holds", MOST_HOLDS, "at most", holds)
        )
        kept = paired(reads, [one.reads_per_second for one in found[(peers.FILELOCK_RW, count)]])
        row.bars.append(
            Bar(f"reads per second with {label}, against filelock's: at least as many", 1.0, "at least", kept)
        )
        row.checks += [
            Check(
                f"the writer gets in among {label}",
                all(one.writes >= _AT_LEAST for one in outcomes),
                ", ".join(f"{one.writes} times" for one in outcomes),
            ),
            Check(
                f"every reader gets in, {label}",
                all(one.readers_through == count for one in outcomes),
                f"the least lucky {min(one.fewest_reads for one in outcomes)} times",
            ),
            Check(
                f"no reader is inside while the writer is, {label}",
                not any(one.overlaps for one in outcomes),
                f"{sum(one.overlaps for one in outcomes)} overlaps",
            ),
        ]
    return row
