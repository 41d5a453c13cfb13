"""Errors of an elected caller whose creation has not begun, because an origin has not let this host create."""

from __future__ import annotations

from ..errors import CreationFailed, LockTimeout, OriginError

__all__ = ["OriginBackoff", "OriginTimeout", "counts_nothing"]


class OriginTimeout(LockTimeout):
    """A caller has waited for another host in vain."""


class OriginBackoff(CreationFailed):
    """Creations of other hosts have failed, and it is too early for another one."""


def counts_nothing(error: BaseException) -> bool:
    """Return whether *error* ends an attempt without a failure: the creator has not run, or is not to blame."""
    return isinstance(error, OriginError | OriginTimeout | OriginBackoff)
