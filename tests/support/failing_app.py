"""A WSGI application whose datafile's source is away: run by a real gunicorn in tests/system."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dogpile_fs import Backoff, Datafile

from .processes import Record

__all__ = ["BACKOFF", "REASON", "application"]

BACKOFF = Backoff(initial=0.4, maximum=1.6, factor=2, jitter=0.1)
REASON = "the source is away"
_PLACE = Path(os.environ.get("FAILING_APP", "."))


def create(target: str) -> None:
    Record(_PLACE / "record").write("create")
    raise RuntimeError(REASON)


report = Datafile(_PLACE / "report", 0.01, create, backoff=BACKOFF)


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    with report.open() as file:
        body = file.read()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
