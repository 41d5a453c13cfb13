"""A change of a sidecar that is in progress: what a signal handler that comes in the middle of it must know."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from fcntl import LOCK_UN, flock
from weakref import ref

from .._os.openfile import OpenFile

__all__ = ["Change"]


class Change:
    """A change of a sidecar that this thread is making, from before it locks the file until it has unlocked it."""

    __slots__ = ("__weakref__", "after_unlocking", "crossings", "open_file")

    def __init__(self, open_file: OpenFile) -> None:
        self.open_file = open_file
        #: How many other changes this thread has made under the lock of this one.
        self.crossings = 0
        #: Log calls: a log handler may use the sidecar as well.
        self.after_unlocking: list[Callable[[], object]] = []

    def begin(self) -> None:
        """Let :meth:`in_progress_at` find it."""
        _changes.of_this_thread.append(ref(self))

    def end(self) -> None:
        """Unlock and close the file, then log.

        :raises OSError: if closing the file reports that a write has failed.
        """
        try:
            with suppress(OSError):
                flock(self.open_file.fd, LOCK_UN)
            self.open_file.close_written()
        finally:
            self.open_file.give_back()
            _changes.of_this_thread[:] = [each for each in _changes.of_this_thread if each() not in (None, self)]
        for report in self.after_unlocking:
            report()

    @classmethod
    def in_progress_at(cls, path: str) -> Change | None:
        """Return the change of the file at *path* that this thread is in the middle of."""
        for reference in _changes.of_this_thread:
            change = reference()
            if change is not None and change.open_file.fd >= 0 and change.open_file.is_at(path):
                return change
        return None


class _Changes(threading.local):
    """The changes that each thread is in the middle of: weakly, so that an interrupted one is dropped."""

    def __init__(self) -> None:
        self.of_this_thread: list[ref[Change]] = []


_changes = _Changes()
