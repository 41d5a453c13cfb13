"""The WSGI application: searches the index inside the dogpile's block, rebuilds it when elected.

Configured by the environment, and made at import: before the fork under ``gunicorn --preload``,
once per worker otherwise. The dogpile works either way.

========================  =========================================================================
``MODULEINDEX_DATAFILE``  the SQLite file; default ``moduleindex.db`` in the current directory
``MODULEINDEX_EXPIRE``    seconds after which it is stale; default 3600
``MODULEINDEX_RECORD``    directory of the record; default ``<datafile>.record``
``MODULEINDEX_ROOTS``     what is indexed, separated as in ``PATH``; default: all of ``sys.path``
``MODULEINDEX_LINGER``    seconds that each request stays inside its block longer than it must, as a
                          slow query would; default 0
``MODULEINDEX_WARM``      1: make a request of one's own at import already; under ``--preload`` the
                          datafile then is there before the workers are
========================  =========================================================================
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

from dogpile_fs import SyncReaderDogpile
from moduleindex import index, pages
from moduleindex.record import Record, latest


class ModuleIndex:
    """The application; one object serves all threads of a process, and its forks."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.datafile = Path(environment.get("MODULEINDEX_DATAFILE", "moduleindex.db")).resolve()
        roots = environment.get("MODULEINDEX_ROOTS", "")
        self.roots = roots.split(os.pathsep) if roots else index.installed_roots()
        self.linger = float(environment.get("MODULEINDEX_LINGER", "0"))
        self.directory = Path(environment.get("MODULEINDEX_RECORD", f"{self.datafile}.record"))
        self.record = Record(self.directory)
        expire = float(environment.get("MODULEINDEX_EXPIRE", "3600"))
        self.dogpile = SyncReaderDogpile(expire, str(self.datafile))
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

    def answer(self, request: str, words: str) -> tuple[int, str]:
        """One search, from the request to the status and page of its answer."""
        tell = self.record.write
        elected = False

        def creator() -> None:
            nonlocal elected
            elected = True
            self.create(request)

        tell("request", request)
        tell("acquire", request)
        with self.dogpile.acquire(creator):
            found = self.dogpile.status()
            entered = tell(
                "enter",
                request,
                elected=elected,
                createdtime=found.createdtime or -1.0,
                age=found.age or 0.0,
                state=found.state,
                creator=f"process {found.pid} on {found.host}",
            )
            try:
                edition, modules = self.look(words)
                version, fault = edition.version, ""
                status, page = 200, pages.search_page(words, modules, edition, entered)
            except (sqlite3.Error, index.TornDatafile) as error:
                version, fault = 0, f"{type(error).__name__}: {error}"
                status, page = 500, fault
            tell("leave", request, version=version, fault=fault)
        tell(
            "answer",
            request,
            status=status,
            version=version,
            elected=elected,
            age=entered.age,
            state=entered.state,
            creator=entered.creator,
        )
        return status, page

    def look(self, words: str) -> tuple[index.Edition, list[index.Module]]:
        """Search one edition of the datafile; to be called inside the block."""
        with index.reading(self.datafile) as connection:
            edition = index.edition(connection)
            modules = index.search(connection, words)
        time.sleep(self.linger)
        # The file stays in its place as long as we are inside: opened again, it must be the same.
        with index.reading(self.datafile) as connection:
            later = index.edition(connection)
        if later != edition:
            raise index.TornDatafile(f"{edition} became {later} inside the block")
        return edition, modules

    def create(self, request: str) -> None:
        """The creator: build the next version beside the datafile, swap when nobody is inside."""
        tell = self.record.write
        version = self.version() + 1
        tell("creation-begin", request, version=version)
        new = self.datafile.with_name(self.datafile.name + ".new")
        index.build(new, self.roots, version)
        tell("swap-ask", request, version=version)
        with self.dogpile.acquire_write_lock():
            tell("swap-begin", request, version=version)
            os.replace(new, self.datafile)
            tell("swap-end", request, version=version)
        tell("creation-end", request, version=version)

    def version(self) -> int:
        """The datafile's version; 0 when there is none, or none that can be read."""
        try:
            with index.reading(self.datafile) as connection:
                return index.edition(connection).version
        except (sqlite3.Error, index.TornDatafile):
            return 0


application = ModuleIndex(os.environ)
if os.environ.get("MODULEINDEX_WARM") == "1":
    application.answer(f"{os.getpid()}-warm", "")
