"""A datafile whose directory is missing: its object can be made, and the first creation needs the directory."""

from __future__ import annotations

import errno
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import DataDirectory, Datafile, Dogpile, PathError
from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.places import writing

__all__ = ["bytecode", "cli"]  # fixtures

both = pytest.mark.parametrize(("kind", "creator"), [(Datafile, writing("new")), (DataDirectory, os.mkdir)])
Kind = Callable[..., Any]


def missing(call: Callable[[], object], directory: Path) -> None:
    with pytest.raises(PathError) as caught:
        call()
    assert caught.value.errno == errno.ENOENT
    assert f"the directory {str(directory)!r} does not exist. Hint: make it first" in str(caught.value)


@both
def test_the_constructor_makes_no_noise_and_no_directory(tmp_path: Path, kind: Kind, creator: Any) -> None:
    for parents in (False, True):
        data = kind(tmp_path / "later" / "resource", 3600, creator, parents=parents)
        assert data.status().state == "missing"
        assert repr(data) == f"{kind.__name__}({str(tmp_path / 'later' / 'resource')!r}, 3600.0)"
        assert pickle.loads(pickle.dumps(kind(tmp_path / "x" / "y", 3600, os.mkdir))).status().state == "missing"
    assert os.listdir(tmp_path) == []


@both
def test_the_error_comes_at_each_use_until_the_directory_is_there(
    tmp_path: Path, kind: Kind, creator: Any
) -> None:
    later = tmp_path / "later"
    data = kind(later / "resource", 3600, creator)
    for _ in range(2):
        missing(data.refresh, later)
        missing(lambda: data.open().__enter__(), later)
        missing(lambda: data.load(lambda given: given), later)
        missing(data.invalidate, later)
        missing(data.rollback, later)
    later.mkdir()
    assert data.refresh()
    assert data.status().state == "fresh"


@both
def test_with_parents_the_first_creation_makes_the_directory(tmp_path: Path, kind: Kind, creator: Any) -> None:
    path = tmp_path / "one" / "two" / "resource"
    data = kind(path, 3600, creator, parents=True)
    copy = pickle.loads(pickle.dumps(data)) if creator is os.mkdir else data
    with data.open():
        assert path.exists()
    assert not copy.refresh()
    assert data._dogpile is data._dogpile


def test_with_parents_all_ways_to_a_version_make_the_directory(tmp_path: Path) -> None:
    ways: list[Callable[[Datafile], object]] = [
        Datafile.refresh,
        Datafile.path,
        lambda datafile: datafile.acquire().__enter__(),
        lambda datafile: datafile.load(lambda file: file.read()),
    ]
    for readers in (False, True):
        for number, way in enumerate(ways):
            path = tmp_path / f"{number}{readers}" / "resource"
            way(Datafile(path, 3600, writing("new"), parents=True, readers=readers))
            assert path.read_text() == "new"


@both
def test_directories_of_data_and_of_coordination_files_are_each_made(
    tmp_path: Path, kind: Kind, creator: Any
) -> None:
    for number, (locks, place) in enumerate([("locks", "data"), ("locks", "data2"), ("locks2", "data")]):
        path = tmp_path / place / f"resource{number}"
        assert kind(path, 3600, creator, directory=tmp_path / locks, parents=True).refresh()
    for locks, place in (("missing", "data"), ("locks", "missing")):
        data = kind(tmp_path / place / "other", 3600, creator, directory=tmp_path / locks)
        missing(data.refresh, tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


@both
def test_one_of_many_threads_creates_where_the_directory_is_missing(
    tmp_path: Path, kind: Kind, creator: Any
) -> None:
    calls: list[str] = []

    def counted(target: str) -> None:
        calls.append(target)
        creator(target)

    for number in range(10):
        data = kind(tmp_path / str(number) / "resource", 3600, counted, parents=True)
        begin = threading.Barrier(8)
        found: list[object] = []

        def enter(data: Any = data, begin: threading.Barrier = begin, found: list[object] = found) -> None:
            begin.wait()
            with data.open():
                found.append(data._dogpile)

        threads = [threading.Thread(target=enter) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(map(id, found))) == 1
        assert len(calls) == number + 1


def test_what_cannot_be_made_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PathError, match="Hint: name a path whose parents are directories"):
        Datafile(tmp_path / "file" / "resource", 3600, writing("new"), parents=True)
    os.symlink("nowhere/resource", tmp_path / "link")
    datafile = Datafile(tmp_path / "link", 3600, writing("new"), parents=True)
    with pytest.raises(PathError, match="symbolic link to 'nowhere/resource'"):
        datafile.refresh()
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_arguments_are_checked_at_once_and_other_objects_tell_at_once(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "resource"
    for wrong in ({"expiretime": -1}, {"timeout": -1}, {"mode": 0o777777}):
        with pytest.raises(ValueError, match="must be"):
            Datafile(path, **{"creator": writing("new"), **wrong})  # type: ignore[arg-type]
    for call in (
        lambda: Datafile(path, 3600),
        lambda: Datafile(path, 3600, parents=True),
        lambda: Dogpile(1, path),
    ):
        missing(call, path.parent)


def test_an_attribute_that_there_is_not_is_told_as_ever(path: str) -> None:
    with pytest.raises(AttributeError, match="'Datafile' object has no attribute 'dogpiles'"):
        _ = Datafile(path).dogpiles  # type: ignore[attr-defined]


def test_the_command_says_so_before_command_runs(cli: Cli) -> None:
    words = ("run", "--expire", "1h", "--output", "missing/file", "--", "touch", "ran")
    told = cli.run(*words, status=73).stderr
    assert f"the directory {str(cli.directory / 'missing')!r} does not exist. Hint: make it first.\n" in told
    assert not (cli.directory / "ran").exists()
