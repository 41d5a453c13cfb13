"""The promises hold for each of many keys."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import Datafiles
from dogpile_fs._dogpile import key_scope
from tests.support import facade
from tests.support.places import descriptors
from tests.support.processes import Processes, Record, overlaps, wait_for, waiters_for

from .creators import ROUNDS

KEYS = [f"key {number}" for number in range(20)]


@pytest.fixture
def pattern(tmp_path: Path) -> str:
    return str(tmp_path / "keys" / "{key}.txt")


class _Creator:
    """Takes so many *seconds*, and tells when."""

    def __init__(self, record: Record, seconds: float) -> None:
        self.record = record
        self.seconds = seconds

    def __call__(self, key: str, target: str) -> None:
        self.record.write("create", key=key)
        Path(target).write_text(key)
        time.sleep(self.seconds)
        self.record.write("created", key=key)


def _files(pattern: str, record: Record, seconds: float) -> Datafiles:
    return Datafiles(pattern, 3600, _Creator(record, seconds), parents=True, durable=False)


def _cold_then_expired(pattern: str, record: Record, barrier: Any, first: int) -> None:
    files = _files(pattern, record, 0.01)
    keys = KEYS[first:] + KEYS[:first]
    barrier.wait()
    for key in keys:
        with files[key].open("r") as file:
            assert file.read() == key
    if barrier.wait() == 0:
        for key in keys:
            files[key].invalidate()
    barrier.wait()
    for key in keys:
        while files[key].status().state != "fresh":
            with files[key].open("r") as file:
                assert file.read() == key


@pytest.mark.parametrize("bits", [56, 2])
def test_promise_1_fifty_processes_create_each_of_twenty_keys_once_per_expiry(
    pattern: str, record: Record, processes: Processes, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    real = key_scope.lock_bits
    monkeypatch.setattr(key_scope, "lock_bits", lambda name: real(name) % 2**bits)
    workers = 50
    barrier = multiprocessing.Barrier(workers)
    for number in range(workers):
        processes.start(_cold_then_expired, pattern, record, barrier, number % len(KEYS))
    processes.join()
    assert Counter(each.more["key"] for each in record.events("created")) == dict.fromkeys(KEYS, 2)
    for key in KEYS:
        events = [each for each in record.events("create", "created") if each.more["key"] == key]
        assert [each.what for each in events] == ["create", "created"] * 2, "one at a time"


def _create(pattern: str, record: Record, barrier: Any, key: str) -> None:
    files = _files(pattern, record, 1.0)
    barrier.wait()
    files[key].refresh()


def test_creations_of_different_keys_run_at_the_same_time(
    pattern: str, record: Record, processes: Processes
) -> None:
    barrier = multiprocessing.Barrier(len(KEYS))
    for key in KEYS:
        processes.start(_create, pattern, record, barrier, key)
    processes.join()
    events = record.events("create", "created")
    assert len(events) == 2 * len(KEYS)
    assert events[-1].at - events[0].at < 10, "one after the other they take 20 s"
    assert overlaps(*[record.spans("create", "created")] * 2)


def _work_until_killed(pattern: str, seed: int) -> None:
    def creator(key: str, target: str) -> None:
        Path(target).write_text(key * 100)

    # Without a backoff: deaths in a row are what this is about.
    files = Datafiles(pattern, 0.005, creator, parents=True, durable=False, keep=1, backoff=None)
    chance = random.Random(seed)
    while True:
        key = chance.choice(KEYS[:5])
        with files[key].open("r") as file:
            if file.read() != key * 100:
                os._exit(3)
        if chance.random() < 0.02:
            files.prune(older_than=0.05)
        elif chance.random() < 0.1:
            files[key].invalidate(hard=chance.random() < 0.5)


def test_promise_5_killing_processes_at_random_locks_no_key_for_ever(pattern: str, processes: Processes) -> None:
    chance = random.Random(5)
    running = [processes.start(_work_until_killed, pattern, seed) for seed in range(3)]
    for turn in range(25 * ROUNDS):
        time.sleep(chance.random() * 0.02)
        victim = chance.randrange(len(running))
        pid = running[victim].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        running[victim].join()
        assert running[victim].exitcode == -signal.SIGKILL, "a torn datafile was read"
        running[victim] = processes.start(_work_until_killed, pattern, 10 + turn)
    for process in running:
        process.kill()
        process.join()
    files = Datafiles(pattern, 3600, lambda key, target: Path(target).write_text("end"), timeout=30)
    for key in KEYS[:5]:
        assert files[key].refresh(force=True)
    assert files.prune(older_than=0) == 5
    left = [each for each in Path(pattern).parent.rglob("*") if ".dogpile" not in each.parts]
    assert left == []


def test_many_keys_cost_each_what_few_do(pattern: str) -> None:
    """100,000 in the benchmarks; here fewer, because each is a file."""
    few, many = 50, 1000 if Datafiles.__module__ != facade.__name__ else 200
    files = Datafiles(pattern, 3600, lambda key, target: Path(target).write_text(key), parents=True, durable=False)
    for number in range(few):
        files[f"{number}"].refresh()
    before = len(descriptors())
    cost_of_few = _cost(files, few)
    for number in range(few, many):
        files[f"{number}"].refresh()
    assert len(descriptors()) == before
    # A loaded machine may stop this process for longer than one try takes.
    assert any(_cost(files, many) < 10 * cost_of_few for _ in range(10))
    assert files.prune(older_than=0) == many


def _cost(files: Datafiles, count: int) -> float:
    """Return the seconds of the fastest of several hits on each of some keys that were not used for long."""
    files._kept.clear()
    best = []
    for number in range(0, count, max(1, count // 50)):
        times = []
        for _ in range(3):
            began = time.perf_counter()
            with files[f"{number}"].open("rb"):
                pass
            times.append(time.perf_counter() - began)
        best.append(min(times))
    return sorted(best)[len(best) // 2]


def test_a_killed_process_that_waited_is_no_obstacle(pattern: str, record: Record, processes: Processes) -> None:
    creator = processes.start(_open_when_told, pattern, record)
    record.wait("create")
    waiter = processes.start(_open_when_told, pattern, record)
    lock_file = Path(pattern).parent / ".dogpile" / "keys.lock"
    wait_for(lambda: waiters_for(str(lock_file)) == 1, "the waiter")
    waiter.kill()
    wait_for(lambda: not waiter.is_alive(), "the waiter's end")
    record.write("enough")
    processes.join(creator)
    assert _files(pattern, record, 0)["a"].status().generation == 1


def _open_when_told(pattern: str, record: Record) -> None:
    def creator(key: str, target: str) -> None:
        record.write("create", key=key)
        record.wait("enough")
        Path(target).write_text(key)

    with Datafiles(pattern, 3600, creator, parents=True, durable=False)["a"].open():
        pass
