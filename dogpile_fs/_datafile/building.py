"""One creation: a target is built beside what is in place, checked, swapped in, and given to other hosts.

A file in the hidden sub-directory whose name begins with ``.dogpile-new-`` while no process creates was left by a
killed creator; the next creation removes it.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from types import EllipsisType
from typing import TYPE_CHECKING, Literal
from weakref import ref

from .._dogpile.background import Background
from .._dogpile.dogpile import Dogpile
from .._dogpile.outcome import Outcome
from .._dogpile.plain_call import called
from .._dogpile.stamp import NOT_SWAPPED, Stamp
from .._layout import KIND_FETCHED, KIND_NEW
from .._os import replace
from .._os.paths import realpath
from .._os.waiting import Timeout
from ..errors import DatafileError, OriginError, PathError, WouldDeadlock, os_errors_as
from . import open_writers
from .hidden_directory import HiddenDirectory
from .leftovers import remove_leftovers
from .made_instead import made_instead, signature
from .names import Names, names_in
from .target import Target

if TYPE_CHECKING:
    from .._dogpile.engine import Engine
    from .._dogpile.head import Blob
    from .._dogpile.host_election import Publish
    from .._dogpile.host_fetcher import Wanted
    from .._sidecar.record import Record

__all__ = ["MOST_BUILDS", "Builder", "Creator", "Replica", "Validator"]

log = logging.getLogger("dogpile_fs")

#: Called with a path, and returns or raises.
Validator = Callable[[str], object]
#: Called with the path of a new version, where nothing is yet; makes it there.
Creator = Callable[[Target], object]

#: Times that a creation is tried while other creators, for lack of a lock file, remove what it builds; and the
#: errors by which such a removal shows.
MOST_BUILDS = 3
_CROSSED = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
#: The result of a creation in a child that was forked inside the creator: its parent goes on with the swap.
_IN_CHILD = Stamp(None)
#: Of a creator that has found nothing new at its source.
_UNCHANGED = Stamp(None, is_new=False, outcome=Outcome.unchanged)


class _LockLost(DatafileError):
    """The creation mutex was lost, so that another caller may be creating: nothing is put in place."""


class Replica:
    """What a resource does with its versions for other hosts. It does not keep the resource alive."""

    def __init__(self, resource: Builder) -> None:
        self._resource = ref(resource)

    def store(self, engine: Engine, path: str, current: Blob | None) -> Blob:
        return self._here()._upload(engine, path, current)

    def fetch(self, engine: Engine, blob: Blob) -> Stamp:
        return self._here()._fetch(engine, blob)

    def _here(self) -> Builder:
        resource = self._resource()
        assert resource is not None  # its user is in a call of it
        return resource


class Builder(ABC):
    """Makes new versions of a resource, and puts them in place."""

    _resource: Literal["file", "directory"]
    #: The Dogpile that coordinates it. While its directory is missing, it is made at the first use.
    _dogpile: Dogpile
    _path: str
    _creator: Creator | None
    _validate: Validator | None
    _timeout: float | None
    _background: Background | None
    _parents: bool

    def _create(self, timeout: Timeout, wanted: Wanted = "pass") -> Stamp:
        """Be the dogpile's creator: build, validate, swap; *timeout* bounds the swap's wait for readers.

        :param wanted: what the caller is there for, where another host may create instead.
        :returns: what was swapped in; ``NOT_SWAPPED`` if the lock file was removed meanwhile, so that another
            caller may be creating, or if the path leads elsewhere by now, where another version may be fresh.
        """
        if self._dogpile._readers._inside():
            raise WouldDeadlock(
                f"this thread is inside a block of {self._path!r}, and no new version is swapped in before it has "
                "left it. Hint: leave the block before you create."
            )
        host = self._dogpile._shared.host
        if host is None:
            record = self._dogpile._record
            self._refuse_replica(record)
            return self._build(timeout, record=record)
        bound = self._timeout if isinstance(timeout, EllipsisType) else timeout
        return host.create(partial(self._build, timeout), bound, wanted)

    def _refuse_replica(self, record: Record) -> None:
        """:raises OriginError: if other processes of this host share it with other hosts."""
        if record.ask_at is None:
            return
        from .._dogpile.host_scope import watch_at  # here: few need it

        url = watch_at(self._path).url
        raise OriginError(
            url,
            f"{self._path!r} is this host's copy of what the origin {url!r} has: nothing is created for this host "
            "alone. Hint: name the origin here as well (origin=, --origin).",
        )

    def _build(self, timeout: Timeout, publish: Publish | None = None, *, record: Record | None = None) -> Stamp:
        """Build, validate, swap.

        :param publish: has all hosts agree on the new version before it is swapped in.
        :param record: what is on record, if it was read a moment ago.
        """
        for more in reversed(range(MOST_BUILDS)):
            try:
                stamp = self._build_and_swap(timeout, publish, record, may_repeat=more > 0)
            except replace.Retargeted as error:
                log.warning("%s", error.strerror)
                return NOT_SWAPPED
            except _LockLost:
                break
            if stamp is not None:
                return stamp
            if self._dogpile.dogpilelock.lost:
                break
            record = None
            log.warning("the new version of %r was removed before it was in place; building it again", self._path)
        log.warning(
            "%r: not swapped: the lock file was removed while the new version was built, or the path came to lead "
            "elsewhere",
            self._path,
        )
        return NOT_SWAPPED

    def _build_and_swap(
        self, timeout: Timeout, publish: Publish | None, record: Record | None, *, may_repeat: bool
    ) -> Stamp | None:
        """Return what is put on record; ``None`` if another creator, for lack of a lock file, was in the way.

        That creator took the new version for a leftover, or gave its own the same number. An error that the
        creator meets because of that is raised.
        """
        destination = self._room_for_new_version()
        with HiddenDirectory(destination) as hidden:
            return self._build_in_hidden(destination, hidden, record, timeout, publish, may_repeat=may_repeat)

    def _room_for_new_version(self) -> str:
        """Return the path that a swap will replace.

        :raises DatafileError: if it cannot be replaced.
        """
        with os_errors_as(DatafileError, self._path, "make room for a new version of"):
            destination = self._destination()
            self._refuse_irreplaceable(destination)
            self._make_parents(os.path.dirname(destination))
        return destination

    def _make_parents(self, directory: str) -> None:
        """Make *directory* if that is asked for.

        :raises PathError: if it is missing all the same.
        """
        with os_errors_as(PathError, directory, "make the directory"):
            if self._parents:
                os.makedirs(directory, exist_ok=True)
        with os_errors_as(PathError, directory, "look at"):
            try:
                os.stat(directory)
            except (FileNotFoundError, NotADirectoryError):
                raise PathError(
                    errno.ENOENT,
                    f"the directory {directory!r} does not exist. Hint: make it first, or pass parents=True.",
                ) from None

    def _build_in_hidden(
        self,
        destination: str,
        hidden: HiddenDirectory,
        record: Record | None,
        timeout: Timeout,
        publish: Publish | None,
        *,
        may_repeat: bool,
    ) -> Stamp | None:
        assert self._creator is not None
        process, is_made, is_done = os.getpid(), False, False
        with os_errors_as(DatafileError, self._path, "make room for a new version of"):
            names = self._hidden(KIND_NEW, destination, hidden.path)
            listing = self._listing(destination, needed=self._needs_listing(destination), hidden=hidden)
            self._remove_leftovers(destination, listing, hidden.path)
        previous = self._previous(destination)
        note = (record or self._dogpile._record).note if previous is not None else ""
        target = Target(names.path(secrets.token_hex(4)), previous, note)
        before = signature(self._path)
        try:
            answer = called(self._creator, target)
            if os.getpid() != process:
                return _IN_CHILD
            if target._is_unchanged_by(answer):
                said = target._complete(_UNCHANGED)
                return said if publish is None else publish(None, said, self._stamp_of_current)
            self._refuse_unless_made(target, before)
            is_made = True
            if publish is not None or self._validate is not None or not self._is_swapped_alone():
                # Before a validator, another host or a kept version has to do with it. The swap looks again.
                open_writers.refuse(target)
                self._refuse_invalid(target)
                self._refuse_if_lost(destination)
            if publish is None:
                swap = target._complete(self._swapped_in(target, destination, hidden, listing, timeout))
            else:
                put = partial(self._swapped_in, target, destination, hidden, None, timeout)
                swap = publish(target, target._complete(Stamp(None)), put)
            is_done = True
            return swap
        except DatafileError as error:
            if error.errno in _CROSSED and (self._dogpile.dogpilelock.lost or (is_made and may_repeat)):
                return None
            raise
        finally:
            if os.getpid() == process:
                with suppress(OSError):  # it must not hide an earlier error; the next creation tries again
                    if not (is_done and hidden.remove_if_empty()):
                        for suffix in ("", *open_writers.COMPANIONS):
                            replace.remove(target + suffix)
                    if not is_done:  # other names beside the new version are left to the next creation otherwise
                        self._remove_leftovers(destination, self._listing(destination))

    def _refuse_invalid(self, target: str) -> None:
        """:raises DatafileError: if the user refuses the new version at *target*."""
        if self._validate is not None and _is_refusal(called(self._validate, target)):
            raise DatafileError(
                errno.EINVAL,
                f"validate refused the new version of {self._path!r}: the old one stays.",
            )

    def _swapped_in(
        self,
        target: str,
        destination: str,
        hidden: HiddenDirectory,
        listing: list[str] | None,
        timeout: Timeout,
    ) -> Stamp:
        """Put the new version at *target* in place, and return what is put on record.

        :param listing: as of :meth:`_listing`; ``None``: read it now.
        """
        with os_errors_as(DatafileError, self._path, "put the new version at"):
            directory = hidden.checked()
            if listing is None:
                listing = self._listing(destination, needed=self._needs_listing(destination))
            return self._put_in_place(target, destination, listing, timeout, directory)

    def _stamp_of_current(self) -> Stamp:
        return Stamp(self._dogpile._shared.scope.fingerprint(), is_new=False)

    def _fetch(self, engine: Engine, blob: Blob) -> Stamp:
        """Put a version of another host in place; the caller holds the mutex under which that is done.

        :raises Gone, Down: if the engine does not give it.
        """
        destination = self._room_for_new_version()
        with HiddenDirectory(destination) as hidden:
            names = self._hidden(KIND_FETCHED, destination, hidden.path)
            for middle in names.middles(names_in(names.directory, names.begin)):
                with suppress(OSError):
                    replace.remove(names.path(middle))  # of a caller that was killed
            target = names.path(secrets.token_hex(4))
            try:
                with os_errors_as(DatafileError, target, "write what was fetched to"):
                    self._download(engine, blob, target)
                self._refuse_invalid(target)
                return self._swapped_in(target, destination, hidden, None, self._timeout)
            finally:
                with suppress(OSError):
                    replace.remove(target)

    def _refuse_if_lost(self, destination: str, *, swaps: bool = False) -> None:
        """Look again right before a swap: the wait for readers or for the disk may have been long (I1).

        :param swaps: this is the last look; the swap follows.
        :raises Retargeted: if the path leads elsewhere than to *destination*, to a resource of its own.
        :raises _LockLost: if another program has removed the lock file, or a server has given the lock to others.
        """
        leads = self._destination()
        if leads != destination:
            raise replace.Retargeted.from_to(self._path, destination, leads)
        host = self._dogpile._shared.host
        if self._dogpile.dogpilelock.lost or (host is not None and host.scope.fetch_mutex.lost):
            raise _LockLost(
                errno.ENOLCK,
                f"nothing was put at {self._path!r}: its lock file was removed meanwhile, the path came to lead "
                "elsewhere, or a network server has given its locks to others. Hint: keep cleaners away from it.",
            )
        if swaps and self._background is not None and self._background.is_abandoned():
            raise DatafileError(errno.ECANCELED, f"nothing was put at {self._path!r}: this process ends")

    def _names(self, kind: str, destination: str) -> Names:
        """Return the names of a *kind* beside *destination*."""
        return Names.beside(kind, destination, self._owner(destination))

    def _hidden(self, kind: str, destination: str, directory: str | None = None) -> Names:
        """Return the names of a *kind* in the hidden sub-directory beside *destination*, as of :class:`.Names`.

        :param directory: that sub-directory, if it was checked a moment ago.
        """
        return Names.hidden(kind, destination, self._owner(destination), directory)

    def _owner(self, destination: str) -> str:
        # Callers that reach a file by different links do not share a mutex, so they must not share such names.
        own = destination
        if destination != self._path and os.path.islink(self._path):
            own = os.path.join(realpath(os.path.dirname(self._path)), os.path.basename(self._path))
        return "" if own == destination else own

    def _remove_leftovers(self, destination: str, listing: list[str], directory: str | None = None) -> None:
        """Remove what a killed creator left, and what its programs put beside that.

        :param listing: as of :meth:`_listing`.
        :param directory: as of :meth:`_hidden`.
        """
        for names, found in self._leftovers(destination, listing, directory):
            left = [name for name in found if name.startswith(names.begin)]
            if left and not self._dogpile.dogpilelock.lost:  # else another may be creating there
                remove_leftovers(names, left)

    def _refuse_unless_made(self, target: str, before: tuple[int, ...] | None) -> None:
        """:raises DatafileError: if the creator did not make a file, or a directory, at *target*."""
        found = replace.lstat(target)
        is_right, kind, wrong = _KINDS[self._resource]
        if found is None or not is_right(found.st_mode):
            but, hint = "", "let it make one there"
            if found is not None:
                but = f", but something else (mode {found.st_mode:o})"
            elif instead := made_instead(target, self._path, before):
                but, hint = f", {instead[0]}", instead[1]
            if signature(self._path) == before:
                but += f": {self._path!r} is what it was"
            raise DatafileError(
                errno.ENOENT if found is None else wrong,
                f"the creator made no {kind} at {target!r}, the path that it was called with{but}. Hint: {hint}.",
            )

    def _previous(self, destination: str) -> str | None:
        """Return the path of the version that is in place, for the creator; ``None`` if there is none."""
        return destination if os.path.exists(destination) else None

    @abstractmethod
    def _destination(self) -> str:
        """The path that a swap replaces."""

    @abstractmethod
    def _refuse_irreplaceable(self, destination: str) -> None:
        """:raises DatafileError: if *destination* cannot be replaced: better told before the creator runs."""

    @abstractmethod
    def _needs_listing(self, destination: str) -> bool:
        """Return whether a creation cannot do without the names of earlier versions."""

    @abstractmethod
    def _put_in_place(
        self, target: str, destination: str, listing: list[str], timeout: Timeout, directory: str
    ) -> Stamp:
        """Swap, waiting for readers until *timeout*; *listing* was read before the creator ran.

        :param directory: as of :meth:`_hidden`.
        :returns: what is in place now; its fingerprint is its own, and not of where the path leads.
        """

    @abstractmethod
    def _upload(self, engine: Engine, path: str, current: Blob | None) -> Blob:
        """Store the version at *path*, as :meth:`.Replica.store` does."""

    @abstractmethod
    def _download(self, engine: Engine, blob: Blob, target: str) -> None:
        """Make the version *blob* at *target*.

        :raises Gone, Down: if the engine does not give it.
        """

    @abstractmethod
    def _listing(
        self, destination: str, *, needed: bool = False, hidden: HiddenDirectory | None = None
    ) -> list[str]:
        """Return the names where versions are kept: read at most once a creation, because it may be many.

        :param needed: as of :func:`.names_in`.
        :param hidden: the hidden sub-directory, whose block was entered a moment ago.
        """

    def _is_swapped_alone(self) -> bool:
        """Return whether the swap looks for itself, and first, whether the new version is finished and the path
        still is this creator's, and does nothing with an earlier version."""
        return False

    @abstractmethod
    def _leftovers(
        self, destination: str, listing: list[str], directory: str | None
    ) -> Iterator[tuple[Names, list[str]]]:
        """Yield the names of unfinished versions, with the names in their directory; *listing* is at hand."""


#: Of each kind of resource: the test of a mode, its name in messages, the error if something else was made.
_KINDS: dict[str, tuple[Callable[[int], bool], str, int]] = {
    "file": (stat.S_ISREG, "regular file", errno.EINVAL),
    "directory": (stat.S_ISDIR, "directory", errno.ENOTDIR),
}


def _is_refusal(verdict: object) -> bool:
    # Numpy's False is another object, of a type of its own; pandas' is numpy's.
    return verdict is False or (type(verdict).__name__ in ("bool", "bool_") and not verdict)
