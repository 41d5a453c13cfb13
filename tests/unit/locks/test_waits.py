"""Callers that wait for each other: within a process the last one is refused, between processes one gives up."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import Datafile, Dogpile, FileMutex, LockTimeout, ReadWriteFileLock, WouldDeadlock
from dogpile_fs._locks import waits
from dogpile_fs._locks.threads import BorrowedMutex, ThreadMutex, ThreadReadWriteLock
from tests.support.processes import PATIENCE, Processes, Record, wait_for, waiters_for

Two = tuple[Any, Any]


class Outcomes:
    """What each of some threads ended with."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.ended: list[object] = []

    def start(self, action: Callable[[], object]) -> None:
        def run() -> None:
            try:
                self.ended.append(action())
            except Exception as error:
                self.ended.append(error)

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()

    def refusals(self) -> list[WouldDeadlock]:
        """Return the refusals, once all threads have ended. No other error may have come."""
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"it hangs; so far: {self.ended}"
        errors = [error for error in self.ended if isinstance(error, Exception)]
        refusals = [error for error in errors if isinstance(error, WouldDeadlock)]
        assert errors == refusals
        return refusals


def in_opposite_order(two: Two, use: Callable[[Any], AbstractContextManager[object]]) -> Outcomes:
    """Start two threads that use both locks, each the other one first."""
    outcomes, meet = Outcomes(), threading.Barrier(2)

    def nest(outer: Any, inner: Any) -> None:
        with use(outer):
            meet.wait(PATIENCE)
            with use(inner):
                pass

    outcomes.start(lambda: nest(*two))
    outcomes.start(lambda: nest(*reversed(two)))
    return outcomes


MUTEXES: dict[str, Callable[[str], Any]] = {
    "files": lambda path: FileMutex(path),
    "threads": lambda path: ThreadMutex(),
    "borrowed": lambda path: BorrowedMutex(threading.Lock()),
}


@pytest.mark.parametrize("kind", MUTEXES)
def test_of_two_threads_with_two_mutexes_in_opposite_order_the_last_is_refused(path: str, kind: str) -> None:
    two = MUTEXES[kind](path + "-a"), MUTEXES[kind](path + "-b")
    [refusal] = in_opposite_order(two, lambda mutex: mutex).refusals()
    if kind == "files":
        assert path + "-a" in str(refusal)
        assert path + "-b" in str(refusal)
    for mutex in two:  # and the mutexes are free
        assert mutex.acquire(wait=False)
        mutex.release()


@pytest.mark.parametrize("kind", [ReadWriteFileLock, lambda path: ThreadReadWriteLock()], ids=["files", "threads"])
def test_of_two_threads_that_write_with_two_locks_in_opposite_order_the_last_is_refused(
    path: str, kind: Any
) -> None:
    two = kind(path + "-a"), kind(path + "-b")
    assert len(in_opposite_order(two, lambda lock: lock.write()).refusals()) == 1


def test_three_threads_that_wait_in_a_ring(path: str) -> None:
    mutexes = [FileMutex(f"{path}-{number}") for number in range(3)]
    outcomes, meet = Outcomes(), threading.Barrier(3)

    def nest(number: int) -> None:
        with mutexes[number]:
            meet.wait(PATIENCE)
            with mutexes[(number + 1) % 3]:
                pass

    for number in range(3):
        outcomes.start(lambda number=number: nest(number))  # type: ignore[misc]
    [refusal] = outcomes.refusals()
    assert all(mutex.path in str(refusal) for mutex in mutexes)


def test_a_wait_with_a_timeout_is_not_refused_and_ends_by_itself(path: str) -> None:
    two = FileMutex(path + "-a", timeout=0.2), FileMutex(path + "-b", timeout=PATIENCE)
    outcomes = in_opposite_order(two, lambda mutex: mutex)
    for thread in outcomes.threads:
        thread.join(PATIENCE)
    [error] = [error for error in outcomes.ended if error is not None]
    assert isinstance(error, LockTimeout)
    assert f"(locked by process {os.getpid()})" in str(error)


# Readers of two paths, and a writer that waits for each.


def write_once(path: str) -> None:
    with ReadWriteFileLock(path).write():
        pass


@pytest.mark.parametrize("elsewhere", [False, True], ids=["this-process", "other-processes"])
def test_readers_of_two_paths_in_opposite_order_with_a_writer_waiting_on_each(
    path: str, elsewhere: bool, processes: Processes
) -> None:
    paths = path + "-a", path + "-b"
    outcomes, meet, go = Outcomes(), threading.Barrier(3), threading.Event()

    def nest(outer: str, inner: str) -> None:
        with ReadWriteFileLock(outer).read():
            meet.wait(PATIENCE)
            go.wait(PATIENCE)
            with ReadWriteFileLock(inner).read():
                pass

    outcomes.start(lambda: nest(*paths))
    outcomes.start(lambda: nest(*reversed(paths)))
    meet.wait(PATIENCE)
    for each in paths:
        if elsewhere:
            processes.start(write_once, each, method="spawn")
        else:
            outcomes.start(lambda each=each: write_once(each))  # type: ignore[misc]
        wait_for(lambda each=each: waiters_for(each), "the writer that waits")  # type: ignore[misc]
    go.set()

    [refusal] = outcomes.refusals()
    assert all(each in str(refusal) for each in paths)
    processes.join()


def test_readers_of_two_paths_among_threads_in_opposite_order(path: str) -> None:
    two = ThreadReadWriteLock(), ThreadReadWriteLock()
    outcomes, meet, go = Outcomes(), threading.Barrier(3), threading.Event()

    def nest(outer: ThreadReadWriteLock, inner: ThreadReadWriteLock) -> None:
        with outer.read():
            meet.wait(PATIENCE)
            go.wait(PATIENCE)
            with inner.read():
                pass

    def write(lock: ThreadReadWriteLock) -> None:
        with lock.write():
            pass

    outcomes.start(lambda: nest(*two))
    outcomes.start(lambda: nest(*reversed(two)))
    meet.wait(PATIENCE)
    for lock in two:
        outcomes.start(lambda lock=lock: write(lock))  # type: ignore[misc]
        wait_for(lambda lock=lock: lock._waiting_writers, "the writer that waits")  # type: ignore[misc]
    go.set()
    assert len(outcomes.refusals()) == 1


def test_readers_that_keep_one_order_are_never_refused(path: str) -> None:
    locks = [ReadWriteFileLock(f"{path}-{number}") for number in range(3)]
    outcomes, end = Outcomes(), time.monotonic() + 2

    def read() -> None:
        while time.monotonic() < end:
            with locks[0].read(), locks[1].read(), locks[1].read(), locks[2].read():
                pass

    def write() -> None:
        while time.monotonic() < end:
            for lock in locks:
                with lock.write():
                    pass
            with locks[1].write(), locks[2].write():
                pass

    for action in (read, read, read, write, write):
        outcomes.start(action)
    assert outcomes.refusals() == []


# Creators.


def text(target: str) -> None:
    Path(target).write_text("made")


@pytest.mark.parametrize("readers", [False, True])
@pytest.mark.parametrize("use", ["open", "load", "path"])
def test_of_two_datafiles_whose_first_creators_use_each_other_one_is_refused(
    path: str, readers: bool, use: str
) -> None:
    begun = threading.Event(), threading.Event()
    files: list[Datafile] = []

    def using(other: int) -> Callable[[str], None]:
        def creator(target: str) -> None:
            begun[1 - other].set()
            begun[other].wait(PATIENCE)
            if use == "open":
                with files[other].open():
                    pass
            elif use == "load":
                files[other].load(lambda file: file.read())
            else:
                files[other].path()
            text(target)

        return creator

    files += [Datafile(f"{path}-{own}", 3600, using(1 - own), readers=readers) for own in range(2)]
    outcomes = Outcomes()
    for file in files:
        outcomes.start(file.path)
    # The other one then creates both itself, and finds that its creator would wait for itself.
    refusals = [str(error) for error in wait_for_errors(outcomes) if isinstance(error, WouldDeadlock)]
    assert any(all(file._path in refusal for file in files) for refusal in refusals), outcomes.ended


def wait_for_errors(outcomes: Outcomes) -> list[object]:
    for thread in outcomes.threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"it hangs; so far: {outcomes.ended}"
    return outcomes.ended


def test_of_two_loaders_that_load_each_other_one_is_refused(path: str) -> None:
    meet = threading.Barrier(2)
    files = [Datafile(f"{path}-{number}", 3600, text) for number in range(2)]

    def loader(own: int) -> Callable[[Any], str]:
        def load(file: Any) -> str:
            meet.wait(PATIENCE)
            return files[1 - own].load(loaders[1 - own])

        return load

    loaders = [loader(0), loader(1)]
    outcomes = Outcomes()
    for number in range(2):
        outcomes.start(lambda number=number: files[number].load(loaders[number]))  # type: ignore[misc]
    wait_for(lambda: [error for error in outcomes.ended if isinstance(error, WouldDeadlock)], "the refusal")
    meet.abort()  # the other one has nobody to meet
    wait_for_errors(outcomes)


def test_a_creator_waits_for_the_first_creation_of_what_it_uses(path: str) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(target: str) -> None:
        begun.set()
        go.wait(PATIENCE)
        text(target)

    used = Datafile(path + "-b", 3600, slow)

    def using(target: str) -> None:
        with used.open():
            text(target)

    outcomes = Outcomes()
    outcomes.start(used.path)
    begun.wait(PATIENCE)
    outcomes.start(Datafile(path + "-a", 3600, using).path)
    wait_for(lambda: waiters_for(path + "-b.dogpile.lock"), "the creator that waits")
    go.set()
    assert outcomes.refusals() == []


def test_a_task_that_waits_for_a_block_of_another_task_of_its_thread_is_refused(path: str) -> None:
    first, second = FileMutex(path + "-a"), FileMutex(path + "-b")
    outcomes, has_second = Outcomes(), threading.Event()

    def other_thread() -> None:
        with second:
            has_second.set()
            with first:
                pass

    async def main() -> None:
        async def hold() -> None:
            with first:
                await release.wait()

        async def want() -> None:
            try:
                wait_for(lambda: waiters_for(first.path), "the other thread")
                with pytest.raises(WouldDeadlock), second:
                    pass
            finally:
                release.set()

        release = asyncio.Event()
        holding = asyncio.create_task(hold())
        await asyncio.sleep(0)
        outcomes.start(other_thread)
        has_second.wait(PATIENCE)
        await asyncio.gather(holding, asyncio.create_task(want()))

    asyncio.run(main())
    assert outcomes.refusals() == []


# Between processes.


def create_with_other(own: str, other: str, record: Record, bound: float) -> None:
    waits.LONGEST_WHILE_HOLDING = bound

    def creator() -> None:
        record.write("creating", path=own)
        record.wait("creating", 2)
        with Dogpile(3600, other).acquire(lambda: None):
            pass

    try:
        Dogpile(3600, own).refresh(creator)
        record.write("created")
    except LockTimeout as error:
        record.write("gave up", error=str(error))


def test_of_two_processes_whose_first_creators_use_each_other_one_gives_up(
    path: str, record: Record, processes: Processes
) -> None:
    a, b = path + "-a", path + "-b"
    first = processes.start(create_with_other, a, b, record, 1.0)
    second = processes.start(create_with_other, b, a, record, PATIENCE)
    processes.join()

    [given_up] = record.events("gave up")
    assert given_up.pid == first.pid
    assert f"{b}.dogpile.lock' (locked by process {second.pid})" in given_up.more["error"]
    assert f"while it holds '{a}.dogpile.lock'" in given_up.more["error"]
    assert len(record.events("created")) == 1  # the other one went on


def read_both(outer: str, inner: str, record: Record, bound: float) -> None:
    waits.LONGEST_WHILE_HOLDING = bound
    with ReadWriteFileLock(outer).read():
        record.write("inside")
        record.wait("go")
        try:
            with ReadWriteFileLock(inner).read():
                record.write("read")
        except LockTimeout as error:
            record.write("gave up", error=str(error))


def test_of_two_processes_that_read_two_paths_in_opposite_order_one_gives_up(
    path: str, record: Record, processes: Processes
) -> None:
    a, b = path + "-a", path + "-b"
    first = processes.start(read_both, a, b, record, 1.0)
    second = processes.start(read_both, b, a, record, PATIENCE)
    record.wait("inside", 2)
    for each in (a, b):
        processes.start(write_once, each)
        wait_for(lambda each=each: waiters_for(each), "the writer that waits")  # type: ignore[misc]
    record.write("go")
    processes.join()

    [given_up] = record.events("gave up")
    assert given_up.pid == first.pid
    assert f"{b}' (locked by process {second.pid})" in given_up.more["error"]
    assert len(record.events("read")) == 1


def test_a_creator_waits_longer_than_that_for_the_readers_of_its_own_resource(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "LONGEST_WHILE_HOLDING", 0.1)
    Datafile(path, 3600, text, readers=True).refresh()
    outcomes = Outcomes()
    with Datafile(path, 3600, readers=True).acquire():
        outcomes.start(lambda: Datafile(path, 3600, text, readers=True).refresh(force=True))
        wait_for(lambda: waiters_for(path + ".dogpile.rwlock"), "the writer, which sleeps without a bound")
        time.sleep(0.2)
    assert outcomes.refusals() == []
    assert outcomes.ended == ["created"]
