"""Datafile: a file that one process rebuilds when it is too old, while all others read it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal, TextIO, cast, overload

from .._dogpile.key_pattern import refuse_path_of_key
from .._dogpile.policy import DEFAULT, Backoff, Policy
from .._dogpile.stamp import Stamp
from .._layout import KIND_KEPT, KIND_NEW, TEMP_PREFIX
from .._os import fsync, mounts, permissions, replace
from .._os.openfile import close_quietly
from .._os.permissions import Permissions
from .._os.waiting import INHERIT, Deadline, Timeout
from .._sidecar.fingerprint import Fingerprint, fingerprint_of
from ..errors import DatafileError, os_errors_as
from . import open_writers
from .blocks import Acquired, Reading, close, opened
from .building import Creator, Validator
from .file_history import FileHistory, same_contents
from .hidden_directory import HiddenDirectory
from .names import Names, names_in
from .resource import Resource
from .version_file import complete, open_itself, permissions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta

    from .._dogpile.engine import Engine
    from .._dogpile.event import Callback
    from .._dogpile.head import Blob
    from .._dogpile.inputs import Input
    from .._dogpile.origin import Origin

__all__ = ["Datafile", "check_mode"]


class Datafile(Resource[BinaryIO]):
    """A file that one thread of one process creates when it is missing or too old, and swaps in whole.

    :param path: the datafile. If it is a symbolic link, what it points to is replaced.
    :param expiretime: seconds after which it is stale; ``None``: never.
    :param creator: called with the path of the new version, in the hidden sub-directory ``.dogpile`` beside the
        datafile and with the same suffix, where nothing is yet; makes a regular file there. ``None``: this object
        only reads.
    :param validate: called with that path before the swap; refuses it by raising or by returning False.
    :param keep: how many earlier versions to keep for :meth:`rollback`, there as well.
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
    :param parents: make the directory that it is in, and *directory*, at the first creation if they are missing.
        False: then that creation raises :class:`PathError`.
    :param backoff: when a creation may be tried again after failures, by any process; ``None``: at once.
    :param stale_if_error: a reader whose creation fails gets the old version, and the log has the error; seconds:
        only up to so long past its expiry; False: it gets the creator's exception. ``refresh`` always raises.
    :param max_stale: seconds past expiry (or the first invalidation) after which no reader gets the old version;
        ``None``: it may be of any age.
    :param refresh_early: a creation may begin at this fraction of the lifetime, while all others still pass fresh.
    :param jitter: the lifetime of each version is shortened by up to this fraction, drawn once per version.
    :param depends_on: paths and datafiles; a version is stale as soon as one of them is another than when its
        creation began. A missing one counts, too.
    :param background: no caller that has an old version waits for a creation. ``"thread"``: it runs in a daemon
        thread of the process that was elected; ``"process"``: in a process of its own, which outlives that one,
        so that *creator* and *validate* must be importable. The first creation runs there as well; its callers
        wait, for *timeout* at most. ``refresh`` waits with ``"process"``, and creates itself with ``"thread"``.
    :param creator_timeout: seconds after which that process is ended, with its children.
    :param background_setup: called in that process before *creator* is imported, such as ``django.setup``.
    :param exit_wait: seconds for which a process that ends waits for the creations in its threads.
    :param on_event: called with each :class:`Event` of this object, in the thread that causes it: creations, and
        never passes. What it raises is logged.
    :param policy: these in one :class:`Policy`, which many datafiles may share.
    :param origin: where the hosts that share this datafile agree on its version and fetch it from: an
        :class:`.Origin`, its URL, or the path of a directory on a shared mount. One host creates, all others
        fetch. It goes with no *directory* and no *depends_on*.
    :raises TypeError, ValueError: for an argument of the wrong type or value.
    :raises PathError: for a *path* that cannot be coordinated. If its directory is missing, an object without a
        creator raises it here, and one with a creator at the first use.

    A file that is there without a sidecar (shipped in an image, copied by hand) counts as created at its mtime. So
    does one that another program put in the place of ours. Where it was removed, the state is "missing".

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "report.txt")
    >>> def creator(target):
    ...     with open(target, "w") as file:
    ...         _ = file.write("the report")
    >>> report = Datafile(path, 3600, creator)
    >>> with report.open("r") as file:
    ...     print(file.read())
    the report
    >>> str(report.refresh()), str(report.refresh(force=True))
    ('fresh', 'created')
    """

    _resource = "file"

    def __init__(
        self,
        path: str | os.PathLike[str],
        expiretime: float | timedelta | None = None,
        creator: Creator | None = None,
        *,
        validate: Validator | None = None,
        keep: int = 0,
        skip_unchanged: bool = False,
        durable: bool = True,
        readers: bool = False,
        timeout: float | None = None,
        directory: str | os.PathLike[str] | None = None,
        mode: int | None = None,
        parents: bool = False,
        backoff: Backoff | None = DEFAULT.backoff,
        stale_if_error: bool | float | timedelta = True,
        max_stale: float | timedelta | None = None,
        refresh_early: float | None = None,
        jitter: float = 0.0,
        depends_on: Iterable[Input] = (),
        background: Literal["thread", "process"] | None = None,
        creator_timeout: float | timedelta | None = None,
        background_setup: Callable[[], object] | None = None,
        exit_wait: float | timedelta = DEFAULT.exit_wait,
        on_event: Callback | None = None,
        policy: Policy | None = None,
        origin: Origin | str | os.PathLike[str] | None = None,
    ) -> None:
        self._skip_unchanged = skip_unchanged
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
            parents=parents,
            policy=policy,
            origin=origin,
            backoff=backoff,
            stale_if_error=stale_if_error,
            max_stale=max_stale,
            refresh_early=refresh_early,
            jitter=jitter,
            depends_on=depends_on,
            background=background,
            creator_timeout=creator_timeout,
            background_setup=background_setup,
            exit_wait=exit_wait,
            on_event=on_event,
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
        """Return a context manager that yields the current version, open for reading; created first if missing.

        A stale one is yielded while another process creates. What was opened stays what it was until it is closed,
        whatever is swapped in meanwhile.

        :param mode: ``"rb"``, ``"r"`` or ``"rt"``.
        :param encoding: as of the built-in ``open``; so are *errors* and *newline*.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :raises LockTimeout: if the first creation (or, with readers, a swap) did not end in time.
        :raises ValueError: for another *mode*.
        :raises DatafileError: if it cannot be opened; from the creation, if the creator made no file, *validate*
            refused it, or it cannot be put in place.
        :raises LockFileError, SidecarError, WouldDeadlock: as :meth:`.Dogpile.acquire`.
        :raises: each error of the creator and of *validate*, unchanged; the old version stays.
        """
        if mode != "rb":
            check_mode(mode)
        return Reading(self, timeout, mode, encoding, errors, newline)

    def acquire(self, *, timeout: Timeout = INHERIT) -> AbstractContextManager[str]:
        """Return a context manager that yields the path of the current version; created first if missing.

        With ``readers=True`` nothing is swapped inside the block. Otherwise the path may lead to the next version
        at any time: a caller that opens it once has one version or the other.

        :param timeout: as of :meth:`open`. The errors are the same.
        """
        return Acquired(self, timeout)

    def path(self, *, timeout: Timeout = INHERIT) -> str:
        """Return the path of the datafile, created first if missing; see :meth:`acquire`."""
        with self.acquire(timeout=timeout) as path:
            return path

    def _enter(self, deadline: Deadline, *how: Any) -> tuple[IO[Any], BinaryIO, int]:
        file, _ = opened(self._path, *how)
        return file, cast(BinaryIO, file), file.fileno()

    def _leave(self, held: IO[Any]) -> None:
        close(held)

    def _destination(self) -> str:
        destination, found = replace.found_behind(self._path)
        replace.refuse_irregular(destination, found)
        return destination

    def _refuse_irreplaceable(self, destination: str) -> None:
        self._refuse_destination(destination)
        mounts.refuse_mount_point(destination)
        open_writers.refuse_log_beside(destination, self._path)

    def _refuse_destination(self, destination: str) -> None:
        """:raises PathError: if a key has the file, whose pattern may be in use only since this object was made,
        or to which a symbolic link leads.
        """
        refuse_path_of_key(destination)

    def _needs_listing(self, destination: str) -> bool:
        return self._keep > 0 and os.path.lexists(destination)

    def _listing(
        self, destination: str, *, needed: bool = False, hidden: HiddenDirectory | None = None
    ) -> list[str]:
        if hidden is not None and hidden.is_new:
            return []
        directory = None if hidden is None else hidden.path
        return names_in(self._hidden(KIND_NEW, destination, directory).directory, TEMP_PREFIX, needed=needed)

    def _leftovers(
        self, destination: str, listing: list[str], directory: str | None
    ) -> Iterator[tuple[Names, list[str]]]:
        if listing:
            yield self._hidden(KIND_NEW, destination, directory), listing

    def _put_in_place(
        self, target: str, destination: str, listing: list[str], timeout: Timeout, directory: str
    ) -> Stamp:
        open_writers.refuse_log_of(target)
        found = replace.regular_at(destination)
        if found is not None and self._skip_unchanged and same_contents(target, destination):
            return Stamp(fingerprint_of(found), is_new=False)
        fingerprint, is_finished = self._complete(target, permissions_of(found, destination))
        stamp = Stamp(fingerprint, is_unfinished=not is_finished)
        if not (self._keep or listing):
            self._swap(target, destination, timeout)
            return stamp
        history = self._history(destination, listing, directory)
        try:
            if self._keep and found is not None:
                history.add_current()
            self._swap(target, destination, timeout)
        finally:
            if not self._dogpile.dogpilelock.lost:  # else another creator may have kept the current one
                history.remove_all_but(self._keep)
        return stamp

    def _is_swapped_alone(self) -> bool:
        return not (self._keep or self._skip_unchanged or self._readers)

    def _complete(self, target: str, predecessor: Permissions | None) -> tuple[Fingerprint, bool]:
        """Return its fingerprint, and whether it is known that no process has it open for writing."""
        with os_errors_as(DatafileError, target, "open the new version", reading=True):
            fd = open_itself(target, os.O_RDONLY)
        try:
            return self._complete_open(fd, target, predecessor)
        finally:
            close_quietly(fd)

    def _complete_open(self, fd: int, target: str, predecessor: Permissions | None) -> tuple[Fingerprint, bool]:
        with os_errors_as(DatafileError, target, "complete the new version"):
            # By the path: the number of its names, at a moment when this is one of them. Another user who may
            # write the directory could have put another file there since the creator returned.
            found = os.stat(target, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise replace.no_regular_file(target, found)
            opened = os.fstat(fd)
            if not os.path.samestat(found, opened):
                raise OSError(errno.EPERM, "another program has put another file in its place")
            is_finished = open_writers.wait_for_writers(fd, target)
            if predecessor and found.st_nlink > 1 and permissions.of(found, fd) != predecessor:
                raise DatafileError(
                    errno.EPERM,
                    f"the new version {target!r} is a hard link, one of {found.st_nlink} names of a file: "
                    f"it is not given the permissions of {self._path!r}, because all would have them. "
                    "Hint: let the creator make a copy.",
                )
            complete(fd, predecessor, durable=self._durable, now=opened)
            return fingerprint_of(os.fstat(fd)), is_finished

    def _swap(self, new: str, destination: str, timeout: Timeout) -> None:
        """Put *new* in place while no reader is inside a block."""
        with self._dogpile._readers.write(timeout):
            self._refuse_if_lost(destination, swaps=True)
            open_writers.refuse_log_beside(destination, self._path)
            replace.rename(new, destination)
        if self._durable:
            fsync.sync_directory(os.path.dirname(destination))

    def _history(self, destination: str, listing: list[str], directory: str | None = None) -> FileHistory:
        names = self._hidden(KIND_KEPT, destination, directory)
        copy = self._hidden(KIND_NEW, destination, names.directory).path("kept")
        return FileHistory(destination, names, copy, listing)

    def _upload(self, engine: Engine, path: str, current: Blob | None) -> Blob:
        from .transfer import store_file  # here: few use it

        return store_file(engine, path, current, repr(self._path))

    def _download(self, engine: Engine, blob: Blob, target: str) -> None:
        from .transfer import fetch_file

        fetch_file(engine, blob, target, repr(self._path))

    def _last_kept(self) -> str | None:
        destination = self._destination()
        history = self._history(destination, self._listing(destination, needed=True))
        history.remove_current()
        return next((kept for kept in history.last_first() if replace.lstat(kept) is not None), None)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "skip_unchanged": self._skip_unchanged, "readers": self._readers}

    def _roll_back(self, timeout: Timeout) -> Fingerprint | None:
        destination = self._destination()
        self._refuse_irreplaceable(destination)
        history = self._history(destination, self._listing(destination, needed=True))
        history.remove_current()
        for kept in history.last_first():
            found = replace.lstat(kept)
            if found is not None:
                with HiddenDirectory(destination):
                    self._swap(kept, destination, timeout)
                return fingerprint_of(found)
        return None


def check_mode(mode: str) -> None:
    """:raises ValueError: if *mode* is none in which a datafile is opened."""
    if mode not in ("rb", "r", "rt"):
        raise ValueError(f"mode must be 'rb', 'r' or 'rt', not {mode!r}: a datafile is written by its creator")
