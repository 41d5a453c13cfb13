"""Datafile: a file that one process rebuilds when it is too old, and that everyone reads."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import IO, Any, BinaryIO, Literal, TextIO, cast, overload

from .._dogpile.dogpile import SyncReaderDogpile
from .._os import fsync as durability
from .._os import permissions
from .._os import replace as swap
from .._os import trust as planted
from .._os.openfile import above_standard, let_go
from .._os.permissions import Permissions
from .._os.waiting import INHERIT, Deadline, Timeout
from .._sidecar.fingerprint import Standing, standing_of
from ..errors import DatafileError, explained, explaining
from . import open_writers as unfinished
from .blocks import Acquired, Reading, close, opened
from .file_history import KeptVersions, same_contents
from .resource import Creator, Versioned

__all__ = ["Datafile"]


class Datafile(Versioned[BinaryIO]):
    """A file that is created when it is missing or too old, by one thread of one process, and swapped in whole.

    :param path: the datafile. If it is a symbolic link, what it points to is replaced.
    :param expiretime: seconds after which it is stale; ``None``: never.
    :param creator: called with the path of the new version, beside the datafile and with the same suffix, where
        nothing is yet; makes a regular file there. ``None``: this process only reads.
    :param validate: called with that path before the swap; refuses it by raising or by returning False.
    :param keep: how many earlier versions to keep for :meth:`rollback`, as ``.dogpile-kept-...-<number>.<name>``.
    :param skip_unchanged: stamp, but do not swap, if the contents are the old ones.
    :param durable: have the new version on the disk before it is swapped in, and its name before it is stamped.
        False: after a crash of the machine (not of a process) it may be empty or have zeros in it, and be called
        fresh.
    :param readers: swap only while no process is inside an :meth:`open` or :meth:`acquire` block; for readers
        that open it again by its name. All processes must say the same.
    :param timeout: seconds after which a wait (for a first creation; with *readers*, for a swap, or of a swap for
        readers) gives up with :class:`LockTimeout`; ``None``: never.
    :param directory: put the coordination files there instead of beside the datafile.
    :param mode: permission bits of coordination files that have to be made; ``None``: what the umask leaves of
        0o666. The datafile itself keeps those of the version before; the first has what its creator gave it.
    :raises TypeError, ValueError: for arguments that are of no use.
    :raises PathError: for a *path* that cannot be coordinated.

    A file that is there without a sidecar (shipped in an image, copied by hand) counts as created at its mtime. So
    does one that a foreign hand put in the place of ours; and where it was removed, there is nothing yet.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "report.txt")
    >>> def creator(target):
    ...     with open(target, "w") as file:
    ...         _ = file.write("the report")
    >>> report = Datafile(path, 3600, creator)
    >>> with report.open("r") as file:
    ...     print(file.read())
    the report
    >>> report.refresh(), report.refresh(force=True)
    (False, True)
    """

    _resource = "file"

    def __init__(
        self,
        path: str | os.PathLike[str],
        expiretime: float | None = None,
        creator: Creator | None = None,
        *,
        validate: Creator | None = None,
        keep: int = 0,
        skip_unchanged: bool = False,
        durable: bool = True,
        readers: bool = False,
        timeout: float | None = None,
        directory: str | os.PathLike[str] | None = None,
        mode: int | None = None,
    ) -> None:
        self.skip_unchanged = skip_unchanged
        super().__init__(
            path,
            expiretime,
            creator,
            validate=validate,
            keep=keep,
            durable=durable,
            readers=readers,
            timeout=timeout,
            directory=directory,
            mode=mode,
        )

    @overload
    def open(
        self,
        mode: Literal["rb"] = "rb",
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractContextManager[BinaryIO]: ...

    @overload
    def open(
        self,
        mode: Literal["r", "rt"],
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        timeout: Timeout = INHERIT,
    ) -> AbstractContextManager[TextIO]: ...

    @overload
    def open(
        self,
        mode: str,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        timeout: Timeout = INHERIT,
    ) -> AbstractContextManager[IO[Any]]: ...

    def open(
        self,
        mode: str = "rb",
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        timeout: Timeout = INHERIT,
    ) -> AbstractContextManager[IO[Any]]:
        """A context manager that yields the current version, open for reading; created first if there is none.

        A stale one is yielded while another process creates. What was opened stays what it was until it is closed,
        whatever is swapped in meanwhile.

        :param mode: ``"rb"``, ``"r"`` or ``"rt"``.
        :param encoding: as of the built-in ``open``; so are *errors* and *newline*.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :raises LockTimeout: if the first creation (or, with readers, a swap) did not end in time.
        :raises DatafileError: if it cannot be opened; from the creation, if it made nothing, *validate* refused
            it, or it cannot be put in place.
        :raises LockFileError, SidecarError, WouldDeadlock: as :meth:`.Dogpile.acquire`.
        :raises: what the creator and *validate* raise, unchanged; the old version stays.
        """
        if mode not in ("rb", "r", "rt"):
            raise ValueError(f"mode must be 'rb', 'r' or 'rt', not {mode!r}: a datafile is written by its creator")
        return Reading(self, timeout, mode, encoding, errors, newline)

    def acquire(self, *, timeout: Timeout = INHERIT) -> AbstractContextManager[str]:
        """A context manager that yields the path of the current version, created first if there is none.

        With ``readers=True`` nothing is swapped inside the block. Otherwise the name may come to mean the next
        version at any time: whoever opens it once has one version or the other.

        :param timeout: as of :meth:`open`. The errors are the same.
        """
        return Acquired(self, timeout)

    def path(self, *, timeout: Timeout = INHERIT) -> str:
        """The path, for those who need a name, once there is something; see :meth:`acquire`."""
        with self.acquire(timeout=timeout) as path:
            return path

    @contextmanager
    def _open_current(self, deadline: Deadline) -> Iterator[tuple[Standing, BinaryIO]]:
        file, found = opened(self._path, "rb", None, None, None)
        try:
            yield standing_of(found), cast(BinaryIO, file)
        finally:
            close(file)

    def _place(self) -> str:
        place = swap.real_path(self._path)
        swap.regular_at(place)  # or it will not be replaced: to be told before the creator has toiled
        return place

    def _refuse_unless_made(self, target: str) -> None:
        found = swap.lstat(target)
        if found is None or not stat.S_ISREG(found.st_mode):
            what = "" if found is None else f", but something else (mode {found.st_mode:o})"
            raise DatafileError(
                errno.ENOENT if found is None else errno.EINVAL,
                f"the creator made no regular file at {target!r}, the path that it was called with{what}: "
                f"{self._path!r} is what it was. Cure: let it write a file there.",
            )

    def _put_in_place(self, target: str, place: str, timeout: Timeout) -> None:
        unfinished.refuse(target)
        before = swap.regular_at(place)
        if before is not None and self.skip_unchanged and same_contents(target, place):
            return
        with explaining(DatafileError, place, "look at the permissions of"):
            heir = None if before is None else permissions.of(before, place)
        self._complete(target, heir)
        kept = KeptVersions(place, self._marked)
        if self.keep and before is not None:
            kept.add_current()
        with self._nobody_inside(timeout):
            swap.rename(target, place)
        if self.durable:
            durability.sync_directory(os.path.dirname(place))
        kept.remove_all_but(self.keep)

    def _complete(self, target: str, before: Permissions | None) -> None:
        with explaining(DatafileError, target, "open the new version", reading=True):
            # Looked at anew: who may write the directory could have put something else there since it was made.
            fd = above_standard(os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            try:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode):
                    raise swap.no_regular_file(target, found)
                if before is not None:
                    # How many names it has, at a moment when this is one of them.
                    found = os.stat(target, follow_symlinks=False)
                    if not os.path.samestat(found, os.fstat(fd)):
                        raise OSError(errno.EPERM, "somebody has put another file in its place")
                    if found.st_nlink > 1 and permissions.of(found, fd) != before:
                        raise DatafileError(
                            errno.EPERM,
                            f"the new version {target!r} is a hard link, one of {found.st_nlink} names of a file: "
                            f"it is not given the permissions of {self._path!r}, because all would have them. "
                            "Cure: let the creator make a copy.",
                        )
                    permissions.inherit(fd, before)
                if self.durable:
                    durability.sync(fd)
            finally:
                let_go(fd)
        except DatafileError:
            raise
        except OSError as error:
            raise explained(DatafileError, target, "complete the new version", error) from error

    def _options(self) -> dict[str, Any]:
        readers = isinstance(self.dogpile, SyncReaderDogpile)
        return {**super()._options(), "skip_unchanged": self.skip_unchanged, "readers": readers}

    def _nobody_inside(self, timeout: Timeout) -> AbstractContextManager[None]:
        if isinstance(self.dogpile, SyncReaderDogpile):
            return self.dogpile.acquire_write_lock(timeout=timeout)
        return nullcontext()

    def _roll_back(self, timeout: Timeout) -> None:
        place = self._place()
        for _, kept in KeptVersions(place, self._marked).last_first(needed=True):
            found = swap.lstat(kept)
            if found is None or planted.is_planted(kept, found):
                continue
            if os.path.exists(place) and os.path.samefile(kept, place):
                os.unlink(kept)
                continue
            with self._nobody_inside(timeout):
                swap.rename(kept, place)
            if self.durable:
                durability.sync_directory(os.path.dirname(place))
            return
        raise DatafileError(
            errno.ENOENT, f"no earlier version of {self._path!r} was kept. Cure: keep some, with keep=1 or more."
        )

    def _remove(self, left: str) -> None:
        swap.remove(left)
