"""Holds: which locks this process has taken, for which caller, and whether a caller would wait for itself.

A hold is the object that stands for one lock taken once. It owns the descriptor that locks the file, so that
dropping the last reference to it gives the lock back. Any thread or task that has it may give it back. It
remembers its *holder* only to refuse a wait that could never end: the running task, where an event loop runs in
the thread, else the greenlet or the thread. A holder is an object of its own and never a number that is used
again: a later thread inherits nothing.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar
from weakref import ref

from .._layout import LOCK_SUFFIX, RWLOCK_SUFFIX
from .._os.openfile import OpenFile
from .._os.waiting import Deadline, cooperative

__all__ = [
    "AnyHold",
    "Hold",
    "Holder",
    "Taker",
    "current",
    "is_blocked_by",
    "is_in_event_loop",
    "living",
    "other_lock",
]


log = logging.getLogger("dogpile_fs")


class Holder:
    """A caller: a thread, or a task or greenlet that runs in it."""

    __slots__ = ("__weakref__", "runs", "thread")

    def __init__(self, thread: Holder | None = None, runs: ref[Any] | None = None) -> None:
        #: The thread that it runs in; itself for a thread.
        self.thread = self if thread is None else thread
        #: The task or greenlet; ``None`` for a thread.
        self.runs = runs

    def is_same(self, other: Holder) -> bool:
        """Return whether both are one caller."""
        if self is other:
            return True
        mine, others = self.runs, other.runs
        return mine is not None and others is not None and mine() is others() is not None

    def stands_still_with(self, other: Holder) -> bool:
        """Return whether it cannot go on while *other* waits: it is that, or another task of the same thread."""
        return self.is_same(other) or (self.thread is other.thread and not cooperative())


class _Threads(threading.local):
    """The holder of each thread."""

    def __init__(self) -> None:
        self.me = Holder()


_threads = _Threads()


def current() -> Holder:
    """Return the caller."""
    thread = _threads.me
    modules = sys.modules
    # For the hot path: no task and no greenlet can run. Many programs import asyncio and run no loop.
    if "trio.lowlevel" not in modules and "greenlet" not in modules:
        events = modules.get("asyncio.events")
        if events is None:
            return thread
        try:
            if events._get_running_loop() is None:
                return thread
        except AttributeError:  # another thread is importing the module
            return thread
    running = _running()
    if running is None:
        return thread
    try:
        return Holder(thread, ref(running))
    except TypeError:  # a task of some other kind, which takes no weak references
        return thread


def is_in_event_loop() -> bool:
    """Return whether an event loop runs in this thread, so that a blocking wait would stop all its tasks."""
    return _asyncio_loop() is not None or _trio_task() is not None


def _running() -> object | None:
    """Return the task that runs in this thread, or its greenlet unless that is the thread's main one."""
    task: object | None = None
    if _asyncio_loop() is not None:
        task = sys.modules["asyncio"].current_task()
    task = _trio_task() if task is None else task
    if task is not None:
        return task
    greenlets = sys.modules.get("greenlet")
    if greenlets is not None:
        greenlet = greenlets.getcurrent()
        if greenlet.parent is not None:
            return greenlet  # type: ignore[no-any-return]
    return None


# Schedulers are never imported here: if the program has not, none of its tasks runs. An import would also cost
# more than all imports of the package, and that of ``_asyncio`` before ``asyncio`` would leave asyncio's tasks
# half initialised.


def _asyncio_loop() -> object | None:
    """Return the event loop of asyncio that runs in this thread."""
    # Without the function while another thread is importing the module.
    ask = getattr(sys.modules.get("asyncio.events"), "_get_running_loop", None)
    return None if ask is None else ask()


def _trio_task() -> Any:
    trio = sys.modules.get("trio.lowlevel")
    if trio is not None:
        try:
            return trio.current_task()
        except RuntimeError:
            pass
    return None


class Taker(Protocol):
    """An object that knows its hold before the hold locks anything, so that no interrupt can come between."""

    mutex_hold: Any


class AnyHold(Protocol):
    """A lock taken once, of a file or of thread scope."""

    #: The caller for which it locks; None: it locks nothing.
    holder: Holder | None

    def is_held_by(self, me: Holder) -> bool:
        """Return whether it locks for *me*."""


class Hold(OpenFile):
    """A description of a lock file, and the caller for which it locks. ``None``: it locks nothing."""

    __slots__ = ("holder",)

    holder: Holder | None

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.holder = None
        _living.add(ref(self, _living.discard))

    @property
    def resource(self) -> str:
        """What it is a lock of; the locks of one resource have the same."""
        return _resource_of(self.path)

    def is_held_by(self, me: Holder) -> bool:
        """Return whether it locks the file for *me*."""
        holder = self.holder
        return holder is not None and self.fd >= 0 and holder.is_same(me)

    def close(self) -> None:
        super().close()
        self.holder = None  # last: a holder shows that an interrupt came before

    def give_back_and_warn(self, in_doubt: str) -> None:
        """Give it back. Log a warning that *in_doubt* is so, if its file was deleted or replaced meanwhile."""
        is_lost = self.fd >= 0 and self.lost_its_path()
        self.give_back()
        if is_lost:
            log.warning(
                "the lock file %r was deleted, replaced or closed elsewhere while it was locked: %s. "
                "Keep cleaners away from it.",
                self.path,
                in_doubt,
            )


_H = TypeVar("_H", bound=Hold)

#: Weak references to all holds, also to those that lock nothing now. Changed by one operation each.
_living: set[ref[Hold]] = set()


def living(kind: type[_H], path: str) -> Iterator[_H]:
    """Yield the holds of a *kind* that lock the file at *path* for some caller of this process."""
    for reference in list(_living):
        hold = reference()
        if type(hold) is kind and hold.holder is not None and hold.fd >= 0 and hold.is_at(path):
            yield hold


def other_lock(me: Holder, path: str) -> str:
    """Return the path of a lock file that *me* holds, or a task that stands still with it, and that is of another
    resource than the lock file at *path*; ``""`` if there is none.
    """
    own = _resource_of(path)
    for hold in [hold for reference in list(_living) if (hold := reference()) is not None]:
        holder = hold.holder
        if holder is not None and hold.fd >= 0 and holder.stands_still_with(me) and hold.resource != own:
            return hold.path
    return ""


def _resource_of(lock_file: str) -> str:
    return lock_file.removesuffix(LOCK_SUFFIX).removesuffix(RWLOCK_SUFFIX)


def is_blocked_by(hold: AnyHold, me: Holder, deadline: Deadline) -> bool:
    """Return whether *me* would have to give *hold* back before its wait without bound can end.

    That is so for its own holds, and for those of another task of its thread, which cannot run while the thread
    waits. A wait with a bound is never refused: another thread may give the hold back.
    """
    holder = hold.holder
    return holder is not None and deadline.at == math.inf and holder.stands_still_with(me)
