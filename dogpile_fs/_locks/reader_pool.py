"""The reader slots of a ReadWriteFileLock: through each, one caller at a time is inside as a reader.

Each block has a description of the lock file to itself, also a block inside another one of the same caller, and a
lock keeps a few for the next readers: a reader that meets no writer pays for three system calls, the question for
a pending writer, in, and out. No lock of the process guards them: what threads share is changed by operations on
lists and sets that none sees half done, and what an interrupted thread drops in between is closed, and thereby
unlocked.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from fcntl import F_OFD_GETLK, LOCK_UN, fcntl, flock
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

from .._os import fork as forking
from .._os.fork import IN_PARENT
from .._os.waiting import INHERIT, Deadline, deadline_of
from . import holds
from .rw_protocol import DOOR_IS_OPEN, IS_DOOR_SHUT, SHARED_NOW

if TYPE_CHECKING:
    from .readwrite import ReadWriteFileLock

__all__ = ["ReaderSlot"]

_LOOK_EVERY = 0.010
#: Descriptions that a lock keeps open while nobody is inside: so many blocks may overlap and find one.
_MOST_IDLE = 4


class ReaderSlot(holds.Hold):
    """A description through which one reader at a time is in the room, and the context manager of its block.

    Taken from its lock to be entered once. The garbage collector or a signal handler may leave a block, or enter
    and leave one, between any two lines here.
    """

    __slots__ = ("hold", "lock", "passed", "seen_with")

    #: The lock that it belongs to, while it is not idle.
    lock: ReadWriteFileLock
    #: The slot through which the caller has entered instead, if this one could not be used.
    hold: ReaderSlot | None
    #: The guard that is told with which error the block ended.
    passed: AbstractContextManager[object] | None
    #: The guard that it was when the path was looked at last. It is another one at least every 10 ms.
    seen_with: AbstractContextManager[object] | None

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.hold = self.passed = self.seen_with = None

    def __enter__(self, deadline: Deadline | None = None) -> None:
        lock = self.lock
        if lock is None:
            raise RuntimeError("this block has been left already: a context manager of a reader is entered once")
        fd = self.fd
        try:
            # As rw_protocol.enter_while_open(): here, because calls cost a tenth of a pass.
            if IN_PARENT[0] and fcntl(fd, F_OFD_GETLK, IS_DOOR_SHUT) == DOOR_IS_OPEN:
                flock(fd, SHARED_NOW)
                passed = self.passed
                if (passed is not None and passed is self.seen_with) or self.is_still_at_its_path():
                    self.holder = holds.current()
                    return
        except (OSError, ValueError):  # the latter if a fork has closed it
            pass
        except BaseException:  # an interrupt: not to stay inside for as long as its traceback lives
            self.give_back()
            raise
        self.give_back()
        self.hold = lock.enter_slowly(deadline or deadline_of(INHERIT, lock.timeout))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave, from any thread. In a forked child, leaving the parent's block: do nothing."""
        passed, hold, fd = self.passed, self.hold, self.fd
        lock: ReadWriteFileLock | None = None
        try:
            if hold is not None:
                hold.leave()
            elif IN_PARENT[0] and self.holder is not None and fd >= 0:
                flock(fd, LOCK_UN)
                lock = self.lock
                self.holder = self.lock = self.passed = None  # type: ignore[assignment]  # not to keep its lock alive
            else:
                self.give_back()
        except OSError:
            self.give_back()  # closing it gives it back as well
        except BaseException:
            (hold or self).give_back()
            raise
        if lock is not None:
            if len(lock.idle) < _MOST_IDLE:
                lock.idle.append(self)  # from now on it may be another reader's
            else:
                self.give_back()
        if error is not None and passed is not None:
            passed.__exit__(kind, error, trace)

    def leave(self) -> None:
        """Leave what :meth:`.ReadWriteFileLock.enter` has entered."""
        self.__exit__(None, None, None)

    def give_back(self) -> None:
        forking.settle()
        self.holder = None
        super().give_back()

    def is_still_at_its_path(self) -> bool:
        """If it was deleted or replaced, those inside stay with the old file, and newcomers go to the new one."""
        now = monotonic()
        if now >= self.look_at:
            if not self.is_at_its_path():
                return False
            self.look_at = now + _LOOK_EVERY
        self.seen_with = self.passed
        return True
