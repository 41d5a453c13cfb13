"""atomic_write: a file that is at its path whole, or not at all.

Promised: a reader that opens the path finds the old contents or the new ones, never less, also after a crash of
the writer (with *durable*: of the machine). A killed writer leaves a file in the hidden sub-directory whose name
begins with ``.dogpile-tmp-`` and that no process has locked; the next writer of the same path removes it. Not
promised: an order among several writers; the last one wins.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from typing import IO, Any, BinaryIO, Literal, TextIO, overload

from .._layout import KIND_TEMPORARY
from .._os import fork, fsync, mounts, replace
from .._os.openfile import OpenFile
from .._os.paths import checked_name
from .._os.permissions import Permissions
from ..errors import DatafileError, DatafileExists, as_error, os_errors_as
from . import open_writers
from .hidden_directory import HiddenDirectory
from .leftovers import remove_leftovers
from .names import Names, names_in
from .version_file import complete, open_itself, permissions_of

__all__ = ["atomic_write"]

_MODES = ("w", "wt", "wb", "w+", "wt+", "w+t", "wb+", "w+b")
#: Times that a writer makes a file while other writers, or another program, remove it before it is locked.
_ATTEMPTS = 100
#: Permission bits that the owner needs while the file is written; a umask may have taken them away.
_OWNERS = stat.S_IRUSR | stat.S_IWUSR
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


@overload
def atomic_write(
    path: str | os.PathLike[str],
    mode: Literal["wb", "wb+", "w+b"] = "wb",
    *,
    durable: bool = True,
    overwrite: bool = True,
    preserve: bool = True,
) -> AbstractContextManager[BinaryIO]: ...


@overload
def atomic_write(
    path: str | os.PathLike[str],
    mode: Literal["w", "wt", "w+", "wt+", "w+t"],
    *,
    durable: bool = True,
    overwrite: bool = True,
    preserve: bool = True,
    encoding: str | None = None,
    newline: str | None = None,
) -> AbstractContextManager[TextIO]: ...


@overload
def atomic_write(
    path: str | os.PathLike[str],
    mode: str,
    *,
    durable: bool = True,
    overwrite: bool = True,
    preserve: bool = True,
    encoding: str | None = None,
    newline: str | None = None,
) -> AbstractContextManager[IO[Any]]: ...


def atomic_write(
    path: str | os.PathLike[str],
    mode: str = "wb",
    *,
    durable: bool = True,
    overwrite: bool = True,
    preserve: bool = True,
    encoding: str | None = None,
    newline: str | None = None,
) -> AbstractContextManager[IO[Any]]:
    """Return a context manager that yields a new file, and puts it at *path* in one step if the block ends well.

    :param mode: as of ``open``, one that writes anew: ``"wb"``, ``"w"``, or with ``+``.
    :param durable: have file and name on the disk before the block is left: after a power cut there is the old
        file or the new one, whole. False: after a crash of the machine (not of a process) it may be empty, or
        have zeros in it.
    :param overwrite: False: there must be no file yet; of several writers one wins.
    :param preserve: keep the permission bits and the access control list of a file that is replaced, and its owner
        and group where allowed.
        False, and for a new file: what the umask leaves of 0o666.
    :param encoding: as of ``open``, for text.
    :param newline: as of ``open``, for text.
    :raises ValueError: for another *mode*.
    :raises DatafileExists: with ``overwrite=False``, on entering or at the end of the block, if there is a file.
    :raises DatafileError: if the file cannot be made, written to the disk, or put in place.
    :raises: each error of the block, unchanged.

    The new file is written in the hidden sub-directory ``.dogpile`` beside *path*.
    If it raises, nothing has changed at *path*, and no other file is left. (If only the directory could not be
    written to the disk in the end, the new file is in place; the error says so.) If *path* is a symbolic link, the
    file that it points to is replaced; if it points elsewhere at the end of the block, that is an error. A child
    that was forked inside the block and leaves it changes nothing.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "report.txt")
    >>> with atomic_write(path, "w") as file:
    ...     _ = file.write("the report")
    >>> with open(path) as file:
    ...     file.read()
    'the report'
    """
    if mode not in _MODES:
        raise ValueError(f"mode must be one that writes anew ({', '.join(_MODES)}), not {mode!r}")
    if "b" in mode and (encoding is not None or newline is not None):
        raise ValueError(f"encoding and newline are for text, and {mode!r} is binary")
    return _writing(checked_name(path), mode, durable, overwrite, preserve, encoding, newline)


@contextmanager
def _writing(
    given: str,
    mode: str,
    durable: bool,
    overwrite: bool,
    preserve: bool,
    encoding: str | None,
    newline: str | None,
) -> Iterator[IO[Any]]:
    path = replace.real_path(given)
    found = replace.regular_at(path)
    if found is not None and not overwrite:
        # Such as the second name of a file whose writer was killed when it had put the file in place.
        _remove_leftovers(Names.hidden(KIND_TEMPORARY, path))
        raise _exists(path)
    mounts.refuse_mount_point(path)
    open_writers.refuse_log_beside(path, given)
    predecessor = permissions_of(found, path) if preserve else None
    # At no moment more open than its predecessor: a reader that has it open then also reads what is written later.
    with HiddenDirectory(path) as hidden:
        names = Names.hidden(KIND_TEMPORARY, path, directory=hidden.path)
        if not hidden.is_new:
            _remove_leftovers(names)
        temp = _TempFile(path, names, 0o666 if predecessor is None else 0o600)
        try:
            file = temp.open(mode, encoding, newline, predecessor)
            try:
                yield file
                if temp.is_a_childs_copy():
                    return
                with os_errors_as(DatafileError, path, "write the new version of"):
                    with suppress(ValueError):  # detached: the caller flushes and closes what it has taken
                        file.close()
                    temp.complete(predecessor, durable)
                open_writers.refuse_log_beside(path, given)
                leads = replace.real_path(given)
                if leads != path:
                    raise replace.Retargeted.from_to(given, path, leads)
                temp.put_in_place(overwrite)
            finally:
                _discard(file)
        finally:
            temp.remove()
        if durable:
            fsync.sync_directory(os.path.dirname(path))


def _discard(file: IO[Any]) -> None:
    """Close *file*, and write what is still in its buffer to nowhere: after a fork, the position is shared."""
    with suppress(OSError, ValueError):  # ValueError: detached
        if file.closed:
            return
        with open(os.devnull, "wb", buffering=0) as nowhere:
            os.dup2(nowhere.fileno(), file.fileno(), inheritable=False)
        file.close()


class _TempFile:
    """A new file for *target*, locked by its writer for as long as the writer lives.

    The lock has an open file description of its own. So it stays when the caller closes the file, and a child that
    was forked meanwhile, and lives on, does not keep it.
    """

    def __init__(self, target: str, names: Names, mode: int) -> None:
        self.target = target
        self.is_moved = False
        for _ in range(_ATTEMPTS):
            if self._takes(names.path(secrets.token_hex(4)), mode):
                return
        raise DatafileError(
            errno.EAGAIN,
            f"each new file in {names.directory!r} vanishes before it can be written. "
            "Hint: find the program that removes such files.",
        )

    def _takes(self, path: str, mode: int) -> bool:
        """Make the file at *path* and lock it; False if there is one, or another writer has removed ours."""
        self.path = path
        self.lock = OpenFile(path)
        try:
            self.lock.open(_MAKE, mode)
        except FileExistsError:
            return False
        except OSError as error:
            raise as_error(DatafileError, self.target, "make a file beside", error) from error
        is_taken = False
        try:
            self.mode = stat.S_IMODE(os.fstat(self.lock.fd).st_mode)
            if self.mode & _OWNERS != _OWNERS:
                os.fchmod(self.lock.fd, self.mode | _OWNERS)
            flock(self.lock.fd, LOCK_EX | LOCK_NB)
            is_taken = self.lock.is_at_its_path()
        except BlockingIOError:
            pass  # before it was locked, another writer took it for abandoned; that writer removes it
        except OSError as error:
            self.remove()
            raise as_error(DatafileError, path, "lock", error) from error
        finally:
            if not is_taken:
                self.lock.close()
        return is_taken

    def open(
        self, mode: str, encoding: str | None, newline: str | None, predecessor: Permissions | None
    ) -> IO[Any]:
        """Return the file that the caller writes, with the permissions of its *predecessor*."""
        with os_errors_as(DatafileError, self.path, "open"):
            file: IO[Any] = open(  # noqa: SIM115
                self.path,
                mode,
                encoding=encoding,
                newline=newline,
                opener=lambda path, _: open_itself(path, os.O_RDWR),
            )
        try:
            with os_errors_as(DatafileError, self.target, "let the new version inherit the permissions of"):
                if not os.path.samestat(os.fstat(file.fileno()), os.fstat(self.lock.fd)):
                    raise OSError(errno.EPERM, "another program has put another file in its place")
                complete(self.lock.fd, predecessor, durable=False)
        except BaseException:
            _discard(file)
            raise
        return file

    def complete(self, predecessor: Permissions | None, durable: bool) -> None:
        if predecessor is None and self.mode & _OWNERS != _OWNERS:
            os.fchmod(self.lock.fd, self.mode)
        complete(self.lock.fd, predecessor, durable=durable)  # once more: writing has cleared the set-user-ID bit

    def put_in_place(self, overwrite: bool) -> None:
        if overwrite:
            self.is_moved = True  # before it is: after it, the file of another writer may have the same name
            replace.rename(self.path, self.target)
            return
        try:
            try:
                replace.link(self.path, self.target)
            except DatafileError as error:
                if error.errno not in replace.NO_LINKS:
                    raise
                self.is_moved = True
                replace.rename_to_free_name(self.path, self.target)
        except FileExistsError as error:
            raise _exists(self.target) from error

    def is_a_childs_copy(self) -> bool:
        """Return whether this process was forked inside the block; the file is its parent's."""
        fork.settle()
        return self.lock.fd < 0

    def remove(self) -> None:
        """Remove the file if it still has its temporary name, and unlock it. A forked child does neither."""
        try:
            with suppress(OSError):
                if not self.is_a_childs_copy() and (not self.is_moved or self.lock.is_at_its_path()):
                    os.unlink(self.path)
        finally:
            self.lock.close()


def _remove_leftovers(names: Names) -> None:
    remove_leftovers(names, names_in(names.directory, names.begin))


def _exists(path: str) -> DatafileExists:
    return DatafileExists(
        errno.EEXIST, f"{path!r} exists, and overwrite=False. Hint: remove it, or let it be overwritten."
    )
