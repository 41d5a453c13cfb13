"""Tasks as readers and as the writer of a read/write lock."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from .._locks import holds
from .._os.waiting import Deadline, Timeout, deadline_of
from . import waiters
from .loops import running_loop, waiting_for
from .work import Work, lone_holder

__all__ = ["enter_as_reader", "writing"]


async def enter_as_reader(lock: Any, deadline: Deadline) -> Any:
    """Enter as a reader, and return what ``lock._leave`` takes.

    :raises LockTimeout: if *deadline* came first.
    :raises WouldDeadlock: if this task is inside as the writer, or tasks and threads would wait for each other.
    """
    hold = lock._enter_now(behind_writers=True)
    if hold is None and lock._inside() == "reader":  # the writer that waits would wait for this task
        hold = lock._enter_now(behind_writers=False)
    if hold is not None:
        return hold
    me, loop = lone_holder(), running_loop()
    lock._refuse_to_wait_for_oneself(deadline, to_write=False, me=me)
    with lock._waiting("read", bool, deadline, me) as wait:
        while hold is None:
            with waiters.waiting_to_read(loop, lock) as woken:
                if not await woken(wait.deadline):
                    raise lock._timed_out("a writer", wait)
                hold = lock._enter_now(behind_writers=False)
    return hold


class _Cancellable(Deadline):
    """A deadline that comes at once if it is cancelled."""

    __slots__ = ("_last", "is_cancelled")

    look_every = 0.010

    def __init__(self, last: Deadline) -> None:
        super().__init__(last.timeout)
        self._last = last
        self.at = min(last.at, _NO_BOUND)
        self.is_cancelled = False

    @property
    def left(self) -> float:
        return 0.0 if self.is_cancelled else min(self._last.left, _NO_BOUND)


#: Seconds that stand for no bound: a wait with a bound can be ended from outside.
_NO_BOUND = 1e9


@asynccontextmanager
async def writing(lock: Any, timeout: Timeout) -> AsyncIterator[None]:
    """A block as the writer; *timeout*: seconds to wait at most, from its beginning on.

    :raises LockTimeout: if it did not get in by then.
    :raises WouldDeadlock: if this task is inside already, or tasks and threads would wait for each other.
    """
    me, deadline = lone_holder(), deadline_of(timeout, lock.timeout)
    lock._refuse_to_wait_for_oneself(deadline, to_write=True, me=me)
    until, loop, task = _Cancellable(deadline), running_loop(), holds.current()
    if task.runs is not None:
        task = holds.Holder(task.thread, task.runs)  # of this wait alone

    def enter(work: Work[Any]) -> Any:
        hold = lock._enter_as_writer(until)
        try:
            with waiting_for(loop, bool):  # until the task goes on, which has it from then on
                hold.holder = task
        except BaseException:
            lock._leave_as_writer(hold)
            raise
        return hold

    with lock._waiting("write", lambda: True, deadline, me) as wait:
        if wait.deadline.at != math.inf:
            until = _Cancellable(wait.deadline)
        work = Work(
            loop,
            f"the wait to write {lock!r}",
            enter,
            dispose=lock._leave_as_writer,
            lost=lambda error: None,  # its wait was ended
        )
        try:
            hold = await work.result()
        except BaseException:
            until.is_cancelled = True
            if task.runs is not None:
                task.runs, task.thread = None, task  # the thread gives the lock back, and the task is not inside
            raise
    try:
        yield
    finally:
        lock._leave_as_writer(hold)
