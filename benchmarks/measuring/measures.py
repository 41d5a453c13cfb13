"""Figures, their spread, and whether they meet their bars.

Pure: this module measures nothing. A figure never comes alone: it carries its spread. A ratio is made of pairs
that were measured one after the other, because on a shared machine two figures a minute apart differ more by the
minute than by their subjects.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

__all__ = [
    "Bar",
    "Check",
    "Figure",
    "Plot",
    "Ratio",
    "Scenario",
    "Spread",
    "paired",
    "percentile",
    "ratio",
    "rotated",
]

T = TypeVar("T")

SECONDS, PER_SECOND, BYTES, COUNT, SHARE = "s", "1/s", "B", "", "%"


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one quantity: their median, the quartiles around it, and the extremes."""

    count: int
    least: float
    lower: float
    median: float
    upper: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """
        >>> Spread.of([4, 1, 2, 3, 10])
        Spread(count=5, least=1.0, lower=2.0, median=3.0, upper=4.0, most=10.0)
        """
        some = sorted(float(value) for value in values)
        if not some:
            raise ValueError("nothing was measured")
        if len(some) == 1:
            return cls(1, *some * 5)
        lower, median, upper = statistics.quantiles(some, n=4, method="inclusive")
        return cls(len(some), some[0], lower, median, upper, some[-1])


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of *values* that *share* percent of them do not exceed: a value that was really
    measured.

    >>> percentile([1, 2, 3, 4], 50), percentile(range(1, 1001), 99), percentile([5], 99)
    (2, 990, 5)
    """
    some = sorted(values)
    rank = -(-len(some) * share // 100)  # rounded up
    return some[max(0, int(rank) - 1)]


def paired(ones: Sequence[float], others: Sequence[float]) -> Spread:
    """Return the ratios of *ones* to *others*, each pair from the same round.

    >>> paired([2, 4, 600], [1, 2, 300])  # a machine that was busy in the third round
    Spread(count=3, least=2.0, lower=2.0, median=2.0, upper=2.0, most=2.0)
    """
    return Spread.of(ratio(one, other) for one, other in zip(ones, others, strict=True))


def ratio(one: float, other: float) -> float:
    """Return the ratio of *one* to *other*; not a number where *other* is 0.

    That happens where the machine is so busy that a contender did not get to run in its time, which is no error.

    >>> ratio(3, 2), ratio(3, 0)
    (1.5, nan)
    """
    return one / other if other else math.nan


def rotated(contenders: Sequence[T], number: int) -> list[T]:
    """Return the contenders in the order of this round: each round begins with another.

    >>> rotated("abc", 0), rotated("abc", 4)
    (['a', 'b', 'c'], ['b', 'c', 'a'])
    """
    first = number % len(contenders)
    return [*contenders[first:], *contenders[:first]]


@dataclass(frozen=True)
class Figure:
    """One figure of one contender.

    *what* names the column, *unit* is one of those above. *at* is the place on the x axis, if there is one: a
    number of processes, of paths, of bytes. Without a *spread* there is no figure, and *said* gives the reason.
    """

    contender: str
    what: str
    unit: str
    spread: Spread | None
    at: float | None = None
    said: str = ""


@dataclass(frozen=True)
class Ratio:
    """The figure *what* of *contender* over that of *reference*, pair by pair."""

    contender: str
    reference: str
    what: str
    spread: Spread
    at: float | None = None


@dataclass(frozen=True)
class Bar:
    """A goal: the median of *measured* is at most, or at least, *limit*."""

    text: str
    limit: float
    kind: Literal["at most", "at least"]
    measured: Spread
    unit: str = COUNT

    @property
    def met(self) -> bool:
        median = self.measured.median
        return median <= self.limit if self.kind == "at most" else median >= self.limit

    @property
    def close(self) -> bool:
        """Whether the limit lies between the quartiles: another run may say the opposite."""
        lower, upper = self.measured.lower, self.measured.upper
        return lower < upper and lower <= self.limit <= upper

    @property
    def verdict(self) -> str:
        return ("met" if self.met else "missed") + (", too close to tell" if self.close else "")


@dataclass(frozen=True)
class Check:
    """A condition that holds however slow the machine is: a count, never a time. *seen* is the value found."""

    text: str
    passed: bool
    seen: str


@dataclass(frozen=True)
class Plot:
    """One picture of a scenario: the figures *what*, as bars, or as lines over *at*; or the *series*.

    *limit* is drawn as a line; *spans* are drawn as shaded stretches of the x axis, with their names.
    """

    kind: Literal["bars", "lines", "series"]
    title: str
    what: str = ""
    x: str = ""
    y: str = ""
    logarithmic: bool = False
    #: The ratios instead of the figures.
    ratios: bool = False
    limit: float | None = None
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass
class Scenario:
    """One row of the table: its setting, its figures, its bars."""

    number: int
    title: str
    setting: str
    #: Which contenders are ours, and which is the limit that the system sets.
    ours: list[str]
    limit: str = ""
    figures: list[Figure] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    #: Notes: among others, which peer cannot take part, and why.
    notes: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Scenario:
        def spread(values: dict[str, Any] | None) -> Spread | None:
            return None if values is None else Spread(**values)

        def made(kind: Any, name: str) -> list[Any]:
            return [kind(**{**item, name: spread(item[name])}) for item in rows]

        fields = dict(data)
        for key, kind, name in (
            ("figures", Figure, "spread"),
            ("ratios", Ratio, "spread"),
            ("bars", Bar, "measured"),
        ):
            rows = data[key]
            fields[key] = made(kind, name)
        fields["checks"] = [Check(**item) for item in data["checks"]]
        fields["plots"] = [Plot(**item) for item in data["plots"]]
        return cls(**fields)
