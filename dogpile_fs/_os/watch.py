"""Waiting until something happens to a file that no process has locked: until a creator comes along.

All waits of a process share one instance of inotify(7), of which a user has few (128). Where the system gives
none, and under a cooperative scheduler, they share the work of looking again. There is no thread for that: one of
those that wait, the leader, looks out for all, and another one follows it.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from weakref import ref

from . import fork
from .inotify import LOST, WRITES, Inotify
from .waiting import Deadline, cooperative

__all__ = ["wait_for_change"]

#: Seconds between two looks where nothing can be watched: as long as the longest pause of a wait (``waiting``).
_PAUSE = 0.010
#: How many times as long as a look the pause after it is, at least: 5 % of a core, however many waits there are.
_REST = 19
#: Seconds that one call waits at most; see :func:`wait_for_change`.
_LONGEST = 1.0


def wait_for_change(path: str, changed: Callable[[], bool], deadline: Deadline) -> None:
    """Wait until something is made, moved or written in the directory of *path*, or *deadline* comes.

    It may return sooner, and does so at least once a second: a watch does not see that the whole directory was
    replaced, nor what another host does on a network file system.

    :param changed: returns whether it has happened already. Called once the watch stands, so that nothing can
        happen between a look and the watch; where nothing can be watched, called by any thread, for all waits for
        *path*.
    """
    fork.settle()
    lookout = _lookout_of(_Watching)
    waiter = _Waiter(path, changed)
    if cooperative() or not lookout.admit(waiter):
        lookout = _lookout_of(_Polling)
        lookout.admit(waiter)
    try:
        if not changed():
            lookout.wait(waiter, Deadline(min(deadline.left, _LONGEST)))
    finally:
        lookout.dismiss(waiter)


class _Waiter:
    """One wait."""

    __slots__ = ("__weakref__", "changed", "is_woken", "path", "watch")

    def __init__(self, path: str, changed: Callable[[], bool]) -> None:
        self.path = path
        self.changed = changed
        #: The number of the watch on the directory of *path*.
        self.watch: int | None = None
        self.is_woken = False


class _Lookout(ABC):
    """The waits of this process, for which one of their threads looks out.

    Nothing that can block is done under its lock. An interrupted wait is dropped, and so is its leadership: all
    are known weakly.
    """

    def __init__(self) -> None:
        self._start()
        fork.reset_after_fork(self)

    def _start(self) -> None:
        # Read and written with the condition's lock held.
        self._condition = threading.Condition()
        self._waiters: set[ref[_Waiter]] = set()
        self._leader: ref[_Waiter] | None = None

    def after_fork(self) -> None:
        self._start()

    def admit(self, waiter: _Waiter) -> bool:
        """Let *waiter* be woken from now on; False if that cannot be."""
        with self._condition:
            self._waiters.add(ref(waiter, self._waiters.discard))
        return True

    def dismiss(self, waiter: _Waiter) -> None:
        """Let *waiter* wait no longer."""
        with self._condition:
            self._waiters.discard(ref(waiter))

    def wait(self, waiter: _Waiter, deadline: Deadline) -> None:
        """Wait until *waiter* is woken or *deadline* comes."""
        try:
            while not waiter.is_woken and deadline.left:
                with self._condition:
                    leads = self._leader is None or self._leader() in (None, waiter)
                    if leads:
                        self._leader = ref(waiter)
                    else:
                        self._condition.wait(deadline.left)
                if leads and (woken := self._look_out(deadline)):
                    with self._condition:
                        for each in woken:
                            each.is_woken = True
                        self._condition.notify_all()
        finally:
            with self._condition:
                if self._leader is not None and self._leader() is waiter:
                    self._leader = None
                    self._condition.notify_all()  # another one leads

    def _present(self) -> list[_Waiter]:
        return [waiter for each in list(self._waiters) if (waiter := each()) is not None]

    @abstractmethod
    def _look_out(self, deadline: Deadline) -> list[_Waiter]:
        """Wait, for a while or until something happens; return the waiters that are to be woken."""


class _Watching(_Lookout):
    """By inotify. The instance is closed when no thread waits."""

    def _start(self) -> None:
        super()._start()
        self._inotify: Inotify | None = None

    def admit(self, waiter: _Waiter) -> bool:
        super().admit(waiter)  # first, so that the instance stays
        try:
            inotify = self._inotify or self._opened()
            waiter.watch = inotify.watch(os.path.dirname(waiter.path), WRITES)
        except OSError:
            self.dismiss(waiter)
            return False
        return True

    def _opened(self) -> Inotify:
        made = Inotify()
        with self._condition:
            inotify = self._inotify = self._inotify or made
        if inotify is not made:
            made.close()  # another thread was quicker
        return inotify

    def dismiss(self, waiter: _Waiter) -> None:
        super().dismiss(waiter)
        with self._condition:
            if not self._waiters:
                self._close()

    def _close(self) -> None:
        inotify, self._inotify = self._inotify, None
        if inotify is not None:
            inotify.close()

    def _look_out(self, deadline: Deadline) -> list[_Waiter]:
        inotify = self._inotify
        try:
            if inotify is None:
                raise OSError  # another part of the program has closed it
            watches = {event.watch for event in inotify.wait(deadline)}
        except OSError:
            with self._condition:
                self._close()
            return self._present()
        return [each for each in self._present() if each.watch in watches or LOST in watches]


class _Polling(_Lookout):
    """By looking again: once for all waits for a path, and the less often the longer that takes."""

    def _start(self) -> None:
        super()._start()
        self._cost = 0.0

    def _look_out(self, deadline: Deadline) -> list[_Waiter]:
        # Looked up each time: the monkey patches replace time.sleep.
        time.sleep(min(max(_PAUSE, _REST * self._cost), deadline.left))
        present = self._present()
        began = time.monotonic()
        changed = {path for path, waiter in {each.path: each for each in present}.items() if _has_changed(waiter)}
        self._cost = time.monotonic() - began
        return [each for each in present if each.path in changed]


def _has_changed(waiter: _Waiter) -> bool:
    try:
        return waiter.changed()
    except Exception:
        return True  # each waiter learns of the error by its own look


_lookouts: dict[type[_Lookout], _Lookout] = {}


def _lookout_of(kind: type[_Lookout]) -> _Lookout:
    """Return the process's own of this *kind*."""
    return _lookouts.get(kind) or _lookouts.setdefault(kind, kind())
