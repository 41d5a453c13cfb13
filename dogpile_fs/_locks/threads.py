"""The mutex and the read/write lock of thread scope: the shapes of the file locks, without files.

Promised: what the file locks promise, among the threads of one process. A forked child starts with both free.
A lock that the user brought (``lock=``) is wrapped in the mutex's shape.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Literal, Protocol, Self
from weakref import ref

from .._os.fork import forget_in_child
from .._os.waiting import INHERIT, NOW, Deadline, Timeout, deadline_of, wait_until
from ..errors import LockTimeout, NotHeld, WouldDeadlock
from .holds import Holder, Taker, current, would_wait_for_itself

__all__ = ["BorrowedMutex", "LockLike", "ThreadHold", "ThreadMutex", "ThreadReadWriteLock", "wait_for"]


class ThreadHold:
    """A lock of thread scope, taken once, and the caller for which it is held."""

    __slots__ = ("__weakref__", "holder")

    def __init__(self) -> None:
        self.holder: Holder = current()

    def blocks(self, me: Holder, deadline: Deadline) -> bool:
        """As :func:`.holds.is_blocked_by`."""
        return would_wait_for_itself(self.holder, me, deadline)


class LockLike(Protocol):
    """What ``lock=`` takes: a ``threading.Lock``, a ``multiprocessing.Lock``, or anything of their shape."""

    def acquire(self, blocking: bool = True, /) -> bool: ...
    def release(self) -> None: ...


class ThreadMutex:
    """A mutex whose waiters can wait for its release without taking it, and then wake all at once."""

    def __init__(self, timeout: float | None = None) -> None:
        self.timeout = timeout
        # Read and written with the condition held, which a signal handler of the same thread may enter as well.
        self._hold: ThreadHold | None = None
        self._releases = 0
        self._condition = threading.Condition()
        # In a child: its parent's forking thread held it, and the child may leave the block it was in.
        self._inherited = False
        forget_in_child(self)

    def after_fork(self) -> None:
        self._inherited |= self._hold is not None and self._hold.holder.is_same(current())
        self._hold = None
        self._condition = threading.Condition()

    lost = False  # there is no file that could be

    @property
    def held(self) -> bool:
        return self._hold is not None

    def locked(self) -> bool:
        return self.held

    def acquire(self, wait: bool = True, timeout: Timeout = INHERIT, *, taker: Taker | None = None) -> bool:
        deadline = deadline_of(timeout, self.timeout) if wait else NOW
        hold = ThreadHold()
        if taker is not None:
            taker.mutex_hold = hold
        try:
            with self._condition:
                if wait:
                    self._refuse_to_wait_for_oneself(hold.holder, deadline)

                def take() -> bool:
                    # No signal handler comes between the two lines.
                    if self._hold is None:
                        self._hold = hold
                    return self._hold is hold

                if wait_for(self._condition, take, deadline):
                    return True
            if wait:
                raise LockTimeout(f"another thread kept the lock for {deadline.timeout} s")
            return False
        except BaseException:
            if self._hold is hold:  # an interrupt has come before the caller was told
                self.release()
            raise

    def release(self) -> None:
        with self._condition:
            if self._hold is None:
                if not self._inherited:
                    raise NotHeld("the mutex is not held: acquire it first")
                self._inherited = False
                return
            self._hold = None
            self._releases += 1
            self._condition.notify_all()

    def release_hold(self, hold: object) -> None:
        """As :meth:`.FileMutex.release_hold`."""
        if self._hold is hold:
            self.release()

    def wait_released(self, deadline: Deadline) -> bool:
        with self._condition:
            self._refuse_to_wait_for_oneself(current(), deadline)
            # The end of this hold counts, however soon the next one follows.
            before = self._releases
            return wait_for(self._condition, lambda: self._hold is None or self._releases != before, deadline)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _refuse_to_wait_for_oneself(self, me: Holder, deadline: Deadline) -> None:
        if self._hold is not None and self._hold.blocks(me, deadline):
            raise WouldDeadlock(
                "this thread runs the creator or holds the mutex, and would wait for itself, for ever. "
                "Cure: do not acquire inside of it; hand in what is needed."
            )


class BorrowedMutex:
    """The user's own lock in the shape of a mutex. Waiters wait by taking it, one after the other."""

    def __init__(self, lock: LockLike) -> None:
        self.lock = lock
        self._hold: ThreadHold | None = None
        self._inherited = False
        forget_in_child(self)

    def after_fork(self) -> None:
        self._inherited |= self._hold is not None and self._hold.holder.is_same(current())
        self._hold = None

    lost = False  # nobody here could tell

    @property
    def held(self) -> bool:
        return self._hold is not None

    def locked(self) -> bool:
        return self.held or not self._comes_free_at_once()

    def acquire(self, wait: bool = True, timeout: Timeout = INHERIT, *, taker: Taker | None = None) -> bool:
        deadline = deadline_of(timeout, None) if wait else NOW
        hold = ThreadHold()
        if taker is not None:
            taker.mutex_hold = hold
        if wait:
            self._refuse_to_wait_for_oneself(hold.holder, deadline)
        if not wait_until(lambda: self.lock.acquire(False), self.lock.acquire, deadline):
            if wait:
                raise LockTimeout(f"{self.lock!r} was not to be had within {deadline.timeout} s")
            return False
        self._hold = hold
        return True

    def release(self) -> None:
        if self._hold is None:
            if not self._inherited:  # released all the same, it would be somebody else's
                raise NotHeld(f"{self.lock!r} is not held through this object: acquire it first")
            self._inherited = False
            return
        self._hold = None
        self.lock.release()

    def release_hold(self, hold: object) -> None:
        """As :meth:`.FileMutex.release_hold`."""
        if self._hold is hold:
            self.release()

    def wait_released(self, deadline: Deadline) -> bool:
        self._refuse_to_wait_for_oneself(current(), deadline)
        return wait_until(self._comes_free_at_once, self._take_and_give_back, deadline)

    def _refuse_to_wait_for_oneself(self, me: Holder, deadline: Deadline) -> None:
        if self._hold is not None and self._hold.blocks(me, deadline):
            raise WouldDeadlock(
                f"this thread holds {self.lock!r} and would wait for itself, for ever. "
                "Cure: do not acquire inside the creator; hand in what is needed."
            )

    def _comes_free_at_once(self) -> bool:
        if not self.lock.acquire(False):
            return False
        self.lock.release()
        return True

    def _take_and_give_back(self) -> None:
        self.lock.acquire()
        self.lock.release()


class ThreadReadWriteLock:
    """Shared/exclusive among threads: a waiting writer stops new readers, and the readers that came while it
    waited or wrote are let in when it leaves, before the next writer. Reads nest. Any thread may give a hold back,
    and a reader's hold that is dropped is given back.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self.timeout = timeout
        # Read and written with the condition held.
        self._readers: set[ref[ThreadHold]] = set()
        self._readers_waiting: set[ref[ThreadHold]] = set()
        self._writer: ThreadHold | None = None
        self._writers_waiting = 0
        self._condition = threading.Condition()
        # What release_read_lock() gives back.
        self._reads: list[ThreadHold] = []
        # In a child: its parent's forking thread was the writer, and the child may leave the block it was in.
        self._inherited = False
        forget_in_child(self)

    def after_fork(self) -> None:
        me = current()
        reads = [hold for hold in self._reads if hold.holder.is_same(me)]
        inherited = self._inherited or (self._writer is not None and self._writer.holder.is_same(me))
        self.__init__(self.timeout)  # type: ignore[misc]  # as good as new is the meaning
        self._reads, self._inherited = reads, inherited

    def inside(self) -> Literal["reader", "writer", ""]:
        me = current()
        if self._writer is not None and self._writer.holder.is_same(me):
            return "writer"
        return "reader" if any(hold.holder.is_same(me) for hold in self._inside()) else ""

    def _inside(self) -> list[ThreadHold]:
        return [hold for hold in (each() for each in list(self._readers)) if hold is not None]

    def make_file(self) -> None:
        """There is none."""

    def acquire_read_lock(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        try:
            self._reads.append(self.enter(deadline_of(timeout, self.timeout) if wait else NOW))
        except (LockTimeout, WouldDeadlock):
            if wait:
                raise
            return False
        return True

    def release_read_lock(self) -> None:
        me = current()
        own = [hold for hold in self._reads if hold.holder.is_same(me)] or self._reads[-1:]
        if not own:
            raise NotHeld("the read lock is not held: acquire it first")
        self._reads.remove(own[-1])
        self.leave(own[-1])

    def enter(self, deadline: Deadline) -> ThreadHold:
        hold = ThreadHold()
        mark = ref(hold, self._dropped)
        with self._condition:
            if self._writer is not None and self._writer.blocks(hold.holder, deadline):
                raise WouldDeadlock(
                    "this thread is inside as the writer and would wait for itself, for ever. "
                    "Cure: leave the write block before you read."
                )
            nested = any(each.holder.is_same(hold.holder) for each in self._inside())
            if self._writer is None and (nested or not self._writers_waiting):
                self._readers.add(mark)
            else:
                self._wait_to_be_let_in(mark, deadline)
            return hold

    def leave(self, hold: ThreadHold) -> None:
        with self._condition:
            # In a forked child, and where the garbage collector was first, it is outside already.
            self._readers = {mark for mark in self._readers if mark() is not hold}
            self._condition.notify_all()

    def _dropped(self, mark: ref[ThreadHold]) -> None:
        with self._condition:
            self._readers.discard(mark)
            self._condition.notify_all()

    def write(self, timeout: Timeout = INHERIT) -> AbstractContextManager[None]:
        return _WriteBlock(self, timeout)

    def acquire_write_lock(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        deadline = deadline_of(timeout, self.timeout) if wait else NOW
        hold = ThreadHold()
        try:
            with self._condition:
                others = [*self._inside(), *([self._writer] if self._writer else [])]
                if wait and any(each.blocks(hold.holder, deadline) for each in others):
                    raise WouldDeadlock(
                        "this thread is inside already and would wait for itself, for ever. "
                        "Cure: leave the block before you write."
                    )
                self._wait_to_write(hold, deadline)
                if wait and self._writer is not hold:
                    raise LockTimeout(f"readers or a writer did not leave within {deadline.timeout} s")
                return self._writer is hold
        except BaseException:
            if self._writer is hold:  # an interrupt has come before the caller was told
                self.release_write_lock()
            raise

    def _wait_to_write(self, hold: ThreadHold, deadline: Deadline) -> None:
        def take() -> bool:
            # No signal handler comes between the two lines.
            if self._writer is None and not self._readers:
                self._writer = hold
            return self._writer is hold

        self._writers_waiting += 1
        try:
            wait_for(self._condition, take, deadline)
        finally:
            self._writers_waiting -= 1
            if self._writer is None and not self._writers_waiting:
                self._let_readers_in()

    def release_write_lock(self) -> None:
        with self._condition:
            if self._writer is None:
                if not self._inherited:
                    raise NotHeld("the write lock is not held: acquire it first")
                self._inherited = False
                return
            self._writer = None
            self._let_readers_in()

    def _wait_to_be_let_in(self, mark: ref[ThreadHold], deadline: Deadline) -> None:
        self._readers_waiting.add(mark)
        try:
            let_in = wait_for(self._condition, lambda: mark in self._readers, deadline)
        except BaseException:
            self._readers.discard(mark)
            self._condition.notify_all()
            raise
        finally:
            self._readers_waiting.discard(mark)
        if not let_in:
            raise LockTimeout(f"a writer did not leave within {deadline.timeout} s")

    def _let_readers_in(self) -> None:
        self._readers.update(self._readers_waiting)
        self._readers_waiting.clear()
        self._condition.notify_all()


class _WriteBlock:
    """A ``with`` block as the writer, which any thread may leave."""

    __slots__ = ("_lock", "_timeout")

    def __init__(self, lock: ThreadReadWriteLock, timeout: Timeout) -> None:
        self._lock = lock
        self._timeout = timeout

    def __enter__(self) -> None:
        self._lock.acquire_write_lock(timeout=self._timeout)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release_write_lock()


def wait_for(condition: threading.Condition, ready: Callable[[], bool], deadline: Deadline) -> bool:
    """``condition.wait_for`` with a deadline."""
    timeout = None if deadline.at == math.inf else min(deadline.left, threading.TIMEOUT_MAX)
    return condition.wait_for(ready, timeout)
