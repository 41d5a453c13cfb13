"""Each test of a coroutine function here runs on asyncio, on uvloop and on trio."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

Run = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]

#: What ``anyio.run`` takes for each kind of event loop.
_LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}


@pytest.fixture(params=_LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Return the function that runs a coroutine function in a new event loop."""

    def run(function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async def within_a_minute() -> Any:
            with anyio.fail_after(60):
                return await function()

        return anyio.run(within_a_minute, **_LOOPS[request.param])

    return run
