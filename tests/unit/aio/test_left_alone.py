"""What tasks of aio objects leave behind, and where they would wait for themselves."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

import dogpile_fs
from dogpile_fs import NeedRegenerationException, WouldDeadlock
from dogpile_fs.aio import Datafile, Dogpile, SyncReaderDogpile
from tests.support.processes import PATIENCE

from .conftest import Run
from .test_dogpile import nothing, until
from .test_resource import create


@pytest.mark.parametrize("is_plain", [False, True])
def test_an_error_that_is_not_the_creators_is_logged_if_its_task_is_gone(
    path: str, run: Run, caplog: pytest.LogCaptureFixture, is_plain: bool
) -> None:
    caplog.set_level(logging.ERROR, "dogpile_fs")

    async def main() -> None:
        go_on, begun = threading.Event(), threading.Event()

        async def creator() -> None:
            begun.set()
            await until(go_on.is_set)
            os.unlink(path + ".dogpile")
            os.mkdir(path + ".dogpile")  # the creation cannot be stamped

        def exits() -> None:
            begun.set()
            go_on.wait(PATIENCE)
            raise SystemExit("out of memory")

        dogpile = Dogpile(3600, path)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dogpile.refresh, exits if is_plain else creator)
            await until(begun.is_set)
            tasks.cancel_scope.cancel()
        go_on.set()
        await until(lambda: caplog.records)

    run(main)
    assert "whose task is gone" in caplog.text


def test_a_block_that_is_dropped_is_left_at_once(path: str, run: Run) -> None:
    async def main() -> None:
        dogpile = SyncReaderDogpile(3600, path)
        gc.collect()
        gc.disable()
        try:
            block = dogpile.acquire(nothing)
            await block.__aenter__()
            del block
            await until(lambda: dogpile._sync.readwritelock.acquire_write_lock(wait=False))
            dogpile._sync.readwritelock.release_write_lock()
        finally:
            gc.enable()

    run(main)


def test_a_rollback_that_would_wait_for_its_own_task_is_refused(path: str, run: Run) -> None:
    async def main() -> None:
        errors: list[WouldDeadlock] = []

        async def rolls_back(target: str) -> None:
            Path(target).write_text("new")
            if os.path.exists(path):
                with pytest.raises(WouldDeadlock) as caught:
                    await report.rollback()
                errors.append(caught.value)

        report = Datafile(path, 3600, rolls_back, readers=True, keep=1)
        await report.refresh()
        await report.refresh(force=True)
        async with report.open():
            with pytest.raises(WouldDeadlock):
                await report.rollback()
        await report.rollback()
        assert len(errors) == 1

    run(main)


def test_loaders_that_load_each_others_files_are_told(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        one, two = (Datafile(tmp_path / name, 3600, create) for name in ("one", "two"))

        async def load_one(file: Any) -> Any:
            return await two.load(load_two)

        async def load_two(file: Any) -> Any:
            return await one.load(load_one)

        with pytest.raises(WouldDeadlock):
            await one.load(load_one)

    run(main)


@pytest.mark.parametrize("is_plain", [False, True])
def test_a_loader_that_needs_a_regeneration_invalidates(path: str, run: Run, is_plain: bool) -> None:
    async def main() -> None:
        report = Datafile(path, 3600, create)
        await report.refresh()

        def plain(file: Any) -> None:
            raise NeedRegenerationException

        async def load(file: Any) -> None:
            plain(file)

        with pytest.raises(NeedRegenerationException):
            await report.load(plain if is_plain else load)
        assert (await report.status()).state == "missing"

    run(main)


def test_a_load_whose_task_is_gone_is_told_as_an_event(path: str, run: Run) -> None:
    kinds: list[str] = []

    async def main() -> None:
        report = Datafile(path, 3600, create, on_event=lambda event: kinds.append(event.kind))
        go_on, begun = anyio.Event(), anyio.Event()

        async def load(file: Any) -> int:
            begun.set()
            await go_on.wait()
            return 3

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(report.load, load)
            await begun.wait()
            tasks.cancel_scope.cancel()
        go_on.set()
        await until(lambda: "loaded" in kinds)

    run(main)


def test_a_sidecar_that_another_program_has_locked_does_not_stop_the_event_loop(path: str, run: Run) -> None:
    async def main() -> None:
        report, dogpile = Datafile(path, 3600, create), Dogpile(3600, path)
        await report.refresh()
        with open(path + ".dogpile") as sidecar:
            fcntl.flock(sidecar, fcntl.LOCK_EX)
            async with anyio.create_task_group() as tasks:
                for change in (report.touch, report.invalidate, dogpile.invalidate):
                    tasks.start_soon(change)
                await anyio.sleep(0.05)  # which would not return
                fcntl.flock(sidecar, fcntl.LOCK_UN)

    run(main)


def test_a_synchronous_call_in_the_event_loop_does_not_stop_it_for_ever(path: str, run: Run) -> None:
    async def main() -> None:
        dogpile, called, errors = Dogpile(3600, path), dogpile_fs.Dogpile(3600, path), []
        begun = anyio.Event()

        async def creator() -> None:
            begun.set()
            await anyio.sleep(0.05)

        async def refresh() -> None:
            try:
                await dogpile.refresh(creator)
            except WouldDeadlock as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refresh)
            await begun.wait()
            try:
                with called.acquire(lambda: None):
                    pass
            except WouldDeadlock as error:
                errors.append(error)
        assert len(errors) <= 1
        assert (await dogpile.status()).generation == 1

    run(main)
