"""What a forked child must forget.

``fork`` copies memory and shares open file descriptions: the child's locks look held, and they are, by the
parent (flock(2): "locks created by flock() are associated with an open file description ... duplicate file
descriptors (created by, for example, fork(2) or dup(2)) refer to the same lock"). So each object that holds
locks registers here, and in every forked child its ``after_fork`` runs before any other code of the child.

Children that ``exec`` need none of this: every descriptor here is close-on-exec.
"""

from __future__ import annotations

import os
import threading
from typing import Protocol
from weakref import ref

__all__ = ["Forgetful", "forget_in_child", "opening"]


class Forgetful(Protocol):
    """An object with state that must not outlive a fork."""

    def after_fork(self) -> None:
        """Become, in the child, as good as new, without touching what the parent holds."""


#: All of them, and of those that are gone what has not been swept out yet. No WeakSet: it takes twice the memory.
_forgetful: list[ref[Forgetful]] = []
_sweep_at = 1024

#: Held while a descriptor is opened or closed, and while the process forks: no child can be born with a
#: descriptor that it does not know of. Re-entrant, because a signal handler may fork.
opening = threading.RLock()


def forget_in_child(thing: Forgetful) -> None:
    """Have ``thing.after_fork()`` called in every child forked from now on, for as long as *thing* lives."""
    global _sweep_at
    with opening:
        _forgetful.append(ref(thing))
        if len(_forgetful) >= _sweep_at:
            _forgetful[:] = [reference for reference in _forgetful if reference() is not None]
            _sweep_at = 2 * len(_forgetful) + 1024


def _before() -> None:
    opening.acquire()


def _in_parent() -> None:
    opening.release()


def _in_child() -> None:
    global opening
    opening = threading.RLock()
    failures = []
    for reference in _forgetful.copy():
        thing = reference()
        if thing is not None:
            try:
                thing.after_fork()
            except Exception as failure:  # the others must forget all the same
                failures.append(failure)
    if failures:
        raise ExceptionGroup("a forked child could not forget what its parent holds", failures)


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
