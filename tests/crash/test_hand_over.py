"""The hand-over of a creation to a process of its own, with the caller killed at any moment of it."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import Datafile
from tests.support import background
from tests.support.processes import PATIENCE, Processes, Record, overlaps, wait_for

#: Hand-overs; ``tox -e endurance`` makes 1,000.
COUNT = 10 * int(os.environ.get("DOGPILE_FS_ROUNDS", "10"))
#: Seconds within which the caller is killed: a hand-over takes 2 ms, and the child begins after 60 ms.
_LATEST = 0.12


def _report(path: str) -> Datafile:
    return Datafile(path, 3600, background.build, background="process", durable=False, backoff=None)


def _pass(path: str, barrier: Any) -> None:
    report = _report(path)
    barrier.wait()
    with report.open():
        time.sleep(PATIENCE)


def _compete(path: str, stop: str) -> None:
    report = _report(path)
    while not os.path.exists(stop):
        with report.open():
            time.sleep(0.0005)


@pytest.mark.parametrize("competes", [False, True], ids=["alone", "with another that competes"])
def test_each_hand_over_gives_one_creator_and_no_second_election_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Processes, competes: bool
) -> None:
    record = Record(tmp_path / "record")
    monkeypatch.setenv(background.RECORD, str(record.directory))
    path, stop = str(tmp_path / "report"), str(tmp_path / "stop")
    report = _report(path)
    report.refresh()
    dice = random.Random()
    if competes:
        processes.start(_compete, path, stop)
    import multiprocessing

    for _ in range(COUNT // 2):
        barrier = multiprocessing.get_context("fork").Barrier(2)
        victim = processes.start(_pass, path, barrier)
        report.invalidate()
        barrier.wait(PATIENCE)
        time.sleep(dice.uniform(0, _LATEST))  # the moment of the kill
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join(PATIENCE)
        wait_for(lambda: not report.status().creating, "the end of the creation")
    Path(stop).touch()
    wait_for(lambda: not report.status().creating, "the end of the last creation")
    spans = record.spans("begun", "ended")
    assert len(spans) == len(record.events("begun")), "each creator that began has ended"
    assert not overlaps(spans, spans)
    status = report.status()
    assert status.generation == len(spans), "each was stamped"
    print(f"{COUNT // 2} kills, {len(spans)} creations, {status.failures_total} died before they began")
