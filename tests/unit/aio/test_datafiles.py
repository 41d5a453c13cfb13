"""Datafiles for tasks."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

import dogpile_fs
from dogpile_fs.aio import Datafile, Datafiles

from .conftest import Run
from .test_dogpile import is_at_once


async def create(key: str, target: str) -> None:
    await anyio.sleep(0)
    Path(target).write_text(json.dumps(key))


def create_plainly(key: str, target: str) -> None:
    Path(target).write_text(json.dumps(key))


@pytest.mark.parametrize("creator", [create, create_plainly])
def test_each_key_has_a_datafile(tmp_path: Path, run: Run, creator: Any) -> None:
    async def main() -> None:
        files = Datafiles(tmp_path / "{key}.json", 3600, creator)
        for key in ("May", "June", "../../etc/passwd", ""):
            async with files[key].open("r") as file:
                assert json.load(file) == key
            assert await files[key].load(json.load) == key
            assert (await files[key].status()).generation == 1
        assert type(files["May"]) is Datafile
        assert is_at_once(files["May"].load(json.load)) == "May"
        assert await files.prune(older_than=0) == 4

    run(main)


def test_keys_are_shared_with_other_processes_and_created_at_the_same_time(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        running = most = 0

        async def creator(key: str, target: str) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            with anyio.move_on_after(30):
                while most < 20:
                    await anyio.sleep(0.001)
            running -= 1
            await create(key, target)

        files = Datafiles(tmp_path / "{key}.json", 3600, creator)

        async def caller(number: int) -> None:
            assert await files[str(number % 20)].load(json.load) == str(number % 20)

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(caller, number)
        assert most == 20
        sync = dogpile_fs.Datafiles(tmp_path / "{key}.json", 3600, create_plainly)
        assert [sync[str(number)].status().generation for number in range(20)] == [1] * 20

    run(main)


def test_a_creation_of_a_key_goes_on_without_its_task(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        go_on, begun = anyio.Event(), []

        async def creator(key: str, target: str) -> None:
            begun.append(key)
            await go_on.wait()
            await create(key, target)

        files = Datafiles(tmp_path / "{key}.json", 3600, creator)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(files["one"].refresh)
            while not begun:
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
        go_on.set()
        assert await files["one"].load(json.load) == "one"
        assert begun == ["one"]

    run(main)


def test_a_creator_may_open_other_keys(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async def creator(key: str, target: str) -> None:
            if key != "0":
                await files[str(int(key) - 1)].path()
            await create(key, target)

        files = Datafiles(tmp_path / "{key}.json", 3600, creator)
        began = time.monotonic()
        assert await files["60"].load(json.load) == "60"
        assert time.monotonic() - began < 50
        assert (await files["0"].status()).generation == 1

    run(main)


def test_it_is_pickled(tmp_path: Path) -> None:
    files = Datafiles(tmp_path / "{key}.json", 3600, create)
    copy = pickle.loads(pickle.dumps(files))
    assert (copy.pattern, repr(copy)) == (files.pattern, repr(files))
    anyio.run(copy["key"].refresh)
    assert files["key"].version == copy["key"].version is not None
