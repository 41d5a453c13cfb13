"""The WSGI application: shows the last report, and never makes one.

``/`` is a page, ``/report.json`` the report as it is. Both are read once per worker and version:
``load`` looks at each request whether cron has swapped in another.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import BinaryIO
from wsgiref.types import StartResponse, WSGIEnvironment

from dogpile_fs import Datafile, LockTimeout

# Without a creator, it only reads. The timeout is for when there is nothing yet.
REPORT = Datafile(os.environ.get("USAGE_REPORT") or Path(__file__).with_name("report.json"), timeout=2)

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body {{ font-family: sans-serif }} td {{ text-align: right; padding-right: 1em }}</style>
</head><body><h1>{title}</h1>
<table>
{rows}
</table>
<p>Measured at {measured}, in {took:.1f} s. <a href="/report.json">report.json</a></p>
</body></html>
"""


def contents(file: BinaryIO) -> bytes:
    """Return the report in *file* unchanged."""
    return file.read()


def page(file: BinaryIO) -> bytes:
    """Return the report in *file* as HTML."""
    report = json.load(file)
    rows = [
        f"<tr><td>{d['bytes'] / 1e6:.1f} MB</td><td>{d['files']} files</td><th>{escape(d['name'])}</th></tr>"
        for d in report["directories"]
    ]
    measured = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report["began"]))
    title = f"Disk usage of {escape(report['root'])}"
    return _PAGE.format(title=title, rows="\n".join(rows), measured=measured, took=report["took"]).encode()


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer a request of gunicorn."""
    headers = [("Content-Type", "text/plain; charset=utf-8")]
    try:
        match environ.get("PATH_INFO", "/"):
            case "" | "/":
                status, body = "200 OK", REPORT.load(page)
                headers = [("Content-Type", "text/html; charset=utf-8")]
            case "/report.json":
                status, body = "200 OK", REPORT.load(contents)
                headers = [("Content-Type", "application/json")]
            case _:
                status, body = "404 Not Found", b"There is / and there is /report.json.\n"
    except LockTimeout:
        status, body = "503 Service Unavailable", b"There is no report yet.\n"
        headers.append(("Retry-After", "60"))
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [body]
