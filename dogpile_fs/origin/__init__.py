"""Hosts: an origin is where they agree on the current version, and fetch it from.

The public names. :class:`Register` and :class:`Blobs` are what an engine offers; a package that has one names a
function in the entry points ``dogpile_fs.origins``, under the scheme of its URLs. The function is called with the
:class:`Origin`, and returns an :class:`Engine`. :func:`find_fault` finds out whether that keeps its promises.
"""

from __future__ import annotations

from .._dogpile.conformance import find_fault
from .._dogpile.engine import UNCHANGED, Blobs, Down, Engine, Gone, Lost, Register, Sink
from .._dogpile.origin import ENTRY_POINTS, Origin
from ..errors import OriginError, OriginUnfit

__all__ = [
    "ENTRY_POINTS",
    "UNCHANGED",
    "Blobs",
    "Down",
    "Engine",
    "Gone",
    "Lost",
    "Origin",
    "OriginError",
    "OriginUnfit",
    "Register",
    "Sink",
    "find_fault",
]
