"""Who waits how: in the kernel where it can be, by short sleeps where a deadline or a scheduler forbids it.

One policy for every wait of the package. Without a timeout a wait is one blocking system call, which the
kernel ends when the lock comes free. A blocking ``flock`` takes no timeout, and under a cooperative scheduler
(gevent or eventlet with their monkey patches) it would stop every greenlet of the thread, its holder among
them: in both cases an attempt that does not block is repeated between sleeps that start at 0.5 ms and grow
to 10 ms, and never last beyond the deadline.
"""

from __future__ import annotations

import _thread
import math
import time
from collections.abc import Callable
from types import BuiltinFunctionType, EllipsisType

from .seconds import checked_seconds

__all__ = [
    "FOREVER",
    "INHERIT",
    "NOW",
    "Deadline",
    "Timeout",
    "checked_timeout",
    "cooperative",
    "deadline_of",
    "wait_until",
]

_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.010

#: A timeout as callers give it: seconds, ``None`` for no bound, ``...`` for what the object was made with.
Timeout = float | EllipsisType | None
INHERIT = ...


class Deadline:
    """A moment on the monotonic clock, *timeout* seconds from now; with ``None``, none at all.

    One call may wait more than once (for a creation, then for a writer): all its waits share the deadline.
    """

    __slots__ = ("at", "timeout")

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.at = math.inf if timeout is None else time.monotonic() + timeout

    @property
    def left(self) -> float:
        """Seconds until the deadline: infinite without one, never negative."""
        return max(0.0, self.at - time.monotonic())


#: For one attempt that does not wait, and for a wait without bound.
NOW = Deadline(0.0)
FOREVER = Deadline(None)


def checked_timeout(timeout: float | None) -> float | None:
    """*timeout* if it is ``None`` or a number of seconds from 0 on; infinity is told as ``None``.

    :raises TypeError, ValueError: if it is neither.
    """
    if timeout is None:
        return None
    bound = checked_seconds("timeout", timeout)
    return None if bound == math.inf else bound


def deadline_of(timeout: Timeout, inherited: float | None) -> Deadline:
    """The deadline of a call made now with *timeout* on an object whose own timeout is *inherited*."""
    bound = inherited if isinstance(timeout, EllipsisType) else checked_timeout(timeout)
    return FOREVER if bound is None else Deadline(bound)


def cooperative() -> bool:
    """Whether threads here are greenlets, so that a blocking system call would stop them all.

    Asked of ``_thread`` because gevent and eventlet must both replace its functions to make greenlets of
    threads, and because tests that replace ``time.sleep`` do not touch it.
    """
    return not isinstance(_thread.start_new_thread, BuiltinFunctionType)


def wait_until(attempt: Callable[[], bool], block: Callable[[], object], deadline: Deadline) -> bool:
    """Wait until *attempt* succeeds or, if the kernel may do the waiting, until *block* returns.

    :param attempt: tries once without blocking and tells whether it succeeded.
    :param block: the same as a blocking system call.
    :returns: False if the deadline came first.
    """
    if attempt():
        return True
    if deadline.at == math.inf and not cooperative():
        block()
        return True
    pause = _FIRST_PAUSE
    over = deadline.left == 0
    while not over:
        left = deadline.left
        over = left <= pause  # the last attempt comes at the deadline, however shortly before it came another
        # Looked up at each turn: time.sleep is what the monkey patches replace.
        time.sleep(min(pause, left))
        if attempt():
            return True
        pause = min(2 * pause, _LONGEST_PAUSE)
    return False
