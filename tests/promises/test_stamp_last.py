"""A stamp is written after the swap, never before."""

from __future__ import annotations

import time

from dogpile_fs import Dogpile
from tests.support.processes import Processes, Record

from .creators import create_for_ever


def test_promise_6_a_creator_that_dies_before_it_returns_leaves_the_old_createdtime(
    path: str, record: Record, processes: Processes
) -> None:
    dogpile = Dogpile(3600, path)
    victim = processes.start(create_for_ever, path, record)
    record.wait("create")
    victim.kill()
    victim.join()
    assert not dogpile.has_value
    assert dogpile.createdtime == -1


def test_promise_6_the_stamp_comes_after_the_creator_has_returned(path: str) -> None:
    dogpile = Dogpile(3600, path)
    finished = []

    def creator() -> None:
        assert not dogpile.has_value
        time.sleep(0.01)
        finished.append(time.time())

    dogpile.refresh(creator)
    assert finished[0] <= dogpile.createdtime <= time.time()
