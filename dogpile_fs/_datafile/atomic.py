"""atomic_write: a file that is at its path whole, or not at all.

Promised: whoever opens the path finds the old contents or the new ones, never less, also after a crash of the
writer (with *durable*: of the machine). What a killed writer leaves behind is known by its name,
``.dogpile-tmp-...``, and by being locked by nobody, and the next writer of the same path removes it.
Not promised: an order among several writers; the last one wins.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from typing import IO, Any, BinaryIO, Literal, TextIO, overload

from .._os import fsync as durability
from .._os import permissions
from .._os import replace as swap
from .._os.openfile import Description, above_standard, let_go
from .._os.paths import checked_name
from .._os.permissions import Permissions
from ..errors import DatafileError, DatafileExists, explained, explaining

__all__ = ["atomic_write"]

_MODES = ("w", "wt", "wb", "w+", "wt+", "w+t", "wb+", "w+b")
# Temp files stand in numbered places, so that nobody must list a directory of a hundred thousand files to find
# the abandoned ones. Writers take the first that is free, so there are as many as have written at the same time:
# after so many empty places in a row, the rest very probably are empty too. Smaller directories are listed.
_ENOUGH_EMPTY = 32
_SMALL = 1 << 16
_PLACES = 10_000
_OURS = stat.S_IRUSR | stat.S_IWUSR
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


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
    """A context manager that yields a new file, and puts it at *path* in one step if the block ends well.

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
    :raises: whatever the block raises, unchanged.

    If it raises, nothing has changed at *path*, and no other file is left. (If only the directory could not be
    written to the disk in the end, the new file is in place; the error says so.) A symbolic link stays one: what
    it points to is replaced. A child that was forked inside the block and leaves it changes nothing.

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
    path = swap.real_path(given)
    before = swap.regular_at(path)
    if before is not None and not overwrite:
        # Such as the other name of a file whose writer was killed when he had put it in place.
        _remove_abandoned(path)
        raise _exists(path)
    heir = None
    if before is not None and preserve:
        with explaining(DatafileError, path, "look at the permissions of"):
            heir = permissions.of(before, path)
    writer = os.getpid()
    # Not for a moment more open than what it replaces: who has it open then, reads what is written later.
    temp = _Temp(path, 0o666 if heir is None else 0o600)
    try:
        _remove_abandoned(path, temp.path)
        file = temp.opened(mode, encoding, newline, heir)
        try:
            yield file
        except BaseException:
            _discard(file)
            raise
        if os.getpid() != writer:
            _discard(file)
            return
        try:
            _close(file)
            temp.complete(heir, durable)
        except OSError as error:
            _discard(file)
            raise explained(DatafileError, path, "write the new version of", error) from error
        temp.put_in_place(overwrite)
    finally:
        if os.getpid() == writer:
            temp.remove()
        temp.close()
    if durable:
        durability.sync_directory(os.path.dirname(path))


def _close(file: IO[Any]) -> None:
    with suppress(ValueError):  # detached: who did that flushes and closes what he took
        file.close()


def _discard(file: IO[Any]) -> None:
    """Close *file*, and let what is still in its buffer go nowhere: after a fork, the place is shared."""
    with suppress(OSError, ValueError):  # closed already, or detached
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.dup2(nowhere, file.fileno(), inheritable=False)
        finally:
            os.close(nowhere)
    with suppress(OSError, ValueError):
        file.close()


class _Temp:
    """A new file beside *path*, locked by who writes it for as long as he lives.

    The lock has a description of its own, so that neither a user who closes the file nor a child that was forked
    meanwhile, and lives on, makes a difference to it.
    """

    def __init__(self, path: str, mode: int) -> None:
        self.target = path
        self.mode = mode
        self.path = ""
        self.lock: Description | None = None
        if not any(self._took(place) for place in _places(path)):
            raise DatafileError(
                errno.EAGAIN,
                f"{_PLACES} others write {path!r}. Cure: remove its .dogpile-tmp files if that is not so.",
            )

    def _took(self, place: str) -> bool:
        try:
            fd = above_standard(os.open(place, _MAKE, self.mode))
        except FileExistsError:
            return False
        except OSError as error:
            raise explained(DatafileError, self.target, "make a file beside", error) from error
        try:
            self.mode = stat.S_IMODE(os.fstat(fd).st_mode)
            if self.mode & _OURS != _OURS:  # the umask keeps it from us too, until it is done
                os.fchmod(fd, self.mode | _OURS)
            lock = _locked(place)
            if lock is not None and os.path.samestat(os.fstat(lock.fd), os.fstat(fd)):
                self.path, self.lock = place, lock
                return True
        except OSError as error:
            with suppress(OSError):
                if os.path.samestat(os.lstat(place), os.fstat(fd)):
                    os.unlink(place)
            raise explained(DatafileError, place, "lock", error) from error
        finally:
            let_go(fd)  # not before it is locked: its inode could be another's
        # Who removes what is abandoned was quicker than our lock; perhaps another has made his file there since.
        if lock is not None:
            lock.close()
        return False

    def opened(self, mode: str, encoding: str | None, newline: str | None, heir: Permissions | None) -> IO[Any]:
        try:
            fd = above_standard(os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
        except OSError as error:
            raise explained(DatafileError, self.path, "open", error) from error
        try:
            assert self.lock is not None
            if not os.path.samestat(os.fstat(fd), os.fstat(self.lock.fd)):
                raise OSError(errno.EPERM, "somebody has put another file in its place")
            if heir is not None:
                self.inherit(heir)
        except OSError as error:
            let_go(fd)
            doing = "let the new version inherit the permissions of"
            raise explained(DatafileError, self.target, doing, error) from error
        with explaining(DatafileError, self.path, "open"):
            return open(self.path, mode, encoding=encoding, newline=newline, opener=lambda *_: fd)

    def inherit(self, before: Permissions) -> None:
        assert self.lock is not None
        permissions.inherit(self.lock.fd, before)

    def complete(self, heir: Permissions | None, durable: bool) -> None:
        assert self.lock is not None
        if heir is not None:
            self.inherit(heir)  # again: what is written loses its set-user-ID bit
        elif self.mode & _OURS != _OURS:
            os.fchmod(self.lock.fd, self.mode)
        if durable:
            durability.sync(self.lock.fd)

    def put_in_place(self, overwrite: bool) -> None:
        if overwrite:
            swap.rename(self.path, self.target)
            self.path = ""
            return
        try:
            swap.link(self.path, self.target)
        except FileExistsError as error:
            raise _exists(self.target) from error

    def remove(self) -> None:
        if self.path:
            with suppress(OSError):
                os.unlink(self.path)

    def close(self) -> None:
        if self.lock is not None:
            self.lock.close()


def _places(path: str) -> Iterator[str]:
    begin, end = swap.marked("tmp", path)
    directory = os.path.dirname(path)
    for number in range(_PLACES):
        yield os.path.join(directory, f"{begin}{number}{end}")


def _used_places(path: str) -> list[str]:
    """The places for *path* that are not empty, if the directory is small enough to be listed; else none."""
    begin, end = swap.marked("tmp", path)
    directory = os.path.dirname(path)
    try:
        if os.stat(directory).st_size > _SMALL:
            return []
        with os.scandir(directory) as found:
            return [entry.path for entry in found if entry.name.startswith(begin) and entry.name.endswith(end)]
    except OSError:
        return []


def _remove_abandoned(path: str, own: str = "") -> None:
    """Remove what killed writers of *path* left, and not what is our *own*."""
    empty = 0
    for place in _used_places(path) or _places(path):
        if place != own:
            empty = empty + 1 if _is_empty(place) else 0
        if empty == _ENOUGH_EMPTY:
            return


def _locked(place: str) -> Description | None:
    """The file at *place*, locked; None if another has locked it, or it is gone.

    :raises OSError: if it is none of ours, or cannot be locked.
    """
    try:
        description = Description(place).open(_LOOK)
    except FileNotFoundError:
        return None
    try:
        flock(description.fd, LOCK_EX | LOCK_NB)
        if description.is_at_its_path():
            return description
    except BlockingIOError:
        pass
    except BaseException:
        description.close()
        raise
    description.close()
    return None


def _is_empty(place: str) -> bool:
    """Whether nothing is at *place*. What a killed writer left there is removed."""
    try:
        try:
            abandoned = _locked(place)
        except PermissionError:
            os.chmod(place, 0o600, follow_symlinks=False)  # if it is ours; not all file systems and systems can
            abandoned = _locked(place)
        if abandoned is None:
            return not os.path.lexists(place)
        try:
            os.unlink(place)
        finally:
            abandoned.close()
    except (OSError, NotImplementedError):
        pass  # not ours, or not ours to judge
    return False


def _exists(path: str) -> DatafileExists:
    return DatafileExists(
        errno.EEXIST, f"{path!r} exists, and overwrite=False. Cure: remove it, or let it be overwritten."
    )
