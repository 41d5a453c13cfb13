"""Whether anybody in a process group still runs.

To the kernel who has ended is a member until it is reaped, and in a container there is often nobody who reaps
orphans. So the group's existence tells only that nobody is left; whether somebody is, ``/proc`` tells.
"""

from __future__ import annotations

import os
from time import monotonic

__all__ = ["Members"]

_ENDED = ("Z", "X")
#: To look at all processes takes long where there are thousands: so many times as long nobody does so again.
_REST = 20


class Members:
    """The members of the process group *group*."""

    def __init__(self, group: int) -> None:
        self._group = group
        #: One that ran when it was last looked at: as long as it does, no other need be looked at.
        self._known = 0
        self._next_look = 0.0

    def any_runs(self) -> bool:
        """Whether one of them runs; True where that cannot be told, or was too dear to look at again so soon."""
        try:
            if (self._known and self._runs(self._known)) or monotonic() < self._next_look:
                return True
            # Another PID namespace's would have other ids.
            if os.readlink("/proc/self") != str(os.getpid()):
                return True
            began = monotonic()
            # Twice: who was forked meanwhile, by one that has ended since, need not have been among those listed.
            found = self._found() or self._found()
        except OSError:
            return True
        self._known = found
        self._next_look = monotonic() + _REST * (monotonic() - began)
        return found != 0

    def _found(self) -> int:
        """A member that runs; 0 if there is none."""
        for name in os.listdir("/proc"):
            if name.isdecimal() and self._runs(int(name)):
                return int(name)
        return 0

    def _runs(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                # What stands before is the name of its program, which may contain anything.
                fields = file.read().rpartition(b")")[2].decode().split()
            state, group, threads = fields[0], int(fields[2]), int(fields[17])
        except (FileNotFoundError, ProcessLookupError, ValueError, IndexError):
            return False  # it has ended and was reaped, before the reading or in its middle
        # Of a process whose first thread has ended before the others, this is the state of that one.
        return group == self._group and (state not in _ENDED or threads > 1)
