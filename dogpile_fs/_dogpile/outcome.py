"""The answers of ``refresh``: whether this call created, and why not."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Outcome"]


class Outcome(StrEnum):
    """The answer of ``refresh``. It is true only where this call created.

    >>> bool(Outcome.created), bool(Outcome.backing_off)
    (True, False)
    """

    #: This call created a new version.
    created = "created"
    #: This call asked the creator, and there was nothing new at the source.
    unchanged = "unchanged"
    #: It is fresh.
    fresh = "fresh"
    #: Another caller creates.
    creating = "creating"
    #: Creations have failed, and it is too early for another one.
    backing_off = "backing_off"
    #: Another creator has come in between, so the result of this call's was not put in place.
    fenced = "fenced"

    def __bool__(self) -> bool:
        return self in (Outcome.created, Outcome.unchanged)
