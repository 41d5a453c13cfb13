"""Every error that dogpile_fs raises, and how an ``OSError`` becomes one.

Each message says which path, what was expected, what was found and, where it helps, a hint.
"""

from __future__ import annotations

import errno
import os
from stat import S_ISVTX
from time import time

TYPE_CHECKING = False  # see record.py
if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeVar

    _E = TypeVar("_E", bound=OSError)

__all__ = [
    "CreationFailed",
    "DatafileError",
    "DatafileExists",
    "DogpileError",
    "ForeignFile",
    "LockFileError",
    "LockTimeout",
    "NeedRegenerationException",
    "NotHeld",
    "OriginError",
    "OriginUnfit",
    "PathError",
    "SidecarError",
    "UnchangeableMode",
    "WouldDeadlock",
]


class NeedRegenerationException(Exception):
    """Raised by *value_fn* or *value_and_created_fn*: there is no value, create one.

    Raised inside the ``with`` block it hard-invalidates the version that the block was given (unless there has
    been another creation since) and then reaches the caller, as the docstring of dogpile.core's exception of the
    same name promises; of nested blocks the innermost takes it. Not a :class:`DogpileError`: it is a signal of the
    user's code, not a failure of the lock's.
    """

    _taken = False


class DogpileError(Exception):
    """The base of every failure that dogpile_fs reports."""


class LockTimeout(DogpileError, TimeoutError):
    """A wait did not end within its *timeout*. Nothing is held that was not held before."""


class WouldDeadlock(DogpileError, RuntimeError):
    """A caller asked for a lock and would wait for itself for ever, or for others that wait for it."""


class NotHeld(DogpileError, RuntimeError):
    """A lock was released, or a block left, that is not held."""


class PathError(DogpileError, OSError):
    """The resource's path cannot be coordinated: no directory for it, or it is no file name."""


class LockFileError(DogpileError, OSError):
    """A lock file cannot be opened, made or locked. ``errno`` is the system's."""


class SidecarError(DogpileError, OSError):
    """The sidecar cannot be read or written, or was written by a newer format."""


class DatafileError(DogpileError, OSError):
    """A datafile cannot be written, put in place or read: the one before it is still there."""


class CreationFailed(DogpileError):
    """There is nothing to give, creations or a loader have failed, and it is too early for another attempt.

    *path*: of the resource; ``None`` without one. *failures*: how many creations in a row have failed or died, or
    how many calls of the loader have failed on this version. *retry_at*: epoch seconds at which the next one is
    due. *failed_type*: the name of the last error's type, or ``"died"``. *loader*: the name of the loader, where
    it was that which has failed, in this process; else ``None``. The last error is the cause, where it happened in
    this process.
    """

    def __init__(
        self, path: str | None, failures: int, retry_at: float, failed_type: str, loader: str | None = None
    ) -> None:
        self.path = path
        self.failures = failures
        self.retry_at = retry_at
        self.failed_type = failed_type
        self.loader = loader
        name = "the resource" if path is None else repr(path)
        times = "once" if failures == 1 else f"{failures} times in a row"
        if loader is None:
            what = "is not created: that has failed"
            hint = "see the log of the process that has failed; refresh(force=True) tries at once"
        else:
            what = f"is not loaded: the loader {loader} has failed on this version"
            hint = "see the log of this process; a new version is tried at once"
        super().__init__(
            f"{name} {what} {times} ({failed_type}). "
            f"The next attempt is due in {max(0.0, retry_at - time()):.1f} s. Hint: {hint}."
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.failures, self.retry_at, self.failed_type, self.loader)


class OriginError(DogpileError):
    """The origin cannot be reached, or what it has cannot be used. *url*: of the origin, without credentials."""

    def __init__(self, url: str, message: str) -> None:
        super().__init__(message)
        self.url = url

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.url, str(self))


class OriginUnfit(OriginError):
    """The origin's server ignores a condition, so that hosts cannot agree there. Nothing was put in place."""


class DatafileExists(DatafileError, FileExistsError):
    """``overwrite=False``, and there is a file already."""


class ForeignFile(PermissionError):
    """At the path of a coordination file is no regular file, and this user may not remove it.

    Its *strerror* says what is there; ``as_error`` adds the hint.
    """

    hint = (
        "let its owner or root remove it, and have these files in a directory that only the users of the resource "
        "may write (directory=)"
    )


class UnchangeableMode(OSError):
    """The file system refuses to give a new version the permission bits of the one before.

    As of a :class:`ForeignFile`, ``as_error`` adds the hint.
    """

    hint = (
        "let the creator give it that mode, call atomic_write with preserve=False, or mount the file system with "
        "permissions"
    )


_HINTS = {
    errno.EACCES: "let this user write it (chmod, chown, mode=0o666), or pass directory= "
    "with a directory that all users of the resource may write",
    errno.EROFS: "pass directory= with a directory on a writable file system",
    errno.ENOENT: "make the directory first",
    errno.ENOTDIR: "name a path whose parents are directories",
    errno.EISDIR: "move the directory away: this name belongs to dogpile_fs",
    errno.ELOOP: "remove the symbolic link that leads back to itself",
    errno.ENAMETOOLONG: "shorten the name: dogpile_fs appends up to 16 characters to it; "
    "with directory= it shortens the name itself",
    errno.EAGAIN: "find the process that holds a lease on it (/proc/locks) or keeps replacing it",
    errno.EMFILE: "raise this process's limit of open files (ulimit -n) or close some",
    errno.ENFILE: "raise the system's limit of open files (sysctl fs.file-max)",
    errno.ENOSPC: "free space on that file system, or pass directory= with another one",
    errno.EFBIG: "raise this process's limit of file sizes (ulimit -f)",
    errno.ENOLCK: "this file system gives no locks: pass directory= with a local directory",
    errno.EBADF: "on a network file system only a file that this user may write can be locked: permit it (chmod), "
    "or pass directory= with a local one; elsewhere, find which part of this program closes its descriptors",
    errno.EXDEV: "let both names be on the same file system and in the same project (lsattr -p)",
}
#: Linux's own ENOTSUPP, which some file systems let through to callers; no C library has a name or a text for it.
_ENOTSUPP = 524
#: For the datafile itself: another directory for the lock files does not help.
_DATAFILE_HINTS = {
    errno.EACCES: "let this user write the directory that it is in (chmod, chown)",
    errno.EROFS: "put the datafile on a writable file system",
    errno.EISDIR: "move the directory away, or name another path",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ENOSPC: "free space on that file system",
    errno.EBUSY: "nothing can take the place of a mount point: name a path inside of it, or mount its directory",
    errno.ENOLCK: "put the datafile on a local file system",
    errno.EBADF: "put the datafile on a local file system, or find which part of this program closes descriptors",
}
for _hints in (_HINTS, _DATAFILE_HINTS):
    _hints[errno.EPERM] = _hints[errno.EACCES]
    _hints[errno.EDQUOT] = _hints[errno.ENOSPC]
    _hints[errno.ENOSYS] = _hints[errno.EOPNOTSUPP] = _hints[_ENOTSUPP] = _hints[errno.ENOLCK]
_HINTS[errno.EINVAL] = _HINTS[errno.ENOLCK]
_READING_HINT = "let this user read it (chmod, chown), and pass through the directories above it"

#: Attributes that forbid to change, replace or remove a file (ioctl_iflags(2)).
_FORBIDDING = {0x10: "immutable", 0x20: "append-only"}
#: Error codes that a symbolic link gives which leads nowhere, or where this user may not look.
_OF_A_LINK = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.EACCES})
#: Symbolic links that are followed to the last one: as many as the kernel follows.
_MOST_LINKS = 40
#: Characters of a link's target in a message; a target may have 4,095 bytes.
_LONGEST_SHOWN = 100

#: What a process gets that may read but not write. It passes through what is stale.
NO_PERMISSION = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def _found(path: str) -> str:
    """Return the mode and owner of what is at *path* or, if there is nothing, of its directory, for messages."""
    what = "it"
    try:
        if not os.path.lexists(path):
            what, path = "its directory", os.path.dirname(path)
        st = os.lstat(path)
        directory = os.stat(os.path.dirname(path))
    except OSError as error:
        return f"{what} cannot be looked at ({error.strerror})"
    found = f"{what} has mode {st.st_mode & 0o7777:04o}, owner {st.st_uid}, group {st.st_gid}"
    if directory.st_mode & S_ISVTX and os.geteuid() not in (st.st_uid, directory.st_uid):
        found += ", and its directory is sticky: only its owner may replace it"
    return found


def _forbidding(path: str) -> str:
    """Return which attribute of what is at *path*, or of its directory, forbids to change it; "" if none does."""
    import fcntl
    import struct

    get_flags = 2 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 1  # FS_IOC_GETFLAGS
    for where in (path, os.path.dirname(path)):
        try:
            fd = os.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                (flags,) = struct.unpack_from("i", fcntl.ioctl(fd, get_flags, bytes(8)))
            finally:
                os.close(fd)
        except OSError:
            continue  # not permitted, or a file system without them
        for flag, name in _FORBIDDING.items():
            if flags & flag:
                return f"; {where!r} is {name}"
    return ""


def _link_at(path: str) -> tuple[str, str] | None:
    """Return the last of the symbolic links that *path* leads by, and where that leads; None if *path* is none."""
    last = None
    for _ in range(_MOST_LINKS):
        try:
            leads = os.readlink(path)
        except OSError:
            break
        last = path, leads
        path = os.path.join(os.path.dirname(path), leads)
    return last


def as_error(kind: type[_E], path: str, doing: str, error: OSError, *, reading: bool = False) -> _E:
    """Return *error*, which came from *doing* something to *path*, as a *kind* with its hint.

    :param reading: nothing but reading was tried.
    """
    code = error.errno or 0
    found = f"; {_found(path)}" if code in (errno.EACCES, errno.EPERM) else ""
    user = f" by user {os.geteuid()}" if found else ""
    forbidding = _forbidding(path) if code == errno.EPERM else ""
    hint = _HINTS.get(code)
    link = _link_at(path) if code in _OF_A_LINK else None
    if forbidding:
        found, hint = forbidding, "look at its attributes (lsattr -d), and take this one away (chattr -i -a)"
    elif isinstance(error, (ForeignFile, UnchangeableMode)):
        hint = error.hint
    elif reading and code in NO_PERMISSION:
        hint = _READING_HINT
    elif issubclass(kind, DatafileError):
        hint = _DATAFILE_HINTS.get(code, hint if code != errno.EINVAL else None)
    if link is not None:
        where, leads = link
        short = leads if len(leads) <= _LONGEST_SHOWN else leads[:_LONGEST_SHOWN] + "..."
        found += f"; {where!r} is a symbolic link to {short!r}"
        if code not in NO_PERMISSION:
            hint = "remove that link"
    return kind(
        code,
        f"cannot {doing} {path!r}{user}: {error.strerror}{found}" + (f". Hint: {hint}." if hint else "."),
    )


class os_errors_as:
    """A block in which an ``OSError`` of the system is raised as a *kind*, as ``as_error`` makes it."""

    __slots__ = ("doing", "kind", "path", "reading")

    def __init__(self, kind: type[OSError], path: str, doing: str, *, reading: bool = False) -> None:
        self.kind: type[OSError] = kind
        self.path: str = path
        self.doing: str = doing
        self.reading: bool = reading

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, DogpileError):
            raise as_error(self.kind, self.path, self.doing, error, reading=self.reading) from error


def without_frames(error: Exception) -> BaseException | None:
    """Return a copy of *error* that keeps no frame alive, and so no object of the user's; ``None`` if there can be
    none."""
    import copy  # here: it takes long to import

    try:
        return copy.copy(error)
    except Exception:
        return None
