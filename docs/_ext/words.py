"""Words of code stay whole where a line wraps (``_static/site.css``).

A browser wraps a line behind each hyphen, so that the two hyphens of an option end a line and its name begins the
next. A word of code that is longer than `LONGEST` may still wrap anywhere: a narrow screen has no room for it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from docutils import nodes
from pygments.lexer import RegexLexer
from pygments.token import Other, Text
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

#: In characters: what leaves room for a second column on a screen of 390 pixels.
LONGEST = 20


class WholeWords(RegexLexer):
    """Make each word of a block of text an element, but for long ones."""

    name = "text"
    tokens: ClassVar = {"root": [(rf"\S{{1,{LONGEST}}}(?!\S)", Other), (r"\S+", Text), (r"\s+", Text)]}


class WholeLiterals(SphinxTransform):
    """Tell code in a sentence that has no long word from code that has."""

    default_priority = 720

    def apply(self, **_: Any) -> None:
        for literal in self.document.findall(nodes.literal):
            longest = max(map(len, literal.astext().split()), default=0)
            literal["classes"].append("whole" if longest <= LONGEST else "long")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_lexer("text", WholeWords)
    app.add_transform(WholeLiterals)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
