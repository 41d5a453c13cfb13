"""A read lease tells whether a process has a file open for writing."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import pytest

from dogpile_fs._os.lease import has_writer, is_copy, name_of, writers_at
from tests.support.processes import Processes, Record, ended_well, in_child

needs_leases = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has leases")


@pytest.fixture
def reading(path: str) -> int:
    Path(path).write_text("x")
    fd = os.open(path, os.O_RDONLY)
    if has_writer(fd) is None:
        pytest.skip("this file system gives no leases")
    return fd


@needs_leases
def test_a_file_that_this_process_has_open_for_writing_has_a_writer_until_it_is_closed(
    path: str, reading: int
) -> None:
    assert has_writer(reading) is False
    with open(path, "a"):
        assert has_writer(reading) is True
    assert has_writer(reading) is False
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        file.close()
        assert has_writer(reading) is True
        mapped.close()
    assert has_writer(reading) is False
    with open(path, "rb"):
        assert has_writer(reading) is False


def _write_until(path: str, record: Record) -> None:
    with open(path, "a"):
        record.write("open")
        record.wait("close")


@needs_leases
def test_a_file_that_another_process_has_open_for_writing_has_a_writer_and_the_process_is_named(
    path: str, reading: int, record: Record, processes: Processes
) -> None:
    other = processes.start(_write_until, path, record)
    record.wait("open")
    assert has_writer(reading) is True
    (found,) = writers_at(path)
    assert name_of(found).startswith(f"{other.pid} (")
    assert is_copy(found)
    assert not is_copy(os.getpid())
    with open(path, "a"):
        assert f"{os.getpid()} (this one)" in map(name_of, writers_at(path))
    record.write("close")
    processes.join(other)
    assert has_writer(reading) is False
    assert writers_at(path) == []


@needs_leases
def test_the_lease_is_given_back_at_once(path: str, reading: int) -> None:
    assert has_writer(reading) is False
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # which a lease would refuse
    with open("/proc/locks") as locks:
        assert not [line for line in locks if "LEASE" in line and line.split()[5].endswith(f":{_inode(path)}")]


def _inode(path: str) -> int:
    return os.stat(path).st_ino


def _keep_opening(path: str, record: Record) -> None:
    record.write("begun")
    while not record.events("enough"):
        for _ in range(100):
            os.close(os.open(path, os.O_WRONLY))


@needs_leases
def test_a_process_that_opens_the_file_in_between_kills_no_process(
    path: str, reading: int, record: Record, processes: Processes
) -> None:
    other = processes.start(_keep_opening, path, record)
    record.wait("begun")

    def ask_often() -> None:
        found = {has_writer(reading) for _ in range(20_000)}
        assert found == {True, False}

    assert ended_well(in_child(ask_often))
    record.write("enough")
    processes.join(other)


def test_what_the_system_does_not_say_is_not_guessed(tmp_path: Path) -> None:
    read, write = os.pipe()
    directory = os.open(tmp_path, os.O_RDONLY)
    assert [has_writer(fd) for fd in (read, directory)] == [None, None]
    for fd in (read, write, directory):
        os.close(fd)
    assert has_writer(read) is None


@needs_leases
def test_a_client_of_nfs_does_not_say_without_a_delegation(
    path: str, reading: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses the lease then, as if a process had the file open for writing: no creation would ever end."""
    monkeypatch.setattr("dogpile_fs._os.lease.kind_of", lambda fd: "nfs4")
    with open(path, "a"):
        assert has_writer(reading) is None


@needs_leases
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as another user")
def test_another_users_file_may_have_a_writer(path: str, reading: int) -> None:
    def as_nobody() -> None:
        os.setresuid(65534, 65534, 65534)
        assert has_writer(reading) is None

    assert ended_well(in_child(as_nobody))
