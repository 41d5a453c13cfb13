"""A process group that does not outlive the process that made it, even if that is killed by SIGKILL.

The watchdog is a forked child that leads the group and waits for its parent's end. Then the kernel closes a pipe
that only the parent holds open, and the watchdog kills the whole group with itself. COMMAND joins the group before
it is executed; it cannot join one without a watchdog. That needs no code of ours between fork and exec in
COMMAND's process, reaches grandchildren, which ``PR_SET_PDEATHSIG`` does not, and is plain POSIX. Not reached: a
process that has left the group (``setsid``).
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import TracebackType
from typing import Self

from ..._os.openfile import close_quietly

__all__ = ["Watchdog"]


class Watchdog:
    """A ``with`` block with a process group of its own, which is killed if this process dies inside.

    *group*: its id, for ``Popen(process_group=...)`` and :func:`os.killpg`. On leaving, the watchdog ends; the
    other members of the group live on.
    """

    group: int

    def __enter__(self) -> Self:
        read, self._write = os.pipe()
        # The watchdog takes no signal, and writes none into the pipe that it shares with its parent.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.group = os.fork()
            if self.group == 0:
                _watch(read, self._write)
            # Parent and child both do it: neither may go on before it is done.
            os.setpgid(self.group, self.group)
        except BaseException:
            close_quietly(self._write)  # which ends the watchdog, if there is one
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            close_quietly(read)
        return self

    def kill_group(self) -> None:
        """End the watchdog and all that has joined the group."""
        with suppress(OSError):  # the caller raises an error already
            os.killpg(self.group, signal.SIGKILL)

    def leave(self) -> None:
        """End the watchdog; the group lives on with its other members, if there are any."""
        if self._write >= 0:
            os.kill(self.group, signal.SIGKILL)
            os.waitpid(self.group, 0)
            write, self._write = self._write, -1
            close_quietly(write)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


def _watch(read: int, write: int) -> None:
    """Wait for the parent's end and kill the group: all that the watchdog does."""
    try:
        os.setpgid(0, 0)
        os.close(write)
        # The pipes of the standard streams must not stay open because of the watchdog.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.read(read, 1)
        os.killpg(os.getpid(), signal.SIGKILL)
    finally:
        os._exit(1)
