from __future__ import annotations

import threading
import time

import pytest

from dogpile_fs import LockTimeout, NotHeld, WouldDeadlock
from dogpile_fs._locks.threads import BorrowedMutex, ThreadMutex, ThreadReadWriteLock
from dogpile_fs._os.waiting import FOREVER, NOW, Deadline
from tests.support.processes import ended_well, in_child

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
    assert mutex.wait_released(FOREVER)
    mutex.acquire()
    assert in_thread(lambda: mutex.wait_released(NOW)) is False
    with pytest.raises(WouldDeadlock):
        mutex.wait_released(FOREVER)
    done: list[bool] = []
    threads = [threading.Thread(target=lambda: done.append(mutex.wait_released(FOREVER))) for _ in range(4)]
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
    hold = lock.enter(FOREVER)
    mutex.acquire()

    def leave() -> None:
        assert not mutex.held
        mutex.release()
        lock.leave(hold)
        assert lock.acquire_write_lock(wait=False)

    assert ended_well(in_child(leave))
    assert mutex.held
    assert lock.inside() == "reader"
    assert in_thread(lambda: lock.acquire_write_lock(wait=False)) is False


def test_threads_read_together_and_write_alone() -> None:
    lock = ThreadReadWriteLock()
    hold, again = lock.enter(FOREVER), lock.enter(FOREVER)
    assert in_thread(lambda: lock.leave(lock.enter(NOW))) is None
    assert in_thread(lambda: lock.acquire_write_lock(timeout=0.01)).__class__ is LockTimeout
    lock.leave(hold)
    assert lock.inside() == "reader"
    lock.leave(again)
    assert not lock.inside()


def test_a_writer_keeps_all_others_out_until_he_leaves() -> None:
    lock = ThreadReadWriteLock()
    assert lock.acquire_write_lock()
    assert not lock.acquire_write_lock(wait=False)
    assert in_thread(lambda: lock.acquire_write_lock(wait=False)) is False
    assert isinstance(in_thread(lambda: lock.enter(Deadline(0.01))), LockTimeout)
    assert in_thread(lock.release_write_lock) is None, "any thread may give it back"
    assert isinstance(in_thread(lock.release_write_lock), NotHeld)
    assert in_thread(lambda: lock.leave(lock.enter(NOW))) is None
    assert lock.acquire_write_lock(wait=False)


def test_overlapping_reader_threads_do_not_starve_a_writer_nor_writers_a_reader() -> None:
    lock = ThreadReadWriteLock()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            hold = lock.enter(FOREVER)
            time.sleep(0.001)
            lock.leave(hold)

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
            lock.leave(lock.enter(Deadline(30)))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_waiting_writer_who_gives_up_lets_the_readers_in() -> None:
    lock = ThreadReadWriteLock()
    hold = lock.enter(FOREVER)
    waiting = threading.Event()
    outcome: list[object] = []

    def write() -> None:
        waiting.set()
        outcome.append(in_thread(lambda: lock.acquire_write_lock(timeout=0.2)))

    writer = threading.Thread(target=write)
    writer.start()
    waiting.wait()
    # A reader that comes while the writer waits is let in when he gives up, not when the first reader leaves.
    while in_thread(lambda: lock.leave(lock.enter(NOW))) is None and writer.is_alive():
        pass
    assert in_thread(lambda: lock.leave(lock.enter(Deadline(30)))) is None
    writer.join()
    assert isinstance(outcome[0], LockTimeout)
    lock.leave(hold)
