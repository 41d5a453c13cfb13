"""ReadWriteFileLock: many readers or one writer, among all threads of all processes that name its file.

Promised: no reader is inside while a writer is, and the reverse; readers that keep overlapping cannot keep a
writer out, nor writers that follow each other a reader; a process that dies, or is stopped while it neither
holds nor waits, hinders nobody; a thread that is inside may enter again at any time. Not promised: that
readers who were inside when the lock file was deleted still count.

How one description gets in is told in :mod:`.room`, and how readers come by one in :mod:`.seats`.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Literal
from weakref import ref

from .._os import fork as forking
from .._os.openfile import Description
from .._os.paths import absolute, checked_mode
from .._os.waiting import INHERIT, NOW, Deadline, Timeout, checked_timeout, deadline_of, wait_until
from ..errors import LockTimeout, NotHeld, WouldDeadlock
from . import holds
from . import rw_protocol as room
from .reader_pool import ReaderSlot

__all__ = ["ReadWriteFileLock"]

log = logging.getLogger("dogpile_fs")

#: Seconds of a writer's wait in which a reader in an event loop may pass it, if another task of its thread is
#: inside.
_GRACE = 1.0
#: Seconds between two looks whether another thread has left a lock whose file was deleted.
_WHILE_THE_FILE_IS_LOST = 0.010


class _WriteHold(holds.Hold):
    """The write lock, taken once."""

    __slots__ = ()

    def give_back(self) -> None:
        try:
            forking.settle()
            if self.fd >= 0:
                room.leave_as_writer(self)
        finally:
            self.close()


class ReadWriteFileLock:
    """A shared/exclusive lock on a file, with writer preference.

    :param path: the lock file; made if it is missing, never deleted.
    :param timeout: seconds after which a wait gives up; ``None``: never.
    :param mode: permission bits of the file if it has to be made; ``None``: what the umask leaves of 0o666.

    A reader needs permission to read the file, a writer to write it. Reads nest within a thread or task; nothing
    else does. Any thread may leave a block that another has entered, and a block that is dropped is left. A forked
    child holds nothing, and may leave its parent's blocks without harm. It can be pickled; the copy names the same
    file and holds nothing. Its methods are the ones that dogpile.cache's file backend expects of a
    ``lock_factory``'s product.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "shared.lock")
    >>> lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path)
    >>> with lock.read():
    ...     other.acquire_read_lock(wait=False), other.acquire_write_lock(wait=False)
    (True, False)
    >>> other.release_read_lock()
    """

    __slots__ = ("__weakref__", "_inherited", "_reads", "_writer", "_writing", "idle", "mode", "path", "timeout")

    def __init__(
        self, path: str | os.PathLike[str], *, timeout: float | None = None, mode: int | None = None
    ) -> None:
        self.path = absolute(path)
        self.timeout = checked_timeout(timeout)
        self.mode = checked_mode(mode)
        # Open, locking nothing, for the next readers.
        self.idle: list[ReaderSlot] = []
        # What release_read_lock() gives back; made for the first acquire_read_lock().
        self._reads: list[ReaderSlot] | None = None
        # Written by the caller that has won the file; closed in a forked child, which may leave its parent's
        # block.
        self._writing: _WriteHold | None = None
        # The last that has won it, also for a block, which alone holds it.
        self._writer: ref[_WriteHold] | None = None
        # In a child: the block of its parent that it may leave is around one of its own.
        self._inherited = False

    def acquire_read_lock(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        """Enter as a reader.

        :param wait: False: one try.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :returns: True if this thread is inside; False only if *wait* is false.
        :raises LockTimeout: if a writer did not leave in time.
        :raises WouldDeadlock: if this thread is the writer.
        :raises LockFileError: if the lock file cannot be opened, made or locked.
        """
        if self._reads is None:
            with forking.once:
                self._reads = self._reads or []
        try:
            self._reads.append(self.enter(deadline_of(timeout, self.timeout) if wait else NOW))
        except (LockTimeout, WouldDeadlock):
            if wait:
                raise
            return False
        return True

    def release_read_lock(self) -> None:
        """Leave once: the block that this caller has entered last, or else one of another thread. In a forked
        child, leaving the parent's block: do nothing.

        :raises NotHeld: if nobody is inside as a reader by :meth:`acquire_read_lock` of this object.
        """
        forking.settle()
        reads, me = self._reads or [], holds.current()
        for hold in reversed(reads):
            if hold.is_held_by(me):
                break
        else:
            if not reads:
                raise NotHeld(f"the read lock {self.path!r} is not held by this object: acquire it first")
            hold = reads[-1]
        try:
            reads.remove(hold)
            hold.leave()
        except BaseException:
            hold.give_back()
            raise

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
        hold = _WriteHold(self.path)
        try:
            if not self._enter_as_writer(hold, deadline, wait=wait):
                return False
            self._inherited |= self._writing is not None and self._writing.fd < 0
            self._writing = hold
            return True
        except BaseException:
            if self._writing is hold:
                self._writing = None
            hold.give_back()
            raise

    def _enter_as_writer(self, hold: _WriteHold, deadline: Deadline, *, wait: bool) -> bool:
        forking.settle()
        if wait and (inside := self._blocking(deadline)):
            raise WouldDeadlock(
                f"this thread is inside {self.path!r} as a {inside} and would wait for itself, for ever. "
                "Cure: leave the block before you write."
            )
        while True:
            hold.open_lock_file(self.mode, write=True)
            if not room.enter_as_writer(hold, deadline) or self._is_written(deadline):
                hold.give_back()
                if wait:
                    raise self._timed_out("readers or a writer did not leave", deadline)
                return False
            if hold.is_at_its_path():
                hold.holder = holds.current()
                self._writer = ref(hold)
                return True
            hold.give_back()

    def _is_written(self, deadline: Deadline) -> bool:
        """Whether another thread is the writer by this object, which excludes it even if the file was deleted."""

        def is_free() -> bool:
            writer = None if self._writer is None else self._writer()
            return writer is None or writer.fd < 0

        def poll() -> None:
            while not is_free():
                time.sleep(_WHILE_THE_FILE_IS_LOST)

        return not wait_until(is_free, poll, deadline)

    def release_write_lock(self) -> None:
        """Cease to be the writer, from any thread. In a forked child, leaving the parent's block: do nothing.

        :raises NotHeld: if there is no writer by this object.
        """
        forking.settle()
        hold = self._writing
        if hold is None:
            if not self._inherited:
                raise NotHeld(f"the write lock {self.path!r} is not held by this object: acquire it first")
            self._inherited = False
            return
        try:
            self._writing = None
            self._leave_as_writer(hold)
        except BaseException:
            hold.give_back()  # an interrupt came first
            raise

    def _leave_as_writer(self, hold: _WriteHold) -> None:
        lost = hold.fd >= 0 and hold.lost_its_path()
        hold.give_back()
        if lost:
            log.warning(
                "the lock file %r was deleted or replaced while it was locked: readers may have been inside "
                "at the same time. Keep cleaners away from it.",
                self.path,
            )

    def acquire(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        """:meth:`acquire_write_lock`, for those who need a plain mutex (dogpile.cache's election does)."""
        return self.acquire_write_lock(wait, timeout)

    def release(self) -> None:
        """:meth:`release_write_lock`."""
        self.release_write_lock()

    def read(self, timeout: Timeout = INHERIT) -> AbstractContextManager[None]:
        """A ``with`` block inside as a reader; see :meth:`acquire_read_lock`."""
        return ReadBlock(self, timeout)

    def write(self, timeout: Timeout = INHERIT) -> AbstractContextManager[None]:
        """A ``with`` block as the writer; see :meth:`acquire_write_lock`."""
        return WriteBlock(self, timeout)

    def enter(self, deadline: Deadline) -> ReaderSlot:
        """:meth:`acquire_read_lock`, returning what is to be left: by any thread."""
        slot = self.slot()
        if slot is None:
            return self.enter_slowly(deadline)
        slot.__enter__(deadline)
        return slot.hold or slot

    def leave(self, hold: ReaderSlot) -> None:
        """Leave once what :meth:`enter` returned."""
        hold.leave()

    def slot(self) -> ReaderSlot | None:
        """A context manager whose block is a reader's, if there is an idle one."""
        try:
            slot = self.idle.pop()
        except IndexError:
            return None
        slot.lock = self
        return slot

    def make_file(self) -> None:
        """Make the lock file if it is missing, for those who may not.

        :raises LockFileError: if it cannot be made.
        """
        Description.of_lock_file(self.path, self.mode).close()

    def enter_slowly(self, deadline: Deadline) -> ReaderSlot:
        """:meth:`enter` if no slot is idle, or a writer is inside or waits."""
        forking.settle()
        me = holds.current()
        if any(holds.is_blocked_by(hold, me, deadline) for hold in holds.living(_WriteHold, self.path)):
            raise WouldDeadlock(
                f"this thread is inside {self.path!r} as the writer and would wait for itself, for ever. "
                "Cure: leave the write block before you read."
            )
        while True:
            slot = ReaderSlot.of_lock_file(self.path, self.mode)
            try:
                if not room.enter_as_reader(slot, deadline, by_queue=not self._passes_a_writer(me, slot)):
                    raise self._timed_out("a writer did not leave", deadline)
                if slot.is_at_its_path():
                    slot.holder, slot.lock, slot.passed = me, self, None
                    return slot
            except BaseException:
                slot.give_back()
                raise
            slot.give_back()

    def _passes_a_writer(self, me: holds.Holder, slot: ReaderSlot) -> bool:
        """Whether *me* need not wait behind a writer that waits: it would wait for a block of its own.

        :raises WouldDeadlock: if it is the block of another task of its thread, and the writer has waited for
            long.
        """
        inside = list(holds.living(ReaderSlot, self.path))
        if any(hold.is_held_by(me) for hold in inside):
            return True
        if not holds.is_in_event_loop() or not any(hold.is_held_in(me.thread) for hold in inside):
            return False
        waited = room.writer_has_waited(slot)
        if waited is None:
            return False
        _warn_once(self.path)
        if waited < _GRACE:
            return True
        raise WouldDeadlock(
            f"a writer has waited for {self.path!r} for {waited:.1f} s, and another task of this thread is inside "
            "as a reader: it could not leave while this one waits. Cure: inside an event loop use dogpile_fs.aio, "
            "or a thread of its own for each reader (asyncio.to_thread)."
        )

    def inside(self) -> Literal["reader", "writer", ""]:
        """As what this caller is inside, through whichever object of this process; ``""`` if it is not."""
        me = holds.current()
        if any(hold.is_held_by(me) for hold in holds.living(_WriteHold, self.path)):
            return "writer"
        return "reader" if any(hold.is_held_by(me) for hold in holds.living(ReaderSlot, self.path)) else ""

    def _blocking(self, deadline: Deadline) -> Literal["reader", "writer", ""]:
        """As what this caller, or another task of its thread, is inside, so that a writer's wait could not end."""
        me = holds.current()
        if any(holds.is_blocked_by(hold, me, deadline) for hold in holds.living(_WriteHold, self.path)):
            return "writer"
        if any(holds.is_blocked_by(hold, me, deadline) for hold in holds.living(ReaderSlot, self.path)):
            return "reader"
        return ""

    def _timed_out(self, what: str, deadline: Deadline) -> LockTimeout:
        return LockTimeout(
            f"{what} {self.path!r} within {deadline.timeout} s. Cure: a longer timeout, or find who is inside "
            "with fuser(1) or in /proc/locks."
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (self.path, self.timeout, self.mode)

    def __repr__(self) -> str:
        return f"<ReadWriteFileLock {self.path!r}>"


class ReadBlock:
    """A ``with`` block inside as a reader. Any thread may leave it, and it is left if it is dropped."""

    __slots__ = ("_hold", "_lock", "_timeout")

    def __init__(self, lock: ReadWriteFileLock, timeout: Timeout) -> None:
        self._lock = lock
        self._timeout = timeout
        self._hold: ReaderSlot | None = None

    def __enter__(self) -> None:
        self._hold = self._lock.enter(deadline_of(self._timeout, self._lock.timeout))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hold = self._hold
        assert hold is not None
        try:
            self._hold = None
            hold.leave()
        except BaseException:
            hold.give_back()
            raise


class WriteBlock:
    """A ``with`` block as the writer. Any thread may leave it, and it is left if it is dropped."""

    __slots__ = ("_hold", "_lock", "_timeout")

    def __init__(self, lock: ReadWriteFileLock, timeout: Timeout) -> None:
        self._lock = lock
        self._timeout = timeout
        self._hold: _WriteHold | None = None

    def __enter__(self) -> None:
        lock = self._lock
        hold = _WriteHold(lock.path)
        try:
            lock._enter_as_writer(hold, deadline_of(self._timeout, lock.timeout), wait=True)
            self._hold = hold
        except BaseException:
            hold.give_back()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hold = self._hold
        assert hold is not None
        try:
            self._hold = None
            self._lock._leave_as_writer(hold)
        except BaseException:
            hold.give_back()
            raise


_warned: list[str] = []


def _warn_once(path: str) -> None:
    if not _warned:
        _warned.append(path)
        log.warning(
            "readers of %r overlap among the tasks of an event loop: a synchronous block cannot wait there for a "
            "writer, so a writer waits for them for up to a second, and then tasks get WouldDeadlock. Use "
            "dogpile_fs.aio.",
            path,
        )


def _unpickled(path: str, timeout: float | None, mode: int | None) -> ReadWriteFileLock:
    return ReadWriteFileLock(path, timeout=timeout, mode=mode)
