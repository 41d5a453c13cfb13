"""Waits: which callers of this process wait for which others, and whether one more wait would close a circle.

Promised: of callers of this process that wait for each other without bounds, the last one gets
:class:`.WouldDeadlock` instead of waiting. Not seen is a circle that goes through another process, or through a
thread that another one joins. So a caller without a timeout that holds a lock file of one resource waits for
another process to give back one of another resource for at most :data:`LONGEST_WHILE_HOLDING`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from weakref import ref

from .._os.waiting import Deadline
from ..errors import WouldDeadlock
from .holds import Holder, current, other_lock

__all__ = ["LONGEST_WHILE_HOLDING", "Wait"]

#: Seconds for which a caller that holds one lock waits for another process to give back another one. Longer than
#: blocks of readers and most creators take, and short enough that processes which wait for each other go on by
#: themselves.
LONGEST_WHILE_HOLDING = 300.0

#: Weak references to the waits without a bound, in the order in which they began. Changed by one operation each.
_waits: dict[ref[Wait], None] = {}


def _ended(reference: ref[Wait], is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
    if not is_finalizing():
        _waits.pop(reference, None)


def _waiting() -> list[Wait]:
    return [wait for reference in list(_waits) if (wait := reference()) is not None]


class Wait:
    """A ``with`` block in which the caller waits for *what*, until its :attr:`deadline`.

    :param what: what it waits for, for messages.
    :param path: the lock file, if it is one.
    :param blockers: returns the holders that have to go on before the wait can end, as of now.
    :param has_one_holder: what it waits for has one holder at a time: no other process has it if a blocker does.
    :param me: the caller, if it is not what :func:`.current` returns.
    """

    __slots__ = ("__weakref__", "blockers", "deadline", "has_one_holder", "me", "path", "what", "within")

    def __init__(
        self,
        what: str,
        path: str,
        blockers: Callable[[], Iterable[Holder | None]],
        deadline: Deadline,
        *,
        has_one_holder: bool = True,
        me: Holder | None = None,
    ) -> None:
        self.what = what
        self.path = path
        self.blockers = blockers
        self.has_one_holder = has_one_holder
        self.deadline = deadline
        self.me = me
        #: For how long it waits, for the message of a :class:`.LockTimeout`.
        self.within = f"within {deadline.timeout} s"

    def __enter__(self) -> Wait:
        """:raises WouldDeadlock: if the wait would close a circle."""
        if self.deadline.at != math.inf:
            return self  # it ends by itself
        self.me = self.me or current()
        mark: ref[Wait] = ref(self, _ended)
        _waits[mark] = None
        try:
            self._refuse_to_close_a_circle()
            kept = other_lock(self.me, self.path)
            if kept and not (self.has_one_holder and any(self.blockers())):
                self.deadline = Deadline(LONGEST_WHILE_HOLDING)
                self.within = (
                    f"within {LONGEST_WHILE_HOLDING:g} s, and a caller without a timeout waits no longer while it "
                    f"holds {kept!r}, because another process may wait for that"
                )
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _ended(ref(self))

    def _refuse_to_close_a_circle(self) -> None:
        circle: list[Wait] = []
        in_order: list[Wait] | None = None
        # The same twice: then all of it was so at one moment, and none of these callers can change it.
        while in_order is None or len(in_order) != len(circle) or self._circle() != circle:
            circle = self._circle()
            in_order = [wait for wait in _waiting() if wait in circle]
        if circle and in_order[-1] is self:  # the last, which has found all others: only one of them is refused
            raise WouldDeadlock(
                "callers of this process would wait for each other, for ever: this one for "
                + ", its holder for ".join(wait.what for wait in circle)
                + ", which this one keeps. Hint: use them in the same order everywhere, or one after the other, "
                "or with a timeout."
            )

    def _circle(self) -> list[Wait]:
        """Return the waits of a circle that this one closes, itself first; none if there is none."""
        ways: list[list[Wait]] = [[self]]
        seen: set[Wait] = {self}
        while ways:
            way = ways.pop()
            for wait in way[-1]._next():
                if wait is self:
                    return way
                if wait not in seen:
                    seen.add(wait)
                    ways.append([*way, wait])
        return []

    def _next(self) -> Iterator[Wait]:
        """Yield the waits that have to end before this one can."""
        waits = _waiting()
        for holder in self.blockers():
            if holder is not None:
                yield from (wait for wait in waits if wait.me is not None and holder.stands_still_with(wait.me))
