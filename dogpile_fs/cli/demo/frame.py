"""The demo's timeline as lines of text: what a terminal shows, and what a log keeps.

Pure: a line is a list of pieces, each a text and what it stands for; painting makes one string of it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from .timeline import LEGEND, Stand, State, Timeline, ticks

__all__ = [
    "ASCII",
    "MONOCHROME",
    "UNICODE",
    "Glyphs",
    "Line",
    "Palette",
    "frame",
    "legend",
    "paint",
    "palette",
    "paragraph",
    "picture",
    "table",
]

Style = State | Literal["plain", "title", "quiet", "nothing"]
Piece = tuple[str, Style]
Line = list[Piece]

_LABEL = len("datafile  ")
_NARROWEST = 10


@dataclass(frozen=True, slots=True)
class Glyphs:
    """One character per state, and what fills the datafile's own row."""

    states: dict[State, str]
    fresh: str
    stale: str
    nothing: str
    border: str


UNICODE: Final = Glyphs(
    states={
        "fresh": "━",
        "stale": "╍",
        "pause": "─",
        "wait": "░",
        "create": "█",
        "swap": "⇄",
        "killed": "✗",
    },
    fresh="─",
    stale="╌",
    nothing="·",
    border="▏",
)
#: For terminals and logs that take no more.
ASCII: Final = Glyphs(
    states={"fresh": "=", "stale": "~", "pause": "-", "wait": ".", "create": "#", "swap": "%", "killed": "X"},
    fresh="-",
    stale="~",
    nothing=".",
    border="|",
)

#: What switches a style on (SGR parameters); the empty string: nothing.
Palette = dict[Style, str]

# After Okabe and Ito, whose colours are told apart by the colour-blind too: https://jfly.uni-koeln.de/color/
_256: Final[Palette] = {
    "plain": "",
    "title": "1",
    "quiet": "38;5;245",
    "nothing": "38;5;245",
    "fresh": "38;5;36",
    "stale": "38;5;172",
    "pause": "38;5;241",
    "wait": "38;5;245",
    "create": "38;5;33",
    "swap": "1;38;5;169",
    "killed": "1;38;5;166",
}
_16: Final[Palette] = {
    "plain": "",
    "title": "1",
    "quiet": "2",
    "nothing": "2",
    "fresh": "32",
    "stale": "33",
    "pause": "2",
    "wait": "2",
    "create": "34",
    "swap": "1;35",
    "killed": "1;31",
}
MONOCHROME: Final[Palette] = {}


def palette(environment: Mapping[str, str]) -> Palette:
    """The colours for the terminal that *environment* tells of."""
    if environment.get("NO_COLOR"):  # https://no-color.org
        return MONOCHROME
    return _256 if "256color" in environment.get("TERM", "") or environment.get("COLORTERM") else _16


def paint(line: Line, colours: Palette, width: int | None = None) -> str:
    """*line* as one string, cut to *width* columns."""
    painted = []
    for text, style in line:
        if width is not None:
            text = text[:width]
            width -= len(text)
        code = colours.get(style, "")
        painted.append(f"\x1b[{code}m{text}\x1b[0m" if code and text.strip() else text)
    return "".join(painted).rstrip(" ")


def picture(timeline: Timeline, glyphs: Glyphs, width: int, end: float, now: float) -> list[Line]:
    """The datafile's row, a row per worker and the time axis, from 0 to *end*, filled up to *now*."""
    columns = max(_NARROWEST, width - _LABEL - 1)
    rows = [_datafile_row(timeline, glyphs, columns, end, now)]
    rows += [_worker_row(timeline, glyphs, worker, columns, end, now) for worker in range(1, timeline.workers + 1)]
    return [*rows, _axis(columns, end)]


def legend(glyphs: Glyphs, width: int) -> list[Line]:
    """What the glyphs mean, in as many lines as it takes."""
    lines: list[Line] = []
    room = 0
    for state, meaning in LEGEND.items():
        text = f" {meaning}   "
        if len(text) > room:
            lines.append([(" " * _LABEL, "plain")])
            room = width - _LABEL
        lines[-1] += [(glyphs.states[state], state), (text, "quiet")]
        room -= len(text) + 1
    return lines


def table(rows: list[tuple[str, str]], width: int) -> list[Line]:
    """*rows* of a name and what is said of it."""
    widest = max(len(name) for name, _ in rows) + 2
    lines: list[Line] = []
    for name, said in rows:
        label = name
        for part in textwrap.wrap(said, max(width - widest, _NARROWEST)):
            lines.append([(label.ljust(widest), "quiet"), (part, "plain")])
            label = ""
    return lines


def paragraph(text: str, style: Style, width: int) -> list[Line]:
    """*text* in lines of at most *width* columns."""
    return [[(line, style)] for line in textwrap.wrap(text, max(width, _NARROWEST))]


def frame(
    timeline: Timeline,
    glyphs: Glyphs,
    width: int,
    height: int,
    end: float,
    now: float,
    title: tuple[str, str],
    totals: str,
) -> list[Line]:
    """All that a terminal of *width* columns and *height* lines shows; what it has no room for is left out."""
    blank: list[Line] = [[]]
    head: list[Line] = [[(title[0], "title")], [(title[1], "quiet")]]
    middle = picture(timeline, glyphs, width, end, now)
    foot: list[Line] = [[(totals, "plain")]]
    explained = legend(glyphs, width)
    for layout in (
        [*head, *blank, *middle, *blank, *explained, *blank, *foot],
        [*head, *middle, *explained, *foot],
        [*head[:1], *middle, *foot],
    ):
        if len(layout) <= height:
            return layout
    return middle[: max(1, height - 1)] + foot if height > 1 else foot


def _datafile_row(timeline: Timeline, glyphs: Glyphs, columns: int, end: float, now: float) -> Line:
    fills: dict[str, str] = {"fresh": glyphs.fresh, "stale": glyphs.stale, "nothing": glyphs.nothing}
    row: Line = [("datafile".ljust(_LABEL), "title")]
    for stand in timeline.stands(min(now, end)):
        first, after = round(stand.begin / end * columns), round(stand.end / end * columns)
        room = after - first
        border = glyphs.border if stand.state == "fresh" else ""
        name = next((name for name in _names(stand) if len(border + name) <= room), "")
        text = (border + name).ljust(room, fills[stand.state])[:room]
        row.append((text, stand.state))
    return row


def _names(stand: Stand) -> tuple[str, ...]:
    match stand.state:
        case "nothing":
            return ("nothing yet ", "nothing ", "none ")
        case "fresh":
            return (f"version {stand.version} ", f"v{stand.version} ", f"{stand.version}")
        case "stale":
            return ("stale ", "stale")


def _worker_row(timeline: Timeline, glyphs: Glyphs, worker: int, columns: int, end: float, now: float) -> Line:
    row: Line = [(f"worker {worker}".ljust(_LABEL), "plain")]
    cells = timeline.cells(worker, columns, end, now)
    last = max((number for number, state in enumerate(cells) if state is not None), default=-1)
    for state, same in groupby(cells[: last + 1]):
        count = len(list(same))
        row.append((" " * count, "plain") if state is None else (glyphs.states[state] * count, state))
    if timeline.death(worker) and last >= 0:
        note = " killed while it was creating"
        row.append((note[: columns - last - 1], "killed"))
    return row


def _axis(columns: int, end: float) -> Line:
    marks = [" "] * columns
    for number, second in enumerate(ticks(end, columns // 8)):
        mark = f"{second:g} s" if number == 0 else f"{second:g}"
        first = min(round(second / end * columns), columns - len(mark))
        marks[first : first + len(mark)] = mark
    return [(" " * _LABEL + "".join(marks), "quiet")]
