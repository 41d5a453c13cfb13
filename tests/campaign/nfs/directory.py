"""A process of a client that reads and creates a directory on the mount."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable

from dogpile_fs import DataDirectory

from .guest import MOUNT
from .worker import Worker

__all__ = ["DirectoryWorker"]

#: Files of a version, each of which has the version's name in it.
_FILES = 8


class DirectoryWorker(Worker):
    """As :class:`.Worker`, for a directory. Reads ``"slowly"`` take a second between two halves of the files."""

    def _make(self, expires: float | None, creator: Callable[..., object] | None) -> DataDirectory:
        return DataDirectory(MOUNT / self._name, expires, creator)

    def _build(self, target: str, version: str) -> None:
        os.mkdir(target)
        for number in range(_FILES):
            with open(os.path.join(target, f"{number}"), "w") as file:
                file.write(version)
            if number == 0:
                self._work()

    def _read(self) -> str:
        with self._resource.open() as path:
            try:
                found = [self._in_file(path, number) for number in range(_FILES)]
            except OSError as error:
                if self._by != "slowly" or error.errno not in (errno.ESTALE, errno.ENOENT):
                    raise
                self._record(what="gone inside a block", error=repr(error))
                return self._seen
        return found[0] if len(set(found)) == 1 else f"several versions: {found}"

    def _in_file(self, path: str, number: int) -> str:
        if number == _FILES // 2 and self._by == "slowly":
            time.sleep(1.0)
        with open(os.path.join(path, f"{number}")) as file:
            return file.read()


if __name__ == "__main__":
    DirectoryWorker(**json.loads(sys.argv[1])).run()
