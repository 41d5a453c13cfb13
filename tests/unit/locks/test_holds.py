"""A hold belongs to whichever thread or task has it, and only a caller that would wait for itself is refused."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest

from dogpile_fs import (
    Datafile,
    Dogpile,
    FileMutex,
    LockTimeout,
    NotHeld,
    ReadWriteFileLock,
    SyncReaderDogpile,
    WouldDeadlock,
)
from dogpile_fs._locks import reader_pool
from dogpile_fs._locks.threads import ThreadReadWriteLock
from dogpile_fs._os import byterange
from dogpile_fs._os import fork as forking
from dogpile_fs._os.openfile import OpenFile
from tests.support.processes import PATIENCE, ended_well, wait_for, wait_until_other_threads_sleep

BLOCKS: dict[str, Callable[[str], AbstractContextManager[object]]] = {
    "mutex": FileMutex,
    "read": lambda path: ReadWriteFileLock(path).read(),
    "write": lambda path: ReadWriteFileLock(path).write(),
    "SyncReaderDogpile": lambda path: SyncReaderDogpile(3600, path, init=True).acquire(),
    "acquire_write_lock": lambda path: SyncReaderDogpile(3600, path, init=True).acquire_write_lock(),
    "thread scope, reader": lambda path: SyncReaderDogpile(3600, init=True).acquire(),
    "thread scope, writer": lambda path: SyncReaderDogpile(3600, init=True).acquire_write_lock(),
}


@pytest.fixture
def path(tmp_path: object) -> str:
    return os.path.join(str(tmp_path), "resource")


@pytest.fixture
def pools() -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        yield first, second


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_may_be_left_by_another_thread_than_has_entered_it(
    name: str, path: str, pools: tuple[ThreadPoolExecutor, ThreadPoolExecutor]
) -> None:
    first, second = pools
    for _ in range(3):
        block = BLOCKS[name](path)
        first.submit(block.__enter__).result(PATIENCE)
        second.submit(block.__exit__, None, None, None).result(PATIENCE)
    assert FileMutex(path).acquire(wait=False)
    assert ReadWriteFileLock(path).acquire_write_lock(wait=False)
    assert ReadWriteFileLock(path + ".dogpile.rwlock").acquire_write_lock(wait=False)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_that_is_dropped_is_left(name: str, path: str) -> None:
    block = BLOCKS[name](path)
    block.__enter__()
    del block
    gc.collect()
    wait_for(lambda: FileMutex(path).acquire(wait=False), "the mutex")
    assert ReadWriteFileLock(path).acquire_write_lock(wait=False)
    assert ReadWriteFileLock(path + ".dogpile.rwlock").acquire_write_lock(wait=False)


@pytest.mark.parametrize("lock", [ReadWriteFileLock, lambda path: ThreadReadWriteLock()])
@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_block_that_is_left_without_having_been_entered_is_an_error(
    lock: Callable[[str], ReadWriteFileLock | ThreadReadWriteLock], kind: str, path: str
) -> None:
    block = getattr(lock(path), kind)()
    with pytest.raises(NotHeld, match="is not entered"):
        block.__exit__(None, None, None)
    with block:
        pass
    with pytest.raises(NotHeld, match="is not entered"):
        block.__exit__(None, None, None)
    with block:
        pass


def test_a_thread_that_waits_with_a_timeout_gets_what_another_gives_back_for_it(
    path: str, pools: tuple[ThreadPoolExecutor, ThreadPoolExecutor]
) -> None:
    first, second = pools
    mutex = FileMutex(path)
    first.submit(mutex.acquire).result(PATIENCE)
    waiting = first.submit(mutex.acquire, timeout=PATIENCE)
    second.submit(mutex.release).result(PATIENCE)
    assert waiting.result(PATIENCE)
    with pytest.raises(WouldDeadlock):
        first.submit(mutex.acquire).result(PATIENCE)
    with pytest.raises(LockTimeout):
        first.submit(mutex.acquire, timeout=0.01).result(PATIENCE)


def test_named_locks_may_be_released_by_another_thread_once(
    path: str, pools: tuple[ThreadPoolExecutor, ThreadPoolExecutor]
) -> None:
    first, second = pools
    lock = ReadWriteFileLock(path)
    for acquire, release in (
        (lock.acquire_read_lock, lock.release_read_lock),
        (lock.acquire_write_lock, lock.release_write_lock),
    ):
        first.submit(acquire).result(PATIENCE)
        second.submit(release).result(PATIENCE)
        for pool in pools:
            with pytest.raises(NotHeld):
                pool.submit(release).result(PATIENCE)


def test_a_thread_with_the_number_of_one_that_has_ended_inherits_nothing(path: str) -> None:
    lock = ReadWriteFileLock(path)
    block = lock.read()
    numbers: list[int] = []

    def enter() -> None:
        numbers.append(threading.get_ident())
        block.__enter__()

    inside: list[str] = []

    def ask() -> None:
        numbers.append(threading.get_ident())
        inside.append(lock._inside())

    for target in (enter, ask):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join(PATIENCE)
    assert inside == [""], f"threads {numbers}"
    block.__exit__(None, None, None)


# --- tasks


def test_two_tasks_of_one_thread_are_two_readers(path: str) -> None:
    lock = ReadWriteFileLock(path)

    async def read(entered: asyncio.Event, leave: asyncio.Event) -> str:
        with lock.read():
            entered.set()
            await leave.wait()
            return lock._inside()

    async def main() -> None:
        entered, leave = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(read(entered, leave))
        await entered.wait()
        assert lock._inside() == ""
        leave.set()
        assert await task == "reader"

    asyncio.run(main())


def test_tasks_pass_a_writer_for_a_second_and_are_then_refused_with_a_hint_at_aio(
    path: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_pool, "_warned", [])
    lock = ReadWriteFileLock(path)
    written = threading.Event()

    def write() -> None:
        ReadWriteFileLock(path).acquire_write_lock()
        written.set()

    async def enter() -> None:
        with lock.read():
            pass

    async def main() -> None:
        with lock.read():
            writer = threading.Thread(target=write, daemon=True)
            writer.start()
            began = time.monotonic()
            while not caplog.messages:  # until the writer waits
                await asyncio.create_task(enter())
                assert time.monotonic() - began < PATIENCE
            with pytest.raises(WouldDeadlock, match=r"dogpile_fs\.aio"):  # noqa: PT012
                while time.monotonic() - began < PATIENCE:
                    await asyncio.create_task(enter())
                    await asyncio.sleep(0.01)
            assert time.monotonic() - began >= 0.9
            with lock.read():  # its own block may be nested all the same
                pass
        assert await asyncio.to_thread(written.wait, PATIENCE)

    asyncio.run(main())
    assert len([text for text in caplog.messages if path in text and "dogpile_fs.aio" in text]) == 1


def test_a_task_passes_a_writer_that_has_only_begun_to_wait(path: str) -> None:
    lock = ReadWriteFileLock(path)

    async def enter() -> bool:
        with lock.read():
            return True

    async def main() -> None:
        with lock.read(), open(path, "r+b") as file:
            byterange.exclusive(file.fileno(), 0, wait=False)  # pending; since when is not told
            assert await asyncio.create_task(enter())

    asyncio.run(main())


def test_a_task_is_not_refused_what_a_thread_holds_and_will_give_back(path: str) -> None:
    mutex = FileMutex(path)
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with mutex:
            held.set()
            leave.wait(PATIENCE)

    async def main() -> bool:
        threading.Timer(0.05, leave.set).start()
        return FileMutex(path).acquire()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(PATIENCE)
    assert asyncio.run(main())
    thread.join(PATIENCE)


def test_a_task_is_refused_to_wait_for_ever_for_another_of_its_thread(path: str) -> None:
    async def main() -> None:
        mutex = FileMutex(path)

        async def hold(held: asyncio.Event, leave: asyncio.Event) -> None:
            with mutex:
                held.set()
                await leave.wait()

        held, leave = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(hold(held, leave))
        await held.wait()
        with pytest.raises(WouldDeadlock):
            FileMutex(path).acquire()
        with pytest.raises(LockTimeout):
            FileMutex(path).acquire(timeout=0.01)
        leave.set()
        await task
        assert mutex.acquire(wait=False)

    asyncio.run(main())


_ASYNCIO_COMES_LATER = """if True:
    import sys
    sys.modules["redis"] = None  # portalocker imports it if it is installed, and with it asyncio
    from dogpile_fs import ReadWriteFileLock, SyncReaderDogpile
    lock = ReadWriteFileLock(sys.argv[1])
    with lock.read(), SyncReaderDogpile(3600, sys.argv[1] + ".other", init=True).acquire():
        assert lock._inside() == "reader"
    imported = {"asyncio", "_asyncio", "trio", "greenlet"} & set(sys.modules)
    assert not imported, imported

    import asyncio

    async def main():
        assert asyncio.current_task() is not None
        with lock.read():
            assert lock._inside() == "reader"
            await asyncio.create_task(other())

    async def other():
        assert lock._inside() == ""

    asyncio.run(main())
"""


def test_no_scheduler_is_imported_and_one_that_the_program_imports_later_works(path: str) -> None:
    subprocess.run([sys.executable, "-c", _ASYNCIO_COMES_LATER, path], check=True, timeout=PATIENCE)


# --- plain forks, which do not run Python's hooks


def in_plain_child(action: Callable[[], object]) -> bool:
    """Whether *action* ends well in a child that C code has forked."""
    wait_until_other_threads_sleep()
    pid: int = ctypes.PyDLL(None).fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return ended_well(pid)


def test_a_child_of_a_plain_fork_holds_nothing_and_unlocks_nothing(path: str) -> None:
    mutex, lock = FileMutex(path), ReadWriteFileLock(path + ".rw")
    with mutex, lock.write():

        def leave() -> None:
            assert not mutex.held
            mutex.release()
            with pytest.raises(NotHeld):
                mutex.release()
            assert not FileMutex(path).acquire(wait=False)
            assert not lock.acquire_read_lock(wait=False)

        assert in_plain_child(leave)
        assert mutex.held
        assert not FileMutex(path).acquire(wait=False)
        assert not ReadWriteFileLock(lock.path).acquire_read_lock(wait=False)


def test_a_child_of_a_plain_fork_shares_no_reader_slot_with_its_parent(path: str) -> None:
    dogpile = SyncReaderDogpile(3600, path, init=True)
    for _ in range(3):
        with dogpile.acquire():
            pass
    other = ReadWriteFileLock(path + ".dogpile.rwlock")

    def read() -> None:
        with dogpile.acquire():
            assert not other.acquire_write_lock(wait=False)

    with dogpile.acquire():
        assert in_plain_child(read)
        assert not other.acquire_write_lock(wait=False), "the child has unlocked its parent"
    assert other.acquire_write_lock(wait=False)


def test_a_child_of_a_plain_fork_creates_and_reads(path: str) -> None:
    def create(target: str) -> None:
        with open(target, "w") as file:
            file.write("made")

    datafile = Datafile(path, 3600, create, readers=True)
    datafile.refresh()
    assert in_plain_child(lambda: datafile.refresh(force=True))
    assert datafile.status().generation == 2
    assert forking.IN_PARENT[0]


# --- callbacks in the middle of a change


def test_a_change_in_the_middle_of_a_change_by_the_same_thread_is_not_lost_and_does_not_wait(path: str) -> None:
    dogpile = Dogpile(3600, path, init=True)
    scope = dogpile._shared.scope
    crossed: list[None] = []

    def make(record: object) -> object:
        if len(crossed) < 2:
            crossed.append(None)
            Dogpile(3600, path).invalidate()  # as a signal handler would, through an object of its own
        return record.replace(cost=7.0)  # type: ignore[attr-defined]

    scope.change(make)  # type: ignore[arg-type]
    record = scope.read()
    assert (record.cost, record.invalidations, record.invalidated) == (7.0, 2, "soft")
    Dogpile(3600, path).invalidate(hard=True)
    assert not dogpile.has_value


def test_a_thread_that_hangs_while_it_opens_a_file_does_not_keep_the_process_from_forking(path: str) -> None:
    os.mkfifo(path)
    # Until another program opens it for writing.
    opening = threading.Thread(target=lambda: OpenFile(path).open(os.O_RDONLY), daemon=True)
    opening.start()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert ended_well(pid)
    other = os.open(path, os.O_RDWR)
    opening.join(PATIENCE)
    os.close(other)
    assert not opening.is_alive()
