"""After the first creation no caller waits for another caller's creator."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dogpile_fs import Dogpile, NeedRegenerationException
from tests.support.processes import Processes, Record, wait_for, waiters_for

from .creators import create_slowly, nothing


def test_promise_2_while_one_process_creates_all_others_pass_through_while_stale(
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


def _no_value() -> None:
    raise NeedRegenerationException


def _pass(path: str, record: Record, value_fn: Callable[[], None] | None) -> None:
    dogpile = Dogpile(3600, path, resource="file")
    with dogpile.acquire(lambda: pytest.fail("a second creator"), value_fn):
        record.write("inside")


@pytest.mark.parametrize("why", ["invalidated hard", "removed", "without a value"])
def test_promise_2_names_what_callers_wait_for_even_after_the_first_creation(
    path: str, record: Record, processes: Processes, why: str
) -> None:
    dogpile = Dogpile(3600, path, resource="file")
    dogpile.refresh(Path(path).touch)
    if why == "invalidated hard":
        dogpile.invalidate(hard=True)
    elif why == "removed":
        os.unlink(path)
    else:
        dogpile.invalidate()

    def create() -> None:
        def creator() -> None:
            record.write("create")
            record.wait("enough")
            Path(path).touch()
            record.write("created")

        Dogpile(3600, path, resource="file").refresh(creator)

    def value_fn() -> None:
        if not record.events("created"):
            _no_value()

    creating = processes.start(create)
    record.wait("create")
    waiting = processes.start(_pass, path, record, value_fn if why == "without a value" else None)
    wait_for(lambda: waiters_for(path + ".dogpile.lock") == 1, "the caller to wait")
    assert record.events("inside") == []
    record.write("enough")
    processes.join(creating, waiting)
    assert record.events("created")[0].at < record.events("inside")[0].at
