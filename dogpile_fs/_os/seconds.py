"""What counts as a number of seconds."""

from __future__ import annotations

import math
import numbers
from typing import Any

__all__ = ["checked_seconds"]


def checked_seconds(name: str, value: Any, *, least: float = 0.0) -> float:
    """*value* as a float of at least *least*; infinity passes.

    :param name: what the caller knows it as, for the message.
    :raises TypeError: if it is no real number (a bool is none).
    :raises ValueError: if it is NaN or too small.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf if value == abs(value) else -math.inf
    if math.isnan(seconds) or seconds < least:
        raise ValueError(f"{name} must be {least:g} or more seconds, not {value!r}")
    return seconds
