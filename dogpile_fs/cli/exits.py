"""What the exit status of ``dogpile-fs`` tells. ``docs/cli.rst`` lists them for users.

Where ``sysexits.h`` has a number for it, it is that one; what timeout(1) and the shell have numbers for, theirs.
The status of a COMMAND that failed is passed on as it is, whatever it is.
"""

from __future__ import annotations

import errno
import os

from ..errors import DogpileError, LockTimeout, PathError

__all__ = ["OK", "Exit", "is_defect", "status_of", "told"]

OK = 0
STALE, NOTHING = 1, 2  # of ``status``

USAGE = os.EX_USAGE  # 64: the command line is wrong
DATAERR = os.EX_DATAERR  # 65: COMMAND made no file, or none that is finished, or --validate refused it
NOINPUT = os.EX_NOINPUT  # 66: there is nothing at PATH, or nothing to roll back to
UNAVAILABLE = os.EX_UNAVAILABLE  # 69: swapped in, but --then failed
SOFTWARE = os.EX_SOFTWARE  # 70: a defect of dogpile_fs
OSERR = os.EX_OSERR  # 71: no more processes, descriptors or locks to be had
CANTCREAT = os.EX_CANTCREAT  # 73: FILE cannot be made there
IOERR = os.EX_IOERR  # 74: a full disk or a failing one
TEMPFAIL = os.EX_TEMPFAIL  # 75: another creates and it took too long: try again later
NOPERM = os.EX_NOPERM  # 77: this user may not
CONFIG = os.EX_CONFIG  # 78: the sidecar was written by a newer dogpile_fs

TIMED_OUT = 124  # as timeout(1)
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
    errno.EOPNOTSUPP: OSERR,
    errno.EPROTO: CONFIG,
}


class Exit(Exception):
    """The work ends here, with exit *status*; *message* is for the user."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: Exception, missing: int = NOINPUT) -> int:
    """The exit status that fits *error*.

    :param missing: for a file or directory that is not there: :data:`CANTCREAT` where it was to be made.
    """
    if isinstance(error, Exit):
        return error.status
    if isinstance(error, LockTimeout):
        return TEMPFAIL
    if isinstance(error, OSError):
        if error.errno == errno.ENOENT:
            return missing
        if error.errno == errno.EINVAL and isinstance(error, PathError):
            return USAGE  # it names no file
        return _BY_ERRNO.get(error.errno or 0, IOERR)
    return SOFTWARE


def is_defect(error: Exception) -> bool:
    """Whether *error* is none that a user or a system can cause."""
    return not isinstance(error, (Exit, DogpileError, OSError))


#: What a cure says to who writes Python, and what the command calls it.
_CALLED_HERE = (
    (", mode=0o666", ""),
    ("directory=", "--directory"),
    ("with keep=1 or more", "with run --keep 1 or more"),
    ("a longer timeout, or create ahead with refresh()", "a longer --wait, or try again later"),
)


def told(error: Exception) -> str:
    """*error* as one line for the user."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        if isinstance(error, DogpileError):
            text = error.strerror  # a whole sentence that names the path
        else:
            text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    what, begins, cure = text.rpartition("Cure: ")
    if begins:
        for there, here in _CALLED_HERE:
            cure = cure.replace(there, here)
    return " ".join(f"{what}{begins}{cure}".split())
