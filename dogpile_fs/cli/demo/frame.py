"""The demo's timeline as lines of text: what a terminal shows, and what a log keeps.

Pure: a line is a list of pieces, each a text and its style; :func:`paint` makes one string of it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from .timeline import BACKGROUND, LEGEND, Span, State, Timeline, label_of, ticks

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

Style = State | Literal["plain", "title", "quiet"]
Piece = tuple[str, Style]
Line = list[Piece]

_LABEL = len("background  ")
_NARROWEST = 10


@dataclass(frozen=True, slots=True)
class Glyphs:
    """One character for each state of a worker and of the datafile; *border* is where a version begins."""

    states: dict[State, str]
    datafile: dict[State, str]
    border: str


UNICODE: Final = Glyphs(
    states={
        "fresh": "━",
        "stale": "╍",
        "pause": "─",
        "wait": "░",
        "create": "█",
        "raise": "!",
        "swap": "⇄",
        "killed": "✗",
    },
    datafile={"fresh": "─", "stale": "╌", "missing": "·"},
    border="▏",
)
#: For terminals and logs that take no more.
ASCII: Final = Glyphs(
    states={
        "fresh": "=",
        "stale": "~",
        "pause": "-",
        "wait": ".",
        "create": "#",
        "raise": "!",
        "swap": "%",
        "killed": "X",
    },
    datafile={"fresh": "-", "stale": "~", "missing": "."},
    border="|",
)

#: The SGR parameters that switch a style on; none for the empty string.
Palette = dict[Style, str]

# Okabe and Ito's colours, which the colour-blind tell apart: https://jfly.uni-koeln.de/color/
_256: Final[Palette] = {
    "plain": "",
    "title": "1",
    "quiet": "38;5;245",
    "missing": "38;5;245",
    "fresh": "38;5;36",
    "stale": "38;5;172",
    "pause": "38;5;241",
    "wait": "38;5;245",
    "create": "38;5;33",
    "raise": "1;38;5;166",
    "swap": "1;38;5;169",
    "killed": "1;38;5;166",
}
_16: Final[Palette] = {
    "plain": "",
    "title": "1",
    "quiet": "2",
    "missing": "2",
    "fresh": "32",
    "stale": "33",
    "pause": "2",
    "wait": "2",
    "create": "34",
    "raise": "1;31",
    "swap": "1;35",
    "killed": "1;31",
}
MONOCHROME: Final[Palette] = {}


def palette(environment: Mapping[str, str]) -> Palette:
    """Return the colours for the terminal that *environment* describes."""
    return _256 if "256color" in environment.get("TERM", "") or environment.get("COLORTERM") else _16


def paint(line: Line, colours: Palette, width: int | None = None) -> str:
    """Return *line* as one string, cut to *width* columns."""
    painted = ""
    for text, style in line:
        if width is not None:
            text = text[:width]
            width -= len(text)
        code = colours.get(style)
        painted += f"\x1b[{code}m{text}\x1b[0m" if code and text.strip() else text
    return painted.rstrip(" ")


def picture(timeline: Timeline, glyphs: Glyphs, width: int, end: float, now: float) -> list[Line]:
    """Return the datafile's row, those of the timeline and the time axis, from 0 to *end*, filled up to *now*."""
    columns = max(_NARROWEST, width - _LABEL - 1)
    rows = [_datafile_row(timeline, glyphs, columns, end, now)]
    rows += [_worker_row(timeline, glyphs, worker, columns, end, now) for worker in timeline.rows]
    return [*rows, _axis(columns, end)]


def legend(glyphs: Glyphs, width: int) -> list[Line]:
    """Return what the glyphs mean, in as many lines as it takes."""
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
    """Return *rows* of a name and a text as lines of at most *width* columns."""
    widest = max(len(name) for name, _ in rows) + 2
    lines: list[Line] = []
    for name, text in rows:
        for number, part in enumerate(textwrap.wrap(text, max(width - widest, _NARROWEST))):
            lines.append([(("" if number else name).ljust(widest), "quiet"), (part, "plain")])
    return lines


def paragraph(text: str, style: Style, width: int) -> list[Line]:
    """Return *text* in lines of at most *width* columns."""
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
    """Return all that a terminal of *width* columns and *height* lines shows, without what has no room."""
    head: list[Line] = [[(title[0], "title")], [(title[1], "quiet")]]
    middle = picture(timeline, glyphs, width, end, now)
    foot: Line = [(totals, "plain")]
    explanation = legend(glyphs, width)
    for layout in (
        [*head, [], *middle, [], *explanation, [], foot],
        [*head, *middle, *explanation, foot],
        [*head[:1], *middle, foot],
    ):
        if len(layout) <= height:
            return layout
    return [*middle[: height - 1], foot]


def _datafile_row(timeline: Timeline, glyphs: Glyphs, columns: int, end: float, now: float) -> Line:
    row: Line = [("datafile".ljust(_LABEL), "title")]
    for stretch in timeline.path_states(min(now, end)):
        room = round(stretch.end / end * columns) - round(stretch.begin / end * columns)
        border = glyphs.border if stretch.state == "fresh" else ""
        name = next((name for name in _names(stretch) if len(border + name) <= room), "")
        row.append(((border + name).ljust(room, glyphs.datafile[stretch.state])[:room], stretch.state))
    return row


def _names(stretch: Span) -> tuple[str, ...]:
    """Return the names of a stretch of the datafile's row, the longest first."""
    if stretch.state == "fresh":
        return f"version {stretch.version} ", f"v{stretch.version} ", f"{stretch.version}"
    return ("stale ", "stale") if stretch.state == "stale" else ("nothing yet ", "missing ", "none ")


def _worker_row(timeline: Timeline, glyphs: Glyphs, worker: int, columns: int, end: float, now: float) -> Line:
    row: Line = [(label_of(worker).ljust(_LABEL), "plain")]
    for state, same in groupby(timeline.cells(worker, columns, end, now)):
        count = len(list(same))
        row.append((" " * count, "plain") if state is None else (glyphs.states[state] * count, state))
    if worker == BACKGROUND and timeline.starter and len(row) > 1 and row[1][1] == "plain":
        room = len(row[1][0])  # the cells before its first one have no state
        row[1] = (f"started by worker {timeline.starter.elected} ".rjust(room)[-room:], "quiet")
    if timeline.death(worker) and row[-1][1] == "plain":  # the cells after it have no state
        row[-1] = (" killed while it was creating"[: len(row[-1][0])], "killed")
    return row


def _axis(columns: int, end: float) -> Line:
    marks = [" "] * columns
    for second in ticks(end, columns // 8):
        mark = f"{second:g}" if second else "0 s"
        first = min(round(second / end * columns), columns - len(mark))
        marks[first : first + len(mark)] = mark
    return [(" " * _LABEL + "".join(marks), "quiet")]
