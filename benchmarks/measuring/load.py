"""Clients of rows 8 and 17: wrk where it is installed, else a minimal driver of our own.

The driver keeps so many connections busy from one process: it connects, sends the same bytes, and reads until the
server closes, so no connection is kept alive. The driver needs about a quarter of a worker's time for a request of
row 8: it is not the bottleneck, but on a small machine it takes its share of the processors, and hides a part of
every difference. So the server's own processor time is measured too.
"""

from __future__ import annotations

import re
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["CONNECTIONS", "Load", "driver", "requests_in"]

CONNECTIONS = 8
#: Seconds without an answer after which the server counts as broken, and not merely slow.
_PATIENCE = 60


@dataclass(frozen=True)
class Load:
    """The result of some seconds of requests."""

    requests: int
    seconds: float
    #: Answers that were not complete, or not 200.
    failures: int


def driver() -> tuple[str, Callable[[int, str, float], Load]]:
    """Return the name of the driver, and the driver: called with port, path and seconds."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return "a driver of its own (wrk is not installed)", drive
    return "wrk", lambda port, path, seconds: _wrk(wrk, port, path, seconds)


def _wrk(wrk: str, port: int, path: str, seconds: float) -> Load:
    whole = max(1, round(seconds))  # it takes no less, and no fractions
    command = [
        wrk,
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{whole}s",
        f"--timeout={_PATIENCE}s",
        f"http://127.0.0.1:{port}{path}",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=whole + _PATIENCE)
    return requests_in(done.stdout)


def requests_in(report: str) -> Load:
    """Return the result in wrk's output.

    >>> requests_in('''  3000 requests in 1.50s, 4.20MB read
    ...   Socket errors: connect 0, read 2, write 0, timeout 1
    ...   Non-2xx or 3xx responses: 4
    ... ''')
    Load(requests=3000, seconds=1.5, failures=7)
    """
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", report)
    if found is None:
        raise ValueError(f"wrk said something else: {report}")
    unit = {"ms": 0.001, "s": 1.0, "m": 60.0}[found[3]]
    errors = re.search(r"Socket errors: (.*)", report)
    failures = sum(int(number) for number in re.findall(r"\d+", errors[1])) if errors else 0
    other = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
    return Load(int(found[1]), float(found[2]) * unit, failures + (int(other[1]) if other else 0))


class _Request:
    """One request under way."""

    def __init__(self, address: tuple[str, int], words: bytes, selector: selectors.BaseSelector) -> None:
        self.socket = socket.create_connection(address)
        self.socket.sendall(words)
        self.socket.setblocking(False)
        self.answer = b""
        selector.register(self.socket, selectors.EVENT_READ, self)


def drive(port: int, path: str, seconds: float) -> Load:
    """Send requests for so many seconds, and wait for the last answers."""
    address = ("127.0.0.1", port)
    words = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    requests = failures = 0
    with selectors.DefaultSelector() as selector:
        started = time.monotonic()
        end = started + seconds
        busy = CONNECTIONS
        for _ in range(CONNECTIONS):
            _Request(address, words, selector)
        while busy:
            ready = selector.select(timeout=_PATIENCE)
            if not ready:
                raise TimeoutError("the server does not answer")
            for key, _ in ready:
                request: _Request = key.data
                try:
                    piece = request.socket.recv(65536)
                except ConnectionResetError:
                    piece = b""
                if piece:
                    request.answer += piece
                    continue
                selector.unregister(request.socket)
                request.socket.close()
                requests += 1
                failures += not _is_complete(request.answer)
                if time.monotonic() < end:
                    _Request(address, words, selector)
                else:
                    busy -= 1
        return Load(requests, time.monotonic() - started, failures)


def _is_complete(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    good = re.match(rb"HTTP/1\.[01] 200 ", head)
    return bool(good) and length is not None and len(body) == int(length[1])
