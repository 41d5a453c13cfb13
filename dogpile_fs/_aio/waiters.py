"""Waits of tasks for locks: one thread per lock waits in the kernel, on behalf of all tasks of this process.

A blocking lock call cannot be cancelled, so no task makes one, nor has a thread of its own that does. The thread
wakes all tasks at once. It does not keep the lock: a task that goes away meanwhile leaves nothing behind but that
thread, which ends with its wait.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from .._os import fork
from .._os.waiting import FOREVER, NOW, Deadline
from ..errors import DogpileError
from .loops import Loop, Wake

__all__ = ["pause_longer", "wait_for_change", "wait_for_lock", "wait_for_release", "waiting_to_read"]

#: Seconds for which a thread that waits for a change looks away from whether a task still waits.
_LOOK_EVERY = 1.0
#: Seconds for which a thread that has got in as a reader holds the door open for the tasks that waited with it:
#: many turns of an event loop, and no long time for a writer.
_DOOR_IS_OPEN = 1.0
#: Seconds of the first and the longest pause where a lock cannot be had although its wait has ended.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.010


class _Waiter:
    """A thread that waits, and the tasks that it wakes."""

    def __init__(self, key: object, wait: Callable[[_Waiter], object]) -> None:
        self._key = key
        self._wait = wait
        self._changed = threading.Condition()
        #: The error with which the wait has ended, if it did.
        self.error: DogpileError | None = None
        #: The tasks that wait; after the wait, those that have not gone on yet.
        self._wakes: set[Wake] = set()
        self._is_over = False

    def add(self, wake: Wake) -> bool:
        """Have *wake* set at the end of the wait; False if it has ended."""
        with self._changed:
            if not self._is_over:
                self._wakes.add(wake)
            return not self._is_over

    def discard(self, wake: Wake) -> None:
        with self._changed:
            self._wakes.discard(wake)
            self._changed.notify_all()

    def has_tasks(self) -> bool:
        return bool(self._wakes)

    def wake_all(self) -> None:
        """End the wait: a task that comes later needs another."""
        with self._changed:
            self._is_over = True
            wakes = list(self._wakes)
        for wake in wakes:
            wake.set()

    def wait_for_tasks(self, seconds: float) -> None:
        """Wait until all tasks that were woken have gone on."""
        with self._changed:
            self._changed.wait_for(lambda: not self._wakes, seconds)

    def run(self) -> None:
        try:
            self._wait(self)
        except DogpileError as error:
            self.error = error
        finally:
            self.wake_all()
            with _waiters.guard:
                if _waiters.all.get(self._key) is self:
                    del _waiters.all[self._key]


class _Waiters:
    """The waiters of this process, by what they wait for."""

    def __init__(self) -> None:
        self.after_fork()
        fork.reset_after_fork(self)

    def after_fork(self) -> None:
        self.guard = threading.Lock()
        self.all: dict[object, _Waiter] = {}

    @contextmanager
    def waiting(
        self, key: object, wait: Callable[[_Waiter], object], loop: Loop
    ) -> Iterator[Callable[[Deadline], Awaitable[bool]]]:
        """A block in which the task waits with all others for *key*, by calling the block's value.

        That returns False if the deadline came first. It raises the error with which the wait has ended.
        """
        wake = Wake(loop)
        waiter = self._joined(key, wait, wake)

        async def woken(deadline: Deadline) -> bool:
            is_over = await wake.wait(deadline)
            if is_over and waiter.error is not None:
                raise waiter.error
            return is_over

        try:
            yield woken
        finally:
            waiter.discard(wake)

    def _joined(self, key: object, wait: Callable[[_Waiter], object], wake: Wake) -> _Waiter:
        with self.guard:
            waiter = self.all.get(key)
            if waiter is not None and waiter.add(wake):
                return waiter
            waiter = _Waiter(key, wait)
            waiter.add(wake)
            threading.Thread(target=waiter.run, name=f"dogpile_fs: waits for {key}", daemon=True).start()
            self.all[key] = waiter
        return waiter


_waiters = _Waiters()


def _key_of(lock: Any) -> object:
    """Return what is the same for all locks of a resource until its lock file is deleted or replaced.

    A hold of the old file need not end with one of the new. A lock of thread scope is known by itself.
    """
    if not lock._path:
        return lock
    try:
        found = os.stat(lock.path)
    except OSError:  # the wait tells what is wrong
        return lock._path
    return lock._path, found.st_dev, found.st_ino


async def wait_for_release(loop: Loop, mutex: Any, deadline: Deadline) -> bool:
    """Wait until the hold of now has ended; False if *deadline* came first."""
    if deadline.left == 0:
        return bool(mutex._wait_until_released(NOW))
    with _waiters.waiting(
        ("release", _key_of(mutex)), lambda waiter: mutex._wait_until_released(FOREVER), loop
    ) as woken:
        return await woken(deadline)


async def wait_for_lock(loop: Loop, lock: threading.Lock, deadline: Deadline) -> bool:
    """Wait until *lock* is free; False if *deadline* came first."""

    def wait(waiter: _Waiter) -> None:
        with lock:
            pass

    with _waiters.waiting(("lock", lock), wait, loop) as woken:
        return await woken(deadline)


async def wait_for_change(loop: Loop, scope: Any, seen: Any, deadline: Deadline) -> None:
    """Wait until the record is no longer *seen*, or *deadline* comes. It may return sooner."""

    def wait(waiter: _Waiter) -> None:
        while waiter.has_tasks() and scope.read() == seen:
            scope.wait_for_change(seen, Deadline(_LOOK_EVERY))

    with _waiters.waiting(("change", scope.path or scope), wait, loop) as woken:
        await woken(deadline)


@contextmanager
def waiting_to_read(loop: Loop, lock: Any) -> Iterator[Callable[[Deadline], Awaitable[bool]]]:
    """A block in which the task waits for the writers before it, with all other tasks of this process, by calling
    the block's value with a deadline.

    Once it is woken, no writer gets in before it has left the block, or a second has passed.
    """

    def wait(waiter: _Waiter) -> None:
        hold = lock._enter(FOREVER)
        try:
            waiter.wake_all()
            waiter.wait_for_tasks(_DOOR_IS_OPEN)
        finally:
            lock._leave(hold)

    with _waiters.waiting(("read", _key_of(lock)), wait, loop) as woken:
        yield woken


async def pause_longer(last: float, deadline: Deadline) -> float:
    """Pause after a wait that was in vain, for longer than the *last* time; return for how long.

    The first time there is no pause: the next caller may have been quicker.
    """
    if last:
        await anyio.sleep(min(last, deadline.left))
    return min(max(_FIRST_PAUSE, 2 * last), _LONGEST_PAUSE)
