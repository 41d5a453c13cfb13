"""Checks the built site: ``python docs/_ext/check_html.py DIRECTORY``.

Each link to a page, picture or heading of the site must lead somewhere, and none may lead to a source file. Links
to other hosts are not followed.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from html import unescape
from pathlib import Path

_LINK = re.compile(r'(?:href|src)="([^"]+)"')
_OTHER_HOST = re.compile(r"[a-z]+:|//")
#: Programs, which may have links in their text.
_CODE = re.compile(r"<pre>.*?</pre>", re.DOTALL)
_ID = re.compile(r'\bid="([^"]+)"')


@cache
def ids_in(page: Path) -> set[str]:
    return set(_ID.findall(page.read_text()))


def faults(site: Path) -> list[str]:
    """Return the links of all pages below *site* that lead nowhere, each as a sentence."""
    found: list[str] = []
    for page in sorted(site.rglob("*.html")):
        for link in map(unescape, _LINK.findall(_CODE.sub("", page.read_text()))):
            if _OTHER_HOST.match(link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path.partition("?")[0]).resolve() if path else page
            if target.suffix == ".rst" or not target.exists():
                found.append(f"{page}: {link} leads to no page")
            elif anchor and target.suffix == ".html" and anchor not in ids_in(target):
                found.append(f"{page}: {link} leads to no heading")
    return found


if __name__ == "__main__":
    complaints = faults(Path(sys.argv[1]).resolve())
    print("\n".join(complaints[:50]))
    sys.exit(bool(complaints))
