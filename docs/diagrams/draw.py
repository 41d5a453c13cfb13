"""Draws the diagrams of ``docs/how_it_works.rst``: ``python docs/diagrams/draw.py``.

They are SVG files with a background of their own, in the colours of ``docs/demo.svg``, for light and dark pages.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

__all__ = ["DIAGRAMS", "drawn"]

HERE = Path(__file__).parent
#: In pixels: so narrow that a telephone shows the text, which is 13 pixels high, at 10 or more.
WIDTH = 440

_STYLE = """text{font:14px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#24292f}
.quiet{fill:#57606a;font-size:13px}
.code{font-family:ui-monospace,SFMono-Regular,Menlo,'DejaVu Sans Mono',monospace;font-size:13px}
.strong{font-weight:600}
.page{fill:#ffffff}
.box{fill:#f6f8fa;stroke:#8c959f}
.fresh{fill:#009e73;fill-opacity:.22;stroke:#009e73}
.stale{fill:#e69f00;fill-opacity:.30;stroke:#e69f00}
.create{fill:#0072b2;fill-opacity:.22;stroke:#0072b2}
.wait{fill:#8c959f;fill-opacity:.22;stroke:#8c959f}
.line{stroke:#57606a;stroke-width:1.5;fill:none}
.head{fill:#57606a}
.mark{stroke:#57606a;stroke-dasharray:4 4}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}
.quiet{fill:#9198a1}
.page{fill:#0d1117}
.box{fill:#161b22;stroke:#6e7681}
.line,.mark{stroke:#9198a1}
.head{fill:#9198a1}
.create{fill:#3d9fdc;fill-opacity:.28;stroke:#3d9fdc}
}"""


class Drawing:
    """The elements of one diagram, with what it says for readers that cannot see it."""

    def __init__(self, title: str, height: int) -> None:
        self._title, self._height = title, height
        self._elements: list[str] = []

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        self._elements.append(f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>')

    def box(self, x: float, y: float, width: float, height: float, *lines: str, kind: str = "box") -> None:
        """Draw a box with lines of text in its middle; a line that begins with ``$`` is code."""
        self._elements.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" class="{kind}"/>')
        top = y + height / 2 - 9 * (len(lines) - 1) + 5
        for number, line in enumerate(lines):
            is_code = line.startswith("$")
            self.text(x + width / 2, top + 18 * number, line.lstrip("$"), "code" if is_code else "", "middle")

    def arrow(self, *points: tuple[float, float], label: str = "", at: tuple[float, float] | None = None) -> None:
        path = " L ".join(f"{x} {y}" for x, y in points)
        self._elements.append(f'<path d="M {path}" class="line" marker-end="url(#head)"/>')
        if at is not None:
            self.text(*at, label, "quiet")

    def mark(self, x: float, top: float, bottom: float) -> None:
        self._elements.append(f'<line x1="{x}" x2="{x}" y1="{top}" y2="{bottom}" class="mark"/>')

    def svg(self) -> str:
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}" width="{WIDTH}" '
                f'height="{self._height}" role="img" aria-labelledby="title">',
                f'<title id="title">{escape(self._title)}</title>',
                f"<style>{_STYLE}</style>",
                '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
                'orient="auto-start-reverse"><path d="M 0 0 L 8 4 L 0 8 z" class="head"/></marker></defs>',
                f'<rect class="page" width="{WIDTH}" height="{self._height}" rx="8"/>',
                *self._elements,
                "</svg>\n",
            ]
        )


def a_pass() -> Drawing:
    drawing = Drawing("What one pass asks, and where it leads", 396)
    drawing.box(32, 20, 150, 48, "A caller opens", "the datafile")
    drawing.box(32, 112, 150, 48, "What does the", "sidecar say?")
    drawing.arrow((107, 68), (107, 112))
    drawing.box(256, 112, 168, 48, "pass with the", "version in place", kind="fresh")
    drawing.arrow((182, 136), (256, 136), label="fresh", at=(192, 128))
    drawing.box(32, 224, 150, 48, "Is the creation", "mutex free?")
    drawing.arrow((107, 160), (107, 224), label="stale", at=(115, 197))
    drawing.box(256, 192, 168, 48, "another creates: pass", "with the old version", kind="stale")
    drawing.arrow((182, 238), (219, 238), (219, 216), (256, 216), label="no", at=(190, 230))
    drawing.box(256, 264, 168, 68, "elected: create, swap,", "stamp; pass with the", "new version", kind="create")
    drawing.arrow((182, 258), (219, 258), (219, 298), (256, 298), label="yes", at=(190, 276))
    drawing.box(32, 330, 150, 48, "Wait for the mutex,", "and look again", kind="wait")
    drawing.arrow((32, 136), (14, 136), (14, 354), (32, 354))
    drawing.text(22, 197, "missing", "quiet")
    drawing.arrow((182, 354), (340, 354), (340, 332), label="still missing: create", at=(190, 372))
    return drawing


def an_election() -> Drawing:
    drawing = Drawing("Three processes around an expiry: one creates, the others go on", 320)
    for name, y in (("A", 81), ("B", 147), ("C", 203)):
        drawing.text(16, y, f"process {name}", "strong")
    drawing.text(98, 32, "fresh", "quiet")
    drawing.text(176, 32, "stale", "quiet")
    drawing.text(336, 32, "fresh again", "quiet")
    drawing.mark(168, 20, 236)
    drawing.mark(328, 20, 172)
    drawing.mark(328, 224, 236)
    drawing.box(98, 44, 62, 64, "reads", kind="fresh")
    drawing.box(176, 44, 144, 64, "has the mutex:", "creates, swaps,", "stamps", kind="create")
    drawing.box(336, 44, 88, 64, "reads", "the new", kind="fresh")
    drawing.box(104, 120, 58, 44, "reads", kind="fresh")
    drawing.box(182, 120, 62, 44, "reads", "the old", kind="stale")
    drawing.box(254, 120, 62, 44, "reads", "the old", kind="stale")
    drawing.box(346, 120, 78, 44, "reads", "the new", kind="fresh")
    drawing.box(212, 176, 196, 44, "has opened the old one,", "and goes on reading it", kind="stale")
    drawing.text(168, 254, "expired", "quiet", "middle")
    drawing.text(328, 254, "swapped in, one step", "quiet", "middle")
    drawing.text(16, 286, "If A is killed, the kernel frees the mutex, and the", "quiet")
    drawing.text(16, 304, "next caller is elected.", "quiet")
    return drawing


def the_files() -> Drawing:
    drawing = Drawing("The files beside report.json, and what each is for", 508)
    rows = [
        ("$report.json", "fresh", "the datafile", "readers open it; a rename replaces it"),
        ("$report.json.dogpile", "box", "the sidecar", "each pass looks at its length; a creation stamps it"),
        ("$report.json.dogpile.lock", "create", "the creation mutex", "its holder creates; empty, never written"),
        ("$report.json.dogpile.rwlock", "wait", "readers and writer", "with readers=True alone"),
        ("$report.json.dogpile.journal", "box", "the last attempts", "for people: dogpile-fs history"),
    ]
    for number, (name, kind, what, use) in enumerate(rows):
        top = 16 + 70 * number
        drawing.box(16, top, 240, 34, name, kind=kind)
        drawing.text(268, top + 22, what, "strong")
        drawing.text(28, top + 52, use, "quiet")
    drawing.box(16, 370, 408, 122, kind="box")
    drawing.text(28, 394, ".dogpile/", "code")
    drawing.text(108, 394, "hidden sub-directory: what is not in place", "quiet")
    drawing.box(28, 406, 190, 32, "$.dogpile-new-...", kind="create")
    drawing.text(230, 427, "being built", "quiet")
    drawing.box(28, 448, 190, 32, "$.dogpile-kept-...", kind="stale")
    drawing.text(230, 469, "earlier (keep=)", "quiet")
    return drawing


def a_creation() -> Drawing:
    drawing = Drawing("The steps of a creation, and what is there if its process is killed", 416)
    steps = [
        ("wait", ("take the", "mutex")),
        ("box", ("put the", "attempt", "on record")),
        ("create", ("create", "a new file")),
        ("create", ("validate", "it")),
        ("fresh", ("fsync,", "rename,", "fsync")),
        ("box", ("stamp the", "sidecar")),
        ("wait", ("release the", "mutex")),
    ]
    for number, (kind, lines) in enumerate(steps):
        row, column = divmod(number, 4)
        left, top = 16 + 104 * column, 40 + 166 * row
        drawing.box(left, top, 90, 64, *lines, kind=kind)
        if column:
            drawing.arrow((left - 14, top + 32), (left, top + 32))
    drawing.arrow((418, 72), (430, 72), (430, 188), (61, 188), (61, 206))
    drawing.text(16, 26, "in this order, under the creation mutex", "quiet")
    drawing.text(16, 130, "Killed before the rename:", "strong")
    drawing.text(16, 150, "the old version, whole. The next caller counts a death,", "quiet")
    drawing.text(16, 168, "removes the unfinished file and creates.", "quiet")
    drawing.text(16, 296, "Killed after it:", "strong")
    drawing.text(16, 316, "the new version, whole. Without a stamp it counts as", "quiet")
    drawing.text(16, 334, "created at its mtime.", "quiet")
    drawing.text(16, 364, "In each case the kernel frees the mutex at that", "quiet")
    drawing.text(16, 382, "moment. The stamp comes last, so it never describes", "quiet")
    drawing.text(16, 400, "a file that is not in place.", "quiet")
    return drawing


DIAGRAMS = {"pass": a_pass, "election": an_election, "files": the_files, "creation": a_creation}


def drawn(name: str) -> str:
    """Return the text of the SVG file of this name."""
    return DIAGRAMS[name]().svg()


if __name__ == "__main__":
    for each in DIAGRAMS:
        (HERE / f"{each}.svg").write_text(drawn(each))
