"""A process group that does not outlive the process that made it, even if that is killed by SIGKILL.

The guardian is a forked child that leads the group and does nothing but wait for its parent's end: then a pipe
that only the parent holds open is closed by the kernel, and the guardian kills the whole group, itself
with it. COMMAND joins the group before it is executed; it cannot join one whose guardian is gone. That needs no
code of ours between fork and exec in COMMAND's process, reaches grandchildren, which ``PR_SET_PDEATHSIG`` would
not, and works wherever POSIX does. Not reached: a process that has left the group (``setsid``).
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import TracebackType
from typing import Self

from ..._os.openfile import let_go

__all__ = ["Guardian"]


class Guardian:
    """A ``with`` block with a process group of its own, which is killed if this process dies inside.

    *group*: its id, for ``Popen(process_group=...)`` and :func:`os.killpg`. On leaving, the guardian ends; what
    else is in the group is let live.
    """

    def __enter__(self) -> Self:
        read, self._write = os.pipe()
        # Ctrl-C and the like are for others; nor must it note, in pipes that it shares, what it is sent.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.group = os.fork()
            if self.group == 0:
                _guard(read, self._write)
            # Both sides do it: neither may go on before it is done.
            os.setpgid(self.group, self.group)
        except BaseException:
            let_go(self._write)  # which ends the guardian, if there is one
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            let_go(read)
        return self

    def kill_group(self) -> None:
        """End the guardian and all that has joined the group."""
        with suppress(OSError):  # there is an error already that is to be told
            os.killpg(self.group, signal.SIGKILL)

    def leave(self) -> None:
        """End the guardian; the group lives on with its other members, if there are any."""
        if self._write >= 0:
            os.kill(self.group, signal.SIGKILL)
            os.waitpid(self.group, 0)
            write, self._write = self._write, -1
            let_go(write)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


def _guard(read: int, write: int) -> None:
    """The guardian's whole life."""
    try:
        os.setpgid(0, 0)
        os.close(write)
        # A pipe that our standard streams lead to must not stay open because of us.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.read(read, 1)
        os.killpg(os.getpid(), signal.SIGKILL)
    finally:
        os._exit(1)
