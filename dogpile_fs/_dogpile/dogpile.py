"""Dogpile and SyncReaderDogpile: one caller creates, all others go on with the version that there is.

The public face. The algorithm is in :mod:`.election`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from os import SEEK_END, lseek
from time import time
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from .._locks.threads import LockLike
from .._os import kept_open
from .._os.copying import copied_by
from .._os.mounts import is_unlinked
from .._os.paths import absolute, checked_mode
from .._os.waiting import INHERIT, Timeout, checked_seconds, checked_timeout
from .._sidecar.fingerprint import Fingerprint
from .._sidecar.record import CLOCK_TOLERANCE, Record
from .creation import this_process
from .election import Acquisition, ReaderAcquisition
from .event import Callback, Kind, tell
from .following_scope import FollowingScope
from .guard import Guard
from .outcome import Outcome
from .policy import ORIGINAL, Backoff, Policy, one_policy
from .process_scope import ProcessScope
from .resource_path import checked_resource
from .scope import Mutex, Readers, ReadWriteLock, Scope
from .shared_state import SharedState
from .status import Status, status_in
from .thread_scope import ThreadScope

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Never

    from typing_extensions import TypeVar  # type checkers know it; typing's has no default before 3.13

    from .host_fetcher import Replica, Wanted
    from .new_versions import Subscription
    from .origin import Origin

    #: What the block's value is: of a caller that creates, and of one that passes.
    Created = TypeVar("Created", default=Never)
    Found = TypeVar("Found", default=None)

__all__ = ["Dogpile", "SyncReaderDogpile"]

_EARLIEST = -CLOCK_TOLERANCE
_WITH_NOTHING: dict[str, Any] = {}


class Dogpile:
    """A dogpile lock: one thread of one process creates, the others go on with the version that there is.

    :param expiretime: seconds (or a ``timedelta``) after which the resource is stale; 0: at once; ``None``: never.
    :param path: the resource, a file or a name that stands for one; it need not exist. All processes that name it
        are coordinated. ``None``: only the threads that share this object are, and no file is touched.
    :param init: declare that the resource exists and was created now, unless a creation or an invalidation is
        on record.
    :param lock: use this mutex (``acquire(blocking)``, ``release()``) to elect the creator; not a re-entrant one.
    :param timeout: seconds after which a wait gives up with :class:`LockTimeout`; ``None``: never.
    :param directory: put the coordination files there instead of beside the resource.
    :param mode: permission bits of coordination files that have to be made; ``None``: what the umask
        leaves of 0o666.
    :param resource: ``"file"`` or ``"directory"``, if *path* is one and shall be looked at: a removed one is
        missing; if another program replaced it, or it is there without a sidecar, its own mtime counts as
        createdtime. ``None``: *path* is not looked at.
    :param backoff: when a creation may be tried again after failures; ``None``: at once.
    :param max_stale: seconds past expiry (or the first invalidation) after which no caller passes before a new
        creation; ``None``: a stale resource passes, however old it is.
    :param refresh_early: a creation may begin at this fraction of the lifetime, while all others still pass fresh.
    :param jitter: the lifetime of each version is shortened by up to this fraction, drawn once per version.
    :param on_event: called with each :class:`Event` of this object, in the thread that causes it: creations, and
        never passes. What it raises is logged.
    :param policy: all of these, and *stale_if_error*, in one object that many resources share.
    :param origin: an :class:`.Origin`, or its URL: where hosts agree on when the resource was created, so that one
        of them creates it. The resource itself is where all of them reach it. With a path.
    :raises TypeError, ValueError: for an *expiretime* or *timeout* that is no number, negative or NaN, and for a
        *mode* that is no permission bits; also for a *lock* that is no mutex.
    :raises PathError: for a *path* that cannot be coordinated.

    The behaviour and the first three parameters are those of ``dogpile.core`` 0.4.1's class of this name; there,
    *init* and *lock* could be positional. An object with a path may be made before ``fork`` and used after it,
    and pickled to another process.

    >>> import os, tempfile
    >>> dogpile = Dogpile(3600, os.path.join(tempfile.mkdtemp(), "report.json"))
    >>> with dogpile.acquire(lambda: print("creating")):
    ...     print("using")
    creating
    using
    >>> with dogpile.acquire(lambda: print("creating")):
    ...     print("using")
    using
    """

    #: The origin for which this class has creators run. A resource in a file of this package sees to that itself.
    _origin: Origin | None = None

    def __init__(
        self,
        expiretime: float | timedelta | None,
        path: str | os.PathLike[str] | None = None,
        *,
        init: bool = False,
        lock: LockLike | None = None,
        timeout: float | None = None,
        directory: str | os.PathLike[str] | None = None,
        mode: int | None = None,
        resource: Literal["file", "directory"] | None = None,
        backoff: Backoff | None = None,
        max_stale: float | timedelta | None = None,
        refresh_early: float | None = None,
        jitter: float = 0.0,
        on_event: Callback | None = None,
        policy: Policy | None = None,
        origin: Origin | str | os.PathLike[str] | None = None,
    ) -> None:
        if resource not in (None, "file", "directory"):
            raise ValueError(f"resource must be 'file', 'directory' or None, not {resource!r}")
        self.path: str | None = None if path is None else checked_resource(path, resource)
        own_timeout = checked_timeout(timeout)
        checked_mode(mode)
        scope: Scope
        if self.path is None:
            if directory is not None or mode is not None or resource is not None:
                raise TypeError("directory=, mode= and resource= go with a path: give one as well")
            scope = ThreadScope(lock=lock, timeout=own_timeout)
        else:
            kind = ProcessScope if directory is None else FollowingScope
            scope = kind(
                self.path,
                lock=lock,
                timeout=own_timeout,
                directory=directory,
                mode=mode,
                reconciled=resource is not None,
            )
        policy = one_policy(
            policy,
            ORIGINAL,
            backoff=backoff,
            max_stale=max_stale,
            refresh_early=refresh_early,
            jitter=jitter,
            on_event=on_event,
        )
        if policy.background is not None:
            raise ValueError(
                f"background={policy.background!r} is for a Datafile or a DataDirectory: what another thread or "
                "process creates must be in a file"
            )
        self._use(scope, own_timeout, policy, resource)
        made_with = {
            "lock": lock,
            "timeout": timeout,
            "directory": None if directory is None else absolute(directory),
            "mode": mode,
        }
        # Only those that differ from the default: there may be thousands of objects.
        self._made_with = {name: value for name, value in made_with.items() if value is not None} or _WITH_NOTHING
        self.expiretime = expiretime
        if origin is not None:
            self._origin = self._checked_origin(origin, lock=lock, directory=directory, init=init)
            self._share_with_hosts(self._origin, None)
            self._made_with = {**self._made_with, "origin": self._origin}
        if init:
            now = time()
            if not scope.read().is_known:  # else a process that may only read could not be told either
                scope.change(lambda record: record if record.is_known else self._declared(record, now))

    def _checked_origin(self, origin: Origin | str | os.PathLike[str], **others: Any) -> Origin:
        """:raises TypeError, ValueError: as :class:`.Origin`, and for options that do not go with one."""
        from .origin import Origin  # here: few use it

        if self.path is None:
            raise TypeError(
                "origin= goes with a path, which says where this host keeps its record: give one as well"
            )
        if self._resource is not None:
            raise ValueError("origin= and resource= do not go together. Hint: a Datafile has an origin")
        others["depends_on"] = self._policy.depends_on
        for name, value in others.items():
            if value:
                raise ValueError(f"origin= and {name}= do not go together: each host has its own")
        return origin if isinstance(origin, Origin) else Origin(origin)

    def _use(
        self,
        scope: Scope,
        timeout: float | None,
        policy: Policy,
        resource: Literal["file", "directory"] | None,
    ) -> None:
        """Have the record and the locks of *scope*."""
        scope.on_event = policy.on_event
        self._shared = SharedState(scope, timeout, policy)
        if policy.depends_on:
            from .inputs import Inputs  # here: hashlib takes long to import

            self._shared.inputs = Inputs(policy.depends_on, self.path)
        if self.path is not None:
            kept_open.may_keep(self._shared)
        self._resource = resource
        self._watches: list[Any] | None = None  # of on_new_version; such a list, once there is one

    def _share_with_hosts(self, origin: Origin, replica: Replica | None) -> None:
        """Coordinate with all hosts that name the same *origin*.

        :param replica: puts their versions in place, if they are in files of this package.
        """
        from .host_election import HostElection  # here: hashlib and json take long to import
        from .host_scope import HostScope

        assert self.path is not None
        before, options = self._shared, self._made_with
        scope = HostScope(
            self.path,
            origin=origin,
            lock=None,
            timeout=before.timeout,
            directory=None,
            mode=options.get("mode"),
            reconciled=self._resource is not None,
        )
        self._use(scope, before.timeout, before.policy, self._resource)
        self._shared.readers = before.readers
        self._shared.host = HostElection(self._shared, scope, replica)
        self.expiretime = before.expiretime

    @overload
    def acquire(
        self,
        creator: Callable[[], Created] | None = None,
        value_fn: Callable[[], Found] | None = None,
        value_and_created_fn: None = None,
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractContextManager[Created | Found]: ...

    @overload
    def acquire(
        self,
        creator: Callable[[], tuple[Created, float]] | None,
        value_fn: Callable[[], object] | None,
        value_and_created_fn: Callable[[], tuple[Found, float]],
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractContextManager[Created | Found]: ...

    @overload
    def acquire(
        self,
        creator: Callable[[], tuple[Created, float]] | None = None,
        value_fn: Callable[[], object] | None = None,
        *,
        value_and_created_fn: Callable[[], tuple[Found, float]],
        timeout: Timeout = INHERIT,
    ) -> AbstractContextManager[Created | Found]: ...

    def acquire(
        self,
        creator: Callable[[], Any] | None = None,
        value_fn: Callable[[], Any] | None = None,
        value_and_created_fn: Callable[[], tuple[Any, float]] | None = None,
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractContextManager[Any]:
        """Return a context manager whose block runs with the resource there, be it fresh or stale.

        :param creator: builds the resource, if this caller is elected. What it returns is the block's value;
            with *value_and_created_fn* it returns ``(value, createdtime)``. Without a creator this caller never
            creates: while the resource is missing, it waits for a caller that does.
        :param value_fn: returns the value for a caller that was not elected, or raises
            :class:`NeedRegenerationException` if it has none: then the resource counts as missing.
        :param value_and_created_fn: the same, but returns ``(value, createdtime)``, and that createdtime counts.
        :param timeout: seconds to wait at most, for all waits of this call together; the time of this caller's own
            creator does not count. ``None``: no bound. Default: the object's.
        :returns: on ``with ... as value``: the result of *creator* or of a value function, else ``None``.
        :raises LockTimeout: on entering, if the first creation did not end in time.
        :raises WouldDeadlock: on entering from inside the creator, while the resource is missing; or where callers
            of this process would wait for each other.
        :raises LockFileError, SidecarError: on entering, if the coordination files cannot be used. A process
            that merely lacks permission to create passes the stale resource, and says so in the log.
        :raises CreationFailed: on entering, if there is a *backoff*, nothing to pass with, and it is too early for
            another creation.
        :raises: the exception of *creator*, unchanged; the old createdtime stays and the mutex is free again.

        From ``dogpile.core`` 0.4.1, ``Dogpile.acquire``. Enter it at once, and do not keep it: the call may have
        found out already that the resource is fresh.
        """
        guard = self._shared.last_guard
        if (
            guard is not None
            and value_fn is None
            and value_and_created_fn is None
            and timeout is ...
            and (guard.since <= time() < guard.until or guard.is_good_again())
        ):
            try:
                if lseek(guard.open_file.fd, 0, SEEK_END) == guard.length:
                    return guard
            except OSError:
                pass  # closed by a fork, or stale on a network
        if self._origin is not None:
            creator = self._for_all_hosts(creator, timeout, "pass")
        return Acquisition(self._shared, creator, value_fn, value_and_created_fn, timeout)

    def refresh(self, creator: Callable[[], Any], force: bool = False, *, timeout: Timeout = INHERIT) -> Outcome:
        """Create if the resource is stale or missing; for cron jobs and warm-up code.

        :param force: create in any case, after the caller that is creating now.
        :param timeout: seconds to wait at most; ``None``: no bound. Default: the object's.
        :returns: ``Outcome.created``, which is true, if *creator* was called. Others are false: ``fresh``;
            ``creating`` if another caller creates; ``backing_off`` if it is too early after failures; ``fenced``
            if another program removed the lock file meanwhile, so that the result does not count.
        :raises LockTimeout, WouldDeadlock, LockFileError, SidecarError: as :meth:`acquire`, but lacking
            permission to create is always an error.

        >>> dogpile = Dogpile(3600)
        >>> [str(dogpile.refresh(lambda: None, force=force)) for force in (False, False, True)]
        ['created', 'fresh', 'created']
        """
        if self._origin is not None:
            creator = self._for_all_hosts(creator, timeout, "force" if force else "refresh")
        return Acquisition(self._shared, creator, None, None, timeout).refresh(force=force)

    def _for_all_hosts(self, creator: Any, timeout: Timeout, wanted: Wanted) -> Any:
        """Return a creator that runs *creator* if this host is elected."""
        host = self._shared.host
        if creator is None or host is None:
            return creator
        bound = self._shared.timeout if isinstance(timeout, EllipsisType) else timeout
        return partial(host.make, creator, bound, wanted)

    def invalidate(self, hard: bool = False, *, durable: bool = False) -> None:
        """Make the resource stale from now on, for all processes.

        :param hard: no caller passes before a new creation; readers inside are not disturbed.
        :param durable: write this to the disk before returning; otherwise a crash of the machine within about half
            a minute may lose it.
        :raises SidecarError: if the sidecar cannot be written.

        It does not wait for a creation that is running. The result of that will be stale (after a hard
        invalidation: missing) for all but its own caller, because the creator may have read its input before.

        >>> dogpile = Dogpile(3600, init=True)
        >>> dogpile.invalidate()
        >>> dogpile.has_value, dogpile.is_expired
        (True, True)
        """
        if self._shared.host is not None:
            self._shared.host.invalidate(hard=hard)
        now, scope = time(), self._shared.scope
        made: list[Record] = []

        def invalidated(record: Record) -> Record:
            made[:] = [record.invalidate(hard=hard, now=now)]
            return made[0]

        scope.change(invalidated)
        if durable:
            scope.sync()
        self._tell("invalidated", made[0])

    def status(self) -> Status:
        """Return the state that is known now, without waiting or creating.

        :raises SidecarError, LockFileError: if the coordination files cannot be read.

        >>> Dogpile(3600).status().state
        'missing'
        """
        status = status_in(self._shared)
        if self.path is not None and self._resource is not None and is_unlinked(self.path):
            return replace(status, unlinked=True)
        return status

    @property
    def _policy(self) -> Policy:
        """What was asked for when creations fail or versions grow old."""
        return self._shared.policy

    @property
    def expiretime(self) -> float | None:
        """Seconds after which the resource is stale; ``None``: never. May be set at any time."""
        return self._shared.expiretime

    @expiretime.setter
    def expiretime(self, value: float | timedelta | None) -> None:
        self._shared.expire_after(None if value is None else checked_seconds("expiretime", value))

    @property
    def createdtime(self) -> float:
        """Epoch seconds at which the last creator finished; -1 while the resource is missing.

        Setting it stamps, for all hosts where there is an origin; setting it to 0 or less invalidates hard, as in
        dogpile.core.
        """
        record = self._shared.scope.read()
        return record.createdtime if record.has_value else -1

    @createdtime.setter
    def createdtime(self, value: float) -> None:
        createdtime = checked_seconds("createdtime", value, least=-math.inf)
        if createdtime == math.inf:
            raise ValueError("createdtime must be finite; a resource that never expires has expiretime=None")
        if createdtime > 0:
            if self._shared.host is not None:
                self._shared.host.declare(createdtime)
            else:
                self._shared.scope.change(lambda record: self._declared(record, createdtime))
        else:
            self.invalidate(hard=True)

    def _stamp(self, fingerprint: Fingerprint) -> None:
        """Stamp the file that has this *fingerprint*, wherever the path leads: it was put in place now.

        :raises SidecarError: if the sidecar cannot be written.
        """
        now = time()
        self._shared.scope.change(lambda record: self._declared(record, now, fingerprint))

    def _tell(self, kind: Kind, record: Record) -> None:
        """Call the callbacks for an event of the version that *record* describes."""
        tell(self._shared.scope, kind, record)

    def _declared(self, record: Record, createdtime: float, fingerprint: Fingerprint | None = None) -> Record:
        """Return *record* after a creation that no creator has run; of what is at the path by default."""
        is_new = fingerprint is not None
        if fingerprint is None:
            fingerprint, is_new = self._shared.scope.fingerprint(), False
        inputs = self._shared.inputs
        declared = record.created(
            record,
            createdtime,
            cost=record.cost,
            expiretime=record.expiretime,
            fingerprint=fingerprint,
            max_stale=record.max_stale,
            note=record.note,
            inputs=record.inputs if inputs is None else inputs.digest(),
            swapped=is_new,
            **this_process(),
        )
        return declared.replace(attempt=record.attempt)

    @property
    def version(self) -> tuple[int, ...] | None:
        """The version of the resource that is in place, fresh or not; ``None`` while it is missing.

        Compare versions with ``==``. Every creation makes another one; with ``resource=`` only one that put
        another file in place, and another program's replacement does so, too.
        """
        record = self._shared.scope.read()
        return record.version if record.has_value else None

    def on_new_version(self, callback: Callable[[Self], object]) -> Subscription[Self]:
        """Have ``callback(self)`` called after each new version, by whichever process; see
        :meth:`.Datafile.on_new_version`.

        :raises TypeError: also without a path, because then there are no other processes.

        >>> import os, tempfile, threading
        >>> dogpile = Dogpile(3600, os.path.join(tempfile.mkdtemp(), "report"))
        >>> called = threading.Event()
        >>> with dogpile.on_new_version(lambda dogpile: called.set()):
        ...     _ = dogpile.refresh(lambda: None)
        ...     called.wait(60)
        True
        """
        if self.path is None:
            raise TypeError("a Dogpile without a path has no versions of other processes: give it a path")
        from .new_versions import subscribe  # here: few programs need it

        return subscribe(self, callback, type(self)._seen)

    def _seen(self) -> tuple[tuple[str, ...], tuple[int, ...] | None]:
        """Return the paths of the resource and of its sidecar, and the :attr:`version`."""
        version = self.version  # first: in a shared directory, it finds out what the sidecar is called
        return tuple(filter(None, (self.path, self._shared.scope.sidecar_path))), version

    def fresh_version(self) -> tuple[int, ...] | None:
        """Return the :attr:`version` in place if it is fresh, else ``None``; for less than a pass costs.

        :raises SidecarError, LockFileError: if the coordination files cannot be read.

        >>> dogpile = Dogpile(3600, init=True)
        >>> version = dogpile.fresh_version()
        >>> dogpile.fresh_version() == version, bool(dogpile.refresh(lambda: None, force=True))
        (True, True)
        >>> dogpile.fresh_version() == version
        False
        """
        shared = self._shared
        record = shared.scope.peek().record
        # As in Acquisition: a version that passes by its age alone needs no more than this comparison.
        if _EARLIEST <= time() - record.fresh_from < shared.max_age:
            return record.version
        now = time()
        return (
            record.version if shared.judge(record, now) == "fresh" and not shared.is_to_ask(record, now) else None
        )

    def _pass_with(self, found: os.stat_result) -> AbstractContextManager[None] | None:
        """Return a guard for a caller that has opened the resource already, if that file is fresh.

        It saves a look at the path. For a Dogpile with ``resource=``.

        :param found: the ``os.fstat`` of the opened file.
        :returns: a context manager as of :meth:`acquire`; ``None``: call that, and open the file again.
        :raises SidecarError: if the sidecar cannot be read.
        """
        shared = self._shared
        record, now = shared.scope.record_of(found), time()
        if not _EARLIEST <= now - record.fresh_from < shared.max_age and (
            shared.judge(record, now) != "fresh" or shared.is_to_ask(record, now)
        ):
            return None
        guard = shared.opened_guard
        if guard is None or guard.seen is not record:
            guard = Guard(shared.scope, shared.timeout)
            guard.seen = record
            shared.opened_guard = guard
        return guard

    @property
    def has_value(self) -> bool:
        """Whether there has been a creation that was not hard-invalidated since."""
        return self._shared.scope.read().has_value

    @property
    def is_expired(self) -> bool:
        """Whether the resource is stale or missing."""
        return self._shared.judge(self._shared.scope.read(), time()) not in ("fresh", "early")

    @property
    def dogpilelock(self) -> Mutex:
        """The creation mutex, under its name in dogpile.core."""
        return self._shared.scope.mutex

    @property
    def _record(self) -> Record:
        """The record as it is now."""
        return self._shared.scope.read()

    @property
    def _readers(self) -> Readers:
        """The readers of the resource; none is ever inside, unless this is a :class:`SyncReaderDogpile`."""
        return self._shared.readers

    def __reduce__(self) -> tuple[object, ...]:
        if self.path is None:
            raise TypeError(
                "a Dogpile without a path coordinates the threads of one process and cannot be sent to another: "
                "give it a path"
            )
        own = next(kind for kind in type(self).__mro__ if kind in (Dogpile, SyncReaderDogpile))
        options = {**self._made_with, "resource": self._resource, "policy": self._policy}
        return copied_by(self, own, self.expiretime, self.path, **options)

    def __repr__(self) -> str:
        where = "" if self.path is None else f", {self.path!r}"
        return f"{type(self).__name__}({self.expiretime}{where})"


class SyncReaderDogpile(Dogpile):
    """A :class:`Dogpile` whose ``with`` blocks are readers, so that a creator can swap the resource while none is
    inside.

    Parameters and errors as :class:`Dogpile`. Readers inside delay only a writer; from the moment that a writer
    waits, new readers wait for it as well. Blocks nest within a thread or task. From ``dogpile.core`` 0.4.1's
    class of this name.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "report.txt")
    >>> dogpile = SyncReaderDogpile(3600, path)
    >>> def creator():
    ...     with open(path + ".new", "w") as file:
    ...         _ = file.write("the report")
    ...     with dogpile.acquire_write_lock():
    ...         os.replace(path + ".new", path)
    >>> with dogpile.acquire(creator), open(path) as file:
    ...     print(file.read())
    the report
    """

    def __init__(
        self,
        expiretime: float | timedelta | None,
        path: str | os.PathLike[str] | None = None,
        *,
        init: bool = False,
        lock: LockLike | None = None,
        timeout: float | None = None,
        directory: str | os.PathLike[str] | None = None,
        mode: int | None = None,
        resource: Literal["file", "directory"] | None = None,
        backoff: Backoff | None = None,
        max_stale: float | timedelta | None = None,
        refresh_early: float | None = None,
        jitter: float = 0.0,
        on_event: Callback | None = None,
        policy: Policy | None = None,
        origin: Origin | str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(
            expiretime,
            path,
            init=init,
            lock=lock,
            timeout=timeout,
            directory=directory,
            mode=mode,
            resource=resource,
            backoff=backoff,
            max_stale=max_stale,
            refresh_early=refresh_early,
            jitter=jitter,
            on_event=on_event,
            policy=policy,
            origin=origin,
        )
        self._readwritelock = self._shared.readers = self._shared.scope.read_write_lock()

    @overload
    def acquire(
        self,
        creator: Callable[[], Created] | None = None,
        value_fn: Callable[[], Found] | None = None,
        value_and_created_fn: None = None,
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractContextManager[Created | Found]: ...

    @overload
    def acquire(
        self,
        creator: Callable[[], tuple[Created, float]] | None,
        value_fn: Callable[[], object] | None,
        value_and_created_fn: Callable[[], tuple[Found, float]],
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractContextManager[Created | Found]: ...

    @overload
    def acquire(
        self,
        creator: Callable[[], tuple[Created, float]] | None = None,
        value_fn: Callable[[], object] | None = None,
        *,
        value_and_created_fn: Callable[[], tuple[Found, float]],
        timeout: Timeout = INHERIT,
    ) -> AbstractContextManager[Created | Found]: ...

    def acquire(
        self,
        creator: Callable[[], Any] | None = None,
        value_fn: Callable[[], Any] | None = None,
        value_and_created_fn: Callable[[], tuple[Any, float]] | None = None,
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractContextManager[Any]:
        """Return a context manager as :meth:`Dogpile.acquire` does; no writer is inside its block.

        A caller that is inside already is not elected and does not wait for a creator, which may wait for it. It
        passes, also after a hard invalidation, because the version that it reads stays until it leaves. It creates
        only if a value function raises :class:`NeedRegenerationException` and no other caller creates.

        :raises LockTimeout: also if a writer did not leave in time.
        :raises WouldDeadlock: also inside :meth:`acquire_write_lock`, and inside the caller's own block, if a
            value function has no value and another caller creates.
        """
        shared = self._shared
        guard = shared.last_guard
        if (
            guard is not None
            and value_fn is None
            and value_and_created_fn is None
            and timeout is ...
            and (guard.since <= time() < guard.until or guard.is_good_again())
        ):
            try:
                if lseek(guard.open_file.fd, 0, SEEK_END) == guard.length:
                    # As ReaderPool._enter(). In thread scope there is no reusable guard.
                    readers: Any = shared.readers
                    slot: AbstractContextManager[Any] = readers._idle.pop()
                    slot.pool, slot.guard = readers, guard  # type: ignore[attr-defined]
                    return slot
            except (OSError, IndexError):  # the latter: no slot is idle
                pass
        if self._origin is not None:
            creator = self._for_all_hosts(creator, timeout, "pass")
        return ReaderAcquisition(shared, creator, value_fn, value_and_created_fn, timeout)

    def acquire_write_lock(self, timeout: Timeout = INHERIT) -> AbstractContextManager[None]:
        """Return a ``with`` block in which no reader of any process is inside: the place to swap.

        :param timeout: seconds to wait at most; ``None``: no bound. Default: the object's.
        :raises LockTimeout: if the readers inside did not leave in time.
        :raises WouldDeadlock: inside the caller's own ``acquire`` block.
        :raises LockFileError: if the lock file cannot be opened for writing.
        """
        return self.readwritelock.write(timeout)

    @property
    def readwritelock(self) -> ReadWriteLock:
        """The read/write lock, under its name in dogpile.core."""
        return self._readwritelock
