"""Waits: in the kernel where possible, by short sleeps where a deadline or a scheduler forbids it.

One policy for every wait of the package. Without a timeout a wait is one blocking system call, which the
kernel ends when the lock comes free. A blocking ``flock`` takes no timeout, and under a cooperative scheduler
(gevent or eventlet with their monkey patches) it would stop every greenlet of the thread, its holder among
them: in both cases an attempt that does not block is repeated between sleeps that start at 0.5 ms and grow
to 10 ms, and never last beyond the deadline.
"""

from __future__ import annotations

import _thread
import math
import numbers
import time
from collections.abc import Callable
from types import BuiltinFunctionType, EllipsisType
from typing import Any

__all__ = [
    "FOREVER",
    "INHERIT",
    "NOW",
    "Deadline",
    "Timeout",
    "checked_seconds",
    "checked_timeout",
    "cooperative",
    "deadline_of",
    "wait_until",
]

#: Seconds of the first pause between two attempts, and of the longest: a free lock is noticed within that.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.010

#: A timeout as callers give it: seconds, ``None`` for no bound, ``...`` for what the object was made with.
Timeout = float | EllipsisType | None
INHERIT = ...


class Deadline:
    """A moment on the monotonic clock, *timeout* seconds from now; with ``None``, none at all.

    One call may wait more than once (for a creation, then for a writer): all its waits share the deadline.
    """

    __slots__ = ("at", "timeout")

    #: Seconds after which a wait looks again whether it has come: of one that may come sooner than it said.
    look_every = math.inf

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.at = math.inf if timeout is None else time.monotonic() + timeout

    @property
    def left(self) -> float:
        """Seconds until the deadline: infinite without one, never negative."""
        return max(0.0, self.at - time.monotonic())

    def within(self, seconds: float) -> Deadline:
        """Return this deadline, or one that comes in so many *seconds* if that is sooner."""
        return Deadline(min(seconds, self.left))


#: For one attempt that does not wait, and for a wait without bound.
NOW = Deadline(0.0)
FOREVER = Deadline(None)


def checked_seconds(name: str, value: Any, *, least: float = 0.0) -> float:
    """Return *value*, seconds or a ``timedelta``, as a float of at least *least*, possibly infinity.

    :param name: the caller's name for it, for the message.
    :raises TypeError: if it is neither a real number nor a ``timedelta``; a bool is none.
    :raises ValueError: if it is NaN or too small.
    """
    if hasattr(value, "total_seconds"):  # a timedelta, whose module takes long to import
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf if value == abs(value) else -math.inf
    if math.isnan(seconds) or seconds < least:
        raise ValueError(f"{name} must be {least:g} or more seconds, not {value!r}")
    return seconds


def checked_timeout(timeout: float | None) -> float | None:
    """Return *timeout* if it is ``None`` or a number of seconds from 0 on; ``None`` for infinity.

    :raises TypeError, ValueError: if it is neither.
    """
    if timeout is None:
        return None
    bound = checked_seconds("timeout", timeout)
    return None if bound == math.inf else bound


def deadline_of(timeout: Timeout, inherited: float | None) -> Deadline:
    """Return the deadline of a call made now with *timeout* on an object whose own timeout is *inherited*."""
    bound = inherited if isinstance(timeout, EllipsisType) else checked_timeout(timeout)
    return FOREVER if bound is None else Deadline(bound)


def cooperative() -> bool:
    """Return whether threads here are greenlets, so that a blocking system call would stop them all.

    ``_thread`` shows it: gevent and eventlet must both replace its functions to make greenlets of threads, and
    tests that replace ``time.sleep`` do not touch it.
    """
    return not isinstance(_thread.start_new_thread, BuiltinFunctionType)


def wait_until(attempt: Callable[[], bool], block: Callable[[], object], deadline: Deadline) -> bool:
    """Wait until *attempt* succeeds or, if the kernel may do the waiting, until *block* returns.

    :param attempt: tries once without blocking and returns whether it succeeded.
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
        # Looked up each time: the monkey patches replace time.sleep.
        time.sleep(min(pause, left))
        if attempt():
            return True
        pause = min(2 * pause, _LONGEST_PAUSE)
    return False
