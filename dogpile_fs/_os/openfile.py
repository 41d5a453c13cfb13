"""Coordination files as the system sees them: opened safely, locked through their own description.

Nothing here waits for another process or knows what a lock is for. What is promised:

- Only regular files are opened, and never through a symbolic link. Anything else at the path is removed (a
  directory excepted: that is an error), so that another program cannot lead a write elsewhere. A process that may
  not remove it gets an error which says what it is.
- A description knows whether it still is the file at its path. A lock on a file that was deleted or replaced
  excludes no later caller; a caller that has won one must ask.
- A forked child closes its copies without unlocking them.

Lock files are never deleted here: that would split their users over two inodes.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from fcntl import F_DUPFD_CLOEXEC, LOCK_EX, LOCK_NB, LOCK_UN, fcntl, flock
from importlib.util import find_spec, module_from_spec
from typing import Any, Self, TypeVar

from ..errors import NO_PERMISSION, ForeignFile, LockFileError, as_error
from . import fork, permissions
from .copying import NotCopied
from .filesystem import loses_locks, read_from_server

__all__ = ["OpenFile", "above_standard", "close_quietly", "is_permitted", "open_regular"]

log = logging.getLogger("dogpile_fs")

# O_NONBLOCK: opening a FIFO or a leased file must not wait. O_NOCTTY: a terminal must not become this process's.
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
#: The last of the three standard descriptors; descriptors up to it are never used.
_STANDARD_ERROR = 2
#: Attempts to open a file that other processes keep replacing, and breaks of leases that are waited for.
_ATTEMPTS = 100
#: Seconds of a pause while another process removes what is no regular file.
_WHILE_ANOTHER_REMOVES = 0.001
#: Seconds for which opening goes on beyond _ATTEMPTS: the process that removes it may be stopped in the middle, or
#: another program may have locked the directory.
_PATIENCE = 5.0
#: Seconds of a pause while the kernel asks the holder of a lease to give it back.
_WHILE_A_LEASE_IS_BROKEN = 0.001
_WANTED = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK, os.O_RDWR: os.R_OK | os.W_OK}
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


_F = TypeVar("_F", bound="OpenFile")


# An object of C code owns each descriptor and closes it when it is dropped: a finalizer in Python can itself be
# interrupted, and then the descriptor, and what it locks, would stay. Of the objects that Python has for it, these
# take any descriptor and give no warnings. Nothing is polled.
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

#: Owners of descriptors that another part of the program has closed. They are kept, because dropping one would
#: close a number that belongs to another file by now.
_disowned: list[Any] = []


class OpenFile(NotCopied):
    """An open file description of a regular file, closed when it is dropped.

    The unit that ``flock`` and open-file-description locks belong to: two descriptions of one file exclude
    each other, in one process as in two.
    """

    __slots__ = ("__weakref__", "_opened_as", "_owner", "check_path_at", "fd", "path")

    def __init__(self, path: str) -> None:
        """Stand for the file at *path*, once it is opened."""
        self.path = path
        #: The descriptor; -1 if it is not to be used, or not any more.
        self.fd = -1
        self._owner: Any = None
        #: Its identity when it was opened, if that is known.
        self._opened_as: tuple[int, int] | None = None
        #: Monotonic time from which on its user asks again whether it still is at its path.
        self.check_path_at = 0.0
        fork.reset_after_fork(self)

    def open(self, flags: int, mode: int = 0o777) -> Self:
        """Open the path, close-on-exec; the descriptor is none of 0 to 2.

        :raises OSError: as ``open(2)`` says.
        """
        asked, refusals = flags, 0
        while True:
            forks = fork.forks()
            # From the opening to the owning this is one call of C code, into which no signal handler comes.
            try:
                owner = next(map(_owner_of, map(os.open, (self.path,), (flags | os.O_CLOEXEC,), (mode,))))
            except FileNotFoundError:
                if flags == asked:
                    raise
                flags = asked  # another program has removed what the first opening has made
                continue
            except PermissionError:
                refusals += 1
                if refusals > _ATTEMPTS or not is_permitted(self.path, flags):
                    raise
                continue  # the permissions have come back since
            if owner.fileno() <= _STANDARD_ERROR:
                low = owner
                owner = next(map(_owner_of, map(fcntl, (low,), (F_DUPFD_CLOEXEC,), (_STANDARD_ERROR + 1,))))
                low.close()
            if forks == fork.forks():
                self._owner = owner
                self.fd = owner.fileno()
                return self
            owner.close()  # a child may have a copy that it does not know of
            flags &= ~(os.O_EXCL | os.O_CREAT)

    def adopt(self, fd: int) -> None:
        """Own the descriptor *fd*, which is none of 0 to 2."""
        self._owner = _owner_of(fd)
        self.fd = fd

    def share(self, other: OpenFile) -> None:
        """Own another descriptor of the description of *other*: each of the two keeps what it locks."""
        # From the copying to the owning this is one call of C code, into which no signal handler comes.
        descriptors = map(fcntl, (other.fd,), (F_DUPFD_CLOEXEC,), (_STANDARD_ERROR + 1,))
        self._owner = next(map(_owner_of, descriptors))
        self._opened_as = other._opened_as
        self.fd = self._owner.fileno()

    @classmethod
    def of_lock_file(cls, path: str, mode: int | None = None, *, create: bool = True, write: bool = False) -> Self:
        """Return a new description of the lock file at *path*, made if it is missing and *create* is true.

        Opened for writing where permitted, else for reading only unless *write* is true: ``flock`` works with
        either.

        :raises FileNotFoundError: if it is missing and *create* is false.
        :raises LockFileError: if it cannot be opened.
        """
        open_file = cls(path)
        open_file.open_lock_file(mode, create=create, write=write)
        return open_file

    def open_lock_file(self, mode: int | None = None, *, create: bool = True, write: bool = False) -> None:
        """Open the lock file as :meth:`of_lock_file` does, into this object, which is closed."""
        try:
            open_regular(self, os.O_RDWR, mode, create=create, or_read_only=not write)
        except FileNotFoundError as error:
            if create:
                raise as_error(LockFileError, self.path, "make the lock file", error) from error
            raise
        except OSError as error:
            raise as_error(LockFileError, self.path, "open the lock file", error) from error

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode. Not kept: many descriptions are open and few are asked."""
        st = os.fstat(self.fd)
        return st.st_dev, st.st_ino

    def is_regular(self) -> bool:
        """Return whether it is a regular file, and remember which one."""
        st = os.fstat(self.fd)
        self._opened_as = st.st_dev, st.st_ino
        return stat.S_ISREG(st.st_mode)

    def is_intact(self) -> bool:
        """Return whether the descriptor still is that of the file that was opened.

        Another part of the program may have closed it (``os.closerange``, when a program becomes a daemon), and
        its number may belong to another file by now, which must be neither unlocked nor closed.
        """
        try:
            st = os.fstat(self._owner.fileno())
        except (ValueError, AttributeError):  # closed here; never opened
            return False
        except OSError as error:
            return error.errno != errno.EBADF  # any other error says nothing: ours must not stay open
        return self._opened_as in (None, (st.st_dev, st.st_ino))

    def is_at_its_path(self) -> bool:
        """Return whether the file at the path still is this one."""
        return self.found_at_its_path() is not None

    def found_at_its_path(self) -> os.stat_result | None:
        """Return what ``stat`` says of this file by its path; None if it is not there, or is closed."""
        return self.found_at(self.path)

    def is_at(self, path: str) -> bool:
        """Return whether the file at *path* is this one; if this is closed, it is not."""
        return self.found_at(path) is not None

    def found_at(self, path: str) -> os.stat_result | None:
        """Return what ``stat`` says of this file at *path*; None if it is not there, or is closed."""
        try:
            found = os.stat(path, follow_symlinks=False)
            return found if (found.st_dev, found.st_ino) == self.identity else None
        except OSError:  # also of its own descriptor: closed by another thread or a fork, or stale on a network
            return None

    def lost_its_path(self) -> bool:
        """Return whether another file is at the path now, or none. False if the system does not say."""
        try:
            st = os.stat(self.path, follow_symlinks=False)
            return (st.st_dev, st.st_ino) != self.identity
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def is_lost(self) -> bool:
        """Return whether its lock excludes no later caller: it :meth:`lost_its_path`, is not intact, or is
        revoked."""
        own = None
        try:
            st = os.fstat(self._owner.fileno())
            own = st.st_dev, st.st_ino
        except (ValueError, AttributeError):  # closed here; never opened
            return True
        except OSError as error:
            if error.errno == errno.EBADF:
                return True
        if own is not None and self._opened_as not in (None, own):
            return True
        try:
            st = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return True
        except OSError:
            return self.is_revoked()
        return own not in (None, (st.st_dev, st.st_ino)) or self.is_revoked()

    def is_revoked(self) -> bool:
        """Return whether the server has given its locks to others, because this host was cut off (NFS).

        The system then lets every read fail that goes to the server. The file is empty: elsewhere no read of it
        goes to a disk, and on NFS a plain one does not go to the server.
        """
        try:
            os.pread(self.fd, 1, 0)
            if loses_locks(self.fd, self._opened_as or self.identity):
                read_from_server(self.fd)
        except OSError as error:
            return error.errno in (errno.EIO, errno.ESTALE)
        return False

    def defer_close(self) -> None:
        """Keep later callers from using it, and close it when the last user drops it.

        A thread may be about to use the descriptor, whose number must not come to mean another file before.
        """
        self.fd = -1
        if not self.is_intact():
            self._disown()

    def _disown(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None and not owner.closed:
            _disowned.append(owner)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At its end the interpreter takes the modules apart before objects that are kept elsewhere.
        if not is_finalizing() and self._owner is not None and not self.is_intact():
            self._disown()

    def close(self) -> None:
        """Close it; the kernel gives back its locks, unless another process has a copy."""
        with suppress(OSError):  # see close_quietly
            self.close_written()

    def unlock(self) -> None:
        """Give back all locks that it has."""
        flock(self.fd, LOCK_UN)

    def give_back(self) -> None:
        """Unlock and close it. A copy that another process has, by whatever kind of fork, keeps no lock then.

        In a child that learns only now that it is one, the lock stays its parent's.
        """
        try:
            fork.settle()
            if self.fd >= 0 and self.is_intact():
                self.unlock()
        except OSError:
            pass  # closing it unlocks it as well
        finally:
            self.close()

    def close_written(self) -> None:
        """Close it after something was written through it.

        :raises OSError: if the data was not written, which NFS may not report before (close(2)).
        """
        self.fd = -1
        if self.is_intact():
            with suppress(InterruptedError):  # it is closed all the same
                self._owner.close()
        else:
            self._disown()

    def after_fork(self) -> None:
        self.close()


def is_permitted(path: str, flags: int) -> bool:
    """Return whether this user may open *path* with *flags* by now, after ``open`` was refused.

    Other processes may take permissions away and give them back at any moment.
    """
    if flags & os.O_CREAT and not os.path.lexists(path):
        path, wanted = os.path.dirname(path) or os.curdir, os.W_OK | os.X_OK
    else:
        wanted = _WANTED[flags & (os.O_WRONLY | os.O_RDWR)]
    return os.access(path, wanted, effective_ids=os.access in os.supports_effective_ids)


def close_quietly(fd: int) -> None:
    """Close *fd*, through which nothing was written.

    Ignore errors: Linux has closed the descriptor, and given back its locks, when it reports one (close(2)).
    """
    with suppress(OSError):
        os.close(fd)


def open_regular(
    open_file: _F,
    access: int,
    mode: int | None = None,
    *,
    create: bool,
    or_read_only: bool = False,
) -> _F:
    """Open the regular file at the path of *open_file*, which is closed.

    :param access: ``os.O_RDONLY`` or ``os.O_RDWR``.
    :param mode: permission bits of a file that this call makes; ``None``: what the umask leaves of 0o666.
    :param create: make it if it is missing.
    :param or_read_only: open it for reading where writing is not permitted.
    :returns: *open_file*.
    :raises FileNotFoundError: if it is missing and *create* is false, or its directory is missing.
    :raises OSError: as ``open(2)`` says; ``EISDIR`` for a directory.
    """
    path = open_file.path
    was_gone = False
    attempts, leases, restored, deadline = 0, 0, 0, time.monotonic() + _PATIENCE
    # Not by the time alone: a process that was stopped has not tried often.
    while leases < _ATTEMPTS and (attempts < _ATTEMPTS or time.monotonic() < deadline):
        attempts += 1
        try:
            _open_once(open_file, access, mode, create)
        except FileExistsError:
            continue  # made by another process between the two attempts
        except OSError as error:
            if error.errno in NO_PERMISSION:
                if restored < _ATTEMPTS and _has_permission(path):
                    restored += 1
                    continue
                if _is_no_file(path):
                    _remove_obstacle(path)
                    continue
                if not was_gone and not os.path.lexists(path):
                    was_gone = True  # another process may have removed what was not permitted
                    continue
                if not (or_read_only and access == os.O_RDWR and os.path.exists(path)):
                    raise
                access = os.O_RDONLY
            # ELOOP: a symbolic link (O_NOFOLLOW). ENXIO: a socket, or a FIFO without a reader.
            elif error.errno in (errno.ELOOP, errno.ENXIO):
                _remove_obstacle(path)
            # Another process holds a lease on it (fcntl(2)): a file server, which the kernel asks to give it back.
            # ESTALE: another host has replaced it.
            elif error.errno in (errno.EAGAIN, errno.ESTALE):
                leases += 1
                time.sleep(_WHILE_A_LEASE_IS_BROKEN)
            else:
                raise
            continue
        try:
            regular = open_file.is_regular()
        except BaseException as error:
            open_file.close()
            if isinstance(error, OSError) and error.errno == errno.ESTALE:
                leases += 1
                continue
            raise
        if regular:
            return open_file
        open_file.close()
        _remove_obstacle(path)
    raise OSError(errno.EAGAIN, "another process keeps replacing it, or a lease on it", path)


def _open_once(open_file: OpenFile, access: int, mode: int | None, create: bool) -> None:
    # Not O_CREAT at once: in a sticky directory that refuses another user's file (sysctl
    # fs.protected_regular), and only a file that this call has made gets the mode.
    try:
        open_file.open(access | _FLAGS)
        return
    except FileNotFoundError:
        if not create:
            raise
    open_file.open(access | _FLAGS | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
    if mode is not None:
        try:
            os.fchmod(open_file.fd, mode)  # the umask does not apply
        except BaseException as error:
            if isinstance(error, OSError) and error.errno in permissions.REFUSED:
                log.warning("%r has not mode %04o: its file system refuses chmod", open_file.path, mode)
                return
            open_file.close()
            raise


def above_standard(fd: int) -> int:
    """Return *fd*, or else a copy of it that is none of 0 to 2; then *fd* is closed.

    Where a daemon has closed its standard descriptors, its output must not get into a coordination file.

    :raises OSError: if the process may open no more descriptors.
    """
    if fd > _STANDARD_ERROR:
        return fd
    try:
        return fcntl(fd, F_DUPFD_CLOEXEC, _STANDARD_ERROR + 1)
    finally:
        close_quietly(fd)


def _has_permission(path: str) -> bool:
    """Return whether the file at *path* is this user's own, and this user may read and write it now: by this call,
    or because another process was quicker.
    """
    try:
        st = os.lstat(path)
        if not (stat.S_ISREG(st.st_mode) and st.st_uid == os.geteuid() and st.st_nlink == 1):
            return False
        if st.st_mode & 0o600 == 0o600:
            return is_permitted(path, os.O_RDWR)
        # Not through a link that another program has put there since.
        os.chmod(path, stat.S_IMODE(st.st_mode) | 0o600, follow_symlinks=False)
    except (OSError, NotImplementedError):  # the latter: not supported by all systems
        return False
    log.warning("%r had lost its owner's permission to read and write; restored it", path)
    return True


def _is_no_file(path: str) -> bool:
    try:
        kind = os.lstat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind))


def _remove_obstacle(path: str) -> None:
    """Remove what is at *path* if it is neither a regular file nor a directory.

    Under a lock on the directory: of two processes that saw a symbolic link, the second must not remove the
    lock file that the first has made since.
    """
    parent = os.path.dirname(path) or os.curdir
    directory = OpenFile(parent).open(os.O_RDONLY | os.O_DIRECTORY)
    try:
        flock(directory.fd, LOCK_EX | LOCK_NB)
        found = os.lstat(path)
        kind = found.st_mode
        if stat.S_ISREG(kind):
            return
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        try:
            os.unlink(path)
        except PermissionError as error:
            if not os.path.samestat(found, os.lstat(path)):
                return  # another process has removed it, and may have made a file since
            what = f"a symbolic link to {os.readlink(path)!r}" if stat.S_ISLNK(kind) else _KINDS[stat.S_IFMT(kind)]
            text = f"there is {what}, which this user may not remove: it may have been planted"
            raise ForeignFile(error.errno, text, path) from error
    except FileNotFoundError:
        return
    except BlockingIOError:
        time.sleep(_WHILE_ANOTHER_REMOVES)
        return
    finally:
        directory.give_back()
    log.warning("%r was no regular file (mode %o); removed it", path, kind)
