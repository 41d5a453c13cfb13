"""Harm that another program does to the coordination files causes no crash, no hang and no wrong "fresh"."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable

import pytest

from dogpile_fs import SyncReaderDogpile


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
@pytest.mark.parametrize("suffix", [".dogpile", ".dogpile.journal", ".dogpile.lock", ".dogpile.rwlock"])
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
    time.sleep(0.011)  # for 10 ms a pass trusts the descriptor that it keeps
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
