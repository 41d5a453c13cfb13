"""The kind of file system that a file is on, and a read that reaches a server of NFS."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from pathlib import Path

import pytest

from dogpile_fs import FileMutex
from dogpile_fs._os import filesystem
from dogpile_fs._os.filesystem import kind_of, loses_locks, read_from_server

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc and such reads")


@needs_linux
def test_the_kind_is_that_of_the_mount(path: str) -> None:
    with open("/proc/self/status") as file:
        assert kind_of(file.fileno()) == "proc"
        fd = file.fileno()
    assert kind_of(fd) is None


def test_a_file_of_this_host_loses_no_locks(path: str) -> None:
    Path(path).touch()
    for name in (path, "/dev/shm"):
        fd = os.open(name, os.O_RDONLY)
        found = os.fstat(fd)
        assert not loses_locks(fd, (found.st_dev, found.st_ino))
        os.close(fd)


def test_a_kind_that_could_not_be_asked_for_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [None, "nfs4"]
    monkeypatch.setattr(filesystem, "kind_of", lambda fd: kinds.pop(0))
    nowhere = (0, -1)
    assert [loses_locks(-1, nowhere) for _ in range(3)] == [False, True, True]
    filesystem._known.pop(nowhere)


@needs_linux
def test_a_read_past_the_cache_leaves_the_descriptor_as_it_was(path: str) -> None:
    Path(path).touch()
    fd = os.open(path, os.O_RDWR)
    before = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        read_from_server(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip("this file system has no such reads")
    finally:
        assert fcntl.fcntl(fd, fcntl.F_GETFL) == before
        os.close(fd)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_mutex_on_nfs_is_lost_if_a_read_from_the_server_says_so(
    path: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain read of the empty lock file does not reach the server."""

    def refuse(fd: int) -> None:
        raise OSError(code, "")

    mutex = FileMutex(path)
    with mutex:
        monkeypatch.setattr("dogpile_fs._os.openfile.read_from_server", refuse)
        assert not mutex.lost
        monkeypatch.setattr("dogpile_fs._os.openfile.loses_locks", lambda fd, identity: True)
        assert mutex.lost
