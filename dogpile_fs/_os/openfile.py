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
import select
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from fcntl import F_DUPFD_CLOEXEC, LOCK_EX, LOCK_NB, LOCK_UN, fcntl, flock
from importlib.util import find_spec, module_from_spec
from typing import Any, Self, TypeVar

from ..errors import NO_PERMISSION, Foreign, LockFileError, explained
from . import fork as forking

__all__ = ["Description", "above_standard", "identity_at", "let_go", "open_regular"]

log = logging.getLogger("dogpile_fs")

# O_NONBLOCK: opening a FIFO or a leased file must not wait. O_NOCTTY: nor must a terminal become ours.
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
#: The last of the three descriptors that what is printed goes to.
_STANDARD_ERROR = 2
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


# What owns a descriptor is an object of C code, so that its end closes it: a finalizer in Python can itself be
# interrupted, and then the descriptor, and what it locks, would stay. Of the objects that Python has for it, these
# take any descriptor, look at nothing and warn of nothing. Nothing is polled.
def _owner_type() -> Any:
    module: Any = select
    if not hasattr(select, "epoll") and not hasattr(select, "kqueue"):
        # gevent and eventlet take them out of the module when they patch it: another instance of it has them.
        spec = find_spec("select")
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.epoll if hasattr(module, "epoll") else module.kqueue


_owner_of: Callable[[int], Any] = _owner_type().fromfd


class Description:
    """An open file description of a regular file, closed when it is dropped.

    The unit that ``flock`` and open-file-description locks belong to: two descriptions of one file exclude
    each other, in one process as in two.
    """

    __slots__ = ("__weakref__", "_owner", "fd", "look_at", "path")

    def __init__(self, path: str) -> None:
        """Of the file at *path*, once it is opened."""
        self.path = path
        #: The descriptor; -1 if it is not to be used, or not any more.
        self.fd = -1
        self._owner: Any = None
        #: The time on the monotonic clock from which on its user asks again whether it still is at its path.
        self.look_at = 0.0
        forking.forget_in_child(self)

    def open(self, flags: int, mode: int = 0o777) -> Self:
        """Open the path, close-on-exec; the descriptor is none of 0 to 2.

        :raises OSError: as ``open(2)`` says.
        """
        while True:
            forks = forking.forks()
            # From the opening to the owning this is one call of C code, into which no signal handler comes.
            owner = next(map(_owner_of, map(os.open, (self.path,), (flags | os.O_CLOEXEC,), (mode,))))
            if owner.fileno() <= _STANDARD_ERROR:
                low = owner
                owner = next(map(_owner_of, map(fcntl, (low,), (F_DUPFD_CLOEXEC,), (_STANDARD_ERROR + 1,))))
                low.close()
            if forks == forking.forks():
                self._owner = owner
                self.fd = owner.fileno()
                return self
            owner.close()  # a child may have a copy of which it does not know
            flags &= ~(os.O_EXCL | os.O_CREAT)

    @classmethod
    def of_lock_file(cls, path: str, mode: int | None = None, *, create: bool = True, write: bool = False) -> Self:
        """A new description of the lock file at *path*, made if it is missing and *create* is true.

        Opened for writing where permitted, else for reading only unless *write* is true: ``flock`` is content
        with either.

        :raises FileNotFoundError: if it is missing and *create* is false.
        :raises LockFileError: if it cannot be opened.
        """
        description = cls(path)
        description.open_lock_file(mode, create=create, write=write)
        return description

    def open_lock_file(self, mode: int | None = None, *, create: bool = True, write: bool = False) -> None:
        """As :meth:`of_lock_file`, into this object, which is closed."""
        try:
            open_regular(self, os.O_RDWR, mode, create=create, or_read_only=not write)
        except FileNotFoundError as error:
            if create:
                raise explained(LockFileError, self.path, "make the lock file", error) from error
            raise
        except OSError as error:
            raise explained(LockFileError, self.path, "open the lock file", error) from error

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

    def retire(self) -> None:
        """Let nobody begin to use it. It is closed when the last user drops it: a thread may be about to ask it,
        and its number must not come to mean another file before.
        """
        self.fd = -1

    def close(self) -> None:
        """Close it; any lock it holds is thereby given back, unless another process has a copy."""
        with suppress(OSError):  # see let_go
            self.close_written()

    def give_back(self) -> None:
        """Unlock and close it. A copy that another process has, by whatever kind of fork, keeps no lock then.

        In a child that is told of its birth only now, the lock stays its parent's.
        """
        try:
            forking.settle()
            if self.fd >= 0:
                flock(self.fd, LOCK_UN)
        except OSError:
            pass  # closing it unlocks it as well
        finally:
            self.close()

    def close_written(self) -> None:
        """:meth:`close`, when something was written through it.

        :raises OSError: if that did not get to where it belongs, which NFS may not tell before (close(2)).
        """
        owner = self._owner
        self.fd = -1
        if owner is not None:
            with suppress(InterruptedError):  # it is closed all the same
                owner.close()

    def after_fork(self) -> None:
        self.close()


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
    description: _D,
    access: int,
    mode: int | None = None,
    *,
    create: bool,
    or_read_only: bool = False,
) -> _D:
    """Open the regular file at the path of *description*, which is closed.

    :param access: ``os.O_RDONLY`` or ``os.O_RDWR``.
    :param mode: permission bits of a file that this call makes; ``None``: what the umask leaves of 0o666.
    :param create: make it if it is missing.
    :param or_read_only: content with reading where writing is not permitted.
    :returns: *description*.
    :raises FileNotFoundError: if it is missing and *create* is false, or its directory is missing.
    :raises OSError: as ``open(2)`` says; ``EISDIR`` for a directory.
    """
    path = description.path
    was_gone = False
    attempts, leases, deadline = 0, 0, time.monotonic() + _PATIENCE
    # Not by the time alone: who was stopped himself has not tried often.
    while leases < _ATTEMPTS and (attempts < _ATTEMPTS or time.monotonic() < deadline):
        attempts += 1
        try:
            _open_once(description, access, mode, create)
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


def _open_once(description: Description, access: int, mode: int | None, create: bool) -> None:
    # Not O_CREAT at once: in a sticky directory that refuses another user's file (sysctl
    # fs.protected_regular), and whether we made it must be known to set its mode.
    try:
        description.open(access | _FLAGS)
        return
    except FileNotFoundError:
        if not create:
            raise
    description.open(access | _FLAGS | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
    if mode is not None:
        try:
            os.fchmod(description.fd, mode)  # the umask does not count
        except BaseException:
            description.close()
            raise


def above_standard(fd: int) -> int:
    """*fd*, which this call owns and closes if need be, or a copy of it that is none of 0 to 2.

    Where a daemon has closed its standard descriptors, what is printed must not get into a file of ours.

    :raises OSError: if there is no room for a copy.
    """
    if fd > _STANDARD_ERROR:
        return fd
    try:
        return _above_standard(fd)
    finally:
        let_go(fd)


def _above_standard(fd: int) -> int:
    return fcntl(fd, F_DUPFD_CLOEXEC, _STANDARD_ERROR + 1)


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
    directory = Description(parent).open(os.O_RDONLY | os.O_DIRECTORY)
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
        directory.give_back()
    log.warning("%r was no regular file (mode %o); removed it", path, kind)
