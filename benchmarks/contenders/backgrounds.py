"""Ways to be asked for a value whose creator is slow: ours in the background, and those of the peers.

In contrast to :mod:`.elections` the creator here can be imported, because one way runs it in another process.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.contenders.peers import CACHIER, DBM, PROCESS, STAMPEDE, THREAD

__all__ = ["BACKGROUNDS", "Creator", "Value", "datafile"]

#: When the creation of this value began and ended, in nanoseconds on the monotonic clock.
Value = list[int]


@dataclass(frozen=True)
class Creator:
    """A creator that takes so many seconds, and appends the moment at which it begins to a file.

    It has no state in memory, so that all processes may run it.
    """

    begun: Path
    seconds: float

    def create(self) -> Value:
        began = time.monotonic_ns()
        with open(self.begun, "a") as file:
            file.write(f"{began}\n")
        time.sleep(self.seconds)
        return [began, time.monotonic_ns()]

    def __call__(self, target: str) -> None:
        value = self.create()
        with open(target, "w") as file:
            json.dump(value, file)


def datafile(path: Path, creator: Creator, expiretime: float, *, background: Literal["thread", "process"]) -> Any:
    """Return a datafile that is created in the background."""
    from dogpile_fs import Datafile

    return Datafile(path / "value.json", expiretime, creator, background=background)


def _datafile(
    path: Path, creator: Creator, expiretime: float, *, background: Literal["thread", "process"]
) -> Callable[[], Value]:
    return partial(datafile(path, creator, expiretime, background=background).load, json.load)


def _dbm(path: Path, creator: Creator, expiretime: float) -> Callable[[], Value]:
    from dogpile.cache import make_region

    region = make_region().configure(
        "dogpile.cache.dbm", expiration_time=expiretime, arguments={"filename": str(path / "value.dbm")}
    )
    return lambda: region.get_or_create("key", creator.create)


def _stampede(path: Path, creator: Creator, expiretime: float) -> Callable[[], Value]:
    import diskcache

    cache = diskcache.Cache(str(path / "value.cache"))
    cached: Callable[[], Value] = diskcache.memoize_stampede(cache, expiretime, name="creator")(creator.create)
    return cached


def _cachier(path: Path, creator: Creator, expiretime: float) -> Callable[[], Value]:
    from cachier import cachier

    cached: Callable[[], Value] = cachier(
        stale_after=timedelta(seconds=expiretime), next_time=True, cache_dir=path
    )(creator.create)
    return cached


#: Called by each process with a directory, the creator and the expiretime; returns the function for each request.
BACKGROUNDS: dict[str, Callable[[Path, Creator, float], Callable[[], Value]]] = {
    PROCESS: partial(_datafile, background="process"),
    THREAD: partial(_datafile, background="thread"),
    DBM: _dbm,
    STAMPEDE: _stampede,
    CACHIER: _cachier,
}
