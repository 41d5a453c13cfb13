"""The parts of a pass, of a reader's pass and of a creation, each measured by itself.

``python benchmarks/parts.py`` prints the tables that docs/benchmarks.rst has under "Where the time goes". The rows
compare the whole with the peers.
"""

from __future__ import annotations

import fcntl
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

# Run as a script, this file's own directory is on the path, but the package benchmarks is that directory itself.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.contenders import elections  # noqa: E402
from dogpile_fs import Datafile, Dogpile, SyncReaderDogpile  # noqa: E402
from dogpile_fs._os import byterange  # noqa: E402

_LOOPS, _ROUNDS = 4000, 60
_CREATIONS = 300
#: Passes in each round that come _GAP seconds after the one before, and seconds until a sidecar counts as settled.
_SELDOM, _GAP, _UNSETTLED = 20, 0.011, 3.1


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="parts-") as place:
        names = _parts(place)
        width = max(map(len, names))
        for name, costs in _measured(names).items():
            print(f"{name:{width}}  {statistics.median(costs):6.0f} ns  (least {min(costs):.0f})")
        print()
        for durable in (False, True):
            _print_creation(place, durable)


def _parts(place: str) -> dict[str, Callable[[int], float]]:
    record, lock = f"{place}/record", f"{place}/lock"
    fd = os.open(record, os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, bytes(2048), 0)
    quiet = os.open(record, os.O_RDONLY | os.O_NOATIME)
    locked = os.open(lock, os.O_RDWR | os.O_CREAT)
    created = None, time.time()
    dogpile = Dogpile(3600, f"{place}/resource", init=True)
    reader = SyncReaderDogpile(3600, f"{place}/read", init=True)
    given: dict[str, Any] = {
        "os": os,
        "time": time,
        "fcntl": fcntl,
        "fd": fd,
        "quiet": quiet,
        "locked": locked,
        "ask": byterange.IS_EXCLUSIVELY_LOCKED[0],
        "guard": threading.Lock(),
        "reentrant": threading.RLock(),
        "empty": _Empty(),
        "Lock": elections.dogpile_lock(),
        "created": lambda: created,
        "creator": lambda: None,
        "dogpile": dogpile,
        "reader": reader,
        "path": record,
    }
    statements = {
        "os.getppid, the least that a system call costs": "os.getppid()",
        "os.lseek to the end": "os.lseek(fd, 0, 2)",
        "os.pread of 18 bytes": "os.pread(fd, 18, 494)",
        "os.pread of 2048 bytes": "os.pread(fd, 2048, 0)",
        "os.pread of 2048 bytes, O_NOATIME": "os.pread(quiet, 2048, 0)",
        "os.fstat": "os.fstat(fd)",
        "os.stat of a path": "os.stat(path)",
        "time.time": "time.time()",
        "fcntl F_OFD_GETLK (does a writer wait?)": "fcntl.fcntl(locked, fcntl.F_OFD_GETLK, ask)",
        "flock, shared and unlock": "fcntl.flock(locked, 1); fcntl.flock(locked, 8)",
        "with threading.Lock()": "with guard: pass",
        "with threading.RLock()": "with reentrant: pass",
        "with an object whose methods do nothing": "with empty: pass",
        "dogpile.Lock made and passed, thread mutex": "with Lock(guard, creator, created, 3600): pass",
        "Dogpile passed": "with dogpile.acquire(creator): pass",
        "SyncReaderDogpile passed": "with reader.acquire(creator): pass",
    }
    parts = {"an empty loop": _timed("pass", given)} | {name: _timed(s, given) for name, s in statements.items()}
    time.sleep(_UNSETTLED)
    for kind in (dogpile, reader):
        parts[f"{type(kind).__name__} passed, {_GAP * 1e3:.0f} ms after the last pass"] = _seldom(kind)
    return parts


class _Empty:
    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *about: object) -> None:
        pass


def _timed(statement: str, given: dict[str, Any]) -> Callable[[int], float]:
    names = {**given, "perf_counter": perf_counter}
    loop = f" for _ in range(n):\n  {statement}\n"
    exec(f"def timed(n):\n begin = perf_counter()\n{loop} return perf_counter() - begin", names)
    timed: Callable[[int], float] = names["timed"]
    return timed


def _seldom(dogpile: Dogpile) -> Callable[[int], float]:
    """Return a function that times passes which come so seldom that the guard of the last one is over."""

    def timed(n: int) -> float:
        spent = 0.0
        for _ in range(_SELDOM):
            time.sleep(_GAP)
            begin = perf_counter()
            with dogpile.acquire(lambda: None):
                pass
            spent += perf_counter() - begin
        return spent / _SELDOM * n

    return timed


def _measured(parts: dict[str, Callable[[int], float]]) -> dict[str, list[float]]:
    """Return nanoseconds of each part, round by round, without those of the loop."""
    found: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(_ROUNDS):
        for name, timed in parts.items():
            found[name].append(timed(_LOOPS) / _LOOPS * 1e9)
    loop = statistics.median(found.pop("an empty loop"))
    return {name: [cost - loop for cost in costs] for name, costs in found.items()}


def _print_creation(place: str, durable: bool) -> None:
    """Print the time in the system calls of a forced refresh of 1 MB, and the rest: Python."""
    piece = os.urandom(1 << 20)

    def creator(target: str) -> None:
        with open(target, "wb", buffering=0) as file:
            file.write(piece)

    datafile = Datafile(f"{place}/data-{durable}", 3600, creator, durable=durable)
    for _ in range(10):
        datafile.refresh(force=True)
    spent: dict[str, list[float]] = {}
    real = {name: getattr(os, name) for name in _CALLS}
    for name, function in real.items():
        setattr(os, name, _watched(function, spent.setdefault(name, [])))
    whole = []
    try:
        for _ in range(_CREATIONS):
            os.sync()
            begin = perf_counter()
            datafile.refresh(force=True)
            whole.append(perf_counter() - begin)
    finally:
        for name, function in real.items():
            setattr(os, name, function)
    total = statistics.mean(whole) * 1e6
    print(f"a creation of 1 MB, {'durable' if durable else 'not durable'}: {total:.0f} us on average; of these")
    for name, costs in sorted(spent.items(), key=lambda item: -sum(item[1])):
        if costs:
            per_creation = sum(costs) / _CREATIONS * 1e6
            print(f"  os.{name:8} {len(costs) / _CREATIONS:5.1f} times {per_creation:7.0f} us")
    rest = total - sum(map(sum, spent.values())) / _CREATIONS * 1e6
    print(f"  {'the rest':11} {'':5}       {rest:7.0f} us: Python, the creator's write, flock")


_CALLS = ("replace", "open", "close", "pread", "pwrite", "lseek", "fsync", "stat", "lstat", "fstat", "listdir")


def _watched(function: Callable[..., Any], costs: list[float]) -> Callable[..., Any]:
    def watched(*args: Any, **options: Any) -> Any:
        begin = perf_counter()
        try:
            return function(*args, **options)
        finally:
            costs.append(perf_counter() - begin)

    return watched


if __name__ == "__main__":
    main()
