"""Open-file-description locks on single bytes of a file: shared or exclusive, blocking or not, and asked for.

They belong to the description like ``flock`` locks, are given back by the kernel when it closes, and are blind
to ``flock`` locks on the same file: two kinds of lock in one inode (fcntl(2), "Open file description locks";
Linux 3.15 and later, macOS the same calls). A shared one needs a description open for reading, an exclusive
one a description open for writing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys

__all__ = [
    "IS_EXCLUSIVELY_LOCKED",
    "IS_FREE",
    "exclusive",
    "find_exclusive",
    "is_exclusively_locked",
    "is_share_locked",
    "shared",
    "unlock",
]

if not hasattr(fcntl, "F_OFD_SETLK"):
    raise ImportError(
        "dogpile_fs needs open-file-description locks (fcntl F_OFD_SETLK: Linux 3.15 or later, macOS), "
        f"and this Python on {sys.platform} offers none"
    )


def _understood(answer: bytes) -> tuple[int, int]:
    """Kind and first byte of the lock that a ``struct flock`` tells of."""
    if sys.platform == "darwin":
        start, _length, _pid, kind, _whence = struct.unpack("qqihh", answer)
    else:
        kind, _whence, start, _length, _pid = struct.unpack("hhqqi4x", answer)
    return kind, start


def _request(kind: int, byte: int, length: int = 1) -> bytes:
    """A ``struct flock``. Its process id must be 0 for these locks."""
    if sys.platform == "darwin":  # off_t start, len; pid_t pid; short type, whence
        return struct.pack("qqihh", byte, length, 0, kind, os.SEEK_SET)
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, length, 0)


_FIRST = range(2)
#: By byte (0 or 1): the argument of ``F_OFD_GETLK`` that asks whether another description has locked it
#: exclusively, and the answer if none has. For a hot path; others call :func:`is_exclusively_locked`.
IS_EXCLUSIVELY_LOCKED = {byte: _request(fcntl.F_RDLCK, byte) for byte in _FIRST}
IS_FREE = {byte: _request(fcntl.F_UNLCK, byte) for byte in _FIRST}
_ANYWHERE = _request(fcntl.F_RDLCK, 0, 0)


def shared(fd: int, byte: int, *, wait: bool) -> bool:
    """Lock *byte* of *fd* against exclusive locks; False if that would have to wait."""
    return _lock(fd, _request(fcntl.F_RDLCK, byte), wait)


def exclusive(fd: int, byte: int, *, wait: bool) -> bool:
    """Lock *byte* of *fd* against all other locks; False if that would have to wait."""
    return _lock(fd, _request(fcntl.F_WRLCK, byte), wait)


def unlock(fd: int, byte: int) -> None:
    """Give back the lock on *byte*."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _request(fcntl.F_UNLCK, byte))


def is_exclusively_locked(fd: int, byte: int) -> bool:
    """Whether another description holds an exclusive lock on *byte* (0 or 1)."""
    return fcntl.fcntl(fd, fcntl.F_OFD_GETLK, IS_EXCLUSIVELY_LOCKED[byte]) != IS_FREE[byte]


def is_share_locked(fd: int, byte: int) -> bool:
    """Whether another description holds a shared lock on *byte*."""
    kind, _start = _understood(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK, byte)))
    return kind == fcntl.F_RDLCK


def find_exclusive(fd: int, first: int = 0) -> int | None:
    """A byte, from *first* on, on which another description holds an exclusive lock, if there is any."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _request(fcntl.F_RDLCK, first, 0) if first else _ANYWHERE)
    kind, start = _understood(answer)
    return None if kind == fcntl.F_UNLCK else start


def _lock(fd: int, request: bytes, wait: bool) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN) and not wait:
            return False
        raise
    return True
