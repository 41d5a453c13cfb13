"""cached_file for coroutine functions."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar, cast

from .._datafile import datafile
from .._datafile.cached_file import CallCache
from .datafiles import Datafiles, datafiles_of
from .functions import called_in_thread
from .resource import Datafile, of_sync

__all__ = ["AsyncCachedFile"]

P = ParamSpec("P")
R = TypeVar("R")


class AsyncCachedFile(CallCache, Generic[P, R]):
    """What :func:`.cached_file` makes of a coroutine function."""

    __wrapped__: Callable[P, Coroutine[Any, Any, R]]

    @property
    def files(self) -> Datafiles:
        """The results, by the keys that calls make of their arguments."""
        return datafiles_of(self._files)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast("R", await _of(self._file(args, kwargs)).load(self._loader))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function for these arguments, whatever there is, and return the new result.

        It waits for a call that runs now.
        """
        file = _of(self._file(args, kwargs))
        await file.refresh(force=True)
        return cast("R", await file.load(self._loader))

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Make the result for these arguments stale: one caller calls the function, others get the old one."""
        await _of(self._file(args, kwargs)).invalidate()

    def _called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return called_in_thread(self.__wrapped__, *args, **kwargs)


def _of(file: datafile.Datafile) -> Datafile:
    return of_sync(Datafile, file)
