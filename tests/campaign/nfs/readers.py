"""A process of a client that keeps swaps out of its blocks, or swaps: ``readers=True`` on the mount."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from dogpile_fs import Datafile

from .guest import MOUNT
from .worker import Worker, version_in

__all__ = ["ReaderWorker"]


class ReaderWorker(Worker):
    """As :class:`.Worker`; what is at the path must be the same at both ends of a block.

    :param inside: seconds that a reader stays inside.
    """

    def __init__(self, name: str, by: str, *, inside: float = 0.0, **options: Any) -> None:
        self._inside = inside
        super().__init__(name, by, **options)

    def _make(self, expires: float | None, creator: Callable[..., object] | None) -> Datafile:
        return Datafile(MOUNT / self._name, expires, creator, readers=True)

    def _call(self) -> None:
        began = time.time()
        super()._call()
        if self._by == "force":
            self._record(what="swapped", took=time.time() - began)

    def _read(self) -> str:
        with self._resource.acquire() as path:
            came = time.time()
            first = self._at(path)
            time.sleep(self._inside)
            last = self._at(path)
            self._record(what="inside", came=came, version=first)
        return first if first == last else f"two in one block: {first} and {last}"

    def _at(self, path: str) -> str:
        """Return what is at *path* on the server, whatever this system has kept of it."""
        os.close(os.open(os.path.dirname(path), os.O_RDONLY))
        with open(path, "rb") as file:
            return version_in(file)


if __name__ == "__main__":
    ReaderWorker(**json.loads(sys.argv[1])).run()
