"""The steps of the protocol at which a trial has a worker killed or stopped: exactly there, and by itself.

The trial leaves an order for a step. The first worker that comes to it takes the order, and obeys.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from dogpile_fs._dogpile.head import HeadDamaged, decode_head
from dogpile_fs._dogpile.host_scope import HostScope

from ..history import Journal

__all__ = ["STEPS", "Steps", "kind_of_write", "order", "taken_by"]

#: Each is before or after what it is named for: a look at the head, the three kinds of writes to it (``end``: that
#: a creation of another host has died), the blob, and the note of the version that was put in place.
STEPS = (
    "look.after",
    "begin.before",
    "begin.after",
    "creator.in",
    "put.before",
    "put.after",
    "beat.before",
    "beat.after",
    "publish.before",
    "publish.after",
    "note.before",
    "note.after",
    "get.before",
    "get.after",
    "end.before",
    "end.after",
)
_ORDER, _TAKEN = "order.", "taken."


def order(control: Path, step: str, what: str) -> None:
    """Have the first worker that comes to *step* be ``killed`` or ``stopped``."""
    new = control / f".{_ORDER}{step}"
    new.write_text(what)
    new.rename(control / f"{_ORDER}{step}")


def taken_by(control: Path, step: str) -> str:
    """Return the process that has obeyed the order for *step*; "" if none has come there yet. The order is over
    then."""
    for each in control.glob(f"{_TAKEN}{step}.*"):
        each.unlink()
        return each.name.removeprefix(f"{_TAKEN}{step}.")
    return ""


class Steps:
    """The steps of one worker."""

    def __init__(self, control: Path, journal: Journal) -> None:
        self._control, self._journal = control, journal
        note = HostScope.note

        def noted(scope: HostScope, fd: int, watch: Any) -> None:
            self.reach("note.before")
            note(scope, fd, watch)
            self.reach("note.after")

        HostScope.note = noted  # type: ignore[assignment,method-assign]

    def reach(self, step: str) -> None:
        """Obey the order for *step*, if there is one."""
        asked = self._control / f"{_ORDER}{step}"
        if not asked.exists():
            return
        try:
            what = asked.read_text()
            own = self._control / f".{step}.{self._journal.process}"
            asked.rename(own)
        except FileNotFoundError:
            return  # another worker has come first
        op = self._journal.begin("harm", harm=what, of=self._journal.process)
        own.rename(self._control / f"{_TAKEN}{step}.{self._journal.process}")
        if what == "killed":
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._journal.note(op, "ended")


def kind_of_write(value: bytes) -> str:
    """Return which step the writing of this head is."""
    try:
        head = decode_head(value)
    except HeadDamaged:
        return "other"
    if head.is_attempted:
        return "beat" if head.beat else "begin"
    return "end" if head.record.failures else "publish"
