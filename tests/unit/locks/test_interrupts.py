"""An exception at any instruction leaves no lock held.

CPython checks for signals (its eval breaker) when a function begins or a generator goes on, after a call of C
code, and at a jump backwards. ``sys.settrace`` with opcode events visits all these places in the package.
Each call is run once to find its points, then once for each of them, with an exception raised there. Such a run is
traced by opcodes in the one frame that has the point: tracing costs many times what the call does.
"""

from __future__ import annotations

import dis
import itertools
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CodeType, FrameType
from typing import Any

import pytest

import dogpile_fs
from dogpile_fs import Datafile, Dogpile, FileMutex, NotHeld, ReadWriteFileLock, SyncReaderDogpile
from dogpile_fs._locks.key_mutex import KeyMutex
from dogpile_fs._locks.threads import BorrowedMutex, ThreadMutex, ThreadReadWriteLock
from dogpile_fs._os import byterange  # noqa: F401  # imported before the counting
from dogpile_fs._os.waiting import NOW
from dogpile_fs._sidecar import hardlink  # noqa: F401
from dogpile_fs._sidecar.key_records import KeyRecord, KeyRecords

from .test_readwrite import in_thread

PACKAGE = os.path.dirname(dogpile_fs.__file__)
#: The points that are tried: every eleventh, or with ``tox -e endurance`` each one.
STRIDE = 1 if "DOGPILE_FS_ROUNDS" in os.environ else 11


class Interrupt(BaseException):
    """What a signal handler raises."""


#: A point: a function, which of its frames it is, counted as they begin or go on, and which point of that frame.
Point = tuple[CodeType, int, int]


class Injection:
    """Raises *error* at the point *at* of a call; finds all points of the call if that is None."""

    def __init__(self, error: type[BaseException], at: Point | None) -> None:
        self.error = error
        self.at = at
        self.points: list[Point] = []
        self.where = ""
        self._frames: Counter[CodeType] = Counter()

    def __enter__(self) -> None:
        sys.settrace(self._called)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE) or _is_in_finalizer(frame):
            return None
        code = frame.f_code
        self._frames[code] += 1
        begun = self._frames[code]
        if self.at is not None and (code is not self.at[0] or begun != self.at[1]):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        points = itertools.count(1)

        def traced(frame: FrameType, event: str, argument: object) -> Any:
            if event == "opcode" and _is_point(frame):
                self._meet(frame, (code, begun, next(points)))
            return traced

        self._meet(frame, (code, begun, next(points)))
        return traced

    def _meet(self, frame: FrameType, point: Point) -> None:
        if self.at is None:
            self.points.append(point)
        elif point == self.at:
            self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
            raise self.error


def _is_in_finalizer(frame: FrameType | None) -> bool:
    """Whether a finalizer calls *frame*: it swallows what is raised there, so that the call raises nothing."""
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        if frame.f_code.co_name in ("__del__", "_dropped"):
            return True
        frame = frame.f_back
    return False


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


def _comes_free(lock: FileMutex | KeyMutex | ReadWriteFileLock) -> Callable[[], bool]:
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
        if mutex.held:  # the release was interrupted before it began
            mutex.release()
        yield from (_comes_free(other), _comes_free(mutex))

    return Subject(use, free)


def _borrowed(path: str) -> Subject:
    lock = threading.Lock()
    mutex = BorrowedMutex(lock)

    def use() -> None:
        with mutex:
            pass
        mutex._wait_released(NOW)
        mutex.locked()

    def is_free() -> bool:
        if mutex.held:  # the release was interrupted before it began
            mutex.release()
        return lock.acquire(False)

    return Subject(use, lambda: iter([is_free]))


def _thread_mutex(path: str) -> Subject:
    mutex = ThreadMutex()

    def use() -> None:
        with mutex:
            pass

    def is_free() -> bool:
        if mutex.held:
            mutex.release()
        return in_thread(lambda: mutex.acquire(False)) is True

    return Subject(use, lambda: iter([is_free]))


def _thread_block_of(enter: Callable[[ThreadReadWriteLock], Any]) -> Callable[[str], Subject]:
    def make(path: str) -> Subject:
        lock = ThreadReadWriteLock()

        def use() -> None:
            with enter(lock):
                pass

        def is_free() -> bool:
            return in_thread(lambda: lock.acquire_write_lock(wait=False)) is True

        return Subject(use, lambda: iter([is_free]))

    return make


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


def _free_objects(dogpile: Dogpile) -> Iterator[Callable[[], object]]:
    """The same in thread scope."""
    yield lambda: not dogpile.dogpilelock.locked()
    if isinstance(dogpile, SyncReaderDogpile):
        lock = dogpile.readwritelock

        def write() -> bool:
            if not lock.acquire_write_lock(wait=False):
                return False
            lock.release_write_lock()
            return True

        yield write


def _named_read_lock(path: str) -> Subject:
    lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path)

    def use() -> None:
        lock.acquire_read_lock()
        lock.release_read_lock()

    def free() -> Iterator[Callable[[], object]]:
        with suppress(NotHeld):  # the lock tells that it is held, and can be released
            lock.release_read_lock()
        yield from (_comes_free(other), _comes_free(lock))

    return Subject(use, free)


def _dogpile(kind: type[Dogpile], how: str, *, threads: bool = False) -> Callable[[str], Subject]:
    def make(path: str) -> Subject:
        dogpile = kind(0, None if threads else path, timeout=5)

        def use() -> None:
            if how == "refresh":
                dogpile.refresh(lambda: None)
            elif how == "force":
                dogpile.refresh(lambda: None, force=True)
            elif how == "invalidate":
                dogpile.invalidate()
            elif how == "status":
                dogpile.status()
            elif how == "stamp":
                dogpile.createdtime = 1000.0
            elif how == "value":
                with dogpile.acquire(lambda: (1, 1000.0), None, lambda: (1, 1000.0)):
                    pass
            elif isinstance(dogpile, SyncReaderDogpile) and how == "swap":
                with dogpile.acquire_write_lock():
                    pass
            else:
                with dogpile.acquire(lambda: None):
                    pass

        return Subject(use, lambda: _free_objects(dogpile) if threads else _free_files(path))

    return make


def _datafile(path: str) -> Subject:
    def create(target: str) -> None:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))

    # Without a backoff: else a failure would keep the next call from creating.
    datafile = Datafile(path, 0, create, durable=False, readers=True, timeout=5, backoff=None)
    return Subject(datafile.refresh, lambda: _free_files(path))


def _key_mutex(path: str, key: str = "one") -> KeyMutex:
    return KeyMutex(path, key, 1, 0, make=lambda: None, timeout=5, mode=None)


def _key(path: str) -> Subject:
    mutex, other = _key_mutex(path), _key_mutex(path)

    def use() -> None:
        mutex.acquire()
        mutex.release()

    def free() -> Iterator[Callable[[], object]]:
        if mutex.held:  # the release was interrupted before it began
            mutex.release()
        yield from (_comes_free(other), _comes_free(mutex))

    return Subject(use, free)


def _colliding_key(path: str) -> Subject:
    outer, inner = _key_mutex(path, "outer"), _key_mutex(path, "inner")

    def use() -> None:
        with outer, inner:
            pass

    def free() -> Iterator[Callable[[], object]]:
        for mutex in (inner, outer):
            if mutex.held:
                mutex.release()
        yield _comes_free(_key_mutex(path, "third"))

    return Subject(use, free)


def _key_record(path: str) -> Subject:
    key = KeyRecord(KeyRecords(path, mode=None, timeout=5, make=lambda: None), "a", 5)

    def use() -> None:
        key.change(lambda record: record.replace(generation=record.generation + 1))
        key.records.erase(key)

    def is_free() -> bool:
        other = KeyRecord(KeyRecords(path, mode=None, timeout=5, make=lambda: None), "b", 6)
        other.change(lambda record: record.replace(generation=record.generation + 1))
        return other.read().record.generation > 0

    return Subject(use, lambda: iter([is_free]))


SUBJECTS: dict[str, Callable[[str], Subject]] = {
    "FileMutex": _mutex,
    "ReadWriteFileLock.read": _block_of(lambda lock: lock.read()),
    "ReadWriteFileLock.write": _block_of(lambda lock: lock.write()),
    "BorrowedMutex": _borrowed,
    "ThreadMutex": _thread_mutex,
    "ThreadReadWriteLock.read": _thread_block_of(lambda lock: lock.read()),
    "ThreadReadWriteLock.write": _thread_block_of(lambda lock: lock.write()),
    "Dogpile.refresh": _dogpile(Dogpile, "refresh"),
    "Dogpile.refresh(force=True)": _dogpile(Dogpile, "force"),
    "Dogpile.acquire": _dogpile(Dogpile, "acquire"),
    "Dogpile.invalidate": _dogpile(Dogpile, "invalidate"),
    "Dogpile.status": _dogpile(Dogpile, "status"),
    "Dogpile.createdtime": _dogpile(Dogpile, "stamp"),
    "Dogpile.acquire(value_and_created_fn)": _dogpile(Dogpile, "value"),
    "SyncReaderDogpile.acquire": _dogpile(SyncReaderDogpile, "acquire"),
    "SyncReaderDogpile.acquire_write_lock": _dogpile(SyncReaderDogpile, "swap"),
    "ReadWriteFileLock.acquire_read_lock": _named_read_lock,
    "threads: Dogpile.acquire": _dogpile(Dogpile, "acquire", threads=True),
    "threads: Dogpile.refresh(force=True)": _dogpile(Dogpile, "force", threads=True),
    "threads: SyncReaderDogpile.acquire": _dogpile(SyncReaderDogpile, "acquire", threads=True),
    "threads: SyncReaderDogpile.acquire_write_lock": _dogpile(SyncReaderDogpile, "swap", threads=True),
    "Datafile.refresh": _datafile,
    "KeyMutex": _key,
    "KeyMutex, colliding": _colliding_key,
    "KeyRecords": _key_record,
}


# What is raised in a finalizer or a generator that is closed is reported and swallowed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("error", [Interrupt, MemoryError])
@pytest.mark.parametrize("name", SUBJECTS)
def test_an_exception_at_any_point_of_a_call_leaves_no_lock_held(
    name: str, error: type[BaseException], tmp_path: Any
) -> None:
    def called_with(at: Point | None) -> Injection:
        subject = SUBJECTS[name](str(tmp_path / "resource"))
        subject.call()  # all that is made at the first call is there
        injection = Injection(error, at)
        with suppress(Interrupt, MemoryError, OSError), injection:
            subject.call()
        assert all(lock() for lock in subject.locks()), f"held after {error.__name__} in {injection.where}"
        return injection

    called_with(None)  # there are files of an earlier call from here on
    points = called_with(None).points
    reached = [bool(called_with(at).where) for at in points[error is MemoryError :: STRIDE]]
    print(f"{name}: {len(points)} points, {sum(reached)} of {len(reached)} reached")
    assert len(points) > 10
    assert any(reached)
