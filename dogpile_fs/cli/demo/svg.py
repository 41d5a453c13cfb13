"""The demo's timeline as a picture: one self-contained SVG file, for light and dark pages.

Pure: a timeline in, the text of the file out. Its times are exact, where a terminal's cells are rough. The colours
are Okabe and Ito's, told apart by the colour-blind; height tells the states apart as well.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Final
from xml.sax.saxutils import escape

from .timeline import LEGEND, Span, Stand, State, Timeline, ticks

__all__ = ["svg"]

_WIDTH: Final = 960
_LEFT, _RIGHT = 96, 24
_PLOT: Final = _WIDTH - _LEFT - _RIGHT
_ROW: Final = 28
_TOP: Final = 92
_BAND: Final = 26  # the datafile's own row
_LEGEND_ROW, _TOTALS_ROW = 24, 20
#: Characters, as wide as they are in a wide font.
_LONGEST_LINE: Final = 108

#: Height of a state's bar, of a row's _ROW; drawn in this order, those that matter last.
_HEIGHTS: Final[dict[State, float]] = {"wait": 4, "fresh": 10, "stale": 10, "create": 20, "swap": 20}

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
.standfresh{fill:#009e73;fill-opacity:.20}
.standstale{fill:#e69f00;fill-opacity:.38}
.standnothing{fill:#8c959f;fill-opacity:.25}
.fresh{fill:#009e73}
.stale{fill:#e69f00}
.wait{fill:#8c959f}
.create{fill:#0072b2}
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
    """The picture of *timeline*, which is over, as the text of an SVG file.

    :param totals: what they are called and what they say, a line each.
    :param conclusion: sentences.
    """
    end = max(timeline.end, 0.001)
    bottom = _TOP + _BAND + timeline.workers * _ROW
    legend, legend_rows = _legend(bottom + 52)
    below = bottom + 52 + legend_rows * _LEGEND_ROW + 8
    concluding = [line for said in conclusion for line in textwrap.wrap(said, _LONGEST_LINE)]
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
        *(part for worker in range(1, timeline.workers + 1) for part in _worker(timeline, worker, end)),
        *legend,
        *_totals(totals, below),
        *_paragraph(concluding, below + len(totals) * _TOTALS_ROW + 8),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(seconds: float, end: float) -> float:
    return _LEFT + seconds / end * _PLOT


def _axis(end: float, bottom: float) -> Iterator[str]:
    for second in ticks(end, 14):
        x = _x(second, end)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom + 6}"/>'
        label = f"{second:g} s"
        yield _text(x, bottom + 22, label, "quiet", anchor="middle")


def _datafile(timeline: Timeline, end: float, bottom: float) -> Iterator[str]:
    yield _text(24, _TOP + 17, "datafile", "key")
    for stand in timeline.stands(end):
        x, width = _x(stand.begin, end), (stand.end - stand.begin) / end * _PLOT
        yield _rect(x, _TOP, width, _BAND - 4, f"stand{stand.state}")
        if stand.state == "stale":
            yield _rect(x, _TOP + _BAND - 4, width, bottom - _TOP - _BAND + 4, "expired")
        name = next((name for name in _names(stand) if len(name) * 6.8 + 8 < width), "")
        if name:
            yield _text(x + 6, _TOP + 15.5, name, "band")


def _names(stand: Stand) -> tuple[str, ...]:
    match stand.state:
        case "nothing":
            return ("nothing yet", "nothing", "none")
        case "fresh":
            return (f"version {stand.version}, fresh", f"version {stand.version}", f"v{stand.version}")
        case "stale":
            return (f"version {stand.version}, stale", "stale")


def _worker(timeline: Timeline, worker: int, end: float) -> Iterator[str]:
    middle = _TOP + _BAND + (worker - 0.5) * _ROW
    spans = timeline.spans(worker, end)
    death = timeline.death(worker)
    yield _text(24, middle + 4.5, f"worker {worker}")
    if spans:
        last = death.at if death else spans[-1].end
        yield (
            f'<line class="track" x1="{_x(spans[0].begin, end):.1f}" x2="{_x(last, end):.1f}" '
            f'y1="{middle}" y2="{middle}"/>'
        )
    for state, tall in _HEIGHTS.items():
        for span in spans:
            if span.state == state:
                yield _bar(span, middle, tall, end)
    if death:
        x = _x(death.at, end)
        yield _cross(x, middle)
        anchor, at = ("start", x + 14) if x < _WIDTH - _RIGHT - 200 else ("end", x - 14)
        yield _text(at, middle + 4.5, "killed while it was creating", "note", anchor=anchor)


def _bar(span: Span, middle: float, tall: float, end: float) -> str:
    x, width = _x(span.begin, end), (span.end - span.begin) / end * _PLOT
    if span.state == "swap":
        width = max(width, 3.0)  # what takes a millisecond can be seen all the same
    return _rect(x, middle - tall / 2, width, tall, span.state)


def _cross(x: float, y: float) -> str:
    return f'<path class="killed" d="M{x - 6:.1f} {y - 6:.1f}l12 12m0 -12l-12 12"/>'


def _legend(top: float) -> tuple[list[str], int]:
    """The legend from *top* on, and in how many rows."""
    parts: list[str] = []
    x, row = 24.0, 0
    for state, meaning in LEGEND.items():
        width = 40 + len(meaning) * 7.6 + 18
        if x + width > _WIDTH - _RIGHT:
            x, row = 24.0, row + 1
        y = top + row * _LEGEND_ROW
        if state == "killed":
            parts.append(_cross(x + 16, y))
        elif state == "pause":
            parts.append(f'<line class="track" x1="{x:.1f}" x2="{x + 32:.1f}" y1="{y}" y2="{y}"/>')
        else:
            tall = min(_HEIGHTS[state], 16)
            parts.append(_rect(x, y - tall / 2, 32, tall, state))
        parts.append(_text(x + 40, y + 4.5, meaning, "quiet"))
        x += width
    return parts, row + 1


def _totals(totals: list[tuple[str, str]], top: float) -> Iterator[str]:
    for number, (name, said) in enumerate(totals):
        y = top + number * _TOTALS_ROW + 4.5
        yield _text(24, y, name, "key")
        yield _text(124, y, said)


def _paragraph(lines: list[str], top: float) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield _text(24, top + number * _TOTALS_ROW + 4.5, line, "key")


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    size = f'width="{max(width, 0.1):.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" {size} rx="1.5"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    attributes = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{escape(text)}</text>'
