"""Which process has an id: ids are used again, by later processes, boots and containers."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import NamedTuple

__all__ = ["Identity", "has_ended", "own_identity", "start_of"]

#: Fields of ``/proc/PID/stat`` behind the program's name: the 22nd of all, less the two before them.
_START = 19
#: Hexadecimal digits of a boot's id that are enough to tell boots apart.
_DIGITS = 16


class Identity(NamedTuple):
    """*boot*: digits that no other boot has. *pid_ns*: the number of the namespace in which the process has its
    id. *start*: clock ticks from the boot to the start of the process. ``None``: unknown."""

    boot: str | None
    pid_ns: int | None
    start: int | None


def own_identity() -> Identity:
    """Return the identity of this process."""
    return _identity(os.getpid())


def start_of(pid: int) -> int | None:
    """Return the clock ticks from the boot to the start of process *pid*; None if there is none, or ``/proc``
    does not say."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Before the last parenthesis is the name of the program, which may contain anything.
            return int(file.read().rpartition(b")")[2].split()[_START])
    except (OSError, ValueError, IndexError):
        return None


def has_ended(pid: int, identity: Identity) -> bool:
    """Return whether the process with the id *pid* and that *identity* has ended; False if that is not known."""
    own = own_identity()
    if None in identity or None in own or identity[:2] != own[:2]:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # another user's; or a number that no process has
    start = start_of(pid)
    return start is not None and start != identity.start


@lru_cache(maxsize=1)
def _identity(pid: int) -> Identity:
    return Identity(_boot(), _pid_ns(), start_of(pid))


def _boot() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().decode().replace("-", "")[:_DIGITS]
    except (OSError, ValueError):
        return None


def _pid_ns() -> int | None:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None
