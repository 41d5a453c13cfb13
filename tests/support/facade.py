"""The classes of ``dogpile_fs.aio`` in the shape of the synchronous ones, so that one test tests both.

Each call runs as a task of one event loop, which has a thread of its own in each process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import anyio

from dogpile_fs import aio
from dogpile_fs._aio.loops import Loop, running_loop

__all__ = ["BACKENDS", "NAMES", "class_of", "loop_of"]

BACKENDS = ("asyncio", "trio")
NAMES = ("DataDirectory", "Datafile", "Datafiles", "Dogpile", "SyncReaderDogpile")

_loops: dict[tuple[int, str], Loop] = {}
_starting = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_starting=threading.Lock()))


def loop_of(backend: str) -> Loop:
    """Return the event loop of *backend* in this process."""
    key = os.getpid(), backend
    with _starting:
        if key not in _loops:
            is_running = threading.Event()

            async def main() -> None:
                _loops[key] = running_loop()
                is_running.set()
                await anyio.sleep_forever()

            threading.Thread(target=lambda: anyio.run(main, backend=backend), daemon=True).start()
            assert is_running.wait(60)
    return _loops[key]


class _Block:
    """An asynchronous context manager as one for threads."""

    def __init__(self, backend: str, make: Callable[[], Any]) -> None:
        self._run = loop_of(backend).run
        self._make = make

    def __enter__(self) -> Any:
        async def enter() -> Any:
            self._block = self._make()
            return await self._block.__aenter__()

        return self._run(enter)

    def __exit__(self, *error: Any) -> Any:
        return self._run(self._block.__aexit__, *error)


#: The methods that return a context manager, and those that are coroutine functions.
_BLOCKS = {"acquire", "open", "acquire_write_lock"}
_CALLS = {"path", "prune", "refresh", "invalidate", "status", "load", "touch", "rollback"}


def class_of(name: str, backend: str) -> type[Any]:
    """Return the class *name* of ``dogpile_fs.aio`` in the shape of the synchronous one, run by *backend*."""

    class Facade:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            object.__setattr__(self, "_aio", getattr(aio, name)(*arguments, **options))

        def __getattr__(self, attribute: str) -> Any:
            # What is private is the synchronous object's.
            owner = self._aio._sync if attribute.startswith("_") else self._aio
            found = getattr(owner, attribute)
            if attribute in _BLOCKS:
                return lambda *args, **options: _Block(backend, lambda: found(*args, **options))
            if attribute in _CALLS and callable(found):

                def call(*args: Any, **options: Any) -> Any:
                    async def run() -> Any:
                        return await found(*args, **options)

                    return loop_of(backend).run(run)

                return call
            return found

        def __getitem__(self, key: str) -> Any:
            made = object.__new__(class_of("Datafile", backend))
            object.__setattr__(made, "_aio", self._aio[key])
            return made

        def __setattr__(self, attribute: str, value: Any) -> None:
            setattr(self._aio, attribute, value)

    Facade.__name__ = name
    return Facade
