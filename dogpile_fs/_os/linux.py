"""The system calls of Linux that Python's own modules do not have, by ctypes.

The only module that imports ctypes, and only when one of these is called: the import takes longer than that of the
rest of the package. Each function raises the call's ``OSError``: ``ENOSYS`` where the C library lacks it, or where
ctypes cannot be imported. A Python may be built without it, and a process that has given up its privileges may
not be permitted to read it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

__all__ = [
    "adopt_orphans",
    "checked",
    "exchange",
    "hole_puncher",
    "inotify_add_watch",
    "inotify_init",
    "inotify_rm_watch",
    "rename_to_free_name",
    "sync_file_range",
]

_AT_FDCWD = -100
_PR_SET_CHILD_SUBREAPER = 36
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2
#: Numbers of renameat2 by machine, for syscall(2): musl and glibc before 2.28 have no function of the name.
_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "riscv64": 276}


def exchange(one: str, other: str) -> None:
    """Let *one* and *other* change places, in one step for all readers (renameat2(2), ``RENAME_EXCHANGE``)."""
    _renameat2(one, other, _RENAME_EXCHANGE)


def rename_to_free_name(new: str, path: str) -> None:
    """Rename *new* to *path*, where nothing must be (renameat2(2), ``RENAME_NOREPLACE``)."""
    _renameat2(new, path, _RENAME_NOREPLACE)


def _renameat2(one: str, other: str, flag: int) -> None:
    arguments = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), flag)
    number = None if hasattr(_libc(), "renameat2") else _renameat2_number()
    if number is None:
        _call("renameat2", *arguments)
    else:
        _call("syscall", number, *arguments)


def _renameat2_number() -> int | None:
    """Return the call's number, if it is known: a program of 32 bits has others than its machine of 64."""
    return _RENAMEAT2.get(os.uname().machine) if sys.maxsize > 1 << 32 else None


def sync_file_range(fd: int, flags: int) -> None:
    """Begin to write the whole file *fd* to the disk, or wait for that, as *flags* say (sync_file_range(2))."""
    start = _ctypes().c_int64(0)
    _call("sync_file_range", fd, start, start, flags)


def hole_puncher(fd: int, offset: int, length: int) -> Callable[[], int]:
    """Return a function that gives so many bytes of the file *fd* back to the file system: they read as zeros then
    (fallocate(2)).

    It is one call of C code, into which no signal handler comes, and its result is for :func:`checked`.
    """
    # glibc's fallocate takes numbers of 32 bits in a program of 32 bits; musl has no other one, and takes 64.
    function = getattr(_libc(), "fallocate64", None) or getattr(_libc(), "fallocate", None)
    c_int64 = _ctypes().c_int64
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    how = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    return partial(function, fd, how, c_int64(offset), c_int64(length))


def checked(result: int) -> int:
    """Return the *result* of a call of the C library.

    :raises OSError: if it is an error's.
    """
    if result < 0:
        code = _ctypes().get_errno()
        raise OSError(code, os.strerror(code))
    return result


def inotify_init() -> int:
    """Return a new close-on-exec descriptor of inotify(7)."""
    return _call("inotify_init1", os.O_CLOEXEC)


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch *path* for the events of *mask*; returns the watch's number, the same for the same file."""
    return _call("inotify_add_watch", fd, os.fsencode(path), mask)


def adopt_orphans() -> None:
    """Become the parent of orphans among this process's descendants (prctl(2), ``PR_SET_CHILD_SUBREAPER``)."""
    _call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def inotify_rm_watch(fd: int, watch: int) -> None:
    """Watch no longer what has the number *watch*; an event of that number says so."""
    _call("inotify_rm_watch", fd, watch)


def _ctypes() -> Any:
    try:
        import ctypes
    except ImportError as error:
        raise OSError(errno.ENOSYS, f"{os.strerror(errno.ENOSYS)}: {error}") from error
    return ctypes


@cache
def _libc() -> Any:
    return _ctypes().CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> int:
    function = getattr(_libc(), name, None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return checked(function(*arguments))
