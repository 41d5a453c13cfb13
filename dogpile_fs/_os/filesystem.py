"""Which kind of file system a file is on, and what is asked of its server there.

A client of NFS answers many calls by itself, from what it has kept. Some questions must reach the server.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from contextlib import suppress

__all__ = [
    "DELEGATES",
    "has_local_directory_locks",
    "is_on_disk",
    "kind_of",
    "look_anew",
    "loses_locks",
    "read_from_server",
]

#: Kinds that refuse a lease as if a process had the file open, when the server has not delegated the file.
DELEGATES = frozenset({"nfs", "nfs4", "cifs", "smb3"})
#: Kinds whose server gives the locks of a host to others when it has not heard of that host for long.
_LOSES_LOCKS = frozenset({"nfs", "nfs4"})
#: The answers of :func:`loses_locks`, by device and inode, and how many are kept: a file stays where it is.
_known: dict[tuple[int, int], bool] = {}
_MOST_KNOWN = 1024


def is_on_disk(found: os.stat_result) -> bool:
    """Return whether a file is on a device of this host; False also for a tmpfs and the like."""
    return os.major(found.st_dev) != 0


def look_anew(file: str, *directories: str) -> None:
    """Have the next reads of *file*, and of the names in *directories*, show what other hosts have changed there.

    On NFS, the system may answer a read with what was there seconds ago, also that a name is missing. To open a
    file or a directory asks the server: what is in the file, and what each name in the directory means. Where
    *file* is on a disk of this host, that is not done.

    :param directories: one that may have been missing comes after the one that it is in.
    """
    with suppress(OSError):
        if is_on_disk(os.stat(os.path.dirname(file))):
            return
    for path in dict.fromkeys((os.path.dirname(file), *directories, file)):
        with suppress(OSError):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))


def loses_locks(fd: int, identity: tuple[int, int]) -> bool:
    """Return whether a server may give the locks on the file *fd* to others.

    :param identity: its device and its inode.
    """
    if os.major(identity[0]):
        return False
    known = _known.get(identity)
    if known is None:
        kind = kind_of(fd)
        known = kind in _LOSES_LOCKS
        if kind is not None:  # else it is asked again: for want of a descriptor, perhaps
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[identity] = known
    return known


def has_local_directory_locks(fd: int, identity: tuple[int, int]) -> bool:
    """Return whether other hosts may use the directory *fd*, and see no lock on it: NFS has none for directories.

    :param identity: its device and its inode.
    """
    return loses_locks(fd, (identity[0], 0))  # one answer for all directories of a device, as they come and go


def kind_of(fd: int) -> str | None:
    """Return the kind of file system that the file *fd* is on, such as ``"nfs4"``.

    None where ``/proc`` does not tell.
    """
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as lines:
            (mount,) = (line.split()[1] for line in lines if line.startswith(b"mnt_id:"))
        with open("/proc/self/mountinfo", "rb") as lines:
            (line,) = (line for line in lines if line.startswith(mount + b" "))
    except (OSError, ValueError):
        return None
    return line.rpartition(b" - ")[2].split(b" ", 1)[0].decode()


def read_from_server(fd: int) -> None:
    """Read from the file *fd*, past all that this host has kept of it: also where it is known to be empty.

    :raises OSError: ``EIO`` if a lock that *fd* had is lost; ``EINVAL`` where a file system has no such reads.
    """
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
    try:
        with mmap.mmap(-1, mmap.PAGESIZE) as page:  # such reads need an aligned buffer
            os.preadv(fd, [page], 0)
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
