"""KeyMutex: the creation mutexes of many keys, each a byte of one file."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dogpile_fs import LockFileError, LockTimeout, WouldDeadlock
from dogpile_fs._locks.key_mutex import KeyMutex, shard_for_removal
from dogpile_fs._os.waiting import FOREVER, NOW, Deadline
from tests.support.processes import Processes, Record, ended_well, in_child, wait_for, waiters_for


def nothing() -> None:
    pass


def mutex_of(
    path: str, key: str = "one", bits: int = 1, shard: int = 0, make: Callable[[], object] = nothing
) -> KeyMutex:
    return KeyMutex(path, key, bits, shard, make=make, timeout=None, mode=None)


def test_only_one_of_two_objects_of_a_key_holds_it(path: str) -> None:
    one, other = mutex_of(path), mutex_of(path)
    with one:
        assert not other.acquire(wait=False)
        assert other.locked()
        assert one.held
        assert not other.held
    assert not other.locked()
    assert other.acquire(wait=False)
    other.release()


@pytest.mark.parametrize("bits", [0, 2**56 - 1, 2**64 - 1])
def test_keys_with_other_bits_do_not_exclude_each_other(path: str, bits: int) -> None:
    with mutex_of(path), mutex_of(path, "other", bits) as other:
        assert other.held
        assert mutex_of(path).locked()


def test_it_makes_its_directory_before_the_file(path: str) -> None:
    where = os.path.join(path, "below")
    mutex = mutex_of(where, make=lambda: os.makedirs(path, exist_ok=True))
    assert not mutex.locked()
    assert not os.path.exists(path)
    with mutex:
        assert os.path.exists(where)


def test_a_wait_for_oneself_is_refused_and_one_with_a_bound_ends(path: str) -> None:
    with mutex_of(path):
        with pytest.raises(WouldDeadlock, match="one"):
            mutex_of(path).acquire()
        with pytest.raises(WouldDeadlock, match="one"):
            mutex_of(path)._wait_released(FOREVER)
        with pytest.raises(LockTimeout, match="one"):
            mutex_of(path).acquire(timeout=0.01)
        assert not mutex_of(path)._wait_released(NOW)


def test_a_caller_goes_on_under_its_own_hold_of_another_key_with_the_same_byte(path: str) -> None:
    outer, inner = mutex_of(path, "outer"), mutex_of(path, "inner")
    with outer:
        assert inner.acquire(wait=False)
        assert inner.held
        assert not inner.lost
        with pytest.raises(WouldDeadlock):
            mutex_of(path, "inner").acquire()
        inner.release()
        assert not mutex_of(path, "inner").locked(), "it is its own: a wait for it would not end"
        assert ended_well(in_child(lambda: _refuse_if_free(path)))
    assert ended_well(in_child(lambda: mutex_of(path, "third").acquire(wait=False) or os._exit(1)))


def _refuse_if_free(path: str) -> None:
    if mutex_of(path, "third").acquire(wait=False) or not mutex_of(path, "outer").locked():
        os._exit(1)


def test_the_last_of_two_that_share_a_byte_gives_it_back(path: str) -> None:
    outer, inner = mutex_of(path, "outer"), mutex_of(path, "inner")
    outer.acquire()
    inner.acquire()
    outer.release()
    assert ended_well(in_child(lambda: _refuse_if_free(path)))
    inner.release()
    with mutex_of(path, "third"):
        pass


def test_another_thread_with_a_colliding_key_waits(path: str) -> None:
    order: list[str] = []

    def second() -> None:
        with mutex_of(path, "inner"):
            order.append("second")

    with mutex_of(path, "outer"):
        thread = threading.Thread(target=second)
        thread.start()
        wait_for(lambda: waiters_for(path) == 1, "the other thread")
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_hold_that_is_dropped_is_given_back_at_once(path: str) -> None:
    gc.disable()
    try:
        mutex = mutex_of(path)
        mutex.acquire()
        del mutex
        assert mutex_of(path).acquire(wait=False)
    finally:
        gc.enable()


def test_any_thread_may_release_it(path: str) -> None:
    mutex = mutex_of(path)
    mutex.acquire()
    thread = threading.Thread(target=mutex.release)
    thread.start()
    thread.join()
    assert not mutex.locked()


def test_a_deleted_file_is_noticed_and_warned_of(path: str, caplog: pytest.LogCaptureFixture) -> None:
    mutex, other = mutex_of(path), mutex_of(path)
    with mutex:
        assert not mutex.lost
        os.unlink(path)
        assert mutex.lost
        with other:
            assert not other.lost
    assert "was deleted" in caplog.text


def test_a_forked_child_holds_nothing_and_its_parent_goes_on_to(path: str) -> None:
    mutex = mutex_of(path)
    with mutex:
        assert ended_well(in_child(lambda: os._exit(int(mutex.held or mutex.acquire(wait=False)))))
        assert mutex.held
        assert ended_well(in_child(lambda: _refuse_if_free_as(path, "one")))


def _refuse_if_free_as(path: str, key: str) -> None:
    if mutex_of(path, key).acquire(wait=False):
        os._exit(1)


def _hold(path: str, record: Record) -> None:
    with mutex_of(path):
        record.write("held")
        signal.pause()


def _wait(path: str, record: Record) -> None:
    mutex_of(path)._wait_released(FOREVER)
    record.write("woken")


def test_all_waiters_sleep_in_the_kernel_and_wake_when_the_holder_is_killed(
    path: str, record: Record, processes: Processes
) -> None:
    holder = processes.start(_hold, path, record)
    record.wait("held")
    waiters = processes.start_many(10, _wait, path, record)
    wait_for(lambda: waiters_for(path) == 10, "ten waiters")
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    processes.join(*waiters)
    assert len(record.events("woken")) == 10
    assert not mutex_of(path).locked()


def test_waiters_of_one_hold_do_not_wait_for_the_next(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutex = mutex_of(path)
    woken: list[bool] = []
    monkeypatch.setattr("dogpile_fs._locks.key_mutex.time.monotonic_ns", iter(range(100)).__next__)
    mutex.acquire()
    thread = threading.Thread(target=lambda: woken.append(mutex_of(path)._wait_released(Deadline(None))))
    thread.start()
    wait_for(lambda: waiters_for(path) == 1, "the waiter")
    mutex.release()
    mutex.acquire()  # at once: the next hold has another byte
    thread.join(60)
    assert woken == [True]
    mutex.release()


def test_a_hold_keeps_its_shard_from_being_removed(path: str) -> None:
    assert shard_for_removal(path, 3) is None, "there is no lock file yet"
    with mutex_of(path, shard=3):
        assert shard_for_removal(path, 3) is None
        other: Any = shard_for_removal(path, 4)
        other.close()
    shard: Any = shard_for_removal(path, 3)
    shard.close()


def test_of_two_that_share_a_byte_each_keeps_its_shard(path: str) -> None:
    with mutex_of(path, "outer", shard=3), mutex_of(path, "inner", shard=4):
        assert [shard_for_removal(path, shard) for shard in (3, 4)] == [None, None]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write any file")
def test_without_the_permission_to_write_the_file_taking_it_is_an_error(path: str) -> None:
    with mutex_of(path):
        pass
    os.chmod(path, 0o400)
    os.chmod(os.path.dirname(path), 0o500)
    with pytest.raises(LockFileError):
        mutex_of(path).acquire()


def test_a_directory_in_the_place_of_the_file_is_an_error(path: str) -> None:
    os.mkdir(path)
    with pytest.raises(LockFileError, match=path):
        mutex_of(path).acquire()
