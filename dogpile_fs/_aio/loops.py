"""Event loops: what a thread does in one from outside. Of asyncio, whatever its implementation, and of trio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import anyio

from .._locks import holds
from .._locks.holds import Holder
from .._locks.waits import Wait
from .._os.waiting import FOREVER, Deadline
from ..errors import WouldDeadlock

__all__ = ["Loop", "Wake", "running_loop", "waiting_for"]

#: Seconds between two looks whether the loop for which a thread waits has ended.
_LOOK_EVERY = 1.0


class Loop(Protocol):
    """A running event loop."""

    #: The thread that it runs in.
    thread: Holder

    def soon(self, function: Callable[[], object]) -> None:
        """Have *function* called in the loop, from whichever thread. Do nothing if the loop has ended."""

    def start(self, function: Callable[..., Coroutine[Any, Any, object]], *arguments: Any) -> None:
        """Begin to run a coroutine function that raises nothing, in a task of its own, from whichever thread."""

    def run(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Run a coroutine function in a task of its own, from another thread, and return its result.

        :raises CancelledError: if the loop has ended, or has cancelled the task.
        :raises WouldDeadlock: if a synchronous call blocks the loop until this thread gives a lock back.
        """


def running_loop() -> Loop:
    """Return the event loop that runs in this thread.

    :raises RuntimeError: if there is none.
    """
    trio = sys.modules.get("trio")
    if trio is not None:
        with suppress(RuntimeError):
            return _Trio(trio, trio.lowlevel.current_trio_token())
    return _Asyncio(asyncio.get_running_loop())


def waiting_for(loop: Loop, is_over: Callable[[], bool]) -> Wait:
    """Return the wait of this thread until *loop* has gone on, so that *is_over*."""
    return Wait("the event loop", "", lambda: [] if is_over() else [loop.thread], FOREVER)


#: Tasks of asyncio that nothing waits for: the event loop itself refers to them weakly.
_tasks: set[asyncio.Task[Any]] = set()


class _Asyncio:
    __slots__ = ("_loop", "thread")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.thread = holds.current().thread

    def soon(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(function)

    def start(self, function: Callable[..., Coroutine[Any, Any, object]], *arguments: Any) -> None:
        def start() -> None:
            task = self._loop.create_task(function(*arguments))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)

        self.soon(start)

    def run(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        async def task() -> Any:
            return await function(*arguments)

        running = task()
        try:
            future = asyncio.run_coroutine_threadsafe(running, self._loop)
        except RuntimeError as error:
            running.close()  # else the interpreter warns that nothing has awaited it
            raise asyncio.CancelledError("the event loop has ended") from error
        try:
            with waiting_for(self, future.done):
                while not concurrent.futures.wait((future,), _LOOK_EVERY).done:
                    if self._has_ended():
                        running.close()
                        raise asyncio.CancelledError("the event loop has ended")
        except WouldDeadlock:
            future.cancel()
            raise
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise asyncio.CancelledError(*error.args) from error

    def _has_ended(self) -> bool:
        """Return whether it will not run again: a program may also end without having closed it."""
        return self._loop.is_closed() or not (self._loop.is_running() or threading.main_thread().is_alive())


class _Trio:
    __slots__ = ("_token", "_trio", "thread")

    def __init__(self, trio: Any, token: Any) -> None:
        self._trio = trio
        self._token = token
        self.thread = holds.current().thread

    def soon(self, function: Callable[[], object]) -> None:
        with suppress(self._trio.RunFinishedError):
            self._token.run_sync_soon(function)

    def start(self, function: Callable[..., Coroutine[Any, Any, object]], *arguments: Any) -> None:
        self.soon(partial(self._trio.lowlevel.spawn_system_task, function, *arguments))

    def run(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        ended: list[bool] = []

        async def task() -> Any:
            try:
                return await function(*arguments)
            finally:
                ended.append(True)

        try:
            with waiting_for(self, lambda: bool(ended)):
                return self._trio.from_thread.run(task, trio_token=self._token)
        except self._trio.RunFinishedError as error:
            raise asyncio.CancelledError("the event loop has ended") from error


class Wake:
    """What a task waits for, and any thread can set."""

    __slots__ = ("_event", "_loop")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._event = anyio.Event()

    def set(self) -> None:
        """Wake the task, from whichever thread."""
        self._loop.soon(self._event.set)

    async def wait(self, deadline: Deadline) -> bool:
        """Wait until it is set; False if *deadline* came first."""
        with anyio.move_on_after(deadline.left):
            await self._event.wait()
            return True
        return False
