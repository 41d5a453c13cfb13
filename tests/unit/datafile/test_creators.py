"""Creators that make nothing at the path that they are given, or that no caller would await."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import DataDirectory, Datafile, DatafileError

KINDS = [Datafile, DataDirectory]
Kind = Callable[..., Any]


def make(target: str, what: str = "old") -> None:
    """Make a file or a directory, as the name wants."""
    if ".dir" in target:
        os.mkdir(target)
        target = os.path.join(target, "part")
    Path(target).write_text(what)


def path_for(kind: Kind, path: str) -> str:
    return path + (".dir" if kind is DataDirectory else ".bin")


def refusal(resource: Any) -> str:
    with pytest.raises(DatafileError) as caught:
        resource.refresh(force=True)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("replaces_suffix", [True, False])
def test_a_creator_that_made_something_beside_its_target_is_told_its_name(
    path: str, kind: Kind, there: bool, replaces_suffix: bool
) -> None:
    path = path_for(kind, path)
    made = []

    def creator(target: str) -> None:
        made.append((os.path.splitext(target)[0] if replaces_suffix else target) + ".npy")
        Path(made[0]).write_text("new")

    if there:
        kind(path, 3600, make).refresh()
    message = refusal(kind(path, 3600, creator))
    assert (
        f", but {os.path.basename(made[0])!r} beside it: {path!r} is what it was. Hint: some functions" in message
    )
    assert not os.path.exists(made[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("there", [True, False])
def test_a_creator_that_wrote_the_resource_itself_is_told_so(path: str, kind: Kind, there: bool) -> None:
    path = path_for(kind, path)
    if there:
        kind(path, 3600, make).refresh()

    def creator(target: str) -> None:
        if kind is DataDirectory and there:
            Path(path, "another").write_text("new")
        else:
            make(path, "new and longer")

    message = refusal(kind(path, 3600, creator))
    assert (
        f"called with, but {path!r} itself was written meanwhile. Hint: only what is made at the path" in message
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_creator_that_made_nothing_is_told_no_more(path: str, kind: Kind) -> None:
    path = path_for(kind, path)
    kind(path, 3600, make).refresh()
    Path(path + ".npy").write_text("another program's")
    message = refusal(kind(path, 3600, lambda target: None))
    assert message.endswith(f"that it was called with: {path!r} is what it was. Hint: let it make one there.")


async def coroutine_function(*arguments: object) -> None:
    raise AssertionError("it was run")


async def generator_function(*arguments: object) -> Any:
    yield


class Callee:
    async def __call__(self, *arguments: object) -> None:
        raise AssertionError("it was run")

    async def method(self, *arguments: object) -> None:
        raise AssertionError("it was run")


ASYNC = [
    coroutine_function,
    generator_function,
    functools.partial(functools.partial(coroutine_function, 1), 2),
    Callee(),
    Callee().method,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", ASYNC, ids=lambda function: type(function).__name__)
def test_a_coroutine_function_is_refused_when_the_object_is_made(path: str, kind: Kind, function: Any) -> None:
    with pytest.raises(TypeError, match=r"^creator must be a plain function, .* Hint: .*asyncio\.run"):
        kind(path, 3600, function)
    with pytest.raises(TypeError, match=r"^validate must be a plain function, "):
        kind(path, 3600, make, validate=function)


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_that_returns_a_coroutine_is_refused_when_it_is_called(path: str, kind: Kind) -> None:
    path = path_for(kind, path)
    hidden = lambda *arguments: coroutine_function(*arguments)  # noqa: E731
    told = "returned a coroutine, which nothing awaits here. Hint: give a plain function"
    with pytest.raises(TypeError, match=told):
        kind(path, 3600, hidden).refresh()
    with pytest.raises(TypeError, match=told):
        kind(path, 3600, make, validate=hidden).refresh(force=True)
    assert not os.path.exists(path)
    resource = kind(path, 3600, make, backoff=None)
    for loader in (hidden, coroutine_function):
        with pytest.raises(TypeError, match=told):
            resource.load(loader)
    assert resource.load(lambda version: 3) == 3
