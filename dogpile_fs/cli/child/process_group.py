"""Whether a process of a process group still runs.

To the kernel a process that has ended is a member until it is reaped, and a container often has no process that
reaps orphans. So a group that does not exist has ended, but of one that exists only ``/proc`` says whether it
runs.
"""

from __future__ import annotations

import os
from time import monotonic

__all__ = ["ProcessGroup"]

_ENDED = ("Z", "X")
#: After a look at all processes, which takes long where there are thousands, the next one is so many times as long
#: away: the waiting takes at most a twentieth of a processor.
_REST = 20


class ProcessGroup:
    """The members of the process group *group*."""

    def __init__(self, group: int) -> None:
        self._group = group
        #: A member that ran at the last look; while it runs, no other process is looked at. 0: none.
        self._known = 0
        self._next_look = 0.0

    def any_runs(self) -> bool:
        """Return whether a member runs; True also if ``/proc`` does not say, or the last look was too recent."""
        try:
            if (self._known and self._runs(self._known)) or monotonic() < self._next_look:
                return True
            # The /proc of another PID namespace has other ids.
            if os.readlink("/proc/self") != str(os.getpid()):
                return True
            began = monotonic()
            # Twice: the list need not have a process that was forked meanwhile by one that has ended since.
            found = self._found() or self._found()
        except OSError:
            return True
        self._known = found
        self._next_look = monotonic() + _REST * (monotonic() - began)
        return found != 0

    def _found(self) -> int:
        """Return a member that runs; 0 if there is none."""
        for name in os.listdir("/proc"):
            if name.isdecimal() and self._runs(int(name)):
                return int(name)
        return 0

    def _runs(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                # Before the last parenthesis is the name of the program, which may contain anything.
                fields = file.read().rpartition(b")")[2].decode().split()
            state, group, threads = fields[0], int(fields[2]), int(fields[17])
        except (FileNotFoundError, ProcessLookupError, ValueError, IndexError):
            return False  # it has ended and was reaped, perhaps during the read
        # The state is that of the first thread, which may end before the others.
        return group == self._group and (state not in _ENDED or threads > 1)
