"""Datafile: a file that one process rebuilds when it is too old, and that everyone reads."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import TracebackType
from typing import IO, Any, BinaryIO, Literal, TextIO, overload

from . import permissions, planted, swap
from .dogpile import SyncReaderDogpile
from .errors import DatafileError, explained
from .lockfile import let_go
from .standing import Standing, standing_of
from .versioned import Creator, Vanished, Versioned, names_in, number_in
from .waiting import INHERIT, Deadline, Timeout

__all__ = ["Datafile"]

_PIECE = 1 << 20
#: What a file system says that has no hard links, or has no more, or not of what belongs to others
#: (sysctl fs.protected_hardlinks).
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)


class Datafile(Versioned):
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
        return _Reading(self, timeout, mode, encoding, errors, newline)

    @contextmanager
    def acquire(self, *, timeout: Timeout = INHERIT) -> Iterator[str]:
        """A context manager that yields the path of the current version, created first if there is none.

        With ``readers=True`` nothing is swapped inside the block. Otherwise the name may come to mean the next
        version at any time: whoever opens it once has one version or the other.

        :param timeout: as of :meth:`open`. The errors are the same.
        """
        for passage in self._passages(timeout):
            with passage:
                if not os.path.exists(self._path):
                    continue
                yield self._path
                return

    def path(self, *, timeout: Timeout = INHERIT) -> str:
        """The path, for those who need a name, once there is something; see :meth:`acquire`."""
        with self.acquire(timeout=timeout) as path:
            return path

    @contextmanager
    def _open_current(self, deadline: Deadline) -> Iterator[tuple[Standing, IO[Any]]]:
        file, found = self._opened("rb", None, None, None)
        try:
            yield standing_of(found), file
        finally:
            _close(file)

    def _opened(
        self, mode: str, encoding: str | None, errors: str | None, newline: str | None
    ) -> tuple[IO[Any], os.stat_result]:
        try:
            # O_NONBLOCK: a FIFO must not make us wait; to a regular file it means nothing.
            file: IO[Any] = open(self._path, mode, -1, encoding, errors, newline, True, _at_once)  # noqa: SIM115
        except FileNotFoundError as error:
            raise Vanished from error
        except OSError as error:
            raise explained(DatafileError, self._path, "open", error, reading=True) from error
        try:
            found = os.fstat(file.fileno())
        except OSError as error:
            _close(file)
            raise explained(DatafileError, self._path, "look at", error, reading=True) from error
        if not stat.S_ISREG(found.st_mode):
            _close(file)
            raise swap.no_regular_file(self._path, found)
        return file, found

    def _place(self) -> str:
        place = swap.real_path(self._path)
        swap.regular_at(place)  # or it will not be replaced: to be told before the creator has toiled
        return place

    def _refuse_unless_made(self, target: str) -> None:
        found = swap.lstat(target)
        if found is None or not stat.S_ISREG(found.st_mode):
            what = "" if found is None else f" but something else (mode {found.st_mode:o})"
            raise DatafileError(
                errno.ENOENT if found is None else errno.EINVAL,
                f"the creator made no regular file at {target!r}, the path that it was called with,{what}: "
                f"{self._path!r} is what it was. Cure: let it write a file there.",
            )

    def _put_in_place(self, target: str, place: str, timeout: Timeout) -> None:
        before = swap.regular_at(place)
        if before is not None and self.skip_unchanged and _same_contents(target, place):
            return
        self._complete(target, before)
        if self.keep and before is not None:
            self._keep(place)
        with self._nobody_inside(timeout):
            swap.rename(target, place)
        if self.durable:
            swap.sync_directory(os.path.dirname(place))
        with suppress(DatafileError):  # what was swapped in is to be stamped; the next creation tries again
            for _, kept in self._kept(place)[self.keep :]:
                with suppress(OSError):
                    os.unlink(kept)

    def _complete(self, target: str, before: os.stat_result | None) -> None:
        try:
            # Looked at anew: who may write the directory could have put something else there since it was made.
            fd = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode):
                    raise swap.no_regular_file(target, found)
                if before is not None:
                    # How many names it has, at a moment when this is one of them.
                    found = os.stat(target, follow_symlinks=False)
                    if not os.path.samestat(found, os.fstat(fd)):
                        raise OSError(errno.EPERM, "somebody has put another file in its place")
                    if found.st_nlink > 1 and _permissions(found) != _permissions(before):
                        raise DatafileError(
                            errno.EPERM,
                            f"the new version {target!r} is a hard link, one of {found.st_nlink} names of a file: "
                            f"it is not given the permissions of {self._path!r}, because all would have them. "
                            "Cure: let the creator make a copy.",
                        )
                    permissions.inherit(fd, before)
                if self.durable:
                    swap.sync(fd)
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

    def _kept(self, place: str, *, needed: bool = False) -> list[tuple[int, str]]:
        """The versions that were kept, the last first; see :func:`names_in`."""
        begin, end = self._marked("kept", place)
        directory = os.path.dirname(place)
        found = [
            (number_in(name[len(begin) : -len(end)]), os.path.join(directory, name))
            for name in names_in(directory, begin, needed=needed)
            if name.endswith(end)
        ]
        return sorted(
            ((number, path) for number, path in found if number is not None and _is_regular(path)), reverse=True
        )

    def _keep(self, place: str) -> None:
        kept = self._kept(place, needed=True)
        if kept and os.path.samefile(kept[0][1], place):
            return  # by one who was killed before he swapped
        begin, end = self._marked("kept", place)
        name = os.path.join(os.path.dirname(place), f"{begin}{kept[0][0] + 1 if kept else 1}{end}")
        begin, end = self._marked("new", place)
        copy = os.path.join(os.path.dirname(place), f"{begin}kept{end}")
        self._remove(copy)
        try:
            swap.link(place, copy)
        except DatafileError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:
                _copy(place, copy)
            except OSError as failure:
                raise explained(DatafileError, place, "keep the old version of", failure) from failure
        swap.rename(copy, name)

    def _roll_back(self, timeout: Timeout) -> None:
        place = self._place()
        for _, kept in self._kept(place, needed=True):
            found = swap.lstat(kept)
            if found is None or planted.is_planted(kept, found):
                continue
            if os.path.exists(place) and os.path.samefile(kept, place):
                os.unlink(kept)
                continue
            with self._nobody_inside(timeout):
                swap.rename(kept, place)
            if self.durable:
                swap.sync_directory(os.path.dirname(place))
            return
        raise DatafileError(
            errno.ENOENT, f"no earlier version of {self._path!r} was kept. Cure: keep some, with keep=1 or more."
        )

    def _remove(self, left: str) -> None:
        found = swap.lstat(left)
        if found is not None and stat.S_ISDIR(found.st_mode):
            swap.remove_tree(left)
        elif found is not None:
            with suppress(FileNotFoundError):
                os.unlink(left)


class _Reading:
    """A block with the current version open. No generator: it would cost as much as the opening."""

    __slots__ = ("_datafile", "_file", "_how", "_passage", "_timeout")

    _file: IO[Any]

    def __init__(self, datafile: Datafile, timeout: Timeout, *how: Any) -> None:
        self._datafile = datafile
        self._timeout = timeout
        self._how = how
        self._passage: AbstractContextManager[None] | None = None

    def __enter__(self) -> IO[Any]:
        datafile = self._datafile
        if not isinstance(datafile.dogpile, SyncReaderDogpile) and self._open_fresh():
            return self._file
        for passage in datafile._passages(self._timeout):
            passage.__enter__()
            try:
                self._file, _ = datafile._opened(*self._how)
            except Vanished:
                passage.__exit__(None, None, None)
            except BaseException as error:
                passage.__exit__(type(error), error, error.__traceback__)
                raise
            else:
                self._passage = passage
                return self._file
        raise AssertionError("unreachable")

    def _open_fresh(self) -> bool:
        """Whoever has opened what is fresh has passed: that spares a look at the path."""
        try:
            file, found = self._datafile._opened(*self._how)
        except (Vanished, DatafileError):
            return False  # a creation may cure it
        try:
            self._passage = self._datafile.dogpile.pass_with(found)
        finally:
            if self._passage is None:
                _close(file)
        self._file = file
        return self._passage is not None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            _close(self._file)
        finally:
            assert self._passage is not None
            self._passage.__exit__(kind, error, trace)


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _close(file: IO[Any]) -> None:
    """Close a file that was only read; see :func:`.lockfile.let_go`."""
    with suppress(OSError):
        file.close()


def _is_regular(path: str) -> bool:
    found = swap.lstat(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def _permissions(found: os.stat_result) -> tuple[int, int, int]:
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


def _copy(path: str, name: str) -> None:
    """Copy the file at *path*, with permissions and times, to *name*, where nothing is, nor a link elsewhere."""
    with (
        open(path, "rb", opener=_itself) as source,
        open(name, "xb", opener=_itself) as copy,
    ):
        found = os.fstat(source.fileno())
        shutil.copyfileobj(source, copy, _PIECE)
        copy.flush()
        os.utime(copy.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
        permissions.inherit(copy.fileno(), found)
        swap.sync(copy.fileno())


def _itself(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)


def _same_contents(one: str, other: str) -> bool:
    try:
        with open(one, "rb", opener=_itself) as a, open(other, "rb", opener=_itself) as b:
            found = os.fstat(b.fileno())
            if not stat.S_ISREG(found.st_mode) or os.fstat(a.fileno()).st_size != found.st_size:
                return False
            while piece := a.read(_PIECE):
                if piece != b.read(_PIECE):
                    return False
            return True
    except OSError:
        return False
