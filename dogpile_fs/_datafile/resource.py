"""Build beside, swap, stamp: what a datafile and a directory of data have in common.

Stands on the public face of :class:`~.dogpile.Dogpile`, which decides which caller creates, waits or passes. Here
a creator is given a path to build at; its new version is checked and put in place in one step. A file in the
hidden sub-directory whose name begins with ``.dogpile-new-`` while no process creates was left by a killed
creator; the next creation removes it.
"""

from __future__ import annotations

import errno
import logging
import operator
import os
import secrets
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import time
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, cast
from weakref import ref

from .._dogpile.background import Background, InThread
from .._dogpile.dogpile import Dogpile, SyncReaderDogpile
from .._dogpile.election import Acquisition, Election
from .._dogpile.outcome import Outcome
from .._dogpile.plain_call import called, checked_plain
from .._dogpile.policy import DEFAULT, Policy, one_policy
from .._dogpile.shared_state import SharedState
from .._dogpile.stamp import NOT_SWAPPED, Stamp
from .._dogpile.status import Status
from .._dogpile.thread_scope import ThreadScope
from .._layout import KIND_FETCHED, KIND_NEW
from .._os import fork, replace
from .._os.copying import copied_by
from .._os.paths import absolute, checked_mode, nearest
from .._os.waiting import INHERIT, Deadline, Timeout, checked_seconds, checked_timeout
from .._sidecar.fingerprint import Fingerprint, fingerprint_at, fingerprint_of
from .._sidecar.record import MISSING, Attempt, Record
from ..errors import DatafileError, OriginError, PathError, WouldDeadlock, os_errors_as
from . import open_writers
from .hidden_directory import HiddenDirectory, refuse_its_name
from .leftovers import remove_leftovers
from .loader_cache import LoaderCache
from .made_instead import made_instead, signature
from .names import Names, names_in
from .target import Target
from .version_file import Vanished

if TYPE_CHECKING:
    from datetime import timedelta

    from .._dogpile.engine import Engine
    from .._dogpile.head import Blob
    from .._dogpile.host_election import Publish, Wanted
    from .._dogpile.new_versions import Subscription
    from .._dogpile.origin import Origin
    from .._locks.holds import Taker
    from .._locks.mutex import FileMutex

__all__ = ["MOST_BUILDS", "Creator", "Resource", "StaleAsVanished", "Validator", "Vanished"]

log = logging.getLogger("dogpile_fs")

T = TypeVar("T")
#: The argument of a loader.
_Given = TypeVar("_Given")

#: Called with a path, and returns or raises.
Validator = Callable[[str], object]
#: Called with the path of a new version, where nothing is yet; makes it there.
Creator = Callable[[Target], object]

#: Times that a caller passes again because the version has vanished before it was opened. More is no accident: it
#: is reported.
_MOST_PASSES = 10
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


class _Replica:
    """What a resource does with its versions for other hosts. It does not keep the resource alive."""

    def __init__(self, resource: Resource[Any]) -> None:
        self._resource = ref(resource)

    def store(self, engine: Engine, path: str, current: Blob | None) -> Blob:
        return self._here()._upload(engine, path, current)

    def fetch(self, engine: Engine, blob: Blob) -> Stamp:
        return self._here()._fetch(engine, blob)

    def _here(self) -> Resource[Any]:
        resource = self._resource()
        assert resource is not None  # its user is in a call of it
        return resource


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


class Resource(ABC, Generic[_Given]):
    """A resource that one process replaces whole, while all others use it."""

    _resource: Literal["file", "directory"]
    #: The Dogpile that coordinates it. While its directory is missing, it is made at the first use.
    _dogpile: Dogpile

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
            dogpile._share_with_hosts(self._origin, _Replica(self))
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
            self._refuse_replica()
            return self._build(timeout)
        bound = self._timeout if isinstance(timeout, EllipsisType) else timeout
        return host.create(partial(self._build, timeout), bound, wanted)

    def _refuse_replica(self) -> None:
        """:raises OriginError: if other processes of this host share it with other hosts."""
        if self._dogpile._record.ask_at is None:
            return
        from .._dogpile.host_scope import watch_at  # here: few need it

        url = watch_at(self._path).url
        raise OriginError(
            url,
            f"{self._path!r} is this host's copy of what the origin {url!r} has: nothing is created for this host "
            "alone. Hint: name the origin here as well (origin=, --origin).",
        )

    def _build(self, timeout: Timeout, publish: Publish | None = None) -> Stamp:
        """Build, validate, swap.

        :param publish: has all hosts agree on the new version before it is swapped in.
        """
        for more in reversed(range(MOST_BUILDS)):
            try:
                stamp = self._build_and_swap(timeout, publish, may_repeat=more > 0)
            except replace.Retargeted as error:
                log.warning("%s", error.strerror)
                return NOT_SWAPPED
            except _LockLost:
                break
            if stamp is not None:
                return stamp
            if self._dogpile.dogpilelock.lost:
                break
            log.warning("the new version of %r was removed before it was in place; building it again", self._path)
        log.warning(
            "%r: not swapped: the lock file was removed while the new version was built, or the path came to lead "
            "elsewhere",
            self._path,
        )
        return NOT_SWAPPED

    def _build_and_swap(self, timeout: Timeout, publish: Publish | None, *, may_repeat: bool) -> Stamp | None:
        """Return what is put on record; ``None`` if another creator, for lack of a lock file, was in the way.

        That creator took the new version for a leftover, or gave its own the same number. An error that the
        creator meets because of that is raised.
        """
        destination = self._room_for_new_version()
        with HiddenDirectory(destination):
            return self._build_in_hidden(destination, timeout, publish, may_repeat=may_repeat)

    def _room_for_new_version(self) -> str:
        """Return the path that a swap will replace.

        :raises DatafileError: if it cannot be replaced.
        """
        with os_errors_as(DatafileError, self._path, "make room for a new version of"):
            destination = self._destination()
            self._refuse_irreplaceable(destination)
            self._make_parents(os.path.dirname(destination))
        return destination

    def _build_in_hidden(
        self, destination: str, timeout: Timeout, publish: Publish | None, *, may_repeat: bool
    ) -> Stamp | None:
        assert self._creator is not None
        process, is_made, is_done = os.getpid(), False, False
        with os_errors_as(DatafileError, self._path, "make room for a new version of"):
            names = self._hidden(KIND_NEW, destination)
            listing = self._listing(
                destination, needed=self._needs_listing(destination), directory=names.directory
            )
            self._remove_leftovers(destination, listing, names.directory)
        previous = self._previous(destination)
        note = self._dogpile._record.note if previous is not None else ""
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
            open_writers.refuse(target)
            self._refuse_invalid(target)
            self._refuse_if_lost(destination)
            if publish is None:
                swap = target._complete(self._swapped_in(target, destination, listing, timeout))
            else:
                put = partial(self._swapped_in, target, destination, None, timeout)
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

    def _swapped_in(self, target: str, destination: str, listing: list[str] | None, timeout: Timeout) -> Stamp:
        """Put the new version at *target* in place, and return what is put on record.

        :param listing: as of :meth:`_listing`; ``None``: read it now.
        """
        with os_errors_as(DatafileError, self._path, "put the new version at"):
            names = self._hidden(KIND_NEW, destination)  # still ours?
            if listing is None:
                needed = self._needs_listing(destination)
                listing = self._listing(destination, needed=needed, directory=names.directory)
            return self._put_in_place(target, destination, listing, timeout, names.directory)

    def _stamp_of_current(self) -> Stamp:
        return Stamp(self._dogpile._shared.scope.fingerprint(), is_new=False)

    def _fetch(self, engine: Engine, blob: Blob) -> Stamp:
        """Put a version of another host in place; the caller holds the mutex under which that is done.

        :raises Gone, Down: if the engine does not give it.
        """
        destination = self._room_for_new_version()
        with HiddenDirectory(destination):
            names = self._hidden(KIND_FETCHED, destination)
            for middle in names.middles(names_in(names.directory, names.begin)):
                with suppress(OSError):
                    replace.remove(names.path(middle))  # of a caller that was killed
            target = names.path(secrets.token_hex(4))
            try:
                with os_errors_as(DatafileError, target, "write what was fetched to"):
                    self._download(engine, blob, target)
                self._refuse_invalid(target)
                return self._swapped_in(target, destination, None, self._timeout)
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
        if os.path.islink(self._path):
            own = os.path.join(os.path.realpath(os.path.dirname(self._path)), os.path.basename(self._path))
        return "" if own == destination else own

    def _remove_leftovers(self, destination: str, listing: list[str], directory: str | None = None) -> None:
        """Remove what a killed creator left, and what its programs put beside that.

        :param listing: as of :meth:`_listing`.
        :param directory: as of :meth:`_hidden`.
        """
        if not self._dogpile.dogpilelock.lost:  # else another may be creating there
            for names, found in self._leftovers(destination, listing, directory):
                remove_leftovers(names, found)

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
    def _roll_back(self, timeout: Timeout) -> Fingerprint | None:
        """Swap back to the last version that was kept, and return its fingerprint; None if there is none."""

    @abstractmethod
    def _upload(self, engine: Engine, path: str, current: Blob | None) -> Blob:
        """Store the version at *path*, as :meth:`.Replica.store` does."""

    @abstractmethod
    def _download(self, engine: Engine, blob: Blob, target: str) -> None:
        """Make the version *blob* at *target*.

        :raises Gone, Down: if the engine does not give it.
        """

    @abstractmethod
    def _last_kept(self) -> str | None:
        """Return the path of the last version that was kept; None if there is none."""

    @abstractmethod
    def _listing(self, destination: str, *, needed: bool = False, directory: str | None = None) -> list[str]:
        """Return the names where versions are kept: read once a creation, because it may be many.

        :param directory: as of :meth:`_hidden`.
        :param needed: as of :func:`.names_in`.
        """

    @abstractmethod
    def _leftovers(
        self, destination: str, listing: list[str], directory: str | None
    ) -> Iterator[tuple[Names, list[str]]]:
        """Yield the names of unfinished versions, with the names in their directory; *listing* is at hand."""

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


#: Of each kind of resource: the test of a mode, its name in messages, the error if something else was made.
_KINDS: dict[str, tuple[Callable[[int], bool], str, int]] = {
    "file": (stat.S_ISREG, "regular file", errno.EINVAL),
    "directory": (stat.S_ISDIR, "directory", errno.ENOTDIR),
}


def _loaded(loader: Callable[[_Given], T], given: _Given) -> T:
    with StaleAsVanished():
        return called(loader, given)


def _is_refusal(verdict: object) -> bool:
    # Numpy's False is another object, of a type of its own; pandas' is numpy's.
    return verdict is False or (type(verdict).__name__ in ("bool", "bool_") and not verdict)
