"""Names in signatures and docstrings become links to where the reference has them.

Docstrings name classes as their own module does, and signatures name types that are no public classes. `PUBLIC` is
tried first. A type for which the reference has a line in its table links to that table. Names of the standard
library and of frameworks stay text: their documentation is on other hosts. Any other name is a warning, and fails
the build.
"""

from __future__ import annotations

from typing import Any, cast

from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import find_pending_xref_condition

#: The modules in which public names are documented; the first that has a name counts.
PUBLIC = ("dogpile_fs", "dogpile_fs.events", "dogpile_fs.metrics")

#: Types in signatures that are no classes for users, which the reference's table explains.
EXPLAINED = {
    "Callback",
    "Created",
    "Creator",
    "Decorator",
    "Format",
    "Found",
    "Input",
    "KeyCreator",
    "Kind",
    "LockLike",
    "Mutex",
    "ReadWriteLock",
    "Subscription",
    "T",
    "Taker",
    "Validator",
    "Watched",
    "_AsyncResource",
    "_Given",
}

#: What other packages document, by its first or by its only component.
ELSEWHERE = {
    "AbstractAsyncContextManager",
    "AbstractContextManager",
    "CacheBackend",
    "HttpRequest",
    "HttpResponseBase",
    "Metric",
    "ProxyBackend",
    "collections",
    "contextlib",
    "datetime",
    "dogpile",
    "flask",
    "logging",
    "opentelemetry",
    "os",
    "pathlib",
    "starlette",
    "timedelta",
    "types",
}


class PublicNames(SphinxPostTransform):
    """Lead each name to where the reference has it."""

    default_priority = 9  # before Sphinx looks the names up

    def run(self, **_: Any) -> None:
        objects = cast("PythonDomain", self.env.get_domain("py")).objects
        for reference in list(self.document.findall(addnodes.pending_xref)):
            if reference.get("refdomain") != "py":
                continue
            parts = reference["reftarget"].lstrip(".").split(".")
            first_class = next((at for at, part in enumerate(parts) if part[:1].isupper()), len(parts) - 1)
            name = ".".join(parts[first_class:])
            module, owner = reference.get("py:module"), reference.get("py:class")
            tried = [f"{module}.{owner}.{name}", f"{module}.{name}", *(f"{each}.{name}" for each in PUBLIC)]
            if found := next((each for each in tried if each in objects), None):
                reference["reftarget"] = found
                reference["refspecific"] = False
            elif name in EXPLAINED:
                shown = find_pending_xref_condition(reference, "*") or reference
                reference[:] = list(shown.children)
                reference["refdomain"], reference["reftype"] = "std", "ref"
                reference["reftarget"], reference["refexplicit"] = "types-in-signatures", True
            elif parts[0] in ELSEWHERE:
                shown = find_pending_xref_condition(reference, "*") or reference
                reference.replace_self(list(shown.children))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_post_transform(PublicNames)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
