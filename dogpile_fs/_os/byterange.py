"""Open-file-description locks on bytes of a file: shared or exclusive, blocking or not, and queries.

They belong to the description like ``flock`` locks, are given back by the kernel when it closes, and do not
conflict with ``flock`` locks on the same file: two kinds of lock in one inode (fcntl(2), "Open file description
locks"; Linux 3.15 and later, macOS the same calls). A shared one needs a description open for reading, an
exclusive one a description open for writing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from collections.abc import Callable

from .waiting import Deadline, wait_until

__all__ = [
    "IS_EXCLUSIVELY_LOCKED",
    "IS_FREE",
    "exclusive",
    "find_exclusive",
    "is_exclusively_locked",
    "is_share_locked",
    "lock_until",
    "shared",
    "unlock",
]

if not hasattr(fcntl, "F_OFD_SETLK"):
    raise ImportError(
        "dogpile_fs needs open-file-description locks (fcntl F_OFD_SETLK: Linux 3.15 or later, macOS), "
        f"and this Python on {sys.platform} offers none"
    )


def _parsed(answer: bytes) -> tuple[int, int]:
    """Return kind and first byte of the lock in a ``struct flock``."""
    if sys.platform == "darwin":
        start, _length, _pid, kind, _whence = struct.unpack("qqihh", answer)
    else:
        kind, _whence, start, _length, _pid = struct.unpack("hhqqi4x", answer)
    return kind, start


def _request(kind: int, byte: int, length: int = 1) -> bytes:
    """Return a ``struct flock``. Its process id must be 0 for these locks."""
    if sys.platform == "darwin":  # off_t start, len; pid_t pid; short type, whence
        return struct.pack("qqihh", byte, length, 0, kind, os.SEEK_SET)
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, length, 0)


_FIRST = range(2)
#: By byte (0 or 1): the argument of ``F_OFD_GETLK`` that queries whether another description has locked it
#: exclusively, and the answer if none has. For a reader's pass; other code calls :func:`is_exclusively_locked`.
IS_EXCLUSIVELY_LOCKED = {byte: _request(fcntl.F_RDLCK, byte) for byte in _FIRST}
IS_FREE = {byte: _request(fcntl.F_UNLCK, byte) for byte in _FIRST}
_ANYWHERE = _request(fcntl.F_RDLCK, 0, 0)


def shared(fd: int, byte: int, *, wait: bool, length: int = 1) -> bool:
    """Lock *byte* of *fd*, and those after it, *length* in all, against exclusive locks; False if that would have
    to wait.
    """
    return _lock(fd, _request(fcntl.F_RDLCK, byte, length), wait)


def exclusive(fd: int, byte: int, *, wait: bool, length: int = 1) -> bool:
    """Lock *byte* of *fd*, and those after it, *length* in all, against all other locks; False if that would have
    to wait.
    """
    return _lock(fd, _request(fcntl.F_WRLCK, byte, length), wait)


def unlock(fd: int, byte: int, length: int = 1) -> None:
    """Give back the lock on *byte*, and on those after it, *length* in all; 0: to the end of all bytes."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _request(fcntl.F_UNLCK, byte, length))


def is_exclusively_locked(fd: int, byte: int) -> bool:
    """Return whether another description holds an exclusive lock on *byte* (0 or 1)."""
    return fcntl.fcntl(fd, fcntl.F_OFD_GETLK, IS_EXCLUSIVELY_LOCKED[byte]) != IS_FREE[byte]


def is_share_locked(fd: int, byte: int) -> bool:
    """Return whether another description holds a shared lock on *byte*."""
    kind, _start = _parsed(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK, byte)))
    return kind == fcntl.F_RDLCK


def find_exclusive(fd: int, first: int = 0, length: int = 0) -> int | None:
    """Return a byte, from *first* on, on which another description holds an exclusive lock, if there is any.

    :param length: how many bytes are looked at; 0: all.
    """
    answer = fcntl.fcntl(
        fd, fcntl.F_OFD_GETLK, _request(fcntl.F_RDLCK, first, length) if first or length else _ANYWHERE
    )
    kind, start = _parsed(answer)
    return None if kind == fcntl.F_UNLCK else start


def lock_until(lock: Callable[..., bool], fd: int, byte: int, deadline: Deadline) -> bool:
    """Lock *byte* of *fd* by *lock* (:func:`shared` or :func:`exclusive`); False if *deadline* came first."""
    return wait_until(lambda: lock(fd, byte, wait=False), lambda: lock(fd, byte, wait=True), deadline)


def _lock(fd: int, request: bytes, wait: bool) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN) and not wait:
            return False
        raise
    return True
