"""A reader's blocks: what has passed, and has the current version."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import IO, Any, Generic, TypeVar

from .._dogpile.dogpile import SyncReaderDogpile
from .._dogpile.guard import Pass
from .._os import replace as swap
from .._os.openfile import above_standard
from .._os.waiting import Timeout
from ..errors import DatafileError, explained
from .resource import Vanished, Versioned

__all__ = ["Acquired", "Block", "Reading", "close", "opened"]


T = TypeVar("T")


class Block(ABC, Generic[T]):
    """A ``with`` block that has passed, and has the current version.

    No generator: one would cost as much as all the rest, and make a ``RuntimeError`` of a creator's
    ``StopIteration``.
    """

    __slots__ = ("_passage", "_timeout", "_versioned")

    def __init__(self, versioned: Versioned[Any], timeout: Timeout) -> None:
        self._versioned = versioned
        self._timeout = timeout
        #: While it is entered.
        self._passage: AbstractContextManager[None] | None = None

    def __enter__(self) -> T:
        if self._passage is not None:
            raise RuntimeError("this block has been entered already: make another")
        for passage in self._versioned._passages(self._timeout):
            passage.__enter__()
            try:
                got = self._got(passage)
            except Vanished:
                passage.__exit__(None, None, None)
            except BaseException as error:
                passage.__exit__(type(error), error, error.__traceback__)
                raise
            else:
                self._passage = passage
                return got
        raise AssertionError("unreachable")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        passage = self._passage
        if passage is None:
            raise RuntimeError("this block has not been entered, or has been left already")
        try:
            self._left()
        finally:
            self._passage = None  # once only: a reader's seat may be another's as soon as it was left
            passage.__exit__(kind, error, trace)

    def __del__(self) -> None:
        # Dropped without having been left, or interrupted while it was: a reader would stay inside for ever.
        if self._passage is not None:
            with suppress(Exception):
                self.__exit__(None, None, None)

    @abstractmethod
    def _got(self, passage: Pass) -> T:
        """What the block is given.

        :raises Vanished: if there is nothing any more.
        """

    def _left(self) -> None:
        """Give back what the block was given."""


class Reading(Block[IO[Any]]):
    """With the file open."""

    __slots__ = ("_file", "_how")

    _file: IO[Any]

    def __init__(self, versioned: Versioned[Any], timeout: Timeout, *how: Any) -> None:
        Block.__init__(self, versioned, timeout)
        self._how = how

    def __enter__(self) -> IO[Any]:
        if self._passage is None and self._open_fresh():
            return self._file
        return Block.__enter__(self)

    def _open_fresh(self) -> bool:
        """Whoever has opened what is fresh has passed: that spares a look at the path."""
        dogpile = self._versioned.dogpile
        if isinstance(dogpile, SyncReaderDogpile):
            return False
        try:
            file, found = opened(self._versioned._path, *self._how)
        except (Vanished, DatafileError):
            return False  # a creation may cure it
        try:
            self._passage = dogpile.pass_with(found)
        finally:
            if self._passage is None:
                close(file)
        self._file = file
        return self._passage is not None

    def _got(self, passage: Pass) -> IO[Any]:
        self._file, _ = opened(self._versioned._path, *self._how)
        return self._file

    def _left(self) -> None:
        close(self._file)


class Acquired(Block[str]):
    """With the path."""

    __slots__ = ()

    def _got(self, passage: Pass) -> str:
        path = self._versioned._path
        if not os.path.exists(path):
            raise Vanished
        return path


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
    return above_standard(os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC))


def close(file: IO[Any]) -> None:
    """Close a file that was only read; see :func:`.lockfile.let_go`."""
    with suppress(OSError):
        file.close()
