"""No reader is inside its block while a writer is, and the reverse."""

from __future__ import annotations

import time

from dogpile_fs import ReadWriteFileLock
from tests.support.processes import Processes, Record, overlaps


def _read(path: str, record: Record, times: int) -> None:
    lock = ReadWriteFileLock(path)
    for _ in range(times):
        with lock.read():
            record.write("read")
            time.sleep(0.001)
            record.write("has read")


def _write(path: str, record: Record, times: int) -> None:
    lock = ReadWriteFileLock(path)
    for _ in range(times):
        with lock.write():
            record.write("write")
            time.sleep(0.001)
            record.write("has written")
        time.sleep(0.001)


def test_promise_3_readers_and_writers_exclude_each_other(path: str, record: Record, processes: Processes) -> None:
    processes.start_many(4, _read, path, record, 150)
    processes.start_many(3, _write, path, record, 60)
    processes.join()
    reads, writes = record.spans("read", "has read"), record.spans("write", "has written")
    assert (len(reads), len(writes)) == (600, 180)
    assert overlaps(reads, writes) == []
    assert overlaps(writes, writes) == []
