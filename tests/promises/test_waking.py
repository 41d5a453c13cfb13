"""When a first creation ends, all waiters wake at once, not one after the other."""

from __future__ import annotations

import os
import time
from multiprocessing.process import BaseProcess

from dogpile_fs import Dogpile
from tests.support.processes import Processes, Record, wait_for, waiters_for

from .creators import create_slowly, nothing, stand_by


def _wait_for_the_first(path: str, record: Record) -> None:
    with Dogpile(3600, path).acquire(lambda: record.write("create")):
        record.write("inside")
        record.wait("all in")


def test_promise_8_all_waiters_for_a_first_creation_wake_together(
    path: str, record: Record, processes: Processes
) -> None:
    creating = processes.start(create_slowly, path, record)
    record.wait("create")
    waiters = processes.start_many(12, _wait_for_the_first, path, record)
    wait_for(lambda: waiters_for(path + ".dogpile.lock") == 12, "twelve waiters in the kernel")
    record.write("enough")
    # Each process stays inside until all are inside: if they entered one by one, the test would time out here.
    record.wait("inside", 12)
    record.write("all in")
    processes.join(creating, *waiters)
    assert len(record.events("create")) == 1


def switches(process: BaseProcess) -> int:
    """Return how often the threads of *process* have gone to sleep by themselves: a waiter that polls does so, one
    in the kernel not."""
    total = 0
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        with open(f"/proc/{process.pid}/task/{thread}/status") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))
    return total


def _wait_without_a_creator(path: str, record: Record) -> None:
    record.write("waiting")
    with Dogpile(3600, path).acquire():
        record.write("inside")


def _sleeps(process: BaseProcess) -> bool:
    """Return whether *process* stayed asleep for 0.3 s."""
    before = switches(process)
    time.sleep(0.3)
    return switches(process) == before


def test_promise_8_a_process_that_waits_for_a_creator_sleeps_until_it_has_ended(
    path: str, record: Record, processes: Processes
) -> None:
    creating = processes.start(create_slowly, path, record)
    record.wait("create")
    waiters = [processes.start(stand_by, path, record), processes.start(_wait_without_a_creator, path, record)]
    wait_for(lambda: waiters_for(path + ".dogpile.lock") == 2, "the waiters")
    assert all(wait_for(lambda: _sleeps(waiter), "sleep") for waiter in waiters)  # noqa: B023
    record.write("enough")
    processes.join(creating, *waiters)


def test_promise_8_a_process_without_a_creator_sleeps_until_another_process_creates(
    path: str, record: Record, processes: Processes
) -> None:
    waiter = processes.start(_wait_without_a_creator, path, record)
    record.wait("waiting")
    wait_for(lambda: _sleeps(waiter), "sleep")
    assert record.events("inside") == []
    Dogpile(3600, path).refresh(nothing)
    processes.join(waiter)
    assert len(record.events("inside")) == 1
