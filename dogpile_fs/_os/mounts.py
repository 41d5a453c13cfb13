"""Files and directories that are mounted by themselves, as a container mounts them: nothing can take their place.

Such a mount shows the file that was there when it was made, also after another has been swapped in elsewhere.
"""

from __future__ import annotations

import errno
import os

from ..errors import DatafileError, as_error
from .openfile import close_quietly

__all__ = ["is_unlinked", "refuse_mount_point"]

#: Bytes of the table of mounts that are read at a time: nearly always all of it.
_PIECE = 1 << 16


def refuse_mount_point(path: str) -> None:
    """Check that no file or directory is mounted at *path*, a resolved one.

    :raises DatafileError: if one is. Not where ``/proc`` does not tell: there, the swap fails.
    """
    # Of a file that is mounted from the same file system, stat(2) does not tell.
    name = os.fsencode(path)
    for character in b"\\ \t\n":
        name = name.replace(bytes([character]), b"\\%03o" % character)
    try:
        fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        try:
            mounts = b"".join(iter(lambda: os.read(fd, _PIECE), b""))
        finally:
            close_quietly(fd)
    except OSError:
        return
    # Nearly always the name is nowhere in it, and no line has to be looked at.
    if b" %b " % name in mounts and any(line.split(b" ", 5)[4] == name for line in mounts.split(b"\n") if line):
        raise as_error(DatafileError, path, "replace", OSError(errno.EBUSY, "it is a mount point"))


def is_unlinked(path: str) -> bool:
    """Return whether what is at *path* has no name any more: it is mounted there, and was replaced or removed."""
    try:
        return os.stat(path).st_nlink == 0
    except OSError:
        return False
