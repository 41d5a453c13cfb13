"""The WSGI application: searches the index inside the datafile's block, rebuilds it when elected.

Configured by the environment, and made at import: before the fork under ``gunicorn --preload``,
once per worker otherwise. The datafile works either way.

========================  =========================================================================
``MODULEINDEX_DATAFILE``  the SQLite file; default ``moduleindex.db`` in the current directory
``MODULEINDEX_EXPIRE``    seconds after which it is stale; default 3600
``MODULEINDEX_RECORD``    directory of the record; default ``<datafile>.record``
``MODULEINDEX_ROOTS``     directories to index, separated as in ``PATH``; default: all of ``sys.path``
``MODULEINDEX_LINGER``    seconds that each request stays inside its block longer than it must, as a
                          slow query would; default 0
``MODULEINDEX_WARM``      1: make a request at import already; under ``--preload`` the
                          datafile then is there before the workers are
========================  =========================================================================
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

from dogpile_fs import Datafile
from moduleindex import index, pages
from moduleindex.record import Record, latest


@dataclass
class Request:
    """What the creator records of the request that it is called for."""

    name: str
    version: int = 0  # of the datafile that it created; 0: it was not elected


# A creator is called by the thread, or greenlet, that was elected.
_request: ContextVar[Request] = ContextVar("request")


class ModuleIndex:
    """The application; one object serves all threads of a process, and its forks."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.path = Path(environment.get("MODULEINDEX_DATAFILE", "moduleindex.db")).resolve()
        expire = float(environment.get("MODULEINDEX_EXPIRE", "3600"))
        # readers: each request opens the datafile twice, and must find the same one.
        self.datafile = Datafile(self.path, expire, self.create, validate=self.examine, readers=True)
        roots = environment.get("MODULEINDEX_ROOTS", "")
        self.roots = roots.split(os.pathsep) if roots else index.installed_roots()
        self.linger = float(environment.get("MODULEINDEX_LINGER", "0"))
        self.directory = Path(environment.get("MODULEINDEX_RECORD", f"{self.path}.record"))
        self.record = Record(self.directory)
        self._count = itertools.count(1)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") == "/requests":
            status, page = 200, pages.requests_page(latest(self.directory, "answer", 30))
        elif environ.get("PATH_INFO", "/") in ("", "/"):
            # The caller may name its request, to find it again in the record.
            request = environ.get("HTTP_X_REQUEST_ID", f"{os.getpid()}-{next(self._count)}")[:80]
            words = parse_qs(environ.get("QUERY_STRING", "")).get("q", [""])[0]
            status, page = self.answer(request, words)
        else:
            status, page = 404, "There is / and there is /requests.\n"
        body = page.encode()
        phrase = {200: "200 OK", 404: "404 Not Found", 500: "500 Internal Server Error"}[status]
        headers = [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("X-Worker", str(os.getpid())),
        ]
        start_response(phrase, headers)
        return [body]

    def answer(self, name: str, words: str) -> tuple[int, str]:
        """Do one search, and return the status and the page of its answer."""
        tell = self.record.write
        request = Request(name)
        _request.set(request)
        tell("request", name)
        tell("acquire", name)
        with self.datafile.acquire() as path:
            found = self.datafile.status()
            elected = request.version > 0
            if elected:
                tell("creation-end", name, version=request.version)
            entered = tell(
                "enter",
                name,
                elected=elected,
                createdtime=found.createdtime or -1.0,
                age=found.age or 0.0,
                state=found.state,
                creator=f"process {found.pid} on {found.host}",
            )
            try:
                edition, modules, later = self.look(path, words)
                version, last, fault = edition.version, later.version, ""
                status, page = 200, pages.search_page(words, modules, edition, entered)
            except (sqlite3.Error, index.TornDatafile) as error:
                version, last, fault = 0, 0, f"{type(error).__name__}: {error}"
                status, page = 500, fault
            tell("leave", name, version=version, last=last, fault=fault)
        tell(
            "answer",
            name,
            status=status,
            version=version,
            elected=elected,
            age=entered.age,
            state=entered.state,
            creator=entered.creator,
        )
        return status, page

    def look(self, path: str, words: str) -> tuple[index.Edition, list[index.Module], index.Edition]:
        """Search the datafile, and return which edition is at *path* at the beginning and at the end."""
        with index.reading(path) as connection:
            edition = index.edition(connection)
            modules = index.search(connection, words)
        time.sleep(self.linger)
        # No swap happens while this request is inside: opened again, it must be the same.
        with index.reading(path) as connection:
            return edition, modules, index.edition(connection)

    def create(self, target: str) -> None:
        """Build the next version at *target*, where no file is yet, as the creator."""
        request = _request.get()
        request.version = self.version() + 1
        self.record.write("creation-begin", request.name, version=request.version)
        index.build(target, self.roots, request.version)

    def examine(self, target: str) -> None:
        """Refuse a new version that is not whole. Otherwise it is swapped in next."""
        if fault := index.fault(target):
            raise index.TornDatafile(fault)
        request = _request.get()
        self.record.write("built", request.name, version=request.version)

    def version(self) -> int:
        """Return the version in place; 0 when there is none, or none that can be read."""
        try:
            with index.reading(self.path) as connection:
                return index.edition(connection).version
        except (sqlite3.Error, index.TornDatafile):
            return 0


application = ModuleIndex(os.environ)
if os.environ.get("MODULEINDEX_WARM") == "1":
    application.answer(f"{os.getpid()}-warm", "")
