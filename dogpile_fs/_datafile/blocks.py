"""The ``with`` blocks of readers: a guard, and the current version."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from io import BufferedReader, FileIO
from time import time
from types import TracebackType
from typing import IO, Any, BinaryIO, Generic, TypeVar

from .._dogpile.dogpile import SyncReaderDogpile
from .._dogpile.status import Status
from .._os import replace
from .._os.copying import NotCopied
from .._os.openfile import close_quietly
from .._os.waiting import Deadline, Timeout
from .._sidecar.record import Record
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

    def take(self) -> BinaryIO:
        """Return the open file, which the block does not close at its end then."""
        file: BinaryIO = self._held
        self._held = None
        return file

    def status_of(self, found: os.stat_result) -> Status | None:
        """Return the state, as of now, of the version that is open; to be called inside the block.

        :param found: the ``os.fstat`` of the opened file.
        :returns: ``None`` if the record with which the caller has passed is not of that file.
        """
        guard: Any = self._guard
        seen: Record = guard.seen
        if seen.fingerprint is None or not seen.fingerprint.is_of_file(found):
            return None
        return Status._of(seen, time(), self._resource._dogpile._shared, creating=False)

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
        if mode == "rb" and encoding is errors is newline is None:
            # What the built-in open does, but for its question whether the file is a terminal.
            fd = open_at_once(path, os.O_RDONLY)
            try:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode):
                    raise replace.no_regular_file(path, found)
                raw = FileIO(fd)
            except BaseException:
                close_quietly(fd)
                raise
            raw.name = path
            return BufferedReader(raw), found
        file: IO[Any] = open(path, mode, -1, encoding, errors, newline, True, open_at_once)  # noqa: SIM115
        try:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise replace.no_regular_file(path, found)
        except BaseException:
            close(file)
            raise
        return file, found
    except DatafileError:
        raise
    except FileNotFoundError as error:
        raise Vanished from error
    except OSError as error:
        if error.errno == errno.ESTALE:
            raise Vanished from error
        raise as_error(DatafileError, path, "open", error, reading=True) from error


def close(file: IO[Any]) -> None:
    """Close a file that was only read. Ignore errors: Linux has closed the descriptor all the same."""
    try:  # noqa: SIM105  # an object for it would cost a tenth of a pass
        file.close()
    except OSError:
        pass
