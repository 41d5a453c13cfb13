"""The public names of the public classes: those that ``docs/contract.rst`` lists, and no others."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from enum import EnumType
from pathlib import Path

import pytest

import dogpile_fs
from dogpile_fs import DataDirectory, Datafile, Dogpile, FileMutex, ReadWriteFileLock, SyncReaderDogpile, Target
from dogpile_fs.metrics import Collector

CONTRACT = Path(__file__).parents[2] / "docs" / "contract.rst"

#: An item of the contract's list: the class and its names.
_ITEM = re.compile(r"^- ``(\w+)``: ((?:``\w+``(?:,\s+)?)+)\. \[C263\]_$", re.MULTILINE)


def listed() -> dict[str, set[str]]:
    """Return the names that the contract lists, by class."""
    return {found[1]: set(re.findall(r"\w+", found[2])) for found in _ITEM.finditer(CONTRACT.read_text())}


def names_of(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


#: An object of each class that is listed. What a constructor sets is a name as well.
MADE: dict[str, Callable[[Path], object]] = {
    "Dogpile": lambda path: Dogpile(3600, path),
    "SyncReaderDogpile": lambda path: SyncReaderDogpile(3600, path),
    "Datafile": lambda path: Datafile(path, 3600, readers=True),
    "DataDirectory": lambda path: DataDirectory(path, 3600),
    "Datafiles": lambda path: dogpile_fs.Datafiles(path.with_name("{key}"), 3600),
    "FileMutex": FileMutex,
    "KeyMutexes": dogpile_fs.KeyMutexes,
    "ReadWriteFileLock": ReadWriteFileLock,
    "Subscription": lambda path: Dogpile(3600, path).on_new_version(lambda dogpile: None),
    "Collector": lambda path: Collector([path]),
}


@pytest.mark.parametrize("name", MADE)
def test_an_object_has_the_public_names_that_the_contract_lists(name: str, tmp_path: Path) -> None:
    assert names_of(MADE[name](tmp_path / "resource")) == listed()[name]


def test_each_class_with_methods_is_listed() -> None:
    assert listed().keys() == MADE.keys() | {"Target", "Backoff"}


def test_a_target_has_what_a_str_has_and_what_the_contract_lists() -> None:
    assert names_of(Target("new", None, "")) - names_of("") == listed()["Target"]


def test_other_classes_have_what_they_are_made_with_and_no_more() -> None:
    """Policies, statuses, events, outcomes and errors: values, whose docstrings describe each of them."""
    classes = [(name, each) for name in dogpile_fs.__all__ if inspect.isclass(each := getattr(dogpile_fs, name))]
    for name, each in classes:
        if name in MADE or name == "Target":
            continue
        if issubclass(each, Exception):
            assert names_of(each) <= names_of(OSError), name
            continue
        values = set(each.__members__) if isinstance(each, EnumType) else set(each.__annotations__)
        own = names_of(each) - (names_of(str) if isinstance(each, EnumType) else set())
        assert own - values == listed().get(name, set()), name
