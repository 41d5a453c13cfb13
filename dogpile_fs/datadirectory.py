"""DataDirectory: a directory of files that one process rebuilds when it is too old, and that everyone reads.

Each version is a directory of its own, ``.dogpile-dir-<digest>-<number>.<name>``, and the path a symbolic link to
the current one, flipped by a rename. Where a plain directory stands at the path it stays one: the new version
changes places with it.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from typing import Any, TypeVar

from . import forking, swap
from .errors import DatafileError, explained
from .lockfile import Description
from .versioned import Creator, Vanished, Versioned, entries
from .waiting import INHERIT, Timeout

__all__ = ["DataDirectory"]

log = logging.getLogger("dogpile_fs")

T = TypeVar("T")


class DataDirectory(Versioned):
    """A directory that is created when it is missing or too old, by one thread of one process, and swapped whole.

    :param path: where the directory is to be found. If nothing is there, it will be a symbolic link.
    :param expiretime: seconds after which it is stale; ``None``: never.
    :param creator: called with the path of the new version, where nothing is yet; makes a directory there.
        ``None``: this process only reads.
    :param validate: called with that path before the swap; refuses it by raising or by returning False.
    :param keep: how many earlier versions to keep for :meth:`rollback`.
    :param durable: have the new version on the disk before it is swapped in, and its name before it is stamped.
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

    @contextmanager
    def open(self, *, timeout: Timeout = INHERIT) -> Iterator[str]:
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
        for passage in self._passages(timeout):
            with passage:
                try:
                    version, name = self._entered()
                except Vanished:
                    continue
                try:
                    yield name
                finally:
                    self._leave(version)
                return

    def _loaded(self, loader: Callable[[Any], T]) -> T:
        version, name = self._entered()
        try:
            return loader(name)
        finally:
            self._leave(version)

    def _entered(self) -> tuple[Description, str]:
        """The current version, locked against removal, and its path."""
        while True:
            real = os.path.realpath(self._path)
            try:
                version = _opened(real)
            except FileNotFoundError as error:
                if os.path.exists(self._path):
                    continue  # swapped between our looks
                raise Vanished from error
            except OSError as error:
                raise explained(DatafileError, self._path, "open", error) from error
            try:
                flock(version.fd, LOCK_SH | LOCK_NB)
                if self._is_current(version):
                    return version, _name_within(version, real, moves=not os.path.islink(self._path))
            except BlockingIOError:
                pass  # being removed: it is not the current one any more
            except BaseException:
                version.close()
                raise
            version.close()

    def _leave(self, version: Description) -> None:
        current = version.fd < 0 or self._is_current(version)  # a forked child has lost it
        version.close()
        if not current and self.creator is not None:
            self._remove_old()

    def _is_current(self, version: Description) -> bool:
        try:
            st = os.stat(self._path)
        except OSError:
            return False
        return (st.st_dev, st.st_ino) == version.identity

    def _place(self) -> str:
        return os.path.join(os.path.realpath(os.path.dirname(self._path)), os.path.basename(self._path))

    def _refuse_unless_made(self, target: str) -> None:
        if swap.directory_at(target) is None:
            raise DatafileError(
                errno.ENOENT,
                f"the creator made no directory at {target!r}, the path that it was called with: {self._path!r} "
                "is what it was. Cure: let it make one there.",
            )

    def _put_in_place(self, target: str, place: str) -> None:
        try:
            version = _opened(target)
        except OSError as error:
            raise explained(DatafileError, target, "complete the new version", error) from error
        try:
            # Until it is the current one, this lock keeps it from being taken for an old one.
            flock(version.fd, LOCK_SH)
            self._complete(version, target)
            before = swap.lstat(place)
            if before is not None and stat.S_ISDIR(before.st_mode):
                swap.exchange(target, place)
                swap.rename(target, self._next_name(place))
            else:
                name = self._next_name(place)
                swap.rename(target, name)
                self._point_to(name, place)
            if self.durable:
                swap.sync_directory(os.path.dirname(place))
        finally:
            version.close()
        self._remove_old()

    def _complete(self, version: Description, target: str) -> None:
        try:
            with suppress(FileNotFoundError):
                swap.inherit_permissions(version.fd, os.stat(self._path))
            if self.durable:
                swap.sync_tree(target)
        except OSError as error:
            raise explained(DatafileError, target, "complete the new version", error) from error

    def _point_to(self, name: str, place: str) -> None:
        """Flip the symbolic link."""
        before = swap.lstat(place)
        if before is not None and not stat.S_ISLNK(before.st_mode):
            raise DatafileError(
                errno.EEXIST, f"{place!r} is neither a directory nor a link to one. Cure: move it away."
            )
        begin, end = self._marked("new", place)
        link = os.path.join(os.path.dirname(place), begin + secrets.token_hex(4) + end)
        try:
            os.symlink(os.path.basename(name), link)
        except OSError as error:
            raise explained(DatafileError, place, "make the symbolic link for", error) from error
        swap.rename(link, place)

    def _versions(self, place: str) -> list[tuple[int, str]]:
        """All versions that have a number, the last first."""
        begin, end = self._marked("dir", place)
        found = [
            (entry.name[len(begin) : -len(end)], entry.path)
            for entry in entries(os.path.dirname(place), begin)
            if entry.name.endswith(end)
        ]
        return sorted(((int(number), path) for number, path in found if number.isdecimal()), reverse=True)

    def _next_name(self, place: str) -> str:
        begin, end = self._marked("dir", place)
        versions = self._versions(place)
        number = versions[0][0] + 1 if versions else 1
        return os.path.join(os.path.dirname(place), f"{begin}{number}{end}")

    def _old(self, place: str) -> tuple[list[str], list[str]]:
        """The versions before the current one, the last first; and those that never were it, or were dropped."""
        current = os.path.realpath(place)
        versions = self._versions(place)
        number = next((number for number, path in versions if os.path.realpath(path) == current), None)
        earlier = [path for n, path in versions if number is None or n < number]
        return earlier, [path for n, path in versions if number is not None and n > number]

    def _remove_old(self) -> None:
        """Remove the versions that are neither current nor kept, and that no reader is in."""
        place = self._place()
        earlier, dropped = self._old(place)
        for path in earlier[self.keep :] + dropped:
            self._remove(path)

    def _remove(self, left: str) -> None:
        try:
            if os.path.islink(left) or not os.path.isdir(left):
                with suppress(FileNotFoundError):
                    os.unlink(left)
                return
            version = _opened(left)
        except OSError as error:
            log.warning("%r was left and cannot be removed: %s", left, error)
            return
        try:
            flock(version.fd, LOCK_EX | LOCK_NB)
            if not self._is_current(version):
                # Not under its own name: what a killed process removed by half must not be taken for a version.
                begin, end = self._marked("new", self._place())
                gone = os.path.join(os.path.dirname(left), begin + secrets.token_hex(4) + end)
                os.rename(left, gone)
                swap.remove_tree(gone)
        except BlockingIOError:
            pass  # a reader is inside, or its builder
        except FileNotFoundError:
            pass  # another was quicker
        except OSError as error:
            log.warning("%r was left and cannot be removed: %s", left, error)
        finally:
            version.close()

    def _roll_back(self) -> None:
        place = self._place()
        for path in self._old(place)[0]:
            try:
                version = _opened(path)
            except FileNotFoundError:
                continue
            try:
                flock(version.fd, LOCK_SH | LOCK_NB)
                before = swap.lstat(place)
                if before is not None and stat.S_ISDIR(before.st_mode):
                    swap.exchange(path, place)
                else:
                    self._point_to(path, place)
                if self.durable:
                    swap.sync_directory(os.path.dirname(place))
            except BlockingIOError:
                continue  # being removed
            finally:
                version.close()
            if before is not None and stat.S_ISDIR(before.st_mode):
                self._remove(path)  # where the dropped one is now
            self._remove_old()
            return
        raise DatafileError(
            errno.ENOENT, f"no earlier version of {self._path!r} was kept. Cure: keep some, with keep=1 or more."
        )


def _opened(path: str) -> Description:
    with forking.opening:
        return Description(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _name_within(version: Description, real: str, *, moves: bool) -> str:
    """A path of *version* that stays its own."""
    if moves:
        name = f"/proc/{os.getpid()}/fd/{version.fd}"
        if os.path.isdir(name):
            return name
    return real
