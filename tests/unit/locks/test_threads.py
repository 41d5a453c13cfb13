"""The locks of thread scope."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

import pytest

from dogpile_fs import LockTimeout, NotHeld, WouldDeadlock
from dogpile_fs._locks import threads
from dogpile_fs._locks.threads import BorrowedMutex, ThreadMutex, ThreadReadWriteLock
from dogpile_fs._os.waiting import FOREVER, NOW, Deadline
from tests.support.processes import PATIENCE, ended_well, in_child, wait_for

from .test_readwrite import in_thread


@pytest.fixture(params=["own", "borrowed"])
def mutex(request: pytest.FixtureRequest) -> ThreadMutex | BorrowedMutex:
    return ThreadMutex() if request.param == "own" else BorrowedMutex(threading.Lock())


def test_one_thread_holds_the_mutex(mutex: ThreadMutex | BorrowedMutex) -> None:
    assert not mutex.locked()
    assert mutex.acquire()
    assert mutex.held
    assert mutex.locked()
    assert in_thread(lambda: mutex.acquire(False)) is False
    assert isinstance(in_thread(lambda: mutex.acquire(timeout=0.01)), LockTimeout)
    mutex.release()
    assert not mutex.held
    assert in_thread(lambda: mutex.acquire(timeout=10)) is True


def test_waiting_for_the_mutex_to_be_released_does_not_take_it(mutex: ThreadMutex | BorrowedMutex) -> None:
    assert mutex._wait_released(FOREVER)
    mutex.acquire()
    assert in_thread(lambda: mutex._wait_released(NOW)) is False
    with pytest.raises(WouldDeadlock):
        mutex._wait_released(FOREVER)
    done: list[bool] = []
    threads = [threading.Thread(target=lambda: done.append(mutex._wait_released(FOREVER))) for _ in range(4)]
    for thread in threads:
        thread.start()
    mutex.release()
    for thread in threads:
        thread.join(30)
    assert done == [True] * 4
    assert not mutex.held


def test_releasing_the_mutex_unheld_is_an_error() -> None:
    with pytest.raises(NotHeld):
        ThreadMutex().release()
    lock = threading.Lock()
    with lock, pytest.raises(NotHeld):
        BorrowedMutex(lock).release()


def test_a_forked_child_may_leave_its_parents_block(mutex: ThreadMutex | BorrowedMutex) -> None:
    lock = ThreadReadWriteLock()
    hold = lock._enter(FOREVER)
    mutex.acquire()

    def leave() -> None:
        assert not mutex.held
        mutex.release()
        lock._leave(hold)
        assert lock.acquire_write_lock(wait=False)

    assert ended_well(in_child(leave))
    assert mutex.held
    assert lock._inside() == "reader"
    assert in_thread(lambda: lock.acquire_write_lock(wait=False)) is False


def test_threads_read_together_and_write_alone() -> None:
    lock = ThreadReadWriteLock()
    hold, again = lock._enter(FOREVER), lock._enter(FOREVER)
    assert in_thread(lambda: lock._leave(lock._enter(NOW))) is None
    assert in_thread(lambda: lock.acquire_write_lock(timeout=0.01)).__class__ is LockTimeout
    lock._leave(hold)
    assert lock._inside() == "reader"
    lock._leave(again)
    assert not lock._inside()


def test_a_writer_keeps_all_others_out_until_it_leaves() -> None:
    lock = ThreadReadWriteLock()
    assert lock.acquire_write_lock()
    assert not lock.acquire_write_lock(wait=False)
    assert in_thread(lambda: lock.acquire_write_lock(wait=False)) is False
    assert isinstance(in_thread(lambda: lock._enter(Deadline(0.01))), LockTimeout)
    assert in_thread(lock.release_write_lock) is None, "any thread may release it"
    assert isinstance(in_thread(lock.release_write_lock), NotHeld)
    assert in_thread(lambda: lock._leave(lock._enter(NOW))) is None
    assert lock.acquire_write_lock(wait=False)


def test_overlapping_reader_threads_do_not_starve_a_writer_nor_writers_a_reader() -> None:
    lock = ThreadReadWriteLock()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            hold = lock._enter(FOREVER)
            time.sleep(0.001)
            lock._leave(hold)

    def write() -> None:
        while not stop.is_set():
            lock.acquire_write_lock()
            time.sleep(0.001)
            lock.release_write_lock()

    threads = [threading.Thread(target=target) for target in (read, read, read, write, write)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            assert lock.acquire_write_lock(timeout=30)
            lock.release_write_lock()
            lock._leave(lock._enter(Deadline(30)))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_waiting_writer_that_gives_up_lets_the_readers_in() -> None:
    lock = ThreadReadWriteLock()
    hold = lock._enter(FOREVER)
    waiting = threading.Event()
    outcome: list[object] = []

    def write() -> None:
        waiting.set()
        outcome.append(in_thread(lambda: lock.acquire_write_lock(timeout=0.2)))

    writer = threading.Thread(target=write)
    writer.start()
    waiting.wait()
    # A reader that comes while the writer waits gets in when the writer gives up, not when the first one leaves.
    while in_thread(lambda: lock._leave(lock._enter(NOW))) is None and writer.is_alive():
        pass
    assert in_thread(lambda: lock._leave(lock._enter(Deadline(30)))) is None
    writer.join()
    assert isinstance(outcome[0], LockTimeout)
    lock._leave(hold)


@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_block_that_is_dropped_without_being_left_is_left(kind: str) -> None:
    lock = ThreadReadWriteLock()
    block = getattr(lock, kind)()
    block.__enter__()
    assert in_thread(lambda: lock.acquire_write_lock(wait=False)) is False
    del block
    gc.collect()
    assert in_thread(lambda: lock.acquire_write_lock(wait=False)) is True


def test_readers_that_wait_get_in_when_a_write_block_is_dropped() -> None:
    lock = ThreadReadWriteLock()
    block = lock.write()
    block.__enter__()
    reader = threading.Thread(target=lambda: lock._leave(lock._enter(Deadline(PATIENCE))))
    reader.start()
    wait_for(lambda: lock._waiting_readers, "the reader")
    del block
    gc.collect()
    reader.join(PATIENCE)
    assert not reader.is_alive()


def test_a_child_forked_in_a_write_block_may_leave_it() -> None:
    lock = ThreadReadWriteLock()
    block = lock.write()
    block.__enter__()

    def leave() -> None:
        assert lock._inside() == ""
        assert lock.acquire_write_lock(wait=False)
        block.__exit__(None, None, None)
        assert lock._inside() == "writer", "the block left what the child has taken since"
        lock.release_write_lock()

    assert ended_well(in_child(leave))
    assert lock._inside() == "writer"


class FailingLock:
    """A lock of the user's whose ``acquire`` is interrupted before it takes anything."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def acquire(self, blocking: bool = True, /) -> bool:
        raise KeyboardInterrupt

    def release(self) -> None:
        self.lock.release()


def test_a_borrowed_lock_whose_acquire_raises_is_not_released() -> None:
    failing = FailingLock()
    failing.lock.acquire()
    mutex = BorrowedMutex(failing)
    calls: list[Callable[[], bool]] = [
        mutex.acquire,
        lambda: mutex.acquire(False),
        mutex.locked,
        lambda: mutex._wait_released(NOW),
    ]
    for call in calls:
        with pytest.raises(KeyboardInterrupt):
            call()
    assert failing.lock.locked()
    assert not mutex.held


@pytest.mark.parametrize("wait", [True, False])
def test_a_borrowed_lock_is_released_if_an_interrupt_follows_its_acquisition(
    monkeypatch: pytest.MonkeyPatch, wait: bool
) -> None:
    lock = threading.Lock()
    mutex = BorrowedMutex(lock)
    take = threads._BorrowedHold.take

    def interrupted(hold: threads._BorrowedHold, wait: bool) -> bool:
        assert take(hold, wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(threads._BorrowedHold, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mutex.acquire(wait)
    assert not lock.locked()
    assert not mutex.held
