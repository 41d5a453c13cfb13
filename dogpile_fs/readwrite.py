"""ReadWriteFileLock: many readers or one writer, among all threads of all processes that name its file.

Promised: no reader is inside while a writer is, and the reverse; readers that keep overlapping cannot keep a
writer out, nor writers that follow each other a reader; a process that dies, or is stopped while it neither
holds nor waits, hinders nobody; a thread that is inside may enter again at any time. Not promised: that
readers who were inside when the lock file was deleted still count.

How one description gets in is told in :mod:`.room`. All readers of a process share one description of the
file, counted by thread: the first locks the room, the last unlocks it.
"""

from __future__ import annotations

import _thread
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_UN, flock
from time import monotonic
from typing import Literal

from . import room
from .errors import LockTimeout, NotHeld, WouldDeadlock
from .forking import forget_in_child, living
from .lockfile import Description, identity_at
from .paths import absolute
from .waiting import INHERIT, NOW, Deadline, Timeout, checked_timeout, deadline_of, wait_until

__all__ = ["ReadHold", "ReadWriteFileLock"]

log = logging.getLogger("dogpile_fs")

_LOOK_EVERY = 0.010


class _Readers:
    """The description through which this process's readers are in the room, and how many they are."""

    __slots__ = ("count", "description", "room_locked")

    def __init__(self, description: Description) -> None:
        self.description = description
        self.count = 0
        self.room_locked = True


class ReadHold:
    """One thread's stay in the room; it may have entered *depth* times."""

    __slots__ = ("depth", "owner", "readers")

    def __init__(self, readers: _Readers, owner: int) -> None:
        self.readers: _Readers | None = readers  # None: a forked child has forgotten it
        self.owner = owner
        self.depth = 1


class ReadWriteFileLock:
    """A shared/exclusive lock on a file, with writer preference.

    :param path: the lock file; made if it is missing, never deleted.
    :param timeout: seconds after which a wait gives up; ``None``: never.
    :param mode: permission bits of the file if it has to be made; ``None``: what the umask leaves of 0o666.

    A reader needs permission to read the file, a writer to write it. Reads nest within a thread; nothing else
    does. A forked child holds nothing, and may leave its parent's blocks without harm. It can be pickled; the
    copy names the same file and holds nothing. Its methods are the ones that dogpile.cache's file backend
    expects of a ``lock_factory``'s product.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "shared.lock")
    >>> lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path)
    >>> with lock.read():
    ...     other.acquire_read_lock(wait=False), other.acquire_write_lock(wait=False)
    (True, False)
    >>> other.release_read_lock()
    """

    def __init__(
        self, path: str | os.PathLike[str], *, timeout: float | None = None, mode: int | None = None
    ) -> None:
        self.path = absolute(path)
        self.timeout = checked_timeout(timeout)
        self.mode = mode
        # Read and written with the guard held; nobody waits while he holds it. Re-entrant, because the garbage
        # collector or a signal handler may leave a block at any moment, also while this thread is in enter():
        # so whoever comes is counted before he locks the room, and nobody unlocks it under him.
        self._guard = threading.RLock()
        self._readers: _Readers | None = None
        self._holds: dict[int, ReadHold] = {}
        self._look_at = 0.0
        # Held by this process's writer, or by the one of its threads that waits to be: the others contend here.
        self._writers = threading.Lock()
        # Read by all, written by who holds that.
        self._writing: Description | None = None
        self._writer = 0
        # In a child: how often its parent's forking thread had entered, and may be left.
        self._parents_reads = 0
        self._parents_write = False
        forget_in_child(self)

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
        hold = self._holds.get(_thread.get_ident())
        if hold is not None:
            self.leave(hold)
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
        if not wait_until(lambda: self._writers.acquire(False), self._writers.acquire, deadline):
            if not wait:
                return False
            raise self._timed_out("another writer did not leave", deadline)
        try:
            if self._enter_as_writer(deadline):
                return True
            if wait:
                raise self._timed_out("readers or a writer did not leave", deadline)
        except BaseException:
            self._writers.release()
            raise
        self._writers.release()
        return False

    def _enter_as_writer(self, deadline: Deadline) -> bool:
        while True:
            description = Description.of_lock_file(self.path, self.mode, write=True)
            try:
                if not room.enter_as_writer(description, deadline):
                    return False
                if description.is_at_its_path():
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
        if not description.is_at_its_path():
            log.warning(
                "the lock file %r was deleted or replaced while it was locked: readers may have been inside at "
                "the same time. Keep cleaners away from it.",
                self.path,
            )
        try:
            room.leave_as_writer(description)
        finally:
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
            self.leave(hold)

    @contextmanager
    def write(self, timeout: Timeout = INHERIT) -> Iterator[None]:
        """A ``with`` block as the writer; see :meth:`acquire_write_lock`."""
        self.acquire_write_lock(timeout=timeout)
        try:
            yield
        finally:
            self.release_write_lock()

    def enter(self, deadline: Deadline) -> ReadHold:
        """:meth:`acquire_read_lock`, returning what :meth:`leave` takes: from any thread. The hot path."""
        me = _thread.get_ident()
        with self._guard:
            hold = self._holds.get(me)
            if hold is not None:
                hold.depth += 1
                if hold.depth > 1:
                    return hold
            readers = self._readers
            if readers is not None:
                readers.count += 1
                if self._goes_straight_in(readers):
                    hold = self._holds[me] = ReadHold(readers, me)
                    return hold
                self._uncount(readers)
        return self._enter_slowly(me, deadline)

    def leave(self, hold: ReadHold) -> None:
        """Leave once what :meth:`enter` returned."""
        with self._guard:
            readers = hold.readers
            if readers is None:
                return
            hold.depth -= 1
            if hold.depth:
                return
            del self._holds[hold.owner]
            self._uncount(readers)

    def _uncount(self, readers: _Readers) -> None:
        readers.count -= 1
        if readers.count == 0:
            readers.room_locked = False
            flock(readers.description.fd, LOCK_UN)
            if readers is not self._readers:
                readers.description.close()

    def make_file(self) -> None:
        """Make the lock file if it is missing, for those who may not.

        :raises LockFileError: if it cannot be made.
        """
        Description.of_lock_file(self.path, self.mode).close()

    def _goes_straight_in(self, readers: _Readers) -> bool:
        """Lock the room for *readers*, of whom this thread is counted as one, if the door is open."""
        description = readers.description
        if not room.enter_while_open(description.fd, inside=readers.room_locked):
            return False
        readers.room_locked = True
        now = monotonic()
        if now < self._look_at:
            return True
        if description.is_at_its_path():
            self._look_at = now + _LOOK_EVERY
            return True
        # Deleted or replaced: those inside stay with the old file, newcomers go to the new one.
        self._readers = None
        return False

    def _enter_slowly(self, me: int, deadline: Deadline) -> ReadHold:
        inside = self.inside()
        if inside == "writer":
            raise WouldDeadlock(
                f"this thread is inside {self.path!r} as the writer and would wait for itself, for ever. "
                "Cure: leave the write block before you read."
            )
        while True:
            description = Description.of_lock_file(self.path, self.mode)
            try:
                if not room.enter_as_reader(description, deadline, by_queue=not inside):
                    raise self._timed_out("a writer did not leave", deadline)
                if description.is_at_its_path():
                    return self._admitted(description, me)
            except BaseException:
                description.close()
                raise
            description.close()

    def _admitted(self, description: Description, me: int) -> ReadHold:
        """Count this thread as a reader, whose *description* has locked the room."""
        with self._guard:
            readers = self._readers
            if readers is not None and readers.count and readers.description.identity == description.identity:
                description.close()  # this process is in the room already
            else:
                if readers is not None and not readers.count:
                    readers.description.close()
                readers = self._readers = _Readers(description)
            readers.count += 1
            hold = self._holds[me] = ReadHold(readers, me)
            return hold

    def inside(self) -> Literal["reader", "writer", ""]:
        """As what this thread is inside, through whichever object of this process; ``""`` if it is not."""
        me = _thread.get_ident()
        for lock in living(ReadWriteFileLock):
            if lock._writer == me and self._is_the_file_of(lock, lock._writing):
                return "writer"
            if self._is_the_file_of(lock, lock._description_read_by(me)):
                return "reader"
        return ""

    def _is_the_file_of(self, lock: ReadWriteFileLock, held: Description | None) -> bool:
        return held is not None and (lock is self or held.identity == identity_at(self.path))

    def _description_read_by(self, me: int) -> Description | None:
        hold = self._holds.get(me)
        return hold.readers.description if hold is not None and hold.readers is not None else None

    def _timed_out(self, what: str, deadline: Deadline) -> LockTimeout:
        return LockTimeout(
            f"{what} {self.path!r} within {deadline.timeout} s. Cure: a longer timeout, or find who is inside "
            "with fuser(1) or in /proc/locks."
        )

    def after_fork(self) -> None:
        me = _thread.get_ident()
        self._parents_reads += self._holds[me].depth if me in self._holds else 0
        self._parents_write |= self._writing is not None and self._writer == me
        for hold in self._holds.values():
            hold.readers = None
        self._holds = {}
        self._readers = None
        self._writing = None
        self._guard = threading.RLock()
        self._writers = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (self.path, self.timeout, self.mode)

    def __repr__(self) -> str:
        return f"<ReadWriteFileLock {self.path!r}>"


def _unpickled(path: str, timeout: float | None, mode: int | None) -> ReadWriteFileLock:
    return ReadWriteFileLock(path, timeout=timeout, mode=mode)
