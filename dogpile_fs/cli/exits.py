"""The exit statuses of ``dogpile-fs``. ``docs/cli.rst`` lists them for users.

The numbers are those of ``sysexits.h``, of timeout(1) and of the shell, where these have one. The status of a
COMMAND that failed is passed on unchanged.
"""

from __future__ import annotations

import errno
import os

from ..errors import CreationFailed, DogpileError, LockTimeout, OriginError, PathError

__all__ = ["OK", "Exit", "message_of", "status_of"]

OK = 0
STALE, MISSING = 1, 2  # of ``status``
WARNING, CRITICAL, UNKNOWN = 1, 2, 3  # of ``status --check``: those of monitoring plugins

USAGE = os.EX_USAGE  # 64: the command line is wrong
DATAERR = os.EX_DATAERR  # 65: COMMAND made no file or an unfinished one, or --validate refused it
NOINPUT = os.EX_NOINPUT  # 66: there is nothing at PATH, or nothing to roll back to
UNAVAILABLE = os.EX_UNAVAILABLE  # 69: the new file is in place, but --then failed; or the origin is of no use
SOFTWARE = os.EX_SOFTWARE  # 70: internal error
OSERR = os.EX_OSERR  # 71: the system has no more processes, descriptors or locks
CANTCREAT = os.EX_CANTCREAT  # 73: FILE cannot be made there
IOERR = os.EX_IOERR  # 74: a full disk or a failing one
TEMPFAIL = os.EX_TEMPFAIL  # 75: timed out, or no file and too early after a failure: try again later
NOPERM = os.EX_NOPERM  # 77: not permitted
CONFIG = os.EX_CONFIG  # 78: the sidecar was written by a newer dogpile_fs

TIMED_OUT = 124  # COMMAND took too long; as timeout(1)
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as the shell
BY_SIGNAL = 128  # and the signal's number, as the shell

_BY_ERRNO = {
    errno.EACCES: NOPERM,
    errno.EPERM: NOPERM,
    errno.EROFS: CANTCREAT,
    errno.EISDIR: CANTCREAT,
    errno.ENOTDIR: CANTCREAT,
    errno.ELOOP: CANTCREAT,
    errno.ENAMETOOLONG: CANTCREAT,
    errno.EEXIST: CANTCREAT,
    errno.ENOTEMPTY: CANTCREAT,
    errno.EXDEV: CANTCREAT,
    errno.ENXIO: CANTCREAT,
    errno.EBUSY: CANTCREAT,  # a mount point
    errno.ETXTBSY: DATAERR,  # a database that is not closed
    errno.EAGAIN: OSERR,
    errno.ENOMEM: OSERR,
    errno.EMFILE: OSERR,
    errno.ENFILE: OSERR,
    errno.EINVAL: OSERR,
    errno.ENOLCK: OSERR,
    errno.ENOSYS: OSERR,
    524: OSERR,  # Linux's own ENOTSUPP
    errno.EOPNOTSUPP: OSERR,
    errno.EPROTO: CONFIG,
}


class Exit(Exception):
    """The command ends with exit *status*; *message* is for the user.

    *failure_name*: what the record of a failed creation says in the place of an error's type. *returncode*: the
    exit status of the child that is the reason, or -n if signal n ended it; ``None`` if there is none.
    """

    def __init__(self, status: int, message: str, failure_name: str = "", returncode: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.returncode = returncode
        self.failure_name: str = failure_name or f"status {status}"


def status_of(error: Exception, missing: int = NOINPUT) -> int:
    """Return the exit status for *error*.

    :param missing: the one for a missing file or directory: :data:`CANTCREAT` where it was to be made.
    """
    if isinstance(error, Exit):
        return error.status
    if isinstance(error, LockTimeout | CreationFailed):
        return TEMPFAIL
    if isinstance(error, OriginError):
        return UNAVAILABLE
    if isinstance(error, OSError):
        if error.errno == errno.ENOENT:
            return missing
        if error.errno == errno.EINVAL and isinstance(error, PathError):
            return USAGE  # it names no file
        return _BY_ERRNO.get(error.errno or 0, IOERR)
    return SOFTWARE


#: What a hint for Python code says, and what the command line has for it.
_IN_COMMAND_LINE = (
    (", mode=0o666", ""),
    ("directory=", "--directory"),
    ("with keep=1 or more", "with run --keep 1 or more"),
    (", or pass parents=True", ""),
    ("a longer timeout, or create ahead with refresh()", "a longer --wait, or try again later"),
)


def message_of(error: Exception) -> str:
    """Return *error* as one line for the user."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror  # of ours, a whole sentence that names the path
        if error.filename is not None and not isinstance(error, DogpileError):
            text = f"{error.filename}: {text}"
    what, begins, hint = text.rpartition("Hint: ")
    if begins:
        for there, here in _IN_COMMAND_LINE:
            hint = hint.replace(there, here)
    return " ".join(f"{what}{begins}{hint}".split())
