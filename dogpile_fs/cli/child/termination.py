"""How a process group is made to end: asked first, killed when its time is over or somebody insists."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from contextlib import suppress
from time import monotonic

from .process_group import Members
from .signals import Signals
from .watchdog import Guardian

__all__ = ["Ending"]

#: timeout(1) sends a signal to its child and again to the whole group, and a terminal that closes sends two: what
#: comes within so many seconds is one request.
_ONE_REQUEST = 0.5
#: The kernel tells of a child's end, but not of a grandchild's.
_LOOK_EVERY = 0.01


class Ending:
    """The end of the *guardian*'s group.

    *begun*: it was asked to end. *interrupted_by*: the signal to this process that is the reason, else 0.
    *timed_out*: its time is the reason. *kill_at*: monotonic time at which patience ends.
    """

    def __init__(self, guardian: Guardian, leader: subprocess.Popen[bytes], kill_after: float) -> None:
        self._guardian = guardian
        self._leader = leader
        self._kill_after = kill_after
        self.begun = False
        self.interrupted_by = 0
        self._asked_at = -math.inf
        self.timed_out = False
        self.kill_at = math.inf
        self._members = Members(guardian.group)

    def by_signal(self, number: int) -> None:
        """This process received signal *number*: hand it on; on the second one, kill."""
        if not self.interrupted_by:
            self.interrupted_by = number
            self._asked_at = monotonic()
            self._ask(number)
        elif monotonic() - self._asked_at > _ONE_REQUEST:
            self.kill()

    def by_timeout(self) -> None:
        self.timed_out = True
        self._ask(signal.SIGTERM)

    def kill_if_due(self) -> None:
        if monotonic() >= self.kill_at:
            self.kill()

    def kill(self) -> None:
        self.begun = True
        self.kill_at = math.inf
        self._send(signal.SIGKILL)

    def finish(self, signals: Signals) -> None:
        """The leader has ended: wait for the others of its group, with what patience is left.

        They are asked by SIGTERM, whatever the leader was asked by: a shell lets what it starts in the background
        ignore SIGINT.
        """
        self._guardian.leave()  # or the group would never be empty
        self._send(signal.SIGTERM)
        while self.kill_at < math.inf and self._exists():
            for number in signals.wait(_LOOK_EVERY):
                self.by_signal(number)
            self.kill_if_due()

    def _ask(self, number: int) -> None:
        if not self.begun:
            self.begun = True
            self.kill_at = monotonic() + self._kill_after
        self._send(number)
        self._send(signal.SIGCONT)  # who was stopped takes it as well

    def _send(self, number: int) -> None:
        # No such group: it has ended. No permission: it became another user's, who must see to it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._guardian.group, number)
        # It may have left the group (setsid(1)), and its end is what we wait for.
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(self._leader.pid) != self._guardian.group:
                self._leader.send_signal(number)

    def _exists(self) -> bool:
        """Whether anybody in the group still runs, or has not been seen to have ended."""
        try:
            os.killpg(self._guardian.group, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return self._members.any_runs()
