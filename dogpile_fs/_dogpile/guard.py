"""Guards: what ``Dogpile.acquire`` returns, context managers inside of which the resource is there.

A caller that has passed leaves a :class:`ReusableGuard` behind. While the sidecar keeps its length, and until the
resource may become stale, later callers pass with it for one system call.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from time import time
from types import TracebackType
from typing import Any, Protocol

from .._os.copying import NotCopied
from .._os.waiting import FOREVER, Deadline
from .._sidecar.record import Record
from .._sidecar.snapshot import Snapshot
from ..errors import DogpileError, NeedRegenerationException
from .event import Callback, tell

__all__ = ["Guard", "HasRecord", "ReusableGuard"]

log = logging.getLogger("dogpile_fs")


class HasRecord(Protocol):
    """The part of a scope that a guard needs."""

    on_event: Callback | None

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str | None: ...
    def change(self, make: Callable[[Record], Record]) -> None: ...


class Guard(NotCopied):
    """A context manager inside of which the resource is there."""

    __slots__ = ("scope", "seen", "timeout")

    def __init__(self, scope: HasRecord, timeout: float | None) -> None:
        self.scope = scope
        #: Seconds that each wait may last; ``None``: no bound.
        self.timeout = timeout
        #: The record that the caller passed on.
        self.seen: Record

    def __enter__(self) -> Any:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and isinstance(error, NeedRegenerationException) and not error._taken:
            error._taken = True
            made: list[Record] = []

            def without_value(record: Record) -> Record:
                changed = self._without_value(record)
                made[:] = [] if changed is record else [changed]
                return changed

            try:
                self.scope.change(without_value)
            except DogpileError as failure:  # it must not hide the user's own exception
                log.warning("%s: the missing value is not invalidated: %s", self.scope.name, failure)
            for record in made:
                tell(self.scope, "invalidated", record)

    @property
    def version(self) -> tuple[int, ...]:
        """The version that was found or made; see :meth:`.Dogpile.fresh_version`."""
        return self.seen.version

    @property
    def deadline(self) -> Deadline:
        """The deadline of the waits that follow."""
        return FOREVER if self.timeout is None else Deadline(self.timeout)

    def _without_value(self, record: Record) -> Record:
        # Of many callers that miss the same value the first invalidates it; none invalidates a newer one.
        if record.generation == self.seen.generation and self.seen.has_value and record.invalidated != "hard":
            return record.invalidate(hard=True, now=time())
        return record


class ReusableGuard(Guard):
    """A guard that later callers may reuse while the sidecar is unchanged, any number of them at once."""

    __slots__ = ("_limit", "_snapshot", "length", "open_file", "since", "until")

    def __init__(
        self, scope: HasRecord, timeout: float | None, snapshot: Snapshot, until: float, *, is_renewed: bool = True
    ) -> None:
        assert snapshot.open_file is not None
        Guard.__init__(self, scope, timeout)
        self.seen = snapshot.record
        #: What is looked at again, up to a wall-clock time at which the resource may become stale.
        self._snapshot = snapshot
        self._limit = until if is_renewed else -math.inf
        #: The sidecar. The record is the same while this file has this length, between these wall-clock times.
        self.open_file = snapshot.open_file
        self.length = snapshot.length
        self.since = snapshot.since
        self.until = min(snapshot.until, until)

    def is_good_again(self) -> bool:
        """Return whether it may be reused for another while, because the sidecar was looked at again."""
        snapshot = self._snapshot
        if self._limit <= snapshot.until or not snapshot.is_unchanged(self.open_file.path):
            return False
        self.since, self.until = snapshot.since, min(snapshot.until, self._limit)
        return self.since < self.until
