"""Concurrent clients of nginx: each sends a request, waits for the answer and rests, until the block ends.

nginx records the answers. What no answer came for is counted here; nothing is tried twice.
"""

from __future__ import annotations

import http.client
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from fleet.servers import ask

__all__ = ["Crowd"]

#: Seconds that a client rests between two requests.
_REST = 0.05


class Crowd:
    """Run *clients* threads that ask the server on *socket*. *failures*: what went wrong on their side."""

    def __init__(self, socket: Path, clients: int) -> None:
        self.failures: list[str] = []
        self._socket = socket
        self._home = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def _run(self) -> None:
        while not self._home.wait(_REST):
            try:
                status, text = ask(self._socket)
                if status != 200:
                    self.failures.append(f"status {status}: {text[:200]}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{type(error).__name__}: {error}")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._home.set()
        if kind is None:
            for thread in self._threads:
                thread.join()
