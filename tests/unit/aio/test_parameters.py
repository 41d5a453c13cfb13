"""The classes for tasks have the parameters and the methods of the synchronous ones."""

from __future__ import annotations

import inspect

import pytest

import dogpile_fs
from dogpile_fs import aio

#: What tasks have no use for: the lock objects of threads.
_OF_THREADS = {"dogpilelock", "fresh_version", "readwritelock"}


@pytest.mark.parametrize("name", aio.__all__)
def test_a_class_has_the_parameters_and_methods_of_the_synchronous_one(name: str) -> None:
    own, other = getattr(aio, name), getattr(dogpile_fs, name)
    public = {each for each in dir(other) if not each.startswith("_")} - _OF_THREADS
    # Not the path: an instance of a synchronous Dogpile has it.
    assert {each for each in dir(own) if not each.startswith("_")} - {"path"} == public - {"path"}
    for method in ["__init__", *public]:
        if not inspect.isfunction(getattr(other, method)):
            continue
        parameters = inspect.signature(getattr(own, method)).parameters
        others = inspect.signature(getattr(other, method)).parameters
        assert [(each.name, each.default, each.kind) for each in parameters.values()] == [
            (each.name, each.default, each.kind) for each in others.values()
        ], method
