"""Datafiles for tasks: a datafile for each of many keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from .._datafile import datafiles
from .._dogpile.event import Callback
from .._dogpile.policy import DEFAULT, Backoff, Policy
from .functions import Bridged
from .resource import Datafile, inputs_of, of_sync
from .work import in_thread

if TYPE_CHECKING:
    from datetime import timedelta

    from .._dogpile.origin import Origin

__all__ = ["Datafiles", "datafiles_of"]


class Datafiles:
    """A :class:`Datafile` for each of many keys: the :class:`dogpile_fs.Datafiles` of asyncio and trio.

    Parameters, policies and errors as there; *creator* and *validate* may be coroutine functions, or plain ones,
    which run in worker threads.

    >>> import anyio, os, tempfile
    >>> async def creator(key, target):
    ...     async with await anyio.open_file(target, "w") as file:
    ...         await file.write(f"the report of {key}")
    >>> async def main():
    ...     reports = Datafiles(os.path.join(tempfile.mkdtemp(), "{key}.txt"), 3600, creator)
    ...     async with reports["May"].open("r") as file:
    ...         print(file.read())
    ...     print(await reports.prune(older_than=0))
    >>> anyio.run(main)
    the report of May
    1
    """

    def __init__(
        self,
        pattern: str | os.PathLike[str],
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
        depends_on: Iterable[Any] = (),
        background: Literal["thread", "process"] | None = None,
        creator_timeout: float | timedelta | None = None,
        background_setup: Callable[[], object] | None = None,
        exit_wait: float | timedelta = DEFAULT.exit_wait,
        on_event: Callback | None = None,
        policy: Policy | None = None,
        origin: Origin | str | os.PathLike[str] | None = None,
    ) -> None:
        self._sync = datafiles.Datafiles(
            pattern,
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

    @property
    def pattern(self) -> str:
        """The pattern, as an absolute path."""
        return self._sync.pattern

    @property
    def writes_to(self) -> tuple[str, ...]:
        """The directory below which creations make all files; see :attr:`dogpile_fs.Datafiles.writes_to`."""
        return self._sync.writes_to

    def __getitem__(self, key: str) -> Datafile:
        """Return the datafile of *key*; see :meth:`dogpile_fs.Datafiles.__getitem__`."""
        return of_sync(Datafile, self._sync[key])

    async def prune(self, *, older_than: float | timedelta | None = None, max_bytes: int | None = None) -> int:
        """Remove the files of keys that are old, or take too much room; see :meth:`dogpile_fs.Datafiles.prune`.

        It looks at each key's file, in a worker thread. If its task is cancelled, it goes on.

        :param older_than: seconds since its creation after which a key goes.
        :param max_bytes: remove the oldest until all that are left have at most so many bytes.
        :returns: how many keys went.
        """
        prune = partial(self._sync.prune, older_than=older_than, max_bytes=max_bytes)
        return await in_thread(f"the pruning of {self._sync.pattern!r}", prune)

    def __reduce__(self) -> tuple[object, ...]:
        return datafiles_of, (self._sync,)

    def __repr__(self) -> str:
        return f"aio.{self._sync!r}"


def datafiles_of(own: datafiles.Datafiles) -> Datafiles:
    """Return the object for tasks whose synchronous one is *own*."""
    made = object.__new__(Datafiles)
    made._sync = own
    return made
