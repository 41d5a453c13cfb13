"""Dogpile and SyncReaderDogpile: one creates, all others go on with what there is.

The public face. How a caller gets through is told, on one page, in :mod:`.passage`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from os import SEEK_END, lseek
from time import time
from typing import Any, Literal

from .._locks.threads import LockLike
from .._os.paths import absolute, checked_mode, checked_resource
from .._os.seconds import checked_seconds
from .._os.waiting import INHERIT, Timeout, checked_timeout
from .._sidecar.record import CLOCK_TOLERANCE, Record, lifetime
from .election import Passage, ReadingPassage, Terms, whoami
from .guard import Pass
from .scope import Mutex, ProcessScope, ReadWriteLock, Scope, ThreadScope
from .status import Status

__all__ = ["Dogpile", "SyncReaderDogpile"]

_EARLIEST = -CLOCK_TOLERANCE
_WITH_NOTHING: dict[str, Any] = {}


class Dogpile:
    """A dogpile lock: one thread of one process creates, the others use what there is.

    :param expiretime: seconds after which the resource is stale; 0: at once; ``None``: never.
    :param path: the resource, a file or what stands for one; it need not exist. All processes that name it
        are coordinated. ``None``: only the threads that share this object are, and no file is touched.
    :param init: declare that the resource exists and was created now, unless a creation or an invalidation is
        on record.
    :param lock: use this mutex (``acquire(blocking)``, ``release()``) to elect the creator.
    :param timeout: seconds after which a wait gives up with :class:`LockTimeout`; ``None``: never.
    :param directory: put the coordination files there instead of beside the resource.
    :param mode: permission bits of coordination files that have to be made; ``None``: what the umask
        leaves of 0o666.
    :param resource: ``"file"`` or ``"directory"``, if *path* is one and shall be looked at: once it was removed,
        there is nothing yet; if somebody else replaced it, or it is there without a sidecar, its own mtime
        counts as createdtime. ``None``: what is or is not at *path* is not looked at.
    :raises TypeError, ValueError: for an *expiretime* or *timeout* that is no number, negative or NaN, and for a
        *mode* that is none.
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

    def __init__(
        self,
        expiretime: float | None,
        path: str | os.PathLike[str] | None = None,
        *,
        init: bool = False,
        lock: LockLike | None = None,
        timeout: float | None = None,
        directory: str | os.PathLike[str] | None = None,
        mode: int | None = None,
        resource: Literal["file", "directory"] | None = None,
    ) -> None:
        if resource not in (None, "file", "directory"):
            raise ValueError(f"resource must be 'file', 'directory' or None, not {resource!r}")
        self.path = None if path is None else checked_resource(path, resource)
        own_timeout = checked_timeout(timeout)
        checked_mode(mode)
        scope: Scope
        if self.path is None:
            if directory is not None or mode is not None or resource is not None:
                raise TypeError("directory=, mode= and resource= go with a path: give one as well")
            scope = ThreadScope(lock=lock, timeout=own_timeout)
        else:
            scope = ProcessScope(
                self.path,
                lock=lock,
                timeout=own_timeout,
                directory=directory,
                mode=mode,
                observed=resource is not None,
            )
        self._terms = Terms(self.path, scope, own_timeout)
        made_with = {
            "lock": lock,
            "timeout": timeout,
            "directory": None if directory is None else absolute(directory),
            "mode": mode,
        }
        # Only what is not the default: there may be thousands of objects.
        self._resource = resource
        self._made_with = {name: value for name, value in made_with.items() if value is not None} or _WITH_NOTHING
        self.expiretime = expiretime
        if init:
            now = time()
            if not scope.look().is_known:  # else a process that may only read could not be told either
                scope.change(lambda record: record if record.is_known else self._declared(record, now))

    def acquire(
        self,
        creator: Callable[[], Any] | None = None,
        value_fn: Callable[[], Any] | None = None,
        value_and_created_fn: Callable[[], tuple[Any, float]] | None = None,
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractContextManager[Any]:
        """A context manager whose block runs with the resource there, be it fresh or stale.

        :param creator: builds the resource, if this caller is elected. What it returns is the block's value;
            with *value_and_created_fn* it returns ``(value, createdtime)``. Without a creator this caller never
            creates: while there is nothing yet, it waits for one who does.
        :param value_fn: returns the value for a caller who was not elected, or raises
            :class:`NeedRegenerationException` if it has none: then it is as if there were no creation yet.
        :param value_and_created_fn: the same, but returns ``(value, createdtime)``, and that createdtime counts.
        :param timeout: seconds to wait at most, all waits of this call together but for one's own creator;
            ``None``: for ever. Default: the object's.
        :returns: on ``with ... as value``: what *creator* or a value function returned, else ``None``.
        :raises LockTimeout: on entering, if the first creation did not end in time.
        :raises WouldDeadlock: on entering from inside the creator, while there is nothing yet.
        :raises LockFileError, SidecarError: on entering, if the coordination files cannot be used. A process
            that merely lacks permission to create passes through what is stale, and says so in the log.
        :raises: what *creator* raises, unchanged; the old createdtime stays and the mutex is free again.

        From ``dogpile.core`` 0.4.1, ``Dogpile.acquire``. To be entered at once, and not to be kept: the call may
        have looked already whether the resource is fresh.
        """
        passed = self._terms.passed
        if (
            passed is not None
            and passed.since <= time() < passed.until
            and value_fn is None
            and value_and_created_fn is None
            and timeout is ...
        ):
            try:
                if lseek(passed.description.fd, 0, SEEK_END) == passed.length:
                    return passed
            except OSError:
                pass  # closed by a fork, or stale on a network
        return Passage(self._terms, creator, value_fn, value_and_created_fn, timeout)

    def refresh(self, creator: Callable[[], Any], force: bool = False, *, timeout: Timeout = INHERIT) -> bool:
        """Create if the resource is stale or there is nothing yet; for cron jobs and warm-up code.

        :param force: create in any case, after whoever is creating now.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :returns: True if *creator* was called; False if it is fresh, or stale and another is creating.
        :raises LockTimeout, WouldDeadlock, LockFileError, SidecarError: as :meth:`acquire`, but lacking
            permission to create is always an error.

        >>> dogpile = Dogpile(3600)
        >>> dogpile.refresh(lambda: None), dogpile.refresh(lambda: None), dogpile.refresh(lambda: None, force=True)
        (True, False, True)
        """
        passage = Passage(self._terms, creator, None, None, timeout)
        if force:
            passage.create_in_any_case()
        else:
            passage.create_if_not_fresh()
        return passage.created

    def invalidate(self, hard: bool = False, *, durable: bool = False) -> None:
        """Make the resource stale from now on, for all processes.

        :param hard: nobody passes through before a new creation; readers inside are not disturbed.
        :param durable: have this on the disk before it returns; else a crash of the machine within the next half
            minute or so may have it forgotten.
        :raises SidecarError: if the sidecar cannot be written.

        Does not wait for a creation that is running, and is not lost on it: its result will be stale (or, after
        a hard one, nothing) for all but its own caller, because it may rest on what was before.

        >>> dogpile = Dogpile(3600, init=True)
        >>> dogpile.invalidate()
        >>> dogpile.has_value, dogpile.is_expired
        (True, True)
        """
        self._terms.scope.change(lambda record: record.invalidate(hard=hard))
        if durable:
            self._terms.scope.sync()

    def status(self) -> Status:
        """What is known now, without waiting or creating.

        :raises SidecarError, LockFileError: if the coordination files cannot be read.

        >>> Dogpile(3600).status().state
        'nothing'
        """
        scope = self._terms.scope
        creating = scope.mutex.locked()
        record = scope.look()
        if record.attempt is not None and not creating:
            later = (
                scope.look()
            )  # it may have ended, well or not, or another may have begun, between the two looks
            creating, record = later.attempt not in (None, record.attempt), later
        return Status.of(record, time(), self.expiretime, creating=creating)

    @property
    def expiretime(self) -> float | None:
        """Seconds after which the resource is stale; ``None``: never. May be set at any time."""
        return self._terms.expiretime

    @expiretime.setter
    def expiretime(self, value: float | None) -> None:
        self._terms.expiretime = None if value is None else checked_seconds("expiretime", value)
        self._terms.lifetime = lifetime(self._terms.expiretime)
        self._terms.passed = None

    @property
    def createdtime(self) -> float:
        """Epoch seconds at which the last creator finished, -1 before the first.

        Setting it stamps; setting it to 0 or less invalidates hard, as in dogpile.core.
        """
        record = self._terms.scope.look()
        return record.createdtime if record.has_value else -1

    @createdtime.setter
    def createdtime(self, value: float) -> None:
        createdtime = checked_seconds("createdtime", value, least=-math.inf)
        if createdtime == math.inf:
            raise ValueError("createdtime must be finite; what never expires has expiretime=None")
        if createdtime > 0:
            self._terms.scope.change(lambda record: self._declared(record, createdtime))
        else:
            self.invalidate(hard=True)

    def _declared(self, record: Record, createdtime: float) -> Record:
        """*record* after a creation that nobody has run, but of which somebody tells."""
        standing = self._terms.scope.standing()
        declared = record.created(
            record, createdtime, cost=record.cost, expiretime=record.expiretime, standing=standing, **whoami()
        )
        return declared.replace(attempt=record.attempt)

    @property
    def version(self) -> tuple[int, ...] | None:
        """Which version of the resource is in place, fresh or not; ``None`` while there is nothing.

        Versions are to be compared with ``==``. Every creation makes another; with ``resource=`` only one that put
        something else in place, and so does a foreign hand.
        """
        record = self._terms.scope.look()
        return record.version if record.has_value else None

    def fresh_version(self) -> tuple[int, ...] | None:
        """The :attr:`version` in place, if it is fresh, else ``None``; at less than a pass costs.

        :raises SidecarError, LockFileError: if the coordination files cannot be read.

        >>> dogpile = Dogpile(3600, init=True)
        >>> version = dogpile.fresh_version()
        >>> dogpile.fresh_version() == version, dogpile.refresh(lambda: None, force=True)
        (True, True)
        >>> dogpile.fresh_version() == version
        False
        """
        terms = self._terms
        record = terms.scope.sight().record
        if _EARLIEST <= time() - record.basis < terms.lifetime:
            return record.version
        return None

    def pass_with(self, found: os.stat_result) -> AbstractContextManager[None] | None:
        """A pass for a caller who has opened the resource already, if that is what was stamped last and is fresh.

        Saves a look at the path. For a Dogpile with ``resource=``.

        :param found: what ``os.fstat`` tells of what was opened.
        :returns: a context manager as of :meth:`acquire`; ``None``: call that, and open again.
        :raises SidecarError: if the sidecar cannot be read.
        """
        terms = self._terms
        record = terms.scope.record_of(found)
        if not _EARLIEST <= time() - record.basis < terms.lifetime:
            return None
        passed = Pass(terms.scope, terms.timeout)
        passed.seen = record
        return passed

    @property
    def has_value(self) -> bool:
        """Whether there has been a creation that was not hard-invalidated since."""
        return self._terms.scope.look().has_value

    @property
    def is_expired(self) -> bool:
        """Whether the resource is stale, or there is nothing yet."""
        return self._terms.scope.look().state(time(), self.expiretime) != "fresh"

    @property
    def dogpilelock(self) -> Mutex:
        """The creation mutex, under its name in dogpile.core."""
        return self._terms.scope.mutex

    def __reduce__(self) -> tuple[object, ...]:
        if self.path is None:
            raise TypeError(
                "a Dogpile without a path coordinates the threads of one process and cannot be sent to another: "
                "give it a path"
            )
        return _unpickled, (
            type(self),
            self.expiretime,
            self.path,
            {**self._made_with, "resource": self._resource},
        )

    def __repr__(self) -> str:
        where = "" if self.path is None else f", {self.path!r}"
        return f"{type(self).__name__}({self.expiretime}{where})"


class SyncReaderDogpile(Dogpile):
    """A :class:`Dogpile` whose ``with`` blocks are readers, so that a creator can swap the resource when nobody
    is inside.

    Parameters and errors as :class:`Dogpile`. Readers inside delay only a writer; from the moment that a writer
    waits, new readers wait for it as well. Blocks nest within a thread. From ``dogpile.core`` 0.4.1's class of
    this name.

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

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._terms.readers = self._terms.scope.read_write_lock()

    def acquire(
        self,
        creator: Callable[[], Any] | None = None,
        value_fn: Callable[[], Any] | None = None,
        value_and_created_fn: Callable[[], tuple[Any, float]] | None = None,
        *,
        timeout: Timeout = INHERIT,
    ) -> AbstractContextManager[Any]:
        """As :meth:`Dogpile.acquire`; inside the block no writer is.

        A thread that is inside already is not elected and does not wait for a creator, which may wait for it: it
        passes through, also after a hard invalidation, because what it reads stays until it leaves. Only if a
        value function raises :class:`NeedRegenerationException`, and no other thread or process creates, does it
        create.

        :raises LockTimeout: also if a writer did not leave in time.
        :raises WouldDeadlock: also inside :meth:`acquire_write_lock`, and inside one's own block, if a value
            function has no value and another thread or process creates.
        """
        terms = self._terms
        passed = terms.passed
        if (
            passed is not None
            and passed.since <= time() < passed.until
            and value_fn is None
            and value_and_created_fn is None
            and timeout is ...
        ):
            try:
                if lseek(passed.description.fd, 0, SEEK_END) == passed.length:
                    # As ReadWriteFileLock.seat(). No lock of threads is met here: they leave no passes behind.
                    readers: Any = terms.readers
                    seat: AbstractContextManager[Any] = readers.idle.pop()
                    seat.lock, seat.passed = readers, passed  # type: ignore[attr-defined]
                    return seat
            except (OSError, IndexError):  # the latter: no seat is idle
                pass
        return ReadingPassage(terms, creator, value_fn, value_and_created_fn, timeout)

    @contextmanager
    def acquire_write_lock(self, timeout: Timeout = INHERIT) -> Iterator[None]:
        """A ``with`` block in which no reader is inside, of any process: the place to swap.

        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :raises LockTimeout: if the readers inside did not leave in time.
        :raises WouldDeadlock: inside one's own ``acquire`` block.
        :raises LockFileError: if the lock file cannot be opened for writing.
        """
        lock = self.readwritelock
        lock.acquire_write_lock(timeout=timeout)
        try:
            yield
        finally:
            lock.release_write_lock()

    @property
    def readwritelock(self) -> ReadWriteLock:
        """The read/write lock, under its name in dogpile.core."""
        lock = self._terms.readers
        assert lock is not None
        return lock


def _unpickled(kind: type[Dogpile], expiretime: float | None, path: str, made_with: dict[str, Any]) -> Dogpile:
    return kind(expiretime, path, **made_with)
