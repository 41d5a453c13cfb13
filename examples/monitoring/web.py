"""A WSGI application that serves a report, and its metrics at ``/metrics``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, make_wsgi_app

from dogpile_fs import Datafile
from dogpile_fs.metrics import Collector

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def write_report(target: str) -> None:
    """Build the report at *target*; put your own slow report here."""
    time.sleep(2)
    with open(target, "w") as file:
        file.write(f"built at {time.strftime('%T')}\n")


REPORT = Datafile(os.environ.get("SHOP_REPORT", "report.txt"), 60, write_report)

# All workers give the same numbers, because these are in the sidecar: no multiprocess mode is needed for them.
REGISTRY = CollectorRegistry()
REGISTRY.register(Collector([REPORT]))
METRICS = make_wsgi_app(REGISTRY)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer a request."""
    if environ["PATH_INFO"] == "/metrics":
        return METRICS(environ, start_response)  # type: ignore[no-any-return]
    with REPORT.open("rb") as file:
        body: bytes = file.read()
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [body]
