"""The user's functions: coroutine functions run in the event loop, plain ones in a worker thread, a few at a time.

What builds and swaps is the code of the synchronous classes, in a thread of its own. It meets a coroutine function
as a plain one that waits for the event loop: :class:`Bridged`.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextvars import ContextVar
from inspect import isawaitable
from typing import Any, Generic, TypeVar

import anyio

from .._dogpile.plain_call import is_coroutine_function
from .._os import fork
from .loops import Loop

__all__ = ["Bridged", "Site", "awaited", "called_in_thread"]

T = TypeVar("T")

#: Plain functions of users that run at a time; more of them would only slow down the event loop's own thread.
_MOST = 40


class _Limit:
    """Room for so many functions. What they call in their turn needs none: it would wait for them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._is_inside: ContextVar[bool] = ContextVar("dogpile_fs: inside the limit", default=False)
        self.after_fork()
        fork.reset_after_fork(self)

    def after_fork(self) -> None:
        self._free = threading.BoundedSemaphore(self._most)  # no such function runs in a forked child

    def call(self, function: Callable[[], T]) -> T:
        """Return ``function()``, as soon as there is room."""
        if self._is_inside.get():
            return function()
        token = self._is_inside.set(True)
        try:
            with self._free:
                return function()
        finally:
            self._is_inside.reset(token)


_limit = _Limit(_MOST)


_Enter = Callable[[], Callable[[], object]]


class Site:
    """Where the functions that a thread calls for a task run.

    :param enter: called in the thread and in the event loop, right where a function begins to run; returns what is
        called when it has ended.
    :param in_loop: instead of *enter* in the event loop.
    """

    __slots__ = ("_enter", "_enter_in_loop", "_loop")

    def __init__(self, loop: Loop, enter: _Enter, *, in_loop: _Enter | None = None) -> None:
        self._loop = loop
        self._enter = enter
        self._enter_in_loop = in_loop or enter

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call *function* of this package in this thread; the functions of the user's that it calls run here."""
        token = _site.set(self)
        try:
            leave = self._enter()
            try:
                return function(*arguments)
            finally:
                leave()
        finally:
            _site.reset(token)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function of the user's in the event loop, and return its result."""
        return self._loop.run(self._in_loop, function, *arguments)

    async def _in_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        leave = self._enter_in_loop()
        try:
            return await awaited(function, *arguments)
        finally:
            leave()


_site: ContextVar[Site] = ContextVar("dogpile_fs: the site of this thread")


async def awaited(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what *function* returns, or what that returns when it is awaited."""
    result = function(*arguments)
    return (await result) if isawaitable(result) else result


def called_in_thread(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call a function of the user's from a worker thread, and return its result.

    Without an event loop (in the process of a creation in the background) a coroutine function gets one of its
    own.
    """
    site = _site.get(None)
    run: Callable[..., Any] = functools.partial(anyio.run, awaited) if site is None else site.run  # type: ignore[arg-type]
    called = functools.partial(function, *arguments, **keywords)
    if is_coroutine_function(function):
        return run(called)
    result = _limit.call(called)
    return run(functools.partial(_itself, result)) if isawaitable(result) else result


def _itself(value: T) -> T:
    return value


class Bridged(Generic[T]):
    """A user's *function* as one that threads call. It is pickled as that function."""

    __slots__ = ("__weakref__", "function")

    def __init__(self, function: Callable[..., T]) -> None:
        self.function = function

    @classmethod
    def of(cls, function: Any) -> Any:
        """Return *function* so that threads can call it; ``None`` and what is no function stay what they are."""
        return cls(function) if callable(function) else function

    def __call__(self, *arguments: Any) -> T:
        return called_in_thread(self.function, *arguments)  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[object, ...]:
        return Bridged, (self.function,)

    def __repr__(self) -> str:
        return repr(self.function)
