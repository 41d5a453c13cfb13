"""The contenders of rows 1 to 4, each as a function that calls it so many times and returns the seconds it took.

The loops are where a user would write them, so that a call costs here what it costs there. They come in four
shapes, and contenders of one shape pay the same for the loop.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fcntl import LOCK_SH, LOCK_UN, flock
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.contenders import elections, peers
from benchmarks.measuring.harness import meanwhile

__all__ = ["CALLS", "Call", "TimeFunction"]

#: Called with a number of calls to make; returns the seconds that they took together.
TimeFunction = Callable[[int], float]

_HOUR = 3600
_LONG_AGO = 10 * _HOUR

PREAD = "bare pread of 2048 bytes"
KEPT_LOCK = "dogpile.Lock, thread mutex, object kept"
NEW_LOCK = "dogpile.Lock, thread mutex"


@dataclass(frozen=True)
class Call:
    """One contender of the rows *rows*; *open* prepares it in a directory of its own."""

    name: str
    rows: tuple[int, ...]
    open: Callable[[Path], AbstractContextManager[TimeFunction]]


def _acquiring(dogpile: Any, creator: Callable[[], object]) -> TimeFunction:
    def timed(loops: int) -> float:
        numbers = range(loops)
        started = perf_counter()
        for _ in numbers:
            with dogpile.acquire(creator):
                pass
        return perf_counter() - started

    return timed


def _blocks(block: AbstractContextManager[Any]) -> TimeFunction:
    def timed(loops: int) -> float:
        numbers = range(loops)
        started = perf_counter()
        for _ in numbers:
            with block:
                pass
        return perf_counter() - started

    return timed


def _made_blocks(make: Callable[[], AbstractContextManager[Any]]) -> TimeFunction:
    def timed(loops: int) -> float:
        numbers = range(loops)
        started = perf_counter()
        for _ in numbers:
            with make():
                pass
        return perf_counter() - started

    return timed


def _calls(function: Callable[[], object]) -> TimeFunction:
    def timed(loops: int) -> float:
        numbers = range(loops)
        started = perf_counter()
        for _ in numbers:
            function()
        return perf_counter() - started

    return timed


def _never() -> None:
    raise AssertionError("a pass that is measured must not create")


# Row 1: fresh


@contextmanager
def _dogpile(place: Path) -> Iterator[TimeFunction]:
    from dogpile_fs import Dogpile

    yield _acquiring(Dogpile(_HOUR, place / "resource", init=True), _never)


@contextmanager
def _thread_dogpile(place: Path) -> Iterator[TimeFunction]:
    from dogpile_fs import Dogpile

    yield _acquiring(Dogpile(_HOUR, init=True), _never)


@contextmanager
def _thread_lock(place: Path, *, kept: bool, stale: bool = False) -> Iterator[TimeFunction]:
    """``dogpile.Lock`` with a thread mutex. dogpile.cache makes one at every pass; keeping it is cheaper."""
    lock = elections.dogpile_lock()
    mutex = threading.Lock()
    created = None, time.time() - (_LONG_AGO if stale else 0)
    arguments = mutex, _never, lambda: created, _HOUR
    if stale:
        mutex.acquire()
    if kept:
        yield _blocks(lock(*arguments))
        return

    def timed(loops: int) -> float:
        numbers = range(loops)
        mutex, creator, value_and_created, expiretime = arguments
        started = perf_counter()
        for _ in numbers:
            with lock(mutex, creator, value_and_created, expiretime):
                pass
        return perf_counter() - started

    yield timed


@contextmanager
def _election(place: Path, *, name: str) -> Iterator[TimeFunction]:
    """Yield calls of an election that has created once, and is fresh."""
    once = elections.ELECTIONS[name].open(str(place / "resource"), lambda: None, _HOUR)
    once()
    yield _calls(once)


@contextmanager
def _lock(place: Path, *, name: str) -> Iterator[TimeFunction]:
    yield _blocks(peers.LOCKS[name](str(place / "lock")))


@contextmanager
def _pread(place: Path) -> Iterator[TimeFunction]:
    fd = os.open(place / "record", os.O_RDWR | os.O_CREAT, 0o666)
    os.write(fd, bytes(2048))
    yield _calls(partial(os.pread, fd, 2048, 0))
    os.close(fd)


# Row 2: fresh, as a reader


@contextmanager
def _sync_reader(place: Path) -> Iterator[TimeFunction]:
    from dogpile_fs import SyncReaderDogpile

    yield _acquiring(SyncReaderDogpile(_HOUR, place / "resource", init=True), _never)


@contextmanager
def _flock_pair(place: Path) -> Iterator[TimeFunction]:
    fd = os.open(place / "lock", os.O_RDWR | os.O_CREAT, 0o666)

    def timed(loops: int) -> float:
        numbers = range(loops)
        started = perf_counter()
        for _ in numbers:
            flock(fd, LOCK_SH)
            flock(fd, LOCK_UN)
        return perf_counter() - started

    yield timed
    os.close(fd)


@contextmanager
def _reading(place: Path, *, name: str) -> Iterator[TimeFunction]:
    yield _made_blocks(peers.READ_WRITE[name].open(str(place / "lock"))[0])


@contextmanager
def _shared_portalocker(place: Path) -> Iterator[TimeFunction]:
    import portalocker

    path = place / "lock"
    path.touch()
    yield _blocks(portalocker.Lock(path, "rb", flags=portalocker.LockFlags.SHARED))


# Row 3: stale, and another process creates


@contextmanager
def _stale(place: Path, *, kind: str) -> Iterator[TimeFunction]:
    import dogpile_fs

    def opened() -> Any:
        return getattr(dogpile_fs, kind)(_HOUR, place / "resource")

    dogpile = opened()
    dogpile.createdtime = time.time() - _LONG_AGO
    with meanwhile(lambda block: opened().refresh(block)):
        yield _acquiring(dogpile, _never)


@contextmanager
def _stale_over_filelock(place: Path) -> Iterator[TimeFunction]:
    lock = elections.dogpile_lock()
    mutex = elections.FileLockMutex(str(place / "resource.lock"))
    sidecar = elections.JsonSidecar(str(place / "resource.json"), _never)
    sidecar.stamp(time.time() - _LONG_AGO)

    def create(block: Callable[[], None]) -> None:
        held = elections.FileLockMutex(str(place / "resource.lock"))  # given back when the object goes
        held.acquire()
        block()

    with meanwhile(create):
        yield _made_blocks(lambda: lock(mutex, sidecar.create, sidecar.value_and_createdtime, _HOUR))


# Row 4: the parsed object of the last time, as long as there is no new version


def _make_datafile(path: str) -> None:
    with open(path, "w") as file:
        json.dump({"rows": list(range(100))}, file)


@contextmanager
def _load(place: Path) -> Iterator[TimeFunction]:
    from dogpile_fs import Datafile

    datafile = Datafile(place / "report.json", _HOUR, _make_datafile)
    datafile.load(json.load)

    def timed(loops: int) -> float:
        numbers = range(loops)
        load = json.load
        started = perf_counter()
        for _ in numbers:
            datafile.load(load)
        return perf_counter() - started

    yield timed


@contextmanager
def _parse_every_time(place: Path) -> Iterator[TimeFunction]:
    path = str(place / "report.json")
    _make_datafile(path)

    def load() -> object:
        with open(path, "rb") as file:
            return json.load(file)

    yield _calls(load)


@contextmanager
def _compare_mtime(place: Path) -> Iterator[TimeFunction]:
    path = str(place / "report.json")
    _make_datafile(path)
    seen, parsed = -1, None

    def load() -> object:
        nonlocal seen, parsed
        mtime = os.stat(path).st_mtime_ns
        if mtime != seen:
            with open(path, "rb") as file:
                seen, parsed = mtime, json.load(file)
        return parsed

    yield _calls(load)


LOAD = "Datafile.load"
COMPARE = "os.stat, compare, keep"
PARSE = "open and parse each time"
THREAD = "Dogpile, thread scope"
STALE = "Dogpile, stale"
STALE_READER = "SyncReaderDogpile, stale"
STALE_LOCK = "dogpile.Lock, thread mutex, stale"
STALE_OVER_FILELOCK = "dogpile.Lock over filelock, stale"
SHARED_PORTALOCKER = "portalocker Lock, shared"
FLOCK_PAIR = "bare flock, shared and unlock"

CALLS: dict[str, Call] = {
    call.name: call
    for call in (
        Call(peers.DOGPILE, (1, 3, 4), _dogpile),
        Call(THREAD, (1,), _thread_dogpile),
        Call(PREAD, (1,), _pread),
        Call(KEPT_LOCK, (1,), partial(_thread_lock, kept=True)),
        Call(NEW_LOCK, (1,), partial(_thread_lock, kept=False)),
        Call(peers.OVER_FILELOCK, (1,), partial(_election, name=peers.OVER_FILELOCK)),
        Call(peers.DBM, (1, 4), partial(_election, name=peers.DBM)),
        Call(peers.STAMPEDE, (1, 4), partial(_election, name=peers.STAMPEDE)),
        *(Call(name, (1,), partial(_lock, name=name)) for name in peers.LOCKS),
        Call(peers.READER, (2,), _sync_reader),
        Call(FLOCK_PAIR, (2,), _flock_pair),
        Call(SHARED_PORTALOCKER, (2,), _shared_portalocker),
        Call(peers.FASTENERS_RW, (2,), partial(_reading, name=peers.FASTENERS_RW)),
        Call(peers.FILELOCK_RW, (2,), partial(_reading, name=peers.FILELOCK_RW)),
        Call(STALE, (3,), partial(_stale, kind="Dogpile")),
        Call(STALE_READER, (3,), partial(_stale, kind="SyncReaderDogpile")),
        Call(STALE_LOCK, (3,), partial(_thread_lock, kept=False, stale=True)),
        Call(STALE_OVER_FILELOCK, (3,), _stale_over_filelock),
        Call(LOAD, (4,), _load),
        Call(COMPARE, (4,), _compare_mtime),
        Call(PARSE, (4,), _parse_every_time),
    )
}
