"""A process of a client that reads, creates or prunes keys of one pattern on the mount."""

from __future__ import annotations

import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from dogpile_fs import Datafiles

from .guest import MOUNT
from .worker import Worker

__all__ = ["KEYS", "KeyWorker"]

#: How many keys there are.
KEYS = 4


class KeyWorker(Worker):
    """What a process does with all keys below the directory *name*: each call is for one of them.

    :param by: as of :class:`.Worker`, or ``"prune"``, which removes keys that are older than *expires* seconds.
    """

    def __init__(self, name: str, by: str, **options: Any) -> None:
        self._directory, self._older_than = name, options.get("expires")
        self._seen_of: dict[str, str] = defaultdict(str)
        super().__init__(name, by, **options)

    def _make(self, expires: float | None, creator: Callable[..., object] | None) -> Datafiles:
        if self._by != "open":  # keys do not expire, so that nothing but a prune brings another creation
            expires = None
        return Datafiles(MOUNT / self._directory / "{key}", expires, creator, parents=True)

    def _create(self, key: str, target: str) -> None:  # type: ignore[override]
        super()._create(target)

    def _call(self) -> None:
        files = self._resource
        if self._by == "prune":
            began = time.time()
            if gone := files.prune(older_than=self._older_than):
                self._record(what="pruned", began=began, gone=gone)
            return
        key = f"{random.randrange(KEYS)}"
        self._name, self._resource, self._seen = f"{self._directory}/{key}", files[key], self._seen_of[key]
        try:
            super()._call()
        finally:
            self._seen_of[key] = self._seen
            self._name, self._resource = self._directory, files


if __name__ == "__main__":
    KeyWorker(**json.loads(sys.argv[1])).run()
