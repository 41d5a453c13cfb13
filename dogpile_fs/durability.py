"""What is on the disk itself, and so outlasts the machine: files, names, trees (fsync(2))."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress

from .errors import DatafileError, explained
from .lockfile import let_go

__all__ = ["sync", "sync_directory", "sync_tree"]

#: What a file system says that cannot.
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def sync(fd: int) -> None:
    """Have the file *fd* on the disk itself; else a rename may be there before the contents are (fsync(2))."""
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS, whose fsync leaves it in the drive's cache
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def sync_directory(path: str, kind: type[OSError] = DatafileError) -> None:
    """Have the names in the directory *path* on the disk (fsync(2): "explicit fsync() on a file descriptor for
    the directory is also needed").

    :raises DatafileError: if the disk fails; or another *kind* of error.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync(fd)
        finally:
            let_go(fd)
    except PermissionError:
        pass  # a directory to be written but not read: what is in place is whole, and lasts when the system says
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise explained(kind, path, "make durable what was put into", error) from error


def sync_tree(path: str) -> None:
    """Have the directory *path* and all in it on the disk.

    :raises OSError: if a file cannot be opened, or the disk fails.
    """
    for directory, _, files in os.walk(path, onerror=_raise):
        for name in files:
            file = os.path.join(directory, name)
            if stat.S_ISREG(os.lstat(file).st_mode):
                fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    sync(fd)
                finally:
                    let_go(fd)
        sync_directory(directory)


def _raise(error: OSError) -> None:
    raise error
