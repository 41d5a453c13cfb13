"""DataDirectory: a directory of files that one process rebuilds when it is too old, and that everyone reads.

Each version is a directory of its own, ``.dogpile-dir-<digest>-<number>-<before>.<name>``, and the path a
symbolic link to the current one, flipped by a rename; :mod:`.lineage` tells which of them are still wanted.
Where a plain directory stands at the path it stays one: the new version changes places with it. If the old one is
not kept, it is called ``.dogpile-old-...`` from then on.

A reader holds a shared ``flock`` on the version that he is in, and whoever removes one an exclusive lock: so a
version goes when its last reader has left, and the kernel tells if he was killed. A reader who has locked a
version looks whether it still is the current one, and otherwise takes the next: what is current is never removed.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock

from .._dogpile.guard import Pass
from .._os import fsync as durability
from .._os import permissions
from .._os import replace as swap
from .._os import trust as planted
from .._os.openfile import Description
from .._os.waiting import INHERIT, Deadline, Timeout
from .._sidecar.fingerprint import Standing, mark, standing_of
from ..errors import DatafileError, LockTimeout, explained, explaining
from .blocks import Block
from .directory_history import Lineage
from .resource import Creator, Vanished, Versioned

__all__ = ["DataDirectory"]

log = logging.getLogger("dogpile_fs")

_WHILE_ANOTHER_LOOKS = 0.0005


class DataDirectory(Versioned[str]):
    """A directory that is created when it is missing or too old, by one thread of one process, and swapped whole.

    :param path: where the directory is to be found. If nothing is there, it will be a symbolic link.
    :param expiretime: seconds after which it is stale; ``None``: never.
    :param creator: called with the path of the new version, where nothing is yet; makes a directory there.
        ``None``: this process only reads.
    :param validate: called with that path before the swap; refuses it by raising or by returning False.
    :param keep: how many earlier versions to keep for :meth:`rollback`.
    :param durable: have the new version on the disk before it is swapped in, and its name before it is stamped.
        False: after a crash of the machine (not of a process) what is in it may be missing, be empty or have zeros
        in it, and it may be called fresh.
    :param timeout: seconds after which a wait gives up with :class:`LockTimeout`; ``None``: never.
    :param directory: put the coordination files there instead of beside the directory.
    :param mode: permission bits of coordination files that have to be made; ``None``: what the umask leaves of
        0o666. The directory itself keeps those of the version before; the first has what its creator gave it.
    :raises TypeError, ValueError: for arguments that are of no use.
    :raises PathError: for a *path* that cannot be coordinated.

    What is there without a sidecar, or was put there by a foreign hand, counts as created at its mtime.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "index")
    >>> def creator(target):
    ...     os.mkdir(target)
    ...     with open(os.path.join(target, "words"), "w") as file:
    ...         _ = file.write("dogpile")
    >>> index = DataDirectory(path, 3600, creator)
    >>> with index.open() as version, open(os.path.join(version, "words")) as file:
    ...     print(file.read())
    dogpile
    """

    _resource = "directory"

    def __init__(
        self,
        path: str | os.PathLike[str],
        expiretime: float | None = None,
        creator: Creator | None = None,
        *,
        validate: Creator | None = None,
        keep: int = 0,
        durable: bool = True,
        timeout: float | None = None,
        directory: str | os.PathLike[str] | None = None,
        mode: int | None = None,
    ) -> None:
        super().__init__(
            path,
            expiretime,
            creator,
            validate=validate,
            keep=keep,
            durable=durable,
            readers=False,
            timeout=timeout,
            directory=directory,
            mode=mode,
        )

    def open(self, *, timeout: Timeout = INHERIT) -> AbstractContextManager[str]:
        """A context manager that yields the path of the current version, created first if there is none.

        Inside the block nothing under that path is changed, replaced or removed; what is swapped in meanwhile is
        found by the next who opens. Where a plain directory stands, the path leads through ``/proc``, because
        that directory will be moved; it is good for this process, and others of its user, within the block.

        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :raises LockTimeout: if the first creation did not end in time.
        :raises DatafileError: if it cannot be opened; from the creation, if it made nothing, *validate* refused
            it, or it cannot be put in place.
        :raises LockFileError, SidecarError, WouldDeadlock: as :meth:`.Dogpile.acquire`.
        :raises: what the creator and *validate* raise, unchanged; the old version stays.
        """
        return _Visit(self, timeout)

    @contextmanager
    def _open_current(self, deadline: Deadline) -> Iterator[tuple[Standing, str]]:
        version, name = self._entered(deadline)
        try:
            with explaining(DatafileError, self._path, "look at", reading=True):
                found = os.fstat(version.fd)
            yield standing_of(found, version.fd), name
        finally:
            self._leave(version)

    def _entered(self, deadline: Deadline) -> tuple[Description, str]:
        """The current version, locked against removal, and its path.

        :raises LockTimeout: if a foreign hand keeps it locked.
        """
        gone = ""
        while True:
            try:
                real = swap.resolved(self._path)
                version = _opened(real)
            except FileNotFoundError as error:
                if os.path.exists(self._path) and real != gone:
                    gone = real
                    continue  # swapped between our looks; or it leads where no name does, such as through /proc
                raise Vanished from error
            except OSError as error:
                raise explained(DatafileError, self._path, "open", error, reading=True) from error
            try:
                flock(version.fd, LOCK_SH | LOCK_NB)
                if self._is_current(version):
                    return version, _name_within(version, real, moves=not os.path.islink(self._path))
            except BlockingIOError:
                # Being removed, so it is not the current one any more; or a remover is about to see that it is.
                if deadline.left == 0:
                    raise LockTimeout(
                        f"somebody kept {real!r} locked for {deadline.timeout} s. "
                        "Cure: find who it is with fuser(1)."
                    ) from None
                time.sleep(min(_WHILE_ANOTHER_LOOKS, deadline.left))
            except DatafileError:
                version.close()
                raise
            except OSError as error:
                version.close()
                raise explained(DatafileError, self._path, "open", error, reading=True) from error
            except BaseException:
                version.close()
                raise
            version.close()

    def _leave(self, version: Description) -> None:
        try:
            current = version.fd < 0 or self._is_current(version)  # a forked child has lost it
        except OSError:
            current = True  # nobody knows
        version.close()
        if not current and self.creator is not None:
            with suppress(OSError):  # he has read what he wanted to; the next creation tries again
                for path in self._lineage(self._place()).old()[1]:
                    self._remove(path)

    def _is_current(self, version: Description) -> bool:
        """:raises OSError: if that cannot be told; then it must not be taken for one that may be removed."""
        try:
            st = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (st.st_dev, st.st_ino) == version.identity

    def _place(self) -> str:
        place = os.path.join(os.path.realpath(os.path.dirname(self._path)), os.path.basename(self._path))
        found = swap.lstat(place)
        if found is not None and not (stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            raise DatafileError(
                errno.ENOTDIR,
                f"{place!r} is neither a directory nor a link to one (mode {found.st_mode:o}). "
                "Cure: move it away.",
            )
        if found is not None:
            planted.refuse(place, found)
        return place

    def _refuse_unless_made(self, target: str) -> None:
        found = swap.lstat(target)
        if found is None or not stat.S_ISDIR(found.st_mode):
            what = "" if found is None else f", but something else (mode {found.st_mode:o})"
            raise DatafileError(
                errno.ENOENT if found is None else errno.ENOTDIR,
                f"the creator made no directory at {target!r}, the path that it was called with{what}: "
                f"{self._path!r} is what it was. Cure: let it make one there.",
            )

    def _put_in_place(self, target: str, place: str, timeout: Timeout) -> None:
        try:
            version = _opened(target, os.O_NOFOLLOW)  # who may write the directory could have put a link there
        except OSError as error:
            raise explained(DatafileError, target, "complete the new version", error) from error
        name = target
        try:
            # Until it is the current one, this lock keeps it from being taken for an old one.
            flock(version.fd, LOCK_SH)
            self._complete(version, target)
            plain = _is_plain(place)
            if self.keep or not plain:
                name = self._lineage(place).next_name(follows=bool(self.keep))
            if plain:
                self._change_places(target, place, name if self.keep else None)
            else:
                swap.rename(target, name)
                self._point_to(name, place)
        except BaseException:
            version.close()
            self._remove(name)  # unless it is the current one
            raise
        version.close()
        if self.durable:
            durability.sync_directory(os.path.dirname(place))
        with suppress(DatafileError):  # what was swapped in is to be stamped; the next creation tries again
            self._remove_old()

    def _change_places(self, target: str, place: str, name: str | None) -> None:
        swap.exchange(target, place)
        if name is None:
            with suppress(DatafileError):  # else under the name that it has, as what was left
                self._remove(self._put_away(target))
            return
        try:
            swap.rename(target, name)
        except BaseException:
            swap.exchange(target, place)  # or the old version would be taken for what was left
            raise

    def _complete(self, version: Description, target: str) -> None:
        try:
            mark(version.fd)
            with suppress(FileNotFoundError):
                real = swap.resolved(self._path)
                permissions.inherit(version.fd, permissions.of(os.stat(real), real))
        except OSError as error:
            raise explained(DatafileError, target, "complete the new version", error) from error
        try:
            if self.durable:
                durability.sync_tree(target)
        except DatafileError:
            raise
        except OSError as error:
            what = error.filename if isinstance(error.filename, str) else target
            raise explained(DatafileError, what, "make durable", error, reading=True) from error

    def _point_to(self, name: str, place: str) -> None:
        """Flip the symbolic link."""
        begin, end = self._marked("new", place)
        link = os.path.join(os.path.dirname(place), begin + secrets.token_hex(4) + end)
        try:
            os.symlink(os.path.basename(name), link)
        except OSError as error:
            raise explained(DatafileError, place, "make the symbolic link for", error) from error
        swap.rename(link, place)

    def _lineage(self, place: str) -> Lineage:
        return Lineage(place, self._marked)

    def _remove_old(self) -> None:
        """Remove the versions that are neither current nor kept, and that no reader is in."""
        place = self._place()
        earlier, dropped = self._lineage(place).old()
        for path in earlier[self.keep :] + dropped:
            self._remove(path)

    def _remove(self, left: str) -> None:
        try:
            if os.path.islink(left) or not os.path.isdir(left):
                with suppress(FileNotFoundError):
                    os.unlink(left)
                return
            version = _opened(left)
            try:
                flock(version.fd, LOCK_EX | LOCK_NB)
                if not self._is_current(version):
                    # Under another name: nothing must take for a version what was removed by half.
                    swap.remove_tree(self._put_away(left))
            finally:
                version.close()
        except BlockingIOError:
            pass  # a reader is inside, or its builder
        except OSError as error:
            if error.errno == errno.EXDEV:
                # overlayfs renames no directory of a lower layer; there it takes room whether it is seen or not.
                log.debug("%r stays: it comes with a container image", left)
            elif error.errno != errno.ENOENT:  # another was quicker
                log.warning("%r was left and cannot be removed: %s", left, error)

    def _put_away(self, path: str) -> str:
        """Rename *path* to what is dropped; returns its new name."""
        begin, end = self._marked("old", self._place())
        name = os.path.join(os.path.dirname(path), begin + secrets.token_hex(4) + end)
        swap.rename(path, name)
        return name

    def _roll_back(self, timeout: Timeout) -> None:
        place = self._place()
        for path in self._lineage(place).to_go_back_to():
            found = swap.lstat(path)
            if found is None or not stat.S_ISDIR(found.st_mode) or planted.is_planted(path, found):
                continue
            try:
                version = _opened(path, os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise explained(DatafileError, path, "go back to", error) from error
            try:
                flock(version.fd, LOCK_SH | LOCK_NB)
                if _is_plain(place):
                    swap.exchange(path, place)
                    try:
                        self._put_away(path)  # the dropped one; its readers do not go by its name
                    except BaseException:
                        swap.exchange(path, place)  # or the dropped one would be the next to go back to
                        raise
                else:
                    self._point_to(path, place)
                if self.durable:
                    durability.sync_directory(os.path.dirname(place))
            except BlockingIOError:
                continue  # being removed
            finally:
                version.close()
            with suppress(DatafileError):  # what was put back is to be stamped; the next creation tries again
                _, others = self._lineage(place).old()
                for dropped in others:  # and none of those kept, however few this object keeps
                    self._remove(dropped)
            return
        raise DatafileError(
            errno.ENOENT, f"no earlier version of {self._path!r} was kept. Cure: keep some, with keep=1 or more."
        )


class _Visit(Block[str]):
    """With a version that is not removed meanwhile."""

    __slots__ = ("_version",)

    _versioned: DataDirectory

    def _got(self, passage: Pass) -> str:
        self._version, name = self._versioned._entered(passage.deadline)
        return name

    def _left(self) -> None:
        self._versioned._leave(self._version)


def _is_plain(place: str) -> bool:
    """Whether a plain directory stands at *place*, and no link."""
    found = swap.lstat(place)
    return found is not None and stat.S_ISDIR(found.st_mode)


def _opened(path: str, more: int = 0) -> Description:
    return Description(path).open(os.O_RDONLY | os.O_DIRECTORY | more)


def _name_within(version: Description, real: str, *, moves: bool) -> str:
    """A path of *version* that stays its own."""
    if not moves or not hasattr(os, "memfd_create"):  # the latter: no Linux, and what is plain is never swapped
        return real
    name = f"/proc/{os.getpid()}/fd/{version.fd}"
    try:
        os.stat(name)
    except FileNotFoundError as error:
        raise DatafileError(
            errno.ENOSYS,
            f"there is no name by which {real!r} can be read while it is swapped, because /proc is not mounted "
            "here. Cure: mount it, or move the directory away: then a symbolic link is put there.",
        ) from error
    return name
