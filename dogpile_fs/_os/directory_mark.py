"""The mark of a directory: a random name by which processes know it, wherever it is mounted or moved to.

It is an extended attribute, so that nothing is seen in a listing. Its name holds the directory's inode: one
that was copied with its attributes has a mark that is not its own, and gets another beside it. So a mark that is
there is never written again, and of several processes that mark a directory at the same moment one succeeds.
"""

from __future__ import annotations

import errno
import os

from .paths import realpath

__all__ = ["Place", "find", "known_as", "mark"]

TYPE_CHECKING = False  # `dogpile-fs run` imports this module to find a fresh file fresh
if TYPE_CHECKING:
    #: Device and inode of a directory, and its mark; "" if it has none.
    Place = tuple[int, int, str]

#: The name of the attribute, without the inode.
_PREFIX = "user.dogpile_fs.mark."
#: Hexadecimal digits of a mark.
_DIGITS = 32
#: Errors that say that there is no directory to be marked.
_NO_DIRECTORY = (errno.ENOENT, errno.ENOTDIR)


def find(directory: str) -> Place | None:
    """Return which directory *directory* leads to now; None if it cannot be looked at."""
    try:
        st = os.stat(directory)
    except OSError:
        return None
    try:
        mark = os.getxattr(directory, f"{_PREFIX}{st.st_ino}").decode("ascii", "replace")
    except (OSError, AttributeError):  # the latter: macOS
        mark = ""
    return st.st_dev, st.st_ino, mark if len(mark) == _DIGITS and mark.isalnum() else ""


def mark(directory: str) -> Place | None:
    """Return :func:`find` of *directory*, which is marked if it was not. Of several processes one marks it.

    :raises OSError: if it cannot be marked.
    """
    place = find(directory)
    if place is None or place[2]:
        return place
    try:
        os.setxattr(
            directory, f"{_PREFIX}{place[1]}", os.urandom(_DIGITS // 2).hex().encode("ascii"), os.XATTR_CREATE
        )
    except AttributeError:  # macOS
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP)) from None
    except OSError as error:
        if error.errno not in (errno.EEXIST, *_NO_DIRECTORY):  # EEXIST: another process has just made one
            raise
    found = find(directory)
    if found == place:
        raise OSError(errno.EINVAL, f"the extended attribute {_PREFIX}{place[1]} holds something else")
    return found


def known_as(directory: str, place: Place | None) -> str:
    """Return what tells the *directory*, which is at *place*, apart.

    That is its mark, by whichever mount it is reached; without one its real path, by whichever link.
    """
    return (place[2] if place else "") or realpath(directory)
