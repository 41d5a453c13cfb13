"""A reader's block: passes, and has the current version of a datafile open."""

from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import IO, Any

from . import swap
from .dogpile import SyncReaderDogpile
from .errors import DatafileError, explained
from .versioned import Vanished, Versioned
from .waiting import Timeout

__all__ = ["Reading", "close", "opened"]


class Reading:
    """A block with the current version open. No generator: it would cost as much as the opening."""

    __slots__ = ("_datafile", "_file", "_how", "_passage", "_timeout")

    _file: IO[Any]

    def __init__(self, datafile: Versioned, timeout: Timeout, *how: Any) -> None:
        self._datafile = datafile
        self._timeout = timeout
        self._how = how
        self._passage: AbstractContextManager[None] | None = None

    def __enter__(self) -> IO[Any]:
        datafile = self._datafile
        if not isinstance(datafile.dogpile, SyncReaderDogpile) and self._open_fresh():
            return self._file
        for passage in datafile._passages(self._timeout):
            passage.__enter__()
            try:
                self._file, _ = opened(datafile._path, *self._how)
            except Vanished:
                passage.__exit__(None, None, None)
            except BaseException as error:
                passage.__exit__(type(error), error, error.__traceback__)
                raise
            else:
                self._passage = passage
                return self._file
        raise AssertionError("unreachable")

    def _open_fresh(self) -> bool:
        """Whoever has opened what is fresh has passed: that spares a look at the path."""
        try:
            file, found = opened(self._datafile._path, *self._how)
        except (Vanished, DatafileError):
            return False  # a creation may cure it
        try:
            self._passage = self._datafile.dogpile.pass_with(found)
        finally:
            if self._passage is None:
                close(file)
        self._file = file
        return self._passage is not None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            close(self._file)
        finally:
            assert self._passage is not None
            self._passage.__exit__(kind, error, trace)


def opened(
    path: str, mode: str, encoding: str | None, errors: str | None, newline: str | None
) -> tuple[IO[Any], os.stat_result]:
    """Open the datafile at *path* as the built-in ``open`` does; with what ``os.fstat`` tells of it.

    :raises Vanished: if there is none any more.
    :raises DatafileError: if it cannot be opened, or is no regular file.
    """
    try:
        # O_NONBLOCK: a FIFO must not make us wait; to a regular file it means nothing.
        file: IO[Any] = open(path, mode, -1, encoding, errors, newline, True, _at_once)  # noqa: SIM115
    except FileNotFoundError as error:
        raise Vanished from error
    except OSError as error:
        raise explained(DatafileError, path, "open", error, reading=True) from error
    try:
        found = os.fstat(file.fileno())
    except OSError as error:
        close(file)
        raise explained(DatafileError, path, "look at", error, reading=True) from error
    if not stat.S_ISREG(found.st_mode):
        close(file)
        raise swap.no_regular_file(path, found)
    return file, found


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def close(file: IO[Any]) -> None:
    """Close a file that was only read; see :func:`.lockfile.let_go`."""
    with suppress(OSError):
        file.close()
