"""What must always hold, promise by promise, between real processes."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import stat
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import Dogpile, ReadWriteFileLock, SyncReaderDogpile
from tests.support.processes import Processes, Record, overlaps, wait_for

#: How often the expensive tests repeat themselves; the endurance environment sets it to 100.
ROUNDS = int(os.environ.get("DOGPILE_FS_ROUNDS", "4"))


def nothing() -> None:
    pass


# 1. At most one creator runs per path at a time; per expiry exactly one succeeds.


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


def test_promise_1_many_processes_that_start_cold_create_once_and_once_per_expiry(
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


def _pass_until(path: str, record: Record, end: float, expiretime: float) -> None:
    dogpile = Dogpile(expiretime, path)

    def creator() -> None:
        record.write("create", stale_since=dogpile.createdtime + expiretime, now=time.time())
        time.sleep(0.05)
        record.write("created")

    def pass_in_a_loop() -> None:
        while time.monotonic() < end:
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
    processes.start_many(3, _pass_until, path, record, time.monotonic() + 3, 0.3)
    processes.join()
    creations = record.events("create")
    assert len(creations) >= 3, creations
    assert overlaps(*[record.spans("create", "created")] * 2) == []
    too_early = [e for e in creations[1:] if e.more["now"] < e.more["stale_since"]]
    assert too_early == []


# 2. After the first creation no caller ever waits for another's creator.


def _create_slowly(path: str, record: Record) -> None:
    def creator() -> None:
        record.write("create")
        record.wait("enough")
        record.write("created")

    Dogpile(3600, path).refresh(creator)


def test_promise_2_while_one_creates_all_others_pass_through_with_the_old(
    path: str, record: Record, processes: Processes
) -> None:
    dogpile = Dogpile(3600, path)
    dogpile.refresh(nothing)
    dogpile.invalidate()
    creating = processes.start(_create_slowly, path, record)
    record.wait("create")
    for _ in range(100):
        with dogpile.acquire(lambda: pytest.fail("a second creator")):
            assert dogpile.status().state == "stale"
        with dogpile.acquire():
            pass
    assert not dogpile.refresh(lambda: pytest.fail("a second creator"))
    assert record.events("created") == []
    record.write("enough")
    processes.join(creating)
    assert dogpile.status().state == "fresh"


# 3. No reader is inside its block while a writer is, and the reverse.


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


# 4. A waiting writer gets in, however readers overlap. Readers get in after it.


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
    # The bar is 100 ms on an idle machine; what starvation looks like is no end at all.
    assert waits[len(waits) // 2] < 0.1, waits
    assert waits[-1] < 5, waits


def _write_without_a_gap(path: str, record: Record, stop: str) -> None:
    lock = ReadWriteFileLock(path)
    record.write("writing")
    while not os.path.exists(stop):
        with lock.write():
            time.sleep(0.002)


def test_promise_4_a_reader_gets_in_among_writers_without_a_gap(
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


# 5. Any process may be killed at any instruction: the others go on.


def _create_for_ever(path: str, record: Record) -> None:
    def creator() -> None:
        record.write("create")
        time.sleep(3600)

    Dogpile(3600, path).refresh(creator)


def _stand_by(path: str, record: Record) -> None:
    def creator() -> None:
        record.write("create")

    with Dogpile(3600, path).acquire(creator):
        record.write("inside")


@pytest.mark.parametrize("number", range(ROUNDS))
def test_promise_5_when_a_first_creator_is_killed_another_creates_and_all_go_on(
    path: str, record: Record, processes: Processes, number: int
) -> None:
    victim = processes.start(_create_for_ever, path, record)
    record.wait("create")
    others = processes.start_many(10, _stand_by, path, record)
    wait_for(lambda: waiters_for(path + ".dogpile.lock") == 10, "ten waiters")
    assert victim.pid is not None
    killed = time.monotonic()
    os.kill(victim.pid, signal.SIGKILL)
    processes.join(*others)
    _first, second = record.events("create")
    assert second.at - killed < 5  # 100 ms on an idle machine
    assert len(record.events("inside")) == 10
    assert Dogpile(3600, path).status().generation == 1


def waiters_for(lock_file: str) -> int:
    """How many processes the kernel has waiting for a lock on *lock_file*."""
    inode = os.stat(lock_file).st_ino
    with open("/proc/locks") as locks:
        return sum("->" in line and f":{inode} " in line for line in locks)


def test_promise_5_when_the_creator_of_something_stale_is_killed_the_next_caller_creates(
    path: str, record: Record, processes: Processes
) -> None:
    dogpile = Dogpile(3600, path)
    dogpile.refresh(nothing)
    before = dogpile.createdtime
    dogpile.invalidate()
    victim = processes.start(_create_for_ever, path, record)
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


# 6. A stamp is written after the swap, never before.


def test_promise_6_a_creator_that_dies_before_it_returns_leaves_the_old_createdtime(
    path: str, record: Record, processes: Processes
) -> None:
    dogpile = Dogpile(3600, path)
    victim = processes.start(_create_for_ever, path, record)
    record.wait("create")
    victim.kill()
    victim.join()
    assert not dogpile.has_value
    assert dogpile.createdtime == -1


def test_promise_6_the_stamp_comes_after_the_creator_has_returned(path: str) -> None:
    dogpile = Dogpile(3600, path)
    finished = []

    def creator() -> None:
        assert not dogpile.has_value
        time.sleep(0.01)
        finished.append(time.time())

    dogpile.refresh(creator)
    assert finished[0] <= dogpile.createdtime <= time.time()


# 7. Nothing that a foreign hand does to the coordination files gives a crash, a hang or a wrong "fresh".


def _delete(file: str) -> None:
    os.unlink(file)


def _truncate(file: str) -> None:
    os.truncate(file, 0)


def _cut(file: str) -> None:
    os.truncate(file, 100)


def _scribble(file: str) -> None:
    with open(file, "r+b") as stream:
        stream.write(os.urandom(600))


def _chmod(file: str) -> None:
    os.chmod(file, 0)


def _symlink(file: str) -> None:
    os.unlink(file)
    os.symlink(os.path.dirname(file) + "/elsewhere", file)


def _fifo(file: str) -> None:
    os.unlink(file)
    os.mkfifo(file)


@pytest.mark.parametrize("harm", [_delete, _truncate, _cut, _scribble, _chmod, _symlink, _fifo])
@pytest.mark.parametrize("suffix", [".dogpile", ".dogpile.lock", ".dogpile.rwlock"])
def test_promise_7_harm_to_a_coordination_file_costs_one_creation_at_most(
    path: str, suffix: str, harm: Callable[[str], None]
) -> None:
    dogpile = SyncReaderDogpile(3600, path, timeout=30)
    creations = []

    def creator() -> None:
        with dogpile.acquire_write_lock():
            creations.append(1)

    with dogpile.acquire(creator):
        pass
    harm(path + suffix)
    time.sleep(0.011)  # the time for which a kept descriptor may be believed
    for other in (dogpile, SyncReaderDogpile(3600, path, timeout=30)):
        with other.acquire(creator):
            pass
    assert len(creations) <= 2
    dogpile.invalidate()
    with dogpile.acquire(creator), dogpile.acquire(creator):
        pass
    assert not dogpile.is_expired
    assert len(creations) <= 3
    assert not os.path.exists(os.path.dirname(path) + "/elsewhere")
    if harm is not _chmod:
        assert stat.S_ISREG(os.lstat(path + suffix).st_mode)


# 8. When a first creation ends, all waiters wake at once, not one after the other.


def _wait_for_the_first(path: str, record: Record) -> None:
    with Dogpile(3600, path).acquire(lambda: record.write("create")):
        record.write("inside")
        record.wait("all in")


def test_promise_8_all_waiters_for_a_first_creation_wake_together(
    path: str, record: Record, processes: Processes
) -> None:
    creating = processes.start(_create_slowly, path, record)
    record.wait("create")
    waiters = processes.start_many(12, _wait_for_the_first, path, record)
    wait_for(lambda: waiters_for(path + ".dogpile.lock") == 12, "twelve waiters in the kernel")
    record.write("enough")
    # Nobody leaves before all are in: were they let in one by one, this would never be.
    record.wait("inside", 12)
    record.write("all in")
    processes.join(creating, *waiters)
    assert len(record.events("create")) == 1


def switches(process: BaseProcess) -> int:
    """How often *process* has gone to sleep by itself: a waiter in the kernel does not, one that polls does."""
    with open(f"/proc/{process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))


def _wait_without_a_creator(path: str, record: Record) -> None:
    record.write("waiting")
    with Dogpile(3600, path).acquire():
        record.write("inside")


def _sleeps(process: BaseProcess) -> bool:
    """Whether *process* has gone to sleep and stays there."""
    before = switches(process)
    time.sleep(0.3)
    return switches(process) == before


def test_promise_8_who_waits_for_a_creator_sleeps_until_it_is_done(
    path: str, record: Record, processes: Processes
) -> None:
    creating = processes.start(_create_slowly, path, record)
    record.wait("create")
    waiters = [processes.start(_stand_by, path, record), processes.start(_wait_without_a_creator, path, record)]
    wait_for(lambda: waiters_for(path + ".dogpile.lock") == 2, "the waiters")
    assert all(wait_for(lambda: _sleeps(waiter), "sleep") for waiter in waiters)  # noqa: B023
    record.write("enough")
    processes.join(creating, *waiters)


def test_promise_8_who_waits_for_a_creator_to_come_along_sleeps_until_then(
    path: str, record: Record, processes: Processes
) -> None:
    waiter = processes.start(_wait_without_a_creator, path, record)
    record.wait("waiting")
    wait_for(lambda: _sleeps(waiter), "sleep")
    assert record.events("inside") == []
    Dogpile(3600, path).refresh(nothing)
    processes.join(waiter)
    assert len(record.events("inside")) == 1
