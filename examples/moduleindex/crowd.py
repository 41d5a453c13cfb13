"""Concurrent clients: each sends a request, waits for the answer, and repeats, until the block ends.

Every request has a connection and a name of its own, by which the application's record and the client's view of it
are brought together. Nothing is tried twice: failed requests are on the list.
"""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import quote

_WORDS = ("", "server", "lock", "parse the", "json", "socket", "test", "file path", "xyzzy")


@dataclass(frozen=True)
class Answer:
    """One request as its client saw it; *status* 0 and a *failure* when no whole answer came."""

    request: str
    sent: int
    ended: int
    status: int
    failure: str = ""


def ask(port: int, target: str, request: str, timeout: float = 60) -> tuple[int, str]:
    """Send one request, and return the answer's status and its text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", target, headers={"X-Request-Id": request, "Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


class Crowd:
    """Run *clients* threads that send requests until the ``with`` block ends, at most *requests* each.

    After each answer they pause for so many seconds.
    """

    def __init__(self, port: int, clients: int = 8, requests: int = 10_000, pause: float = 0) -> None:
        self.answers: list[Answer] = []
        self._port = port
        self._requests = requests
        self._pause = pause
        self._home = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(f"client{number}",), daemon=True)
            for number in range(1, clients + 1)
        ]

    def _run(self, name: str) -> None:
        for number in range(1, self._requests + 1):
            if self._home.is_set():
                return
            request = f"{name}.{number}"
            status, failure = 0, ""
            sent = time.monotonic_ns()
            try:
                words = quote(_WORDS[number % len(_WORDS)])
                status, page = ask(self._port, f"/?q={words}", request)
                if status != 200:
                    failure = page
            except (OSError, http.client.HTTPException) as error:
                failure = f"{type(error).__name__}: {error}"
                # A server that is down refuses at once: try a hundred times a second, not more.
                self._home.wait(0.01)
            answer = Answer(request, sent, time.monotonic_ns(), status, failure)
            self.answers.append(answer)
            if self._pause:
                self._home.wait(self._pause)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._home.set()
        for thread in self._threads:
            thread.join()
