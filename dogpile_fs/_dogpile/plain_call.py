"""Refuse coroutine functions: nothing here would await what they return, so none of their code would run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CoroutineType
from typing import Any, TypeVar

__all__ = ["called", "checked_plain", "is_coroutine_function"]

T = TypeVar("T")

# <Include/cpython/code.h>: of an "async def", without "yield" and with it. To import inspect takes long.
_CO_COROUTINE, _CO_ASYNC_GENERATOR = 0x80, 0x200

_HINT = (
    "Hint: give a plain function; one that runs it to its end in an event loop of its own will do, such as "
    "lambda *arguments: asyncio.run(function(*arguments))."
)


def checked_plain(name: str, function: Callable[..., Any]) -> None:
    """Refuse *function* if it is an ``async def``, a ``partial`` of one, or an object that is called as one.

    :param name: the caller's name for it, for the message.
    :raises TypeError: if it is.
    """
    if is_coroutine_function(function):
        raise TypeError(f"{name} must be a plain function, not the coroutine function {function!r}. {_HINT}")


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Return whether *function* is an ``async def``, a ``partial`` of one, or an object that is called as one."""
    plain: Any = function
    while isinstance(plain, functools.partial):
        plain = plain.func
    call = plain if hasattr(plain, "__code__") else type(plain).__call__
    return bool(getattr(getattr(call, "__code__", None), "co_flags", 0) & (_CO_COROUTINE | _CO_ASYNC_GENERATOR))


def called(function: Callable[..., T], *arguments: Any) -> T:
    """Return ``function(*arguments)``, unless that is a coroutine.

    :raises TypeError: if it is one.
    """
    result = function(*arguments)
    if isinstance(result, CoroutineType):
        result.close()  # else the interpreter warns that nothing has awaited it
        raise TypeError(f"{function!r} returned a coroutine, which nothing awaits here. {_HINT}")
    return result
