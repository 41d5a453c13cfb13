"""Coordination between all hosts that name the same origin: the record of this host, and the head of the origin.

The record, the mutex and the readers are those of :class:`.ProcessScope`. In addition there is a second mutex,
of the caller that fetches: it alone asks the origin, puts a version in place, and stamps. So a host can fetch
while its own creator runs. Order: the creation mutex, then this one; its holder never waits for the creation
mutex.
"""

from __future__ import annotations

import errno
import math
import os
import secrets
import time as clock
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import time
from typing import Any, NamedTuple

from .._layout import FETCH_SUFFIX
from .._locks.mutex import FileMutex
from .._os import fork
from .._os.waiting import Deadline
from .._sidecar.file import Sidecar
from .._sidecar.origin_watch import NOTHING_SEEN, OriginWatch, read_head, read_watch, with_head, write_watch
from .._sidecar.reconciled import ReconciledRecord
from .._sidecar.record import Record
from ..errors import LockFileError, OriginError, as_error
from .engine import UNCHANGED, Down, Engine, Lost
from .head import Head, HeadDamaged, decode_head, encode_head
from .host_outcome import OriginTimeout
from .origin import Origin
from .process_scope import ProcessScope

__all__ = ["Answer", "Found", "HostScope", "Overtaken", "waited_in_vain", "watch_at"]

#: A head, and its tag; ``None``: the origin is empty.
Found = tuple[Head, str] | None
#: Seconds between two tries of a write whose answer was lost, and how often it is tried.
_PAUSE, _TRIES = 0.2, 5
#: A number of seconds that no version lives, for callers whose versions live for ever.
_FOR_EVER = 1e12


class Answer(NamedTuple):
    """What the origin has said when *since* was what this host had seen of it before."""

    found: Found
    since: OriginWatch


class Overtaken(Lost):
    """A write was lost, and the origin has said what it *found* instead."""

    def __init__(self, reason: str, found: Found) -> None:
        super().__init__(reason)
        self.found = found


class _Taker:
    """Has a hold before it locks the file, so that an interrupt cannot keep it locked."""

    mutex_hold: Any = None


class _Bound:
    """Has the ``fresh_from`` of records account for the next question to the origin: no pass compares more."""

    max_age = 0.0

    def of(self, record: Record) -> Record:
        limit = -math.inf if record.ask_at is None else record.ask_at - self.max_age
        if limit < record.fresh_from:
            record.fresh_from = limit  # the same for all who read this record: it is of this object alone
        return record


class _BoundedSidecar(Sidecar):
    """A sidecar whose records are bounded when they are read, and so at no pass."""

    __slots__ = ("_bound",)

    def __init__(self, like: Sidecar, bound: _Bound) -> None:
        super().__init__(like.path, like.mode, like.timeout)
        self._bound = bound

    def _noted(self, record: Record) -> Record:
        return self._bound.of(record)


class _BoundedRecord(ReconciledRecord):
    """The same for a resource that is looked at."""

    __slots__ = ("_bound",)

    def __init__(self, sidecar: Sidecar, path: str, bound: _Bound) -> None:
        super().__init__(sidecar, path)
        self._bound = bound

    def _noted(self, record: Record) -> Record:
        return self._bound.of(record)


class HostScope(ProcessScope):
    """A scope of hosts. Its engine is one for each process."""

    __slots__ = ("_bound", "_engine", "_fetch", "origin")

    def __init__(self, path: str, *, origin: Origin, **options: Any) -> None:
        super().__init__(path, **options)
        self._bound = _Bound()
        self.sidecar = sidecar = _BoundedSidecar(self.sidecar, self._bound)
        is_reconciled = isinstance(self._record, ReconciledRecord)
        self._record = _BoundedRecord(sidecar, path, self._bound) if is_reconciled else sidecar
        self.origin = origin
        self._fetch: FileMutex | None = None
        self._engine: tuple[int, Engine] | None = None

    def pass_by_age(self, max_age: float) -> float:
        """Let callers pass by the age of a version alone, up to *max_age* seconds, until the origin is asked.

        :returns: what *max_age* is then: finite.
        """
        self._bound.max_age = min(max_age, _FOR_EVER)
        self.let_go()
        return self._bound.max_age

    def _of_unstamped(self, record: Record) -> Record:
        return self._bound.of(record)

    @property
    def fetch_mutex(self) -> FileMutex:
        """The mutex of the caller that fetches. Made when it is first asked for."""
        mutex = self._fetch
        if mutex is None:
            made = FileMutex(self._base + FETCH_SUFFIX, timeout=self.sidecar.timeout, mode=self.sidecar.mode)
            with fork.once:
                mutex = self._fetch = self._fetch or made
        return mutex

    @property
    def engine(self) -> Engine:
        """:raises OriginError: if what it needs is not installed."""
        known = self._engine
        if known is None or known[0] != os.getpid():  # connections are not shared with a parent
            known = self._engine = (os.getpid(), self.origin._engine())
        return known[1]

    @contextmanager
    def fetching(self, deadline: Deadline | None) -> Iterator[int | None]:
        """A block that holds the mutex of the caller that fetches; yields the descriptor of its file.

        :param deadline: bounds the wait for it; ``None``: one try, and ``None`` is yielded if another caller has
            it.
        :raises LockTimeout: if *deadline* came first.
        """
        mutex, taking = self.fetch_mutex, _Taker()

        def release() -> None:
            if taking.mutex_hold is not None:
                mutex._release_hold(taking.mutex_hold)

        try:
            wait = deadline is not None
            left = None if deadline is None else deadline.left
            if mutex.acquire(wait, timeout=left, taker=taking) if wait else mutex.acquire(False, taker=taking):
                yield taking.mutex_hold.fd
            else:
                yield None
        finally:
            try:
                release()
            except BaseException:
                release()  # an interrupt came first
                raise

    def watch(self, fd: int) -> OriginWatch:
        """Return what this host has seen of the origin; the mutex is held by the file *fd*."""
        watch = read_watch(fd)
        # What was seen of another origin says nothing of this one.
        return watch if watch.url == self.origin.url else OriginWatch(url=self.origin.url)

    def note(self, fd: int, watch: OriginWatch) -> None:
        """Write down what this host has seen of the origin.

        :raises LockFileError: if it cannot be written.
        """
        if os.fstat(fd).st_nlink > 1:
            raise LockFileError(
                errno.EMLINK,
                f"the file {self._base + FETCH_SUFFIX!r} has another name too, so that it is not written: another "
                "program has put it there. Hint: remove it.",
            )
        try:
            write_watch(fd, watch)
        except OSError as error:
            raise as_error(LockFileError, self._base + FETCH_SUFFIX, "write", error) from error

    def keep(self, fd: int, watch: OriginWatch, found: Found) -> OriginWatch:
        """Keep the head that was *found* for all processes of this host; return *watch* with it, to be noted."""
        value, tag = (b"", "") if found is None else (encode_head(found[0], "", self.origin.key), found[1])
        return with_head(fd, watch, value, tag)

    def kept(self, fd: int, watch: OriginWatch) -> Answer | None:
        """Return the head that this host has seen last, as *watch* says; ``None`` if it is not kept."""
        value = read_head(fd, watch)
        if value is None:
            return None
        try:
            return Answer((decode_head(value, self.origin.key), watch.tag) if value else None, watch)
        except HeadDamaged:
            return None

    def last_watch(self) -> OriginWatch:
        """Return what this host has seen of the origin, for ``status``."""
        return watch_at(self._base)

    def look(self, known: str = "", *, seconds: float = 5.0) -> Found | str:
        """Ask for the head; ``UNCHANGED`` if it has the tag *known* still.

        :raises Down: if there is no answer within so many *seconds*.
        :raises OriginError: if what is there is no head.
        """
        answer = self.engine.read(known, seconds=seconds)
        if answer is None or answer == UNCHANGED:
            return answer
        value, tag = answer
        try:
            return decode_head(value, self.origin.key), tag
        except HeadDamaged as error:
            raise OriginError(
                self.origin.url,
                f"the head of the origin {self.origin.url!r} cannot be used: {error}. Hint: see which program "
                "writes there, and give all hosts the same key and a dogpile_fs of the same age.",
            ) from error

    def write(self, head: Head, tag: str | None, is_ours: Callable[[Head], bool]) -> tuple[Head, str]:
        """Replace the head that has this *tag*; return the head that counts then: *head*, or one that followed.

        :param is_ours: returns whether a head that is there is *head*, or has followed it.
        :raises Overtaken: if another host has come first.
        :raises Down: if that cannot be found out.
        """
        value = encode_head(head, secrets.token_hex(8), self.origin.key)
        for again in reversed(range(_TRIES)):
            try:
                return head, self.engine.swap(value, tag)
            except (Lost, Down) as error:
                # A client, or the network, may have made two of one write: the head alone tells.
                try:
                    found = self.look()
                except Down:
                    found = UNCHANGED
                if isinstance(found, tuple):
                    if is_ours(found[0]):
                        return found
                    if found[1] != tag:
                        raise Overtaken(str(error), found) from error
                elif found is None and tag is not None:
                    raise Overtaken("the head is gone", None) from error
                # The tag is the old one, or there is no answer: write the same again, until it is decided.
                if not again:
                    raise Down(str(error)) from error
                clock.sleep(_PAUSE)
        raise AssertionError("unreachable")

    def shift(self) -> float:
        """Return by how many seconds the engine's clock is ahead of this host's.

        :raises Down: if the engine does not answer.
        """
        return self.engine.now() - time()


def watch_at(path: str) -> OriginWatch:
    """Return what this host has seen of the origin of the resource at *path*."""
    try:
        fd = os.open(path + FETCH_SUFFIX, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return NOTHING_SEEN
    try:
        return read_watch(fd)
    finally:
        os.close(fd)


def waited_in_vain(scope: HostScope, seconds: float | None, reason: str) -> OriginTimeout:
    """Return the error of a caller that has waited for the origin for so many *seconds*."""
    return OriginTimeout(
        f"there was no version of {scope.name} within {seconds} s: {reason}. Hint: a longer timeout, or see what "
        f"dogpile-fs origin status {scope.origin.url} says."
    )
