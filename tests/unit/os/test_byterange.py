"""Locks on single bytes: they belong to the description, and do not conflict with flock."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dogpile_fs._os import byterange
from tests.support.processes import PATIENCE, Processes, Record, wait_for


class Opened:
    """Opens descriptions of one file and closes what is left of them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fds: list[int] = []

    def __call__(self, access: int = os.O_RDWR) -> int:
        fd = os.open(self.path, access | os.O_CREAT, 0o666)
        self.fds.append(fd)
        return fd

    def close(self, fd: int) -> None:
        self.fds.remove(fd)
        os.close(fd)


@pytest.fixture
def opened(path: str) -> Iterator[Opened]:
    opened = Opened(path)
    yield opened
    for fd in opened.fds:
        os.close(fd)


@pytest.fixture(params=[0, 1])
def byte(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def a_request_waits_for(path: str) -> bool:
    """Whether the kernel knows of a blocked request for a lock on the file at *path*."""
    inode = f":{os.stat(path).st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_shared_locks_share(opened: Opened, byte: int) -> None:
    one, other = opened(), opened()
    assert byterange.shared(one, byte, wait=False)
    assert byterange.shared(other, byte, wait=False)
    assert byterange.shared(other, byte, wait=True)


def test_an_exclusive_lock_excludes_both_kinds(opened: Opened, byte: int) -> None:
    one, other = opened(), opened()
    assert byterange.exclusive(one, byte, wait=False)
    assert not byterange.exclusive(other, byte, wait=False)
    assert not byterange.shared(other, byte, wait=False)
    byterange.unlock(one, byte)
    assert byterange.exclusive(other, byte, wait=False)


def test_a_shared_lock_excludes_the_exclusive_one(opened: Opened, byte: int) -> None:
    one, other = opened(), opened()
    assert byterange.shared(one, byte, wait=False)
    assert not byterange.exclusive(other, byte, wait=False)
    byterange.unlock(one, byte)
    assert byterange.exclusive(other, byte, wait=False)


def test_the_two_bytes_are_two_locks(opened: Opened) -> None:
    one, other = opened(), opened()
    assert byterange.exclusive(one, 0, wait=False)
    assert byterange.exclusive(other, 1, wait=False)
    assert not byterange.shared(one, 1, wait=False)
    assert not byterange.shared(other, 0, wait=False)
    byterange.unlock(one, 0)
    assert byterange.shared(other, 0, wait=False)
    assert not byterange.shared(one, 1, wait=False)


def test_a_description_does_not_exclude_itself(opened: Opened, byte: int) -> None:
    one, other = opened(), opened()
    assert byterange.shared(one, byte, wait=False)
    assert byterange.exclusive(one, byte, wait=False)
    assert not byterange.shared(other, byte, wait=False)
    assert byterange.shared(one, byte, wait=False)
    assert byterange.shared(other, byte, wait=False)


def test_only_the_exclusive_lock_of_another_description_is_reported(opened: Opened, byte: int) -> None:
    one, other = opened(), opened(os.O_RDONLY)
    assert not byterange.is_exclusively_locked(other, byte)
    byterange.shared(one, byte, wait=False)
    assert not byterange.is_exclusively_locked(other, byte)
    byterange.exclusive(one, byte, wait=False)
    assert byterange.is_exclusively_locked(other, byte)
    assert not byterange.is_exclusively_locked(one, byte)
    assert not byterange.is_exclusively_locked(other, 1 - byte)
    byterange.unlock(one, byte)
    assert not byterange.is_exclusively_locked(other, byte)


def test_only_the_shared_lock_of_another_description_is_reported(opened: Opened, byte: int) -> None:
    one, other = opened(os.O_RDONLY), opened()
    assert not byterange.is_share_locked(other, byte)
    byterange.shared(one, byte, wait=False)
    assert byterange.is_share_locked(other, byte)
    assert not byterange.is_share_locked(one, byte)
    assert not byterange.is_share_locked(other, 1 - byte)
    byterange.unlock(one, byte)
    byterange.exclusive(other, byte, wait=False)
    assert not byterange.is_share_locked(one, byte)


def test_a_query_takes_no_lock(opened: Opened, byte: int) -> None:
    one, other = opened(), opened()
    assert not byterange.is_exclusively_locked(one, byte)
    assert not byterange.is_share_locked(one, byte)
    assert byterange.exclusive(other, byte, wait=False)


FAR = 2**62


@pytest.mark.parametrize("far", [2, 1000, FAR])
def test_any_byte_can_be_locked(opened: Opened, far: int) -> None:
    one, other = opened(), opened()
    assert byterange.exclusive(one, far, wait=False)
    assert not byterange.exclusive(other, far, wait=False)
    assert not byterange.shared(other, far, wait=False)
    assert byterange.exclusive(other, far - 1, wait=False)
    assert byterange.exclusive(other, far + 1, wait=False)
    byterange.unlock(one, far)
    assert byterange.exclusive(other, far, wait=False)


@pytest.mark.parametrize("far", [0, 1, 1000, FAR])
def test_the_exclusive_lock_of_another_description_is_found_at_any_byte(opened: Opened, far: int) -> None:
    one, other = opened(), opened(os.O_RDONLY)
    assert byterange.find_exclusive(other) is None
    byterange.shared(one, far, wait=False)
    assert byterange.find_exclusive(other) is None
    byterange.exclusive(one, far, wait=False)
    assert byterange.find_exclusive(other) == far
    assert byterange.find_exclusive(one) is None, "the description's own lock"
    byterange.shared(other, far + 1, wait=False)
    assert byterange.find_exclusive(other) == far
    byterange.unlock(one, far)
    assert byterange.find_exclusive(other) is None


def test_of_several_exclusive_locks_one_is_found(opened: Opened) -> None:
    holders = {byte: opened() for byte in (1, 7, FAR)}
    for byte, fd in holders.items():
        byterange.exclusive(fd, byte, wait=False)
    asking = opened()
    for _ in range(3):
        found = byterange.find_exclusive(asking)
        assert found in holders
        opened.close(holders.pop(found))
    assert byterange.find_exclusive(asking) is None


def test_byte_locks_and_flock_do_not_conflict(opened: Opened, byte: int) -> None:
    one, other, third = opened(), opened(), opened()
    fcntl.flock(one, fcntl.LOCK_EX)
    assert not byterange.is_exclusively_locked(other, byte)
    assert byterange.exclusive(other, byte, wait=False)
    fcntl.flock(one, fcntl.LOCK_UN)
    fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_closing_a_description_gives_its_lock_back(opened: Opened, byte: int) -> None:
    one, other = opened(), opened()
    byterange.exclusive(one, byte, wait=False)
    opened.close(one)
    assert byterange.exclusive(other, byte, wait=False)


def test_closing_another_description_of_the_file_gives_nothing_back(opened: Opened, byte: int) -> None:
    # It would with POSIX locks, which belong to the process.
    one, other = opened(), opened()
    byterange.exclusive(one, byte, wait=False)
    opened.close(opened())
    assert byterange.is_exclusively_locked(other, byte)


def test_unlocking_what_is_not_locked_is_no_error(opened: Opened, byte: int) -> None:
    byterange.unlock(opened(), byte)


def test_a_read_only_description_can_lock_shared_but_not_exclusively(opened: Opened, byte: int) -> None:
    opened()
    fd = opened(os.O_RDONLY)
    assert byterange.shared(fd, byte, wait=False)
    for wait in (False, True):
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            byterange.exclusive(fd, byte, wait=wait)
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("wait", [False, True])
def test_an_error_of_the_system_is_not_reported_as_contention(opened: Opened, wait: bool) -> None:
    fd = opened()
    opened.close(fd)
    for lock in (byterange.shared, byterange.exclusive):
        with pytest.raises(OSError, match="Bad file descriptor"):
            lock(fd, 0, wait=wait)
    with pytest.raises(OSError, match="Bad file descriptor"):
        byterange.is_exclusively_locked(fd, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        byterange.find_exclusive(fd)


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_a_wait_ends_when_the_lock_is_given_back(opened: Opened, byte: int, kind: str) -> None:
    one, other = opened(), opened()
    byterange.exclusive(one, byte, wait=False)
    got: list[bool] = []
    waiting = threading.Thread(
        target=lambda: got.append(getattr(byterange, kind)(other, byte, wait=True)), daemon=True
    )
    waiting.start()
    wait_for(lambda: a_request_waits_for(opened.path) or got, "a blocked request")
    assert got == []
    byterange.unlock(one, byte)
    waiting.join(PATIENCE)
    assert got == [True]
    assert byterange.is_exclusively_locked(one, byte) == (kind == "exclusive")


def test_a_lock_is_given_back_when_its_process_is_killed(
    opened: Opened, byte: int, record: Record, processes: Processes
) -> None:
    fd = opened()

    def hold() -> None:
        byterange.exclusive(os.open(opened.path, os.O_RDWR), byte, wait=True)
        record.write("held")
        signal.pause()

    holder = processes.start(hold)
    record.wait("held")
    assert byterange.is_exclusively_locked(fd, byte)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    assert byterange.exclusive(fd, byte, wait=True)


def test_a_child_that_closes_its_copy_gives_nothing_back(opened: Opened, byte: int, processes: Processes) -> None:
    one, other = opened(), opened()
    byterange.exclusive(one, byte, wait=False)
    processes.start(os.close, one)
    processes.join()
    assert byterange.is_exclusively_locked(other, byte)
