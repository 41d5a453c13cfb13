"""A process of a client: reads the datafile on the mount, creates it, and puts on record what it sees."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from dogpile_fs import Datafile, FileMutex

from .guest import MOUNT, RECORDS, record

__all__ = ["Worker", "version_in"]

#: Bytes of a version's name, and how often a version repeats it: 256 KB in all.
_LENGTH, _TIMES = 32, 8192


class Worker:
    """What a process does with the datafile *name*.

    :param by: how it reads: ``"open"``, ``"load"``, or ``"slowly"``, in a block that lasts a second; or
        ``"refresh"`` or ``"force"``, which read nothing; or ``"lock"``, which only takes the mutex.
    :param seconds: how long it goes on; 0: one call.
    :param pause: seconds between two calls.
    :param creates: seconds that a creation takes; ``None``: it only reads.
    :param until: a file of the directory of records: the creator waits for it, and a reader ends when it is there.
    :param waits: where the creator waits: with the new version ``"open"``, or when it is ``"made"``.
    :param expires: seconds after which a version is stale.
    """

    def __init__(
        self,
        name: str,
        by: str,
        *,
        seconds: float = 0.0,
        pause: float = 0.05,
        creates: float | None = None,
        until: str = "",
        waits: str = "open",
        expires: float | None = None,
    ) -> None:
        self._name, self._by, self._seconds, self._pause = name, by, seconds, pause
        self._creates, self._until, self._waits = creates or 0.0, until, waits
        self._resource = self._make(expires, None if creates is None else self._create)
        self._seen = ""

    def _make(self, expires: float | None, creator: Callable[..., object] | None) -> Any:
        return Datafile(MOUNT / self._name, expires, creator, validate=self._validate)

    def run(self) -> None:
        end, longest, calls = time.monotonic() + self._seconds, 0.0, 0
        while not calls or (time.monotonic() < end and not self._is_time()):
            began = time.monotonic()
            try:
                self._call()
            except Exception as error:
                self._record(what="error", error=repr(error))
            longest, calls = max(longest, time.monotonic() - began), calls + 1
            time.sleep(self._pause)
        self._record(what="done", calls=calls, longest=longest)

    def _record(self, **what: object) -> None:
        record(path=self._name, by=self._by, **what)

    def _create(self, target: str) -> None:
        version = f"{time.time_ns()}-{os.uname().nodename}-{os.getpid()}".ljust(_LENGTH, ".")
        self._record(what="begin", version=version)
        self._build(target, version)
        self._record(what="end", version=version)

    def _build(self, target: str, version: str) -> None:
        with open(target, "w") as file:
            file.write(version * (_TIMES // 2))
            file.flush()
            if self._waits == "open":
                self._work()
            file.write(version * (_TIMES // 2))

    def _validate(self, _target: str) -> None:
        if self._waits == "made":
            self._work()

    def _work(self) -> None:
        time.sleep(self._creates)
        while self._until and not self._is_time():
            time.sleep(0.05)

    def _is_time(self) -> bool:
        return bool(self._until) and (RECORDS / self._until).exists()

    def _call(self) -> None:
        if self._by == "lock":
            with FileMutex(f"{MOUNT / self._name}.dogpile.lock"):
                return
        if self._by in ("refresh", "force"):
            outcome = self._resource.refresh(force=self._by == "force")
            self._record(what="refreshed", outcome=str(outcome))
            return
        version = self._resource.load(version_in) if self._by == "load" else self._read()
        if version != self._seen:
            self._seen = version
            self._record(what="read", version=version)

    def _read(self) -> str:
        with self._resource.open("rb") as file:
            if self._by == "open":
                return version_in(file)
            try:
                time.sleep(1.0)
                return version_in(file)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                self._record(what="stale inside a block")  # which the docs do not promise otherwise
                return self._seen


def version_in(file: BinaryIO) -> str:
    data = file.read()
    version = data[:_LENGTH]
    return version.decode() if data == version * _TIMES else f"{len(data)} bytes that are none: {version!r}"


if __name__ == "__main__":
    Worker(**json.loads(sys.argv[1])).run()
