"""The resources of a round as tasks use them, by the classes of ``dogpile_fs.aio``."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from dogpile_fs import Event, Outcome, Policy, aio

from .creators import Creators
from .history import Journal
from .subjects import Found, OfKey, Subject

__all__ = ["TaskSubject", "task_subjects_of"]

#: The operation of the task, and the builder of its version, which is a coroutine function or a plain one.
#: Creators and callbacks for events run in the context of the task that asked for them, also when that is gone.
_operation: ContextVar[int] = ContextVar("operation")
_builder: ContextVar[Callable[[str], Any]] = ContextVar("builder")
_is_coroutine: ContextVar[bool] = ContextVar("is_coroutine")

#: By the event that tells how a creation has ended: its name in the history.
_ENDS = {"created": "stamped", "failed": "counted-as-failure"}


class TaskSubject(ABC):
    """A resource, as the tasks of one process use it. *own*: the same for threads, in the same process."""

    def __init__(self, own: Subject) -> None:
        self.own = own

    def begin(self, op: int, creators: Creators, rng: Random) -> None:
        """Let the creation that this task may ask for next be that of *op*."""
        _operation.set(op)
        in_loop = rng.random() < 0.5
        _is_coroutine.set(in_loop)
        _builder.set(
            creators.coroutine_builder(op, self.own, self.write_lock)
            if in_loop
            else creators.builder(op, self.own)
        )

    @abstractmethod
    def block(self, timeout: float | None, *, creates: bool = True) -> AbstractAsyncContextManager[Any]: ...

    @abstractmethod
    async def refresh(self, force: bool, timeout: float | None) -> Outcome: ...

    @abstractmethod
    async def invalidate(self, hard: bool = False) -> None: ...

    async def load(self, timeout: float | None) -> Found:
        raise NotImplementedError

    async def prune(self, **bounds: Any) -> int:
        raise NotImplementedError

    def write_lock(self, timeout: float | None = None) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError


class _OfDogpile(TaskSubject):
    """A ``Dogpile`` or ``SyncReaderDogpile``, whose creator replaces the file by hand."""

    def __init__(self, own: Subject, policy: Policy) -> None:
        super().__init__(own)
        kind = aio.SyncReaderDogpile if own.synced else aio.Dogpile
        self._dogpile: Any = kind(own.expiretime, own.path, policy=policy)

    def block(self, timeout: float | None, *, creates: bool = True) -> AbstractAsyncContextManager[Any]:
        creator = self._creator() if creates else None
        return self._dogpile.acquire(creator, timeout=timeout)  # type: ignore[no-any-return]

    async def refresh(self, force: bool, timeout: float | None) -> Outcome:
        return await self._dogpile.refresh(self._creator(), force, timeout=timeout)  # type: ignore[no-any-return]

    def _creator(self) -> Callable[[], Any]:
        return partial(_builder.get(), f"{self.own.path}.new.{os.getpid()}.{_operation.get()}")

    async def invalidate(self, hard: bool = False) -> None:
        await self._dogpile.invalidate(hard)

    def write_lock(self, timeout: float | None = None) -> AbstractAsyncContextManager[None]:
        return self._dogpile.acquire_write_lock(timeout)  # type: ignore[no-any-return]


class _OfVersioned(TaskSubject):
    """A resource that swaps by itself.

    :param makers: those whose creator is a plain function, and a coroutine function.
    :param files: the object of all keys, if it is a key's.
    """

    def __init__(self, own: Subject, makers: Sequence[Any], reader: Any, files: Any = None) -> None:
        super().__init__(own)
        self._makers = makers
        self._reader = reader
        self._files = files

    @property
    def _maker(self) -> Any:
        return self._makers[_is_coroutine.get()]

    def block(self, timeout: float | None, *, creates: bool = True) -> AbstractAsyncContextManager[Any]:
        return (self._maker if creates else self._reader).open(timeout=timeout)  # type: ignore[no-any-return]

    async def refresh(self, force: bool, timeout: float | None) -> Outcome:
        return await self._maker.refresh(force, timeout=timeout)  # type: ignore[no-any-return]

    async def invalidate(self, hard: bool = False) -> None:
        await self._maker.invalidate(hard)

    async def load(self, timeout: float | None) -> Found:
        return await self._maker.load(self.own.read, timeout=timeout)  # type: ignore[no-any-return]

    async def prune(self, **bounds: Any) -> int:
        return await self._files.prune(**bounds)  # type: ignore[no-any-return]


def _create(*target: str) -> None:
    """Build the version of the task that asks for it; the last argument is its path."""
    _builder.get()(target[-1])


async def _create_in_loop(*target: str) -> None:
    await _builder.get()(target[-1])


def task_subjects_of(
    subjects: Sequence[Subject], journal: Journal, *, keep: int, policy: Policy
) -> list[TaskSubject]:
    """Return *subjects*, which are those of one worker, for its tasks; how their creations end is in *journal*."""

    def note_end(event: Event) -> None:
        if event.kind in _ENDS:
            journal.note(_operation.get(), _ENDS[event.kind])

    policy = replace(policy, on_event=note_end)
    options: dict[str, Any] = {"durable": False, "policy": policy}
    first = subjects[0]
    creators = (_create, _create_in_loop)
    if isinstance(first, OfKey):
        pattern, expiretime = first.files.pattern, first.expiretime
        makers = [aio.Datafiles(pattern, expiretime, each, keep=keep, **options) for each in creators]
        reader = aio.Datafiles(pattern, expiretime, **options)
        return [
            _OfVersioned(own, [maker[own.key] for maker in makers], reader[own.key], makers[0]) for own in subjects
        ]
    if not first.swaps:
        return [_OfDogpile(first, policy)]
    kind: Any = aio.DataDirectory if first.is_directory else aio.Datafile
    if not first.is_directory:
        options["readers"] = first.synced
    return [
        _OfVersioned(
            first,
            [kind(first.path, first.expiretime, each, keep=keep, **options) for each in creators],
            kind(first.path, first.expiretime, **options),
        )
    ]
