"""Open, lock and complete the file or directory of one version.

Another user that may write the directory can replace a name at any time. So a file is opened by its own name,
never through a symbolic link, and to open a FIFO does not wait.
"""

from __future__ import annotations

import os
from fcntl import LOCK_NB, flock

from .._os import fsync, permissions
from .._os.openfile import OpenFile, above_standard, is_permitted
from .._os.permissions import Permissions
from ..errors import DatafileError, os_errors_as

__all__ = ["Vanished", "complete", "lock", "open_at_once", "open_itself", "permissions_of"]

#: Permission bits of a copy until it has those of its original: its owner's alone.
_PRIVATE = 0o600


class Vanished(Exception):
    """The version is not there any more that was there at the pass: pass again."""


def open_at_once(path: str, flags: int) -> int:
    """Open *path* without waiting, also if it is a FIFO; an *opener* of the built-in ``open``.

    :returns: a descriptor, close-on-exec and none of 0 to 2. To a regular file O_NONBLOCK means nothing.
    """
    flags |= os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, _PRIVATE)
    except PermissionError:
        if not is_permitted(path, flags):
            raise
        fd = os.open(path, flags, _PRIVATE)  # the permissions have come back since
    return above_standard(fd)


def open_itself(path: str, flags: int) -> int:
    """As :func:`open_at_once`, but refuse a symbolic link."""
    return open_at_once(path, flags | os.O_NOFOLLOW)


def lock(path: str, how: int, flags: int = 0) -> OpenFile | None:
    """Open the file or directory at *path* itself, and lock it without waiting.

    :param how: ``LOCK_SH`` or ``LOCK_EX``.
    :param flags: of ``open(2)``, in addition.
    :returns: None if another process or thread has locked it, or it is not at *path* any more.
    :raises OSError: if it cannot be opened or locked.
    """
    open_file = OpenFile(path)
    is_locked = False
    try:
        open_file.open(os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | flags)
        flock(open_file.fd, how | LOCK_NB)
        found = os.stat(path, follow_symlinks=False)  # an error is none of the answers
        is_locked = (found.st_dev, found.st_ino) == open_file.identity
    except (FileNotFoundError, BlockingIOError):
        pass
    finally:
        if not is_locked:
            open_file.close()
    return open_file if is_locked else None


def permissions_of(found: os.stat_result | None, path: str) -> Permissions | None:
    """Return the permissions that a new version takes over from what was *found* at *path*; None if nothing was.

    :raises DatafileError: if they cannot be read.
    """
    with os_errors_as(DatafileError, path, "look at the permissions of"):
        return None if found is None else permissions.of(found, path)


def complete(
    fd: int, predecessor: Permissions | None, *, durable: bool, now: os.stat_result | None = None
) -> None:
    """Give the new version *fd* the permissions of its *predecessor*, and write it to the disk if it is *durable*.

    :param now: as of :func:`.permissions.inherit`.
    :raises OSError: if the system fails.
    """
    if predecessor is not None:
        permissions.inherit(fd, predecessor, now)
    if durable:
        fsync.sync(fd)
