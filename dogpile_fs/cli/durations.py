"""Durations as people write them: ``90``, ``90s``, ``5m``, ``1h30m``, ``1d``, ``0.5s``.

A fresh ``run`` imports this module for its ``--expire``, so it imports nothing.
"""

from __future__ import annotations

__all__ = ["UNITS", "format_seconds", "parse", "parse_or_never"]

#: Seconds, in the order in which units may stand.
UNITS = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}

_EXAMPLES = "write it as 90, 90s, 5m, 1h30m, 1d or 0.5s"
_DIGITS = "0123456789"


def parse(text: str) -> float:
    """Return the seconds that *text* stands for.

    A number alone is seconds. Else each number has its unit (w, d, h, m, s), the larger unit before the smaller
    one, each at most once; the last number may have a fraction.

    :raises ValueError: for any other text; its message is for the user.

    >>> parse("90"), parse("1h30m"), parse("0.5s")
    (90.0, 5400.0, 0.5)
    """
    seconds = 0.0
    number = ""
    smallest = float("inf")
    fraction = False
    for character in text:
        if character in _DIGITS or (character == "." and "." not in number):
            number += character
            continue
        unit = UNITS.get(character)
        if unit is None:
            raise ValueError(f"{text!r} is not a duration: {character!r} is not a unit; {_EXAMPLES}")
        if unit >= smallest or fraction:
            raise ValueError(
                f"{text!r} is not a duration: larger units stand first, each once, a fraction last; {_EXAMPLES}"
            )
        seconds += _number(number, text) * unit
        smallest, fraction, number = unit, "." in number, ""
    if smallest == float("inf"):
        seconds = _number(number, text)
    elif number:
        raise ValueError(f"{text!r} is not a duration: its last number has no unit; {_EXAMPLES}")
    if seconds == float("inf"):
        raise ValueError(f"{text[:20]!r}... is not a duration: it is too long")
    return seconds


def parse_or_never(text: str) -> float | None:
    """As :func:`parse`, but return ``None`` for ``never``: the file is never stale.

    >>> parse_or_never("never") is None
    True
    """
    return None if text == "never" else parse(text)


def format_seconds(seconds: float) -> str:
    """Return *seconds* as text, in the two largest units that are not zero; :func:`parse` reads it back.

    >>> format_seconds(0.25), format_seconds(59.9), format_seconds(5400), format_seconds(90061)
    ('0.25s', '60s', '1h30m', '1d1h')
    """
    if seconds < 10:
        return f"{max(0.0, seconds):.3g}s" if seconds >= 0.001 or seconds <= 0 else "0.001s"
    whole = round(seconds)
    if whole < 100:
        return f"{whole}s"
    # Not in weeks: a week is 7d.
    pairs = (("d", "h"), ("h", "m"), ("m", "s"))
    large, small = next(pair for pair in pairs if whole >= UNITS[pair[0]])
    count, rest = divmod(whole, int(UNITS[large]))
    rest //= int(UNITS[small])
    return f"{count}{large}" + (f"{rest}{small}" if rest else "")


def _number(digits: str, text: str) -> float:
    if not digits.strip("."):
        raise ValueError(f"{text!r} is not a duration: a number is missing; {_EXAMPLES}")
    return float(digits)
