"""Swaps by the thousand against processes that read all the time: nothing torn, nothing missing, nothing older."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import BinaryIO

import pytest

from dogpile_fs import DataDirectory, Datafile, atomic_write
from tests.support.places import ours_in
from tests.support.processes import PATIENCE, Processes, Record, wait_for

#: A factor for the numbers of swaps; the endurance environment sets it to 100.
ROUNDS = int(os.environ.get("DOGPILE_FS_ROUNDS", "4"))
SWAPS = 100 * ROUNDS
DURABLE_SWAPS = 10 * ROUNDS
DIRECTORY_SWAPS = 5 * ROUNDS

READERS = 8
WRITERS = 3

_DIGEST = 16


def contents(number: int, writer: int = 0) -> bytes:
    """Version *number* of a file, in a size of its own: no part of two versions together passes for one."""
    filling = bytes([number % 251]) * random.Random(number).randrange(40_000)
    body = b"%02d %08d " % (writer, number) + filling
    return body + blake2b(body, digest_size=_DIGEST).digest()


def writer_and_number(data: bytes) -> tuple[int, int]:
    """Return whose version *data* is and which one, if it is whole."""
    body = data[:-_DIGEST]
    whole = data[-_DIGEST:] == blake2b(body, digest_size=_DIGEST).digest()
    assert whole, f"torn: {len(data)} bytes, that begin with {data[:20]!r} and end with {data[-20:]!r}"
    return int(body[:2]), int(body[3:11])


def number_at(path: str) -> int:
    return writer_and_number(Path(path).read_bytes())[1]


class Seen:
    """What one reader has seen so far: it never sees a version again that was replaced."""

    def __init__(self) -> None:
        self.reads = self.versions = 0
        self.latest: dict[int, int] = {}

    def add(self, writer: int, number: int) -> None:
        latest = self.latest.get(writer, -1)
        assert number >= latest, f"back in time: {number} after {latest} of writer {writer}"
        self.reads += 1
        self.versions += number > latest
        self.latest[writer] = number


def hidden_beside(path: str) -> list[str]:
    """The names of temp files and versions of directories beside *path*."""
    return ours_in(os.path.dirname(path))


# Datafile and atomic_write: a reader that opens the path reads one version.


def _read_a_piece_and_the_rest(file: BinaryIO) -> bytes:
    return file.read(100) + file.read()


def _read_and_verify(path: str, record: Record, stop: str) -> None:
    datafile = Datafile(path)
    seen = Seen()
    record.write("reading")
    while not os.path.exists(stop):
        with datafile.open() as file:
            seen.add(*writer_and_number(_read_a_piece_and_the_rest(file)))
        # Another program opens the path as well: it would notice a moment without a file.
        with open(path, "rb", buffering=0) as plain:
            seen.add(*writer_and_number(plain.read(100) + plain.readall()))
    record.write("has read", reads=seen.reads, versions=seen.versions)


def _refresh(path: str, record: Record, swaps: int, durable: bool, readers: bool) -> None:
    def creator(target: str) -> None:
        Path(target).write_bytes(contents(number_at(path) + 1))

    datafile = Datafile(path, 3600, creator, durable=durable, readers=readers)
    for _ in range(swaps):
        assert datafile.refresh(force=True)
    record.write("has written")


def _write_atomically(path: str, record: Record, swaps: int, durable: bool, writer: int) -> None:
    for number in range(1, swaps + 1):
        data = contents(number, writer)
        with atomic_write(path, durable=durable) as file:
            file.write(data[:100])
            file.flush()
            file.write(data[100:])
    record.write("has written")


def _end_of_writing(processes: Processes, writers: list[BaseProcess], swaps: int) -> None:
    wait_for(
        lambda: not any(writer.is_alive() for writer in writers),
        f"the end of {swaps} swaps",
        PATIENCE + swaps * 0.1,
    )
    processes.join(*writers)


def _end_of_reading(path: str, record: Record, processes: Processes) -> None:
    """Stop the readers; each of them has read, and seen the file change."""
    Path(path + ".stop").touch()
    processes.join()
    ends = record.events("has read")
    print(f"{sum(end.more['reads'] for end in ends)} reads, {[end.more['versions'] for end in ends]} versions")
    assert len(ends) == READERS
    assert all(end.more["versions"] > 1 for end in ends), ends


@pytest.mark.parametrize(("swaps", "durable"), [(SWAPS, False), (DURABLE_SWAPS, True)])
def test_no_reader_finds_a_torn_missing_or_older_file_during_refreshes(
    path: str, record: Record, processes: Processes, swaps: int, durable: bool
) -> None:
    Path(path).write_bytes(contents(0))
    processes.start_many(READERS, _read_and_verify, path, record, path + ".stop")
    record.wait("reading", READERS)
    writers = processes.start_many(2, _refresh, path, record, swaps // 2, durable, False)
    _end_of_writing(processes, writers, swaps)
    _end_of_reading(path, record, processes)
    # Each creator has added one to what it found: none has worked beside another.
    assert number_at(path) == swaps
    assert Datafile(path).status().generation == swaps
    assert hidden_beside(path) == []


@pytest.mark.parametrize(("swaps", "durable"), [(SWAPS, False), (DURABLE_SWAPS, True)])
def test_no_reader_finds_a_torn_missing_or_older_file_during_atomic_writes(
    path: str, record: Record, processes: Processes, swaps: int, durable: bool
) -> None:
    Path(path).write_bytes(contents(0))
    processes.start_many(READERS, _read_and_verify, path, record, path + ".stop")
    record.wait("reading", READERS)
    writers = [
        processes.start(_write_atomically, path, record, swaps // WRITERS, durable, writer)
        for writer in range(1, WRITERS + 1)
    ]
    _end_of_writing(processes, writers, swaps)
    _end_of_reading(path, record, processes)
    assert number_at(path) == swaps // WRITERS
    assert hidden_beside(path) == []


def _read_twice_by_name(path: str, record: Record, stop: str) -> None:
    datafile = Datafile(path, readers=True)
    chance = random.Random(os.getpid())
    seen = Seen()
    record.write("reading")
    while not os.path.exists(stop):
        with datafile.acquire() as name:
            first = number_at(name)
            time.sleep(chance.random() * 0.002)
            assert number_at(name) == first, "swapped while a reader was inside"
        seen.add(0, first)
    record.write("has read", reads=seen.reads, versions=seen.versions)


def test_readers_that_open_the_file_twice_by_name_read_the_same_version(
    path: str, record: Record, processes: Processes
) -> None:
    Path(path).write_bytes(contents(0))
    processes.start_many(READERS, _read_twice_by_name, path, record, path + ".stop")
    record.wait("reading", READERS)
    _end_of_writing(
        processes, [processes.start(_refresh, path, record, DURABLE_SWAPS, False, True)], DURABLE_SWAPS
    )
    _end_of_reading(path, record, processes)
    assert number_at(path) == DURABLE_SWAPS


# load: one object per process and version, and no thread waits for the next one.

_THREADS = 3


class _Loads:
    """Load all the time in the threads of one process."""

    def __init__(self, path: str, stop: str) -> None:
        self.datafile = Datafile(path)
        self.stop = stop
        self.guard = threading.Lock()
        # Guarded by it.
        self.handed = 0
        self.loaded: Counter[int] = Counter()
        self.errors: list[BaseException] = []

    def loader(self, file: BinaryIO) -> tuple[int, int]:
        loaded = writer_and_number(_read_a_piece_and_the_rest(file))
        with self.guard:
            self.loaded[loaded[1]] += 1
            first, before = len(self.loaded) == 1, self.handed
        if not first:
            # So many loads that one of them has begun since: no thread waits for this one.
            wait_for(
                lambda: self.handed > before + _THREADS or self.stopped(),
                "other threads that get the old object while the new one is made",
            )
        return loaded

    def stopped(self) -> bool:
        return bool(self.errors) or os.path.exists(self.stop)

    def run(self) -> None:
        seen = Seen()
        try:
            while not self.stopped():
                for _ in range(20):
                    seen.add(*self.datafile.load(self.loader))
                    with self.guard:
                        self.handed += 1
        except BaseException as error:
            self.errors.append(error)
            raise


def _load_in_threads(path: str, record: Record, stop: str) -> None:
    loads = _Loads(path, stop)
    threads = [threading.Thread(target=loads.run) for _ in range(_THREADS)]
    loads.datafile.load(loads.loader)
    record.write("reading")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if loads.errors:
        raise loads.errors[0]
    last = loads.datafile.load(loads.loader)
    assert last[1] == number_at(path), "the version that was swapped in last is not loaded"
    again = {number: times for number, times in loads.loaded.items() if times > 1}
    assert again == {}, f"of {len(loads.loaded)} versions these were loaded so many times"
    record.write("has read", reads=loads.handed, versions=len(loads.loaded))


@pytest.mark.parametrize(("swaps", "durable"), [(SWAPS, False), (DURABLE_SWAPS, True)])
def test_each_process_loads_each_version_once_at_most_and_no_thread_waits_for_the_next(
    path: str, record: Record, processes: Processes, swaps: int, durable: bool
) -> None:
    Path(path).write_bytes(contents(0))
    processes.start_many(READERS, _load_in_threads, path, record, path + ".stop")
    record.wait("reading", READERS)
    writers = processes.start_many(2, _refresh, path, record, swaps // 2, durable, False)
    _end_of_writing(processes, writers, swaps)
    _end_of_reading(path, record, processes)
    assert number_at(path) == swaps


# DataDirectory: a reader has one whole version for as long as it is inside.

_FILES = 4


def make_directory(target: str, number: int) -> None:
    os.mkdir(target)
    for name in names_of(number):
        Path(target, name).write_bytes(contents(number))


def names_of(number: int) -> list[str]:
    """What version *number* consists of: files that all versions have, and one that no other has."""
    return sorted([*(f"part{n}" for n in range(_FILES)), f"only{number}"])


class _Listener:
    """Lists a version and opens its files one after the other, so slowly that swaps happen in between."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.chance = random.Random(os.getpid())
        self.overtaken = 0

    def number_of(self, version: str) -> int:
        inode = os.stat(version).st_ino
        names = sorted(os.listdir(version))
        numbers = set()
        for name in names:
            time.sleep(self.chance.random() * 0.01)
            numbers.add(number_at(os.path.join(version, name)))
        assert len(numbers) == 1, f"files of the versions {numbers} in one"
        (number,) = numbers
        assert names == names_of(number) == sorted(os.listdir(version))
        self.overtaken += os.stat(self.path).st_ino != inode
        return number


def _read_directory(path: str, record: Record, stop: str, how: str, keep: int) -> None:
    def creator(target: str) -> None:
        raise AssertionError("it never is stale")

    # A reader that may create also removes old versions when it leaves them.
    datadir = DataDirectory(path, None, creator if how == "by a reader that may create" else None, keep=keep)
    listener, seen = _Listener(path), Seen()
    record.write("reading")
    while not os.path.exists(stop):
        if how == "by load":
            number = datadir.load(listener.number_of)
            time.sleep(0.001)
        else:
            with datadir.open() as version:
                number = listener.number_of(version)
        seen.add(0, number)
    record.write("has read", reads=seen.reads, versions=seen.versions, overtaken=listener.overtaken)


def _foreign_directory(path: str) -> None:
    make_directory(path, 0)


def _nothing(path: str) -> None:
    pass


@pytest.mark.parametrize("keep", [0, 2])
@pytest.mark.parametrize("before", [_nothing, _foreign_directory], ids=["symbolic link", "plain directory"])
def test_no_reader_of_a_directory_loses_a_file_that_it_has_yet_to_open(
    path: str,
    record: Record,
    processes: Processes,
    caplog: pytest.LogCaptureFixture,
    before: Callable[[str], None],
    keep: int,
) -> None:
    number = 0

    def creator(target: str) -> None:
        make_directory(target, number)

    before(path)
    datadir = DataDirectory(path, None, creator, keep=keep)
    datadir.refresh()
    for how in ("by any", "by a reader that may create", "by load"):
        count = 2 if how == "by load" else 3
        processes.start_many(count, _read_directory, path, record, path + ".stop", how, keep)
    record.wait("reading", READERS)
    most = 0
    for number in range(1, DIRECTORY_SWAPS + 1):  # noqa: B007
        assert datadir.refresh(force=True)
        most = max(most, len(hidden_beside(path)))
    assert caplog.records == []
    # Each reader keeps one from being removed.
    assert most <= READERS + 1 + keep, "old versions pile up"
    _end_of_reading(path, record, processes)
    assert sum(end.more["overtaken"] for end in record.events("has read")) > 0, "no swap came while one read"
    number = DIRECTORY_SWAPS + 1
    datadir.refresh(force=True)
    left = [os.path.join(os.path.dirname(path), name) for name in hidden_beside(path)]
    if os.path.islink(path):
        left.remove(os.path.realpath(path))
    assert os.path.islink(path) == (before is _nothing)
    assert number_at(os.path.join(path, "part0")) == number
    assert [number_at(os.path.join(version, "part0")) for version in sorted(left)] == sorted(
        range(number - keep, number), key=str
    )
