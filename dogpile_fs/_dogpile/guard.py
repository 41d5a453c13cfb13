"""What ``Dogpile.acquire`` returns: a pass, inside of which there is the resource.

Who has passed leaves a :class:`PassThrough` behind: those who come after him, while the sidecar keeps its length
and for no longer than the answer can stay the same, are let through on the strength of it, by one system call.
"""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

from .._os.waiting import FOREVER, Deadline
from .._sidecar.file import Sighting
from .._sidecar.record import Record
from ..errors import DogpileError, NeedRegenerationException
from .scope import Scope

__all__ = ["Pass", "PassThrough"]

log = logging.getLogger("dogpile_fs")


class Pass:
    """What ``Dogpile.acquire`` returns: a context manager, inside of which there is the resource."""

    __slots__ = ("scope", "seen", "timeout")

    def __init__(self, scope: Scope, timeout: float | None) -> None:
        self.scope = scope
        self.timeout = timeout
        #: The record that told how to get through.
        self.seen: Record

    def __enter__(self) -> Any:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and isinstance(error, NeedRegenerationException) and not error.taken:
            error.taken = True
            try:
                self.scope.change(self._missed)
            except DogpileError as failure:  # it must not hide the user's own exception
                log.warning("a missing value is not invalidated: %s", failure)

    @property
    def version(self) -> tuple[int, ...]:
        """Which version of the resource was found or made; see :meth:`Dogpile.fresh_version`."""
        return self.seen.version

    @property
    def deadline(self) -> Deadline:
        """For what is still to be waited for."""
        return FOREVER if self.timeout is None else Deadline(self.timeout)

    def _missed(self, record: Record) -> Record:
        # Of many who miss the same value the first invalidates it; none the one made since.
        if record.generation == self.seen.generation and self.seen.has_value and record.invalidated != "hard":
            return record.invalidate(hard=True)
        return record


class PassThrough(Pass):
    """Who has passed, and leave to pass for all who come after him. Any number may enter it, at once."""

    __slots__ = ("description", "length", "since", "until")

    def __init__(self, scope: Scope, timeout: float | None, sighting: Sighting, until: float) -> None:
        assert sighting.description is not None
        Pass.__init__(self, scope, timeout)
        self.seen = sighting.record
        #: The record is what was seen as long as this file has this length, by the wall clock between these times.
        self.description = sighting.description
        self.length = sighting.length
        self.since = sighting.since
        self.until = until
