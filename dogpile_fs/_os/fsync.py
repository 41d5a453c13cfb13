"""Writing to the disk itself, so that a crash of the machine loses nothing: files, names, trees (fsync(2))."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from ..errors import DatafileError, as_error
from . import linux
from .openfile import above_standard, close_quietly

__all__ = ["NOT_SUPPORTED", "sync", "sync_directory", "sync_tree"]

#: The error codes of a file system that does not support the call.
NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
#: Error codes that are no errors of a disk: no such call, a sandbox that forbids it, a signal.
_NOT_DONE = (errno.ENOSYS, errno.EPERM, errno.EINTR)
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4  # SYNC_FILE_RANGE_...


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
        fd = above_standard(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        try:
            sync(fd)
        finally:
            close_quietly(fd)
    except PermissionError:
        pass  # it may be written but not read: the system has it on the disk after a while
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise as_error(kind, path, "make durable what was put into", error) from error


def sync_tree(path: str) -> None:
    """Have the directory *path* and all in it on the disk.

    :raises OSError: if a file cannot be opened, or the disk fails.
    """
    # One fsync after the other would wait for the disk, and for a commit of the journal, once per file. If all are
    # begun before the first is waited for, and written before the first is synced, one commit covers many, as
    # dpkg has it. It promises nothing by itself (sync_file_range(2): "None of these operations writes out the
    # file's metadata", and the disk's cache is not flushed), so each is synced all the same. syncfs(2) would be
    # quicker still, but waits for what all other programs have written, and fails with their errors.
    for flags in (_WRITE, _WAIT_BEFORE | _WRITE | _WAIT_AFTER):
        for directory, _, files in os.walk(path, onerror=_raise):
            _with_each(partial(_write_back, flags=flags), directory, files)
    for directory, _, files in os.walk(path, onerror=_raise):
        _with_each(sync, directory, files)
        sync_directory(directory)


def _with_each(do: Callable[[int], None], directory: str, names: Iterable[str]) -> None:
    """Call *do* with the regular files among these *names* in *directory*; nothing else is opened, or followed."""
    for name in names:
        file = os.path.join(directory, name)
        if stat.S_ISREG(os.lstat(file).st_mode):
            fd = above_standard(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))
            try:
                do(fd)
            finally:
                close_quietly(fd)


def _write_back(fd: int, flags: int) -> None:
    try:
        linux.sync_file_range(fd, flags)
    except OSError as error:
        # An error of the disk is raised at once: the kernel reports each only once, so a later fsync may not.
        if error.errno not in _NOT_DONE:
            raise


def _raise(error: OSError) -> None:
    raise error
