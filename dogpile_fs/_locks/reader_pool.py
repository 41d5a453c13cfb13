"""The reader slots of a ReadWriteFileLock: through each, one caller at a time is inside as a reader.

Each block has a description of the lock file to itself, also a block inside another one of the same caller, and a
pool keeps a few for the next readers: a reader that meets no writer pays for three system calls, the query for
a pending writer, in, and out. No lock of the process guards them: what threads share is changed by operations on
lists and sets that no thread sees half done, and what an interrupted thread drops in between is closed, and so
unlocked.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from fcntl import F_OFD_GETLK, LOCK_UN, fcntl, flock
from functools import partial
from os import SEEK_END, fstat, lseek, lstat, stat_result
from time import monotonic
from types import TracebackType
from typing import Protocol

from .._os import fork, kept_open
from .._os.fork import IN_PARENT
from .._os.paths import absolute, checked_mode
from .._os.waiting import INHERIT, Deadline, checked_timeout, deadline_of
from ..errors import WouldDeadlock
from . import holds, rw_protocol
from .base import ReadWriteBase, Side
from .rw_protocol import NO_WRITER_PENDING, QUERY_PENDING, SHARED_NOW, WriteHold

__all__ = ["ReaderPool", "ReaderSlot"]

log = logging.getLogger("dogpile_fs")

#: Seconds between two looks whether a slot's file still is at its path. For so long readers may go on in a lock
#: file that was replaced; a look at every pass would be a fourth system call.
_LOOK_EVERY = 0.010
#: Descriptions that a pool keeps open while no reader is inside: so many blocks may overlap and find one.
_MOST_IDLE = 4
#: Seconds of a writer's wait in which a reader in an event loop may pass it, if another task of its thread is
#: inside.
_GRACE = 1.0


class Guard(Protocol):
    """What a reader has passed with: by the sidecar, as it was looked at last at the wall-clock time *since*."""

    since: float

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> object: ...


class ReaderSlot(holds.Hold):
    """A description through which one reader at a time is inside, and the context manager of its block.

    Taken from its pool to be entered once. The garbage collector or a signal handler may leave a block, or enter
    and leave one, between any two lines here.
    """

    __slots__ = ("checked_at", "guard", "hold", "length", "pool")

    #: The pool that it belongs to, while it is not idle.
    pool: ReaderPool
    #: The slot through which the caller has entered instead, if this one could not be used.
    hold: ReaderSlot | None
    #: The guard whose ``__exit__`` gets the error with which the block ended.
    guard: Guard | None
    #: ``since`` of the guard when the path was looked at last. It is another time at least every 10 ms.
    checked_at: float
    #: The length of the file when its pending byte was queried last: while it is the same, no writer waits. For
    #: slots with a guard, whose file is the package's own.
    length: int

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.length = -1
        self.hold = self.guard = None
        self.checked_at = math.inf

    def __enter__(self, deadline: Deadline | None = None) -> None:
        pool = self.pool
        if pool is None:
            raise RuntimeError("this block has been left already: a context manager of a reader is entered once")
        fd = self.fd
        try:
            if IN_PARENT[0]:
                guard = self.guard
                if guard is not None and guard.since == self.checked_at and lseek(fd, 0, SEEK_END) == self.length:
                    flock(fd, SHARED_NOW)
                    self.holder = holds.current()
                    return
                # As rw_protocol.enter_unless_pending(): here, because calls cost a tenth of a pass.
                # The length first, so that a writer between the two calls is noticed. Not by lseek: the descriptor
                # may be another file's by now, whose position is to stay.
                opened = fstat(fd)
                checked_at = math.inf if guard is None else guard.since
                if fcntl(fd, F_OFD_GETLK, QUERY_PENDING) == NO_WRITER_PENDING:
                    flock(fd, SHARED_NOW)
                    if self.is_still_at_its_path(opened):
                        self.length, self.checked_at = opened.st_size, checked_at
                        self.holder = holds.current()
                        return
        except (OSError, ValueError):  # the latter if a fork has closed it
            pass
        except BaseException:  # an interrupt: not to stay inside for as long as its traceback lives
            self.give_back()
            raise
        self.give_back()
        self.hold = pool._enter_slowly(deadline or deadline_of(INHERIT, pool.timeout))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave, from any thread. In a forked child, leaving the parent's block: do nothing."""
        guard, hold, fd = self.guard, self.hold, self.fd
        pool: ReaderPool | None = None
        try:
            if hold is not None:
                hold.__exit__(None, None, None)
            elif IN_PARENT[0] and self.holder is not None and fd >= 0:
                flock(fd, LOCK_UN)
                pool = self.pool
                self.holder = self.pool = self.guard = None  # type: ignore[assignment]  # an idle slot keeps no pool alive
            else:
                self.give_back()
        except OSError:
            self.give_back()  # closing it gives it back as well
        except BaseException:
            (hold or self).give_back()
            raise
        if pool is not None:
            if len(pool._idle) < _MOST_IDLE:
                pool._idle.append(self)  # from now on it may be another reader's
            else:
                self.give_back()
        if error is not None and guard is not None:
            guard.__exit__(kind, error, trace)

    def is_still_at_its_path(self, opened: stat_result | None = None) -> bool:
        """Return whether the file is at its path, as of a look at most 10 ms ago.

        If it was deleted or replaced, readers inside stay with the old file, and later ones go to the new one.

        :param opened: its ``fstat``, if that is known.
        """
        now = monotonic()
        if now >= self.check_path_at:
            try:
                found, own = lstat(self.pool.path), opened or fstat(self.fd)
            except OSError:
                return False
            if found.st_ino != own.st_ino or found.st_dev != own.st_dev:
                return False
            self.check_path_at = now + _LOOK_EVERY
        return True


class ReaderPool(ReadWriteBase[ReaderSlot, WriteHold]):
    """The readers' half of a :class:`.ReadWriteFileLock`: its idle slots, its timeout, and the slow way in."""

    __slots__ = ("_idle", "_mode", "path")

    def __init__(
        self, path: str | os.PathLike[str], *, timeout: float | None = None, mode: int | None = None
    ) -> None:
        self.path: str = absolute(path)
        super().__init__(checked_timeout(timeout))
        self._mode = checked_mode(mode)
        # Open, locking nothing, for the next readers.
        self._idle: list[ReaderSlot] = []

    @property
    def _name(self) -> str:
        return f"the read/write lock {self.path!r}"

    @property
    def _path(self) -> str:  # type: ignore[override]
        return self.path

    def _holds_inside(self) -> Iterator[tuple[Side, holds.Hold]]:
        for writer in holds.living(WriteHold, self.path):
            yield "writer", writer
        for reader in holds.living(ReaderSlot, self.path):
            yield "reader", reader

    def _enter(self, deadline: Deadline) -> ReaderSlot:
        """Enter as a reader and return what is to be left, by any thread."""
        try:
            slot = self._idle.pop()
        except IndexError:
            return self._enter_slowly(deadline)
        slot.pool = self
        slot.__enter__(deadline)
        return slot.hold or slot

    def _enter_now(self, *, behind_writers: bool) -> ReaderSlot | None:
        """Enter as a reader if that is possible without waiting.

        :param behind_writers: False for a caller that is inside already, or has waited for the writers before it.
        :raises LockFileError: if the lock file cannot be opened or made.
        """
        fork.settle()
        while True:
            try:
                slot = self._idle.pop()
            except IndexError:
                slot = ReaderSlot.of_lock_file(self.path, self._mode)
                kept_open.has_opened()
            if slot.fd < 0:
                continue  # closed by a fork
            try:
                slot.pool, slot.guard = self, None
                is_inside = rw_protocol.enter_unless_pending(slot.fd) or (
                    not behind_writers and rw_protocol.enter_past_writers(slot.fd)
                )
                if is_inside and slot.is_still_at_its_path():
                    slot.holder = holds.current()
                    return slot
            except BaseException:
                slot.give_back()
                raise
            slot.give_back()
            if not is_inside:
                return None

    def _leave(self, hold: ReaderSlot) -> None:
        """Leave once what :meth:`_enter` returned."""
        hold.__exit__(None, None, None)

    def _let_go(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop().close()  # what was popped is no other caller's

    def _enter_slowly(self, deadline: Deadline) -> ReaderSlot:
        """Do what :meth:`_enter` does, if no slot is idle, or a writer is inside or waits.

        :raises LockTimeout: if *deadline* came first.
        :raises WouldDeadlock: if the caller would wait for itself, or for another task of its thread.
        :raises LockFileError: if the lock file cannot be opened, made or locked.
        """
        fork.settle()
        self._refuse_to_wait_for_oneself(deadline, to_write=False)
        me = holds.current()
        while True:
            slot = ReaderSlot.of_lock_file(self.path, self._mode)
            kept_open.has_opened()
            try:
                if not rw_protocol.enter_unless_pending(slot.fd):
                    behind = not self._passes_pending_writer(me, slot)
                    is_kept_out = partial(rw_protocol.is_writer_pending, slot) if behind else bool
                    with self._waiting("read", is_kept_out, deadline) as wait:
                        if not rw_protocol.wait_as_reader(slot, wait.deadline, behind_writers=behind):
                            raise self._timed_out("a writer", wait)
                if slot.is_at_its_path():
                    slot.holder, slot.pool, slot.guard = me, self, None
                    return slot
            except BaseException:
                slot.give_back()
                raise
            slot.give_back()

    def _passes_pending_writer(self, me: holds.Holder, slot: ReaderSlot) -> bool:
        """Return whether *me* need not wait behind a writer that waits: it would wait for a block of its own.

        :raises WouldDeadlock: if it is the block of another task of its thread, and the writer has waited for
            longer than :data:`_GRACE`.
        """
        inside = list(holds.living(ReaderSlot, self.path))
        if any(hold.is_held_by(me) for hold in inside):
            return True
        threads = [hold.holder.thread for hold in inside if hold.holder is not None]
        if me.thread not in threads or not holds.is_in_event_loop():
            return False
        waited = rw_protocol.writer_has_waited(slot)
        if waited is None:
            return True  # no writer is inside beside a reader: one has just begun to wait, or has just given up
        _warn_once(self.path)
        if waited < _GRACE:
            return True
        raise WouldDeadlock(
            f"a writer has waited for {self.path!r} for {waited:.1f} s, and another task of this thread is inside "
            "as a reader: it could not leave while this one waits. Hint: inside an event loop use dogpile_fs.aio, "
            "or a thread of its own for each reader (asyncio.to_thread)."
        )


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
