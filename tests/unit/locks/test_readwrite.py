"""ReadWriteFileLock: readers together, a writer alone, and neither starves the other."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from types import FrameType

import pytest

from dogpile_fs import LockTimeout, NotHeld, ReadWriteFileLock, WouldDeadlock
from dogpile_fs._locks import rw_protocol
from dogpile_fs._os import byterange
from tests.support.processes import wait_for


def in_thread(action: object) -> object:
    """What *action* returns or raises in a thread of its own."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(action())  # type: ignore[operator]
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    return outcome[0]


def can_read(lock: ReadWriteFileLock, timeout: float = 0) -> object:
    """True if a thread other than this one gets in as a reader, else its error."""

    def read() -> bool:
        with lock.read(timeout=timeout):
            return True

    return in_thread(read)


def test_many_read_or_one_writes(path: str) -> None:
    one, other = ReadWriteFileLock(path), ReadWriteFileLock(path)
    assert one.acquire_read_lock()
    assert other.acquire_read_lock()
    assert not other.acquire_write_lock(wait=False)
    one.release_read_lock()
    other.release_read_lock()
    assert one.acquire_write_lock()
    assert not other.acquire_read_lock(wait=False)
    assert not other.acquire_write_lock(wait=False)
    assert not one.acquire_write_lock(wait=False)
    one.release_write_lock()
    assert other.acquire_write_lock(wait=False)


def test_threads_of_one_object_exclude_each_other_too(path: str) -> None:
    lock = ReadWriteFileLock(path)
    with lock.read():
        assert in_thread(lambda: lock.acquire_write_lock(wait=False)) is False
        assert can_read(lock) is True
    with lock.write():
        assert in_thread(lambda: lock.acquire_read_lock(wait=False)) is False
        assert in_thread(lambda: lock.acquire_write_lock(wait=False)) is False
    with lock.write():
        pass


def test_the_file_stays_locked_until_the_last_thread_leaves(path: str) -> None:
    lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path)
    entered, leave = threading.Event(), threading.Event()

    def read() -> None:
        with lock.read():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=read)
    with lock.read():
        thread.start()
        entered.wait()
    assert not other.acquire_write_lock(wait=False)
    leave.set()
    thread.join()
    assert other.acquire_write_lock(wait=False)


def test_reads_nest_in_a_thread(path: str) -> None:
    lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path)
    lock.acquire_read_lock()
    with lock.read(), lock.read():
        pass
    assert not other.acquire_write_lock(wait=False)
    lock.release_read_lock()
    assert other.acquire_write_lock(wait=False)


def test_a_read_may_be_left_by_another_thread_through_what_enter_returned(path: str) -> None:
    from dogpile_fs._os.waiting import FOREVER

    lock = ReadWriteFileLock(path)
    hold = lock._enter(FOREVER)
    assert in_thread(lambda: lock._leave(hold)) is None
    assert not lock._inside()
    assert ReadWriteFileLock(path).acquire_write_lock(wait=False)


@pytest.mark.parametrize("hold_first", [False, True])
def test_releasing_a_lock_that_is_not_held_is_an_error_that_names_the_path(path: str, hold_first: bool) -> None:
    lock = ReadWriteFileLock(path)
    if hold_first:
        with lock.read():
            pass
        with lock.write():
            pass
    for release in (lock.release_read_lock, lock.release_write_lock):
        with pytest.raises(NotHeld, match=path):
            release()


def test_a_thread_cannot_release_what_another_thread_holds(path: str) -> None:
    lock = ReadWriteFileLock(path)
    with lock.read():
        assert isinstance(in_thread(lock.release_read_lock), NotHeld)
    with lock.write():
        assert isinstance(in_thread(lock.release_write_lock), NotHeld)
        assert not ReadWriteFileLock(path).acquire_read_lock(wait=False)


@pytest.mark.parametrize("through_another_object", [False, True])
def test_a_thread_that_would_wait_for_itself_is_refused(path: str, through_another_object: bool) -> None:
    lock = ReadWriteFileLock(path)
    other = ReadWriteFileLock(path) if through_another_object else lock
    with lock.read(), pytest.raises(WouldDeadlock, match=path):
        other.acquire_write_lock()
    with lock.write():
        with pytest.raises(WouldDeadlock, match=path):
            other.acquire_read_lock()
        with pytest.raises(WouldDeadlock, match=path):
            other.acquire_write_lock()
        assert not other.acquire_read_lock(wait=False)
    with lock.write():
        pass


def test_a_wait_ends_at_its_timeout_and_leaves_no_byte_locked(path: str) -> None:
    lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path, timeout=0.05)
    with lock.read():
        outcome = in_thread(other.acquire_write_lock)
        assert isinstance(outcome, LockTimeout)
        assert path in str(outcome)
        assert can_read(other) is True
        assert isinstance(in_thread(lambda: other.acquire_write_lock(timeout=0)), LockTimeout)
    assert other.acquire_write_lock()


def test_a_reader_times_out_behind_a_writer_and_behind_a_waiting_one(path: str) -> None:
    lock = ReadWriteFileLock(path)
    with lock.write():
        assert isinstance(can_read(lock, timeout=0.02), LockTimeout)
    waiting = threading.Thread(target=lambda: ReadWriteFileLock(path).acquire_write_lock())
    with lock.read():
        waiting.start()
        wait_for(lambda: isinstance(can_read(lock), LockTimeout), "the pending byte")
        wait_for(
            lambda: isinstance(can_read(lock, timeout=0.02), LockTimeout), "a time-out behind the pending byte"
        )
    waiting.join()


@pytest.mark.parametrize("timeout", [None, 60])
def test_a_waiting_thread_gets_in_when_the_other_leaves(path: str, timeout: float | None) -> None:
    lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path)
    got_in: list[str] = []

    def write() -> None:
        with other.write(timeout=timeout):
            got_in.append("writer")

    def read() -> None:
        with other.read(timeout=timeout):
            got_in.append("reader")

    for waiting, block in ((write, lock.read), (read, lock.write), (write, lock.write)):
        thread = threading.Thread(target=waiting)
        with block():
            thread.start()
            time.sleep(0.01)
            before = len(got_in)
        thread.join(60)
        assert before == len(got_in) - 1
    assert got_in == ["writer", "reader", "writer"]


def test_readers_that_wait_behind_a_writer_go_before_the_next_writer(path: str) -> None:
    lock = ReadWriteFileLock(path)
    order: list[str] = []

    def read() -> None:
        with ReadWriteFileLock(path).read():
            order.append("reader")

    def write() -> None:
        with ReadWriteFileLock(path).write():
            order.append("writer")

    def waiting(count: int) -> bool:
        inode = os.stat(path).st_ino
        with open("/proc/locks") as locks:
            return sum("->" in line and f":{inode} " in line for line in locks) == count

    readers = [threading.Thread(target=read) for _ in range(3)]
    writer = threading.Thread(target=write)
    with lock.write():
        writer.start()
        wait_for(lambda: waiting(1), "a writer that waits")
        for number, reader in enumerate(readers):
            reader.start()
            wait_for(lambda: waiting(2 + number), "readers that wait")  # noqa: B023
    for thread in (*readers, writer):
        thread.join(60)
    assert order == ["reader"] * 3 + ["writer"]


def test_readers_that_keep_overlapping_cannot_keep_a_slow_writer_out(path: str) -> None:
    # Each call of the writer takes longer than a reader takes to find it pending and to begin to wait.
    def dawdle(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            time.sleep(0.005)

    got_in = threading.Event()

    def write() -> None:
        sys.setprofile(dawdle)
        with ReadWriteFileLock(path).write():
            got_in.set()

    def read() -> None:
        lock = ReadWriteFileLock(path)
        while not got_in.is_set() and time.monotonic() < give_up:
            with lock.read():
                time.sleep(0.0002)

    give_up = time.monotonic() + 10
    threads = [threading.Thread(target=read) for _ in range(3)]
    threads.append(threading.Thread(target=write))
    for thread in threads:
        thread.start()
    kept_out = not got_in.wait(10)
    for thread in threads:
        thread.join(60)
    assert not kept_out, "three readers kept a writer out for 10 s"


def test_a_pickled_copy_names_the_same_file_and_holds_nothing(path: str) -> None:
    lock = ReadWriteFileLock(path, timeout=3, mode=0o600)
    with lock.write():
        copy = pickle.loads(pickle.dumps(lock))
        assert (copy.path, copy.timeout, copy._mode) == (path, 3, 0o600)
        assert not copy.acquire_read_lock(wait=False)
        with pytest.raises(NotHeld):
            copy.release_write_lock()
    assert path in repr(lock)


def test_on_nfs_a_reader_that_waits_has_locked_no_byte(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a flock is a lock on all bytes: a writer would wait for that byte, and the reader for the writer."""
    monkeypatch.setattr(rw_protocol, "loses_locks", lambda fd, identity: True)
    lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path)
    entered = threading.Event()

    def read() -> None:
        with other.read():
            entered.set()

    with lock.write():
        thread = threading.Thread(target=read)
        thread.start()
        with open(path, "rb") as file:
            assert not entered.wait(0.1)
            assert not byterange.is_share_locked(file.fileno(), rw_protocol._WAITING_READERS)
    thread.join(60)
    assert entered.is_set()
