"""Datafile and DataDirectory for tasks: the classes of the same name, with waits that pause the task."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from functools import partial
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Generic, Literal, NoReturn, Self, TextIO, TypeVar, overload

from .._datafile import datadirectory, datafile
from .._datafile.blocks import Acquired, ReaderBlock, Reading
from .._datafile.building import MOST_BUILDS
from .._datafile.loader_cache import loader_key
from .._datafile.resource import Resource
from .._datafile.version_file import Vanished
from .._dogpile.event import Callback
from .._dogpile.outcome import Outcome
from .._dogpile.policy import DEFAULT, Backoff, Policy
from .._dogpile.status import Status
from .._locks import holds
from .._locks.waits import Wait
from .._os.waiting import INHERIT, NOW, Deadline, Timeout
from ..errors import LockTimeout
from . import waiters
from .dogpile import acquisition_of
from .functions import Bridged, Site
from .loops import running_loop
from .subscription import subscribe
from .work import Work, in_thread, lone_holder

if TYPE_CHECKING:
    from datetime import timedelta

    from .._dogpile.inputs import Input
    from .._dogpile.new_versions import Subscription
    from .._dogpile.origin import Origin

__all__ = ["DataDirectory", "Datafile", "inputs_of", "of_sync"]

T = TypeVar("T")
_Sync = TypeVar("_Sync", bound=Resource[Any])
_Given = TypeVar("_Given")
_Kind = TypeVar("_Kind")


class _Block(ReaderBlock[_Given], Generic[_Given]):
    """A block of a task: a :class:`.ReaderBlock` that is entered by ``async with``."""

    __slots__ = ()

    def __enter__(self) -> NoReturn:
        raise TypeError("this is an asynchronous context manager: write 'async with'")

    async def __aenter__(self) -> _Given:
        if self._guard is not None:
            raise RuntimeError("this block has been entered already: make another")
        resource = self._resource
        for guard in resource._guards(self._timeout, partial(acquisition_of, resource._dogpile)):
            value = await guard.__aenter__()
            try:
                resource._pass_again_without(value)
                try:
                    given = self._give(NOW)
                except LockTimeout:  # another process has it locked, and is about to give it back, or was stopped
                    given = await self._given_by_thread(guard.deadline)
                self._guard = guard
                return given
            except BaseException as error:
                self._guard = self._held = None
                await guard.__aexit__(type(error), error, error.__traceback__)
                if not isinstance(error, Vanished):
                    raise
        raise AssertionError("unreachable")

    async def _given_by_thread(self, deadline: Deadline) -> _Given:
        """Wait for what :meth:`_give` waits for, without blocking this thread."""
        resource, how = self._resource, self._how
        work = Work(
            running_loop(),
            f"the opening of {resource._path!r}",
            lambda work: resource._enter(deadline, *how),
            dispose=lambda entered: resource._leave(entered[0]),
            lost=lambda error: None,
        )
        self._held, given, _ = await work.result()
        return given  # type: ignore[no-any-return]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


class _Acquired(_Block[str], Acquired):
    __slots__ = ()


class _Reading(_Block[IO[Any]], Reading):
    __slots__ = ()

    async def __aenter__(self) -> IO[Any]:
        if self._guard is None and self._open_fresh():
            return self._held  # type: ignore[no-any-return]
        return await _Block.__aenter__(self)


class _MustLoad(Exception):
    """There is no object yet of the version in place."""


def _must_load() -> NoReturn:
    raise _MustLoad


class _AsyncResource(Generic[_Sync, _Given]):
    """What the two classes have in common. *_sync*: the object of the synchronous class."""

    _sync: _Sync
    _watches: list[Any] | None = None

    @overload
    async def load(self, loader: Callable[[_Given], Awaitable[T]], *, timeout: Timeout = INHERIT) -> T: ...

    @overload
    async def load(self, loader: Callable[[_Given], T], *, timeout: Timeout = INHERIT) -> T: ...

    async def load(self, loader: Callable[[_Given], Any], *, timeout: Timeout = INHERIT) -> Any:
        """Return what *loader* makes of the current version: once per process and version, for all its tasks.

        While nothing is new, no task pauses. While one task has *loader* called on a new version, the others get
        the old object. See :meth:`dogpile_fs.Datafile.load`; threads and tasks share the objects if they share
        this object.

        :param loader: called with the version; a coroutine function runs in the event loop, a plain one in a
            worker thread.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :raises: as :meth:`dogpile_fs.Datafile.load`.
        """
        own = self._sync
        cache = own._loader_cache()
        slot = cache.slot_of(loader)
        if slot.made is not None:
            version, value = slot.made
            if version == own._dogpile.fresh_version():
                return value
        for guard in own._guards(timeout, partial(acquisition_of, own._dogpile)):
            value = await guard.__aenter__()
            with suppress(Vanished), ExitStack() as block:
                block.push(guard)
                own._pass_again_without(value)
                deadline = guard.deadline
                while True:
                    try:
                        return cache.value(loader, guard.seen, _must_load, NOW)[0]
                    except LockTimeout:
                        await self._wait_for_first_load(cache.slots.get(loader_key(loader), slot), deadline)
                    except _MustLoad:
                        break
                work = self._loading(loader, guard, deadline)
                block.pop_all()  # the thread leaves it: what it reads stays until it has read it
                return await work.result()
        raise AssertionError("unreachable")

    async def _wait_for_first_load(self, slot: Any, deadline: Deadline) -> None:
        """Wait until no other caller makes the object of *slot*.

        :raises LockTimeout: if *deadline* came first.
        """
        path = self._sync._path
        with Wait(f"the first load of {path!r}", path, lambda: [slot.holder], deadline, me=lone_holder()) as wait:
            if not await waiters.wait_for_lock(running_loop(), slot.lock, wait.deadline):
                raise LockTimeout(f"another caller did not load {path!r} {wait.within}. Hint: a longer timeout.")

    def _loading(self, loader: Callable[[Any], Any], guard: Any, deadline: Deadline) -> Work[Any]:
        """Have a thread call *loader*, and leave the block of *guard* then."""
        own, loop = self._sync, running_loop()
        cache = own._loader_cache()

        def load(work: Work[Any]) -> Any:
            def enter() -> Callable[[], object]:
                slot, me = cache.slots.get(loader_key(loader)), holds.current()
                leave = partial(work.pass_on, work.pass_on(me))
                if slot is None:
                    return leave
                before, slot.holder = slot.holder, me

                def leave_both() -> None:
                    slot.holder = before
                    leave()

                return leave_both

            with ExitStack() as block:
                block.push(guard)
                opening = partial(own._opening, guard.seen, Bridged(loader), deadline)
                value, record = Site(loop, lambda: _nothing, in_loop=enter)(
                    cache.value, loader, guard.seen, opening, deadline
                )
            if record is not None:
                own._dogpile._tell("loaded", record)  # outside of the block, which may be a reader's
            return value

        # An error that no task gets is the next caller's as well; a failure of the loader is logged.
        return Work(loop, f"the load of {own._path!r}", load, lost=lambda error: None)

    async def refresh(self, force: bool = False, *, timeout: Timeout = INHERIT) -> Outcome:
        """Create if it is stale or missing; see :meth:`dogpile_fs.Datafile.refresh`.

        :param force: create in any case, after a creation that runs now.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :returns: what was done; true if this call ran the creator.
        :raises: as :meth:`dogpile_fs.Datafile.refresh`.
        """

        own = self._sync
        creator = own._creator_to_refresh(timeout, force=force)
        for _ in range(MOST_BUILDS):
            outcome = await acquisition_of(own._dogpile, creator, timeout).refreshed(force=force)
            if outcome != Outcome.fenced or own._origin is not None:
                return outcome
        raise own._always_fenced()

    async def invalidate(self, hard: bool = False) -> None:
        """Make it stale from now on, for all processes; see :meth:`dogpile_fs.Datafile.invalidate`."""
        await in_thread(f"the invalidation of {self._sync._path!r}", partial(self._sync.invalidate, hard))

    async def status(self) -> Status:
        """Return what is known now, without waiting or creating; see :meth:`dogpile_fs.Dogpile.status`."""
        return self._sync.status()

    async def touch(self) -> None:
        """Stamp the current version; see :meth:`dogpile_fs.Datafile.touch`."""
        await in_thread(f"the stamp of {self._sync._path!r}", self._sync.touch)

    async def rollback(self, *, timeout: Timeout = INHERIT) -> None:
        """Put the last version back that ``keep=`` has kept; see :meth:`dogpile_fs.Datafile.rollback`.

        A rollback whose task is cancelled goes on.
        """
        await in_thread(f"the rollback of {self._sync._path!r}", partial(self._sync.rollback, timeout=timeout))

    @property
    def name(self) -> str:
        """The absolute path. Nothing is looked at or created."""
        return self._sync.name

    @property
    def writes_to(self) -> tuple[str, ...]:
        """The directories that a creation writes; see :attr:`dogpile_fs.Datafile.writes_to`."""
        return self._sync.writes_to

    @property
    def version(self) -> tuple[int, ...] | None:
        """The version that is in place, fresh or not; ``None`` while it is missing."""
        return self._sync.version

    def on_new_version(self, callback: Callable[[Self], Awaitable[object] | object]) -> Subscription[Self]:
        """Have ``callback(self)`` called after each new version; see :meth:`dogpile_fs.Datafile.on_new_version`.

        :param callback: a coroutine function or a plain one. It runs in the event loop that runs now.
        :raises RuntimeError: if no event loop runs in this thread.
        """
        return subscribe(self, callback, lambda own: own._sync._seen())

    def __reduce__(self) -> tuple[object, ...]:
        return of_sync, (type(self), self._sync)

    def __repr__(self) -> str:
        return f"aio.{self._sync!r}"


def _nothing() -> None:
    pass


def of_sync(kind: type[_Kind], own: Resource[Any]) -> _Kind:
    """Return the object for tasks whose synchronous one is *own*."""
    made: Any = object.__new__(kind)
    made._sync = own
    return made  # type: ignore[no-any-return]


def inputs_of(depends_on: Iterable[Any]) -> Iterable[Any]:
    if isinstance(depends_on, str | bytes | os.PathLike):
        return depends_on  # the synchronous class refuses it
    return [each._sync if isinstance(each, _AsyncResource) else each for each in depends_on]


class Datafile(_AsyncResource[datafile.Datafile, BinaryIO]):
    """A file that one process replaces whole, for tasks: the :class:`dogpile_fs.Datafile` of asyncio and trio.

    Parameters, policies and errors as there; *creator*, *validate* and loaders may be coroutine functions, or
    plain ones, which run in worker threads. Locks and record are shared with all other users of *path*. A pass
    does not pause its task; a wait may be cancelled at any time; a creation whose task is cancelled goes on.

    >>> import anyio, json, os, tempfile
    >>> async def creator(target):
    ...     async with await anyio.open_file(target, "w") as file:
    ...         await file.write('{"rows": 3}')
    >>> async def main():
    ...     report = Datafile(os.path.join(tempfile.mkdtemp(), "report.json"), 3600, creator)
    ...     async with report.open("r") as file:
    ...         print(file.read())
    ...     print(await report.load(json.load))
    >>> anyio.run(main)
    {"rows": 3}
    {'rows': 3}
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        expiretime: float | timedelta | None = None,
        creator: Callable[..., Any] | None = None,
        *,
        validate: Callable[[str], Any] | None = None,
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
        depends_on: Iterable[Input | _AsyncResource[Any, Any]] = (),
        background: Literal["thread", "process"] | None = None,
        creator_timeout: float | timedelta | None = None,
        background_setup: Callable[[], object] | None = None,
        exit_wait: float | timedelta = DEFAULT.exit_wait,
        on_event: Callback | None = None,
        policy: Policy | None = None,
        origin: Origin | str | os.PathLike[str] | None = None,
    ) -> None:
        self._sync = datafile.Datafile(
            path,
            expiretime,
            Bridged.of(creator),
            validate=Bridged.of(validate),
            keep=keep,
            skip_unchanged=skip_unchanged,
            durable=durable,
            readers=readers,
            timeout=timeout,
            directory=directory,
            mode=mode,
            parents=parents,
            backoff=backoff,
            stale_if_error=stale_if_error,
            max_stale=max_stale,
            refresh_early=refresh_early,
            jitter=jitter,
            depends_on=inputs_of(depends_on),
            background=background,
            creator_timeout=creator_timeout,
            background_setup=background_setup,
            exit_wait=exit_wait,
            on_event=on_event,
            policy=policy,
            origin=origin,
        )

    @overload
    def open(
        self, mode: Literal["rb"] = "rb", *, timeout: Timeout = INHERIT
    ) -> AbstractAsyncContextManager[BinaryIO]: ...

    @overload
    def open(
        self,
        mode: Literal["r", "rt"],
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        timeout: Timeout = INHERIT,
    ) -> AbstractAsyncContextManager[TextIO]: ...

    @overload
    def open(
        self,
        mode: str,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        timeout: Timeout = INHERIT,
    ) -> AbstractAsyncContextManager[IO[Any]]: ...

    def open(
        self,
        mode: str = "rb",
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        timeout: Timeout = INHERIT,
    ) -> AbstractAsyncContextManager[IO[Any]]:
        """Return an asynchronous context manager that yields the current version, a plain file object.

        It is created first if it is missing. See :meth:`dogpile_fs.Datafile.open`.

        :param mode: ``"rb"``, ``"r"`` or ``"rt"``.
        :param encoding: as of the built-in ``open``; so are *errors* and *newline*.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :raises: as :meth:`dogpile_fs.Datafile.open`.
        """
        datafile.check_mode(mode)
        return _Reading(self._sync, timeout, mode, encoding, errors, newline)

    def acquire(self, *, timeout: Timeout = INHERIT) -> AbstractAsyncContextManager[str]:
        """Return an asynchronous context manager that yields the path of the current version; created first if
        missing. See :meth:`dogpile_fs.Datafile.acquire`.

        :param timeout: as of :meth:`open`. The errors are the same.
        """
        return _Acquired(self._sync, timeout)

    async def path(self, *, timeout: Timeout = INHERIT) -> str:
        """Return the path of the datafile, created first if missing; see :meth:`acquire`."""
        async with self.acquire(timeout=timeout) as path:
            return path


class DataDirectory(_AsyncResource[datadirectory.DataDirectory, str]):
    """A directory that one process replaces whole, for tasks: the :class:`dogpile_fs.DataDirectory` of asyncio and
    trio.

    Parameters, policies and errors as there; otherwise as :class:`Datafile`.

    >>> import anyio, os, tempfile
    >>> async def creator(target):
    ...     os.mkdir(target)
    ...     async with await anyio.open_file(os.path.join(target, "index"), "w") as file:
    ...         await file.write("the index")
    >>> async def main():
    ...     index = DataDirectory(os.path.join(tempfile.mkdtemp(), "index"), 3600, creator)
    ...     async with index.open() as path:
    ...         print(os.listdir(path))
    >>> anyio.run(main)
    ['index']
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        expiretime: float | timedelta | None = None,
        creator: Callable[..., Any] | None = None,
        *,
        validate: Callable[[str], Any] | None = None,
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
        depends_on: Iterable[Input | _AsyncResource[Any, Any]] = (),
        background: Literal["thread", "process"] | None = None,
        creator_timeout: float | timedelta | None = None,
        background_setup: Callable[[], object] | None = None,
        exit_wait: float | timedelta = DEFAULT.exit_wait,
        on_event: Callback | None = None,
        policy: Policy | None = None,
        origin: Origin | str | os.PathLike[str] | None = None,
    ) -> None:
        self._sync = datadirectory.DataDirectory(
            path,
            expiretime,
            Bridged.of(creator),
            validate=Bridged.of(validate),
            keep=keep,
            durable=durable,
            timeout=timeout,
            directory=directory,
            mode=mode,
            parents=parents,
            backoff=backoff,
            stale_if_error=stale_if_error,
            max_stale=max_stale,
            refresh_early=refresh_early,
            jitter=jitter,
            depends_on=inputs_of(depends_on),
            background=background,
            creator_timeout=creator_timeout,
            background_setup=background_setup,
            exit_wait=exit_wait,
            on_event=on_event,
            policy=policy,
            origin=origin,
        )

    def open(self, *, timeout: Timeout = INHERIT) -> AbstractAsyncContextManager[str]:
        """Return an asynchronous context manager that yields the path of the current version; created first if
        missing. See :meth:`dogpile_fs.DataDirectory.open`.

        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :raises: as :meth:`dogpile_fs.DataDirectory.open`.
        """
        return _Block(self._sync, timeout)
