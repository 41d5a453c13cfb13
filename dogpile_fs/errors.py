"""Every error that dogpile_fs raises, and how an ``OSError`` is told as one.

Each message says which path, what was expected, what was found and what to do about it.
"""

from __future__ import annotations

import errno
import os
from stat import S_ISVTX

TYPE_CHECKING = False  # see record.py
if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeVar

    _E = TypeVar("_E", bound=OSError)

__all__ = [
    "DatafileError",
    "DatafileExists",
    "DogpileError",
    "Foreign",
    "LockFileError",
    "LockTimeout",
    "NeedRegenerationException",
    "NotHeld",
    "PathError",
    "SidecarError",
    "WouldDeadlock",
]


class NeedRegenerationException(Exception):
    """Raised by *value_fn* or *value_and_created_fn*: there is no value, create one.

    Raised inside the ``with`` block it hard-invalidates what was passed through to (unless somebody
    has created anew since) and then reaches the caller, as the docstring of dogpile.core's exception of
    the same name promises; of nested blocks the innermost takes it. Not a :class:`DogpileError`: it is a
    signal of the user's code, not a failure of the lock's.
    """

    taken = False


class DogpileError(Exception):
    """The base of every failure that dogpile_fs reports."""


class LockTimeout(DogpileError, TimeoutError):
    """A wait did not end within its *timeout*. Nothing is held that was not held before."""


class WouldDeadlock(DogpileError, RuntimeError):
    """A thread asked for what only itself can give back; it would wait for itself for ever."""


class NotHeld(DogpileError, RuntimeError):
    """Somebody released what he does not hold."""


class PathError(DogpileError, OSError):
    """The resource's path cannot be coordinated: no directory for it, or it is no file name."""


class LockFileError(DogpileError, OSError):
    """A lock file cannot be opened, made or locked. ``errno`` is the system's."""


class SidecarError(DogpileError, OSError):
    """The sidecar cannot be read or written, or was written by a newer format."""


class DatafileError(DogpileError, OSError):
    """A datafile cannot be written, put in place or read: the one before it is still there."""


class DatafileExists(DatafileError, FileExistsError):
    """``overwrite=False``, and there is a file already."""


class Foreign(PermissionError):
    """Something is where a file of ours belongs that is none, and that this user may not remove.

    Its *strerror* names what it is; :func:`explained` knows the cure.
    """

    cure = (
        "let its owner or root remove it, and have these files where none but the users of the resource may make "
        "any (directory=)"
    )


_CURES = {
    errno.EACCES: "let this user write it (chmod, chown, mode=0o666), or pass directory= "
    "with a directory that all users of the resource may write",
    errno.EROFS: "pass directory= with a directory on a writable file system",
    errno.ENOENT: "make the directory first",
    errno.ENOTDIR: "name a path whose parents are directories",
    errno.EISDIR: "move the directory away: this name belongs to dogpile_fs",
    errno.ELOOP: "remove the symbolic link that leads back to itself",
    errno.ENAMETOOLONG: "shorten the name: dogpile_fs appends up to 15 characters to it; "
    "with directory= it shortens the name itself",
    errno.EAGAIN: "find who holds a lease on it (/proc/locks) or keeps replacing it",
    errno.EMFILE: "raise this process's limit of open files (ulimit -n) or close some",
    errno.ENFILE: "raise the system's limit of open files (sysctl fs.file-max)",
    errno.ENOSPC: "free space on that file system, or pass directory= with another one",
    errno.EFBIG: "raise this process's limit of file sizes (ulimit -f)",
    errno.ENOLCK: "this file system gives no locks: pass directory= with a local directory",
}
#: Where it is the datafile itself that cannot be written, another directory for the lock files does not help.
_DATAFILE_CURES = {
    errno.EACCES: "let this user write the directory that it is in (chmod, chown)",
    errno.EROFS: "put the datafile on a writable file system",
    errno.EISDIR: "move the directory away, or name another path",
    errno.ENAMETOOLONG: "shorten the name",
    errno.ENOSPC: "free space on that file system",
    errno.EBUSY: "nothing can take the place of a mount point: name a path inside of it, or mount its directory",
    errno.ENOLCK: "put the datafile on a local file system",
}
_CURES[errno.EPERM] = _CURES[errno.EACCES]
_CURES[errno.EDQUOT] = _CURES[errno.ENOSPC]
_CURES[errno.ENOSYS] = _CURES[errno.EOPNOTSUPP] = _CURES[errno.EINVAL] = _CURES[errno.ENOLCK]
_DATAFILE_CURES[errno.EPERM] = _DATAFILE_CURES[errno.EACCES]
_DATAFILE_CURES[errno.EDQUOT] = _DATAFILE_CURES[errno.ENOSPC]
_DATAFILE_CURES[errno.ENOSYS] = _DATAFILE_CURES[errno.EOPNOTSUPP] = _DATAFILE_CURES[errno.ENOLCK]
_READING_CURE = "let this user read it (chmod, chown), and pass through the directories above it"

#: What a process meets that may read but not write; it goes on with what there is.
NO_PERMISSION = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def _found(path: str) -> str:
    """Who owns what is at *path* or, if there is nothing, its directory: for messages about permissions."""
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


def explained(kind: type[_E], path: str, doing: str, error: OSError, *, reading: bool = False) -> _E:
    """Tell *error*, met while *doing* something to *path*, as a *kind* with its cure.

    :param reading: to read was all that was tried.
    """
    code = error.errno or 0
    found = f"; {_found(path)}" if code in (errno.EACCES, errno.EPERM) else ""
    who = f" by user {os.geteuid()}" if found else ""
    cure = _CURES.get(code)
    if isinstance(error, Foreign):
        cure = error.cure
    elif reading and code in NO_PERMISSION:
        cure = _READING_CURE
    elif issubclass(kind, DatafileError):
        cure = _DATAFILE_CURES.get(code, cure if code != errno.EINVAL else None)
    return kind(
        code,
        f"cannot {doing} {path!r}{who}: {error.strerror}{found}" + (f". Cure: {cure}." if cure else "."),
    )


class explaining:
    """A block in which an ``OSError`` that is none of ours yet is told as a *kind*, as :func:`explained` does."""

    __slots__ = ("doing", "kind", "path", "reading")

    def __init__(self, kind: type[OSError], path: str, doing: str, *, reading: bool = False) -> None:
        self.kind = kind
        self.path = path
        self.doing = doing
        self.reading = reading

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, DogpileError):
            raise explained(self.kind, self.path, self.doing, error, reading=self.reading) from error
