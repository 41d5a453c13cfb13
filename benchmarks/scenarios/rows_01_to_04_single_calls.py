"""Rows 1 to 4: the cost of one pass.

Measured twice. *In turn*: in a few processes, all contenders take turns of five milliseconds, for many rounds. A
ratio is made of two turns of the same round, about a tenth of a second apart, and of processor time, so that a
machine that is slower for a while is slower for both. The bars go by these. *Alone*: pyperf measures each in fresh
processes of its own, and pyperf's tools can read its file. It takes seconds for each, so the ratios of these
figures also contain the changes of the machine's speed meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import calls, peers
from benchmarks.contenders.calls import CALLS, TimeFunction
from benchmarks.measuring.harness import KEPT, Crowd, Track
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

__all__ = ["calibrated", "measure", "scenarios", "turns"]

ALONE, IN_TURN = "alone (pyperf)", "in turn"


@dataclass(frozen=True)
class Size:
    """The size of the measurement."""

    processes: int
    rounds: int
    turn: float  # seconds
    pyperf: tuple[str, ...]  # its options
    alone: tuple[str, ...]  # what pyperf measures


FULL = Size(
    processes=5,
    rounds=40,
    turn=0.005,
    pyperf=("--processes", "3", "--values", "3", "--warmups", "1", "--min-time", "0.02"),
    alone=tuple(CALLS),
)
QUICK = Size(
    processes=1,
    rounds=5,
    turn=0.001,
    pyperf=("--processes", "1", "--values", "1", "--warmups", "0", "--min-time", "0.001"),
    alone=(peers.DOGPILE,),
)


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    alone = _alone(size, scratch)
    in_turn: dict[str, list[float]] = {name: [] for name in CALLS}
    for _ in range(size.processes):
        crowd = Crowd(scratch, patience=120)
        crowd.add("all contenders", _take_turns, str(scratch), size.rounds, size.turn)
        for name, costs in crowd.run()[0].reported["costs"].items():
            in_turn[name] += costs
    return scenarios(in_turn, alone)


# Measuring


def _take_turns(track: Track, scratch: str, rounds: int, turn: float) -> None:
    """Measure all contenders in one process, as the one role."""
    with ExitStack() as opened:
        functions = {
            name: opened.enter_context(call.open(Path(tempfile.mkdtemp(dir=scratch))))
            for name, call in CALLS.items()
        }
        track.begin()
        track.reported["costs"] = turns(functions, rounds, turn)


def turns(
    functions: dict[str, TimeFunction], rounds: int, turn: float, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Return the seconds per call of each, once a round; each round begins with another.

    Of processor time: no call here waits, and the time that other processes take meanwhile is not its cost.
    """
    loops = {name: calibrated(timed, turn) for name, timed in functions.items()}
    costs: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for number in range(rounds):
        for name in rotated(names, number):
            started = clock()
            functions[name](loops[name])
            costs[name].append((clock() - started) / loops[name])
    return costs


def calibrated(timed: TimeFunction, seconds: float) -> int:
    """Return how many calls take about so many seconds.

    The quicker of two runs counts: the first calls open files, and a few later ones check them.
    """
    loops = 1
    while (took := min(timed(loops), timed(loops))) < seconds / 2:
        loops *= 2
    return max(1, round(loops * seconds / took))


def _alone(size: Size, scratch: Path) -> dict[str, list[float]]:
    """Return the seconds per call, as pyperf measured them. Its file is kept without its metadata, which name the
    host."""
    file = scratch / "pyperf.json"
    command = [sys.executable, "-m", "benchmarks.with_pyperf", "--quiet", "--copy-env", "--output", str(file)]
    command += [*size.pyperf, "--scratch", str(scratch), "--calls", json.dumps(size.alone)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=600)
    kept = scratch / KEPT
    kept.mkdir()
    convert = [sys.executable, "-m", "pyperf", "convert", "--remove-all-metadata", str(file)]
    subprocess.run([*convert, "--output", str(kept / file.name)], check=True, stdout=subprocess.DEVNULL)
    import pyperf

    suite = pyperf.BenchmarkSuite.load(str(file))
    return {benchmark.get_name(): list(benchmark.get_values()) for benchmark in suite.get_benchmarks()}


# Computing


def scenarios(in_turn: dict[str, list[float]], alone: dict[str, list[float]]) -> list[Scenario]:
    """Return the four rows, from the seconds per call of each contender."""

    def bar(text: str, one: str, other: str, at_most: float | None = None, at_least: float | None = None) -> Bar:
        ratio = paired(in_turn[one], in_turn[other])
        if at_most is not None:
            return Bar(f"{text}: at most {at_most:g} times", at_most, "at most", ratio)
        assert at_least is not None
        return Bar(f"{text}: at least {at_least:g} times", at_least, "at least", ratio)

    rows = {
        1: Scenario(
            number=1,
            title="Fresh pass",
            setting="One ``with`` block after the other; the resource is fresh. The plain locks below are taken "
            "and given back, which does not show whether it is fresh.",
            ours=[peers.DOGPILE, calls.THREAD],
            limit=calls.PREAD,
            bars=[
                bar("Dogpile against dogpile.Lock with a thread mutex", peers.DOGPILE, calls.NEW_LOCK, 1.3),
                bar("the same, its Lock object kept between passes", peers.DOGPILE, calls.KEPT_LOCK, 1.3),
                bar("a hit of memoize_stampede against Dogpile", peers.STAMPEDE, peers.DOGPILE, at_least=20),
            ],
            notes=[
                "dogpile.cache makes a new ``dogpile.Lock`` at every pass, so that is how it is measured first; "
                "it coordinates the threads of one process, without a system call.",
                f"The dbm backend uses ``{_dbm()}`` here.",
            ],
        ),
        2: Scenario(
            number=2,
            title="Fresh pass as a reader",
            setting="As row 1, but no writer may come in during the block. There are no other processes.",
            ours=[peers.READER],
            limit=calls.FLOCK_PAIR,
            bars=[
                bar("SyncReaderDogpile against a bare flock pair", peers.READER, calls.FLOCK_PAIR, 3.0),
                bar("fasteners against it", peers.FASTENERS_RW, peers.READER, at_least=7),
                bar("filelock's ReadWriteLock against it", peers.FILELOCK_RW, peers.READER, at_least=60),
            ],
            notes=[
                "The peers and the bare flock only lock; SyncReaderDogpile also checks that it is fresh.",
                "diskcache and ``filelock.FileLock`` have no shared lock; dogpile.cache's ``FileLock`` is a bare "
                "flock.",
            ],
        ),
        3: Scenario(
            number=3,
            title="Stale pass while another process creates",
            setting="As row 1, but the resource is stale, and another process is inside its creator.",
            ours=[calls.STALE, calls.STALE_READER, peers.DOGPILE],
            bars=[bar("stale against fresh (row 1)", calls.STALE, peers.DOGPILE, 1.5)],
            notes=[
                "memoize_stampede has no stale passes: it creates anew before it expires. A caller that comes "
                "while a plain lock is held waits."
            ],
        ),
        4: Scenario(
            number=4,
            title="Datafile.load with nothing new",
            setting="Parsed once already; the call has to check that no other version is there. A JSON file of "
            "100 numbers.",
            ours=[calls.LOAD, peers.DOGPILE],
            limit=calls.COMPARE,
            bars=[bar("load against a fresh pass (row 1)", calls.LOAD, peers.DOGPILE, 1.5)],
            notes=["Comparing the mtime shows neither whether it is fresh nor which process is to create it."],
        ),
    }
    for number, scenario in rows.items():
        reference = scenario.ours[0]
        for call in CALLS.values():
            if number not in call.rows:
                continue
            name = call.name
            scenario.figures.append(Figure(name, IN_TURN, SECONDS, Spread.of(in_turn[name])))
            if name in alone:
                scenario.figures.append(Figure(name, ALONE, SECONDS, Spread.of(alone[name])))
            if name != reference:
                ratio = paired(in_turn[name], in_turn[reference])
                scenario.ratios.append(Ratio(name, reference, IN_TURN, ratio))
        scenario.checks.append(Check("no pass that was measured created anything", True, "0 creations"))
        scenario.plots.append(
            Plot("bars", f"{scenario.title}: seconds per pass", IN_TURN, x="seconds", logarithmic=True)
        )
    return list(rows.values())


def _dbm() -> str:
    import dbm

    for name in ("dbm.sqlite3", "dbm.gnu", "dbm.ndbm"):  # the order in which the library looks
        try:
            __import__(name)
        except ImportError:
            continue
        return name
    return dbm.__name__ + ".dumb"
