"""The application of row 8: answers with the contents of a file, read for each request, under one lock or another.

It is made at import, in each worker of gunicorn. ``BENCHMARK_FILE`` names the file; where it does not exist there
is nothing to serve. The path of the request chooses the lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from fcntl import LOCK_SH, LOCK_UN, flock
from wsgiref.types import StartResponse, WSGIEnvironment

from benchmarks.contenders import elections, peers
from dogpile_fs import Datafile, Dogpile, SyncReaderDogpile

__all__ = ["NAMES", "PLAIN", "application"]

PLAIN, BARE, DATAFILE = "no lock", "bare flock, shared and unlock", "Datafile.open"
NAMES = {
    "/plain": PLAIN,
    "/dogpile": peers.DOGPILE,
    "/reader": peers.READER,
    "/datafile": DATAFILE,
    "/flock": BARE,
    "/over-filelock": peers.OVER_FILELOCK,
    "/filelock-rw": peers.FILELOCK_RW,
}
_HOUR = 3600


def _readers(path: str) -> dict[str, Callable[[], bytes]]:
    def creator() -> None:
        raise AssertionError("it was made before the server was started")

    def plain() -> bytes:
        with open(path, "rb") as file:
            return file.read()

    dogpile = Dogpile(_HOUR, path)
    reader = SyncReaderDogpile(_HOUR, path)
    datafile = Datafile(path, _HOUR, lambda target: creator())
    once = elections.ELECTIONS[peers.OVER_FILELOCK].open(path, creator, _HOUR)
    locked = os.open(path, os.O_RDONLY)
    reading = peers.READ_WRITE[peers.FILELOCK_RW].open(path)[0]

    def by_dogpile() -> bytes:
        with dogpile.acquire(creator), open(path, "rb") as file:
            return file.read()

    def by_reader() -> bytes:
        with reader.acquire(creator), open(path, "rb") as file:
            return file.read()

    def by_datafile() -> bytes:
        with datafile.open() as file:
            return file.read()

    def by_flock() -> bytes:
        flock(locked, LOCK_SH)
        try:
            return plain()
        finally:
            flock(locked, LOCK_UN)

    def over_filelock() -> bytes:
        once()
        return plain()

    def by_filelock_rw() -> bytes:
        with reading(), open(path, "rb") as file:
            return file.read()

    return {
        "/plain": plain,
        "/dogpile": by_dogpile,
        "/reader": by_reader,
        "/datafile": by_datafile,
        "/flock": by_flock,
        "/over-filelock": over_filelock,
        "/filelock-rw": by_filelock_rw,
    }


_read = _readers(os.environ["BENCHMARK_FILE"])


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body = _read[environ["PATH_INFO"]]()
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))])
    return [body]
