"""The datafile: an SQLite index of Python modules, built by parsing their files.

``build`` makes one where no file is yet. ``edition`` is the cheap check that each request makes, ``fault`` the
thorough one. ``.py`` files below the roots are indexed: extension modules and modules inside archives have no
source to parse and are left out.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sqlite3
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

_SCHEMA = """
CREATE TABLE module (name TEXT NOT NULL, file TEXT NOT NULL, line TEXT NOT NULL);
CREATE TABLE edition (version INTEGER NOT NULL, rows INTEGER NOT NULL, checksum TEXT NOT NULL);
"""


class Module(NamedTuple):
    """One row: the dotted name, the file, and the first line of its docstring (or nothing)."""

    name: str
    file: str
    line: str


class Edition(NamedTuple):
    """A datafile's statement of its version and rows, written in the transaction that wrote the rows."""

    version: int
    rows: int
    checksum: str


class TornDatafile(Exception):
    """A datafile's rows are not those that its edition was written for."""


def installed_roots() -> list[str]:
    """Return where this interpreter looks for modules: every directory of ``sys.path``."""
    return [entry for entry in dict.fromkeys(map(os.path.abspath, sys.path)) if os.path.isdir(entry)]


def modules(roots: Sequence[str]) -> Iterator[Module]:
    """Parse each module below *roots*. A root that is itself a package keeps its own name."""
    tops = {os.path.realpath(root) for root in roots}
    for top in sorted(tops):
        base = Path(top)
        while (base / "__init__.py").exists():
            base = base.parent
        for folder, subfolders, files in os.walk(top):
            # site-packages lies below the standard library: it is parsed as a root of its own.
            subfolders[:] = sorted(
                name
                for name in subfolders
                if name.isidentifier()
                and name != "__pycache__"
                and os.path.realpath(os.path.join(folder, name)) not in tops
            )
            for name in sorted(files):
                path = Path(folder, name)
                if path.suffix == ".py" and path.stem.isidentifier():
                    yield Module(_dotted(path.relative_to(base)), str(path), _first_line(path))
                    # The build is one long computation; a gevent worker answers its other requests
                    # only where it yields, and a thread of a gthread worker gives up the GIL here.
                    time.sleep(0)


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _first_line(path: Path) -> str:
    try:
        docstring = ast.get_docstring(ast.parse(path.read_bytes()))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        # Installed files may be templates, Python 2, or broken on purpose (test data): a module
        # that cannot be read is still a module. ValueError covers null bytes and undecodable text.
        return ""
    return (docstring or "").strip().partition("\n")[0].encode(errors="replace").decode()


def _checksum(rows: Iterable[Sequence[str]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update("\0".join(row).encode() + b"\n")
    return digest.hexdigest()


def build(datafile: str | Path, roots: Sequence[str], version: int) -> None:
    """Write a new *datafile* with the number *version*, where no file is yet."""
    with closing(sqlite3.connect(datafile)) as connection, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's modules do not belong in our log
        connection.executescript(_SCHEMA)
        with connection:
            connection.executemany("INSERT INTO module VALUES (?, ?, ?)", modules(roots))
            rows = connection.execute("SELECT name, file, line FROM module ORDER BY rowid").fetchall()
            edition = Edition(version, len(rows), _checksum(rows))
            connection.execute("INSERT INTO edition VALUES (?, ?, ?)", edition)


def reading(datafile: str | Path) -> closing[sqlite3.Connection]:
    """Open a fresh read-only connection for one ``with`` block."""
    return closing(sqlite3.connect(f"{Path(datafile).resolve().as_uri()}?mode=ro", uri=True))


def edition(connection: sqlite3.Connection) -> Edition:
    """Return the edition, after a check that it has the rows that it says it has."""
    row = connection.execute("SELECT version, rows, checksum FROM edition").fetchone()
    if row is None:
        raise TornDatafile("it was never finished: it has no edition")
    found = Edition(*row)
    (rows,) = connection.execute("SELECT count(*) FROM module").fetchone()
    if rows != found.rows:
        raise TornDatafile(f"version {found.version} has {rows} rows instead of {found.rows}")
    return found


def search(connection: sqlite3.Connection, words: str, limit: int = 50) -> list[Module]:
    """Return the first *limit* modules whose name or docstring line contains every one of *words*."""
    wanted = words.split()
    where = " AND ".join("instr(lower(name || ' ' || line), ?) > 0" for _ in wanted) or "1"
    rows = connection.execute(
        f"SELECT name, file, line FROM module WHERE {where} ORDER BY name LIMIT ?",
        (*(word.lower() for word in wanted), limit),
    )
    return [Module(*row) for row in rows]


def fault(datafile: str | Path) -> str:
    """Return the fault of *datafile*, read from end to end; empty when it is whole and has modules."""
    try:
        with reading(datafile) as connection:
            (said,) = connection.execute("PRAGMA integrity_check").fetchone()
            if said != "ok":
                return f"integrity_check says {said}"
            _, count, expected = edition(connection)
            if not count:
                return "it has no modules"
            rows = connection.execute("SELECT name, file, line FROM module ORDER BY rowid")
            found = _checksum(rows)
            return "" if found == expected else f"the rows' checksum is {found} instead of {expected}"
    except (sqlite3.Error, TornDatafile) as error:
        return str(error)
