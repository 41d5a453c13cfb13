"""Figures for people: three digits and a unit, with the spread beside."""

from __future__ import annotations

import math

from benchmarks.measuring.measures import BYTES, COUNT, PER_SECOND, SECONDS, SHARE, Spread

__all__ = ["shown", "with_spread"]

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


def shown(value: float, unit: str = COUNT) -> str:
    """
    >>> shown(0.00000123456, "s"), shown(123456.7, "1/s"), shown(2048, "B"), shown(1.0), shown(97.25, "%")
    ('1.23 µs', '123,000 /s', '2 KiB', '1', '97.2 %')
    """
    if math.isnan(value):
        return "?"
    if unit == SECONDS:
        return _in_units(value, _TIMES)
    if unit == BYTES:
        return _in_units(value, _SIZES)
    suffix = {PER_SECOND: " /s", SHARE: " %", COUNT: ""}[unit]
    return _digits(value) + suffix


def with_spread(spread: Spread, unit: str = COUNT) -> str:
    """Return the median, and in brackets the quartiles.

    >>> with_spread(Spread.of([1, 2, 3, 4, 5]), "s"), with_spread(Spread.of([2]), "s")
    ('3 s (2 to 4)', '2 s')
    """
    median = shown(spread.median, unit)
    low, high = shown(spread.lower, unit), shown(spread.upper, unit)
    if low == high == median:
        return median
    # The unit once, where all three have the same.
    parts = [text.rsplit(" ", 1) for text in (low, high, median)]
    if all(len(part) == 2 and part[1] == parts[2][1] for part in parts):
        low, high = parts[0][0], parts[1][0]
    return f"{median} ({low} to {high})"


def _in_units(value: float, units: tuple[tuple[float, str], ...]) -> str:
    for size, name in units:
        if abs(value) >= size:
            return f"{_digits(value / size)} {name}"
    size, name = units[-1]
    return f"{_digits(value / size)} {name}" if value else f"0 {name}"


def _digits(value: float) -> str:
    """Three of them, or as many as a whole number has, with the rest rounded away."""
    if value == 0:
        return "0"
    places = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    return f"{rounded:,.{max(0, places)}f}".rstrip("0").rstrip(".") if places > 0 else f"{rounded:,.0f}"
