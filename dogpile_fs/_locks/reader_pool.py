"""The seats of a ReadWriteFileLock: through each, one thread at a time is inside as a reader.

Each thread inside has a description of the lock file to itself, and those who leave keep a few for those who come:
who meets no writer pays for three system calls, the door, in, and out. No lock of the process guards them: what
threads share is changed by operations on lists and dictionaries that none sees half done, and what an interrupted
thread drops in between is closed, and thereby unlocked.
"""

from __future__ import annotations

import _thread
from contextlib import AbstractContextManager
from fcntl import F_OFD_GETLK, LOCK_UN, fcntl, flock
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

from .._os import fork as forking
from .._os.openfile import Description
from .._os.waiting import INHERIT, Deadline, deadline_of
from .rw_protocol import DOOR_IS_OPEN, IS_DOOR_SHUT, SHARED_NOW

if TYPE_CHECKING:
    from .readwrite import ReadWriteFileLock

__all__ = ["Seat", "stays_of_threads"]

_LOOK_EVERY = 0.010
#: Descriptions that a lock keeps open while nobody is inside: so many threads may overlap and find one.
_MOST_IDLE = 4


class Seat(Description):
    """A description through which one thread at a time is in the room, and the context manager of its stay.

    Taken from its lock to be entered once. The garbage collector or a signal handler may leave a block, or enter
    and leave one, between any two lines here.
    """

    __slots__ = ("depth", "hold", "lock", "passed", "seen_with", "stays")

    #: Whose it is, while it is not idle.
    lock: ReadWriteFileLock
    #: How often its thread has entered through it, and where that is noted.
    depth: int
    stays: dict[ReadWriteFileLock, Seat]
    #: Through which the thread has entered instead, if it was inside already or this one could not be used.
    hold: Seat | None
    #: Whom to tell with which error the block ended.
    passed: AbstractContextManager[object] | None
    #: Who that was when the path was looked at last. He is another at least every 10 ms.
    seen_with: AbstractContextManager[object] | None

    def __init__(self, path: str, fd: int) -> None:
        super().__init__(path, fd)
        self.hold = self.passed = self.seen_with = None

    def __enter__(self, deadline: Deadline | None = None) -> None:
        lock = self.lock
        if lock is None:
            raise RuntimeError("this block has been left already: a context manager of a reader is entered once")
        stays = stays_of_threads.get(_thread.get_ident())
        if stays is not None and lock not in stays:
            fd = self.fd
            try:
                # As room.enter_while_open(): here, because calls cost a tenth of a pass.
                if fcntl(fd, F_OFD_GETLK, IS_DOOR_SHUT) == DOOR_IS_OPEN:
                    flock(fd, SHARED_NOW)
                    passed = self.passed
                    if (passed is not None and passed is self.seen_with) or self.is_still_at_its_path():
                        self.depth = 1
                        self.stays = stays
                        stays[lock] = self
                        return
            except (OSError, ValueError):  # the latter if a fork has closed it
                pass
            except BaseException:  # an interrupt: not to stay inside for as long as its traceback lives
                self.close()
                raise
            self.close()
        self.hold = lock.enter_slowly(deadline or deadline_of(INHERIT, lock.timeout))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        passed = self.passed
        hold = self.hold
        fd = self.fd
        if hold is None and self.depth == 1 and fd >= 0:
            # As leave(): here, because calls cost a tenth of a pass.
            self.depth = 0
            lock = self.lock
            self.stays.pop(lock, None)
            self.lock = self.passed = None  # type: ignore[assignment]
            try:
                flock(fd, LOCK_UN)
            except OSError:
                self.close()  # which gives it back as well
            except BaseException:
                self.close()
                raise
            else:
                if len(lock.idle) < _MOST_IDLE:
                    lock.idle.append(self)
                else:
                    self.close()
        else:
            (hold or self).leave()
        if error is not None and passed is not None:
            passed.__exit__(kind, error, trace)

    def leave(self) -> None:
        """Leave once. In a forked child, leaving the parent's block: do nothing."""
        fd = self.fd
        if fd < 0:
            return
        self.depth -= 1
        if self.depth:
            return
        lock = self.lock
        self.stays.pop(lock, None)
        self.lock = self.passed = None  # type: ignore[assignment]  # or it would keep its lock alive, and the lock it
        try:
            flock(fd, LOCK_UN)
        except OSError:
            self.close()  # which gives it back as well
        except BaseException:
            self.close()
            raise
        else:
            if len(lock.idle) < _MOST_IDLE:
                lock.idle.append(self)  # from now on it may be another's
            else:
                self.close()

    def is_still_at_its_path(self) -> bool:
        """If it was deleted or replaced, those inside stay with the old file, and newcomers go to the new one."""
        now = monotonic()
        if now >= self.look_at:
            if not self.is_at_its_path():
                return False
            self.look_at = now + _LOOK_EVERY
        self.seen_with = self.passed
        return True


class Stays(dict[int, "dict[ReadWriteFileLock, Seat]"]):
    """Where each thread of this process is inside as a reader. It adds to its own; whoever leaves takes away."""

    __slots__ = ("__weakref__",)

    def of_this_thread(self) -> dict[ReadWriteFileLock, Seat]:
        return self.setdefault(_thread.get_ident(), {})

    def after_fork(self) -> None:
        for lock, hold in self.of_this_thread().items():
            lock._parents_reads += hold.depth
        for stays in self.values():
            stays.clear()  # or a seat would keep its lock alive
        self.clear()


stays_of_threads = Stays()
forking.forget_in_child(stays_of_threads)
