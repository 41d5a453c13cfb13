"""What another user may have planted where a swap replaces something, to lead it elsewhere or to keep hold of it.

In a sticky directory that everybody may write (``/tmp``), whoever comes first has the name. The kernel's own
rules, ``fs.protected_symlinks`` and ``fs.protected_regular``, are not on everywhere, and do not go for a rename.
Here the same rules go for what is to be replaced, and one more for root. Not seen: what the owner of a directory
changes between the look and the deed.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import cache

from ..errors import DatafileError, explained

__all__ = ["is_planted", "refuse", "refuse_to_lead_root"]

_STICKY_AND_FOR_ALL = stat.S_ISVTX | stat.S_IWOTH


def is_planted(path: str, found: os.stat_result) -> bool:
    """Whether *found*, which is at *path*, may be planted: it is neither this user's nor the directory's owner's,
    and everybody may write the directory, which is sticky.
    """
    directory = _directory_of(path)
    if directory.st_mode & _STICKY_AND_FOR_ALL != _STICKY_AND_FOR_ALL or found.st_uid == os.geteuid():
        return False
    # Inside a user namespace, all who have no name there are the same user.
    return found.st_uid != directory.st_uid or found.st_uid == _nobody_in_particular()


def refuse(path: str, found: os.stat_result) -> None:
    """Look whether *found*, which is at *path*, may be replaced, or followed.

    :raises DatafileError: if it may be planted.
    """
    if is_planted(path, found):
        what = f" (a symbolic link to {os.readlink(path)!r})" if stat.S_ISLNK(found.st_mode) else ""
        raise DatafileError(
            errno.EACCES,
            f"{path!r}{what} belongs to user {found.st_uid}, in a directory where everybody may make files: "
            "it may have been planted, and is neither followed nor replaced. Cure: remove it, or keep the "
            "resource where only its users may write.",
        )


def refuse_to_lead_root(link: str, found: os.stat_result, leads: str) -> None:
    """Look whether root may replace what the symbolic *link*, of which *found* is known, *leads* to.

    :raises DatafileError: if the link is another user's, and leads to a directory that is not his own, and not the
        one that it is in, where he may put another file at that name anyway.
    """
    if os.geteuid() != 0:
        return
    directory = _directory_of(leads)
    is_beside = os.path.dirname(link) == os.path.dirname(leads) and not directory.st_mode & stat.S_ISVTX
    if not is_beside and found.st_uid not in (0, directory.st_uid):
        raise DatafileError(
            errno.EACCES,
            f"{link!r} is a symbolic link of user {found.st_uid}'s to {leads!r}, in a directory that is not his: "
            "root does not follow it. Cure: name where it leads, or let root own the link (chown -h).",
        )


@cache
def _nobody_in_particular() -> int:
    try:
        with open("/proc/sys/kernel/overflowuid") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65534


def _directory_of(path: str) -> os.stat_result:
    try:
        return os.stat(os.path.dirname(path))
    except OSError as error:
        raise explained(DatafileError, path, "look at the directory of", error) from error
