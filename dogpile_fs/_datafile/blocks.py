"""The ``with`` blocks of readers: a guard, and the current version."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import IO, Any, Generic, TypeVar

from .._dogpile.dogpile import SyncReaderDogpile
from .._os import replace
from .._os.copying import NotCopied
from .._os.waiting import Deadline, Timeout
from ..errors import DatafileError, as_error
from .resource import Resource, Vanished
from .version_file import open_at_once

__all__ = ["Acquired", "ReaderBlock", "Reading", "close", "opened"]


T = TypeVar("T")


class ReaderBlock(NotCopied, Generic[T]):
    """A ``with`` block in which a caller has passed and has the current version.

    No generator: one would cost as much as all the rest, and turn a creator's ``StopIteration`` into a
    ``RuntimeError``.

    :param how: in which way the version is opened; for a file, the arguments of the built-in ``open``.
    """

    __slots__ = ("_guard", "_held", "_how", "_resource", "_timeout")

    def __init__(self, resource: Resource[Any], timeout: Timeout, *how: Any) -> None:
        self._resource = resource
        self._timeout = timeout
        self._how = how
        #: While it is entered.
        self._guard: AbstractContextManager[None] | None = None
        #: What is closed at its end, or when it is dropped.
        self._held: Any = None

    def __enter__(self) -> T:
        if self._guard is not None:
            raise RuntimeError("this block has been entered already: make another")
        for guard in self._resource._guards(self._timeout):
            value = guard.__enter__()
            try:
                self._resource._pass_again_without(value)
                given = self._give(guard.deadline)
                self._guard = guard
                return given
            except BaseException as error:
                self._guard = self._held = None
                guard.__exit__(type(error), error, error.__traceback__)
                if not isinstance(error, Vanished):
                    raise
        raise AssertionError("unreachable")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        guard, held = self._guard, self._held
        if guard is None:
            raise RuntimeError("this block has not been entered, or has been left already")
        self._held = None
        try:
            if held is not None:
                self._resource._leave(held)
        finally:
            self._guard = None  # left once only: from then on, a reader's slot may be another reader's
            guard.__exit__(kind, error, trace)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # Dropped before its end, or interrupted at its end: a reader would stay inside for ever. At the process's
        # own end the system gives everything back. No guard yet: interrupted while it was made.
        if not is_finalizing() and getattr(self, "_guard", None) is not None:
            with suppress(Exception):
                self.__exit__(None, None, None)

    def _give(self, deadline: Deadline) -> T:
        """Return the block's value; keep what is to be closed as ``_held``.

        :raises Vanished: if there is no version any more.
        """
        self._held, given, _ = self._resource._enter(deadline, *self._how)
        return given  # type: ignore[no-any-return]


class Reading(ReaderBlock[IO[Any]]):
    """A block with the open file."""

    __slots__ = ()

    def __enter__(self) -> IO[Any]:
        if self._guard is None and self._open_fresh():
            return self._held  # type: ignore[no-any-return]
        return ReaderBlock.__enter__(self)

    def _open_fresh(self) -> bool:
        """Open the file first, and pass if it is fresh: that saves a look at the path. False if it is not."""
        dogpile = self._resource._dogpile
        if isinstance(dogpile, SyncReaderDogpile):
            return False
        try:
            file, found = opened(self._resource._path, *self._how)
        except (Vanished, DatafileError):
            return False  # a creation may mend it
        self._held = file
        try:
            self._guard = dogpile._pass_with(found)
        finally:
            if self._guard is None:
                close(file)
        return self._guard is not None


class Acquired(ReaderBlock[str]):
    """A block with the path."""

    __slots__ = ()

    def _give(self, deadline: Deadline) -> str:
        path = self._resource._path
        if not os.path.exists(path):
            raise Vanished
        return path


def opened(
    path: str,
    mode: str = "rb",
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> tuple[IO[Any], os.stat_result]:
    """Open the datafile at *path* as the built-in ``open`` does. Returns the file and its ``os.fstat``.

    :raises Vanished: if there is none any more.
    :raises DatafileError: if it cannot be opened, or is no regular file.
    """
    try:
        file: IO[Any] = open(path, mode, -1, encoding, errors, newline, True, open_at_once)  # noqa: SIM115
    except FileNotFoundError as error:
        raise Vanished from error
    except OSError as error:
        if error.errno == errno.ESTALE:
            raise Vanished from error
        raise as_error(DatafileError, path, "open", error, reading=True) from error
    try:
        found = os.fstat(file.fileno())
    except OSError as error:
        close(file)
        if error.errno == errno.ESTALE:
            raise Vanished from error
        raise as_error(DatafileError, path, "look at", error, reading=True) from error
    if not stat.S_ISREG(found.st_mode):
        close(file)
        raise replace.no_regular_file(path, found)
    return file, found


def close(file: IO[Any]) -> None:
    """Close a file that was only read. Ignore errors: Linux has closed the descriptor all the same."""
    with suppress(OSError):
        file.close()
