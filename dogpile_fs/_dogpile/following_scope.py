"""Coordination through files in a directory that resources share (``directory=``).

Beside a resource the kernel finds the coordination files by the path, wherever that leads. Here their names tell
whose they are: they are made of the mark of the directory that holds the resource, which is looked at again before
each election and swap. So two processes have the same files if and only if their paths lead to the same resource:
on both sides of a link that was retargeted, and by whichever mount. A directory that cannot be marked is known by
its real path, and the log says so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from time import monotonic
from typing import Any

from .._layout import LOCK_SUFFIX, RWLOCK_SUFFIX, SIDECAR_SUFFIX, coordination_base
from .._locks.mutex import FileMutex
from .._os import directory_mark, fork
from .._os.paths import absolute
from .._sidecar.record import Record
from .._sidecar.snapshot import Snapshot
from .guard import ReusableGuard
from .process_scope import ProcessScope
from .scope import Mutex, ReadWriteLock

__all__ = ["FollowingScope"]

log = logging.getLogger("dogpile_fs")

#: Seconds for which passes do not ask where the path leads; a sidecar is read as often.
_LOOK_EVERY = 0.010

#: The directories of which the log has told that they cannot be marked.
_told: set[str] = set()


class FollowingScope(ProcessScope):
    """A scope of processes whose coordination files are in *directory*."""

    __slots__ = ("_directory", "_look_at", "_place", "_readers")

    def __init__(self, path: str, *, directory: str | os.PathLike[str] | None, **options: Any) -> None:
        super().__init__(path, directory=directory, **options)
        assert directory is not None
        self._directory = absolute(directory)
        #: Where the path led at the last look; None also before it.
        self._place: directory_mark.Place | None = None
        self._look_at = 0.0
        self._readers: Any = None

    def peek(self) -> Snapshot:
        if monotonic() >= self._look_at:
            self._follow()
        return super().peek()

    def read(self) -> Record:
        self._follow()
        return super().read()

    def record_of(self, found: os.stat_result) -> Record:
        if monotonic() >= self._look_at:
            self._follow()
        return super().record_of(found)

    def reusable_guard(self, snapshot: Snapshot, timeout: float | None, until: float) -> ReusableGuard | None:
        # Not renewed: a caller asks first where the path leads.
        return (
            None if snapshot.open_file is None else ReusableGuard(self, timeout, snapshot, until, is_renewed=False)
        )

    def change(self, make: Callable[[Record], Record]) -> None:
        self._follow(mark=True)
        super().change(make)

    @property
    def mutex(self) -> Mutex:
        self._follow(mark=True)
        mutex = super().mutex
        if isinstance(mutex, FileMutex):
            mutex.path = self._base + LOCK_SUFFIX
        return mutex

    def read_write_lock(self) -> ReadWriteLock:
        lock = self._readers = super().read_write_lock()
        return lock

    def _follow(self, *, mark: bool = False) -> None:
        """Let the coordination files be those of the resource that the path leads to now.

        :param mark: have its directory marked, as before all that other processes must notice.
        """
        self._look_at = monotonic() + _LOOK_EVERY
        parent = os.path.dirname(self.path)
        try:
            place = directory_mark.mark(parent) if mark else directory_mark.find(parent)
        except OSError as error:
            place = directory_mark.find(parent)
            self._tell_unmarked(parent, error)
        if place == self._place:
            return
        base = coordination_base(self.path, self._directory, directory_mark.known_as(parent, place))
        with fork.once:  # else two threads could each set a part
            self._place = place
            self.sidecar.path = base + SIDECAR_SUFFIX
            if self._readers is not None:
                self._readers.path = base + RWLOCK_SUFFIX

    def _tell_unmarked(self, parent: str, error: OSError) -> None:
        if parent not in _told:
            _told.add(parent)
            log.warning(
                "%s: the directory %r cannot be marked (%s), so that the coordination files in %r are named after "
                "its path: processes that reach it by another mount have others, and create at the same time. "
                "Hint: give the same path everywhere, or create first as a user who may write that directory.",
                self.name,
                parent,
                error.strerror,
                self._directory,
            )
