"""Coroutine functions are refused: nothing would await what they return."""

from __future__ import annotations

from typing import Any

import pytest

from dogpile_fs import Dogpile, SyncReaderDogpile

KINDS = [Dogpile, SyncReaderDogpile]
TOLD = "returned a coroutine, which nothing awaits here. Hint: give a plain function"


async def coroutine_function() -> Any:
    raise AssertionError("it was run")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_files", [True, False])
def test_a_coroutine_function_creates_nothing(path: str, kind: type[Dogpile], in_files: bool) -> None:
    dogpile = kind(3600, path if in_files else None)
    with pytest.raises(TypeError, match=TOLD), dogpile.acquire(coroutine_function):
        pass
    for force in (True, False):
        with pytest.raises(TypeError, match=TOLD):
            dogpile.refresh(coroutine_function, force)
    assert dogpile.status().state == "missing"
    assert not dogpile.dogpilelock.locked()
    assert dogpile.refresh(lambda: None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_coroutine_function_gives_no_value(kind: type[Dogpile]) -> None:
    dogpile = kind(3600, init=True)
    with pytest.raises(TypeError, match=TOLD), dogpile.acquire(None, coroutine_function):
        pass
    with pytest.raises(TypeError, match=TOLD), dogpile.acquire(None, None, coroutine_function):  # type: ignore[arg-type]
        pass
