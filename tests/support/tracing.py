"""A process that is killed before its n-th system call, and before that call has done anything.

``SIGKILL`` that comes while a process is stopped at the entry of a system call ends it without the call. So to
kill it before each of its calls in turn, is to kill it at every point that others could tell from the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .ptracing import BEGIN, Ended, NotTraceable, Tracee, mark

__all__ = ["BEGIN", "NotTraceable", "Traced", "killed_before"]


@dataclass(frozen=True)
class Traced:
    """What became of a traced child: it was killed before the call of the system's number *call*, after so many
    *calls*; or it ended well (None)."""

    calls: int
    call: int | None


def killed_before(number: int, action: Callable[[], object], *, executes: bool = False) -> Traced:
    """Run *action* in a forked child, and kill it before its system call *number*, counted from 1 on.

    What the child starts is not traced, and lives on.

    :param executes: *action* becomes another program, which executes :data:`BEGIN`.
    :raises AssertionError: if it ended before, and not well.
    :raises NotTraceable: if children cannot be traced here.
    """

    def life() -> None:
        action()
        mark()

    calls = 0
    try:
        tracee = Tracee(life, executes=executes)
        try:
            while (call := tracee.next_call()) is not None:
                calls += 1
                if calls == number:
                    return Traced(calls - 1, call.number)
            return Traced(calls, None)
        finally:
            tracee.kill()
    except Ended as end:
        if end.status == 0:
            return Traced(calls, None)  # another program, that ended well
        raise AssertionError(f"what was to be killed ended by itself, with {end.status}") from None
