"""Ways to let one of many processes create while the others wait or pass: ours, the peers', and those by hand.

Plain locks are no dogpile locks. They are used as programs use them by hand: look whether it is fresh, lock, look
again, create. Then a caller that comes while another creates waits, because a plain lock does not know whether
there is a stale version.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders.peers import DBM, DOGPILE, LOCKS, OVER_FILELOCK, READER, STAMPEDE, Block

__all__ = ["ELECTIONS", "Election", "FileLockMutex", "JsonSidecar", "dogpile_lock"]


@dataclass(frozen=True)
class Election:
    """One way to let one of many processes create while the others wait or pass."""

    name: str
    #: Called by each process with a path, its creator and the expiretime; returns the function for each pass.
    open: Callable[[str, Callable[[], object], float | None], Callable[[], object]]


# The arguments of dogpile.Lock


def dogpile_lock() -> Any:
    """``dogpile.Lock``, whose methods are not annotated."""
    from dogpile.lock import Lock

    return Lock


class FileLockMutex:
    """A ``filelock.FileLock`` in the shape that ``dogpile.Lock`` expects of a mutex."""

    def __init__(self, path: str) -> None:
        from filelock import FileLock, Timeout

        self._lock = FileLock(path)
        self._refused = Timeout

    def acquire(self, wait: bool = True) -> bool:
        try:
            self._lock.acquire(blocking=wait)
        except self._refused:
            return False
        return True

    def release(self) -> None:
        self._lock.release()


class JsonSidecar:
    """The createdtime in a JSON file, in the form in which ``dogpile.Lock`` needs it."""

    def __init__(self, path: str, creator: Callable[[], object]) -> None:
        from dogpile.lock import NeedRegenerationException

        self.path = path
        self._creator = creator
        self._nothing = NeedRegenerationException

    def value_and_createdtime(self) -> tuple[None, float]:
        try:
            with open(self.path) as file:
                return None, json.load(file)["createdtime"]
        except FileNotFoundError:
            raise self._nothing from None

    def create(self) -> tuple[None, float]:
        self._creator()
        return self.stamp(time.time())

    def stamp(self, createdtime: float) -> tuple[None, float]:
        new = f"{self.path}.{os.getpid()}"
        with open(new, "w") as file:
            json.dump({"createdtime": createdtime}, file)
        os.replace(new, self.path)
        return None, createdtime


# Each of them


def _by_hand(make: Callable[[str], Block]) -> Callable[..., Callable[[], object]]:
    """Look, lock, look again, create: the mtime of a file of its own is the stamp."""

    def opened(path: str, creator: Callable[[], object], expiretime: float | None) -> Callable[[], object]:
        lock = make(path + ".lock")
        stamp = path + ".stamp"
        lifetime = float("inf") if expiretime is None else expiretime

        def is_fresh() -> bool:
            try:
                return time.time() - os.stat(stamp).st_mtime < lifetime
            except FileNotFoundError:
                return False

        def once() -> None:
            if not is_fresh():
                with lock:
                    if not is_fresh():
                        creator()
                        with open(stamp, "w"):
                            os.utime(stamp)

        return once

    return opened


def _dogpile(path: str, creator: Callable[[], object], expiretime: float | None) -> Callable[[], object]:
    from dogpile_fs import Dogpile

    dogpile = Dogpile(expiretime, path)

    def once() -> None:
        with dogpile.acquire(creator):
            pass

    return once


def _sync_reader(path: str, creator: Callable[[], object], expiretime: float | None) -> Callable[[], object]:
    from dogpile_fs import SyncReaderDogpile

    dogpile = SyncReaderDogpile(expiretime, path)

    def once() -> None:
        with dogpile.acquire(creator):
            pass

    return once


def _over_filelock(path: str, creator: Callable[[], object], expiretime: float | None) -> Callable[[], object]:
    lock = dogpile_lock()
    mutex = FileLockMutex(path + ".lock")
    sidecar = JsonSidecar(path + ".json", creator)

    def once() -> None:
        with lock(mutex, sidecar.create, sidecar.value_and_createdtime, expiretime):
            pass

    return once


def _dbm(path: str, creator: Callable[[], object], expiretime: float | None) -> Callable[[], object]:
    from dogpile.cache import make_region

    region = make_region().configure(
        "dogpile.cache.dbm", expiration_time=expiretime, arguments={"filename": path + ".dbm"}
    )
    return lambda: region.get_or_create("key", creator)


def _stampede(path: str, creator: Callable[[], object], expiretime: float | None) -> Callable[[], object]:
    import diskcache

    cache = diskcache.Cache(path + ".cache")
    cached: Callable[[], object] = diskcache.memoize_stampede(cache, expiretime, name="creator")(creator)
    return cached


ELECTIONS: dict[str, Election] = {
    election.name: election
    for election in (
        Election(DOGPILE, _dogpile),
        Election(READER, _sync_reader),
        Election(OVER_FILELOCK, _over_filelock),
        Election(DBM, _dbm),
        Election(STAMPEDE, _stampede),
        *(Election(f"{name}, by hand", _by_hand(make)) for name, make in LOCKS.items()),
    )
}
