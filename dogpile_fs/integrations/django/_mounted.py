"""On which kind of file system a directory is, and whether other hosts may share it."""

from __future__ import annotations

import os

__all__ = ["filesystem_of", "is_shared"]

#: Those that are no program's (FUSE).
_SHARED = frozenset(
    {"9p", "prl_fs", "vboxsf", "virtiofs", "vmhgfs"}  # what a virtual machine has from its host
    | {"afs", "cifs", "coda", "nfs", "nfs4", "smb3", "smbfs"}
    | {"beegfs", "ceph", "gfs2", "gpfs", "lustre", "ocfs2", "orangefs"}
)


def is_shared(filesystem: str) -> bool:
    """Return whether other hosts may write what is on such a file system; its locks may be of one host alone.

    Of a file system in a program (FUSE) nobody knows; so it counts.

    >>> is_shared("nfs4"), is_shared("fuse.sshfs"), is_shared("ext4")
    (True, True, False)
    """
    return filesystem in _SHARED or filesystem == "fuse" or filesystem.startswith("fuse.")


def filesystem_of(directory: str) -> str | None:
    """Return the kind of file system, such as ``"ext4"``; ``None`` where ``/proc`` does not tell.

    The kernel is asked by the number of the mount and not by its path: others may be mounted over it.

    :raises OSError: if *directory* is none, or may not be reached.
    """
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}") as lines:
            number = next(line.split()[1] for line in lines if line.startswith("mnt_id:"))
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                if line.split(" ", 1)[0] == number:
                    return line.rpartition(" - ")[2].split(" ", 1)[0]
    except (OSError, StopIteration):
        pass
    finally:
        os.close(fd)
    return None
