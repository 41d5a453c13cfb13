"""Signals told through a descriptor while a child runs, instead of acted on.

The handlers do nothing; the interpreter writes each signal's number into a pipe (``signal.set_wakeup_fd``), and
whoever waits, waits for that pipe: no polling, and no code that runs between two other lines. Signals that
were ignored stay ignored, for nohup(1) and for what a shell puts into the background.
"""

from __future__ import annotations

import math
import os
import select
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from ..._os.openfile import let_go
from ..exits import Exit, status_of

__all__ = ["ENDING", "Signals", "die_of"]

#: What asks a process to end, and what is handed on to COMMAND.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

#: Seconds; more milliseconds than poll(2) can take are no use.
_LONGEST = 3600.0


class Signals:
    """A ``with`` block in which :data:`ENDING` signals and the ends of children are only noted. Main thread only.

    *received*: the numbers of the ending signals that came, in order; complete once the block is left.

    :raises Exit: on entering, if the system gives no pipe.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            self._read, self._write = os.pipe()
            try:
                os.set_blocking(self._read, False)
                os.set_blocking(self._write, False)
                self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            except BaseException:
                let_go(self._read)
                let_go(self._write)
                raise
        except OSError as error:
            raise Exit(status_of(error), f"cannot have a pipe to be told of signals: {error.strerror}") from error
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, _note)
        # Also where it was ignored: else the kernel would reap children unseen.
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _note)
        return self

    def raise_from_now_on(self, error: Callable[[int], Exception]) -> None:
        """Raise ``error(number)`` when an ending signal comes, or has come: for waits that end no other way."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            raise error(number)

        for number in ENDING:
            if number in self._before:
                signal.signal(number, interrupt)
        self._drain()
        if self.received:
            raise error(self.received[0])

    def wait(self, seconds: float | None) -> list[int]:
        """Wait until a signal comes, a child ends, or *seconds* are over; the ending signals that came.

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
            # Nothing has come; or what has is not to be had, and who waits looks anyway.
            return []
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
        let_go(self._read)
        let_go(self._write)


def die_of(number: int) -> int:
    """End this process by signal *number*, so that its parent sees what ended it.

    A shell that runs a script must know that Ctrl-C ended this command, or it would go on with the next one.

    :returns: the exit status that a shell shows for it, if the signal is blocked.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


def _note(number: int, frame: FrameType | None) -> None:
    pass
