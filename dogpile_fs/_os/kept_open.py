"""Descriptors that are kept open for later calls: at most a share of what the process may open.

Each object keeps its sidecar open, and slots for its readers, so that a program with a thousand of them would have
no descriptor left. When there are too many, the objects that were used longest ago let go of theirs; their next
call opens them again. An object that is in use notes nothing here: how long ago it was used is asked only then.
"""

from __future__ import annotations

from itertools import count
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from typing import Protocol
from weakref import ref

from . import fork
from .openfile import OpenFile

__all__ = ["Keeper", "has_opened", "limit", "may_keep"]

#: Descriptors that are left to the rest of the program where the process may open very many; else it is half.
_LEFT = 4096
#: How many are opened at least between two counts, also where blocks that are entered have most of them.
_BETWEEN_COUNTS = 16


class Keeper(Protocol):
    """An object that keeps descriptors open, and can do without."""

    def last_used(self) -> float:
        """Return the time of its last use, within 10 ms; 0 if it keeps nothing open."""

    def let_go(self) -> None:
        """Drop what is kept open; a call that uses it meanwhile goes on with it."""


_keepers: set[ref[Keeper]] = set()
#: Numbers for what is opened, one after the other.
_opened = count()
#: The number at which they are counted again, and the limit at the last count: a program may lower it. Of racing
#: threads the last one writes them, and may have counted long ago: so the number goes on from the one that it had
#: then, and is over by now.
_next_count, _limit_then = 0, 0


def may_keep(keeper: Keeper) -> None:
    """Let *keeper* be asked to let go, for as long as it lives."""
    _keepers.add(ref(keeper, _keepers.discard))


def has_opened() -> None:
    """Note that something was opened that is to be kept open. Let go of other things if that is too much."""
    global _next_count, _limit_then
    number, most = next(_opened), limit()
    if number < _next_count and most == _limit_then:
        return
    now = _count()
    if now >= most:
        living = [keeper for each in list(_keepers) if (keeper := each()) is not None]
        used = sorted(
            ((at, index) for index, keeper in enumerate(living) if (at := keeper.last_used())), reverse=True
        )
        some = len(used) // 8 + 1
        while used and now > most * 3 // 4:
            for _at, index in used[-some:]:
                living[index].let_go()
            del used[-some:]
            now = _count()
    _next_count, _limit_then = number + max(most - now, _BETWEEN_COUNTS), most


def limit() -> int:
    """Return how many descriptors may be kept open."""
    try:
        most, _ = getrlimit(RLIMIT_NOFILE)
    except (OSError, ValueError):  # a sandbox that refuses the call: no reason to fail a pass
        most = RLIM_INFINITY
    return 1 << 30 if most == RLIM_INFINITY else max(most // 2, most - _LEFT)


def _count() -> int:
    return sum(isinstance(thing, OpenFile) and thing.fd >= 0 for thing in fork.living())
