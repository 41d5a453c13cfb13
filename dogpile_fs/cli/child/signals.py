"""Signals that are noted while a child runs, and not acted on.

The handlers do nothing. The interpreter writes each signal's number into a pipe (``signal.set_wakeup_fd``), and
the runner waits for that pipe: it does not poll, and no handler runs between two of its lines. Signals that were
ignored stay ignored, for nohup(1) and for jobs that a shell puts into the background.

A process also inherits which signals are blocked, and the kernel performs no default action for the first process
of a PID namespace, which a container's program often is. :func:`delivered` makes up for both.
"""

from __future__ import annotations

import math
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

from ..._os.openfile import close_quietly
from ..exits import BY_SIGNAL, Exit, status_of

__all__ = ["ENDING", "Signals", "delivered", "die_of"]

#: The signals that ask a process to end. They are handed on to COMMAND.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

#: Seconds of one poll(2), which takes at most 2**31 milliseconds. The waiting loops look again.
_LONGEST = 3600.0


@contextmanager
def delivered() -> Iterator[None]:
    """Unblock :data:`ENDING` signals and SIGCHLD in the block, and let the former end this process there.

    Without it a process whose parent had blocked SIGCHLD would wait for ever for a child that has ended, and the
    first process of a PID namespace would not end by SIGTERM. Children start with the same signals unblocked.
    """
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {*ENDING, signal.SIGCHLD})
    # An ignored signal stays ignored, and SIGINT has the interpreter's handler.
    dropped = [each for each in ENDING if os.getpid() == 1 and signal.getsignal(each) is signal.SIG_DFL]
    try:
        for number in dropped:
            signal.signal(number, _exit)
        yield
    finally:
        for number in dropped:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class Signals:
    """A ``with`` block in which :data:`ENDING` signals and the ends of children are only noted. Main thread only.

    *received*: the numbers of the ending signals that came, in order; complete once the block is left.

    :raises Exit: on entering, if the system has no pipe.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)
            self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        except OSError as error:
            raise Exit(status_of(error), f"cannot make a pipe for signals: {error.strerror}") from error
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, _note)
        # Also where it was ignored: else the kernel reaps children, and their statuses are lost.
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _note)
        return self

    def raise_from_now_on(self, error: Callable[[int], BaseException]) -> None:
        """Raise ``error(number)`` when an ending signal comes or has come, for waits that do not see the pipe."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            raise error(number)

        for number in ENDING:
            if number in self._before:
                signal.signal(number, interrupt)
        self._drain()
        if self.received:
            raise error(self.received[0])

    def wait(self, seconds: float | None) -> list[int]:
        """Wait until a signal comes, a child ends, or *seconds* are over; return the ending signals that came.

        It may return sooner.
        """
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        poll.poll(None if seconds is None else math.ceil(min(seconds, _LONGEST) * 1000))
        return self._drain()

    def _drain(self) -> list[int]:
        try:
            numbers = os.read(self._read, 4096)
        except OSError:
            return []  # no signal has come
        came = [number for number in numbers if number in ENDING]
        self.received += came
        return came

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._drain()
        close_quietly(self._read)
        close_quietly(self._write)


def die_of(number: int) -> int:
    """End this process by signal *number*, so that its parent sees which signal ended it.

    A shell script goes on with its next command unless it sees that Ctrl-C ended this one.

    :returns: the exit status that a shell shows for it, in the first process of a PID namespace: no signal of its
        own ends it.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # closed
            stream.flush()
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return BY_SIGNAL + number


def _note(number: int, frame: FrameType | None) -> None:
    pass


def _exit(number: int, frame: FrameType | None) -> None:
    """End this process at once, as the default action of signal *number* would."""
    os._exit(BY_SIGNAL + number)
