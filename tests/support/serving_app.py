"""Applications that send a datafile, for real servers."""

from __future__ import annotations

import os
from pathlib import Path

from dogpile_fs import Datafile
from dogpile_fs.integrations import asgi, wsgi

__all__ = ["asgi_app", "contents", "report_in", "wsgi_app"]


def contents(number: int) -> bytes:
    """Return what version *number* has: another length each, and more than servers send at once."""
    return b"%08d" % number * (20_000 + 1_000 * (number % 17))


def report_in(directory: str | os.PathLike[str], number: int = 0) -> Datafile:
    """Return the datafile, whose creator makes version *number*."""

    def create(target: str) -> None:
        Path(target).write_bytes(contents(number))

    return Datafile(Path(directory) / "report.bin", 3600, create, durable=False)


_report = report_in(os.environ.get("SERVING_APP", "."))
asgi_app, wsgi_app = asgi.DatafileApp(_report), wsgi.DatafileApp(_report)
