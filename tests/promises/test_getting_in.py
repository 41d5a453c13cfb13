"""A waiting writer gets in, however readers overlap. Readers get in after it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from dogpile_fs import ReadWriteFileLock
from tests.support.processes import Processes, Record

from .creators import ROUNDS


def _read_without_a_gap(path: str, record: Record, stop: str) -> None:
    lock = ReadWriteFileLock(path)
    record.write("reading")
    while not os.path.exists(stop):
        with lock.read():
            time.sleep(0.002)


def test_promise_4_a_writer_gets_in_among_eight_processes_that_read_without_a_gap(
    path: str, record: Record, processes: Processes
) -> None:
    readers = processes.start_many(8, _read_without_a_gap, path, record, path + ".stop")
    record.wait("reading", 8)
    lock = ReadWriteFileLock(path)
    waits = []
    for _ in range(50 * ROUNDS):
        began = time.monotonic()
        with lock.write(timeout=30):
            waits.append(time.monotonic() - began)
        time.sleep(0.002)
    Path(path + ".stop").touch()
    processes.join(*readers)
    waits.sort()
    # Half of the writers get in within 100 ms on an idle machine. A starved writer never gets in.
    assert waits[len(waits) // 2] < 0.1, waits
    assert waits[-1] < 5, waits


def _write_without_a_gap(path: str, record: Record, stop: str) -> None:
    lock = ReadWriteFileLock(path)
    record.write("writing")
    while not os.path.exists(stop):
        with lock.write():
            time.sleep(0.002)


def test_promise_4_a_reader_gets_in_among_processes_that_write_without_a_gap(
    path: str, record: Record, processes: Processes
) -> None:
    writers = processes.start_many(3, _write_without_a_gap, path, record, path + ".stop")
    record.wait("writing", 3)
    lock = ReadWriteFileLock(path)
    waits = []
    for _ in range(20 * ROUNDS):
        began = time.monotonic()
        with lock.read(timeout=30):
            waits.append(time.monotonic() - began)
    Path(path + ".stop").touch()
    processes.join(*writers)
    waits.sort()
    assert waits[len(waits) // 2] < 0.1, waits
    assert waits[-1] < 5, waits


def test_promise_4_overlapping_readers_of_one_process_do_not_starve_a_writer(path: str) -> None:
    lock = ReadWriteFileLock(path)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            with lock.read():
                time.sleep(0.002)

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(50):
            with lock.write(timeout=30):
                pass
    finally:
        stop.set()
        for reader in readers:
            reader.join()
