"""Copies: of an object that names a path, also of a subclass; never of one that stands for what is held."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import (
    DataDirectory,
    Datafile,
    Dogpile,
    FileMutex,
    LockTimeout,
    ReadWriteFileLock,
    SyncReaderDogpile,
)

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
}


def text(target: str) -> None:
    Path(target).write_text("made")


# Each of these knows where its path is, and has something of its own.


class Report(Datafile):
    def __init__(self, directory: str) -> None:
        super().__init__(directory + "/report", 60, text, keep=2, readers=True, timeout=5)
        self.title = ["a report"]


class Index(DataDirectory):
    def __init__(self, directory: str) -> None:
        super().__init__(directory + "/report", 60, keep=2, timeout=5)
        self.title = ["a report"]


class Once(Dogpile):
    def __init__(self, directory: str) -> None:
        super().__init__(60, directory + "/report", timeout=5)
        self.title = ["a report"]


class Readers(SyncReaderDogpile):
    def __init__(self, directory: str) -> None:
        super().__init__(60, directory + "/report", timeout=5, resource="file")
        self.title = ["a report"]


class Mutex(FileMutex):
    def __init__(self, directory: str) -> None:
        super().__init__(directory + "/report", timeout=5)
        self.title = ["a report"]


class ReadWrite(ReadWriteFileLock):
    __slots__ = ("title",)

    def __init__(self, directory: str) -> None:
        super().__init__(directory + "/report", timeout=5)
        self.title = ["a report"]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("kind", [Report, Index, Once, Readers, Mutex, ReadWrite])
def test_a_subclass_with_a_constructor_of_its_own_is_copied(
    tmp_path: Path, kind: Callable[[str], Any], copied: str
) -> None:
    thing = kind(str(tmp_path))
    other = COPIES[copied](thing)
    assert type(other) is type(thing)
    assert repr(other) == repr(thing)
    assert other.title == ["a report"]
    if isinstance(thing, Datafile | DataDirectory):
        assert other._options() == thing._options()
        assert other._creator is thing._creator
        other, thing = other._dogpile, thing._dogpile
    if isinstance(thing, Dogpile):
        assert other._readers is not thing._readers or type(thing) in (Dogpile, Once)
        assert other._made_with == thing._made_with
    else:
        assert other.timeout == 5


def test_a_copy_of_a_subclass_holds_nothing(tmp_path: Path) -> None:
    report = Report(str(tmp_path))
    with report.acquire():
        other = copy.copy(report)
        assert not other._dogpile.dogpilelock.held
        with pytest.raises(LockTimeout), other._dogpile.acquire_write_lock(timeout=0):  # type: ignore[attr-defined]
            pass
    mutex = Mutex(str(tmp_path))
    with mutex:
        assert not copy.copy(mutex).held


BLOCKS: dict[str, Callable[[str], Any]] = {
    "datafile's": lambda path: Datafile(path, 60, text, readers=True).acquire(),
    "datafile's, open": lambda path: Datafile(path, 60, text, readers=True).open(),
    "datafile's without readers": lambda path: Datafile(path, 60, text).open(),
    "dogpile's first": lambda path: SyncReaderDogpile(60, path).acquire(lambda: None),
    "dogpile's later": lambda path: passed(SyncReaderDogpile(60, path)),
    "thread scope's": lambda path: SyncReaderDogpile(60).acquire(lambda: None),
    "reader's": lambda path: ReadWriteFileLock(path + ".dogpile.rwlock").read(),
    "writer's": lambda path: ReadWriteFileLock(path + ".dogpile.rwlock").write(),
}


def passed(dogpile: SyncReaderDogpile) -> Any:
    """Return a block that reuses the guard and the slot of an earlier one."""
    for _ in range(2):
        with dogpile.acquire(lambda: None):
            pass
    return dogpile.acquire()


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_that_is_entered_is_not_copied_and_keeps_writers_out(path: str, kind: str, copied: str) -> None:
    lock = ReadWriteFileLock(path + ".dogpile.rwlock")
    block = BLOCKS[kind](path)
    with block:
        with pytest.raises(TypeError, match=r"cannot be copied or pickled"):
            COPIES[copied](block)
        is_free: list[bool] = []
        thread = threading.Thread(target=lambda: is_free.append(lock.acquire_write_lock(wait=False)))
        thread.start()
        thread.join()
        assert is_free == ["without" in kind or "thread" in kind]


@pytest.mark.parametrize("copied", COPIES)
def test_locks_of_threads_are_not_copied(copied: str) -> None:
    dogpile = SyncReaderDogpile(60)
    for lock in (dogpile.dogpilelock, dogpile.readwritelock):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            COPIES[copied](lock)
