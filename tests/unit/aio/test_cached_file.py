"""cached_file for coroutine functions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from dogpile_fs import aio, cached_file

from .conftest import Run
from .test_dogpile import is_at_once


def test_a_coroutine_function_is_called_once_for_each_calls_arguments(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        calls = []

        async def product(x: int, y: int = 2) -> int:
            calls.append((x, y))
            await anyio.sleep(0.01)
            return x * y

        cached = cached_file(tmp_path, 3600)(_named(product))
        results = []

        async def caller(number: int) -> None:
            results.append(await cached(number % 3))

        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(caller, number)
        assert sorted(calls) == [(0, 2), (1, 2), (2, 2)]
        assert sorted(results) == sorted([0, 2, 4] * 10)
        assert is_at_once(cached(x=1)) == 2
        assert await cached(1, y=2) == 2
        assert await cached.refresh(1) == 2
        assert calls.count((1, 2)) == 2
        await cached.invalidate(1)
        assert await cached(1) == 2
        assert calls.count((1, 2)) == 3
        assert isinstance(cached.files, aio.Datafiles)
        assert await cached.files.prune(older_than=0) == 3

    run(main)


def _named(function: Any) -> Any:
    """Have *function* look as if it were at the top level of a module: it uses variables of a test."""
    function.__qualname__ = "product"
    return function


async def _fails() -> int:
    raise KeyError("no row")


async def _gives_an_object() -> object:
    return object()


async def _takes_a_number(number: int) -> int:
    return number


def test_an_error_comes_out_and_what_cannot_be_written_is_told(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        cached = cached_file(tmp_path, 3600, backoff=None)
        with pytest.raises(KeyError, match="no row"):
            await cached(_fails)()
        with pytest.raises(TypeError, match="_gives_an_object"):
            await cached(_gives_an_object)()
        with pytest.raises(TypeError, match="_takes_a_number"):
            await cached(_takes_a_number)(object())  # type: ignore[arg-type]

    run(main)


def test_results_are_json(tmp_path: Path, run: Run) -> None:
    async def main() -> None:
        async def names() -> list[str]:
            return ["one", "two"]

        names.__qualname__ = "names"
        cached = cached_file(tmp_path, 3600)(names)
        assert await cached() == ["one", "two"]
        (file,) = tmp_path.glob("??/*.json")
        assert json.loads(file.read_text()) == ["one", "two"]

    run(main)
