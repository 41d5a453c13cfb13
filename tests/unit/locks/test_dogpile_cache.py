"""FileMutex and ReadWriteFileLock in dogpile.cache, whose protocols they implement."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dogpile_fs import FileMutex, ReadWriteFileLock
from tests.support.processes import Processes, Record, overlaps

cache: Any = pytest.importorskip("dogpile.cache")
dogpile: Any = pytest.importorskip("dogpile")


def make_file_region(path: str, expiration_time: float) -> Any:
    return cache.make_region().configure(
        "dogpile.cache.dbm",
        expiration_time=expiration_time,
        arguments={"filename": path, "lock_factory": ReadWriteFileLock},
    )


def _use(path: str, record: Record) -> None:
    region = make_file_region(path, 3600)

    def creator() -> int:
        record.write("create")
        record.write("created")
        return 7

    for number in range(20):
        assert region.get_or_create(f"key {number}", creator) == 7


def test_its_file_backend_works_with_our_locks(path: str, record: Record, processes: Processes) -> None:
    make_file_region(path, 3600)  # the backend makes its file without any lock
    processes.start_many(4, _use, path, record)
    processes.join()
    assert len(record.events("create")) == 20
    assert overlaps(*[record.spans("create", "created")] * 2) == []


def test_its_lock_takes_our_mutex_also_for_asynchronous_creators(path: str) -> None:
    mutex = FileMutex(path)
    done = threading.Event()

    def runner(held: FileMutex) -> None:
        def create_and_release() -> None:
            held.release()
            done.set()

        threading.Thread(target=create_and_release).start()

    with dogpile.Lock(mutex, lambda: ("new", 1.0), lambda: ("old", 1.0), 1, runner) as value:
        assert value == "old"
    assert done.wait(30)
    assert not mutex.locked()
