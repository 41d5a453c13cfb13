"""Histories: what each process of a round began and ended, and when, in an append-only file of its own.

One line per event, one ``write`` per line: what a process that is killed had written stays written. The moments
are those of ``CLOCK_MONOTONIC``, which is one clock for all processes and which nobody sets; the wall clock beside
them is what the process itself was told, true or not.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Event", "Journal", "Operation", "operations_in"]


@dataclass(frozen=True, slots=True)
class Event:
    """*what* happened in the operation *op* of *process*."""

    process: str
    op: int
    what: str
    at: float
    wall: float
    more: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        more = " ".join(f"{name}={value}" for name, value in self.more.items())
        return f"{self.at:.6f}  {self.process}#{self.op}  {self.what}  {more}".rstrip()


class Journal:
    """Where one process writes its history; may be shared by its threads."""

    def __init__(self, directory: Path, name: str) -> None:
        """*name*: of the process, without the process id."""
        self.directory = directory
        self.name = name
        self._open()

    def _open(self) -> None:
        self.process = f"{self.name}.{os.getpid()}"
        self._fd = os.open(
            self.directory / self.process, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666
        )
        self._next = 0
        self._lock = threading.Lock()

    def in_child(self, name: str) -> None:
        """After a fork: go on as another process."""
        os.close(self._fd)
        self.name = name
        self._open()

    def begin(self, do: str, **more: Any) -> int:
        """The number of the operation that begins now."""
        with self._lock:
            self._next += 1
            op = self._next
        self.note(op, "began", do=do, **more)
        return op

    def note(self, op: int, what: str, **more: Any) -> None:
        line = json.dumps([op, what, time.monotonic(), time.time(), more]) + "\n"
        os.write(self._fd, line.encode())

    def close(self) -> None:
        os.close(self._fd)


@dataclass(slots=True)
class Operation:
    """One operation of one process, with all that happened in it, in order."""

    process: str
    op: int
    events: list[Event]

    @property
    def began(self) -> Event:
        return self.events[0]

    @property
    def do(self) -> str:
        return str(self.began.more.get("do", ""))

    def event(self, what: str) -> Event | None:
        """The first of that name."""
        return next((event for event in self.events if event.what == what), None)

    @property
    def ended(self) -> Event | None:
        """None if the process died before, or was still at it when the round was over."""
        return self.event("ended")

    @property
    def last(self) -> Event:
        """The last sign of life."""
        return self.events[-1]

    @property
    def error(self) -> str | None:
        """The name of the exception that it ended with."""
        ended = self.ended
        return None if ended is None else ended.more.get("error")

    @property
    def went_well(self) -> bool:
        return self.ended is not None and self.error is None


def operations_in(directory: Path) -> list[Operation]:
    """All operations of all processes, by when they began. Half a last line is no event."""
    operations: list[Operation] = []
    for file in sorted(directory.iterdir()):
        own: dict[int, Operation] = {}
        for line in file.read_text().splitlines():
            try:
                op, what, at, wall, more = json.loads(line)
            except ValueError:
                continue
            event = Event(file.name, op, what, at, wall, more)
            own.setdefault(op, Operation(file.name, op, [])).events.append(event)
        operations += own.values()
    return sorted(operations, key=lambda operation: operation.began.at)
