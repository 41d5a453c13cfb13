"""Waiting until something happens to a file that nobody has locked: for who waits for a creator to come along.

By inotify(7) where there is one (Linux), else, and under a cooperative scheduler, by looking again in 10 ms.
"""

from __future__ import annotations

import ctypes
import math
import os
import select
import time
from collections.abc import Callable

from . import fork as forking
from .openfile import above_standard
from .waiting import Deadline, cooperative

__all__ = ["wait_for_change"]

_PAUSE = 0.010
_LONGEST = 1.0

# <sys/inotify.h>: written, made, moved here
_IN_MODIFY, _IN_CREATE, _IN_MOVED_TO = 0x2, 0x100, 0x80


class _Watch:
    """An inotify descriptor; a forked child closes it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        forking.forget_in_child(self)

    def after_fork(self) -> None:
        self.close()

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def wait_for_change(path: str, changed: Callable[[], bool], deadline: Deadline) -> None:
    """Wait until something is made, moved or written in the directory of *path*, or *deadline* comes.

    It may return sooner, and does so at least once a second: a watch does not see that the whole directory was
    replaced, nor what another host does on a network file system.

    :param changed: asked once the watch stands, so that nothing can happen between a look and the watch.
    """
    if not cooperative():
        watch = _Watch(_watch(os.path.dirname(path)))
        fd = watch.fd
        if fd >= 0:
            try:
                if not changed():
                    _wait_for_input(fd, min(deadline.left, _LONGEST))
                return
            finally:
                watch.close()
    time.sleep(min(_PAUSE, deadline.left))


def _watch(directory: str) -> int:
    """An inotify descriptor for *directory*; negative where that cannot be had (limits, other systems)."""
    try:
        libc = ctypes.CDLL(None)
        watch: int = libc.inotify_init1(os.O_CLOEXEC)
    except (AttributeError, OSError):
        return -1
    if watch >= 0:
        watch = above_standard(watch)
    if watch >= 0 and (
        libc.inotify_add_watch(watch, os.fsencode(directory), _IN_MODIFY | _IN_CREATE | _IN_MOVED_TO) < 0
    ):
        os.close(watch)
        return -1
    return watch


def _wait_for_input(fd: int, seconds: float) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    # Rounded up: to wake before the deadline would mean to wait again.
    poll.poll(math.ceil(seconds * 1000))
