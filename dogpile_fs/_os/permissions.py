"""The permissions of a file, which the file that replaces it inherits.

Permission bits, owner, group and POSIX access control list (acl(5)). Where there is a list,
the group's permission bits are its mask: the most that any user named in it may do. To keep the bits without the
list would give them to the group.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import NamedTuple

from ..errors import UnchangeableMode

__all__ = ["REFUSED", "Permissions", "inherit", "inherit_default", "of"]

_ACL = "system.posix_acl_access"
#: The list of each file that is made in a directory.
_DEFAULT_ACL = "system.posix_acl_default"
#: Error codes for a user that may not give a file away, and for an owner that a user namespace does not map.
_NOT_GIVEN = (errno.EPERM, errno.EACCES, errno.EINVAL)
#: Error codes for a file without an access control list, a file system without them, and a file that is gone.
_NO_ACL = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT)
#: Error codes of chmod(2) on a file of this user's, if its file system (often one of FUSE) keeps no permissions.
REFUSED = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)


class Permissions(NamedTuple):
    """The permissions of one file. *acl*: the kernel's bytes."""

    mode: int
    uid: int
    gid: int
    acl: bytes | None


def of(found: os.stat_result, where: str | int) -> Permissions:
    """Return the permissions of what was *found* at the path *where*, or open as the descriptor *where*.

    :raises OSError: if its access control list cannot be read.
    """
    return Permissions(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, _acl_of(where))


def inherit(fd: int, before: Permissions, now: os.stat_result | None = None) -> None:
    """Give the file *fd* the permission bits and the list of the one *before*, and its owner and group where that
    is allowed.

    Set-user-ID and set-group-ID bits of a file go with its owner or not at all. That of a directory, by which new
    files get its group, goes with the group. Where the group or the list cannot be kept, the group may do what all
    may do.

    :param now: what ``stat`` says of the file, if that was asked a moment ago.
    :raises OSError: if the system fails.
    """
    mode, uid, gid, acl = before
    now = os.fstat(fd) if now is None else now
    for_group, is_touched = True, False
    if (now.st_uid, now.st_gid) != (uid, gid):
        is_touched = True
        try:
            os.fchown(fd, uid, gid)
        except OSError as error:
            if error.errno not in _NOT_GIVEN:
                raise
            with suppress(OSError):
                os.fchown(fd, -1, gid)
            for_group = os.fstat(fd).st_gid == gid
            mode &= ~stat.S_ISUID
            if not (for_group and stat.S_ISDIR(now.st_mode)):
                mode &= ~stat.S_ISGID
    # Before the bits: else the group would have for a moment what the mask allows.
    if not for_group or _acl_of(fd) != acl:
        is_touched = True
        if not (for_group and _give_acl(fd, acl)):
            _give_acl(fd, None)
            mode &= ~stat.S_IRWXG | (mode & stat.S_IRWXO) << 3
    has = stat.S_IMODE((os.fstat(fd) if is_touched else now).st_mode)
    if has != mode:
        try:
            os.fchmod(fd, mode)
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            text = (
                f"{error.strerror}: its file system has given it mode {has:04o} and does not make that {mode:04o}"
            )
            raise UnchangeableMode(error.errno, text) from error


def inherit_default(fd: int, directory: str) -> None:
    """Give files that are made in the directory *fd* the list that they would have in *directory*.

    :raises OSError: if the system fails.
    """
    before = _acl_of(directory, _DEFAULT_ACL)
    if _acl_of(fd, _DEFAULT_ACL) != before:
        if before is None:
            os.removexattr(fd, _DEFAULT_ACL)
        else:
            os.setxattr(fd, _DEFAULT_ACL, before)


def _acl_of(where: str | int, name: str = _ACL) -> bytes | None:
    if not hasattr(os, "getxattr"):  # macOS, whose lists are others
        return None
    try:
        return (
            os.getxattr(where, name) if isinstance(where, int) else os.getxattr(where, name, follow_symlinks=False)
        )
    except OSError as error:
        if error.errno in _NO_ACL:
            return None
        raise


def _give_acl(fd: int, acl: bytes | None) -> bool:
    """Give *fd* this list, or none; False if that is not allowed or not supported."""
    if _acl_of(fd) == acl:
        return True
    try:
        if acl is None:
            # Without the list, the mask becomes the group's permission.
            os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) & ~stat.S_IRWXG)
            os.removexattr(fd, _ACL)
        else:
            os.setxattr(fd, _ACL, acl)
    except OSError as error:
        if error.errno not in (*_NOT_GIVEN, *_NO_ACL):
            raise
        return False
    return True
