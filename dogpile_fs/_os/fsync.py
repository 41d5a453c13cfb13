"""What is on the disk itself, and so outlasts the machine: files, names, trees (fsync(2))."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache, partial

from ..errors import DatafileError, explained
from .openfile import above_standard, let_go

__all__ = ["NOT_SUPPORTED", "sync", "sync_directory", "sync_tree"]

#: What a file system says that cannot.
NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
#: What is no error of a disk: no such call, a sandbox that forbids it, a signal.
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
            let_go(fd)
    except PermissionError:
        pass  # a directory to be written but not read: what is in place is whole, and lasts when the system says
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise explained(kind, path, "make durable what was put into", error) from error


def sync_tree(path: str) -> None:
    """Have the directory *path* and all in it on the disk.

    :raises OSError: if a file cannot be opened, or the disk fails.
    """
    # One fsync after the other would wait for the disk, and for a commit of the journal, once per file. If all are
    # begun before the first is waited for, and written before the first is synced, one commit covers many, as
    # dpkg has it. It promises nothing by itself (sync_file_range(2): "None of these operations writes out the
    # file's metadata", and the disk's cache is not flushed), so each is synced all the same. syncfs(2) would be
    # quicker still, but waits for what all others have written, and fails for them.
    write_back = _sync_file_range()
    if write_back is not None:
        for flags in (_WRITE, _WAIT_BEFORE | _WRITE | _WAIT_AFTER):
            for directory, _, files in os.walk(path, onerror=_raise):
                _with_each(partial(write_back, flags=flags), directory, files)
    for directory, _, files in os.walk(path, onerror=_raise):
        _with_each(sync, directory, files)
        sync_directory(directory)


def _with_each(do: Callable[[int], None], directory: str, names: Iterable[str]) -> None:
    """*do* it with the regular files among these *names* in *directory*; nothing else is opened, or followed."""
    for name in names:
        file = os.path.join(directory, name)
        if stat.S_ISREG(os.lstat(file).st_mode):
            fd = above_standard(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK))
            try:
                do(fd)
            finally:
                let_go(fd)


@lru_cache
def _sync_file_range() -> Callable[..., None] | None:
    """The system call, for a whole file; None where there is none, which is all but Linux."""
    import ctypes  # here, because it takes long, and only who syncs a tree needs it

    try:
        call = ctypes.CDLL(None, use_errno=True).sync_file_range
    except AttributeError:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

    def write_back(fd: int, flags: int) -> None:
        if call(fd, 0, 0, flags) != 0:
            code = ctypes.get_errno()
            # The disk's errors are raised at once: the kernel tells of each only once, so a later fsync may not.
            if code not in _NOT_DONE:
                raise OSError(code, os.strerror(code))

    return write_back


def _raise(error: OSError) -> None:
    raise error
