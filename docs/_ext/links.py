"""Links between the pages, which name files, become links within the site.

A page says ```cron.rst <cron.rst>`_``, as a code host wants it. On the site that becomes a link to the page, with
its title as the text. A link to a file above ``docs/`` leads to the page that includes the file (`INCLUDED`), or
offers the file for download. A link to a file that does not exist is a warning, and so fails the build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

_log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]

#: Files above ``docs/``, and the page of the site that includes each.
INCLUDED = {
    "ARCHITECTURE.rst": "architecture",
    "CHANGELOG.rst": "changelog",
    "README.rst": "index",
    "SECURITY.rst": "security",
    "benchmarks/README.rst": "benchmarks_method",
    "examples/cron": "examples/cron",
    "examples/cron/README.rst": "examples/cron",
    "examples/fleet": "examples/fleet",
    "examples/fleet/README.rst": "examples/fleet",
    "examples/moduleindex": "examples/moduleindex",
    "examples/moduleindex/README.rst": "examples/moduleindex",
    "examples/monitoring": "examples/monitoring",
    "examples/monitoring/README.rst": "examples/monitoring",
    "tests/README.rst": "tests",
    "tests/campaign/model/README.rst": "models",
}

_PAGE = re.compile(r"docs/[\w/]+\.rst")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:|#|//")


class InnerLinks(SphinxTransform):
    """Replace each reference to a file of this repository."""

    default_priority = 5  # before docutils resolves the references of the page

    def apply(self, **_: Any) -> None:
        for reference in list(self.document.findall(nodes.reference)):
            uri = reference.get("refuri", "")
            if uri and not _SCHEME.match(uri):
                self._replace(reference, uri)
        # A docstring names a page by its file: it has no links that hold in an editor and on the site.
        here = Path(self.env.srcdir, self.env.docname).parent
        for docstring in self.document.findall(addnodes.desc_content):
            for literal in list(docstring.findall(nodes.literal)):
                if _PAGE.fullmatch(literal.astext()):
                    self._replace(literal, os.path.relpath(ROOT / literal.astext(), here))
        for target in list(self.document.findall(nodes.target)):
            if (uri := target.get("refuri", "")) and not _SCHEME.match(uri):
                target.parent.remove(target)

    def _replace(self, reference: nodes.reference | nodes.literal, uri: str) -> None:
        path, _, anchor = uri.partition("#")
        file = self._file(path)
        if file is None or anchor:
            _log.warning("a link leads to %s, which is no file here", uri, location=reference)
            return
        page = self._page(file)
        written = reference.astext()
        if page is None:
            new: nodes.Element = addnodes.download_reference(
                reftarget=os.path.relpath(file, Path(self.env.srcdir, self.env.docname).parent),
                refdoc=self.env.docname,
                refdomain="",
                reftype="download",
                refexplicit=True,
                refwarn=True,
            )
            new += nodes.literal("", written, classes=["download"])
        else:
            # A link whose text is the name of the file gets the title of the page instead.
            explicit = not written.endswith((".rst", path))
            new = addnodes.pending_xref(
                refdoc=self.env.docname,
                refdomain="std",
                reftype="doc",
                reftarget=f"/{page}",
                refexplicit=explicit,
                refwarn=True,
            )
            new += nodes.inline("", written, classes=["doc"])
        new.source, new.line = reference.source, reference.line
        reference.replace_self(new)

    def _file(self, path: str) -> Path | None:
        """Return what *path* leads to, from this page or from the file that the page includes."""
        docs = Path(self.env.srcdir)
        places = [Path(docs, self.env.docname).parent]
        places += [(ROOT / file).parent for file, page in INCLUDED.items() if page == self.env.docname]
        for place in places:
            if (found := Path(os.path.normpath(place / path))).exists() and ROOT in found.parents:
                return found
        return None

    def _page(self, file: Path) -> str | None:
        docs = Path(self.env.srcdir)
        if (name := str(file.relative_to(ROOT))) in INCLUDED:
            return INCLUDED[name]
        return (
            str(file.relative_to(docs).with_suffix("")) if docs in file.parents and file.suffix == ".rst" else None
        )


class NoContents(SphinxTransform):
    """Remove each list of contents that a page has for code hosts: the theme shows one."""

    default_priority = 721  # just after docutils has filled it in, and made each heading a link to it

    def apply(self, **_: Any) -> None:
        for topic in list(self.document.findall(nodes.topic)):
            if "contents" in topic["classes"]:
                topic.parent.remove(topic)
        for title in self.document.findall(nodes.title):
            title.attributes.pop("refid", None)


class Pictures(SphinxTransform):
    """Put each picture into a box of its own (``_static/site.css``).

    The box of a wide one scrolls where the page is narrow. The diagrams are drawn for narrow pages.
    """

    default_priority = 720

    def apply(self, **_: Any) -> None:
        for image in list(self.document.findall(nodes.image)):
            if image["uri"].endswith(".svg"):
                kinds = [] if "diagrams/" in image["uri"] else ["wide"]
                box = nodes.container(classes=["picture", *kinds])
                image.replace_self(box)
                box += image


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_transform(InnerLinks)
    app.add_transform(NoContents)
    app.add_transform(Pictures)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
