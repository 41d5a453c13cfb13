"""What a resource's creator returns: what it has put in place, and what is put on record with it."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from .._sidecar.fingerprint import Fingerprint
from .outcome import Outcome

__all__ = ["BACKING_OFF", "CREATING", "FENCED", "FRESH", "NOT_SWAPPED", "Made", "Stamp"]


class Stamp(NamedTuple):
    """What is put on record with a creation: it describes the new version, wherever the path leads by then (I6).

    *fingerprint*: of the version; ``None``: of what is at the path. *is_new*: whether it was put there; otherwise
    the old one stays. *is_unfinished*: whether a process may still be writing to it, because the system did not
    say. *outcome*: ``created`` or ``unchanged``. *expires_in*: seconds after which the version is stale, if that
    is sooner than the callers' expiretime. *note*: what the creator leaves for the next one. *is_on_record*:
    whether it was put on record already, with the version of another host or for all hosts.
    """

    fingerprint: Fingerprint | None
    is_new: bool = True
    is_unfinished: bool = False
    outcome: Outcome = Outcome.created
    expires_in: float | None = None
    note: str = ""
    is_on_record: bool = False


class Made(NamedTuple):
    """What a creator for all hosts returns: the user's *value*, and what is put on record."""

    value: Any
    stamp: Stamp


#: Of callers that have not created: another host has, or creates, or its creation has come in between; or
#: creations have failed, and it is too early.
FRESH: Final = Stamp(None, is_new=False, outcome=Outcome.fresh)
CREATING: Final = Stamp(None, is_new=False, outcome=Outcome.creating)
FENCED: Final = Stamp(None, is_new=False, outcome=Outcome.fenced)
BACKING_OFF: Final = Stamp(None, is_new=False, outcome=Outcome.backing_off)
#: Of a creator that has put nothing in place because another caller may be creating, and has told why.
NOT_SWAPPED: Final = Stamp(None, outcome=Outcome.fenced)
