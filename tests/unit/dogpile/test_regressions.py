"""Defects that were found once, each by the interleaving or the input that showed it."""

from __future__ import annotations

import fcntl
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import (
    Dogpile,
    FileMutex,
    LockFileError,
    LockTimeout,
    NeedRegenerationException,
    ReadWriteFileLock,
    SyncReaderDogpile,
    WouldDeadlock,
)
from dogpile_fs._sidecar.record import Record as SidecarRecord
from tests.support.processes import (
    Processes,
    Record,
    ended_well,
    in_child,
    wait_for,
    wait_until_it_waits_for_a_release,
    waiters_for,
)
from tests.unit.locks.test_readwrite import in_thread

from .test_dogpile import Make, fail, make, take

__all__ = ["make"]  # a fixture


def _swap_on(dogpile: SyncReaderDogpile, asking: threading.Event) -> None:
    def creator() -> None:
        asking.set()
        with dogpile.acquire_write_lock():
            pass

    dogpile.refresh(creator)


def _no_value() -> None:
    raise NeedRegenerationException


@pytest.mark.parametrize("hard", [False, True])
def test_a_reader_inside_does_not_wait_for_a_creator_that_waits_for_it(make: Make, hard: bool) -> None:
    dogpile = make(3600, SyncReaderDogpile)
    assert isinstance(dogpile, SyncReaderDogpile)
    dogpile.refresh(lambda: None)
    asking = threading.Event()
    creating = threading.Thread(target=_swap_on, args=(dogpile, asking))
    with dogpile.acquire():
        dogpile.invalidate(hard=hard)
        creating.start()
        asking.wait()
        take(dogpile, fail)
        take(dogpile)
        with pytest.raises(WouldDeadlock, match="as a reader"):
            dogpile.refresh(fail, force=True)
        if hard:
            with pytest.raises(WouldDeadlock, match="as a reader"):
                take(dogpile, fail, _no_value)
            with pytest.raises(WouldDeadlock, match="as a reader"):
                dogpile.refresh(fail)
    creating.join(60)
    assert not creating.is_alive()
    assert not dogpile.is_expired


def test_a_stale_resource_passes_in_a_block_entered_through_another_object(path: str) -> None:
    outer, inner = SyncReaderDogpile(3600, path), SyncReaderDogpile(3600, path)
    outer.refresh(lambda: None)
    with outer.acquire():
        outer.invalidate()
        take(inner, fail)


def test_the_writer_is_refused_before_it_waits_for_a_creation(make: Make) -> None:
    dogpile = make(3600, SyncReaderDogpile)
    assert isinstance(dogpile, SyncReaderDogpile)
    with dogpile.acquire_write_lock():
        with pytest.raises(WouldDeadlock, match="as the writer"):
            take(dogpile, fail)
        dogpile.createdtime = 1.0
        with pytest.raises(WouldDeadlock, match="as the writer"):
            take(dogpile, fail)


def _read_through_new_objects(path: str, record: Record, stop: str) -> None:
    record.write("reading")
    while not os.path.exists(stop):
        with ReadWriteFileLock(path).read():
            pass


@pytest.mark.parametrize("timeout", [None, 30])
def test_readers_that_make_their_lock_anew_do_not_starve_a_writer(
    path: str, record: Record, processes: Processes, timeout: float | None
) -> None:
    readers = processes.start_many(6, _read_through_new_objects, path, record, path + ".stop")
    record.wait("reading", 6)
    lock = ReadWriteFileLock(path)
    waits = []
    for _ in range(60):
        began = time.monotonic()
        with lock.write(timeout=timeout):
            waits.append(time.monotonic() - began)
    Path(path + ".stop").touch()
    processes.join(*readers)
    assert sorted(waits)[len(waits) // 2] < 0.1, waits


def test_waiters_for_a_first_creation_do_not_wait_for_the_next_as_well(make: Make, path: str) -> None:
    dogpile = make(3600)
    creating, first, second = threading.Event(), threading.Event(), threading.Event()

    def creator() -> None:
        creating.set()
        first.wait()

    threads = [threading.Thread(target=dogpile.refresh, args=(creator,))]
    threads[0].start()
    creating.wait()
    forced = threading.Thread(target=dogpile.refresh, args=(second.wait, True))
    forced.start()
    inside: list[int] = []

    def use() -> None:
        with dogpile.acquire(fail):
            inside.append(1)

    waiters = [threading.Thread(target=use) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    if dogpile.path is not None:
        # The forced one waits for the mutex, the waiters for the end of the hold, all in the kernel.
        wait_for(lambda: waiters_for(path + ".dogpile.lock") == 4, "four waiters")
    else:
        for waiter in waiters:
            wait_until_it_waits_for_a_release(waiter)
    first.set()
    try:
        wait_for(lambda: len(inside) == 3, "all waiters, though another creation runs")
    finally:
        second.set()
        for thread in (*threads, forced, *waiters):
            thread.join()


def test_threads_of_one_mutex_exclude_each_other_even_if_its_file_is_deleted(path: str) -> None:
    mutex = FileMutex(path)
    mutex.acquire()
    os.unlink(path)
    assert isinstance(in_thread(lambda: mutex.acquire(timeout=0.05)), LockTimeout)
    assert in_thread(lambda: mutex.acquire(wait=False)) is False
    mutex.release()
    assert mutex.acquire(wait=False)


def test_threads_of_one_lock_write_one_at_a_time_even_if_its_file_is_deleted(path: str) -> None:
    lock = ReadWriteFileLock(path)
    lock.acquire_write_lock()
    os.unlink(path)
    assert isinstance(in_thread(lambda: lock.acquire_write_lock(timeout=0.05)), LockTimeout)
    lock.release_write_lock()
    assert lock.acquire_write_lock(wait=False)


@pytest.mark.parametrize("hard", [False, True])
def test_init_does_not_undo_an_invalidation(path: str, hard: bool) -> None:
    Dogpile(3600, path).refresh(lambda: None)
    Dogpile(3600, path).invalidate(hard=hard)
    assert Dogpile(3600, path, init=True).is_expired


class _Cycle:
    """Garbage that only the collector finds, with a generator inside a block."""

    def __init__(self, block: Any) -> None:
        def stay() -> Iterator[None]:
            with block:
                yield

        self.me = self
        self.generator = stay()
        next(self.generator)


def test_a_block_may_be_left_by_the_garbage_collector_at_any_moment(make: Make) -> None:
    dogpile = make(3600, SyncReaderDogpile)
    assert isinstance(dogpile, SyncReaderDogpile)
    dogpile.refresh(lambda: None)
    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:

        def use() -> None:
            for _ in range(300):
                _Cycle(dogpile.acquire())
                with dogpile.acquire():
                    pass

        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        thread.join(60)
        assert not thread.is_alive(), "it waits for itself"
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    with dogpile.acquire_write_lock(timeout=10):
        pass


def _leave_in_grandchild(block: Any) -> None:
    in_test = os.getpid()
    status = 1
    try:
        with block:
            if os.fork() == 0:
                os.fork()
        status = 0
    finally:
        if os.getpid() != in_test:
            if os.getppid() == in_test:
                status = status or os.waitpid(-1, 0)[1]
            os._exit(status)
    assert os.wait()[1] == 0


@pytest.mark.parametrize(
    "block",
    [
        lambda path: FileMutex(path),
        lambda path: ReadWriteFileLock(path).read(),
        lambda path: ReadWriteFileLock(path).write(),
        lambda path: SyncReaderDogpile(3600, init=True).acquire(),
        lambda path: SyncReaderDogpile(3600).acquire_write_lock(),
    ],
)
def test_a_grandchild_may_leave_its_grandparents_block(path: str, block: Callable[[str], Any]) -> None:
    assert ended_well(in_child(lambda: _leave_in_grandchild(block(path))))


def test_a_caller_without_a_creator_notices_that_the_directory_was_replaced(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "current").symlink_to("old")
    dogpile = Dogpile(3600, tmp_path / "current" / "resource")
    thread = threading.Thread(target=take, args=(dogpile,))
    thread.start()
    time.sleep(0.05)
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").rename(tmp_path / "current")
    Dogpile(3600, tmp_path / "current" / "resource").refresh(lambda: None)
    thread.join(60)
    assert not thread.is_alive()


def test_the_callers_own_creator_does_not_use_up_the_timeout(make: Make) -> None:
    dogpile = make(3600, SyncReaderDogpile, timeout=5)
    assert isinstance(dogpile, SyncReaderDogpile)
    inside, leave = threading.Event(), threading.Event()

    def write() -> None:
        with dogpile.acquire_write_lock():
            inside.set()
            leave.wait()

    writer = threading.Thread(target=write)

    def creator() -> None:
        time.sleep(0.15)
        writer.start()
        inside.wait()
        threading.Timer(0.01, leave.set).start()

    with dogpile.acquire(creator, timeout=0.1):
        pass
    writer.join()


def test_another_programs_lock_on_the_sidecar_holds_up_no_longer_than_the_timeout(path: str) -> None:
    dogpile = Dogpile(3600, path, timeout=0.05)
    dogpile.refresh(lambda: None)
    with open(path + ".dogpile") as sidecar:
        fcntl.flock(sidecar, fcntl.LOCK_EX)
        take(dogpile, fail)
        with pytest.raises(LockTimeout, match="fuser"):
            dogpile.invalidate()
    dogpile.invalidate()


def test_locks_of_dogpile_core_have_their_methods_in_thread_scope() -> None:
    dogpile = SyncReaderDogpile(3600)
    with dogpile.dogpilelock:  # type: ignore[attr-defined]
        assert dogpile.status().creating
    lock: Any = dogpile.readwritelock
    assert lock.acquire_read_lock(False)
    assert in_thread(lambda: lock.acquire_write_lock(False)) is False
    lock.release_read_lock()
    assert lock.acquire_write_lock()
    assert in_thread(lambda: lock.acquire_read_lock(False)) is False
    with pytest.raises(WouldDeadlock):
        lock.acquire_read_lock()


@pytest.mark.parametrize("hard", [False, True])
def test_an_invalidation_is_not_lost_on_a_creation_whose_sidecar_was_deleted(path: str, hard: bool) -> None:
    """Found by the campaign: the new sidecar had counted as many invalidations as the one that was deleted."""
    dogpile = Dogpile(3600, path)
    dogpile.invalidate(hard)

    def creator() -> None:
        os.unlink(path + ".dogpile")
        dogpile.invalidate(hard)

    dogpile.refresh(creator)
    assert dogpile.status().state == ("missing" if hard else "stale")


def test_a_soft_invalidation_while_it_is_created_does_not_bring_back_the_hard_one_before_it(make: Make) -> None:
    """Found by the campaign: it had others wait for one creation more."""
    dogpile = make(3600)
    dogpile.refresh(lambda: None)
    dogpile.invalidate(hard=True)
    dogpile.refresh(dogpile.invalidate)
    assert dogpile.status().state == "stale"


def test_a_creation_that_cannot_begin_is_not_counted_as_a_death(path: str) -> None:
    dogpile = SyncReaderDogpile(3600, path)
    os.mkdir(path + ".dogpile.rwlock")  # so that the readers' lock file cannot be made
    for force in (False, True):
        with pytest.raises(LockFileError):
            dogpile.refresh(lambda: None, force)
    os.rmdir(path + ".dogpile.rwlock")
    assert dogpile.status().failures_total == 0
    assert dogpile.refresh(lambda: None)
    assert dogpile.status().failures_total == 0


@pytest.mark.parametrize("behind", [0.0, 0.5, 0.999, 2.0])
def test_a_clock_that_is_behind_holds_no_attempt_back_for_longer_than_its_delay(behind: float) -> None:
    record = SidecarRecord().failed(None, 1000.0, "OSError", 10.0)
    assert record.backoff_left(1000.0 - behind) == (10.0 if behind < 1 else 0.0)
    assert record.backoff_left(1004.0) == 6.0
