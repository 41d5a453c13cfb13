"""At most one creator runs per path at a time; per expiry exactly one succeeds."""

from __future__ import annotations

import multiprocessing
import threading
import time
from typing import Any

from dogpile_fs import Dogpile
from tests.support.processes import Processes, Record, overlaps

from .creators import ROUNDS


def _cold_then_expired(path: str, record: Record, barrier: Any, rounds: int) -> None:
    for number in range(rounds):
        dogpile = Dogpile(3600, f"{path}.{number}")

        def creator(number: int = number) -> None:
            record.write("create", round=number)
            time.sleep(0.01)
            record.write("created", round=number)

        barrier.wait()
        with dogpile.acquire(creator):
            record.write("inside", round=number)
        if barrier.wait() == 0:
            dogpile.invalidate()
        barrier.wait()
        while dogpile.is_expired:
            with dogpile.acquire(creator):
                pass


def test_promise_1_fifty_processes_that_start_cold_create_once_and_once_per_expiry(
    path: str, record: Record, processes: Processes
) -> None:
    workers = 50
    barrier = multiprocessing.Barrier(workers)
    processes.start_many(workers, _cold_then_expired, path, record, barrier, ROUNDS)
    processes.join()
    for number in range(ROUNDS):
        created = [e for e in record.events("created") if e.more["round"] == number]
        assert len(created) == 2, created
    assert overlaps(*[record.spans("create", "created")] * 2) == []
    first = {
        number: min(e.at for e in record.events("created") if e.more["round"] == number)
        for number in range(ROUNDS)
    }
    early = [e for e in record.events("inside") if e.at < first[e.more["round"]]]
    assert early == []


def _pass_until(path: str, record: Record, enough: Any, expiretime: float) -> None:
    dogpile = Dogpile(expiretime, path)

    def creator() -> None:
        record.write("create", stale_since=dogpile.createdtime + expiretime, now=time.time())
        time.sleep(0.05)
        record.write("created")

    def pass_in_a_loop() -> None:
        while not enough.value:
            with dogpile.acquire(creator):
                pass

    threads = [threading.Thread(target=pass_in_a_loop) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_promise_1_threads_of_several_processes_create_once_per_expiry(
    path: str, record: Record, processes: Processes
) -> None:
    enough = multiprocessing.RawValue("b")
    processes.start_many(3, _pass_until, path, record, enough, 0.3)
    record.wait("created", 5)
    enough.value = 1
    processes.join()
    creations = record.events("create")
    assert overlaps(*[record.spans("create", "created")] * 2) == []
    too_early = [e for e in creations[1:] if e.more["now"] < e.more["stale_since"]]
    assert too_early == []
