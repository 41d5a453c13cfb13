"""Dogpile and SyncReaderDogpile for tasks: the classes of the same name, with waits that pause the task."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from os import SEEK_END, lseek
from time import time
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from .._dogpile import dogpile as sync
from .._dogpile.event import Callback
from .._dogpile.guard import ReusableGuard
from .._dogpile.outcome import Outcome
from .._dogpile.policy import Backoff, Policy
from .._dogpile.status import Status
from .._locks.threads import LockLike
from .._os.waiting import INHERIT, Timeout
from .acquisition import AsyncAcquisition, AsyncGuard, AsyncReaderAcquisition, AsyncReaderGuard
from .functions import called_in_thread
from .readers import writing
from .subscription import subscribe
from .work import in_thread

if TYPE_CHECKING:
    from datetime import timedelta

    from .._dogpile.dogpile import Created, Found
    from .._dogpile.host_fetcher import Wanted
    from .._dogpile.new_versions import Subscription
    from .._dogpile.origin import Origin

__all__ = ["Dogpile", "SyncReaderDogpile", "acquisition_of"]

#: Stands for no guard, so that a pass need not ask for None.
_NO_GUARD: Any = AsyncGuard(None)  # type: ignore[arg-type]


class Dogpile:
    """A dogpile lock for tasks: one caller of one process creates, the others go on with the version there is.

    Parameters, policies and errors as :class:`dogpile_fs.Dogpile`, with which it shares its locks and its record.
    A pass does not pause its task. Waits pause it, and may be cancelled at any time: nothing is left behind. A
    creation whose task is cancelled goes on; if it fails, that is logged, counted and told as an event.

    >>> import anyio, os, tempfile
    >>> async def main():
    ...     dogpile = Dogpile(3600, os.path.join(tempfile.mkdtemp(), "report.json"))
    ...     async def creator():
    ...         print("creating")
    ...     for _ in range(2):
    ...         async with dogpile.acquire(creator):
    ...             print("using")
    >>> anyio.run(main)
    creating
    using
    using
    """

    _kind: type[sync.Dogpile] = sync.Dogpile
    _acquisition = AsyncAcquisition

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
        self._sync = self._kind(
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
        self._shared = self._sync._shared
        self._guard = _NO_GUARD
        self._watches: list[Any] | None = None

    @overload
    def acquire(
        self,
        creator: Callable[[], Awaitable[Created]],
        value_fn: Callable[[], Awaitable[Found]] | None = None,
        value_and_created_fn: None = None,
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractAsyncContextManager[Created | Found]: ...

    @overload
    def acquire(
        self,
        creator: Callable[[], Awaitable[Created]],
        value_fn: Callable[[], Found],
        value_and_created_fn: None = None,
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractAsyncContextManager[Created | Found]: ...

    @overload
    def acquire(
        self,
        creator: Callable[[], Created],
        value_fn: Callable[[], Awaitable[Found]],
        value_and_created_fn: None = None,
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractAsyncContextManager[Created | Found]: ...

    @overload
    def acquire(
        self,
        creator: Callable[[], Created] | None = None,
        value_fn: Callable[[], Found] | None = None,
        value_and_created_fn: None = None,
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractAsyncContextManager[Created | Found]: ...

    @overload
    def acquire(
        self,
        creator: Callable[[], Any] | None = None,
        value_fn: Callable[[], Any] | None = None,
        value_and_created_fn: Callable[[], Any] | None = None,
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractAsyncContextManager[Any]: ...

    def acquire(
        self,
        creator: Callable[[], Any] | None = None,
        value_fn: Callable[[], Any] | None = None,
        value_and_created_fn: Callable[[], Any] | None = None,
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractAsyncContextManager[Any]:
        """Return an asynchronous context manager whose block runs with the resource there, be it fresh or stale.

        :param creator: builds the resource, if this caller is elected. A coroutine function runs in the event
            loop, a plain one in a worker thread.
        :param value_fn: returns the value for a caller that was not elected, as of
            :meth:`dogpile_fs.Dogpile.acquire`. A coroutine function, or a plain one; both run in the event loop.
        :param value_and_created_fn: the same, but returns ``(value, createdtime)``.
        :param timeout: seconds to wait at most; ``None``: no bound. Default: the object's.
        :returns: on ``async with ... as value``: the result of *creator* or of a value function, else ``None``.
        :raises: as :meth:`dogpile_fs.Dogpile.acquire`. A ``StopIteration`` of *creator* comes as the cause of a
            ``RuntimeError``, because no coroutine can raise one.
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
                    return self._passing(guard)
            except OSError:
                pass  # closed by a fork, or stale on a network
        creator, is_ours = self._for_all_hosts(creator, timeout, "pass")
        return self._acquisition(self._shared, creator, value_fn, value_and_created_fn, timeout, is_ours=is_ours)

    def _for_all_hosts(self, creator: Any, timeout: Timeout, wanted: Wanted) -> tuple[Any, bool]:
        """Return the creator for this caller, and whether that is code of this package."""
        if self._sync._origin is None or creator is None:
            return creator, False
        return self._sync._for_all_hosts(partial(called_in_thread, creator), timeout, wanted), True

    def _passing(self, guard: ReusableGuard) -> AbstractAsyncContextManager[None]:
        """Return the block of a caller that passes with *guard*."""
        if self._guard.guard is not guard:
            self._guard = AsyncGuard(guard)
        return self._guard  # type: ignore[no-any-return]

    async def refresh(
        self, creator: Callable[[], Any], force: bool = False, *, timeout: Timeout = INHERIT
    ) -> Outcome:
        """Create if the resource is stale or missing; see :meth:`dogpile_fs.Dogpile.refresh`.

        :param force: create in any case, after the caller that is creating now.
        :param timeout: seconds to wait at most; ``None``: no bound. Default: the object's.
        :returns: what was done; true if *creator* was called.
        """
        creator, is_ours = self._for_all_hosts(creator, timeout, "force" if force else "refresh")
        acquisition = AsyncAcquisition(self._shared, creator, None, None, timeout, is_ours=is_ours)
        return await acquisition.refreshed(force=force)

    async def invalidate(self, hard: bool = False, *, durable: bool = False) -> None:
        """Make the resource stale from now on, for all processes; see :meth:`dogpile_fs.Dogpile.invalidate`."""
        await in_thread(
            f"the invalidation of {self._shared.scope.name}",
            partial(self._sync.invalidate, hard, durable=durable),
        )

    async def status(self) -> Status:
        """Return the state that is known now, without waiting; see :meth:`dogpile_fs.Dogpile.status`."""
        return self._sync.status()

    def on_new_version(self, callback: Callable[[Self], Awaitable[object] | object]) -> Subscription[Self]:
        """Have ``callback(self)`` called after each new version; see :meth:`dogpile_fs.Dogpile.on_new_version`.

        :param callback: a coroutine function or a plain one. It runs in the event loop that runs now.
        :raises TypeError: also without a path.
        :raises RuntimeError: if no event loop runs in this thread.
        """
        if self.path is None:
            raise TypeError("a Dogpile without a path has no versions of other processes: give it a path")
        return subscribe(self, callback, lambda own: own._sync._seen())

    @property
    def path(self) -> str | None:
        """The resource, as an absolute path; ``None`` in thread scope."""
        return self._sync.path

    @property
    def expiretime(self) -> float | None:
        """Seconds after which the resource is stale; ``None``: never. May be set at any time."""
        return self._sync.expiretime

    @expiretime.setter
    def expiretime(self, value: float | timedelta | None) -> None:
        self._sync.expiretime = value

    @property
    def createdtime(self) -> float:
        """Epoch seconds at which the last creator finished; -1 while it is missing. Setting it stamps."""
        return self._sync.createdtime

    @createdtime.setter
    def createdtime(self, value: float) -> None:
        self._sync.createdtime = value

    @property
    def version(self) -> tuple[int, ...] | None:
        """The version that is in place; see :attr:`dogpile_fs.Dogpile.version`."""
        return self._sync.version

    @property
    def has_value(self) -> bool:
        """Whether there has been a creation that was not hard-invalidated since."""
        return self._sync.has_value

    @property
    def is_expired(self) -> bool:
        """Whether the resource is stale or missing."""
        return self._sync.is_expired

    def __reduce__(self) -> tuple[object, ...]:
        return _of, (type(self), self._sync)

    def __repr__(self) -> str:
        return f"aio.{self._sync!r}"


def _of(kind: type[Dogpile], own: sync.Dogpile) -> Dogpile:
    made = kind.__new__(kind)
    made._sync, made._shared, made._guard, made._watches = own, own._shared, _NO_GUARD, None
    return made


class SyncReaderDogpile(Dogpile):
    """A :class:`Dogpile` whose blocks are readers, so that a creator can swap the resource while none is inside.

    Parameters and errors as :class:`dogpile_fs.SyncReaderDogpile`. A task that waits for a writer pauses, so
    overlapping tasks do not starve a writer.

    >>> import anyio, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "report.txt")
    >>> dogpile = SyncReaderDogpile(3600, path)
    >>> async def creator():
    ...     with open(path + ".new", "w") as file:
    ...         _ = file.write("the report")
    ...     async with dogpile.acquire_write_lock():
    ...         os.replace(path + ".new", path)
    >>> async def main():
    ...     async with dogpile.acquire(creator):
    ...         with open(path) as file:
    ...             print(file.read())
    >>> anyio.run(main)
    the report
    """

    _kind = sync.SyncReaderDogpile
    _acquisition = AsyncReaderAcquisition
    _sync: sync.SyncReaderDogpile

    def _passing(self, guard: ReusableGuard) -> AbstractAsyncContextManager[None]:
        return AsyncReaderGuard(self._shared.readers, guard)

    def acquire_write_lock(self, timeout: Timeout = INHERIT) -> AbstractAsyncContextManager[None]:
        """Return a block in which no reader of any process is inside: the place to swap.

        :param timeout: seconds to wait at most; ``None``: no bound. Default: the object's.
        :raises LockTimeout: if the readers inside did not leave in time.
        :raises WouldDeadlock: inside the task's own ``acquire`` block.
        """
        return writing(self._sync.readwritelock, timeout)


def acquisition_of(dogpile: sync.Dogpile, creator: Any, timeout: Timeout) -> AsyncAcquisition:
    """Return the way through of a caller that has *creator*, code of this package."""
    kind = AsyncReaderAcquisition if isinstance(dogpile, sync.SyncReaderDogpile) else AsyncAcquisition
    return kind(dogpile._shared, creator, None, None, timeout, is_ours=True)
