"""One process under stress: threads, tasks and forks use a few resources whose sidecars another program replaces.

Twelve threads and twelve tasks acquire, read, load, refresh, invalidate and ask; children are forked in the middle
of it and do the same; beside them another process deletes the sidecars, or puts a copy of an older one in their
place. The resources can be told apart by their expiretimes and contents. What must hold: no call raises anything,
no record and no contents are those of another resource, and at the end no descriptor is left.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dogpile_fs import DataDirectory, Datafile, Dogpile, SyncReaderDogpile

__all__ = ["Stress", "main"]

_THREADS = 12
_TASKS = 12
_RESOURCES = 8
#: Expiretime in seconds of the first resource: its own, by which its record is known.
_FIRST_EXPIRETIME = 5000.0
_TIMEOUT = 30.0


def _contents(number: int) -> bytes:
    return b"resource %d\n" % number * 400


class Resource:
    """One path with all that can be asked of it."""

    def __init__(self, directory: str, number: int) -> None:
        self.number = number
        self.expiretime = _FIRST_EXPIRETIME + number
        self.path = os.path.join(directory, f"resource-{number}")
        arguments = (self.path, self.expiretime, self._create)
        self.dogpile: Dogpile | None = None
        self.datafile: Datafile | DataDirectory | None = None
        match number % 4:
            case 0:
                self.dogpile = Dogpile(self.expiretime, self.path, timeout=_TIMEOUT)
            case 1:
                self.dogpile = SyncReaderDogpile(self.expiretime, self.path, timeout=_TIMEOUT)
            case 2:
                # Without a backoff: an older sidecar that is put back tells of creations that seem to have died.
                self.datafile = Datafile(*arguments, timeout=_TIMEOUT, durable=False, backoff=None)
            case _:
                self.datafile = DataDirectory(*arguments, timeout=_TIMEOUT, durable=False, backoff=None)

    def _create(self, target: str) -> None:
        if self.number % 4 == 3:
            os.mkdir(target)
            target = os.path.join(target, "file")
        Path(target).write_bytes(_contents(self.number))

    def _swap(self) -> None:
        if isinstance(self.dogpile, SyncReaderDogpile):
            with self.dogpile.acquire_write_lock(timeout=_TIMEOUT):
                pass

    def use(self, random: random.Random, *, in_task: bool) -> str:
        """Do one thing with it; its name."""
        return self._use_dogpile(random, in_task) if self.dogpile is not None else self._use_datafile(random)

    def _use_dogpile(self, random: random.Random, in_task: bool) -> str:
        dogpile = self.dogpile
        assert dogpile is not None
        chance = random.random()
        if chance < 0.8:
            with dogpile.acquire(self._swap):
                if not in_task and chance < 0.01:
                    time.sleep(0.001)
            return "acquire"
        if chance < 0.9:
            dogpile.refresh(self._swap, force=chance < 0.82)
            return "refresh"
        if chance < 0.95:
            dogpile.invalidate(hard=chance < 0.91)
            return "invalidate"
        self.check(dogpile)
        return "status"

    def _use_datafile(self, random: random.Random) -> str:
        datafile = self.datafile
        assert datafile is not None
        chance = random.random()
        if chance < 0.5:
            got = datafile.load(_loaded)
            assert got == _contents(self.number), f"load gave {got[:20]!r} for {self.path}"
            return "load"
        if chance < 0.8:
            with datafile.open() as given:
                got = given.read() if not isinstance(given, str) else Path(given, "file").read_bytes()
            assert got == _contents(self.number), f"open gave {got[:20]!r} for {self.path}"
            return "open"
        if chance < 0.9:
            datafile.refresh(force=chance < 0.82)
            return "refresh"
        if chance < 0.95:
            datafile.invalidate(hard=chance < 0.91)
            return "invalidate"
        self.check(datafile._dogpile)
        return "status"

    def check(self, dogpile: Dogpile) -> None:
        """See that the record is its own."""
        expiretime = dogpile.status().expiretime
        assert expiretime in (None, self.expiretime), f"{self.path} has the record of another: {expiretime}"


def _loaded(given: object) -> bytes:
    return given.read() if hasattr(given, "read") else Path(str(given), "file").read_bytes()


class Stress:
    """What is done in one directory for some seconds; *errors*: what should not have happened."""

    def __init__(self, directory: str, seconds: float, seed: int, *, forks: bool = True) -> None:
        self._forks = forks
        self._directory = directory
        self._seed = seed
        self._end = time.monotonic() + seconds
        self.resources = [Resource(directory, number) for number in range(_RESOURCES)]
        self.errors: list[str] = []
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        """Do it."""
        before = len(os.listdir("/proc/self/fd"))
        for number in range(len(self.resources)):
            self.resources[number].use(random.Random(0), in_task=False)
        replacing = self._forked(self._replace_sidecars)
        threads = [threading.Thread(target=self._in_thread, args=(number,)) for number in range(_THREADS)]
        threads.append(threading.Thread(target=self._in_tasks))
        for thread in threads:
            thread.start()
        while not self._is_over():
            if self._forks:
                self._reap(self._forked(self._in_child))
            else:
                time.sleep(0.1)
        for thread in threads:
            thread.join(4 * _TIMEOUT)
            if thread.is_alive():
                self.errors.append(f"{thread.name} hangs")
        self._reap(replacing)
        left = len(os.listdir("/proc/self/fd"))
        self.resources.clear()
        gc.collect()  # a resource and its creator refer to each other
        self.counts["descriptors kept"] = left - before
        after = len(os.listdir("/proc/self/fd"))
        if after > before:
            kept = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_link(fd)]
            self.errors.append(f"{after - before} descriptors are left: {kept}")

    def _is_over(self) -> bool:
        return time.monotonic() >= self._end or len(self.errors) > 20

    def _in_thread(self, number: int) -> None:
        random_ = random.Random(self._seed * 1000 + number)
        while not self._is_over():
            self._use_one(random_, in_task=False)

    def _use_one(self, random: random.Random, *, in_task: bool) -> None:
        resource = random.choice(self.resources)
        try:
            self.counts[resource.use(random, in_task=in_task)] += 1
        except BaseException:
            self.errors.append(traceback.format_exc())

    def _in_tasks(self) -> None:
        async def task(number: int) -> None:
            random_ = random.Random(self._seed * 1000 + 500 + number)
            while not self._is_over():
                self._use_one(random_, in_task=True)
                await asyncio.sleep(0)

        async def tasks() -> None:
            await asyncio.gather(*(task(number) for number in range(_TASKS)))

        asyncio.run(tasks())

    def _forked(self, action: Callable[[], None]) -> int:
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            action()
            status = 1 if self.errors else 0
        except BaseException:
            traceback.print_exc()
        finally:
            for error in self.errors:
                print(error, file=sys.stderr, flush=True)
            os._exit(status)

    def _in_child(self) -> None:
        self.errors.clear()
        random_ = random.Random(os.getpid())
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            self._use_one(random_, in_task=False)

    def _reap(self, pid: int) -> None:
        until = time.monotonic() + 4 * _TIMEOUT
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() > until:
                os.kill(pid, signal.SIGABRT)
            time.sleep(0.01)
        self.counts["children"] += 1
        if status != 0:
            self.errors.append(f"a child ended with {os.waitstatus_to_exitcode(status)}")

    def _replace_sidecars(self) -> None:
        """Be another program that deletes sidecars, and puts older copies back."""
        random_ = random.Random(self._seed)
        while not self._is_over():
            path = random_.choice(self.resources).path + ".dogpile"
            with suppress(FileNotFoundError):
                if random_.random() < 0.2:
                    os.unlink(path)
                else:
                    shutil.copy(path, path + ".copy")
                    os.replace(path + ".copy", path)
            time.sleep(0.0005)


def _is_link(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--no-forks",
        action="store_true",
        help="for a free-threaded Python, whose own locks may stay held in a forked child",
    )
    options = parser.parse_args()
    logging.getLogger("dogpile_fs").setLevel(logging.CRITICAL)
    faulthandler.enable()  # a child that hangs is ended by SIGABRT, and shows where it was
    sys.setswitchinterval(1e-4)
    with tempfile.TemporaryDirectory() as directory:
        stress = Stress(directory, options.seconds, options.seed, forks=not options.no_forks)
        stress.run()
    print("RESULT " + json.dumps({**stress.counts, "violations": stress.errors}))
    return int(bool(stress.errors))


if __name__ == "__main__":
    sys.exit(main())
