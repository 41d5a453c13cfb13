"""A WSGI application whose creator takes longer than its server lets a worker take: run by a real gunicorn."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dogpile_fs import CreationFailed, Datafile, LockTimeout

from .processes import Record

__all__ = ["application"]

_PLACE = Path(os.environ.get("BACKGROUND_APP", "."))
_SECONDS = float(os.environ.get("BACKGROUND_APP_SECONDS", "1"))
_WAY: Any = os.environ.get("BACKGROUND_APP_WAY", "process")


def create(target: str) -> None:
    record = Record(_PLACE / "record")
    record.write("begun")
    time.sleep(_SECONDS)
    Path(target).write_text(f"{os.getpid()} {time.monotonic_ns()}")
    record.write("ended")


report = Datafile(_PLACE / "report", 0.2, create, background=_WAY, timeout=0.2, durable=False)


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    began = time.monotonic()
    try:
        with report.open() as file:
            body = file.read()
        status = "200 OK"
    except (LockTimeout, CreationFailed) as error:  # before the first version
        body, status = str(error).encode(), "503 Service Unavailable"
    took = time.monotonic() - began
    start_response(
        status, [("Content-Length", str(len(body))), ("X-Took", f"{took}"), ("X-Pid", str(os.getpid()))]
    )
    return [body]
