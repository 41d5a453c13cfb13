"""What a caller does with a datafile and with a directory of data alike.

Stands on the public face of :class:`~.dogpile.Dogpile`, which decides which caller creates, waits or passes. What
a creation does is in :mod:`.building`.
"""

from __future__ import annotations

import errno
import logging
import operator
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import time
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from .._dogpile.background import Background, InThread
from .._dogpile.dogpile import Dogpile, SyncReaderDogpile
from .._dogpile.election import Acquisition, Election
from .._dogpile.outcome import Outcome
from .._dogpile.plain_call import called, checked_plain
from .._dogpile.policy import DEFAULT, Policy, one_policy
from .._dogpile.shared_state import SharedState
from .._dogpile.stamp import Stamp
from .._dogpile.status import Status
from .._dogpile.thread_scope import ThreadScope
from .._os import fork
from .._os.copying import copied_by
from .._os.paths import absolute, checked_mode, nearest
from .._os.waiting import INHERIT, Deadline, Timeout, checked_seconds, checked_timeout
from .._sidecar.fingerprint import Fingerprint, fingerprint_at, fingerprint_of
from .._sidecar.record import MISSING, Attempt, Record
from ..errors import DatafileError, PathError, os_errors_as
from .building import MOST_BUILDS, Builder, Creator, Replica, Validator
from .hidden_directory import refuse_its_name
from .loader_cache import LoaderCache
from .version_file import Vanished

if TYPE_CHECKING:
    from datetime import timedelta

    from .._dogpile.host_election import Publish
    from .._dogpile.new_versions import Subscription
    from .._dogpile.origin import Origin
    from .._locks.holds import Taker
    from .._locks.mutex import FileMutex

__all__ = ["Resource", "StaleAsVanished", "Vanished"]

log = logging.getLogger("dogpile_fs")

T = TypeVar("T")
#: The argument of a loader.
_Given = TypeVar("_Given")

#: Times that a caller passes again because the version has vanished before it was opened. More is no accident: it
#: is reported.
_MOST_PASSES = 10


class StaleAsVanished:
    """A block in which ESTALE says that the version has vanished: on NFS, another host has replaced it."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.errno == errno.ESTALE:
            raise Vanished from error


class _Taker:
    """Has the hold of the creation mutex before it locks the file, so that an interrupt cannot keep it locked."""

    mutex_hold: Any = None


class Resource(Builder, Generic[_Given]):
    """A resource that one process replaces whole, while all others use it."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        expiretime: float | timedelta | None,
        creator: Creator | None,
        *,
        validate: Validator | None,
        keep: int,
        durable: bool,
        readers: bool,
        timeout: float | None,
        directory: str | os.PathLike[str] | None,
        mode: int | None,
        parents: bool,
        policy: Policy | None,
        origin: Origin | str | os.PathLike[str] | None = None,
        **policies: Any,
    ) -> None:
        for name, function in (("creator", creator), ("validate", validate)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function of a path, not {function!r}")
            if function is not None:
                checked_plain(name, function)
        self._keep = operator.index(keep)
        if self._keep < 0:
            raise ValueError(f"keep must be a number of versions, not {keep!r}")
        self._path = absolute(path)
        self._expiretime = None if expiretime is None else checked_seconds("expiretime", expiretime)
        self._policy = one_policy(policy, DEFAULT, **policies)
        self._readers = readers
        self._creator = creator
        self._validate = validate
        self._origin = None if origin is None else self._checked_origin(origin, directory)
        self._background = self._checked_background()
        self._durable = durable
        self._timeout = timeout
        self._cache: LoaderCache | None = None  # made when something is loaded
        self._watches: list[Any] | None = None  # of on_new_version; such a list, once there is one
        self._directory = None if directory is None else absolute(directory)
        self._mode = mode
        self._parents = parents
        try:
            self._dogpile = self._make_dogpile()
        except PathError as error:
            if creator is None or error.errno != errno.ENOENT:
                raise
            # The first creation may make the directory. An import makes no noise about it.
            checked_timeout(timeout)
            checked_mode(mode)
        else:
            assert self._dogpile.path is not None
            self._path = self._dogpile.path
            refuse_its_name(self._path)

    def _checked_origin(
        self, origin: Origin | str | os.PathLike[str], directory: str | os.PathLike[str] | None
    ) -> Origin:
        """:raises TypeError, ValueError: as :class:`.Origin`, and for options that do not go with one."""
        from .._dogpile.origin import Origin  # here: few use it

        for name, value in (("directory", directory), ("depends_on", self._policy.depends_on)):
            if value:
                raise ValueError(f"origin= and {name}= do not go together: each host has files of its own")
        return origin if isinstance(origin, Origin) else Origin(origin)

    def _checked_background(self) -> Background | None:
        """Return where creators run, if not in the caller that was elected.

        :raises ValueError: if they cannot run there.
        """
        policy = self._policy
        if policy.background is None:
            return None
        if policy.background == "thread":
            return InThread(cast("float", policy.exit_wait))
        from .child import InProcess  # here: few use it

        return InProcess(self, policy)

    def _make_dogpile(self) -> Dogpile:
        """:raises PathError: if there is no directory for it."""
        kind = SyncReaderDogpile if self._readers else Dogpile
        dogpile = kind(self._expiretime, self._path, **self._options_of_dogpile())
        if self._origin is not None:
            dogpile._share_with_hosts(self._origin, Replica(self))
        dogpile._shared.background = self._background
        dogpile._shared.creator_timeout = cast("float | None", self._policy.creator_timeout)
        return dogpile

    def _options_of_dogpile(self) -> dict[str, Any]:
        """Return the options of a Dogpile that keeps the same record."""
        return {
            "timeout": self._timeout,
            "directory": self._directory,
            "mode": self._mode,
            "resource": self._resource,
            "policy": self._policy._in_caller(),
        }

    def _creation_of(self, begun: Attempt, mutex: tuple[int, int]) -> tuple[Acquisition, Election]:
        """Return a caller that creates in the background for the one that has *begun*, and its algorithm.

        :param mutex: by which that one has held the mutex: what :meth:`.FileMutex._adopt` takes.
        """
        shared, lock = self._dogpile._shared, cast("FileMutex", self._dogpile.dogpilelock)
        shared.background, shared.kind = None, "process"

        def adopt(taker: Taker) -> bool:
            return lock._adopt(*mutex, taker=taker)

        acquisition = Acquisition(shared, partial(self._create, self._timeout), None, None, self._timeout)
        return acquisition, acquisition.handed_over(begun, adopt)

    if not TYPE_CHECKING:  # to a type checker, each name that is mistyped would be a Dogpile

        def __getattr__(self, name: str) -> Dogpile:
            if name != "_dogpile":
                raise AttributeError(
                    f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self
                )
            return self._dogpile_made_late()

    def _dogpile_made_late(self) -> Dogpile:
        """Return the Dogpile of an object that was made while its directory was missing.

        :raises PathError: if it is missing still, and is not to be made.
        """
        self._make_parents(self._directory_of_locks())
        made = self._make_dogpile()
        assert made.path is not None
        self._path = made.path
        refuse_its_name(self._path)
        dogpile: Dogpile = vars(self).setdefault("_dogpile", made)  # one for all threads
        return dogpile

    def _directory_of_locks(self) -> str:
        return self._directory or os.path.dirname(self._path.rstrip(os.sep))

    def load(self, loader: Callable[[_Given], T], *, timeout: Timeout = INHERIT) -> T:
        """Return what *loader* makes of the current version: once per process and version, shared by its threads.

        After another version was swapped in, by any process, one thread calls *loader* again; the others get the
        old object until the new one is ready. While nothing is new, this costs about what a pass costs.

        If *loader* fails on the new version, all go on with the old object, and the log has the error, once per
        version. The object's *backoff* says when this process calls *loader* again; another version ends it. The
        same holds if this process cannot open the new version. After a hard invalidation, and past *max_stale*,
        there is no old object.

        :param loader: called with the version, a datafile opened in mode ``"rb"`` or a directory's path, which is
            good until it returns. A function without closure and defaults is known by its code, so it may be a
            lambda; else pass the same object. A resource remembers the objects of 64 loaders. A closure or
            ``partial`` that is made anew at each call is called each time; one warning of the log tells so, and
            the last 4 objects are kept.
        :param timeout: as of :meth:`open`; it also bounds the wait for another thread's first object.
        :returns: the object; all callers get the same one, which must not be changed.
        :raises LockTimeout: also if another thread did not make the first object in time.
        :raises CreationFailed: also if there is no old object, *loader* has failed, and it is too early to call it
            again.
        :raises: as :meth:`open`. Each error of *loader*, if there is no old object. Always :class:`WouldDeadlock`,
            :class:`NeedRegenerationException`, what a signal handler raises, and what is no ``Exception``.

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
        cache = self._cache or self._loader_cache()
        slot = cache.latest
        if slot.loader is not loader:
            slot = cache.slot_of(loader)
        if slot.made is not None:
            version, value = slot.made
            if version == self._dogpile.fresh_version():
                return value  # type: ignore[no-any-return]
        for guard in self._guards(timeout):
            deadline = guard.deadline
            with guard as value, suppress(Vanished):
                self._pass_again_without(value)
                opening = partial(self._opening, guard.seen, loader, deadline)
                value, record = cache.value(loader, guard.seen, opening, deadline)
                break
        if record is not None:
            self._dogpile._tell("loaded", record)  # outside of the block, which may be a reader's
        return value  # type: ignore[no-any-return]

    def _loader_cache(self) -> LoaderCache:
        cache = self._cache
        if cache is None:
            with fork.once:  # else two threads could make two
                cache = self._cache = self._cache or LoaderCache(self._dogpile)
        return cache

    def refresh(self, force: bool = False, *, timeout: Timeout = INHERIT) -> Outcome:
        """Create if it is stale or missing; for cron jobs and warm-up code.

        :param force: create in any case, after a creation that runs now, and however many have failed.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :returns: ``Outcome.created`` or ``unchanged``, which are true, if this call ran the creator. Others are
            false: ``fresh``; ``creating`` if another caller creates; ``backing_off`` if it is too early after
            failures. If the path comes to lead elsewhere meanwhile, this is about what it leads to then.
        :raises TypeError: if this object has no creator.
        :raises: as ``open``, but each error of the creator and of *validate*, whatever there is; lacking the
            permission to create is always an error.
        """
        creator = self._creator_to_refresh(timeout, force=force)
        for _ in range(MOST_BUILDS):
            outcome = self._dogpile.refresh(creator, force, timeout=timeout)
            if outcome != Outcome.fenced or self._origin is not None:
                return outcome
        raise self._always_fenced()

    def _creator_to_refresh(self, timeout: Timeout, *, force: bool = False) -> Callable[[], Stamp]:
        """:raises TypeError: if there is none."""
        if self._creator is None:
            raise TypeError(f"{self!r} was made without a creator: it only reads")
        return partial(self._create, timeout, "force" if force else "refresh")

    def _always_fenced(self) -> DatafileError:
        return DatafileError(
            errno.ENOLCK,
            f"the lock file of {self._path!r} was removed each time that a new version was built, or the path "
            "came to lead elsewhere. Hint: keep cleaners away from it.",
        )

    def invalidate(self, hard: bool = False) -> None:
        """Make it stale from now on, for all processes; see :meth:`.Dogpile.invalidate`.

        If this object is *durable*, the invalidation is on the disk when it returns.

        :param hard: no caller passes before a new creation.
        :raises SidecarError: if the sidecar cannot be written.
        """
        self._dogpile.invalidate(hard, durable=self._durable)

    def status(self) -> Status:
        """Return what is known now, without waiting or creating; see :meth:`.Dogpile.status`."""
        if "_dogpile" not in self.__dict__ and not os.path.exists(self._directory_of_locks()):
            nothing = SharedState(ThreadScope(lock=None, timeout=None), None)
            return Status._of(MISSING, time(), nothing, creating=False)
        return self._dogpile.status()

    @property
    def name(self) -> str:
        """The absolute path, as the name of a file object. Nothing is looked at or created."""
        return self._path

    @property
    def writes_to(self) -> tuple[str, ...]:
        """The directories that a creation by this object writes: the one in which the version is swapped in, and,
        if it is another, that of the coordination files. None without a creator.

        With *parents*, a directory that is missing stands for the nearest one above it, in which it will be made.
        """
        if self._creator is None:
            return ()
        directories = map(os.path.realpath, (self._swapped_in_directory(), self._directory_of_locks()))
        return tuple(dict.fromkeys(map(nearest, directories) if self._parents else directories))

    def _swapped_in_directory(self) -> str:
        return os.path.dirname(os.path.realpath(self._path))

    @property
    def version(self) -> tuple[int, ...] | None:
        """The version that is in place, fresh or not; ``None`` while it is missing. See
        :attr:`.Dogpile.version`."""
        return self._dogpile.version

    def on_new_version(self, callback: Callable[[Self], object]) -> Subscription[Self]:
        """Have ``callback(self)`` called after each new version, by whichever process, this one included.

        A new version is what changes :attr:`version`: a swap, a rollback, another program's replacement of the
        file. A ``touch``, an invalidation and a version that was found unchanged are none. The version that is in
        place now does not count. Of versions that follow each other fast only the last is sure to be told; none is
        told twice.

        Callbacks of all objects are called one after the other, in one daemon thread of this process, which sleeps
        in the kernel otherwise; a forked child has one as well. What a callback raises is logged. Where the system
        does not watch (under gevent; where no inotify is left: a warning tells so), a callback may come half a
        second late. What another host changes on a network file system is not seen.

        :param callback: called with this object. It may call any method of it.
        :returns: a :class:`~.new_versions.Subscription`, whose ``cancel()`` ends it, also at the end of a ``with``
            block of it. Otherwise it lasts as long as this object or the subscription is referred to; the callback
            does not keep this object alive.
        :raises TypeError: if *callback* is no plain function.
        :raises SidecarError, PathError: if it cannot be found out which version is in place.
        :raises RuntimeError: if the system starts no thread.

        >>> import os, tempfile, threading
        >>> from dogpile_fs import Datafile
        >>> def creator(target):
        ...     with open(target, "w") as file:
        ...         _ = file.write("the report")
        >>> report = Datafile(os.path.join(tempfile.mkdtemp(), "report.txt"), 3600, creator)
        >>> called = threading.Event()
        >>> with report.on_new_version(lambda report: called.set()):
        ...     _ = report.refresh()
        ...     called.wait(60)
        True
        """
        from .._dogpile.new_versions import subscribe  # here: few programs need it

        return subscribe(self, callback, type(self)._seen)

    def _seen(self) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
        """Return the paths of the resource and of its sidecar, and the version; makes no directory."""
        if "_dogpile" not in self.__dict__ and not os.path.exists(self._directory_of_locks()):
            return (self._path,), None
        return self._dogpile._seen()

    def touch(self) -> None:
        """Stamp the current version: it counts as created now, and no longer as invalidated.

        :raises DatafileError: if there is none.
        :raises SidecarError: if the sidecar cannot be written.
        """
        with os_errors_as(DatafileError, self._path, "look at"):
            found = fingerprint_at(self._path)
        if found is None:
            raise DatafileError(errno.ENOENT, f"there is nothing at {self._path!r} to stamp. Hint: create it.")
        if self._dogpile._shared.host is not None:
            self._dogpile._shared.host.declare()
            return
        self._dogpile.createdtime = time()

    def rollback(self, *, timeout: Timeout = INHERIT) -> None:
        """Put the last version back that ``keep=`` has kept, and stamp it; the version in place is dropped.

        Waits for a creation that runs now.

        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :raises DatafileError: if none was kept.
        :raises LockTimeout: if the creation did not end in time.
        """
        mutex, taker, host = self._dogpile.dogpilelock, _Taker(), self._dogpile._shared.host

        def release() -> None:
            if taker.mutex_hold is not None:
                mutex._release_hold(taker.mutex_hold)

        try:
            mutex.acquire(timeout=timeout, taker=taker)
            if host is None:
                self._dogpile._stamp(self._rolled_back(timeout))
            else:
                bound = self._timeout if isinstance(timeout, EllipsisType) else timeout
                host.create(partial(self._roll_back_for_hosts, timeout), bound, "force")
        finally:
            try:
                release()
            except BaseException:
                release()  # an interrupt came first
                raise
        self._dogpile._tell("swapped", self._dogpile._record)

    def _rolled_back(self, timeout: Timeout) -> Fingerprint:
        """Swap back to the last version that was kept.

        :raises DatafileError: if there is none.
        """
        with os_errors_as(DatafileError, self._path, "put an earlier version at"):
            fingerprint = self._roll_back(timeout)
        if fingerprint is None:
            raise self._nothing_kept()
        return fingerprint

    def _nothing_kept(self) -> DatafileError:
        return DatafileError(
            errno.ENOENT,
            f"no earlier version of {self._path!r} was kept. Hint: keep some, with keep=1 or more.",
        )

    def _roll_back_for_hosts(self, timeout: Timeout, publish: Publish) -> Stamp:
        with os_errors_as(DatafileError, self._path, "look for an earlier version of"):
            kept = self._last_kept()
        if kept is None:
            raise self._nothing_kept()
        return publish(kept, Stamp(None), lambda: Stamp(self._rolled_back(timeout)))

    def _guards(self, timeout: Timeout, acquire: Callable[..., Any] | None = None) -> Iterator[Any]:
        """Yield a guard, and another each time that the version had vanished before it was opened.

        :param acquire: makes one instead of the Dogpile's :meth:`~.Dogpile.acquire`.
        """
        # In the background, this caller's bound says nothing about the swap's wait for readers.
        bound = timeout if self._background is None else self._timeout
        creator = None if self._creator is None else partial(self._create, bound)
        for attempt in range(_MOST_PASSES):
            if attempt or isinstance(self._dogpile, SyncReaderDogpile):
                # To name the timeout has a guard made for this call alone.
                timeout = self._timeout if isinstance(timeout, EllipsisType) else timeout
            yield (acquire or self._dogpile.acquire)(creator, timeout=timeout)
            if self._dogpile._readers._inside():
                raise DatafileError(
                    errno.ENOENT,
                    f"{self._path!r} was removed while this thread is inside a block of it. "
                    "Hint: leave the block, so that a new version can be created.",
                )
            _ = self._dogpile.has_value  # looks at the path now, and does not trust the look of a moment ago
        raise DatafileError(
            errno.ENOENT,
            f"{self._path!r} vanishes as soon as it is there. Hint: find the program that removes it.",
        )

    def _pass_again_without(self, value: object) -> None:
        """:raises Vanished: if this caller's creation, which gave *value*, was given up and nothing is there."""
        if isinstance(value, Stamp) and value.outcome == Outcome.fenced and not self._dogpile.has_value:
            raise Vanished

    @abstractmethod
    def _roll_back(self, timeout: Timeout) -> Fingerprint | None:
        """Swap back to the last version that was kept, and return its fingerprint; None if there is none."""

    @abstractmethod
    def _last_kept(self) -> str | None:
        """Return the path of the last version that was kept; None if there is none."""

    @abstractmethod
    def _enter(self, deadline: Deadline, *how: Any) -> tuple[Any, _Given, int]:
        """Open the current version: returns what :meth:`_leave` is given, the version, and its descriptor.

        :raises Vanished: if there is none any more.
        """

    @abstractmethod
    def _leave(self, held: Any) -> None:
        """Close what :meth:`_enter` has opened."""

    @contextmanager
    def _opening(
        self, seen: Record, loader: Callable[[_Given], T], deadline: Deadline
    ) -> Iterator[tuple[Record, Callable[[], T]]]:
        """Open the current version: yields the record of it, and what makes an object of it."""
        for attempt in range(_MOST_PASSES):
            held, given, descriptor = self._enter(deadline)
            try:
                with os_errors_as(DatafileError, self._path, "look at", reading=True), StaleAsVanished():
                    found = os.fstat(descriptor)
                    fingerprint = fingerprint_of(found, descriptor)
                record = self._record_of(seen, fingerprint, found.st_dev)
                if record is None and attempt < _MOST_PASSES - 1:
                    continue  # another has been swapped in since
                # Under an older version's name it is loaded once more; under a newer one's it never would be
                # again.
                yield record or seen, partial(_loaded, loader, given)
                return
            finally:
                self._leave(held)

    def _record_of(self, seen: Record, fingerprint: Fingerprint, device: int) -> Record | None:
        """Return the record of the version that has this fingerprint: *seen*, or the current one, or none."""
        for record in (seen, self._dogpile._record):
            if (
                record.device == device
                and record.fingerprint is not None
                and record.fingerprint.matches(fingerprint)
            ):
                return record
        return None

    def __reduce__(self) -> tuple[object, ...]:
        own = next(kind for kind in type(self).__mro__ if kind.__module__.startswith(__package__))
        return copied_by(self, own, self._path, self._expires_after(), self._creator, **self._options())

    def _expires_after(self) -> float | None:
        return self._dogpile.expiretime if "_dogpile" in self.__dict__ else self._expiretime

    def _options(self) -> dict[str, Any]:
        """Return the other arguments that make an object like this one."""
        return {
            "validate": self._validate,
            "keep": self._keep,
            "durable": self._durable,
            "timeout": self._timeout,
            "directory": self._directory,
            "mode": self._mode,
            "parents": self._parents,
            "policy": self._policy,
            **({} if self._origin is None else {"origin": self._origin}),
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._path!r}, {self._expires_after()})"


def _loaded(loader: Callable[[_Given], T], given: _Given) -> T:
    with StaleAsVanished():
        return called(loader, given)
