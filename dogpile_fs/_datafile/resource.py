"""Build beside, swap, stamp: what a datafile and a directory of data have in common.

Stands on the public face of :class:`~.dogpile.Dogpile`: who creates, who waits and who passes is decided there.
Here a creator is given a place to build, what it built is looked at, put in place in one step, and what a killed
creator left is removed by the next one. What is called ``.dogpile-new-...`` while nobody creates was left.
"""

from __future__ import annotations

import errno
import logging
import operator
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from time import time
from types import EllipsisType
from typing import Any, Generic, Literal, TypeVar

from .._dogpile.dogpile import Dogpile, SyncReaderDogpile
from .._dogpile.guard import Pass
from .._dogpile.status import Status
from .._layout import names_in
from .._os import fork as forking
from .._os import replace as swap
from .._os.paths import absolute
from .._os.waiting import INHERIT, Deadline, Timeout
from .._sidecar.fingerprint import Standing, standing_at, stands
from ..errors import DatafileError, WouldDeadlock, explaining
from .loader_cache import Loading, Version, key_of

__all__ = ["Creator", "Vanished", "Versioned"]

log = logging.getLogger("dogpile_fs")

T = TypeVar("T")
#: What a loader is given.
_Given = TypeVar("_Given")

#: Called with the path of a new version, where nothing is yet; makes it there.
Creator = Callable[[str], object]

#: How often a version may vanish between the pass and the opening before that is told.
_ATTEMPTS = 10


#: How often a creation is tried that another crosses, and what it meets then.
_BUILDS = 3
_CROSSED = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)


class Vanished(Exception):
    """What was there at the pass is not there any more: pass again."""


class Versioned(ABC, Generic[_Given]):
    """A resource that is replaced whole, by one process, while all others use it."""

    _resource: Literal["file", "directory"]

    def __init__(
        self,
        path: str | os.PathLike[str],
        expiretime: float | None,
        creator: Creator | None,
        *,
        validate: Creator | None,
        keep: int,
        durable: bool,
        readers: bool,
        timeout: float | None,
        directory: str | os.PathLike[str] | None,
        mode: int | None,
    ) -> None:
        for name, function in (("creator", creator), ("validate", validate)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function of a path, not {function!r}")
        self.keep = operator.index(keep)
        if self.keep < 0:
            raise ValueError(f"keep must be a number of versions, not {keep!r}")
        kind = SyncReaderDogpile if readers else Dogpile
        #: The Dogpile that coordinates it.
        self.dogpile = kind(
            expiretime, path, timeout=timeout, directory=directory, mode=mode, resource=self._resource
        )
        assert self.dogpile.path is not None
        self._path = self.dogpile.path
        self.creator = creator
        self.validate = validate
        self.durable = durable
        self._timeout = timeout
        self._loading: Loading | None = None  # made when something is loaded
        self._directory = None if directory is None else absolute(directory)
        self._mode = mode

    def load(self, loader: Callable[[_Given], T], *, timeout: Timeout = INHERIT) -> T:
        """What *loader* makes of the current version: once per process and version, shared by its threads.

        After another version was swapped in, by any process, one thread calls *loader* again; the others get the
        old object until the new one is ready. While nothing is new, this costs about what a pass costs.

        :param loader: called with the version, a datafile opened in mode ``"rb"`` or a directory's path, which is
            good until it returns. A function without closure and defaults is known by its code, so it may be a
            lambda; else pass the same object. A resource remembers the objects of 64 loaders.
        :param timeout: as of :meth:`open`; it also bounds the wait for another thread's first object.
        :returns: the object; it is the same for all who ask, and must not be changed.
        :raises: as :meth:`open`, and what *loader* raises: the old object stays, and the next call tries again.

        >>> import json, os, tempfile
        >>> from dogpile_fs import Datafile
        >>> def creator(target):
        ...     with open(target, "w") as file:
        ...         json.dump({"rows": 3}, file)
        >>> report = Datafile(os.path.join(tempfile.mkdtemp(), "report.json"), 3600, creator)
        >>> report.load(json.load)
        {'rows': 3}
        >>> report.load(json.load) is report.load(json.load)
        True
        """
        loading = self._loading
        if loading is None:
            with forking.once:  # or two threads could make two
                loading = self._loading = self._loading or Loading(self._path)
        slot = loading.latest
        if slot is None or slot.loader is not loader:
            slot = loading.slots.get(key_of(loader))
        if slot is not None and slot.made is not None:
            version, value = slot.made
            if version == self.dogpile.fresh_version():
                loading.latest = slot
                return value  # type: ignore[no-any-return]
        for passage in self._passages(timeout):
            with passage, suppress(Vanished):
                return self._load(loading, loader, passage)
        raise AssertionError("unreachable")

    def _load(self, loading: Loading, loader: Callable[[_Given], T], passage: Pass) -> T:
        deadline = passage.deadline
        value: T = loading.value(
            loader, passage.version, lambda version: self._opening(version, loader, deadline), deadline
        )
        return value

    def refresh(self, force: bool = False, *, timeout: Timeout = INHERIT) -> bool:
        """Create if it is stale or there is nothing yet; for cron jobs and warm-up code.

        :param force: create in any case, after whoever is creating now.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :returns: True if this call created; False if it is fresh, or another created or is creating.
        :raises TypeError: if this object has no creator.
        :raises: as ``open``; lacking the permission to create is always an error.
        """
        if self.creator is None:
            raise TypeError(f"{self!r} was made without a creator: it only reads")
        return self.dogpile.refresh(lambda: self._create(timeout), force, timeout=timeout)

    def invalidate(self, hard: bool = False) -> None:
        """Make it stale from now on, for all processes; see :meth:`.Dogpile.invalidate`.

        If this object is *durable*, that is on the disk when it returns.

        :param hard: nobody passes before a new creation.
        :raises SidecarError: if the sidecar cannot be written.
        """
        self.dogpile.invalidate(hard, durable=self.durable)

    def status(self) -> Status:
        """What is known now, without waiting or creating; see :meth:`.Dogpile.status`."""
        return self.dogpile.status()

    def touch(self) -> None:
        """Stamp what is there: it counts as created now, and no longer as invalidated.

        :raises DatafileError: if nothing is there.
        :raises SidecarError: if the sidecar cannot be written.
        """
        with explaining(DatafileError, self._path, "look at"):
            found = standing_at(self._path)
        if found is None:
            raise DatafileError(errno.ENOENT, f"there is nothing at {self._path!r} to stamp. Cure: create it.")
        self.dogpile.createdtime = time()

    def rollback(self, *, timeout: Timeout = INHERIT) -> None:
        """Put the last version back that ``keep=`` has kept, and stamp it; what it replaces is dropped.

        Waits for who is creating now.

        :raises DatafileError: if none was kept.
        :raises LockTimeout: if the creation did not end in time.
        """
        mutex = self.dogpile.dogpilelock
        mutex.acquire(timeout=timeout)
        try:
            with explaining(DatafileError, self._path, "put an earlier version at"):
                self._roll_back(timeout)
            self.dogpile.createdtime = time()
        finally:
            mutex.release()

    def _passages(self, timeout: Timeout) -> Iterator[Pass]:
        """A pass, and another if what was passed to had vanished, until that looks like no accident."""
        creator = None if self.creator is None else lambda: self._create(timeout)
        for attempt in range(_ATTEMPTS):
            if attempt or isinstance(self.dogpile, SyncReaderDogpile):
                timeout = self._timeout if isinstance(timeout, EllipsisType) else timeout  # a way of its own
            passage = self.dogpile.acquire(creator, timeout=timeout)
            assert isinstance(passage, Pass)
            yield passage
            if isinstance(self.dogpile, SyncReaderDogpile) and self.dogpile.readwritelock.inside():
                raise DatafileError(
                    errno.ENOENT,
                    f"{self._path!r} was removed while this thread is inside a block of it. "
                    "Cure: leave the block, so that a new version can be created.",
                )
            _ = self.dogpile.has_value  # not what was seen a moment ago, but what is there now
        raise DatafileError(
            errno.ENOENT, f"{self._path!r} vanishes as soon as it is there. Cure: find out who removes it."
        )

    def _create(self, timeout: Timeout) -> None:
        """The dogpile's creator: build, look, swap; *timeout* bounds the swap's wait for readers."""
        if isinstance(self.dogpile, SyncReaderDogpile) and self.dogpile.readwritelock.inside():
            raise WouldDeadlock(
                f"this thread is inside a block of {self._path!r}, and no new version is swapped in before it has "
                "left it. Cure: leave the block before you create."
            )
        for more in reversed(range(_BUILDS)):
            if self._build_and_swap(timeout, may_repeat=more > 0):
                return
            log.warning("what was built for %r was removed before it was in place; building it again", self._path)

    def _build_and_swap(self, timeout: Timeout, *, may_repeat: bool) -> bool:
        """Whether it is done: else another creator was in the way, because somebody had removed the lock file. He
        took what stood here for left, or had the same number. What the creator itself meets then, it raises."""
        assert self.creator is not None
        process, is_made = os.getpid(), False
        with explaining(DatafileError, self._path, "make room for a new version of"):
            place = self._place()
            self._remove_left(place)
        begin, end = self._marked("new", place)
        target = os.path.join(os.path.dirname(place), begin + secrets.token_hex(4) + end)
        try:
            self.creator(target)
            if os.getpid() != process:
                return True  # a child that was forked inside the creator
            self._refuse_unless_made(target)
            is_made = True
            if self.validate is not None and _is_refusal(self.validate(target)):
                raise DatafileError(
                    errno.EINVAL,
                    f"validate refused the new version of {self._path!r}: the old one stays. "
                    "Cure: see why it did.",
                )
            with explaining(DatafileError, self._path, "put the new version at"):
                self._put_in_place(target, place, timeout)
            return True
        except DatafileError as error:
            crossed = error.errno in _CROSSED and (is_made or self.dogpile.dogpilelock.lost)
            if not (may_repeat and crossed):
                raise
            return False
        finally:
            if os.getpid() == process:
                with suppress(OSError):  # it must not hide what went wrong before; the next creation tries again
                    self._remove(target)
                    self._remove_left(place)

    def _marked(self, kind: str, place: str) -> tuple[str, str]:
        # Those who reach a file by different links do not share a mutex, so they must not share such names.
        own = place
        if os.path.islink(self._path):
            own = os.path.join(os.path.realpath(os.path.dirname(self._path)), os.path.basename(self._path))
        return swap.marked(kind, place, "" if own == place else own)

    def _remove_left(self, place: str) -> None:
        """Remove what this or a killed creator left beside *place*, and what their programs put beside that."""
        if self.dogpile.dogpilelock.lost:
            return  # another may be creating there
        directory = os.path.dirname(place)
        for name in names_in(directory, self._marked("new", place)[0]):
            left = os.path.join(directory, name)
            try:
                self._remove(left)
            except OSError as error:  # another user's, perhaps: it is in nobody's way
                log.warning("%r was left and cannot be removed: %s", left, error)

    @abstractmethod
    def _place(self) -> str:
        """The path that a swap replaces."""

    @abstractmethod
    def _refuse_unless_made(self, target: str) -> None:
        """:raises DatafileError: if what the creator made at *target* is not what it should be."""

    @abstractmethod
    def _put_in_place(self, target: str, place: str, timeout: Timeout) -> None:
        """Swap."""

    @abstractmethod
    def _roll_back(self, timeout: Timeout) -> None:
        """Swap back to the last version that was kept."""

    @abstractmethod
    def _remove(self, left: str) -> None:
        """Remove what was left under a name of ours, if it still is there."""

    @abstractmethod
    def _open_current(self, deadline: Deadline) -> AbstractContextManager[tuple[Standing, _Given]]:
        """Open what is in place: yields what it is, and what a loader is given of it.

        :raises Vanished: if there is none any more.
        """

    @contextmanager
    def _opening(
        self, passed: Version, loader: Callable[[_Given], T], deadline: Deadline
    ) -> Iterator[tuple[Version, Callable[[], T]]]:
        """Open what is in place: yields which version that is, and what makes an object of it."""
        for attempt in range(_ATTEMPTS):
            with self._open_current(deadline) as (standing, given):
                version = self._version_of(passed, standing)
                if version is None and attempt < _ATTEMPTS - 1:
                    continue  # another has been swapped in since
                # By an older name, it would be loaded once more: better than by a newer one, and never again.
                yield version or passed, lambda given=given: loader(given)  # type: ignore[misc]
                return

    def _version_of(self, passed: Version, standing: Standing) -> Version | None:
        """Which version *standing* is: the one that was passed to, or the current one; else None."""
        if stands(passed, standing):
            return passed
        current = self.dogpile.version
        return current if current is not None and stands(current, standing) else None

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (type(self), self._path, self.dogpile.expiretime, self.creator, self._options())

    def _options(self) -> dict[str, Any]:
        """What else another object must be made with to be like this one."""
        return {
            "validate": self.validate,
            "keep": self.keep,
            "durable": self.durable,
            "timeout": self._timeout,
            "directory": self._directory,
            "mode": self._mode,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._path!r}, {self.dogpile.expiretime})"


def _is_refusal(verdict: object) -> bool:
    # Numpy's False is another object, of a type of its own; pandas' is numpy's.
    return verdict is False or (type(verdict).__name__ in ("bool", "bool_") and not verdict)


def _unpickled(
    kind: Any, path: str, expiretime: float | None, creator: Creator | None, made_with: dict[str, Any]
) -> Any:
    return kind(path, expiretime, creator, **made_with)
