"""A creation reads the names in a directory at most once: there may be a hundred thousand of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import DataDirectory, Datafile, atomic_write
from dogpile_fs._layout import KIND_NEW
from tests.support.places import hidden, writing


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories that this process has listed."""
    listed: list[str] = []
    listdir, scandir = os.listdir, os.scandir

    def recorded(call: Callable[..., Any]) -> Callable[..., Any]:
        def record_and_call(path: Any = ".") -> Any:
            listed.append(os.fspath(path) if not isinstance(path, int) else str(path))
            return call(path)

        return record_and_call

    monkeypatch.setattr(os, "listdir", recorded(listdir))
    monkeypatch.setattr(os, "scandir", recorded(scandir))
    return listed


@pytest.mark.parametrize("options", [{}, {"keep": 2}, {"skip_unchanged": True}, {"readers": True}], ids=str)
def test_a_creation_of_a_file_lists_the_hidden_directory_once_and_not_at_all_if_it_has_made_it(
    path: str, options: Any, listings: list[str]
) -> None:
    for text in ("1", "2", "3", "4"):
        listings.clear()
        is_there = os.path.exists(hidden(path))
        Datafile(path, 3600, writing(text), **options).refresh(force=True)
        assert [each for each in listings if each.startswith(os.path.dirname(path))] == [hidden(path)] * is_there
    assert is_there == ("keep" in options)


def test_what_a_killed_creator_left_in_a_directory_that_is_there_is_removed(path: str) -> None:
    datafile = Datafile(path, 3600, writing("1"))
    names = datafile._hidden(KIND_NEW, path)
    os.mkdir(hidden(path))
    left = Path(names.path("00000000"))
    left.touch()
    datafile.refresh()
    assert not left.exists()
    assert not os.path.lexists(hidden(path))


@pytest.mark.parametrize("layout", ["link", "plain"])
@pytest.mark.parametrize("keep", [0, 2])
def test_a_creation_of_a_directory_lists_the_directory_that_it_is_in_once(
    path: str, layout: str, keep: int, listings: list[str]
) -> None:
    if layout == "plain":
        os.mkdir(path)
    for _ in range(4):
        listings.clear()
        DataDirectory(path, 3600, os.mkdir, keep=keep, durable=False).refresh(force=True)
        assert listings.count(os.path.dirname(path)) == listings.count(hidden(path)) == 1


def test_a_creation_that_fails_lists_its_directory(path: str, listings: list[str]) -> None:
    def creator(target: str) -> None:
        Path(target + ".work").touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Datafile(path, 3600, creator).refresh()
    assert listings == [hidden(path)]
    assert not os.path.lexists(hidden(path))


def test_atomic_write_lists_the_hidden_directory_once_and_not_at_all_if_it_has_made_it(
    path: str, listings: list[str]
) -> None:
    for is_there in (False, True):
        if is_there:
            os.mkdir(hidden(path))
        listings.clear()
        with atomic_write(path) as file:
            file.write(b"new")
        assert listings == [hidden(path)] * is_there


def test_reading_lists_no_directory(path: str, listings: list[str]) -> None:
    datafile = Datafile(path, 3600, writing("1"))
    datafile.refresh()
    listings.clear()
    with datafile.open() as file, datafile.acquire() as name:
        assert file.read() == Path(name).read_bytes()
    assert datafile.load(lambda file: file.read()) == b"1"
    assert os.path.dirname(path) not in listings
