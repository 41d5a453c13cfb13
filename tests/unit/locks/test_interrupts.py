"""An exception at any instruction leaves no lock held.

The mechanism: CPython checks for signals (its eval breaker) when a function begins or a generator goes on, after a
call of C code, and at a jump backwards. ``sys.settrace`` with opcode events visits all these places of ours.
Each call is run once to count its points, then once for each of them, with an exception raised there.
"""

from __future__ import annotations

import dis
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

import dogpile_fs
from dogpile_fs import Datafile, Dogpile, FileMutex, ReadWriteFileLock, SyncReaderDogpile
from dogpile_fs._os import byterange  # noqa: F401  # imported before the counting
from dogpile_fs._sidecar import hardlink  # noqa: F401

PACKAGE = os.path.dirname(dogpile_fs.__file__)


class Interrupt(BaseException):
    """What a signal handler raises."""


class Injection:
    """Raises *error* at the point of a call whose number is *at*; counts them all if that is 0."""

    def __init__(self, error: type[BaseException], at: int) -> None:
        self.error = error
        self.at = at
        self.points = 0
        self.where = ""

    def __enter__(self) -> None:
        sys.settrace(self._called)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, argument: object) -> Any:
        # A finalizer swallows what is raised in it: that is no exception in the call.
        if not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_name in ("__del__", "_dropped"):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        self._count(frame)
        return self._traced

    def _traced(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "opcode" and _is_point(frame):
            self._count(frame)
        return self._traced

    def _count(self, frame: FrameType) -> None:
        self.points += 1
        if self.points == self.at:
            self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
            raise self.error


def _is_point(frame: FrameType) -> bool:
    """Whether CPython looks for signals before this instruction: the one before it was a call, or jumped back."""
    here = frame.f_lasti
    return here in _points_of(frame.f_code)


_known: dict[Any, frozenset[int]] = {}


def _points_of(code: Any) -> frozenset[int]:
    if code not in _known:
        points = set()
        after = False
        for instruction in dis.get_instructions(code):
            if after:
                points.add(instruction.offset)
            after = instruction.opname.startswith("CALL")
            if "BACKWARD" in instruction.opname and not instruction.opname.endswith("NO_INTERRUPT"):
                points.add(instruction.argval)
        _known[code] = frozenset(points)
    return _known[code]


class Subject:
    """A call, and how to see afterwards that nothing is held."""

    def __init__(self, call: Callable[[], object], locks: Callable[[], Iterator[Callable[[], object]]]) -> None:
        self.call = call
        self.locks = locks


def _comes_free(lock: FileMutex | ReadWriteFileLock) -> Callable[[], bool]:
    """A function that takes *lock* for a moment, if it is free."""

    def take() -> bool:
        if not lock.acquire(wait=False):
            return False
        lock.release()
        return True

    return take


def _mutex(path: str) -> Subject:
    mutex, other = FileMutex(path), FileMutex(path)

    def use() -> None:
        mutex.acquire()
        mutex.release()

    def free() -> Iterator[Callable[[], object]]:
        if mutex.held:  # it tells that it is held, and can be released
            mutex.release()
        yield from (_comes_free(other), _comes_free(mutex))

    return Subject(use, free)


def _block_of(enter: Callable[[ReadWriteFileLock], Any]) -> Callable[[str], Subject]:
    def make(path: str) -> Subject:
        lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path)

        def use() -> None:
            with enter(lock):
                pass

        def free() -> Iterator[Callable[[], object]]:
            yield from (_comes_free(other), _comes_free(lock))

        return Subject(use, free)

    return make


def _free_files(path: str) -> Iterator[Callable[[], object]]:
    mutex, lock = FileMutex(path + ".dogpile.lock"), ReadWriteFileLock(path + ".dogpile.rwlock")
    sidecar = Dogpile(3600, path)
    yield from (_comes_free(mutex), _comes_free(lock))

    def invalidate() -> bool:
        sidecar.invalidate()
        return True

    yield invalidate


def _dogpile(kind: type[Dogpile], how: str) -> Callable[[str], Subject]:
    def make(path: str) -> Subject:
        dogpile = kind(0, path, timeout=5)

        def use() -> None:
            if how == "refresh":
                dogpile.refresh(lambda: None)
            elif how == "force":
                dogpile.refresh(lambda: None, force=True)
            elif how == "invalidate":
                dogpile.invalidate()
            elif how == "status":
                dogpile.status()
            else:
                with dogpile.acquire(lambda: None):
                    pass

        return Subject(use, lambda: _free_files(path))

    return make


def _datafile(path: str) -> Subject:
    def create(target: str) -> None:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))

    datafile = Datafile(path, 0, create, durable=False, readers=True, timeout=5)
    return Subject(datafile.refresh, lambda: _free_files(path))


SUBJECTS: dict[str, Callable[[str], Subject]] = {
    "FileMutex": _mutex,
    "ReadWriteFileLock.read": _block_of(lambda lock: lock.read()),
    "ReadWriteFileLock.write": _block_of(lambda lock: lock.write()),
    "Dogpile.refresh": _dogpile(Dogpile, "refresh"),
    "Dogpile.refresh(force=True)": _dogpile(Dogpile, "force"),
    "Dogpile.acquire": _dogpile(Dogpile, "acquire"),
    "Dogpile.invalidate": _dogpile(Dogpile, "invalidate"),
    "Dogpile.status": _dogpile(Dogpile, "status"),
    "SyncReaderDogpile.acquire": _dogpile(SyncReaderDogpile, "acquire"),
    "Datafile.refresh": _datafile,
}


@pytest.mark.parametrize("error", [Interrupt, MemoryError])
@pytest.mark.parametrize("name", SUBJECTS)
def test_an_exception_at_any_point_of_a_call_leaves_no_lock_held(
    name: str, error: type[BaseException], tmp_path: Any
) -> None:
    count = 0
    for at in range(100_000):
        path = str(tmp_path / "resource")
        subject = SUBJECTS[name](path)
        subject.call()  # all that is made at the first call is there
        injection = Injection(error, at)
        with suppress(Interrupt, MemoryError, OSError), injection:
            subject.call()
        if at == 0:
            count = injection.points
        assert all(lock() for lock in subject.locks()), f"held after {error.__name__} in {injection.where}"
        if at > 0 and not injection.where:
            break
    print(f"{name}: {count} points")
    assert count > 10
