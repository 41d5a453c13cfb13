"""The demo's timeline as a picture: one self-contained SVG file, for light and dark pages.

Pure: a timeline in, the text of the file out. Its times are exact, where a terminal's cells are rough. The colours
are Okabe and Ito's, which the colour-blind tell apart; the height of a bar also tells its state.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from .timeline import BACKGROUND, LEGEND, Span, State, Timeline, label_of, ticks

__all__ = ["svg"]

#: All in pixels.
_WIDTH: Final = 960
_LEFT, _RIGHT = 108, 24
_PLOT: Final = _WIDTH - _LEFT - _RIGHT
_ROW: Final = 28
_TOP: Final = 92
_BAND: Final = 26  # the datafile's own row
_LEGEND_ROW, _TOTALS_ROW = 24, 20
#: Of what may take only a millisecond, so that it can be seen.
_NARROWEST: Final[dict[State, float]] = {"raise": 6.0, "swap": 3.0}

#: Characters in a line of text, so that it fits into _WIDTH in a wide font.
_LONGEST_LINE: Final = 108

#: The height of each state's bar, at most _ROW. Drawn in this order, so that creations and swaps are on top.
_HEIGHTS: Final[dict[State, float]] = {
    "wait": 4,
    "fresh": 10,
    "stale": 10,
    "create": 20,
    "raise": 20,
    "swap": 20,
}

_STYLE: Final = """\
text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#24292f}
.title{font-size:19px;font-weight:600}
.quiet{fill:#57606a}
.key{font-weight:600}
.band{font-size:12px}
.page{fill:#ffffff}
.grid{stroke:#d8dee4}
.track{stroke:#d0d7de}
.expired{fill:#e69f00;fill-opacity:.13}
.pathfresh{fill:#009e73;fill-opacity:.20}
.pathstale{fill:#e69f00;fill-opacity:.38}
.pathmissing{fill:#8c959f;fill-opacity:.25}
.fresh{fill:#009e73}
.stale{fill:#e69f00}
.wait{fill:#8c959f}
.create{fill:#0072b2}
.raise{fill:#d55e00}
.swap{fill:#cc79a7}
.killed{stroke:#d55e00;stroke-width:3;stroke-linecap:round;fill:none}
.note{fill:#b04a00}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}
.quiet{fill:#9198a1}
.page{fill:#0d1117}
.grid{stroke:#2a313c}
.track{stroke:#30363d}
.create{fill:#3d9fdc}
.fresh{fill:#17b58a}
.note{fill:#ff9a56}
}"""


def svg(
    timeline: Timeline, title: str, subtitle: str, totals: list[tuple[str, str]], conclusion: list[str]
) -> str:
    """Return the picture of *timeline*, which is over, as the text of an SVG file.

    :param totals: a name and a text for each line.
    :param conclusion: sentences.
    """
    end = max(timeline.end, 0.001)
    bottom = _TOP + _BAND + len(timeline.rows) * _ROW
    legend, below = _legend(bottom + 52)
    concluding = [line for sentence in conclusion for line in textwrap.wrap(sentence, _LONGEST_LINE)]
    height = below + (len(totals) + len(concluding)) * _TOTALS_ROW + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" aria-labelledby="title description">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">{escape(subtitle)}</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{_WIDTH}" height="{height}" rx="8"/>',
        _text(24, 38, title, "title"),
        _text(24, 62, subtitle, "quiet"),
        *_axis(end, bottom),
        *_datafile(timeline, end, bottom),
        *(part for row, worker in enumerate(timeline.rows) for part in _worker(timeline, worker, row, end)),
        *legend,
    ]
    for y, (name, text) in enumerate(totals):
        parts += [
            _text(24, below + y * _TOTALS_ROW + 4.5, name, "key"),
            _text(124, below + y * _TOTALS_ROW + 4.5, text),
        ]
    for y, line in enumerate(concluding, len(totals)):
        parts.append(_text(24, below + y * _TOTALS_ROW + 12.5, line, "key"))
    return "\n".join([*parts, "</svg>\n"])


def _x(seconds: float, end: float) -> float:
    return _LEFT + seconds / end * _PLOT


def _axis(end: float, bottom: float) -> Iterator[str]:
    for second in ticks(end, 14):
        x = _x(second, end)
        yield _line("grid", x, x, _TOP, bottom + 6)
        yield _text(x, bottom + 22, f"{second:g} s", "quiet", anchor="middle")


def _datafile(timeline: Timeline, end: float, bottom: float) -> Iterator[str]:
    yield _text(24, _TOP + 17, "datafile", "key")
    for stretch in timeline.path_states(end):
        x = _x(stretch.begin, end)
        width = _x(stretch.end, end) - x
        yield _rect(x, _TOP, width, _BAND - 4, f"path{stretch.state}")
        if stretch.state == "stale":
            yield _rect(x, _TOP + _BAND - 4, width, bottom - _TOP - _BAND + 4, "expired")
        for name in _names(stretch):
            if len(name) * 6.8 + 8 < width:
                yield _text(x + 6, _TOP + 15.5, name, "band")
                break


def _names(stretch: Span) -> tuple[str, ...]:
    """Return the names of a stretch of the datafile's row, the longest first."""
    version = f"version {stretch.version}"
    if stretch.state == "fresh":
        return f"{version}, fresh", version, f"v{stretch.version}"
    return (f"{version}, stale", "stale") if stretch.state == "stale" else ("nothing yet", "missing", "none")


def _worker(timeline: Timeline, worker: int, row: int, end: float) -> Iterator[str]:
    middle = _TOP + _BAND + (row + 0.5) * _ROW
    spans = timeline.spans(worker, end)
    death = timeline.death(worker)
    yield _text(24, middle + 4.5, label_of(worker))
    if spans:
        last = death.at if death else spans[-1].end
        yield _line("track", _x(spans[0].begin, end), _x(last, end), middle, middle)
    for state, tall in _HEIGHTS.items():
        for span in spans:
            if span.state == state:
                x = _x(span.begin, end)
                width = max(_x(span.end, end) - x, _NARROWEST.get(state, 0.0))
                yield _rect(x, middle - tall / 2, width, tall, state)
    starter = timeline.starter if worker == BACKGROUND else None
    if starter:
        x = _x(starter.at, end) - 8
        yield _text(x, middle + 4.5, f"started by worker {starter.elected}", "quiet", anchor="end")
    if death:
        x = _x(death.at, end)
        yield _cross(x, middle)
        anchor, at = ("start", x + 14) if x < _WIDTH - _RIGHT - 200 else ("end", x - 14)
        yield _text(at, middle + 4.5, "killed while it was creating", "note", anchor=anchor)


def _legend(y: float) -> tuple[list[str], float]:
    """Return the legend from *y* on, and where it ends."""
    parts: list[str] = []
    x = 24.0
    for state, meaning in LEGEND.items():
        width = 40 + len(meaning) * 7.6 + 18
        if x + width > _WIDTH - _RIGHT:
            x, y = 24.0, y + _LEGEND_ROW
        if state == "killed":
            parts.append(_cross(x + 16, y))
        elif state == "pause":
            parts.append(_line("track", x, x + 32, y, y))
        else:
            tall = min(_HEIGHTS[state], 16)
            parts.append(_rect(x, y - tall / 2, 32, tall, state))
        parts.append(_text(x + 40, y + 4.5, meaning, "quiet"))
        x += width
    return parts, y + _LEGEND_ROW + 8


def _cross(x: float, y: float) -> str:
    return f'<path class="killed" d="M{x - 6:.1f} {y - 6:.1f}l12 12m0 -12l-12 12"/>'


def _line(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1}" y2="{y2}"/>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    size = f'width="{max(width, 0.1):.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" {size} rx="1.5"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
