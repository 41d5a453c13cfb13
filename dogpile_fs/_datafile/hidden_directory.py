"""The hidden sub-directory beside a resource, in which versions are built, written and kept.

Programs that collect the files of a directory by a pattern do not skip hidden files, but do not look into
sub-directories either. In a directory that belongs to this user alone the sub-directory is ``.dogpile``, with that
directory's permissions. In one that is sticky or another user's it is ``.dogpile-<uid>``, which only this user may
enter, so that no other user renames what is being built.

A process that builds there holds a shared lock of the sub-directory, so that no other one removes it under a
creator. The last of them removes it, unless a version is kept in it.

Not seen: what a user that may rename the sub-directory does between two looks at it.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from types import TracebackType
from typing import Self

from .._layout import hidden_directory_name, is_hidden_directory
from .._os import permissions, trust
from .._os.filesystem import has_local_directory_locks
from .._os.openfile import OpenFile
from .._os.permissions import Permissions
from .._os.waiting import Deadline, wait_until
from ..errors import DatafileError, PathError, os_errors_as
from .version_file import lock

__all__ = ["HiddenDirectory", "hidden_beside", "inherit_from", "open_directory", "refuse_its_name"]

#: Times that the sub-directory is made while another program removes it.
_ATTEMPTS = 10
#: Seconds for which a process that removes it is waited for. That takes microseconds, unless the process was
#: stopped. Without the lock, a creator's directory may be removed before anything is in it.
_PATIENCE = 5.0
#: Error codes of a file system without permissions, and of another user's directory.
_NOT_PERMITTED = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


class HiddenDirectory:
    """A ``with`` block in which the hidden sub-directory beside *resource* is there, and is not removed by us.

    At its end it is removed if it is empty and not in use elsewhere. A child that was forked inside the block and
    leaves it changes nothing.

    :raises DatafileError: on entering, as :func:`hidden_beside`.
    """

    __slots__ = ("_open_file", "_process", "_resource", "is_new", "path")

    def __init__(self, resource: str) -> None:
        self._resource = resource
        self._process = os.getpid()
        self._open_file: OpenFile | None = None
        #: Its path, and whether entering the block has made it: nothing of an earlier creation is in it then.
        self.path = ""
        self.is_new = False

    def __enter__(self) -> Self:
        wait_until(self._holds, self._holds, Deadline(_PATIENCE))
        return self

    def _holds(self) -> bool:
        """Make the sub-directory and lock it; False if another process removes it at this moment."""
        self.path, opened, self.is_new = _found_beside(self._resource, make=True)
        try:
            if opened is None:  # the resource is in it
                self._open_file = lock(self.path, LOCK_SH, os.O_DIRECTORY)
                return self._open_file is not None
            is_locked = False
            try:
                flock(opened.fd, LOCK_SH | LOCK_NB)
                is_locked = opened.is_at_its_path()
            except BlockingIOError:
                pass
            finally:
                if not is_locked:
                    opened.close()
            if is_locked:
                self._open_file = opened
            return is_locked
        except OSError:
            return True  # no locks here: then no process removes it, either

    def checked(self) -> str:
        """Return its path, after a look whether the directory there still is the one that the block has.

        :raises DatafileError: as :func:`hidden_beside`, if another one is there.
        """
        if self._open_file is None or not self._open_file.is_at_its_path():
            return hidden_beside(self._resource)
        return self.path

    def remove_if_empty(self) -> bool:
        """Remove it right before the end of the block; False if something is in it, or another process uses it.

        Nothing may be built in it after that.
        """
        open_file = self._open_file
        if open_file is None or os.getpid() != self._process or not _is_removed(open_file):
            return False
        self._open_file = None
        open_file.close()
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        open_file = self._open_file
        if open_file is not None and os.getpid() == self._process:
            self._open_file = None
            _is_removed(open_file)
            open_file.close()


def _is_removed(open_file: OpenFile) -> bool:
    """Remove the sub-directory; False if something is in it, or another process uses it.

    Then its lock is lost: ``flock`` gives up the shared lock before it asks for the exclusive one. It is not taken
    again, or the last process would meet it and give up as well. Another process may have removed the
    sub-directory since, and the one at its path may be new, and in use. On NFS it stays: another host may build in
    it, whose lock is not seen here.
    """
    try:
        if has_local_directory_locks(open_file.fd, open_file.identity):
            return False
        flock(open_file.fd, LOCK_EX | LOCK_NB)
        if not open_file.is_at_its_path():
            return True
        os.rmdir(open_file.path)
    except OSError:
        return False
    return True


def hidden_beside(resource: str, *, make: bool = False) -> str:
    """Return the path of the hidden sub-directory beside *resource*, checked; there may be nothing.

    Of a *resource* that is in such a sub-directory itself it is that one: such as of the target that a creator
    writes by ``atomic_write``.

    :param make: make it if it is missing.
    :raises DatafileError: if there is something else, or it belongs to another user, or it cannot be made.
    """
    path, opened, _ = _found_beside(resource, make)
    if opened is not None:
        opened.close()
    return path


def _found_beside(resource: str, make: bool) -> tuple[str, OpenFile | None, bool]:
    """Return the path of :func:`hidden_beside`, the sub-directory opened, and whether this call has made it.

    It is not opened if it is missing, or if *resource* is in it.
    """
    refuse_its_name(resource)
    directory = os.path.dirname(resource)
    if is_hidden_directory(directory):
        return directory, None, False
    with os_errors_as(DatafileError, resource, "make a file beside"):
        parent = os.stat(directory)
    user = os.geteuid()
    is_shared = bool(parent.st_mode & stat.S_ISVTX) or parent.st_uid != user
    path = os.path.join(directory, hidden_directory_name(user if is_shared else None))
    with os_errors_as(DatafileError, path, f"make a file for {resource!r} in" if make else "look into"):
        is_new = make and _is_made(path)  # first: it is there only while another creation runs, or one is kept
        opened = open_directory(path, make)
        if opened is not None:
            try:
                found = os.fstat(opened.fd)
                _refuse_unless_ours(path, found, parent)
                if make:
                    inherit_from(opened.fd, found, directory, parent, is_private=is_shared)
            except BaseException:
                opened.close()
                raise
    return path, opened, is_new


def _is_made(path: str) -> bool:
    """Make the sub-directory; False if there is something, or the system refuses."""
    try:
        os.mkdir(path, stat.S_IRWXU)
    except OSError:
        return False
    return True


def refuse_its_name(resource: str) -> None:
    """:raises PathError: if *resource* has the name of such a sub-directory."""
    if is_hidden_directory(resource):
        raise PathError(
            errno.EINVAL,
            f"{resource!r} has the name of the directory in which dogpile_fs builds. "
            "Hint: name the resource otherwise.",
        )


def open_directory(path: str, make: bool) -> OpenFile | None:
    """Open the directory at *path* itself; ``None`` if it is missing and is not to be made.

    :raises DatafileError: if there is something else, or it vanishes as soon as it is made.
    :raises OSError: as ``open(2)`` and ``mkdir(2)`` say.
    """
    is_changed = False
    for _ in range(_ATTEMPTS):
        try:
            return OpenFile(path).open(os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            if not make:
                return None
        except PermissionError:
            if is_changed:
                raise
            # A umask has taken its owner's rights away. Not all systems can do this without a link.
            with suppress(NotImplementedError, FileNotFoundError):
                os.chmod(path, stat.S_IRWXU, follow_symlinks=False)
            is_changed = True
            continue
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            found = os.stat(path, follow_symlinks=False)
            raise DatafileError(
                errno.ENOTDIR,
                f"{path!r}, where new versions are built, is no directory (mode {found.st_mode:o}, owner "
                f"{found.st_uid}). Hint: remove it.",
            ) from error
        with suppress(FileExistsError):
            os.mkdir(path, stat.S_IRWXU)
    raise DatafileError(
        errno.ENOENT, f"{path!r} vanishes as soon as it is made. Hint: find the program that removes it."
    )


def _refuse_unless_ours(path: str, found: os.stat_result, parent: os.stat_result) -> None:
    if found.st_dev != parent.st_dev:
        raise DatafileError(
            errno.EXDEV,
            f"{path!r}, where new versions are built, is on another file system than its directory: nothing can "
            "be swapped in from there. Hint: unmount it.",
        )
    if found.st_uid not in (os.geteuid(), parent.st_uid) or trust.is_untrusted(path, found):
        raise DatafileError(
            errno.EACCES,
            f"{path!r}, where user {os.geteuid()} builds new versions, belongs to user {found.st_uid}: it may "
            "have been planted. Hint: remove it, or give it to the first (chown).",
        )


def inherit_from(
    fd: int, found: os.stat_result, directory: str, parent: os.stat_result, *, is_private: bool
) -> None:
    """Give the sub-directory *fd* what files that are made in *directory* get: group and default list.

    And the permissions of *directory*, unless the sub-directory *is_private*; its owner may always do all.
    """
    mode, _, gid, acl = permissions.of(parent, directory)
    if is_private:
        mode, acl = mode & stat.S_ISGID, None
        gid = gid if mode else found.st_gid
    try:
        permissions.inherit(fd, Permissions(mode | stat.S_IRWXU, found.st_uid, gid, acl), found)
        permissions.inherit_default(fd, directory)
    except OSError as error:
        if error.errno not in _NOT_PERMITTED:
            raise
