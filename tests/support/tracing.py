"""Kill a process before its n-th system call has taken effect.

``SIGKILL`` that comes while a process is stopped at the entry of a system call ends it without the call. Other
processes see only the effects of its calls: killing it before each call in turn covers all the deaths that they
could tell apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .ptracing import BEGIN, Ended, NotTraceable, Tracee, mark

__all__ = ["BEGIN", "NotTraceable", "Traced", "killed_before"]


@dataclass(frozen=True)
class Traced:
    """The end of a traced child: killed after so many *calls*, before the call with the number *call*; or it ended
    with status 0 (None)."""

    calls: int
    call: int | None


def killed_before(number: int, action: Callable[[], object], *, executes: bool = False) -> Traced:
    """Run *action* in a forked child, and kill it before its system call *number*, counted from 1 on.

    Processes that the child starts are not traced, and live on.

    :param executes: *action* becomes another program, which executes :data:`BEGIN`.
    :raises AssertionError: if it ended before, with another status than 0.
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
            return Traced(calls, None)  # another program that ended with status 0
        raise AssertionError(f"the child ended by itself with {end.status} before it was killed") from None
