"""Permission bits, owner and group, as the next file takes them over from the one that it replaces."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

__all__ = ["inherit"]

#: What is said to who may not give a file away, or, inside a user namespace, to an owner who has no name there.
_NOT_GIVEN = (errno.EPERM, errno.EACCES, errno.EINVAL)


def inherit(fd: int, before: os.stat_result) -> None:
    """Give the file *fd* the permission bits of the one *before*, and its owner and group where that is allowed.

    Set-user-ID and set-group-ID bits go with their owner or not at all. Where the group cannot be kept, the new
    one may do what all may do.
    """
    mode = stat.S_IMODE(before.st_mode)
    now = os.fstat(fd)
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        try:
            os.fchown(fd, before.st_uid, before.st_gid)
        except OSError as error:
            if error.errno not in _NOT_GIVEN:
                raise
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
            with suppress(OSError):
                os.fchown(fd, -1, before.st_gid)
            if os.fstat(fd).st_gid != before.st_gid:
                mode &= ~stat.S_IRWXG | (mode & stat.S_IRWXO) << 3
    if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
        os.fchmod(fd, mode)
