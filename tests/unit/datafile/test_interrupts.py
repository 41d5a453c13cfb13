"""An exception at any instruction of a call leaves no lock held, no reader inside, and no file for good.

The mechanism is that of tests/unit/locks/test_interrupts.py.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import DataDirectory, Datafile, FileMutex, ReadWriteFileLock, atomic_write
from dogpile_fs._os import fork
from tests.support.places import left_beside, writing
from tests.unit.locks.test_interrupts import Injection, Interrupt

#: The points that are tried: every fifth, or with ``tox -e endurance`` each one.
STRIDE = 1 if "DOGPILE_FS_ROUNDS" in os.environ else 5


@dataclass
class Subject:
    """A call, what is done before it each time, and what must be true after it."""

    prepare: Callable[[], object]
    call: Callable[[], object]
    checks: list[Callable[[], bool]]


def the_files_are_unlocked(resource: Datafile | DataDirectory) -> bool:
    """Whether another object can take the mutex and the write lock, and change the sidecar."""
    path = resource._path
    for lock in (FileMutex(path + ".dogpile.lock"), ReadWriteFileLock(path + ".dogpile.rwlock")):
        if not lock.acquire(wait=False):
            return False
        lock.release()
    type(resource)(path, 3600, durable=False).invalidate()
    return True


def no_version_is_locked(path: str) -> bool:
    """Whether each directory beside *path*, and the one at *path*, could be removed: no reader is inside."""
    for entry in [*os.scandir(os.path.dirname(path))]:
        if entry.is_dir():
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                flock(descriptor, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                return False
            finally:
                os.close(descriptor)
    return True


def the_next_writer_leaves_nothing(path: str) -> bool:
    with atomic_write(path) as file:
        file.write(b"next")
    return Path(path).read_bytes() == b"next" and left_beside(path) == []


def the_next_creation_leaves_nothing(resource: Datafile | DataDirectory) -> bool:
    return bool(resource.refresh(force=True)) and left_beside(resource._path) == []


def no_loader_is_locked(resource: Datafile | DataDirectory) -> bool:
    cache = resource._cache
    return cache is None or not any(slot.lock.locked() or slot.holder for slot in cache.slots.values())


def no_lock_of_the_process_is_held() -> bool:
    """Whether another thread can take the lock under which threads make what they must not make twice."""
    taken: list[bool] = []

    def take() -> None:
        if fork.once.acquire(timeout=1):
            taken.append(True)
            fork.once.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return bool(taken)


def _of(resource: Datafile | DataDirectory, prepare: Callable[[], object], call: Callable[[], object]) -> Subject:
    path = resource._path
    return Subject(
        prepare,
        call,
        [
            lambda: not resource._dogpile.dogpilelock.held,
            lambda: the_files_are_unlocked(resource),
            lambda: no_version_is_locked(path),
            lambda: no_loader_is_locked(resource),
            no_lock_of_the_process_is_held,
            lambda: the_next_creation_leaves_nothing(resource),
        ],
    )


def _datafile(path: str, readers: bool = False, keep: int = 0) -> Datafile:
    return Datafile(path, 3600, writing("new"), durable=False, readers=readers, keep=keep, timeout=5)


def _directory(path: str, keep: int = 0) -> DataDirectory:
    return DataDirectory(path, 3600, os.mkdir, durable=False, keep=keep, timeout=5)


def _rollback(make: Callable[[str], Datafile | DataDirectory]) -> Callable[[str], Subject]:
    def subject(path: str) -> Subject:
        resource = make(path)

        def create_twice() -> None:
            for _ in range(2):
                resource.refresh(force=True)

        return _of(resource, create_twice, resource.rollback)

    return subject


def _refresh(make: Callable[[str], Datafile | DataDirectory]) -> Callable[[str], Subject]:
    def subject(path: str) -> Subject:
        resource = make(path)
        return _of(resource, resource.refresh, lambda: resource.refresh(force=True))

    return subject


def _block(make: Callable[[str], Datafile | DataDirectory], how: str) -> Callable[[str], Subject]:
    def subject(path: str) -> Subject:
        resource = make(path)

        def enter_and_leave() -> None:
            with getattr(resource, how)():
                pass

        return _of(resource, resource.refresh, enter_and_leave)

    return subject


def _load(make: Callable[[str], Datafile | DataDirectory], first: bool) -> Callable[[str], Subject]:
    """Load the first object, or the next one while there is an old one."""

    def subject(path: str) -> Subject:
        resource = make(path)

        def loader(given: Any) -> object:
            return object()

        def prepare() -> None:
            resource.refresh()
            if first:
                resource._cache = None
            else:
                resource.load(loader)
                resource.refresh(force=True)

        return _of(resource, prepare, lambda: resource.load(loader))

    return subject


def _atomic(**options: Any) -> Callable[[str], Subject]:
    def subject(path: str) -> Subject:
        def prepare() -> None:
            if options.get("overwrite", True):
                Path(path).write_bytes(b"old")
            else:
                Path(path).unlink(missing_ok=True)

        def write() -> None:
            with atomic_write(path, **options) as file:
                file.write(b"new")

        return Subject(
            prepare,
            write,
            [
                lambda: not os.path.exists(path) or Path(path).read_bytes() in (b"old", b"new"),
                lambda: the_next_writer_leaves_nothing(path),
            ],
        )

    return subject


def _plain_directory(path: str) -> DataDirectory:
    if not os.path.lexists(path):
        os.mkdir(path)
    return _directory(path, keep=1)


@pytest.fixture(autouse=True)
def _pytest_keeps_no_traceback(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its log handler would keep that of a failed creation, and its hook that of a finalizer."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


SUBJECTS: dict[str, Callable[[str], Subject]] = {
    "atomic_write": _atomic(),
    "atomic_write(durable=False)": _atomic(durable=False),
    "atomic_write(overwrite=False)": _atomic(overwrite=False),
    "Datafile.rollback": _rollback(lambda path: _datafile(path, keep=1)),
    "Datafile.rollback, readers": _rollback(lambda path: _datafile(path, keep=1, readers=True)),
    "Datafile.open": _block(_datafile, "open"),
    "Datafile.open, readers": _block(lambda path: _datafile(path, readers=True), "open"),
    "Datafile.acquire": _block(_datafile, "acquire"),
    "Datafile.acquire, readers": _block(lambda path: _datafile(path, readers=True), "acquire"),
    "Datafile.load, first": _load(_datafile, first=True),
    "Datafile.load, next": _load(_datafile, first=False),
    "Datafile.load, readers": _load(lambda path: _datafile(path, readers=True), first=False),
    "DataDirectory.refresh": _refresh(lambda path: _directory(path, keep=1)),
    "DataDirectory.refresh, plain": _refresh(_plain_directory),
    "DataDirectory.rollback": _rollback(lambda path: _directory(path, keep=1)),
    "DataDirectory.rollback, plain": _rollback(_plain_directory),
    "DataDirectory.open": _block(_directory, "open"),
    "DataDirectory.open, plain": _block(_plain_directory, "open"),
    "DataDirectory.load, first": _load(_directory, first=True),
    "DataDirectory.load, next": _load(_directory, first=False),
}


# A generator that is dropped is closed, and swallows an exception that comes then, as a finalizer does.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("error", [Interrupt, MemoryError])
@pytest.mark.parametrize("name", SUBJECTS)
def test_an_exception_at_any_point_of_a_call_leaves_no_lock_and_no_reader(
    name: str, error: type[BaseException], tmp_path: Path
) -> None:
    subject = SUBJECTS[name](str(tmp_path / "resource"))
    subject.prepare()
    subject.call()  # imports and all that is made once are done
    subject.prepare()
    counting = Injection(error, None)
    with counting:
        subject.call()
    reached = []
    for at in counting.points[::STRIDE]:
        subject.prepare()
        injection = Injection(error, at)
        with suppress(Interrupt, MemoryError), injection:
            subject.call()
        for number, check in enumerate(subject.checks):
            assert check(), f"check {number} after {error.__name__} at point {at}, in {injection.where}"
        reached.append(bool(injection.where))
    print(f"{name}: {len(counting.points)} points, {sum(reached)} of {len(reached)} reached")
    assert len(counting.points) > 10
    assert any(reached)
