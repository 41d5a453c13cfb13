"""How one description of a lock file gets in, as a reader or as the writer: the whole protocol.

Three locks are in the one file:

- the *flock* of the file: shared by the readers inside, exclusive for the writer inside;
- the *pending byte*, byte 0 (as SQLite's PENDING lock): locked exclusively by a writer, from before it waits for
  the flock until it leaves;
- the *waiting-readers byte*, byte 1: shared by the readers that wait for the pending byte, until they are inside.

A writer that waits for the flock also locks the byte whose number is the time since when it does. And it makes the
file a byte longer, if it is one of the package's own: a reader that has found no writer, and finds the same length
again, need not query the pending byte. It does so all the same every 10 ms, as the file may not be changeable.

While the pending byte is locked, a reader that is not inside does not take the flock: readers that keep
overlapping cannot keep a writer out. A writer that has locked the pending byte and finds readers waiting unlocks
it until they are inside: writers that follow each other cannot keep a reader out.
It does so once: readers that come meanwhile cannot make a slow writer do it again. The kernel gives back all locks
when their process dies, so there is nothing to repair.

On NFS, where a flock is a lock on all bytes of the file, readers take that one alone.
"""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from fcntl import LOCK_NB, LOCK_SH, flock

import portalocker

from .._layout import RWLOCK_SUFFIX
from .._os import byterange
from .._os.filesystem import loses_locks
from .._os.openfile import OpenFile
from .._os.waiting import NOW, Deadline, wait_until
from ..errors import LockFileError, os_errors_as
from . import holds

__all__ = [
    "NO_WRITER_PENDING",
    "QUERY_PENDING",
    "SHARED_NOW",
    "WriteHold",
    "enter_as_writer",
    "enter_past_writers",
    "enter_unless_pending",
    "is_writer_pending",
    "wait_as_reader",
    "writer_has_waited",
]

#: Bytes of the lock file. A waiting writer's time is the number of a later one.
_PENDING, _WAITING_READERS = 0, 1
#: What a reader's pass queries with F_OFD_GETLK, and the answer if no writer is inside or waits.
QUERY_PENDING = byterange.IS_EXCLUSIVELY_LOCKED[_PENDING]
NO_WRITER_PENDING = byterange.IS_FREE[_PENDING]
SHARED_NOW = LOCK_SH | LOCK_NB


class WriteHold(holds.Hold):
    """The write lock, taken once."""

    __slots__ = ()

    def unlock(self) -> None:
        # The flock first: a reader that is woken by the end of the pending byte shall find the file free.
        with suppress(portalocker.LockException):  # closing it unlocks it as well
            portalocker.unlock(self.fd)
        byterange.unlock(self.fd, _PENDING)


def enter_unless_pending(fd: int) -> bool:
    """Enter as a reader, in two system calls, unless a writer is inside or waits.

    :returns: False if there is a writer, or a call fails: then the slow way waits, or raises the error.
    """
    try:
        if byterange.is_exclusively_locked(fd, _PENDING):
            return False
        flock(fd, SHARED_NOW)
    except OSError:
        return False
    return True


def enter_past_writers(fd: int) -> bool:
    """Enter as a reader unless a writer is inside; False if one is, or the call fails."""
    try:
        flock(fd, SHARED_NOW)
    except OSError:
        return False
    return True


def is_writer_pending(open_file: OpenFile) -> bool:
    """Return whether a writer is inside or waits; False if *open_file* is closed meanwhile."""
    try:
        return byterange.is_exclusively_locked(open_file.fd, _PENDING)
    except (OSError, ValueError):  # the latter: of descriptor -1
        return False


def wait_as_reader(open_file: OpenFile, deadline: Deadline, *, behind_writers: bool) -> bool:
    """Enter as a reader through *open_file*, where :func:`enter_unless_pending` did not.

    :param behind_writers: False for a thread that is inside already through another description: it must not wait
        behind a writer that waits for it.
    :returns: False if *deadline* came first; then *open_file* must be closed.
    :raises LockFileError: if the system refuses a lock.
    """
    # On NFS a flock is a lock on all bytes: a writer that has the pending byte would wait for the reader that has
    # the other one, and waits for the first. Without them writers have no preference there.
    with os_errors_as(LockFileError, open_file.path, "lock"):
        if not behind_writers or loses_locks(open_file.fd, open_file.identity):
            return _lock_file(open_file, portalocker.LOCK_SH, deadline)
        if (
            byterange.lock_until(byterange.shared, open_file.fd, _WAITING_READERS, deadline)
            and byterange.lock_until(byterange.shared, open_file.fd, _PENDING, deadline)
            and _lock_file(open_file, portalocker.LOCK_SH, deadline)
        ):
            byterange.unlock(open_file.fd, _PENDING)
            byterange.unlock(open_file.fd, _WAITING_READERS)
            return True
    return False


def enter_as_writer(open_file: OpenFile, deadline: Deadline) -> bool:
    """Enter as the writer through *open_file*, which is open for writing.

    Lock the pending byte, then wait until no reader is inside.

    :returns: False if *deadline* came first; then *open_file* must be closed.
    :raises LockFileError: if the system refuses a lock.
    """
    fd = open_file.fd
    with os_errors_as(LockFileError, open_file.path, "lock"):
        if not byterange.lock_until(byterange.exclusive, fd, _PENDING, deadline):
            return False
        # Query with F_OFD_GETLK: taking the lock would block readers that come to wait. Another writer that waits
        # for the byte does not count.
        if byterange.is_share_locked(fd, _WAITING_READERS):
            byterange.unlock(fd, _PENDING)
            if not byterange.lock_until(byterange.exclusive, fd, _WAITING_READERS, deadline):
                return False
            byterange.unlock(fd, _WAITING_READERS)
            if not byterange.lock_until(byterange.exclusive, fd, _PENDING, deadline):
                return False
    if _lock_file(open_file, portalocker.LOCK_EX, NOW):
        return True
    if deadline.left == 0:
        return False
    since = time.monotonic_ns()
    with suppress(OSError):  # the byte only says for how long the writer has waited
        byterange.exclusive(fd, since, wait=False)
    if open_file.path.endswith(RWLOCK_SUFFIX):  # the bytes of one that a program names itself may matter
        _change_length(fd)
    if not _lock_file(open_file, portalocker.LOCK_EX, deadline):
        return False
    with suppress(OSError):
        byterange.unlock(fd, since)
    return True


def _change_length(fd: int) -> None:
    """Make the lock file a byte longer, which takes no room on the disk, if that is possible."""
    with suppress(OSError):
        st = os.fstat(fd)
        if stat.S_ISREG(st.st_mode) and st.st_nlink <= 1:  # under another name the file may be of other use
            os.ftruncate(fd, st.st_size + 1)


def writer_has_waited(open_file: OpenFile) -> float | None:
    """Return the seconds for which a writer has waited for the readers inside; ``None`` if none waits.

    A writer that waits has locked the byte whose number is the time at which it began to, on the monotonic clock
    in nanoseconds.
    """
    with os_errors_as(LockFileError, open_file.path, "look for a waiting writer at"):
        since = byterange.find_exclusive(open_file.fd, first=_WAITING_READERS + 1)
    return None if since is None else max(0.0, (time.monotonic_ns() - since) / 1e9)


def _lock_file(open_file: OpenFile, kind: portalocker.LockFlags, deadline: Deadline) -> bool:
    def attempt() -> bool:
        try:
            portalocker.lock(open_file.fd, kind | portalocker.LOCK_NB)
        except portalocker.AlreadyLocked:
            return False
        return True

    with os_errors_as(LockFileError, open_file.path, "lock"):
        try:
            return wait_until(attempt, lambda: portalocker.lock(open_file.fd, kind), deadline)
        except portalocker.LockException as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise
