"""SyncReaderDogpile for tasks."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

import dogpile_fs
from dogpile_fs import LockTimeout, WouldDeadlock
from dogpile_fs.aio import SyncReaderDogpile
from tests.support.processes import PATIENCE, Processes, Record

from .conftest import Run
from .test_dogpile import is_at_once, nothing, until


@pytest.fixture(params=["thread scope", "process scope"])
def dogpile(request: pytest.FixtureRequest, path: str) -> SyncReaderDogpile:
    return SyncReaderDogpile(3600, None if request.param == "thread scope" else path)


def test_a_creator_swaps_while_no_task_reads(dogpile: SyncReaderDogpile, run: Run) -> None:
    async def main() -> None:
        reading, swaps = 0, 0
        is_over = False

        async def creator() -> None:
            nonlocal swaps
            async with dogpile.acquire_write_lock():
                assert reading == 0
                await anyio.sleep(0.001)
                assert reading == 0
                swaps += 1

        async def reader() -> None:
            nonlocal reading
            while not is_over:
                async with dogpile.acquire(creator):
                    reading += 1
                    await anyio.sleep(0.003)
                    reading -= 1

        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(reader)
            for _ in range(20):
                await dogpile.refresh(creator, force=True)
            is_over = True
        assert swaps >= 20

    run(main)


def test_a_fresh_pass_does_not_pause_its_task(path: str, run: Run) -> None:
    dogpile = SyncReaderDogpile(3600, path)

    async def main() -> None:
        await dogpile.refresh(nothing)
        for _ in range(4):
            block = dogpile.acquire(nothing)
            is_at_once(block.__aenter__())
            is_at_once(block.__aexit__(None, None, None))

    run(main)


def test_waits_for_readers_and_for_a_writer_can_be_cancelled(dogpile: SyncReaderDogpile, run: Run) -> None:
    async def main() -> None:
        await dogpile.refresh(nothing)
        leave = anyio.Event()

        async def reader() -> None:
            async with dogpile.acquire():
                await leave.wait()

        async def writer() -> None:
            async with dogpile.acquire_write_lock():
                await leave.wait()

        for holder in (reader, writer):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(holder)
                await until(lambda: list(dogpile._sync.readwritelock._holds_inside()))  # type: ignore[attr-defined]
                with anyio.move_on_after(0.05) as scope:
                    async with dogpile.acquire_write_lock():
                        raise AssertionError
                assert scope.cancelled_caught
                with pytest.raises(LockTimeout):
                    async with dogpile.acquire_write_lock(timeout=0.05):
                        raise AssertionError
                if holder is writer:
                    with anyio.move_on_after(0.05) as scope:
                        async with dogpile.acquire(nothing):
                            raise AssertionError
                    assert scope.cancelled_caught
                    with pytest.raises(LockTimeout, match="a writer"):
                        async with dogpile.acquire(nothing, timeout=0.05):
                            raise AssertionError
                leave.set()
            leave = anyio.Event()
            async with dogpile.acquire_write_lock(timeout=60):  # nothing was left behind
                pass
            async with dogpile.acquire(timeout=60):
                pass

    run(main)


def test_a_task_that_would_wait_for_itself_is_told(dogpile: SyncReaderDogpile, run: Run) -> None:
    async def main() -> None:
        await dogpile.refresh(nothing)
        async with dogpile.acquire():
            async with dogpile.acquire():
                pass
            with pytest.raises(WouldDeadlock):
                async with dogpile.acquire_write_lock():
                    pass
        async with dogpile.acquire_write_lock():
            with pytest.raises(WouldDeadlock):
                async with dogpile.acquire():
                    pass

    run(main)


def test_a_task_whose_wait_to_write_was_cancelled_is_not_inside_while_the_lock_is_given_back(
    dogpile: SyncReaderDogpile, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock: Any = dogpile._sync.readwritelock
    kind = type(lock)
    enter, leave = kind._enter_as_writer, kind._leave_as_writer
    entered, cancelled, leaving, asked = (threading.Event() for _ in range(4))

    def entering(self: Any, deadline: Any) -> Any:
        hold = enter(self, deadline)
        entered.set()
        assert cancelled.wait(PATIENCE)
        return hold

    def left(self: Any, hold: Any) -> None:
        leaving.set()
        assert asked.wait(PATIENCE)
        leave(self, hold)

    async def main() -> None:
        await dogpile.refresh(nothing)
        monkeypatch.setattr(kind, "_enter_as_writer", entering)
        monkeypatch.setattr(kind, "_leave_as_writer", left)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def cancel() -> None:
                    await until(entered.is_set)
                    scope.cancel()

                tasks.start_soon(cancel)
                async with dogpile.acquire_write_lock():
                    raise AssertionError("it was cancelled")
        cancelled.set()
        await until(leaving.is_set)
        assert lock._inside() == ""
        asked.set()
        async with dogpile.acquire(timeout=60):
            pass

    run(main)


def test_a_creator_that_waits_for_its_own_caller_is_told(dogpile: SyncReaderDogpile, run: Run) -> None:
    async def main() -> None:
        async def creator() -> None:
            async with dogpile.acquire_write_lock():
                pass

        await dogpile.refresh(creator)
        async with dogpile.acquire():
            with pytest.raises(WouldDeadlock):
                await dogpile.refresh(creator, force=True)
        assert await dogpile.refresh(creator, force=True)

    run(main)


def test_a_value_that_is_missing_inside_a_block_is_created_there(dogpile: SyncReaderDogpile, run: Run) -> None:
    async def main() -> None:
        await dogpile.refresh(nothing)
        async with dogpile.acquire():
            await dogpile.invalidate(hard=True)
            async with dogpile.acquire(nothing):  # passes: the version there stays until it leaves
                pass

    run(main)


def _use(path: str, record: Record) -> None:
    dogpile = dogpile_fs.SyncReaderDogpile(0.01, path)

    def creator() -> None:
        Path(f"{path}.new").write_text("x" * 1000)
        with dogpile.acquire_write_lock():
            os.replace(f"{path}.new", path)
        record.write("swapped")

    while len(record.events("done")) < 1:
        with dogpile.acquire(creator):
            assert len(Path(path).read_text()) == 1000


def test_tasks_and_processes_read_and_swap_one_file(
    path: str, run: Run, record: Record, processes: Processes
) -> None:
    async def main() -> None:
        dogpile = SyncReaderDogpile(0.01, path)
        swaps = 0

        async def creator() -> None:
            nonlocal swaps
            Path(f"{path}.new").write_text("x" * 1000)
            async with dogpile.acquire_write_lock():
                await anyio.sleep(0)
                os.replace(f"{path}.new", path)
            swaps += 1

        async def reader() -> None:
            while swaps < 10 or len(record.events("swapped")) < 10:
                async with dogpile.acquire(creator):
                    assert len(Path(path).read_text()) == 1000
                    await anyio.sleep(0.001)

        processes.start_many(2, _use, path, record)
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(reader)
        record.write("done")

    run(main)
    processes.join()
