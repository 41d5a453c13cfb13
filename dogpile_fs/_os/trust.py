"""Whether another user may have put a file or link where a swap replaces something, to lead the swap elsewhere.

In a sticky directory that all users may write (``/tmp``), the first user to make a name owns it. The kernel's own
rules, ``fs.protected_symlinks`` and ``fs.protected_regular``, are not on everywhere, and do not apply to a rename.
Here the same rules apply to what is to be replaced, and one more for root. Not seen: what the owner of a directory
changes between the check and the swap.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import cache

from ..errors import DatafileError, as_error

__all__ = ["is_untrusted", "refuse", "refuse_to_lead_root"]

_STICKY_AND_FOR_ALL = stat.S_ISVTX | stat.S_IWOTH


def is_untrusted(path: str, found: os.stat_result) -> bool:
    """Return whether *found*, which is at *path*, belongs neither to this user nor to the directory's owner, in a
    sticky directory that all users may write.
    """
    if found.st_uid == os.geteuid():
        return False
    directory = _directory_of(path)
    if directory.st_mode & _STICKY_AND_FOR_ALL != _STICKY_AND_FOR_ALL:
        return False
    # Inside a user namespace, all users that it does not map are the same user.
    return found.st_uid != directory.st_uid or found.st_uid == _unmapped_user()


def refuse(path: str, found: os.stat_result) -> None:
    """Check whether *found*, which is at *path*, may be replaced, or followed.

    :raises DatafileError: if :func:`is_untrusted`.
    """
    if is_untrusted(path, found):
        what = f" (a symbolic link to {os.readlink(path)!r})" if stat.S_ISLNK(found.st_mode) else ""
        raise DatafileError(
            errno.EACCES,
            f"{path!r}{what} belongs to user {found.st_uid}, in a directory where all users may make files: "
            "it may have been planted, and is neither followed nor replaced. Hint: remove it, or keep the "
            "resource where only its users may write.",
        )


def refuse_to_lead_root(link: str, found: os.stat_result, leads: str) -> None:
    """Check whether root may replace what the symbolic *link*, of which *found* is known, *leads* to.

    :raises DatafileError: if the link is another user's, and leads to a directory that is not that user's, and not
        the one that it is in, where that user may put another file at that name anyway.
    """
    if os.geteuid() != 0:
        return
    directory = _directory_of(leads)
    is_beside = os.path.dirname(link) == os.path.dirname(leads) and not directory.st_mode & stat.S_ISVTX
    if not is_beside and found.st_uid not in (0, directory.st_uid):
        raise DatafileError(
            errno.EACCES,
            f"{link!r} is a symbolic link of user {found.st_uid}'s to {leads!r}, in a directory of another "
            "user's: root does not follow it. Hint: name where it leads, or let root own the link (chown -h).",
        )


@cache
def _unmapped_user() -> int:
    try:
        with open("/proc/sys/kernel/overflowuid") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65534


def _directory_of(path: str) -> os.stat_result:
    try:
        return os.stat(os.path.dirname(path))
    except OSError as error:
        raise as_error(DatafileError, path, "look at the directory of", error) from error
