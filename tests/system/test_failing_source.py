"""Real gunicorn under load, and a stale datafile whose creator fails at once."""

from __future__ import annotations

import http.client
import itertools
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from moduleindex.server import Gunicorn

from dogpile_fs import Datafile
from tests.support.failing_app import BACKOFF, REASON
from tests.support.processes import PATIENCE, Record, wait_for

ROOT = Path(__file__).resolve().parents[2]
#: Seconds of load; a minute where ``tox -e endurance`` asks for many rounds.
SECONDS = 5.0 if int(os.environ.get("DOGPILE_FS_ROUNDS", "4")) < 100 else 60.0
OLD = b"an old report"


class Client(threading.Thread):
    """Asks again and again until it is told to stop, and keeps the answers."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.over = threading.Event()
        self.answers: list[object] = []

    def run(self) -> None:
        while not self.over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                self.answers.append((answer.status, answer.read()))
            except OSError as error:
                self.answers.append(error)
            finally:
                connection.close()


@pytest.mark.system
def test_no_request_fails_and_the_source_is_asked_no_more_often_than_the_backoff_allows(tmp_path: Path) -> None:
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    path = tmp_path / "report"
    path.write_bytes(OLD)
    os.utime(path, (1000, 1000))
    (tmp_path / "configuration.py").touch()
    options = ["--workers", "4", "--worker-class", "sync", "--chdir", str(ROOT), "tests.support.failing_app"]
    record = Record(tmp_path / "record")
    settings = {"FAILING_APP": str(tmp_path)}
    with Gunicorn(options, settings, tmp_path / "log", tmp_path / "configuration.py") as server:
        clients = [Client(server.port) for _ in range(8)]
        for client in clients:
            client.start()
        try:
            record.wait("create")
            time.sleep(SECONDS)  # the time of the load itself
        finally:
            for client in clients:
                client.over.set()
            for client in clients:
                client.join()
        wait_for(lambda: not Datafile(path).status().creating, "the end of the last attempt")
        status = Datafile(path).status()
        log = server.log(10**9)

    answers = [answer for client in clients for answer in client.answers]
    assert len(answers) > 100
    assert {repr(answer) for answer in answers} == {repr((200, OLD))}
    attempts = [event.at for event in record.events("create")]
    assert len(attempts) >= 3, "nothing was tried again"
    for number, (before, after) in enumerate(itertools.pairwise(attempts), 1):
        delay = replace(BACKOFF, jitter=0.0).delay(number)
        assert after - before >= 0.9 * delay, f"attempt {number + 1} came after {after - before:.3f} s"
    assert (status.failures, status.failures_total) == (len(attempts), len(attempts))
    assert status.failed_type == "RuntimeError"
    lines = [line for line in log.splitlines() if "the creation failed" in line]
    assert len(lines) == len(attempts), "\n".join(lines)
    assert all(repr(str(path)) in line and REASON in line for line in lines)
    assert log.count("Traceback") == len(attempts)
