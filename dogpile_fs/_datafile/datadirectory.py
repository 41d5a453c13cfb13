"""DataDirectory: a directory of files that one process rebuilds when it is too old, while all others read it.

Each version is a directory of its own, ``.dogpile-dir-<digest>-<number>-<predecessor>.<name>``, and the path a
symbolic link to the current one, flipped by a rename; :mod:`.directory_history` tells which of them are kept.
Where a plain directory stands at the path it stays one: the new version changes places with it. If the old one is
not kept, it is called ``.dogpile-old-...`` from then on.

A reader holds a shared ``flock`` on its version, and a process that removes a version an exclusive one. So a
version goes when its last reader has left, and the kernel unlocks it if the reader is killed. A reader that has
locked a version checks that it still is the current one, and otherwise takes the next: the current one is never
removed.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from typing import TYPE_CHECKING, Any, Literal

from .._dogpile.policy import DEFAULT, Backoff, Policy
from .._dogpile.stamp import Stamp
from .._layout import KIND_DIRECTORY, KIND_DROPPED, KIND_NEW, TEMP_PREFIX
from .._os import fsync, mounts, permissions, replace, trust
from .._os.filesystem import has_local_directory_locks
from .._os.openfile import OpenFile
from .._os.paths import realpath
from .._os.waiting import INHERIT, Deadline, Timeout
from .._sidecar.fingerprint import Fingerprint, fingerprint_of, tag_directory
from ..errors import DatafileError, LockTimeout, as_error, os_errors_as
from .blocks import ReaderBlock
from .building import Creator, Validator
from .directory_history import DirectoryHistory
from .hidden_directory import HiddenDirectory
from .names import Names, names_in
from .resource import Resource, StaleAsVanished, Vanished
from .version_file import complete, lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta

    from .._dogpile.engine import Engine
    from .._dogpile.event import Callback
    from .._dogpile.head import Blob
    from .._dogpile.inputs import Input
    from .._dogpile.origin import Origin

__all__ = ["DataDirectory"]

log = logging.getLogger("dogpile_fs")

#: Seconds between two tries to lock a version that another process has locked to remove it, or to see that it is
#: the current one. Such a lock is held for microseconds.
_WHILE_ANOTHER_LOOKS = 0.0005


class DataDirectory(Resource[str]):
    """A directory that one thread of one process creates when it is missing or too old, and swaps in whole.

    :param path: where the directory is to be found. If nothing is there, it will be a symbolic link.
    :param expiretime: seconds after which it is stale; ``None``: never.
    :param creator: called with the path of the new version, in the hidden sub-directory ``.dogpile`` beside the
        directory, where nothing is yet; makes a directory there.
        ``None``: this object only reads.
    :param validate: called with that path before the swap; refuses it by raising or by returning False.
    :param keep: how many earlier versions to keep for :meth:`rollback`.
    :param durable: have the new version on the disk before it is swapped in, and its name before it is stamped.
        False: after a crash of the machine (not of a process) what is in it may be missing, be empty or have zeros
        in it, and it may be called fresh.
    :param timeout: seconds after which a wait gives up with :class:`LockTimeout`; ``None``: never.
    :param directory: put the coordination files there instead of beside the directory.
    :param mode: permission bits of coordination files that have to be made; ``None``: what the umask leaves of
        0o666. The directory itself keeps those of the version before; the first has what its creator gave it.
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
    :param origin: as of a :class:`.Datafile`. Only files that have changed travel between hosts.
    :raises TypeError, ValueError: for an argument of the wrong type or value.
    :raises PathError: for a *path* that cannot be coordinated. If its directory is missing, an object without a
        creator raises it here, and one with a creator at the first use.

    A directory that is there without a sidecar, or was put there by another program, counts as created at its
    mtime.

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
        expiretime: float | timedelta | None = None,
        creator: Creator | None = None,
        *,
        validate: Validator | None = None,
        keep: int = 0,
        durable: bool = True,
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

    def open(self, *, timeout: Timeout = INHERIT) -> AbstractContextManager[str]:
        """Return a context manager that yields the path of the current version; created first if missing.

        Inside the block nothing under that path is changed, replaced or removed; the next block finds a version
        that is swapped in meanwhile. Where a plain directory stands, the path leads through ``/proc``, because
        that directory will be moved; it is good for this process, and others of its user, within the block.

        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :raises LockTimeout: if the first creation did not end in time.
        :raises DatafileError: if it cannot be opened; from the creation, if the creator made no directory,
            *validate* refused it, or it cannot be put in place.
        :raises LockFileError, SidecarError, WouldDeadlock: as :meth:`.Dogpile.acquire`.
        :raises: each error of the creator and of *validate*, unchanged; the old version stays.
        """
        return ReaderBlock(self, timeout)

    def _enter(self, deadline: Deadline, *how: Any) -> tuple[OpenFile, str, int]:
        """Return the current version, locked against removal, and its path.

        :raises LockTimeout: if another program keeps it locked.
        """
        gone = ""
        with os_errors_as(DatafileError, self._path, "open", reading=True), StaleAsVanished():
            while True:
                try:
                    real = replace.resolved(self._path)
                    version = OpenFile(real).open(os.O_RDONLY | os.O_DIRECTORY)
                except FileNotFoundError as error:
                    if os.path.exists(self._path) and real != gone:
                        # Swapped between two looks; or it leads where no name does, such as through /proc.
                        gone = real
                        continue
                    raise Vanished from error
                try:
                    flock(version.fd, LOCK_SH | LOCK_NB)
                    if self._is_current(version):
                        path = _name_within(version, real, moves=not os.path.islink(self._path))
                        return version, path, version.fd
                except BlockingIOError:
                    # A process removes it, so it is not the current one any more; or is about to see that it is.
                    if deadline.left == 0:
                        raise LockTimeout(
                            f"another process kept {real!r} locked for {deadline.timeout} s. "
                            "Hint: find the process with fuser(1)."
                        ) from None
                    time.sleep(min(_WHILE_ANOTHER_LOOKS, deadline.left))
                except BaseException:
                    version.close()
                    raise
                version.close()

    def _leave(self, held: OpenFile) -> None:
        is_old = False
        try:
            with suppress(OSError):  # then that cannot be told
                # On NFS only a creator removes versions: this host may not know yet which is the current one.
                is_old = (
                    held.fd >= 0  # a forked child has lost it
                    and not self._is_current(held)
                    and not has_local_directory_locks(held.fd, held.identity)
                )
        finally:
            held.close()
        if is_old and self._creator is not None:
            self._remove_unwanted()

    def _is_current(self, version: OpenFile) -> bool:
        """:raises OSError: if that cannot be told; then *version* must not be removed."""
        try:
            st = os.stat(self._path)
        except OSError as error:
            if error.errno not in replace.LEADS_NOWHERE:
                raise
            return False
        return (st.st_dev, st.st_ino) == version.identity

    def _previous(self, destination: str) -> str | None:
        leads = realpath(self._path)
        return leads if os.path.isdir(leads) else None

    def _destination(self) -> str:
        destination = os.path.join(realpath(os.path.dirname(self._path)), os.path.basename(self._path))
        found = replace.lstat(destination)
        if found is not None and not (stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            raise DatafileError(
                errno.ENOTDIR,
                f"{destination!r} is neither a directory nor a link to one (mode {found.st_mode:o}). "
                "Hint: move it away.",
            )
        if found is not None:
            trust.refuse(destination, found)
        return destination

    def _swapped_in_directory(self) -> str:
        return os.path.dirname(self._path)  # a link at the path itself is what a swap replaces

    def _refuse_irreplaceable(self, destination: str) -> None:
        mounts.refuse_mount_point(destination)

    def _needs_listing(self, destination: str) -> bool:
        return self._keep > 0 or not _is_plain(destination)

    def _listing(
        self, destination: str, *, needed: bool = False, hidden: HiddenDirectory | None = None
    ) -> list[str]:
        return names_in(os.path.dirname(destination), TEMP_PREFIX, needed=needed)

    def _upload(self, engine: Engine, path: str, current: Blob | None) -> Blob:
        from .transfer import store_tree  # here: few use it

        return store_tree(engine, path, current, repr(self._path))

    def _download(self, engine: Engine, blob: Blob, target: str) -> None:
        from .transfer import fetch_tree

        record = self._dogpile._record
        previous = self._previous(self._destination()) if record.has_value else None
        fetch_tree(engine, blob, target, previous, record.content, repr(self._path))

    def _last_kept(self) -> str | None:
        destination = self._destination()
        for path in self._history(destination, self._listing(destination, needed=True)).to_go_back_to():
            found = replace.lstat(path)
            if found is not None and stat.S_ISDIR(found.st_mode) and not trust.is_untrusted(path, found):
                return path
        return None

    def _leftovers(
        self, destination: str, listing: list[str], directory: str | None
    ) -> Iterator[tuple[Names, list[str]]]:
        hidden = self._hidden(KIND_NEW, destination, directory)
        yield hidden, names_in(hidden.directory, hidden.begin)
        yield self._names(KIND_NEW, destination), listing

    def _put_in_place(
        self, target: str, destination: str, listing: list[str], timeout: Timeout, directory: str
    ) -> Stamp:
        with os_errors_as(DatafileError, target, "complete the new version"):
            # Until it is the current one, this lock keeps it from being taken for an old one.
            version = lock(target, LOCK_SH, os.O_DIRECTORY)
        if version is None:
            raise DatafileError(
                errno.ENOENT,
                f"{target!r} was removed, or locked by another process, before it could be put at "
                f"{destination!r}.",
            )
        history = self._history(destination, listing)
        name = None
        try:
            with closing(version):
                identity = version.identity
                # Where readers of other hosts may be in it, unseen, it stays until the next swap.
                is_spared = has_local_directory_locks(version.fd, identity)
                spared = realpath(destination) if is_spared else ""
                self._complete(version, target)
                name = target = self._moved_beside(version, target, destination)
                self._refuse_if_lost(destination, swaps=True)
                plain = _is_plain(destination)
                if self._keep or not plain:
                    name = history.next_path(follows=self._keep > 0)
                if not plain:
                    replace.rename(target, name)
                    self._point_to(name, destination)
                elif self._keep:
                    _exchange(version, target, destination, name)
                else:
                    replace.exchange(target, destination)
                    with suppress(DatafileError):  # else under the name that it has, as a leftover
                        self._remove(self._put_away(target))
                fingerprint = fingerprint_of(os.fstat(version.fd), version.fd)
        except BaseException:
            if name is not None and _is_at(identity, name):  # after a plain directory's swap it is the old version
                self._remove(name)  # unless it is the current one
            raise
        if self._durable:
            fsync.sync_directory(os.path.dirname(destination))
        self._remove_unwanted(history, self._keep, spared)
        return Stamp(fingerprint)

    def _complete(self, version: OpenFile, target: str) -> None:
        with os_errors_as(DatafileError, target, "complete the new version"):
            tag_directory(version.fd)
            with suppress(FileNotFoundError):
                real = replace.resolved(self._path)
                complete(version.fd, permissions.of(os.stat(real), real), durable=False)
        if self._durable:
            try:
                fsync.sync_tree(target)
            except DatafileError:
                raise
            except OSError as error:
                what = error.filename if isinstance(error.filename, str) else target
                raise as_error(DatafileError, what, "make durable", error, reading=True) from error

    def _moved_beside(self, version: OpenFile, target: str, destination: str) -> str:
        """Move the *version* at *target* out of the hidden sub-directory; returns its new path.

        From there it can be renamed, and changes places, whatever its permissions are.
        """
        staged = self._names(KIND_NEW, destination).path(secrets.token_hex(4))
        mode = stat.S_IMODE(os.fstat(version.fd).st_mode)
        is_read_only = not mode & stat.S_IWUSR
        if is_read_only:
            with suppress(PermissionError):  # another user's
                os.fchmod(version.fd, mode | stat.S_IWUSR)  # rename(2): its ".." changes
        replace.rename(target, staged)
        if is_read_only:
            with suppress(PermissionError):
                os.fchmod(version.fd, mode)
        return staged

    def _point_to(self, name: str, destination: str) -> None:
        """Flip the symbolic link."""
        with HiddenDirectory(destination) as hidden:
            link = self._hidden(KIND_NEW, destination, hidden.path).path(secrets.token_hex(4))
            with os_errors_as(DatafileError, destination, "make the symbolic link for"):
                os.symlink(os.path.basename(name), link)
            replace.rename(link, destination)

    def _history(self, destination: str, listing: list[str]) -> DirectoryHistory:
        names, dropped = self._names(KIND_DIRECTORY, destination), self._names(KIND_DROPPED, destination)
        return DirectoryHistory(destination, names, dropped, listing)

    def _remove_unwanted(
        self, history: DirectoryHistory | None = None, keep: int | None = None, spared: str = ""
    ) -> None:
        """Remove the dropped versions, and the earlier ones beyond the last *keep*, that no reader is in.

        The one at the path *spared* stays.

        An error is ignored: the caller has a version in place, and the next creation tries again.
        """
        with suppress(DatafileError):
            destination = self._destination()
            earlier, dropped = (history or self._history(destination, self._listing(destination))).old()
            for path in (earlier[keep:] if keep is not None else []) + dropped:
                if path != spared:
                    self._remove(path)

    def _remove(self, leftover: str) -> None:
        try:
            if os.path.islink(leftover) or not os.path.isdir(leftover):
                with suppress(FileNotFoundError):
                    os.unlink(leftover)
                return
            version = lock(leftover, LOCK_EX, os.O_DIRECTORY)
            if version is None:
                return  # a reader is inside, or its creator
            with closing(version):
                if not self._is_current(version):
                    # Under another name: a version that is half removed must not be taken for one.
                    replace.remove_tree(self._put_away(leftover))
        except OSError as error:
            if error.errno == errno.EXDEV:
                # overlayfs renames no directory of a lower layer; there it takes room whether it is seen or not.
                log.debug("%r stays: it comes with a container image", leftover)
            elif error.errno != errno.ENOENT:  # another process was quicker
                log.warning("%r was left and cannot be removed: %s", leftover, error)

    def _put_away(self, path: str) -> str:
        """Rename the version at *path* to a dropped one; returns its new path."""
        name = self._names(KIND_DROPPED, self._destination()).path(secrets.token_hex(4))
        replace.rename(path, name)
        return name

    def _roll_back(self, timeout: Timeout) -> Fingerprint | None:
        destination = self._destination()
        self._refuse_irreplaceable(destination)
        for path in self._history(destination, self._listing(destination, needed=True)).to_go_back_to():
            found = replace.lstat(path)
            if found is None or not stat.S_ISDIR(found.st_mode) or trust.is_untrusted(path, found):
                continue
            with os_errors_as(DatafileError, path, "go back to"):
                version = lock(path, LOCK_SH, os.O_DIRECTORY)
            if version is None:
                continue  # another process removes it
            with closing(version):
                self._refuse_if_lost(destination, swaps=True)
                if _is_plain(destination):
                    # The dropped one is put away; its readers do not go by its name.
                    dropped = self._names(KIND_DROPPED, destination).path(secrets.token_hex(4))
                    _exchange(version, path, destination, dropped)
                else:
                    self._point_to(path, destination)
                if self._durable:
                    fsync.sync_directory(os.path.dirname(destination))
                fingerprint = fingerprint_of(os.fstat(version.fd), version.fd)
            self._remove_unwanted()  # none of those that are kept, however few this object keeps
            return fingerprint
        return None


def _is_plain(destination: str) -> bool:
    """Return whether a plain directory stands at *destination*, and no link."""
    found = replace.lstat(destination)
    return found is not None and stat.S_ISDIR(found.st_mode)


def _is_at(identity: tuple[int, int], path: str) -> bool:
    """Return whether the directory of that device and inode is at *path*; False if the system does not say."""
    found = None
    with suppress(DatafileError):
        found = replace.lstat(path)
    return found is not None and (found.st_dev, found.st_ino) == identity


def _exchange(version: OpenFile, path: str, destination: str, name: str) -> None:
    """Put *version*, at *path*, in place of the plain directory at *destination*, which is called *name* then."""
    try:
        replace.exchange(path, destination)
        replace.rename(path, name)
    except BaseException:
        with suppress(DatafileError):
            if version.is_at(destination) and replace.lstat(path) is not None:
                replace.exchange(path, destination)  # else the old version would be removed, or gone back to
        raise


def _name_within(version: OpenFile, real: str, *, moves: bool) -> str:
    """Return a path that leads to *version* wherever it is moved."""
    if not moves or not hasattr(os, "memfd_create"):  # without it: no Linux, and no plain directory is swapped
        return real
    name = f"/proc/{os.getpid()}/fd/{version.fd}"
    try:
        os.stat(name)
    except FileNotFoundError as error:
        raise DatafileError(
            errno.ENOSYS,
            f"there is no name by which {real!r} can be read while it is swapped, because /proc is not mounted "
            "here. Hint: mount it, or move the directory away: then a symbolic link is put there.",
        ) from error
    return name
