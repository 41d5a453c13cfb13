"""The mutex and the read/write lock of thread scope: the shapes of the file locks, without files.

Promised: what the file locks promise, among the threads of one process. A forked child starts with both free.
A lock that the user brought (``lock=``) is wrapped in the mutex's shape.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from inspect import iscoroutinefunction
from operator import call
from typing import Any, Protocol
from weakref import ref

from .._os.fork import reset_after_fork
from .._os.waiting import Deadline, wait_until
from .base import MutexBase, ReadWriteBase, Side
from .holds import Holder, current

__all__ = ["BorrowedMutex", "LockLike", "ThreadHold", "ThreadMutex", "ThreadReadWriteLock", "wait_for"]


class ThreadHold:
    """A lock of thread scope, taken once, and the caller for which it is held."""

    __slots__ = ("__weakref__", "holder")

    def __init__(self) -> None:
        self.holder: Holder | None = current()

    def is_held_by(self, me: Holder) -> bool:
        """Return whether it is held for *me*."""
        return self.holder is not None and self.holder.is_same(me)


#: The names of the classes of re-entrant locks: of threading (in C and in Python), multiprocessing and gevent.
_REENTRANT = ("RLock", "_RLock")


class LockLike(Protocol):
    """What ``lock=`` takes: a ``threading.Lock``, a ``multiprocessing.Lock``, or anything of their shape."""

    def acquire(self, blocking: bool = True, /) -> bool: ...
    def release(self) -> None: ...


class ThreadMutex(MutexBase[ThreadHold]):
    """A mutex whose waiters can wait for its release without taking it, and then wake all at once."""

    def __init__(self, timeout: float | None = None) -> None:
        super().__init__(timeout)
        self._releases = 0
        self._start_free()
        reset_after_fork(self)

    def _start_free(self) -> None:
        # What is read and written with the lock held, which a signal handler of the same thread may take as well.
        # It is an object of C code: no interrupt comes between its taking and the block that releases it.
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)

    def after_fork(self) -> None:
        _disown(self)
        self._start_free()

    @property
    def _name(self) -> str:
        return "the mutex of these threads"

    def locked(self) -> bool:
        return self.held

    def _new_hold(self) -> ThreadHold:
        return ThreadHold()

    def _try(self, hold: ThreadHold) -> bool:
        with self._lock:
            # No signal handler comes between the two lines.
            if self._hold is None:
                self._hold = hold
            return self._hold is hold

    def _wait(self, hold: ThreadHold, deadline: Deadline) -> bool:
        with self._lock:
            return wait_for(self._condition, lambda: self._try(hold), deadline)

    def _give_back(self, hold: ThreadHold) -> None:
        with self._lock:
            if self._hold is hold:
                self._hold = None
                self._releases += 1
            self._condition.notify_all()  # also where an interrupt came before it

    def _wait_until_released(self, deadline: Deadline) -> bool:
        with self._lock:
            # The end of this hold counts, however soon the next one follows.
            before = self._releases
            return wait_for(self._condition, lambda: self._hold is None or self._releases != before, deadline)


class _BorrowedHold(ThreadHold):
    """A lock of the user's, taken once.

    If the lock is an object of C code, no interrupt comes between its taking or release and the note of it here:
    ``list.extend`` and ``next`` run both as one call of C code.
    """

    __slots__ = ("_acquire", "_releases", "_results")

    def __init__(self, lock: LockLike) -> None:
        super().__init__()
        self._acquire = lock.acquire
        #: What each try to take the lock returned.
        self._results: list[bool] = []
        #: Releases the lock when it is asked for its only item.
        self._releases = map(call, (lock.release,))

    def take(self, wait: bool) -> bool:
        """Take the lock; False if that would have to wait, and *wait* is false."""
        self._results.extend(map(self._acquire, (wait,)))
        return self._results[-1]

    def give_back(self) -> None:
        """Release the lock once, if it was taken."""
        if any(self._results):
            next(self._releases, None)


class BorrowedMutex(MutexBase[_BorrowedHold]):
    """The user's own lock in the shape of a mutex. Waiters wait by taking it, one after the other."""

    def __init__(self, lock: LockLike) -> None:
        """:raises TypeError: for a *lock* that would let one thread in twice, or that is none."""
        super().__init__(None)
        self.lock = _checked(lock)
        reset_after_fork(self)

    def after_fork(self) -> None:
        _disown(self)

    @property
    def _name(self) -> str:
        return repr(self.lock)

    def locked(self) -> bool:
        return self.held or not self._comes_free(wait=False)

    def _new_hold(self) -> _BorrowedHold:
        return _BorrowedHold(self.lock)

    def _try(self, hold: _BorrowedHold, *, wait: bool = False) -> bool:
        if not hold.take(wait):
            return False
        if self._hold is not None:
            hold.give_back()
            raise _no_mutex(self.lock)
        self._hold = hold
        return True

    def _wait(self, hold: _BorrowedHold, deadline: Deadline) -> bool:
        return wait_until(lambda: self._try(hold), lambda: self._try(hold, wait=True), deadline)

    def _give_back(self, hold: _BorrowedHold) -> None:
        if self._hold is hold:
            self._hold = None
        hold.give_back()

    def _wait_until_released(self, deadline: Deadline) -> bool:
        return wait_until(lambda: self._comes_free(wait=False), lambda: self._comes_free(wait=True), deadline)

    def _comes_free(self, *, wait: bool) -> bool:
        hold = self._new_hold()
        try:
            is_free = hold.take(wait)
            hold.give_back()
        except BaseException:
            hold.give_back()  # an interrupt came first
            raise
        return is_free


def _checked(lock: LockLike) -> LockLike:
    """Return *lock* if it has the shape of a mutex. Whether one that is not known is re-entrant shows in use."""
    methods = getattr(lock, "acquire", None), getattr(lock, "release", None)
    if not all(callable(method) and not iscoroutinefunction(method) for method in methods):
        raise TypeError(f"lock must have acquire(blocking) and release(), as a threading.Lock has, not {lock!r}")
    if type(lock).__name__ in _REENTRANT:
        raise _no_mutex(lock)
    return lock


def _no_mutex(lock: LockLike) -> TypeError:
    return TypeError(
        f"lock={lock!r} lets a second caller in while the first has it, so that creators would run inside or "
        "beside each other. Hint: give a threading.Lock or a multiprocessing.Lock."
    )


class ThreadReadWriteLock(ReadWriteBase[ThreadHold, ThreadHold]):
    """Shared/exclusive among threads: a waiting writer stops new readers, and the readers that came while it
    waited or wrote are let in when it leaves, before the next writer. Reads nest. Any thread may give a hold back,
    and a hold that is dropped is given back.
    """

    def __init__(self, timeout: float | None = None) -> None:
        super().__init__(timeout)
        self._start_free()
        reset_after_fork(self)

    def _start_free(self) -> None:
        # Read and written with the lock held, as in ThreadMutex. Weak: a hold that is dropped is given back.
        self._readers: set[ref[ThreadHold]] = set()
        self._waiting_readers: set[ref[ThreadHold]] = set()
        self._writer: ref[ThreadHold] | None = None
        self._waiting_writers = 0
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)

    def after_fork(self) -> None:
        me = current()
        self._reads = [hold for hold in self._reads or () if hold.is_held_by(me)]
        _disown(self)
        self._start_free()

    @property
    def _name(self) -> str:
        return "the read/write lock of these threads"

    def _holds_inside(self) -> Iterator[tuple[Side, ThreadHold]]:
        for side, marks in (("writer", [self._writer]), ("reader", list(self._readers))):
            for mark in marks:
                hold = mark and mark()
                if hold is not None:
                    yield side, hold  # type: ignore[misc]

    def _make_file(self) -> None:
        """Do nothing: there is no file."""

    def _enter(self, deadline: Deadline) -> ThreadHold:
        hold = ThreadHold()
        mark = self._mark_of(hold)
        try:
            with self._lock:
                self._refuse_to_wait_for_oneself(deadline, to_write=False)
                if self._writer is None and (not self._waiting_writers or self._inside()):
                    self._readers.add(mark)
                    return hold
                self._waiting_readers.add(mark)
                with self._waiting("read", lambda: mark not in self._readers, deadline) as wait:
                    if not wait_for(self._condition, lambda: mark in self._readers, wait.deadline):
                        raise self._timed_out("a writer", wait)
            return hold
        except BaseException:
            self._forget(mark)
            raise

    def _enter_now(self, *, behind_writers: bool) -> ThreadHold | None:
        """Enter as a reader if that is possible without waiting.

        :param behind_writers: False for a caller that is inside already, or has waited for the writers before it.
        """
        hold = ThreadHold()
        mark = self._mark_of(hold)
        with self._lock:
            if self._writer is not None or (self._waiting_writers and behind_writers):
                return None
            self._readers.add(mark)
            return hold

    def _leave(self, hold: ThreadHold) -> None:
        self._forget(ref(hold))

    def _enter_as_writer(self, deadline: Deadline) -> ThreadHold:
        hold = ThreadHold()
        mark = self._mark_of(hold)

        def take() -> bool:
            # No signal handler comes between the two lines.
            if self._writer is None and not self._readers:
                self._writer = mark
            return self._writer is mark

        try:
            with self._lock:
                self._refuse_to_wait_for_oneself(deadline, to_write=True)
                self._waiting_writers += 1
                try:
                    with self._waiting("write", lambda: True, deadline) as wait:
                        if not wait_for(self._condition, take, wait.deadline):
                            raise self._timed_out("readers or a writer", wait)
                finally:
                    self._waiting_writers -= 1
                    if self._writer is None and not self._waiting_writers:
                        self._let_readers_in()
            return hold
        except BaseException:
            self._forget(mark)
            raise

    def _give_back(self, hold: ThreadHold) -> None:
        if self._hold is hold:
            self._hold = None
        self._forget(ref(hold))

    def _mark_of(self, hold: ThreadHold) -> ref[ThreadHold]:
        mark = ref(hold, self._dropped)
        hash(mark)  # which keeps the hash, so that sets find the mark also when the hold is gone
        return mark

    def _dropped(self, mark: ref[ThreadHold]) -> None:
        self._forget(mark)

    def _forget(self, mark: ref[ThreadHold]) -> None:
        """Let the reader or the writer of *mark* be outside, if it is not."""
        with self._lock:
            self._readers.discard(mark)
            self._waiting_readers.discard(mark)
            if self._writer == mark:
                self._let_readers_in()
                self._writer = None
            self._condition.notify_all()  # also where an interrupt came before it

    def _let_readers_in(self) -> None:
        self._readers.update(self._waiting_readers)
        self._waiting_readers.clear()
        self._condition.notify_all()


def wait_for(condition: threading.Condition, ready: Callable[[], bool], deadline: Deadline) -> bool:
    """Wait for *condition* until *ready*; False if *deadline* came first."""
    if deadline.at == math.inf:
        return condition.wait_for(ready)
    while not condition.wait_for(ready, min(deadline.left, deadline.look_every, threading.TIMEOUT_MAX)):
        if deadline.left == 0:
            return ready()
    return True


def _disown(lock: MutexBase[Any] | ThreadReadWriteLock) -> None:
    """Have *lock* free in a forked child, which may leave the block in which its parent's thread forked."""
    lock._inherited |= lock._hold is not None and lock._hold.is_held_by(current())
    lock._hold = None
