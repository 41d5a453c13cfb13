"""Any process may be killed at any instruction: the others go on."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from dogpile_fs import Dogpile, SyncReaderDogpile
from tests.support.processes import Processes, Record, wait_for, waiters_for

from .creators import ROUNDS, create_for_ever, nothing, stand_by


@pytest.mark.parametrize("number", range(ROUNDS))
def test_promise_5_when_a_first_creator_is_killed_another_process_creates_and_all_go_on(
    path: str, record: Record, processes: Processes, number: int
) -> None:
    victim = processes.start(create_for_ever, path, record)
    record.wait("create")
    others = processes.start_many(10, stand_by, path, record)
    wait_for(lambda: waiters_for(path + ".dogpile.lock") == 10, "ten waiters")
    assert victim.pid is not None
    killed = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    processes.join(*others)
    _first, second = record.events("create")
    assert second.at - killed < 5  # 100 ms on an idle machine
    assert len(record.events("inside")) == 10
    assert Dogpile(3600, path).status().generation == 1


def test_promise_5_when_the_creator_of_a_stale_version_is_killed_the_next_caller_creates(
    path: str, record: Record, processes: Processes
) -> None:
    dogpile = Dogpile(3600, path)
    dogpile.refresh(nothing)
    before = dogpile.createdtime
    dogpile.invalidate()
    victim = processes.start(create_for_ever, path, record)
    record.wait("create")
    with dogpile.acquire(lambda: pytest.fail("a second creator")):
        pass
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    assert dogpile.createdtime == before

    def created() -> bool:
        with dogpile.acquire(nothing):
            return not dogpile.is_expired

    wait_for(created, "the next creation", 5)
    assert dogpile.status().generation == 2


def _work_until_killed(path: str, expiretime: float, role: str) -> None:
    dogpile = SyncReaderDogpile(expiretime, path)

    def creator() -> None:
        with open(path + f".{os.getpid()}", "w") as file:
            file.write("x" * 1000)
        with dogpile.acquire_write_lock():
            os.replace(path + f".{os.getpid()}", path)

    while True:
        with dogpile.acquire(creator), open(path) as file:
            if len(file.read()) != 1000:
                os._exit(3)
        if role == "invalidate":
            dogpile.invalidate()


def test_promise_5_killing_processes_at_random_locks_nothing_for_ever(path: str, processes: Processes) -> None:
    chance = random.Random(5)
    roles = ["use", "use", "invalidate"]
    running = [processes.start(_work_until_killed, path, 0.005, role) for role in roles]
    dogpile = SyncReaderDogpile(3600, path, timeout=30)
    for _ in range(25 * ROUNDS):
        time.sleep(chance.random() * 0.01)
        victim = chance.randrange(len(running))
        pid = running[victim].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        running[victim].join()
        assert running[victim].exitcode == -signal.SIGKILL, "a torn datafile was read"
        running[victim] = processes.start(_work_until_killed, path, 0.005, roles[victim])
        assert dogpile.createdtime <= time.time()
    for process in running:
        process.kill()
        process.join()
    with dogpile.acquire_write_lock():
        pass
    assert dogpile.refresh(nothing, force=True)
