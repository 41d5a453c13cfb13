"""The mutex and the read/write lock of thread scope: the shapes of the file locks, without files.

Promised: what the file locks promise, among the threads of one process. A forked child starts with both free.
A lock that the user brought (``lock=``) is wrapped in the mutex's shape.
"""

from __future__ import annotations

import _thread
import math
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol, Self

from .._os.fork import forget_in_child
from .._os.waiting import INHERIT, NOW, Deadline, Timeout, deadline_of, wait_until
from ..errors import LockTimeout, NotHeld, WouldDeadlock

__all__ = ["BorrowedMutex", "LockLike", "ThreadMutex", "ThreadReadWriteLock", "wait_for"]


class LockLike(Protocol):
    """What ``lock=`` takes: a ``threading.Lock``, a ``multiprocessing.Lock``, or anything of their shape."""

    def acquire(self, blocking: bool = True, /) -> bool: ...
    def release(self) -> None: ...


class ThreadMutex:
    """A mutex whose waiters can wait for its release without taking it, and then wake all at once."""

    def __init__(self, timeout: float | None = None) -> None:
        self.timeout = timeout
        # Read and written with the condition held.
        self._owner: int | None = None
        self._releases = 0
        self._condition = threading.Condition()
        # In a child: its parent's forking thread held it, and the child may leave the block it was in.
        self._held_by_parent = False
        forget_in_child(self)

    def after_fork(self) -> None:
        self._held_by_parent |= self._owner == _thread.get_ident()
        self._owner = None
        self._condition = threading.Condition()

    lost = False  # there is no file that could be

    @property
    def held(self) -> bool:
        return self._owner is not None

    def locked(self) -> bool:
        return self.held

    def acquire(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        deadline = deadline_of(timeout, self.timeout) if wait else NOW
        with self._condition:
            if wait:
                self._refuse_to_wait_for_oneself()
            if not wait_for(self._condition, lambda: self._owner is None, deadline):
                if wait:
                    raise LockTimeout(f"another thread kept the lock for {deadline.timeout} s")
                return False
            self._owner = _thread.get_ident()
            return True

    def release(self) -> None:
        with self._condition:
            if self._owner is None:
                if not self._held_by_parent:
                    raise NotHeld("the mutex is not held: acquire it first")
                self._held_by_parent = False
                return
            self._owner = None
            self._releases += 1
            self._condition.notify_all()

    def wait_released(self, deadline: Deadline) -> bool:
        with self._condition:
            self._refuse_to_wait_for_oneself()
            # The end of this hold counts, however soon the next one follows.
            before = self._releases
            return wait_for(self._condition, lambda: self._owner is None or self._releases != before, deadline)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _refuse_to_wait_for_oneself(self) -> None:
        if self._owner == _thread.get_ident():
            raise WouldDeadlock(
                "this thread runs the creator or holds the mutex, and would wait for itself, for ever. "
                "Cure: do not acquire inside of it; hand in what is needed."
            )


class BorrowedMutex:
    """The user's own lock in the shape of a mutex. Waiters wait by taking it, one after the other."""

    def __init__(self, lock: LockLike) -> None:
        self.lock = lock
        self._owner: int | None = None
        self._held_by_parent = False
        forget_in_child(self)

    def after_fork(self) -> None:
        self._held_by_parent |= self._owner == _thread.get_ident()
        self._owner = None

    lost = False  # nobody here could tell

    @property
    def held(self) -> bool:
        return self._owner is not None

    def locked(self) -> bool:
        return self.held or not self._comes_free_at_once()

    def acquire(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        deadline = deadline_of(timeout, None) if wait else NOW
        if wait:
            self._refuse_to_wait_for_oneself()
        if not wait_until(lambda: self.lock.acquire(False), self.lock.acquire, deadline):
            if wait:
                raise LockTimeout(f"{self.lock!r} was not to be had within {deadline.timeout} s")
            return False
        self._owner = _thread.get_ident()
        return True

    def release(self) -> None:
        if self._owner is None:
            if not self._held_by_parent:  # released all the same, it would be somebody else's
                raise NotHeld(f"{self.lock!r} is not held through this object: acquire it first")
            self._held_by_parent = False
            return
        self._owner = None
        self.lock.release()

    def wait_released(self, deadline: Deadline) -> bool:
        self._refuse_to_wait_for_oneself()
        return wait_until(self._comes_free_at_once, self._take_and_give_back, deadline)

    def _refuse_to_wait_for_oneself(self) -> None:
        if self._owner == _thread.get_ident():
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
    """Shared/exclusive among threads: a waiting writer stops new readers, and whoever came while he waited
    or wrote is let in when he leaves, before the next writer. Readers nest.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self.timeout = timeout
        # Read and written with the condition held. Threads by identity; readers with how often they entered.
        self._readers: Counter[int] = Counter()
        self._readers_waiting: set[int] = set()
        self._writer: int | None = None
        self._writers_waiting = 0
        self._condition = threading.Condition()
        # In a child: how often its parent's forking thread had entered, and may be left.
        self._parents_stays = 0
        forget_in_child(self)

    def after_fork(self) -> None:
        me = _thread.get_ident()
        stays = self._parents_stays + self._readers[me] + (self._writer == me)
        self.__init__(self.timeout)  # type: ignore[misc]  # as good as new is the meaning
        self._parents_stays = stays

    def inside(self) -> Literal["reader", "writer", ""]:
        me = _thread.get_ident()
        return "writer" if self._writer == me else "reader" if me in self._readers else ""

    def make_file(self) -> None:
        """There is none."""

    def acquire_read_lock(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        try:
            self.enter(deadline_of(timeout, self.timeout) if wait else NOW)
        except (LockTimeout, WouldDeadlock):
            if wait:
                raise
            return False
        return True

    def release_read_lock(self) -> None:
        self.leave(_thread.get_ident())

    def enter(self, deadline: Deadline) -> int:
        me = _thread.get_ident()
        with self._condition:
            if self._writer == me:
                raise WouldDeadlock(
                    "this thread is inside as the writer and would wait for itself, for ever. "
                    "Cure: leave the write block before you read."
                )
            if me in self._readers or (self._writer is None and not self._writers_waiting):
                self._readers[me] += 1
            else:
                self._wait_to_be_let_in(me, deadline)
            return me

    def leave(self, hold: int) -> None:
        with self._condition:
            if hold not in self._readers:
                self._forget_parents_stay("read")
                return
            self._readers[hold] -= 1
            if not self._readers[hold]:
                del self._readers[hold]
                self._condition.notify_all()

    def acquire_write_lock(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        me = _thread.get_ident()
        deadline = deadline_of(timeout, self.timeout) if wait else NOW
        with self._condition:
            if wait and (self._writer == me or me in self._readers):
                raise WouldDeadlock(
                    "this thread is inside already and would wait for itself, for ever. "
                    "Cure: leave the block before you write."
                )
            entered = False
            self._writers_waiting += 1
            try:
                entered = wait_for(self._condition, lambda: self._writer is None and not self._readers, deadline)
                if entered:
                    self._writer = me
            finally:
                self._writers_waiting -= 1
                if self._writer is None and not self._writers_waiting:
                    self._let_readers_in()
            if wait and not entered:
                raise LockTimeout(f"readers or a writer did not leave within {deadline.timeout} s")
            return entered

    def release_write_lock(self) -> None:
        with self._condition:
            if self._writer != _thread.get_ident():
                self._forget_parents_stay("write")
                return
            self._writer = None
            self._let_readers_in()

    def _wait_to_be_let_in(self, me: int, deadline: Deadline) -> None:
        self._readers_waiting.add(me)
        try:
            let_in = wait_for(self._condition, lambda: me in self._readers, deadline)
        except BaseException:
            self._readers.pop(me, None)
            self._condition.notify_all()
            raise
        finally:
            self._readers_waiting.discard(me)
        if not let_in:
            raise LockTimeout(f"a writer did not leave within {deadline.timeout} s")

    def _let_readers_in(self) -> None:
        self._readers.update(self._readers_waiting)
        self._readers_waiting.clear()
        self._condition.notify_all()

    def _forget_parents_stay(self, kind: str) -> None:
        if not self._parents_stays:
            raise NotHeld(f"this thread does not hold the {kind} lock: acquire it first")
        self._parents_stays -= 1


def wait_for(condition: threading.Condition, ready: Callable[[], bool], deadline: Deadline) -> bool:
    """``condition.wait_for`` with a deadline."""
    timeout = None if deadline.at == math.inf else min(deadline.left, threading.TIMEOUT_MAX)
    return condition.wait_for(ready, timeout)
