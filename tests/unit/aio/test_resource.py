"""Datafile and DataDirectory for tasks."""

from __future__ import annotations

import json
import os
import pickle
import threading
from fcntl import LOCK_EX, LOCK_UN, flock
from pathlib import Path
from typing import Any

import anyio
import pytest

import dogpile_fs
from dogpile_fs import CreationFailed, DatafileError, LockTimeout, Outcome, WouldDeadlock
from dogpile_fs._locks.rw_protocol import writer_has_waited
from dogpile_fs._os.openfile import OpenFile
from dogpile_fs.aio import DataDirectory, Datafile
from tests.support.places import descriptors
from tests.support.processes import PATIENCE, Processes, Record

from .conftest import Run
from .test_dogpile import is_at_once, until


async def create(target: str) -> None:
    await anyio.sleep(0)
    Path(target).write_text('{"rows": 3}')


def create_plainly(target: str) -> None:
    Path(target).write_text('{"rows": 3}')


class Numbered:
    """A creator of version 1, then 2, ..., which are files, or directories with a file."""

    def __init__(self, *, of_directories: bool = False) -> None:
        self.calls = 0
        self.of_directories = of_directories
        self.go_on = threading.Event()
        self.go_on.set()

    async def __call__(self, target: str) -> None:
        self.calls += 1
        await until(self.go_on.is_set)
        if self.of_directories:
            os.mkdir(target)
            target = os.path.join(target, "file")
        Path(target).write_text(str(self.calls))


@pytest.mark.parametrize("readers", [False, True])
@pytest.mark.parametrize("creator", [create, create_plainly])
def test_a_datafile_is_created_opened_and_loaded(path: str, run: Run, creator: Any, readers: bool) -> None:
    async def main() -> None:
        report = Datafile(path, 3600, creator, readers=readers)
        async with report.open("r", encoding="utf-8") as file:
            assert file.read() == '{"rows": 3}'
        assert file.closed
        async with report.open() as binary, report.acquire() as name:
            assert (binary.read(), name) == (b'{"rows": 3}', path)
        assert await report.path() == path
        assert await report.load(json.load) == {"rows": 3}
        assert await report.load(json.load) is await report.load(json.load)
        assert await report.refresh() == Outcome.fresh
        assert await report.refresh(force=True) == Outcome.created
        assert (await report.status()).generation == 2
        await report.invalidate()
        assert (await report.status()).state == "stale"
        await report.touch()
        assert (await report.status()).state == "fresh"

    run(main)
    assert not [name for name in descriptors().values() if name == path]


def test_passes_and_loads_of_what_is_fresh_do_not_pause_their_task(path: str, run: Run) -> None:
    async def main() -> None:
        report = Datafile(path, 3600, create)
        await report.refresh()
        await report.load(json.load)
        for block in (report.open(), report.open("r"), report.acquire()):
            is_at_once(block.__aenter__())
            is_at_once(block.__aexit__(None, None, None))
        assert is_at_once(report.load(json.load)) == {"rows": 3}

    run(main)


@pytest.mark.parametrize("of_directories", [False, True])
def test_callers_go_on_with_the_old_version_while_one_creates(path: str, run: Run, of_directories: bool) -> None:
    async def main() -> None:
        creator = Numbered(of_directories=of_directories)
        kind: Any = DataDirectory if of_directories else Datafile
        report = kind(path, 3600, creator, keep=1)

        def read(given: Any) -> str:
            return Path(given, "file").read_text() if of_directories else str(given.read(), "utf-8")

        async with report.open() as first:
            assert read(first) == "1"
        await report.invalidate()
        creator.go_on.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(report.refresh)
            await until(lambda: creator.calls == 2)
            for _ in range(20):
                async with report.open() as old:
                    assert read(old) == "1"
            assert await report.load(read) == "1"
            creator.go_on.set()
        async with report.open() as new:
            assert read(new) == "2"
        assert await report.load(read) == "2"
        await report.rollback()
        assert await report.load(read) == "1"

    run(main)


def test_validators_may_be_coroutine_functions_and_their_refusal_keeps_the_old_version(
    path: str, run: Run
) -> None:
    async def main() -> None:
        creator = Numbered()

        async def validate(target: str) -> bool:
            await anyio.sleep(0)
            return Path(target).read_text() != "2"

        report = Datafile(path, 3600, creator, validate=validate)
        await report.refresh()
        with pytest.raises(DatafileError, match="validate refused"):
            await report.refresh(force=True)
        async with report.open("r") as file:
            assert file.read() == "1"

    run(main)


def test_a_reader_gets_the_old_version_when_its_creation_fails_and_an_error_if_there_is_none(
    path: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async def creator(target: str) -> None:
            raise OSError("the source is down")

        report = Datafile(path, 3600, creator)
        with pytest.raises(OSError, match="the source is down"):
            async with report.open():
                pass
        with pytest.raises(CreationFailed):
            async with report.open():
                pass
        await Datafile(path, 3600, create).refresh(force=True)
        await report.invalidate()
        async with report.open("r") as file:
            assert file.read() == '{"rows": 3}'

    run(main)
    assert "the source is down" in caplog.text


def test_a_loader_is_called_once_for_all_tasks_which_have_the_old_object_meanwhile(path: str, run: Run) -> None:
    async def main() -> None:
        creator = Numbered()
        report = Datafile(path, 3600, creator)
        loads = []
        go_on = anyio.Event()

        async def load(file: Any) -> int:
            loads.append(int(file.read()))
            await go_on.wait()
            return loads[-1]

        results = []

        async def caller() -> None:
            results.append(await report.load(load))

        before = threading.active_count()
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(caller)
            await until(lambda: loads)
            await until(lambda: threading.active_count() > before + 1)
            assert threading.active_count() == before + 2, "the loader's thread, and the one that waits for all"
            with pytest.raises(LockTimeout):
                await report.load(load, timeout=0.05)
            go_on.set()
        assert (loads, results) == ([1], [1] * 50)
        go_on = anyio.Event()
        await report.refresh(force=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller)
            await until(lambda: loads == [1, 2])
            assert is_at_once(report.load(load)) == 1
            go_on.set()
        assert results[-1] == 2
        assert await report.load(load) == 2

    run(main)


def test_a_load_whose_task_is_cancelled_goes_on(path: str, run: Run) -> None:
    async def main() -> None:
        report = Datafile(path, 3600, create, readers=True)
        loads = []
        go_on = anyio.Event()

        async def load(file: Any) -> int:
            loads.append(1)
            await go_on.wait()
            return len(file.read())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(report.load, load)
            await until(lambda: loads)
            tasks.cancel_scope.cancel()
        go_on.set()
        assert await report.load(load) == 11
        assert loads == [1]

    run(main)


def test_a_loader_that_loads_itself_would_wait_for_itself(path: str, run: Run) -> None:
    async def main() -> None:
        report = Datafile(path, 3600, create)

        async def load(file: Any) -> int:
            return int(await report.load(load))

        with pytest.raises(WouldDeadlock):
            await report.load(load)

    run(main)


@pytest.mark.parametrize("background", ["thread", "process"])
@pytest.mark.parametrize("creator", [create, create_plainly])
def test_creations_in_the_background(path: str, run: Run, creator: Any, background: Any) -> None:
    async def main() -> None:
        report = Datafile(path, 3600, creator, background=background)
        async with report.open() as file:  # the first creation is waited for
            assert file.read() == b'{"rows": 3}'
        await report.invalidate()
        async with report.open("r"):
            pass
        while (await report.status()).state != "fresh":
            await anyio.sleep(0.01)
        assert (await report.status()).generation == 2

    run(main)


def test_a_creation_in_the_background_can_be_left(path: str, run: Run) -> None:
    async def main() -> None:
        report = Datafile(path, 3600, create, background="process")
        with anyio.move_on_after(0.01):
            await report.refresh()
        async with report.open("r") as file:
            assert file.read() == '{"rows": 3}'
        assert (await report.status()).generation == 1

    run(main)


def _swap(path: str, record: Record) -> None:
    for _ in range(5):
        dogpile_fs.Datafile(path, 3600, create_plainly, readers=True, durable=False).refresh(
            force=True, timeout=PATIENCE
        )
        record.write("swapped")


def test_overlapping_tasks_that_read_do_not_starve_a_swap_of_another_process(
    path: str, run: Run, record: Record, processes: Processes
) -> None:
    async def main() -> None:
        report = Datafile(path, 3600, create, readers=True)
        await report.refresh()
        overlapping = most = passes = 0

        async def reader(number: int) -> None:
            nonlocal overlapping, most, passes
            await anyio.sleep(number * 0.004)
            while len(record.events("swapped")) < 5:
                async with report.acquire():
                    overlapping += 1
                    most = max(most, overlapping)
                    passes += 1
                    await anyio.sleep(0.02)
                    overlapping -= 1

        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(reader, number)
            await until(lambda: most >= 3)
            processes.start(_swap, path, record)

    run(main)
    processes.join()
    assert dogpile_fs.Datafile(path).status().generation == 6


def test_a_nested_block_passes_a_writer_that_waits_and_another_task_waits_behind_it(
    path: str, run: Run, processes: Processes, record: Record
) -> None:
    async def main() -> None:
        report = Datafile(path, 3600, create, readers=True)
        ends = []

        async def another() -> None:
            with pytest.raises(LockTimeout, match="a writer"):
                async with report.acquire(timeout=0.05):
                    pass
            ends.append("timed out")
            async with report.acquire():
                ends.append("inside")

        async with anyio.create_task_group() as tasks, report.acquire():
            processes.start(_swap, path, record)
            await until(lambda: os.path.exists(path + ".dogpile.rwlock"))
            lock_file = OpenFile.of_lock_file(path + ".dogpile.rwlock")
            await until(lambda: writer_has_waited(lock_file) is not None)
            async with report.acquire(), report.open():
                pass
            tasks.start_soon(another)
            await until(lambda: ends)
            assert record.events("swapped") == []
        assert ends == ["timed out", "inside"]
        lock_file.close()

    run(main)
    processes.join()


def test_a_version_that_another_process_keeps_locked_blocks_no_other_task(path: str, run: Run) -> None:
    async def main() -> None:
        report = DataDirectory(path, 3600, Numbered(of_directories=True))
        async with report.open() as version:
            pass
        fd = os.open(version, os.O_RDONLY)
        try:
            flock(fd, LOCK_EX)
            with pytest.raises(LockTimeout, match="kept"):
                async with report.open(timeout=0.05):
                    pass
            opened = []

            async def reader() -> None:
                async with report.open():
                    opened.append(1)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(reader)
                await anyio.sleep(0.05)
                assert opened == []
                flock(fd, LOCK_UN)
            assert opened == [1]
        finally:
            os.close(fd)

    run(main)


def test_it_is_made_with_the_options_of_the_synchronous_class_and_pickled(path: str, tmp_path: Path) -> None:
    source = Datafile(tmp_path / "source", 3600, create)
    report = Datafile(path, 60, create, keep=2, timeout=5, depends_on=[source, tmp_path / "other"])
    copy = pickle.loads(pickle.dumps(report))
    assert repr(copy) == f"aio.Datafile({path!r}, 60.0)"
    anyio.run(copy.refresh)
    assert report.version == copy.version is not None
    with pytest.raises(ValueError, match="mode must be"):
        report.open("w")
    with pytest.raises(TypeError, match="creator"):
        Datafile(path, 60, "no function")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="only reads"):
        anyio.run(Datafile(path).refresh)


def test_a_sync_with_is_refused_and_a_block_is_entered_once(path: str, run: Run) -> None:
    async def main() -> None:
        report = Datafile(path, 3600, create)
        with pytest.raises(TypeError, match="async with"), report.open():  # type: ignore[attr-defined]
            pass
        block = report.open()
        async with block:
            with pytest.raises(RuntimeError, match="entered already"):
                async with block:
                    pass
        with pytest.raises(RuntimeError):
            await block.__aexit__(None, None, None)

    run(main)


def test_it_is_told_of_a_version_that_another_process_has_made(path: str, run: Run, processes: Processes) -> None:
    async def main() -> None:
        report = Datafile(path, 3600, create)
        await report.refresh()
        told = []
        with report.on_new_version(lambda which: told.append(which is report)):
            processes.start(lambda: dogpile_fs.Datafile(path, 3600, create_plainly).refresh(force=True))
            await until(lambda: told)
        assert told == [True]

    run(main)
