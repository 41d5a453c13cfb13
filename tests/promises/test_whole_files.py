"""A datafile is at its path whole, whichever process is killed while it writes."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from dogpile_fs import Datafile
from tests.support.places import ours_in
from tests.support.processes import Processes, Record, wait_for

from .creators import ROUNDS

SIZE = 100_000


def _read_by_name(path: str, record: Record, stop: str) -> None:
    """Read as a program does that does not know this package."""
    versions = set()
    record.write("reading")
    while not os.path.exists(stop):
        with open(path, "rb") as file:
            data = file.read()
        assert len(data) == SIZE, len(data)
        assert len(set(data)) == 1
        versions.add(data[:1])
    record.write("has read", versions=len(versions))


def _refresh_for_ever(path: str) -> None:
    number = os.getpid()

    def creator(target: str) -> None:
        nonlocal number
        number += 1
        with open(target, "wb", buffering=0) as file:
            for _ in range(10):
                file.write(bytes([number % 256]) * (SIZE // 10))

    datafile = Datafile(path, 3600, creator, durable=False)
    while True:
        datafile.refresh(force=True)


def test_promise_whole_a_reader_finds_the_old_version_or_the_new_one_while_writers_are_killed(
    path: str, record: Record, processes: Processes
) -> None:
    Datafile(path, 3600, lambda target: Path(target).write_bytes(bytes(SIZE)) and None).refresh()
    readers = processes.start_many(2, _read_by_name, path, record, path + ".stop")
    record.wait("reading", 2)
    chance = random.Random(7)
    status = Datafile(path).status
    for _ in range(5 * ROUNDS):
        writer = processes.start(_refresh_for_ever, path)
        swaps = status().generation + chance.randrange(3)
        wait_for(lambda swaps=swaps: status().generation > swaps or status().creating, "a swap or a creation")  # type: ignore[misc]
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    Datafile(path, 3600, lambda target: Path(target).write_bytes(b"x" * SIZE) and None).refresh(force=True)
    Path(path + ".stop").touch()
    processes.join(*readers)
    assert len(record.events("has read")) == 2
    assert ours_in(os.path.dirname(path)) == []  # the next creator has removed what the killed ones left
