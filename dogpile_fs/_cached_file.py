"""``cached_file``: the decorator, for plain functions and for coroutine functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, overload

from ._datafile.cached_file import CachedFile, Format, checked_format
from ._dogpile.plain_call import is_coroutine_function
from ._os.paths import absolute

if TYPE_CHECKING:
    from ._aio.cached_file import AsyncCachedFile

__all__ = ["Decorator", "cached_file"]

P = ParamSpec("P")
R = TypeVar("R")


class Decorator(Protocol):
    """What :func:`cached_file` returns."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncCachedFile[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFile[P, R]: ...


def cached_file(
    directory: str | os.PathLike[str],
    expiretime: float | timedelta | None = None,
    *,
    format: Format | Literal["json"] = "json",
    binary: bool = False,
    **options: Any,
) -> Decorator:
    """Return a decorator that keeps what a function returns in a file in *directory*, one for each call's
    arguments.

    :param directory: made if it is missing. Functions of any number may share it.
    :param expiretime: seconds (or a ``timedelta``) after which the function is called again; ``None``: never.
    :param format: ``"json"``, or anything with ``dump(value, file)`` and ``load(file)``. With the module
        ``pickle`` every user that may write the directory can run any code in this process.
    :param binary: whether *format* writes and reads bytes; else text, in UTF-8.
    :param options: of :class:`.Datafiles`, such as ``backoff=``, ``keep=`` and ``background="thread"``.
    :raises TypeError, ValueError: for an argument of the wrong type or value; from the decorator, for a function
        that cannot be told from others by its name: a lambda, or a function that uses variables of one around it.
    :raises ModuleNotFoundError: from the decorator, for a coroutine function without the extra ``aio``.

    A coroutine function stays one: ``await f(1)``, ``await f.refresh(1)``, ``await f.invalidate(1)``. It runs in
    the event loop of its caller.

    Two calls have the same file if the function gets the same arguments by them: ``f(1)`` and ``f(x=1)`` do.
    Arguments may be numbers, text, bytes, ``None``, dates and times, ``Decimal``, ``Fraction``, ``UUID``, paths,
    members of enumerations, and tuples, lists, dicts and sets of them; others are a ``TypeError``. The first call
    of all processes calls the function; the others wait for it. When the result is stale, one caller calls it
    again, and the others get the old one until then. If the function raises, the first caller gets its error,
    unless there is an old result.

    A caller gets what ``load`` makes of the file, and never the object that the function returned: with JSON, a
    list where that was a tuple. As with ``functools.lru_cache``, callers in one process share the object, and must
    not change it.

    The function has more to it:

    - ``f.refresh(...)`` calls it for these arguments in any case, and returns the new result. Its errors are
      raised.
    - ``f.invalidate(...)`` makes the result for these arguments stale.
    - ``f.files`` is the :class:`.Datafiles`, such as for ``f.files.prune(max_bytes=10**9)``.
    - ``f.__wrapped__`` is the function itself.

    :raises: from calls, as :meth:`.Datafile.load`; ``TypeError`` also if the result cannot be written by *format*.

    >>> import tempfile
    >>> @cached_file(tempfile.mkdtemp(), 3600)
    ... def squares(up_to):
    ...     print("calculating")
    ...     return [each * each for each in range(up_to)]
    >>> squares(4)
    calculating
    [0, 1, 4, 9]
    >>> squares(up_to=4)
    [0, 1, 4, 9]
    >>> squares.files.prune(older_than=0)
    1
    """
    chosen = checked_format(format, binary)
    path = absolute(directory)

    def decorate(function: Callable[..., Any]) -> Any:
        kind: Any = CachedFile
        if is_coroutine_function(function):
            from ._aio.cached_file import AsyncCachedFile as kind  # here: it needs anyio
        return kind(function, path, expiretime, chosen, binary, options)

    return decorate
