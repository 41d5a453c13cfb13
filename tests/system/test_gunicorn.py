"""Real gunicorn, real clients, a real datafile, and one worker killed while it creates.

Each run is judged by its record: ``moduleindex.verdict`` has the rules, and ``test_verdict.py`` shows that they
find faults.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from moduleindex import index
from moduleindex.crowd import Answer, Crowd, ask
from moduleindex.record import History, Kind
from moduleindex.server import Gunicorn, Kill, kill
from moduleindex.verdict import Story, client_faults, faults

from dogpile_fs import Datafile
from tests.support.places import ours_in

EXPIRE = 1.0  # seconds
EXPIRIES = 5
#: Seconds between a client's requests. Eight clients still keep a reader inside, and leave time for the creators.
PAUSE = 0.02
PACKAGES = ("asyncio", "email", "encodings", "unittest")
PATIENCE = 150.0  # seconds; the machine may be busy with other tests

WORKERS = {
    "sync": ["--worker-class", "sync"],
    "gthread": ["--worker-class", "gthread", "--threads", "4"],
    "gevent": ["--worker-class", "gevent"],
}


@dataclass(frozen=True)
class Run:
    """The observations of one gunicorn server."""

    story: Story
    answers: list[Answer]
    datafile: Path
    page: str
    log: str

    def __repr__(self) -> str:
        return f"Run({len(self.answers)} answers, {self.story.creations})"


def packages() -> str:
    """A part of the standard library that takes a fraction of a second to index."""
    specs = [importlib.util.find_spec(name) for name in PACKAGES]
    found = [spec.submodule_search_locations for spec in specs if spec]
    return os.pathsep.join(place for places in found for place in places or ())


def more_than(count: int, kind: Kind) -> Callable[[History], bool]:
    """Return whether a history has more than *count* events of a kind."""
    return lambda history: len(history.of(kind)) > count


def kill_one_in_a_creation(history: History) -> list[Kill]:
    """Wait for a worker to begin a creation and kill it before its build is done.

    On a busy machine the worker may end its build before the signal. Then it is killed elsewhere, which must do no
    harm either, and the next one is tried.
    """
    kills: list[Kill] = []
    for _ in range(3):
        begun = len(history.of("creation-begin"))
        history.wait(more_than(begun, "creation-begin"), PATIENCE, "another creation's beginning")
        begin = history.of("creation-begin")[-1]
        kills.append(kill(begin.pid))
        history.update()
        if begin.request not in {event.request for event in history.of("built")}:
            return kills
    pytest.fail(f"no worker could be killed in the middle of a creation: {kills}")


def run(directory: Path, options: list[str], preload: bool) -> Run:
    """Start gunicorn, send the crowd, kill one creator midway, see enough expiries, end it all."""
    datafile = directory / "modules.db"
    settings = {
        "MODULEINDEX_DATAFILE": str(datafile),
        "MODULEINDEX_RECORD": str(directory / "record"),
        "MODULEINDEX_ROOTS": packages(),
        "MODULEINDEX_EXPIRE": str(EXPIRE),
        # With blocks this long, a reader is inside nearly always: the writer has to be let in.
        "MODULEINDEX_LINGER": "0.01",
        # A dogpile that was used before the fork has open descriptors, which the workers inherit.
        "MODULEINDEX_WARM": "1" if preload else "",
    }
    options = [*options, "--preload"] if preload else options
    history = History(directory / "record")
    with Gunicorn(["--workers", "4", *options], settings, directory / "log") as server:
        try:
            with Crowd(server.port, clients=8, pause=PAUSE) as crowd:
                history.wait(more_than(2, "creation-end"), PATIENCE, "2 expiries")
                kills = kill_one_in_a_creation(history)
                history.wait(more_than(EXPIRIES, "creation-end"), PATIENCE, f"{EXPIRIES} expiries")
            _, page = ask(server.port, "/requests", "the page")
        except (TimeoutError, OSError) as error:
            pytest.fail(f"{error}\ngunicorn's log:\n{server.log()}")
    history.update()
    return Run(Story.of(history.events, kills), crowd.answers, datafile, page, server.log())


@pytest.mark.system
@pytest.mark.parametrize("preload", [False, True], ids=["forked-first", "preload"])
@pytest.mark.parametrize("worker", WORKERS)
def test_one_creation_per_expiry_and_no_request_fails_or_waits_though_a_worker_dies_creating(
    worker: str, preload: bool, tmp_path: Path
) -> None:
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    if worker == "gevent":
        pytest.importorskip("gevent", reason="gevent is not installed")

    seen = run(tmp_path, WORKERS[worker], preload)

    wrong = [*faults(seen.story, EXPIRE), *client_faults(seen.story, seen.answers)]
    assert not wrong, "\n".join([*wrong[:20], f"({len(wrong)} faults)", seen.log])
    assert index.fault(seen.datafile) == ""

    # The datafile's own count agrees with the record; it alone has the builds of workers that were killed after
    # them.
    status = Datafile(seen.datafile, EXPIRE, readers=True).status()
    doubtful = [creation for creation in seen.story.creations if creation.built and not creation.finished]
    assert len(seen.story.finished) > EXPIRIES
    assert 0 <= status.generation - len(seen.story.finished) <= len(doubtful)
    # What the killed creator left has gone.
    assert ours_in(seen.datafile.parent) == []

    # And there was something to be judged: a creator died, and others came while one created.
    assert len(seen.story.creations) > len(seen.story.finished)
    assert seen.story.passes_beside_a_creation > EXPIRIES
    assert f"process {status.pid} on {status.host}" in seen.page
