"""ReadWriteFileLock: many readers or one writer, among all threads of all processes that name its file.

Promised: no reader is inside while a writer is, and the reverse; readers that keep overlapping cannot keep a
writer out, nor writers that follow each other a reader; a process that dies, or is stopped while it neither
holds nor waits, hinders nobody; a thread that is inside may enter again at any time. Not promised: that
readers who were inside when the lock file was deleted still count.

How one description gets in is told in :mod:`.room`, and how readers come by one in :mod:`.seats`.
"""

from __future__ import annotations

import _thread
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from weakref import ref

from .._os import fork as forking
from .._os.openfile import Description
from .._os.paths import absolute, checked_mode
from .._os.waiting import INHERIT, NOW, Deadline, Timeout, checked_timeout, deadline_of, wait_until
from ..errors import LockTimeout, NotHeld, WouldDeadlock
from . import rw_protocol as room
from .reader_pool import Seat, stays_of_threads

__all__ = ["ReadWriteFileLock"]

log = logging.getLogger("dogpile_fs")

#: The locks as whose writer a thread of this process is inside.
_written: set[ref[ReadWriteFileLock]] = set()


class ReadWriteFileLock:
    """A shared/exclusive lock on a file, with writer preference.

    :param path: the lock file; made if it is missing, never deleted.
    :param timeout: seconds after which a wait gives up; ``None``: never.
    :param mode: permission bits of the file if it has to be made; ``None``: what the umask leaves of 0o666.

    A reader needs permission to read the file, a writer to write it. Reads nest within a thread; nothing else
    does. A reader must leave: he stays inside if the object is dropped. A forked child holds nothing, and may
    leave its parent's blocks without harm. It can be pickled; the copy names the same file and holds nothing. Its
    methods are the ones that dogpile.cache's file backend expects of a ``lock_factory``'s product.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "shared.lock")
    >>> lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path)
    >>> with lock.read():
    ...     other.acquire_read_lock(wait=False), other.acquire_write_lock(wait=False)
    (True, False)
    >>> other.release_read_lock()
    """

    __slots__ = (
        "__weakref__",
        "_parents_reads",
        "_parents_write",
        "_writer",
        "_writers",
        "_writing",
        "idle",
        "mode",
        "path",
        "timeout",
    )

    def __init__(
        self, path: str | os.PathLike[str], *, timeout: float | None = None, mode: int | None = None
    ) -> None:
        self.path = absolute(path)
        self.timeout = checked_timeout(timeout)
        self.mode = checked_mode(mode)
        # Open, locking nothing, for the next who come.
        self.idle: list[Seat] = []
        # Held by this process's writer, or by the one of its threads that waits to be: the others contend here.
        # Made for the first of them.
        self._writers: threading.Lock | None = None
        # Read by all, written by who holds that.
        self._writing: Description | None = None
        self._writer = 0
        # In a child: how often its parent's forking thread had entered, and may be left.
        self._parents_reads = 0
        self._parents_write = False

    def acquire_read_lock(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        """Enter as a reader.

        :param wait: False: one try.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :returns: True if this thread is inside; False only if *wait* is false.
        :raises LockTimeout: if a writer did not leave in time.
        :raises WouldDeadlock: if this thread is the writer.
        :raises LockFileError: if the lock file cannot be opened, made or locked.
        """
        if wait:
            self.enter(deadline_of(timeout, self.timeout))
            return True
        try:
            self.enter(NOW)
        except (LockTimeout, WouldDeadlock):
            return False
        return True

    def release_read_lock(self) -> None:
        """Leave once. In a forked child, leaving the parent's block: do nothing.

        :raises NotHeld: if this thread is not inside as a reader.
        """
        hold = stays_of_threads.of_this_thread().get(self)
        if hold is not None:
            hold.leave()
        elif self._parents_reads:
            self._parents_reads -= 1
        else:
            raise NotHeld(f"this thread does not hold the read lock {self.path!r}: acquire it first")

    def acquire_write_lock(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        """Become the writer: wait until nobody else is inside. New readers wait from now on.

        :param wait: False: one try.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :returns: True if this thread is the writer; False only if *wait* is false.
        :raises LockTimeout: if the others did not leave in time.
        :raises WouldDeadlock: if this thread is inside already, as reader or as writer.
        :raises LockFileError: if the lock file cannot be opened for writing, made or locked.
        """
        deadline = deadline_of(timeout, self.timeout) if wait else NOW
        if wait and (inside := self.inside()):
            raise WouldDeadlock(
                f"this thread is inside {self.path!r} as a {inside} and would wait for itself, for ever. "
                "Cure: leave the block before you write."
            )
        writers = self._writers or self._writers_made()
        if not wait_until(lambda: writers.acquire(False), writers.acquire, deadline):
            if not wait:
                return False
            raise self._timed_out("another writer did not leave", deadline)
        try:
            if self._enter_as_writer(deadline):
                return True
            if wait:
                raise self._timed_out("readers or a writer did not leave", deadline)
        except BaseException:
            writers.release()
            raise
        writers.release()
        return False

    def _writers_made(self) -> threading.Lock:
        with forking.opening:  # or two threads could make two
            if self._writers is None:
                self._writers = threading.Lock()
                forking.forget_in_child(self)
            return self._writers

    def _enter_as_writer(self, deadline: Deadline) -> bool:
        while True:
            description = Description.of_lock_file(self.path, self.mode, write=True)
            try:
                if not room.enter_as_writer(description, deadline):
                    return False
                if description.is_at_its_path():
                    _written.add(ref(self, _written.discard))  # first: one too many does no harm
                    self._writer, self._writing = _thread.get_ident(), description
                    return True
            finally:
                if self._writing is not description:
                    description.close()

    def release_write_lock(self) -> None:
        """Cease to be the writer. In a forked child, leaving the parent's block: do nothing.

        :raises NotHeld: if this thread is not the writer.
        """
        description = self._writing
        if description is None or self._writer != _thread.get_ident():
            if not self._parents_write:
                raise NotHeld(f"this thread does not hold the write lock {self.path!r}: acquire it first")
            self._parents_write = False
            return
        self._writing = None
        try:
            _written.discard(ref(self))
            if description.lost_its_path():
                log.warning(
                    "the lock file %r was deleted or replaced while it was locked: readers may have been inside "
                    "at the same time. Keep cleaners away from it.",
                    self.path,
                )
            room.leave_as_writer(description)
        finally:
            assert self._writers is not None
            self._writers.release()

    def acquire(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        """:meth:`acquire_write_lock`, for those who need a plain mutex (dogpile.cache's election does)."""
        return self.acquire_write_lock(wait, timeout)

    def release(self) -> None:
        """:meth:`release_write_lock`."""
        self.release_write_lock()

    @contextmanager
    def read(self, timeout: Timeout = INHERIT) -> Iterator[None]:
        """A ``with`` block inside as a reader; see :meth:`acquire_read_lock`."""
        hold = self.enter(deadline_of(timeout, self.timeout))
        try:
            yield
        finally:
            hold.leave()

    @contextmanager
    def write(self, timeout: Timeout = INHERIT) -> Iterator[None]:
        """A ``with`` block as the writer; see :meth:`acquire_write_lock`."""
        self.acquire_write_lock(timeout=timeout)
        try:
            yield
        finally:
            self.release_write_lock()

    def enter(self, deadline: Deadline) -> Seat:
        """:meth:`acquire_read_lock`, returning what is to be left: by any thread."""
        seat = self.seat()
        if seat is None:
            return self.enter_slowly(deadline)
        seat.__enter__(deadline)
        return seat.hold or seat

    def leave(self, hold: Seat) -> None:
        """Leave once what :meth:`enter` returned."""
        hold.leave()

    def seat(self) -> Seat | None:
        """A context manager whose block is a reader's, if there is an idle one."""
        try:
            seat = self.idle.pop()
        except IndexError:
            return None
        seat.lock = self
        return seat

    def make_file(self) -> None:
        """Make the lock file if it is missing, for those who may not.

        :raises LockFileError: if it cannot be made.
        """
        Description.of_lock_file(self.path, self.mode).close()

    def enter_slowly(self, deadline: Deadline) -> Seat:
        """:meth:`enter` if the thread may be inside already, or no seat is idle, or a writer is."""
        stays = stays_of_threads.of_this_thread()
        hold = stays.get(self)
        if hold is not None:
            hold.depth += 1
            if hold.depth > 1:
                return hold
        inside = self.inside()
        if inside == "writer":
            raise WouldDeadlock(
                f"this thread is inside {self.path!r} as the writer and would wait for itself, for ever. "
                "Cure: leave the write block before you read."
            )
        while True:
            seat = Seat.of_lock_file(self.path, self.mode)
            try:
                if not room.enter_as_reader(seat, deadline, by_queue=not inside):
                    raise self._timed_out("a writer did not leave", deadline)
                if seat.is_at_its_path():
                    seat.depth, seat.stays, seat.lock, seat.passed = 1, stays, self, None
                    stays[self] = seat
                    return seat
            except BaseException:
                seat.close()
                raise
            seat.close()

    def inside(self) -> Literal["reader", "writer", ""]:
        """As what this thread is inside, through whichever object of this process; ``""`` if it is not."""
        me = _thread.get_ident()
        for reference in _written.copy():
            written = reference()
            if written is not None and written._writer == me and self._is_the_file_of(written, written._writing):
                return "writer"
        for lock, hold in stays_of_threads.of_this_thread().copy().items():
            if self._is_the_file_of(lock, hold):
                return "reader"
        return ""

    def _is_the_file_of(self, lock: ReadWriteFileLock, held: Description | None) -> bool:
        return held is not None and (lock is self or held.is_at(self.path))

    def _timed_out(self, what: str, deadline: Deadline) -> LockTimeout:
        return LockTimeout(
            f"{what} {self.path!r} within {deadline.timeout} s. Cure: a longer timeout, or find who is inside "
            "with fuser(1) or in /proc/locks."
        )

    def after_fork(self) -> None:
        self._parents_write |= self._writing is not None and self._writer == _thread.get_ident()
        self._writing = None
        _written.discard(ref(self))
        self._writers = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (self.path, self.timeout, self.mode)

    def __repr__(self) -> str:
        return f"<ReadWriteFileLock {self.path!r}>"


def _unpickled(path: str, timeout: float | None, mode: int | None) -> ReadWriteFileLock:
    return ReadWriteFileLock(path, timeout=timeout, mode=mode)
