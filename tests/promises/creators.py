"""Functions that the processes of several test files here run, and the number of rounds."""

from __future__ import annotations

import os
import time

from dogpile_fs import Dogpile
from tests.support.processes import Record

#: Rounds of the expensive tests; ``tox -e endurance`` sets 100.
ROUNDS = int(os.environ.get("DOGPILE_FS_ROUNDS", "4"))


def nothing() -> None:
    pass


def create_slowly(path: str, record: Record) -> None:
    def creator() -> None:
        record.write("create")
        record.wait("enough")
        record.write("created")

    Dogpile(3600, path).refresh(creator)


def create_for_ever(path: str, record: Record) -> None:
    def creator() -> None:
        record.write("create")
        time.sleep(3600)

    Dogpile(3600, path).refresh(creator)


def stand_by(path: str, record: Record) -> None:
    def creator() -> None:
        record.write("create")

    with Dogpile(3600, path).acquire(creator):
        record.write("inside")
