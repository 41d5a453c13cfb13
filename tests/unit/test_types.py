"""The types of the public face, as a type checker infers them: ``python -m tox -e types`` checks this module.

mypy and pyright refuse an ``assert_type`` that is wrong, and mypy an ignored error that is none. At run time the
functions show that the values are what the types say.
"""

from __future__ import annotations

import inspect
import io
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn, TextIO, assert_type

import anyio
import pytest

import dogpile_fs
from dogpile_fs import (
    DataDirectory,
    Datafile,
    Dogpile,
    FileMutex,
    NeedRegenerationException,
    Outcome,
    ReadWriteFileLock,
    Status,
    SyncReaderDogpile,
    Target,
    aio,
    atomic_write,
)
from tests.support.places import writing

both = pytest.mark.parametrize("kind", [Dogpile, SyncReaderDogpile])


def number() -> int:
    return 3


def word() -> str:
    return "word"


def nothing() -> None:
    """Create something else than a value."""


def dated_number() -> tuple[int, float]:
    return 3, 1000.0


def dated_word() -> tuple[str, float]:
    return "word", 1000.0


def no_value() -> NoReturn:
    raise NeedRegenerationException


def no_dated_number() -> tuple[int, float]:
    raise NeedRegenerationException


@both
def test_the_value_has_the_creators_type_or_is_none_for_a_caller_that_passes(kind: type[Dogpile]) -> None:
    dogpile = kind(3600)
    for expected in (3, None):
        with dogpile.acquire(number) as value:
            assert_type(value, int | None)
            assert value == expected
    with dogpile.acquire(lambda: "a lambda") as text:
        assert_type(text, str | None)


@both
def test_there_is_no_value_without_a_creator_or_of_one_that_returns_none(kind: type[Dogpile]) -> None:
    dogpile = kind(3600, init=True)
    with dogpile.acquire() as value:
        assert_type(value, None)
    with dogpile.acquire(timeout=1) as value:
        assert_type(value, None)
    with dogpile.acquire(nothing) as value:
        assert_type(value, None)


@both
def test_with_a_value_function_the_value_has_either_type(kind: type[Dogpile]) -> None:
    dogpile = kind(3600)
    for expected in (3, "word"):
        with dogpile.acquire(number, word) as value:
            assert_type(value, int | str)
            assert value == expected
    with dogpile.acquire(word, word, timeout=1) as same:
        assert_type(same, str)
    with dogpile.acquire(word, no_value) as created:
        assert_type(created, str)
    for without_creator in (dogpile.acquire(value_fn=word), dogpile.acquire(None, word)):
        assert_type(without_creator, AbstractContextManager[str])
        with without_creator as value:
            assert value == "word"


@both
def test_with_a_value_and_created_function_the_value_is_the_first_of_a_pair(kind: type[Dogpile]) -> None:
    dogpile = kind(None)
    with dogpile.acquire(dated_number, None, dated_word) as value:
        assert_type(value, int | str)
        assert value == "word"
    with dogpile.acquire(dated_number, value_and_created_fn=no_dated_number) as created:
        assert_type(created, int)
        assert created == 3
    with dogpile.acquire(value_and_created_fn=dated_word) as found:
        assert_type(found, str)
        assert found == "word"
    with (
        pytest.raises(TypeError, match="must return"),
        dogpile.acquire(number, value_and_created_fn=no_value),  # type: ignore[arg-type]
    ):
        pass


def test_a_creator_that_may_be_none_gives_what_it_creates_or_none() -> None:
    def used(creator: Callable[[], int] | None) -> int | None:
        with Dogpile(3600, init=True).acquire(creator) as value:
            assert_type(value, int | None)
            return value

    assert used(number) is None


def test_load_has_the_type_of_the_loader(tmp_path: Path) -> None:
    report = Datafile(tmp_path / "report", 3600, writing('{"rows": 3}'))
    index = DataDirectory(tmp_path / "index", 3600, os.mkdir)

    def size(file: BinaryIO) -> int:
        return len(file.read())

    assert_type(report.load(size), int)
    assert_type(report.load(json.load), Any)
    assert_type(index.load(os.listdir), list[str])
    assert (report.load(size), report.load(json.load), index.load(os.listdir)) == (11, {"rows": 3}, [])
    with pytest.raises(AttributeError):
        index.load(size)  # type: ignore[arg-type]  # a directory's loader is called with a path


def test_what_the_blocks_of_files_give_has_the_type_of_the_mode(tmp_path: Path) -> None:
    report, index = (
        Datafile(tmp_path / "report", 3600, writing("rows")),
        DataDirectory(tmp_path / "i", 3600, os.mkdir),
    )
    with report.open() as binary, report.open("r") as text, report.acquire() as path, index.open() as version:
        assert_type(binary, BinaryIO)
        assert_type(text, TextIO)
        assert_type(path, str)
        assert_type(version, str)
        assert isinstance(binary, io.BufferedReader)
    with atomic_write(tmp_path / "new") as binary, atomic_write(tmp_path / "text", "w") as text:
        assert_type(binary, BinaryIO)
        assert_type(text, TextIO)

    def opened_in(mode: str) -> None:
        with report.open(mode) as file:
            assert_type(file, IO[Any])

    opened_in("rt")
    assert_type(report.refresh(), Outcome)
    assert_type(report.status(), Status)


def test_what_a_creator_is_called_with_is_a_str_that_knows_more(tmp_path: Path) -> None:
    def creator(target: Target) -> object:
        assert_type(target.previous, str | None)
        assert_type(target.note, str)
        return Path(target).write_text("rows")

    assert Datafile(tmp_path / "report", 3600, creator).refresh()
    assert Datafile(tmp_path / "other", 3600, lambda target: Path(target).touch()).refresh()


def test_a_subscription_is_of_the_objects_own_class(tmp_path: Path) -> None:
    class Own(Dogpile):
        pass

    def called(dogpile: Own) -> None:
        raise AssertionError(dogpile)

    with Own(3600, tmp_path / "resource").on_new_version(called) as subscription:
        subscription.cancel()


def test_what_there_is_not_is_an_error_to_a_type_checker(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'expires'"):
        SyncReaderDogpile(3600, expires=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        SyncReaderDogpile("an hour")  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="opne"):
        Datafile(tmp_path / "report").opne()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="acquire_write_lock"):
        Dogpile(3600).acquire_write_lock()  # type: ignore[attr-defined]


def test_both_locks_are_made_with_the_same_parameters() -> None:
    assert inspect.signature(SyncReaderDogpile) == inspect.signature(Dogpile)


def test_expiretime_and_path_can_be_named_wherever_there_are_any(tmp_path: Path) -> None:
    """And they are called so: each parameter that takes one, of every public name."""
    path = tmp_path / "resource"
    for made in (
        Dogpile(path=path, expiretime=3600),
        SyncReaderDogpile(path=path, expiretime=3600),
        Datafile(expiretime=3600, path=path),
        DataDirectory(expiretime=3600, path=tmp_path / "directory"),
    ):
        assert made.status().state == "missing"
    assert FileMutex(path=path).path == ReadWriteFileLock(path=path).path == str(path)
    with atomic_write(path=path, mode="w") as file:
        file.write("rows")


@pytest.mark.parametrize("name", dogpile_fs.__all__)
def test_no_public_parameter_hides_what_it_takes(name: str) -> None:
    """No ``*args`` and no ``**options``; and no parameter of a constructor that can be given by position only."""
    value = getattr(dogpile_fs, name)
    if not callable(value) or (isinstance(value, type) and issubclass(value, Exception | Outcome)):
        return
    kinds = {parameter.kind for parameter in inspect.signature(value).parameters.values()}
    if name == "cached_file":
        kinds -= {inspect.Parameter.VAR_KEYWORD}  # options of Datafiles, which refuses others
    assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


async def _a_number() -> int:
    return 1


async def _a_text() -> str:
    return ""


def test_in_tasks_the_value_has_the_type_of_what_a_coroutine_function_returns(path: str) -> None:
    async def main() -> None:
        dogpile = aio.Dogpile(3600, path)
        async with dogpile.acquire(_a_number) as value:
            assert_type(value, int | None)
        async with dogpile.acquire(lambda: 1) as plain:
            assert_type(plain, int | None)
        async with dogpile.acquire(_a_number, _a_text) as either:
            assert_type(either, int | str)
        async with dogpile.acquire() as nothing:
            assert_type(nothing, None)

    anyio.run(main)


def test_in_tasks_load_has_the_type_of_the_loader(path: str) -> None:
    async def loader(file: BinaryIO) -> list[int]:
        return [len(file.read())]

    async def main() -> None:
        report = aio.Datafile(path, 3600, lambda target: Path(target).write_text("made"))
        assert_type(await report.load(loader), list[int])
        assert_type(await report.load(lambda file: file.read()), bytes)
        async with report.open("r") as file:
            assert_type(file.read(), str)
        async with report.acquire() as name:
            assert_type(name, str)

    anyio.run(main)
