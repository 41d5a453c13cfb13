"""Draws the diagrams of ``docs/how_it_works.rst``: ``python docs/diagrams/draw.py``.

They are SVG files with a background of their own, in the colours of ``docs/demo.svg``, for light and dark pages.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

__all__ = ["DIAGRAMS", "drawn"]

HERE = Path(__file__).parent
WIDTH = 720

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
    drawing = Drawing("What one pass asks, and where it leads", 420)
    drawing.box(20, 24, 200, 52, "A caller opens the", "datafile")
    drawing.box(20, 128, 200, 52, "What does the sidecar", "say?")
    drawing.arrow((120, 76), (120, 128))
    drawing.box(500, 128, 200, 52, "pass with the version", "in place", kind="fresh")
    drawing.arrow((220, 154), (500, 154), label="fresh", at=(340, 146))
    drawing.box(20, 240, 200, 52, "Is the creation mutex", "free?")
    drawing.arrow((120, 180), (120, 240), label="stale", at=(130, 216))
    drawing.box(500, 204, 200, 52, "pass with the old", "version", kind="stale")
    drawing.arrow((220, 258), (360, 258), (360, 230), (500, 230), label="no: another creates", at=(226, 250))
    drawing.box(500, 290, 200, 52, "create, swap, stamp;", "pass with the new one", kind="create")
    drawing.arrow((220, 278), (360, 278), (360, 316), (500, 316), label="yes: elected", at=(226, 296))
    drawing.box(20, 344, 200, 52, "Wait for the mutex, and", "look again", kind="wait")
    drawing.arrow((20, 154), (8, 154), (8, 370), (20, 370))
    drawing.text(16, 228, "missing", "quiet")
    drawing.arrow((220, 370), (600, 370), (600, 342), label="still missing: create", at=(240, 362))
    return drawing


def an_election() -> Drawing:
    drawing = Drawing("Three processes around an expiry: one creates, the others go on", 330)
    for number, name in enumerate("ABC"):
        drawing.text(20, 92 + 64 * number, f"process {name}", "strong")
    drawing.text(110, 36, "fresh", "quiet")
    drawing.text(258, 36, "stale", "quiet")
    drawing.text(582, 36, "fresh again", "quiet")
    drawing.mark(250, 24, 260)
    drawing.mark(574, 24, 190)
    drawing.mark(574, 240, 260)
    drawing.box(110, 68, 120, 40, "reads", kind="fresh")
    drawing.box(262, 68, 306, 40, "has the mutex: creates, swaps, stamps", kind="create")
    drawing.box(582, 68, 118, 40, "reads the new", kind="fresh")
    drawing.box(140, 132, 100, 40, "reads", kind="fresh")
    drawing.box(290, 132, 130, 40, "reads the old", kind="stale")
    drawing.box(440, 132, 120, 40, "reads the old", kind="stale")
    drawing.box(600, 132, 100, 40, "the new", kind="fresh")
    drawing.box(330, 196, 350, 40, "has opened the old one, and goes on reading it", kind="stale")
    drawing.text(250, 278, "expired", "quiet", "middle")
    drawing.text(574, 278, "swapped in, one step", "quiet", "middle")
    drawing.text(20, 312, "If A is killed, the kernel frees the mutex, and the next caller is elected.", "quiet")
    return drawing


def the_files() -> Drawing:
    drawing = Drawing("The files beside report.json, and what each is for", 410)
    rows = [
        ("$report.json", "fresh", "the datafile", "readers open it; a rename replaces it"),
        ("$report.json.dogpile", "box", "the sidecar", "each pass looks at its length; a creation stamps it"),
        ("$report.json.dogpile.lock", "create", "the creation mutex", "its holder creates; empty, never written"),
        ("$report.json.dogpile.rwlock", "wait", "readers and writer", "with readers=True alone"),
        ("$report.json.dogpile.journal", "box", "the last attempts", "for people: dogpile-fs history"),
    ]
    for number, (name, kind, what, use) in enumerate(rows):
        top = 20 + 56 * number
        drawing.box(20, top, 270, 40, name, kind=kind)
        drawing.text(310, top + 17, what, "strong")
        drawing.text(310, top + 35, use, "quiet")
    drawing.box(20, 306, 680, 88, kind="box")
    drawing.text(36, 330, ".dogpile/", "code")
    drawing.text(120, 330, "hidden sub-directory: what is not in place", "quiet")
    drawing.box(36, 344, 230, 36, "$.dogpile-new-...", kind="create")
    drawing.text(276, 367, "being built", "quiet")
    drawing.box(380, 344, 190, 36, "$.dogpile-kept-...", kind="stale")
    drawing.text(580, 367, "earlier (keep=)", "quiet")
    return drawing


def a_creation() -> Drawing:
    drawing = Drawing("The steps of a creation, and what is there if its process is killed", 294)
    steps = [
        ("take the", "mutex"),
        ("put the", "attempt", "on record"),
        ("create", "a new file"),
        ("validate", "it"),
        ("fsync,", "rename,", "fsync"),
        ("stamp the", "sidecar"),
        ("release the", "mutex"),
    ]
    kinds = ["wait", "box", "create", "create", "fresh", "box", "wait"]
    for number, (lines, kind) in enumerate(zip(steps, kinds, strict=True)):
        left = 16 + 100 * number
        drawing.box(left, 40, 86, 72, *lines, kind=kind)
        if number:
            drawing.arrow((left - 14, 76), (left, 76))
    drawing.text(16, 26, "in this order, under the creation mutex", "quiet")
    drawing.mark(459, 116, 224)
    drawing.text(16, 158, "Killed before the rename:", "strong")
    drawing.text(16, 180, "the old version, whole. The next caller counts a death,", "quiet")
    drawing.text(16, 198, "removes the unfinished file and creates.", "quiet")
    drawing.text(474, 158, "Killed after it:", "strong")
    drawing.text(474, 180, "the new version, whole.", "quiet")
    drawing.text(474, 198, "Without a stamp it counts as", "quiet")
    drawing.text(474, 216, "created at its mtime.", "quiet")
    drawing.text(
        16,
        256,
        "In each case the kernel frees the mutex at that moment. The stamp comes last, so it never",
        "quiet",
    )
    drawing.text(16, 274, "describes a file that is not in place.", "quiet")
    return drawing


DIAGRAMS = {"pass": a_pass, "election": an_election, "files": the_files, "creation": a_creation}


def drawn(name: str) -> str:
    """Return the text of the SVG file of this name."""
    return DIAGRAMS[name]().svg()


if __name__ == "__main__":
    for each in DIAGRAMS:
        (HERE / f"{each}.svg").write_text(drawn(each))
