"""Processes that swap, stamp, write and invalidate all the time and log it, and the state that the log proves.

A :class:`Story` gives for any moment the versions that must be durable, because their calls had returned, and the
newest that may be there, because their calls had begun.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event as Stop
from pathlib import Path

from dogpile_fs import DataDirectory, Datafile, atomic_write
from tests.support.processes import Processes, Record, ended_well, in_child, wait_for

from .generations import contents, fill_directory

__all__ = ["INDEX", "PLAIN", "REPORT", "SETTINGS", "Moment", "Span", "Story", "swap_for_a_while"]

#: A datafile with one kept version, a file by atomic_write, a directory of data, and one that is no symbolic link.
REPORT, SETTINGS, INDEX, PLAIN = _ALL = ("report.bin", "settings.bin", "index", "plain")

_EXPIRE = 0.02
_SYNC_FILE_RANGE_WRITE = 2


@dataclass
class _Life:
    """The settings of each process."""

    place: Path
    record: Record
    durable: bool
    pause: float
    seed: str
    stop: Stop
    numbers: dict[str, Synchronized[int]]
    mine: int = 0

    def noting(self, what: str, make: Callable[[Path, int], object]) -> Callable[[str], None]:
        """Make the next generation of *what*, and log when. One process at a time calls it."""

        def creator(target: str) -> None:
            number = self.numbers[what].value = self.numbers[what].value + 1
            self.record.write("begun", of=what, number=number, wall=time.time())
            self.mine = number
            make(Path(target), number)

        return creator

    def forever(self, action: Callable[[random.Random], object], what: str = "") -> None:
        """Do *action* again and again. Log it if it called a creator of *what*, and returned."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
        chance = random.Random(f"{self.seed} {multiprocessing.current_process().name}")
        while not self.stop.is_set():
            self.once(lambda: action(chance), what)
            time.sleep(chance.expovariate(1 / self.pause))

    def once(self, action: Callable[[], object], what: str) -> None:
        self.mine = 0
        action()
        if self.mine:
            self.record.write("returned", of=what, number=self.mine, wall=time.time())

    def report(self, expiretime: float | None) -> Datafile:
        creator = self.noting(REPORT, lambda target, number: target.write_bytes(contents(number)))
        return Datafile(self.place / REPORT, expiretime, creator, keep=1, durable=self.durable)

    def settle(self) -> None:
        """Make the first generations."""
        self.once(lambda: self.report(None).refresh(), REPORT)
        self.once(lambda: self.directory(INDEX).refresh(), INDEX)
        self.once(self.settings(), SETTINGS)

    def begin(self) -> None:
        """Make the files that must be there from the beginning, and sync them."""
        if not self.durable:
            self.settle()
        make = self.noting(PLAIN, fill_directory)
        self.once(lambda: make(str(self.place / PLAIN)), PLAIN)
        os.sync()

    def settings(self) -> Callable[[], None]:
        def write(target: Path, number: int) -> None:
            with atomic_write(target, durable=self.durable) as file:
                file.write(contents(number))

        noting = self.noting(SETTINGS, write)
        return lambda: noting(str(self.place / SETTINGS))

    def directory(self, what: str) -> DataDirectory:
        return DataDirectory(self.place / what, None, self.noting(what, fill_directory), durable=self.durable)

    def force(self) -> None:
        report = self.report(None)
        self.forever(lambda _: report.refresh(force=True), REPORT)

    def expire(self) -> None:
        report = self.report(_EXPIRE)

        def read(_: random.Random) -> None:
            with report.open() as file:
                file.read()

        self.forever(read, REPORT)

    def invalidate(self) -> None:
        report = Datafile(self.place / REPORT, None)

        def invalidate(chance: random.Random) -> None:
            self.record.write("invalidating")
            report.invalidate(hard=chance.random() < 0.5)
            self.record.write("invalidated")
            time.sleep(chance.expovariate(1 / 0.05))

        self.forever(invalidate)

    def write(self) -> None:
        write = self.settings()
        self.forever(lambda _: write(), SETTINGS)

    def index(self) -> None:
        index = self.directory(INDEX)
        self.forever(lambda _: index.refresh(force=True), INDEX)

    def plain(self) -> None:
        plain = self.directory(PLAIN)
        self.forever(lambda _: plain.refresh(force=True), PLAIN)

    def neighbour(self) -> None:
        """Another program: its fsync makes the journal commit all names so far, but no other file's contents."""
        with open(self.place / "neighbour", "wb", buffering=0) as file:

            def append(chance: random.Random) -> None:
                file.write(b"data")
                os.fsync(file.fileno())
                time.sleep(chance.expovariate(1 / 0.05))

            self.forever(append)

    def kernel(self) -> None:
        """Write back any file at any time, as the kernel may, with or without the journal's records of it."""

        def write_back(chance: random.Random) -> None:
            sidecar = str(self.place / REPORT) + ".dogpile"
            path = chance.choice([sidecar, *(entry.path for entry in os.scandir(self.place) if entry.is_file())])
            with suppress(FileNotFoundError), open(path, "rb") as file:
                if chance.random() < 0.5:
                    os.fsync(file.fileno())
                else:
                    _start_writing(file.fileno())
            time.sleep(chance.expovariate(1 / 0.01))

        self.forever(write_back)


def _start_writing(fd: int) -> None:
    """Begin to write the contents of a file, and nothing else, to the disk (sync_file_range(2))."""
    ctypes.CDLL(None).sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)


def swap_for_a_while(place: Path, story: Path, seconds: float, seed: str, *, durable: bool) -> Story:
    """Run all processes in the directory *place* for so many seconds.

    :param story: a directory on another disk, for their logs.
    :param durable: the option of their resources. If false, each resource has been there for a while when they
        begin.
    :raises AssertionError: if one of them fails.
    """
    processes = Processes()
    numbers: dict[str, Synchronized[int]] = {what: multiprocessing.Value("q", 0) for what in _ALL}
    pause = 0.004 if durable else 0.02
    life = _Life(place, Record(story), durable, pause, seed, multiprocessing.Event(), numbers)
    works = [
        life.force,
        life.force,
        life.expire,
        life.invalidate,
        life.write,
        life.index,
        life.plain,
        life.neighbour,
    ]
    assert ended_well(in_child(life.begin))
    since = time.monotonic()
    try:
        for work in works + [life.kernel] * durable:
            processes.start(work)
        until = since + seconds
        wait_for(
            lambda: time.monotonic() > until or not all(each.is_alive() for each in processes.started),
            "the end of it",
            seconds + 60,
        )
        until = time.monotonic()
        life.stop.set()
        processes.join()
    finally:
        processes.end()
    return Story(life.record, since, until)


@dataclass(frozen=True)
class Span:
    """When, by the wall clock, the creation of a generation began, and when its call returned (None: never)."""

    begun: float
    returned: float | None


@dataclass(frozen=True)
class Moment:
    """The knowledge at a power cut. Of each resource, the last generation whose call had *returned*, and the last
    that was *begun*; of the datafile when each was created (*reports*), and the last one begun before a successful
    invalidation (*invalidated*).
    """

    returned: dict[str, int]
    begun: dict[str, int]
    reports: dict[int, Span]
    invalidated: int


class Story:
    """The logs of the processes in *record*."""

    def __init__(self, record: Record, since: float, until: float) -> None:
        self.since = since
        self.until = until
        self._events = record.events()

    def at(self, moment: float) -> Moment:
        """Return the knowledge at *moment* of the monotonic clock."""
        returned, begun = dict.fromkeys(_ALL, 0), dict.fromkeys(_ALL, 0)
        spans: dict[int, Span] = {}
        invalidating: dict[int, int] = {}
        invalidated = 0
        for event in self._events:
            if event.at >= moment:
                break
            what, number = event.more.get("of", ""), event.more.get("number", 0)
            if event.what == "begun":
                begun[what] = max(begun[what], number)
                if what == REPORT:
                    spans[number] = Span(event.more["wall"], None)
            elif event.what == "returned":
                returned[what] = max(returned[what], number)
                if what == REPORT:
                    spans[number] = Span(spans[number].begun, event.more["wall"])
            elif event.what == "invalidating":
                invalidating[event.pid] = begun[REPORT]
            elif event.what == "invalidated":
                invalidated = invalidating[event.pid]
        return Moment(returned, begun, spans, invalidated)
