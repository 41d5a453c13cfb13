"""Who may do what with a file: as the next one takes it over from the one that it replaces.

Permission bits, owner, group and POSIX access control list (acl(5)). The list is not just one thing more to keep:
where there is one, the group's permission bits are its mask, the most that anybody named in it may do. Who kept
the bits alone would give them to the group.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import NamedTuple

__all__ = ["Permissions", "inherit", "of"]

_ACL = "system.posix_acl_access"
#: What is said to who may not give a file away, or, inside a user namespace, to an owner who has no name there.
_NOT_GIVEN = (errno.EPERM, errno.EACCES, errno.EINVAL)
#: What is said of a file that has no access control list, of a file system without any, or of a file that is gone.
_NO_ACL = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT)


class Permissions(NamedTuple):
    """Those of one file. *acl*: as the kernel tells it."""

    mode: int
    uid: int
    gid: int
    acl: bytes | None


def of(found: os.stat_result, where: str | int) -> Permissions:
    """The permissions of what was *found* at the path *where*, or open as the descriptor *where*.

    :raises OSError: if its access control list cannot be read.
    """
    return Permissions(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, _acl_of(where))


def inherit(fd: int, before: Permissions) -> None:
    """Give the file *fd* the permission bits and the list of the one *before*, and its owner and group where that
    is allowed.

    Set-user-ID and set-group-ID bits go with their owner or not at all. Where the group or the list cannot be
    kept, the group may do what all may do.

    :raises OSError: if the system fails.
    """
    mode, uid, gid, acl = before
    now = os.fstat(fd)
    for_group = True
    if (now.st_uid, now.st_gid) != (uid, gid):
        try:
            os.fchown(fd, uid, gid)
        except OSError as error:
            if error.errno not in _NOT_GIVEN:
                raise
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
            with suppress(OSError):
                os.fchown(fd, -1, gid)
            for_group = os.fstat(fd).st_gid == gid
    # Before the bits: or for a moment the group would have what the mask allows.
    if not (for_group and _give_acl(fd, acl)):
        _give_acl(fd, None)
        mode &= ~stat.S_IRWXG | (mode & stat.S_IRWXO) << 3
    if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
        os.fchmod(fd, mode)


def _acl_of(where: str | int) -> bytes | None:
    if not hasattr(os, "getxattr"):  # macOS, whose lists are others
        return None
    try:
        return (
            os.getxattr(where, _ACL) if isinstance(where, int) else os.getxattr(where, _ACL, follow_symlinks=False)
        )
    except OSError as error:
        if error.errno in _NO_ACL:
            return None
        raise


def _give_acl(fd: int, acl: bytes | None) -> bool:
    """Whether *fd* has this list now, or none."""
    if _acl_of(fd) == acl:
        return True
    try:
        if acl is None:
            # What was the mask becomes what the group may do.
            os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) & ~stat.S_IRWXG)
            os.removexattr(fd, _ACL)
        else:
            os.setxattr(fd, _ACL, acl)
    except OSError as error:
        if error.errno not in (*_NOT_GIVEN, *_NO_ACL):
            raise
        return False
    return True
