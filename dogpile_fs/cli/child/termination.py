"""The end of a process group: asked first, killed when its time is over or a second signal comes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from contextlib import suppress
from time import monotonic

from .process_group import ProcessGroup
from .signals import Signals
from .watchdog import Watchdog

__all__ = ["Termination"]

#: Signals that come within so many seconds are one request: timeout(1) sends one to its child and again to the
#: whole group, and a terminal that closes sends two.
_ONE_REQUEST = 0.5
#: Seconds between two looks at the group: the kernel does not report the end of a grandchild.
_LOOK_EVERY = 0.01


class Termination:
    """The end of the *watchdog*'s group, which *leader* leads.

    *begun*: whether the group was asked to end. *interrupted_by*: the signal to this process that is the reason,
    else 0. *timed_out*: whether the timeout is the reason. *kill_at*: monotonic time of SIGKILL, *kill_after*
    seconds after the request.
    """

    def __init__(self, watchdog: Watchdog, leader: subprocess.Popen[bytes], kill_after: float) -> None:
        self._watchdog = watchdog
        self._leader = leader
        self._kill_after = kill_after
        self.begun: bool = False
        self.interrupted_by: int = 0
        self._asked_at = -math.inf
        self.timed_out: bool = False
        self.kill_at: float = math.inf
        self._members = ProcessGroup(watchdog.group)

    def by_signal(self, number: int) -> None:
        """Hand on signal *number*, which this process received; kill if it is the second one."""
        if not self.interrupted_by:
            self.interrupted_by = number
            self._asked_at = monotonic()
            self._ask(number)
        elif monotonic() - self._asked_at > _ONE_REQUEST:
            self.kill()

    def by_timeout(self) -> None:
        """Ask the group to end, because its time is over."""
        self.timed_out = True
        self._ask(signal.SIGTERM)

    def kill_if_due(self) -> None:
        """Kill the group if it has not ended in time."""
        if monotonic() >= self.kill_at:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the group."""
        self.begun = True
        self.kill_at = math.inf
        self._send(signal.SIGKILL)

    def finish(self, signals: Signals) -> None:
        """Wait for the other members of the group until *kill_at*; the leader has ended.

        They get SIGTERM whatever the leader got: what a shell starts in the background ignores SIGINT.
        """
        self._watchdog.leave()  # else the group is never empty
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
        self._send(signal.SIGCONT)  # a stopped process takes the signal only then

    def _send(self, number: int) -> None:
        # No such group: it has ended. No permission: its processes are another user's now.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._watchdog.group, number)
        # The leader may have left the group (setsid(1)), and its end is waited for.
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(self._leader.pid) != self._watchdog.group:
                self._leader.send_signal(number)

    def _exists(self) -> bool:
        """Return whether a process of the group runs, as far as can be seen."""
        try:
            os.killpg(self._watchdog.group, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it exists
        return self._members.any_runs()
