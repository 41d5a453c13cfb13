"""Row 16: the cost of one pass of a task, in an event loop of asyncio that has nothing else to do.

All contenders take turns in one process, as those of rows 1 to 4 do. A loop of a contender runs within one task.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.contenders.calls import TimeFunction
from benchmarks.measuring.harness import Crowd, Track
from benchmarks.measuring.measures import SECONDS, Bar, Check, Figure, Plot, Ratio, Scenario, Spread, paired
from benchmarks.scenarios.rows_01_to_04_single_calls import IN_TURN, turns

__all__ = ["measure", "scenario"]

EMPTY = "empty asynchronous context manager"
AIO, SYNC = "aio.Dogpile", "Dogpile"
AIO_READER, SYNC_READER = "aio.SyncReaderDogpile", "SyncReaderDogpile"
AIO_LOAD, SYNC_LOAD = "aio.Datafile.load", "Datafile.load"
LOCK = "asyncio.Lock"
NAMES = (AIO, SYNC, EMPTY, LOCK, AIO_READER, SYNC_READER, AIO_LOAD, SYNC_LOAD)
MOST = 1.5


@dataclass(frozen=True)
class Size:
    processes: int
    rounds: int
    turn: float  # seconds


FULL = Size(processes=5, rounds=40, turn=0.005)
QUICK = Size(processes=1, rounds=5, turn=0.001)


def measure(quick: bool, scratch: Path) -> list[Scenario]:
    size = QUICK if quick else FULL
    costs: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(size.processes):
        crowd = Crowd(scratch, patience=120)
        crowd.add("all contenders", _take_turns, str(scratch), size.rounds, size.turn)
        for name, some in crowd.run()[0].reported["costs"].items():
            costs[name] += some
    return [scenario(costs)]


def _take_turns(track: Track, scratch: str, rounds: int, turn: float) -> None:
    with asyncio.Runner() as runner:
        functions = {
            name: _in_loop(runner, call) for name, call in _contenders(Path(tempfile.mkdtemp(dir=scratch))).items()
        }
        track.begin()
        track.reported["costs"] = turns(functions, rounds, turn)


def _in_loop(runner: asyncio.Runner, call: Callable[[int], Awaitable[float]]) -> TimeFunction:
    async def run(loops: int) -> float:
        return await call(loops)

    return lambda loops: runner.run(run(loops))


class _Empty:
    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *error: object) -> None:
        pass


def _never() -> None:
    raise AssertionError("a pass that is measured must not create")


def _make(path: str) -> None:
    with open(path, "w") as file:
        json.dump({"rows": list(range(100))}, file)


def _contenders(place: Path) -> dict[str, Callable[[int], Awaitable[float]]]:
    import dogpile_fs
    from dogpile_fs import aio

    hour = 3600
    path = place / "resource"
    file = place / "report.json"
    dogpile, reader = dogpile_fs.Dogpile(hour, path, init=True), dogpile_fs.SyncReaderDogpile(hour, path)
    dogpile_of_tasks, reader_of_tasks = aio.Dogpile(hour, path), aio.SyncReaderDogpile(hour, path)
    datafile, datafile_of_tasks = dogpile_fs.Datafile(file, hour, _make), aio.Datafile(file, hour, _make)
    empty, lock = _Empty(), asyncio.Lock()

    async def load(loops: int) -> float:
        load = json.load
        started = perf_counter()
        for _ in range(loops):
            datafile.load(load)
        return perf_counter() - started

    async def load_of_tasks(loops: int) -> float:
        load = json.load
        started = perf_counter()
        for _ in range(loops):
            await datafile_of_tasks.load(load)
        return perf_counter() - started

    return {
        AIO: _async_blocks(lambda: dogpile_of_tasks.acquire(_never)),
        SYNC: _blocks(lambda: dogpile.acquire(_never)),
        EMPTY: _async_blocks(lambda: empty),
        LOCK: _async_blocks(lambda: lock),
        AIO_READER: _async_blocks(lambda: reader_of_tasks.acquire(_never)),
        SYNC_READER: _blocks(lambda: reader.acquire(_never)),
        AIO_LOAD: load_of_tasks,
        SYNC_LOAD: load,
    }


def _blocks(make: Callable[[], AbstractContextManager[Any]]) -> Callable[[int], Awaitable[float]]:
    async def timed(loops: int) -> float:
        started = perf_counter()
        for _ in range(loops):
            with make():
                pass
        return perf_counter() - started

    return timed


def _async_blocks(make: Callable[[], AbstractAsyncContextManager[Any]]) -> Callable[[int], Awaitable[float]]:
    async def timed(loops: int) -> float:
        started = perf_counter()
        for _ in range(loops):
            async with make():
                pass
        return perf_counter() - started

    return timed


def scenario(costs: dict[str, list[float]]) -> Scenario:
    """Return the row, from the seconds per call of each contender."""
    together = [one + other for one, other in zip(costs[SYNC], costs[EMPTY], strict=True)]
    row = Scenario(
        number=16,
        title="Fresh pass of a task",
        setting="One ``async with`` block after the other in one task of asyncio; the resource is fresh, and no "
        "pass pauses the task. The synchronous classes run in the same task.",
        ours=[AIO, AIO_READER, AIO_LOAD],
        limit=EMPTY,
        bars=[
            Bar(
                f"aio.Dogpile against Dogpile and an empty asynchronous context manager: at most {MOST:g} times",
                MOST,
                "at most",
                paired(costs[AIO], together),
            )
        ],
        notes=["``asyncio.Lock`` coordinates the tasks of one event loop, and does not know what is fresh."],
    )
    for name in NAMES:
        row.figures.append(Figure(name, IN_TURN, SECONDS, Spread.of(costs[name])))
        if name != AIO:
            row.ratios.append(Ratio(name, AIO, IN_TURN, paired(costs[name], costs[AIO])))
    row.checks.append(Check("no pass that was measured created anything", True, "0 creations"))
    row.plots.append(Plot("bars", f"{row.title}: seconds per pass", IN_TURN, x="seconds", logarithmic=True))
    return row
