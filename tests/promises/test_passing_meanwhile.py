"""After the first creation no caller ever waits for another's creator."""

from __future__ import annotations

import pytest

from dogpile_fs import Dogpile
from tests.support.processes import Processes, Record

from .creators import create_slowly, nothing


def test_promise_2_while_one_creates_all_others_pass_through_with_the_old(
    path: str, record: Record, processes: Processes
) -> None:
    dogpile = Dogpile(3600, path)
    dogpile.refresh(nothing)
    dogpile.invalidate()
    creating = processes.start(create_slowly, path, record)
    record.wait("create")
    for _ in range(100):
        with dogpile.acquire(lambda: pytest.fail("a second creator")):
            assert dogpile.status().state == "stale"
        with dogpile.acquire():
            pass
    assert not dogpile.refresh(lambda: pytest.fail("a second creator"))
    assert record.events("created") == []
    record.write("enough")
    processes.join(creating)
    assert dogpile.status().state == "fresh"
