"""Real uvicorn and gunicorn send a datafile that is swapped meanwhile."""

from __future__ import annotations

import http.client
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import servers
from tests.support.processes import PATIENCE, wait_for
from tests.support.serving_app import contents, report_in

ROOT = Path(__file__).resolve().parents[2]
SWAPS, CLIENTS = 30, 4

#: Seconds for which a server keeps an idle connection: on a loaded machine a client may pause for longer than the
#: default, and find it closed.
IDLE = str(round(PATIENCE))
SERVERS = {
    "uvicorn": [
        *("uvicorn", "--log-level", "warning", "--timeout-keep-alive", IDLE),
        *("tests.support.serving_app:asgi_app", "--port", "{}"),
    ],
    "gunicorn": [
        *("gunicorn", "--threads", "4", "--keep-alive", IDLE),
        *("-b", "127.0.0.1:{}", "tests.support.serving_app:wsgi_app"),
    ],
}


class Client(threading.Thread):
    """Asks again and again, wholly, for a part, or whether there is anything new; keeps what was wrong."""

    def __init__(self, port: int, seed: int, is_over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._port, self._random, self._is_over = port, random.Random(seed), is_over
        self.wrong: list[str] = []
        #: By tag: the number of the version.
        self.numbers: dict[str, int] = {}
        self.statuses: list[int] = []

    def run(self) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)) as connection:
            tag = ""
            while not self._is_over.is_set():
                tag = self._ask(connection, tag)

    def _ask(self, connection: http.client.HTTPConnection, tag: str) -> str:
        """Ask once, and return the tag of the answer; *tag* is that of the last one."""
        headers: dict[str, str] = {}
        begin = self._random.randrange(100_000)
        match self._random.randrange(3) if tag in self.numbers else 0:
            case 1:
                headers = {"If-None-Match": tag}
            case 2:
                headers = {"Range": f"bytes={begin}-{begin + 60_000}", "If-Range": tag}
        connection.request("GET", "/", headers=headers)
        response = connection.getresponse()
        body, found = response.read(), response.headers["ETag"]
        self.statuses.append(response.status)
        self._judge(response.status, headers, tag, found, body, begin)
        return found

    def _judge(self, status: int, headers: dict[str, str], tag: str, found: str, body: bytes, begin: int) -> None:
        if status == 200:
            number = int(body[:8])
            if body != contents(number):
                self.wrong.append(f"a torn body of {len(body)} bytes that begins with version {number}")
            if self.numbers.setdefault(found, number) != number:
                self.wrong.append(f"versions {number} and {self.numbers[found]} have the tag {found}")
            if "If-None-Match" in headers and found == tag:
                self.wrong.append("the whole body, though it is the same version")
        elif status == 304:
            if found != tag or body:
                self.wrong.append(f"304 for {tag}, with {found} and {len(body)} bytes")
        elif status == 206:
            if found != tag or body != contents(self.numbers[tag])[begin : begin + 60_001]:
                self.wrong.append(f"a part of {found} instead of {tag}")
        else:
            self.wrong.append(f"status {status}")


@pytest.mark.system
@pytest.mark.parametrize("server", SERVERS)
def test_no_body_is_of_two_versions_while_the_file_is_swapped(server: str, tmp_path: Path) -> None:
    pytest.importorskip(server)
    port = servers.free_port()
    swap(tmp_path, 0)
    process = subprocess.Popen(
        [sys.executable, "-m", *(word.format(port) for word in SERVERS[server])],
        cwd=ROOT,
        env={**os.environ, "SERVING_APP": str(tmp_path), "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    is_over = threading.Event()
    clients = [Client(port, seed, is_over) for seed in range(CLIENTS)]
    try:
        wait_for(lambda: answers(port), "the server")
        for client in clients:
            client.start()
        for number in range(1, SWAPS):
            time.sleep(0.05)
            swap(tmp_path, number)
        wait_for(lambda: all({200, 206, 304} <= set(client.statuses) for client in clients), "all answers")
    finally:
        is_over.set()
        for client in clients:
            if client.ident is not None:  # started
                client.join(PATIENCE)
        os.killpg(process.pid, signal.SIGTERM)  # after the last answer: a server that ends closes connections
        process.wait(PATIENCE)
    assert [wrong for client in clients for wrong in client.wrong] == []
    assert len({number for client in clients for number in client.numbers.values()}) > SWAPS / 3


def swap(directory: Path, number: int) -> None:
    report_in(directory, number).refresh(force=True)


def answers(port: int) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        try:
            connection.request("HEAD", "/")
            return connection.getresponse().status == 200
        except OSError:
            return False
