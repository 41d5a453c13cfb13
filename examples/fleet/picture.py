"""What happened, as a picture: one self-contained SVG file, for light and dark pages.

Pure: stories in, the text of the file out. The colours are Okabe and Ito's, which the colour-blind tell apart; the
height of a bar also tells what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape

from fleet.record import Creation
from fleet.verdict import Story

__all__ = ["svg"]

#: All in pixels.
_WIDTH: Final = 960
_LEFT, _RIGHT = 108, 24
_PLOT: Final = _WIDTH - _LEFT - _RIGHT
_BAND, _ROW, _GAP = 24, 20, 12
_TOP: Final = 84
#: Of what may take only a moment, so that it can be seen.
_NARROWEST: Final = 3.0
#: Width of a character at most.
_CHARACTER: Final = 7.0
#: Seconds between the ticks of an axis.
_STEPS: Final = (1, 2, 5, 10, 20, 50)

_STYLE: Final = """\
text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#24292f}
.title{font-size:19px;font-weight:600}
.quiet{fill:#57606a}
.key{font-weight:600}
.band{font-size:12px}
.page{fill:#ffffff}
.grid{stroke:#d8dee4}
.head{fill:#8c959f;fill-opacity:.25}
.fresh{fill:#009e73;fill-opacity:.28}
.stale{fill:#e69f00;fill-opacity:.42}
.create{fill:#0072b2}
.stopped{fill:none;stroke:#0072b2;stroke-width:1.5;stroke-dasharray:4 3}
.cut{fill:none;stroke:#d55e00;stroke-width:2;stroke-dasharray:7 4}
.killed{stroke:#d55e00;stroke-width:3;stroke-linecap:round;fill:none}
.note{fill:#b04a00;font-size:12px}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}
.quiet{fill:#9198a1}
.page{fill:#0d1117}
.grid{stroke:#2a313c}
.create{fill:#3d9fdc}
.stopped{stroke:#3d9fdc}
.note{fill:#ff9a56}
}"""


def svg(title: str, subtitle: str, panels: Sequence[tuple[str, Story]], conclusion: str) -> str:
    """Return the picture of some runs as the text of an SVG file.

    :param panels: for each run the name of its origin, and what happened.
    """
    parts: list[str] = []
    y = float(_TOP)
    for name, story in panels:
        panel = _Panel(name, story, y)
        parts += panel.parts()
        y = panel.bottom + 48
    legend = list(_legend(y))
    height = y + 56
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
            f'width="{_WIDTH}" height="{height:.0f}" role="img" aria-labelledby="title description">',
            f'<title id="title">{escape(title)}</title>',
            f'<desc id="description">{escape(subtitle)}</desc>',
            f"<style>{_STYLE}</style>",
            f'<rect class="page" width="{_WIDTH}" height="{height:.0f}" rx="8"/>',
            _text(24, 38, title, "title"),
            _text(24, 62, subtitle, "quiet"),
            *parts,
            *legend,
            _text(24, height - 16, conclusion, "key"),
            "</svg>\n",
        ]
    )


class _Panel:
    """One run, drawn from *top* on."""

    def __init__(self, name: str, story: Story, top: float) -> None:
        self._name, self._story, self._top = name, story, top
        times = [answer.asked for answer in story.answers] + [creation.begin for creation in story.creations]
        self._zero = min(times, default=0.0)
        self._end = max([answer.time for answer in story.answers], default=1.0) - self._zero or 1.0
        hosts = len(story.hosts)
        self.bottom = top + _BAND + _GAP + hosts * (_BAND + _ROW + _GAP)

    def _x(self, moment: float) -> float:
        return _LEFT + min(max((moment - self._zero) / self._end, 0.0), 1.0) * _PLOT

    def parts(self) -> Iterator[str]:
        step = next((step for step in _STEPS if self._end / step <= 14), _STEPS[-1])
        for second in range(0, int(self._end) + 1, step):
            x = self._x(self._zero + second)
            yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{self._top}" y2="{self.bottom}"/>'
            yield _text(x, self.bottom + 16, f"{second} s", "quiet", anchor="middle")
        yield _text(24, self._top + 16, self._name, "key")
        published = sorted(self._story.published, key=lambda creation: creation.generation)
        ends = [creation.end or creation.begin for creation in published]
        for creation, begin, end in zip(published, ends, [*ends[1:], self._zero + self._end], strict=True):
            yield from self._stretch(begin, end, self._top, "head", f"generation {creation.generation}")
        y = self._top + _BAND + _GAP
        for host in self._story.hosts:
            yield from self._host(host, y)
            y += _BAND + _ROW + _GAP

    def _host(self, host: str, y: float) -> Iterator[str]:
        story = self._story
        yield _text(24, y + 16, host)
        first: dict[int, float] = {}
        for answer in sorted(story.answers_of(host), key=lambda answer: answer.time):
            first.setdefault(answer.generation, answer.time)
        ends = [*list(first.values())[1:], self._zero + self._end]
        built = {creation.generation: creation.built or creation.begin for creation in story.published}
        for (generation, begin), end in zip(first.items(), ends, strict=True):
            stale = min(max(built.get(generation, begin) + story.settings.expire, begin), end)
            yield from self._stretch(begin, stale, y, "fresh", f"generation {generation}")
            yield from self._stretch(stale, end, y, "stale", "")
        for creation in story.creations:
            if creation.host == host:
                yield from self._creation(creation, y + _BAND)
        for cut in story.of("cut"):
            if cut.host == host:
                x, width = self._x(cut.begin), self._x(cut.end) - self._x(cut.begin)
                yield _rect(x, y - 3, width, _BAND + _ROW + 4, "cut")
                name = "cut off from the origin"
                fits = len(name) * _CHARACTER + 8 < width
                yield _text(x + 6, y + _BAND + 14, name if fits else "cut off", "note")

    def _creation(self, creation: Creation, y: float) -> Iterator[str]:
        end = creation.end or creation.built or creation.begin
        pause = next((each for each in self._story.of("pause") if each.token == creation.token), None)
        for begin, until in (
            [(creation.begin, pause.begin), (pause.end, end)] if pause else [(creation.begin, end)]
        ):
            yield _rect(self._x(begin), y + 2, self._x(until) - self._x(begin), 14, "create")
        if pause:
            yield _rect(self._x(pause.begin), y + 5, self._x(pause.end) - self._x(pause.begin), 8, "stopped")
            yield _text(self._x(pause.begin) + 6, y + 28, "creator stopped (SIGSTOP)", "note")
        if creation.outcome in ("fenced", "failed"):
            x = self._x(end) + 8
            yield f'<path class="killed" d="M{x - 5:.1f} {y + 4}l10 10m0 -10l-10 10"/>'
            yield _text(x + 10, y + 14, creation.outcome, "note")

    def _stretch(self, begin: float, end: float, y: float, kind: str, name: str) -> Iterator[str]:
        x, width = self._x(begin), self._x(end) - self._x(begin)
        if width <= 0:
            return
        yield _rect(x, y, width - 1, _BAND - 2, kind)
        for text in (name, name.rpartition(" ")[2]):
            if text and len(text) * _CHARACTER + 8 < width:
                yield _text(x + 6, y + 15.5, text, "band")
                return


def _legend(y: float) -> Iterator[str]:
    x = 24.0
    for kind, tall, meaning in (
        ("head", 16, "in the origin"),
        ("fresh", 16, "answered, fresh"),
        ("stale", 16, "answered, stale"),
        ("create", 14, "creates"),
        ("stopped", 8, "stopped"),
        ("cut", 16, "cut off"),
    ):
        yield _rect(x, y - tall / 2, 32, tall, kind)
        yield _text(x + 40, y + 4.5, meaning, "quiet")
        x += 40 + len(meaning) * _CHARACTER + 24
    yield f'<path class="killed" d="M{x:.1f} {y - 5}l10 10m0 -10l-10 10"/>'
    yield _text(x + 18, y + 4.5, "fenced", "quiet")


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    size = f'width="{max(width, _NARROWEST):.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" {size} rx="1.5"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
