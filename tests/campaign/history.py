"""Histories: the beginnings and ends of each process's operations, in an append-only file of its own.

One line per event, one ``write`` per line: lines that a process wrote before it was killed stay. The moments are
those of ``CLOCK_MONOTONIC``, which is one clock for all processes and is never set. The wall clock beside them is
the one that the process itself read, true or not.
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
    """The file to which one process writes its history; its threads may share it."""

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
        """Go on as another process, after a fork."""
        os.close(self._fd)
        self.name = name
        self._open()

    def begin(self, do: str, **more: Any) -> int:
        """Return the number of the operation that begins now."""
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
    """One operation of one process, with all its events in order."""

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
        """Return the first event of that name."""
        return next((event for event in self.events if event.what == what), None)

    @property
    def ended(self) -> Event | None:
        """The last event; None if the process died before, or had not finished when the round was over."""
        return self.event("ended")

    @property
    def cancelled(self) -> Event | None:
        """The last event of an operation whose task was cancelled; its effect may come later."""
        return self.event("cancelled")

    @property
    def key(self) -> str:
        """The key that it is about; empty if it is about no certain one."""
        return str(self.began.more.get("key", ""))

    @property
    def last(self) -> Event:
        """The last event of any kind."""
        return self.events[-1]

    @property
    def error(self) -> str | None:
        """The name of the exception with which it ended."""
        ended = self.ended
        return None if ended is None else ended.more.get("error")

    @property
    def went_well(self) -> bool:
        return self.ended is not None and self.error is None


def operations_in(directory: Path) -> list[Operation]:
    """Return all operations of all processes, by their beginnings. Half a last line is no event."""
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
