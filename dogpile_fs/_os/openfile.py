"""Coordination files as the system sees them: opened with care, locked through their own description.

Nothing here waits for another process or knows what a lock is for. What is promised:

- Only regular files are opened, and never through a symbolic link. Whatever else bears the name is removed
  (a directory excepted: that is an error), so that a foreign hand cannot lead a write elsewhere. Who may not
  remove it is told what it is.
- A description knows whether it still is the file at its path. A lock on a file that was deleted or replaced
  excludes nobody who comes later; whoever has won one must ask.
- A forked child closes its copies without unlocking them.

Lock files are never deleted here: that would split their users over two inodes.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from typing import Self, TypeVar

from ..errors import NO_PERMISSION, Foreign, LockFileError, explained
from . import fork as forking

__all__ = ["Description", "identity_at", "let_go", "open_regular"]

log = logging.getLogger("dogpile_fs")

# O_NONBLOCK: opening a FIFO or a leased file must not wait. O_NOCTTY: nor must a terminal become ours.
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_ATTEMPTS = 100
_WHILE_ANOTHER_REMOVES = 0.001
#: So many seconds whoever removes what is foreign may be stopped in the middle, or locks the directory for ends of
#: his own.
_PATIENCE = 5.0
_WHILE_A_LEASE_IS_BROKEN = 0.001
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


_D = TypeVar("_D", bound="Description")


class Description:
    """An open file description of a regular file, closed when it is dropped.

    The unit that ``flock`` and open-file-description locks belong to: two descriptions of one file exclude
    each other, in one process as in two.
    """

    __slots__ = ("__weakref__", "fd", "look_at", "path")

    def __init__(self, path: str, fd: int) -> None:
        """Own *fd*; the caller holds :data:`forking.opening` since before he opened it."""
        self.path = path
        self.fd = fd
        #: When who keeps it asks next whether it still is at its path, on the monotonic clock.
        self.look_at = 0.0
        forking.forget_in_child(self)

    @classmethod
    def of_lock_file(cls, path: str, mode: int | None = None, *, create: bool = True, write: bool = False) -> Self:
        """A new description of the lock file at *path*, made if it is missing and *create* is true.

        Opened for writing where permitted, else for reading only unless *write* is true: ``flock`` is content
        with either.

        :raises FileNotFoundError: if it is missing and *create* is false.
        :raises LockFileError: if it cannot be opened.
        """
        try:
            return open_regular(cls, path, os.O_RDWR, mode, create=create, or_read_only=not write)
        except FileNotFoundError as error:
            if create:
                raise explained(LockFileError, path, "make the lock file", error) from error
            raise
        except OSError as error:
            raise explained(LockFileError, path, "open the lock file", error) from error

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode. Asked for when needed, because many descriptions are kept and few are asked."""
        st = os.fstat(self.fd)
        return st.st_dev, st.st_ino

    def is_at_its_path(self) -> bool:
        """Whether the file at the path still is this one."""
        return self.is_at(self.path)

    def found_at_its_path(self) -> os.stat_result | None:
        """What is known of this file by its path; None if another is there, or none."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return None
        return found if (found.st_dev, found.st_ino) == self.identity else None

    def is_at(self, path: str) -> bool:
        """Whether the file at *path* is this one; if this is closed, it is not."""
        found = identity_at(path)
        try:
            return found is not None and found == self.identity
        except OSError:  # closed by another thread or a fork, or stale on a network
            return False

    def lost_its_path(self) -> bool:
        """Whether another file is at the path now, or none. No, if that cannot be told."""
        try:
            st = os.stat(self.path, follow_symlinks=False)
            return (st.st_dev, st.st_ino) != self.identity
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def retired(self) -> Description:
        """Another that has this one's descriptor; this one is as good as closed, but its number is not free."""
        with forking.opening:
            fd, self.fd = self.fd, -1
            return Description(self.path, fd)

    def close(self) -> None:
        """Close it; any lock it holds is thereby given back, unless a child still has a copy."""
        with forking.opening:  # or a child could be born with a descriptor that its memory calls closed
            self._close()

    def close_written(self) -> None:
        """:meth:`close`, when something was written through it.

        :raises OSError: if that did not get to where it belongs, which NFS may not tell before (close(2)).
        """
        with forking.opening, suppress(InterruptedError):  # it is closed all the same
            fd, self.fd = self.fd, -1
            os.close(fd)

    def after_fork(self) -> None:
        self._close()

    def __del__(self) -> None:
        # Not with the lock: the garbage collector may come at any moment, also to who holds it elsewhere.
        self._close()

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            let_go(fd)


def let_go(fd: int) -> None:
    """Close *fd*, through which nothing was written.

    An error is nobody's loss then: Linux has closed the descriptor, and given back its locks, when it reports one
    (close(2)). Who raised it would have to see to it that what he does afterwards is done all the same.
    """
    with suppress(OSError):
        os.close(fd)


def identity_at(path: str) -> tuple[int, int] | None:
    """Device and inode of what is at *path*; None if nothing is, or it cannot be looked at."""
    try:
        st = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return st.st_dev, st.st_ino


def open_regular(
    kind: type[_D],
    path: str,
    access: int,
    mode: int | None = None,
    *,
    create: bool,
    or_read_only: bool = False,
) -> _D:
    """Open the regular file at *path*.

    :param kind: what to make of it.
    :param access: ``os.O_RDONLY`` or ``os.O_RDWR``.
    :param mode: permission bits of a file that this call makes; ``None``: what the umask leaves of 0o666.
    :param create: make it if it is missing.
    :param or_read_only: content with reading where writing is not permitted.
    :returns: a description whose descriptor is close-on-exec.
    :raises FileNotFoundError: if it is missing and *create* is false, or its directory is missing.
    :raises OSError: as ``open(2)`` says; ``EISDIR`` for a directory.
    """
    was_gone = False
    attempts, leases, deadline = 0, 0, time.monotonic() + _PATIENCE
    # Not by the time alone: who was stopped himself has not tried often.
    while leases < _ATTEMPTS and (attempts < _ATTEMPTS or time.monotonic() < deadline):
        attempts += 1
        try:
            with forking.opening:  # and not while this waits for others: the whole process could not fork
                description = kind(path, _open_once(path, access, mode, create))
        except FileExistsError:
            continue  # made by another between our two looks
        except OSError as error:
            if error.errno in NO_PERMISSION:
                if _permit_ourselves(path):
                    continue
                if _is_no_file(path):
                    _remove_foreign(path)
                    continue
                if not was_gone and not os.path.lexists(path):
                    was_gone = True  # what was not permitted was that perhaps, and another has removed it since
                    continue
                if not (or_read_only and access == os.O_RDWR and os.path.exists(path)):
                    raise
                access = os.O_RDONLY
            # ELOOP: a symbolic link (O_NOFOLLOW). ENXIO: a socket, or a FIFO that nobody reads.
            elif error.errno in (errno.ELOOP, errno.ENXIO):
                _remove_foreign(path)
            # Another process holds a lease on it (fcntl(2)): a file server, which gives it back when it is told.
            elif error.errno == errno.EAGAIN:
                leases += 1
                time.sleep(_WHILE_A_LEASE_IS_BROKEN)
            else:
                raise
            continue
        try:
            regular = stat.S_ISREG(os.fstat(description.fd).st_mode)
        except BaseException:
            description.close()
            raise
        if regular:
            return description
        description.close()
        _remove_foreign(path)
    raise OSError(errno.EAGAIN, "somebody keeps replacing it, or a lease on it", path)


def _open_once(path: str, access: int, mode: int | None, create: bool) -> int:
    # Not O_CREAT at once: in a sticky directory that refuses another user's file (sysctl
    # fs.protected_regular), and whether we made it must be known to set its mode.
    try:
        return os.open(path, access | _FLAGS)
    except FileNotFoundError:
        if not create:
            raise
    fd = os.open(path, access | _FLAGS | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
    if mode is not None:
        try:
            os.fchmod(fd, mode)  # the umask does not count
        except BaseException:
            let_go(fd)
            raise
    return fd


def _permit_ourselves(path: str) -> bool:
    """Give back to its owner, if that is us, the right to read and write; True if it was missing."""
    try:
        st = os.lstat(path)
        ours = stat.S_ISREG(st.st_mode) and st.st_uid == os.geteuid() and st.st_nlink == 1
        if not ours or st.st_mode & 0o600 == 0o600:
            return False
        # Not through a link that somebody has put there since.
        os.chmod(path, stat.S_IMODE(st.st_mode) | 0o600, follow_symlinks=False)
    except (OSError, NotImplementedError):  # the latter: not all file systems and systems can
        return False
    log.warning("%r had lost its owner's permission to read and write; gave it back", path)
    return True


def _is_no_file(path: str) -> bool:
    try:
        kind = os.lstat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))


def _remove_foreign(path: str) -> None:
    """Remove what is at *path* if it is neither a regular file nor a directory.

    Under a lock on the directory: of two that saw a symbolic link, the second must not remove the lock
    file that the first has made since.
    """
    parent = os.path.dirname(path) or os.curdir
    with forking.opening:
        directory = Description(parent, os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    try:
        flock(directory.fd, LOCK_EX | LOCK_NB)
        kind = os.lstat(path).st_mode
        if stat.S_ISREG(kind):
            return
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        try:
            os.unlink(path)
        except PermissionError as error:
            what = f"a symbolic link to {os.readlink(path)!r}" if stat.S_ISLNK(kind) else _KINDS[stat.S_IFMT(kind)]
            text = f"there is {what}, which this user may not remove: it may have been planted"
            raise Foreign(error.errno, text, path) from error
    except FileNotFoundError:
        return
    except BlockingIOError:
        time.sleep(_WHILE_ANOTHER_REMOVES)
        return
    finally:
        directory.close()
    log.warning("%r was no regular file (mode %o); removed it", path, kind)
