"""How a process group is made to end: asked first, killed when its time is over or somebody insists."""

from __future__ import annotations

import math
import os
import signal
from contextlib import suppress
from time import monotonic

from .guardian import Guardian
from .signals import Signals

__all__ = ["Ending"]

#: The kernel tells of a child's end, but not of a grandchild's.
_LOOK_EVERY = 0.01


class Ending:
    """The end of the *guardian*'s group.

    *begun*: it was asked to end. *interrupted_by*: the signal to this process that is the reason, else 0.
    *timed_out*: its time is the reason. *kill_at*: monotonic time at which patience ends.
    """

    def __init__(self, guardian: Guardian, kill_after: float) -> None:
        self._guardian = guardian
        self._kill_after = kill_after
        self.begun = False
        self.interrupted_by = 0
        self.timed_out = False
        self.kill_at = math.inf

    def by_signal(self, number: int) -> None:
        """This process received signal *number*: hand it on; on the second one, kill."""
        if self.interrupted_by:
            self.kill()
        else:
            self.interrupted_by = number
            self._ask(number)

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

    def _exists(self) -> bool:
        try:
            os.killpg(self._guardian.group, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True
