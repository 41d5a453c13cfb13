"""The pictures of a run: SVG, one or two for each row.

Ours is blue, the limit that the system sets is black and dashed, and a peer has the same colour in all pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring.measures import BYTES, COUNT, SECONDS, Figure, Plot, Ratio, Scenario
from benchmarks.report.words import shown

__all__ = ["draw"]

_OURS = ("#0b5fa5", "#3f9bdc", "#7cc3f2", "#12395e")
_PEERS = {
    "dogpile.Lock": "#d1602b",
    "dogpile.cache": "#e39a5f",
    "diskcache": "#7a4fa3",
    "filelock": "#3d8f4f",
    "fasteners": "#b23a48",
    "portalocker": "#8c7a2b",
    "joblib": "#c05a9b",
    "Django": "#2f7f7a",
}
_OTHER = "#8a8a8a"
_LIMIT = "#111111"
_MARKS = "osD^vPX*"


def draw(scenario: Scenario, directory: Path) -> list[str]:
    """Write the row's pictures into *directory*, and return the names of the files."""
    import matplotlib

    matplotlib.use("svg")
    # The same figures make the same file: no random ids, no date.
    matplotlib.rcParams.update({"svg.hashsalt": "benchmarks", "font.size": 9})
    from matplotlib import pyplot

    names = []
    for number, plot in enumerate(scenario.plots, 1):
        figure, axes = pyplot.subplots(layout="constrained")
        {"bars": _bars, "lines": _lines, "series": _series}[plot.kind](scenario, plot, figure, axes)
        axes.set_title(plot.title, loc="left", fontweight="bold")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        name = f"row-{scenario.number:02}{'' if len(scenario.plots) == 1 else f'-{number}'}.svg"
        figure.savefig(directory / name, metadata={"Date": None})
        pyplot.close(figure)
        names.append(name)
    return names


def _bars(scenario: Scenario, plot: Plot, figure: Any, axes: Any) -> None:
    """Draw the median, with a line from quartile to quartile; the best at the top."""
    found = [one for one in _of(scenario, plot) if one.spread is not None]
    found.sort(key=lambda one: one.spread.median, reverse=plot.x != "percent")
    figure.set_size_inches(7.5, 1.0 + 0.32 * len(found))
    for place, one in enumerate(found):
        spread = one.spread
        axes.barh(place, spread.median, color=_colour(scenario, one.contender), height=0.7)
        axes.plot([spread.lower, spread.upper], [place, place], color="black", linewidth=1)
        text = f"  {shown(spread.median, _unit(one))}"
        axes.text(max(spread.upper, spread.median), place, text, va="center", fontsize=8)
    axes.set_yticks(range(len(found)), [one.contender for one in found])
    for label, one in zip(axes.get_yticklabels(), found, strict=True):
        label.set_fontweight("bold" if one.contender in scenario.ours else "normal")
    if plot.logarithmic:
        axes.set_xscale("log")
    axes.margins(x=0.15)
    if plot.limit is not None:
        axes.axvline(plot.limit, color=_LIMIT, linestyle=":", linewidth=1)
    _label(axes.xaxis, plot.x)


def _lines(scenario: Scenario, plot: Plot, figure: Any, axes: Any) -> None:
    """Draw the median over the x axis, with the quartiles as a band."""
    found = [one for one in _of(scenario, plot) if one.spread is not None and one.at is not None]
    figure.set_size_inches(7.5, 4.2)
    for number, name in enumerate(dict.fromkeys(one.contender for one in found)):
        points = sorted((one.at, one.spread) for one in found if one.contender == name)
        x = [at for at, _ in points]
        ours = name in scenario.ours
        style = {"color": _colour(scenario, name), "linewidth": 2.2 if ours else 1.2}
        axes.plot(
            x,
            [spread.median for _, spread in points],
            marker=_MARKS[number % len(_MARKS)],
            markersize=5,
            linestyle="--" if name == scenario.limit else "-",
            zorder=3 if ours else 2,
            label=name,
            **style,
        )
        low, high = [spread.lower for _, spread in points], [spread.upper for _, spread in points]
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    places = sorted({one.at for one in found})
    if len(places) > 1:
        axes.set_xscale("log")
    axes.set_xticks(places, [shown(at, BYTES if plot.x == "bytes" else COUNT) for at in places])
    axes.minorticks_off()
    if plot.logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    if plot.limit is not None:
        axes.axhline(plot.limit, color=_LIMIT, linestyle=":", linewidth=1)
    missing = dict.fromkeys(one.contender for one in _of(scenario, plot) if one.spread is None)
    for name in missing:
        said = next(one.said for one in _of(scenario, plot) if one.contender == name and one.spread is None)
        axes.plot([], [], color=_colour(scenario, name), linestyle="none", marker="x", label=f"{name}: {said}")
    axes.set_xlabel(plot.x)
    _label(axes.yaxis, plot.y)
    _legend(axes)


def _series(scenario: Scenario, plot: Plot, figure: Any, axes: Any) -> None:
    figure.set_size_inches(7.5, 4.2)
    for name, points in plot.series.items():
        x, y = [at for at, _ in points], [value for _, value in points]
        if plot.logarithmic:
            y = [max(value, 1.0) for value in y]  # 0 has no place on a logarithmic axis
        axes.plot(x, y, color=_colour(scenario, name), linewidth=2.2 if name in scenario.ours else 1.2, label=name)
    for name, (begin, end) in plot.spans.items():
        axes.axvspan(begin, end, color="#000000", alpha=0.06, linewidth=0)
        axes.text(begin, 1.0, f" {name}", transform=axes.get_xaxis_transform(), va="top", fontsize=8)
    if plot.logarithmic:
        axes.set_yscale("log")
    axes.set_xlabel(plot.x)
    _label(axes.yaxis, plot.y)
    _legend(axes)


def _of(scenario: Scenario, plot: Plot) -> Sequence[Any]:
    every: Sequence[Figure | Ratio] = scenario.ratios if plot.ratios else scenario.figures
    return [one for one in every if one.what == plot.what]


def _unit(one: Figure | Ratio) -> str:
    return one.unit if isinstance(one, Figure) else COUNT


def _colour(scenario: Scenario, name: str) -> str:
    if name in scenario.ours:
        return _OURS[scenario.ours.index(name) % len(_OURS)]
    if name == scenario.limit:
        return _LIMIT
    return next((colour for peer, colour in _PEERS.items() if name.startswith(peer)), _OTHER)


def _label(axis: Any, text: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullFormatter

    unit = {"seconds": SECONDS, "seconds per pass": SECONDS, "bytes": BYTES}.get(text, COUNT)
    if axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1.0,) if high > 50 * low else (1.0, 2.0, 5.0)))
        axis.set_minor_formatter(NullFormatter())
    elif unit == BYTES:
        axis.set_major_locator(MultipleLocator(1024))
    axis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    axis.set_label_text("time" if text == "seconds" else text)
    axis.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axis.axes.set_axisbelow(True)


def _legend(axes: Any) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize=8)
