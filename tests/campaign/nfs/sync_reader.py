"""A process of a client that changes a file in place, or reads it, under a SyncReaderDogpile on the mount."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

from dogpile_fs import SyncReaderDogpile

from .guest import MOUNT
from .worker import Worker

__all__ = ["SyncReaderWorker"]


class SyncReaderWorker(Worker):
    """What a process does with the file *name*, which writers change in place.

    A writer takes *creates* seconds between the two halves of a version, and puts on record since when it was
    inside; so does a reader, which looks at both halves.
    """

    def _make(self, expires: float | None, creator: Callable[..., object] | None) -> SyncReaderDogpile:
        return SyncReaderDogpile(expires, MOUNT / f"{self._name}.lock")

    def _call(self) -> None:
        dogpile: SyncReaderDogpile = self._resource
        path, began = f"{MOUNT / self._name}", time.time()
        if self._by == "force":
            dogpile.refresh(lambda: self._write(dogpile, path), force=True)
            self._record(what="swapped", took=time.time() - began)
            return
        with dogpile.acquire(lambda: self._write(dogpile, path)):
            came = time.time()
            first = _read(path)
            time.sleep(0.2)
            halves = {*first, *_read(path)}
            self._record(what="inside", came=came)
            if len(halves) != 1:
                raise AssertionError(f"changed inside a block: {halves}")

    def _write(self, dogpile: SyncReaderDogpile, path: str) -> None:
        version = f"{time.time_ns()}-{os.uname().nodename}-{os.getpid()}"
        with dogpile.acquire_write_lock():
            came = time.time()
            for half in ("first", "last"):
                with open(f"{path}.{half}", "w") as file:
                    file.write(version)
                time.sleep(self._creates)
            self._record(what="wrote", came=came)


def _read(path: str) -> list[str]:
    texts = []
    for half in ("first", "last"):
        with open(f"{path}.{half}") as file:
            texts.append(file.read())
    return texts


if __name__ == "__main__":
    SyncReaderWorker(**json.loads(sys.argv[1])).run()
