"""How one description of a lock file gets in, as a reader or as the writer: one page, the whole protocol.

Three locks live in the one file:

- the *room*: a ``flock``, shared by the readers inside, exclusive for the writer inside;
- the *door*: byte 0, locked exclusively (shut) by a writer from before he waits for the room until he leaves;
- the *queue*: byte 1, shared by the readers who wait at the door until they are in the room.

A writer that waits for the room also locks the byte whose number is the time since when it does.

A shut door lets the room run empty: readers who keep overlapping cannot keep a writer out. A writer who finds
somebody in the queue opens the door again until they are in: writers who follow each other cannot keep a
reader out. He does so once: however slow he is, those who come while he does it cannot make him do it again. The
kernel gives back all three when their process dies, so there is nothing to repair.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from fcntl import LOCK_NB, LOCK_SH, flock

import portalocker

from .._os import byterange
from .._os.openfile import Description
from .._os.waiting import Deadline, wait_until
from ..errors import LockFileError, explained, explaining

__all__ = [
    "DOOR_IS_OPEN",
    "IS_DOOR_SHUT",
    "SHARED_NOW",
    "enter_as_reader",
    "enter_as_writer",
    "enter_while_open",
    "leave_as_writer",
    "writer_has_waited",
]

_DOOR, _QUEUE = 0, 1
IS_DOOR_SHUT = byterange.IS_EXCLUSIVELY_LOCKED[_DOOR]
DOOR_IS_OPEN = byterange.IS_FREE[_DOOR]
SHARED_NOW = LOCK_SH | LOCK_NB


def enter_while_open(fd: int) -> bool:
    """Go straight into the room as a reader, in two system calls, unless the door is shut.

    :returns: False if there is a writer, or anything is wrong: then the slow way waits, or tells what.
    """
    try:
        if byterange.is_exclusively_locked(fd, _DOOR):
            return False
        flock(fd, SHARED_NOW)
    except OSError:
        return False
    return True


def enter_as_reader(description: Description, deadline: Deadline, *, by_queue: bool) -> bool:
    """Get *description* into the room as a reader.

    :param by_queue: False for a thread that is inside already through another description: it must not wait
        at the door for a writer who waits for it.
    :returns: False if *deadline* came first; then the description must be closed.
    :raises LockFileError: if the system refuses a lock.
    """
    if enter_while_open(description.fd):
        return True  # who need not wait does not queue: while the door is open, the queue only drains
    if not by_queue:
        return _lock_room(description, portalocker.LOCK_SH, deadline)
    if (
        _lock_byte(byterange.shared, description, _QUEUE, deadline)
        and _lock_byte(byterange.shared, description, _DOOR, deadline)
        and _lock_room(description, portalocker.LOCK_SH, deadline)
    ):
        _unlock_byte(description, _DOOR)
        _unlock_byte(description, _QUEUE)
        return True
    return False


def enter_as_writer(description: Description, deadline: Deadline) -> bool:
    """Get *description*, open for writing, into the room as the writer: shut the door, then wait until the room
    is empty.

    :returns: False if *deadline* came first; then the description must be closed.
    :raises LockFileError: if the system refuses a lock.
    """
    if not _lock_byte(byterange.exclusive, description, _DOOR, deadline):
        return False
    # Asked, not tried: a lock held for a moment would keep readers from joining the queue. Nor does another writer
    # who waits for its end count.
    with explaining(LockFileError, description.path, "lock"):
        is_queued = byterange.is_share_locked(description.fd, _QUEUE)
    if is_queued:
        _unlock_byte(description, _DOOR)
        if not _lock_byte(byterange.exclusive, description, _QUEUE, deadline):
            return False
        _unlock_byte(description, _QUEUE)
        if not _lock_byte(byterange.exclusive, description, _DOOR, deadline):
            return False
    since = time.monotonic_ns()
    with suppress(OSError):
        byterange.exclusive(description.fd, since, wait=False)
    if not _lock_room(description, portalocker.LOCK_EX, deadline):
        return False
    with suppress(OSError):
        byterange.unlock(description.fd, since)
    return True


def writer_has_waited(description: Description) -> float | None:
    """Seconds for which a writer has waited for the readers inside; ``None`` if none waits.

    A writer that waits has locked the byte whose number is the time at which it began to, on the monotonic clock
    in nanoseconds.
    """
    with explaining(LockFileError, description.path, "look who waits at"):
        since = byterange.find_exclusive(description.fd, first=_QUEUE + 1)
    return None if since is None else max(0.0, (time.monotonic_ns() - since) / 1e9)


def leave_as_writer(description: Description) -> None:
    """Leave the room, then open the door. The description is closed."""
    try:
        # Not by closing alone: a child between fork and exec has a copy of the descriptor.
        with suppress(OSError, portalocker.LockException):  # then by closing
            portalocker.unlock(description.fd)
            byterange.unlock(description.fd, _DOOR)
    finally:
        description.close()


def _lock_byte(lock: Callable[..., bool], description: Description, byte: int, deadline: Deadline) -> bool:
    try:
        return wait_until(
            lambda: lock(description.fd, byte, wait=False),
            lambda: lock(description.fd, byte, wait=True),
            deadline,
        )
    except OSError as error:
        raise explained(LockFileError, description.path, "lock", error) from error


def _unlock_byte(description: Description, byte: int) -> None:
    with explaining(LockFileError, description.path, "unlock"):
        byterange.unlock(description.fd, byte)


def _lock_room(description: Description, kind: portalocker.LockFlags, deadline: Deadline) -> bool:
    def attempt() -> bool:
        try:
            portalocker.lock(description.fd, kind | portalocker.LOCK_NB)
        except portalocker.AlreadyLocked:
            return False
        return True

    try:
        return wait_until(attempt, lambda: portalocker.lock(description.fd, kind), deadline)
    except portalocker.LockException as error:
        cause = error.__cause__
        if not isinstance(cause, OSError):
            raise
        raise explained(LockFileError, description.path, "lock", cause) from cause
