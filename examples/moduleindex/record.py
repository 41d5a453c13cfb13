"""The record: what each process did, one line of JSON per event, in a file of its own.

A line is one ``write`` to a file opened for appending, so that a process that is killed leaves
whole lines behind and threads do not mix theirs. ``monotonic`` is CLOCK_MONOTONIC, one clock for
all processes of a machine (not across machines): it says what came before what. ``time`` is the
wall clock, which expiry is measured by.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

Kind = Literal[
    "request",  # a request came in
    "acquire",  # it is about to enter `acquire`
    "creation-begin",  # it was elected and runs the creator
    "built",  # the new datafile is built and found good; next it is swapped in
    "creation-end",  # it is swapped in and stamped, and the request is inside the `with` block
    "enter",  # the request is inside the `with` block
    "leave",  # it is about to leave it
    "answer",  # the answer is ready to be sent
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of one request; what its kind does not know stays at the default."""

    kind: Kind
    request: str
    pid: int
    monotonic: int
    time: float
    version: int = 0
    last: int = 0  # version, at the end of the block
    createdtime: float = -1.0
    age: float = -1.0
    state: str = ""
    creator: str = ""
    elected: bool = False
    status: int = 0
    fault: str = ""


_DEFAULTS = {field.name: field.default for field in fields(Event)}


class Record:
    """Appends this process's events. A fork is noticed: the child goes on in its own file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pid = 0
        self._descriptor = -1

    def write(self, kind: Kind, request: str, **facts: Any) -> Event:
        """Append one event, with the time at which it was called, and return it."""
        event = Event(
            kind=kind,
            request=request,
            pid=os.getpid(),
            monotonic=time.monotonic_ns(),
            time=time.time(),
            **facts,
        )
        written = {name: value for name, value in asdict(event).items() if value != _DEFAULTS[name]}
        os.write(self._opened(event.pid), json.dumps(written).encode() + b"\n")
        return event

    def _opened(self, pid: int) -> int:
        # Two threads may both find the file unopened; both descriptors append to it, one of them
        # for a single line. That is cheaper than a lock that a fork could catch while it is held.
        if self._pid != pid:
            self._directory.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self._directory / f"{pid}.jsonl", flags, 0o666)
            self._pid = pid
        return self._descriptor


class History:
    """All processes' events so far, read on as they are written."""

    def __init__(self, directory: Path) -> None:
        self.events: list[Event] = []
        self._directory = directory
        self._offsets: dict[Path, int] = defaultdict(int)
        self._kinds: dict[Kind, list[Event]] = defaultdict(list)

    def update(self) -> None:
        """Read the events written since; a line that is not whole yet waits for the next time."""
        for path in sorted(self._directory.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._offsets[path])
                whole, newline, _ = file.read().rpartition(b"\n")
            self._offsets[path] += len(whole) + len(newline)
            for line in whole.splitlines():
                event = Event(**json.loads(line))
                self.events.append(event)
                self._kinds[event.kind].append(event)

    def of(self, kind: Kind) -> list[Event]:
        """The events of one kind, in the order in which they happened."""
        return sorted(self._kinds[kind], key=lambda event: event.monotonic)

    def wait(self, until: Callable[[History], bool], seconds: float, what: str) -> None:
        """Read on *until* it is so; after *seconds* a ``TimeoutError`` says *what* did not come."""
        deadline = time.monotonic() + seconds
        while not until(self):
            if time.monotonic() > deadline:
                counts = {kind: len(events) for kind, events in self._kinds.items()}
                raise TimeoutError(f"{what} did not come within {seconds:g} s; so far: {counts}")
            time.sleep(0.02)
            self.update()


def latest(directory: Path, kind: Kind, count: int) -> list[Event]:
    """The last *count* events of one kind, newest first, from the ends of the files."""
    events: list[Event] = []
    for path in directory.glob("*.jsonl"):
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - 512 * 10 * count)
            file.seek(start)
            lines = file.read().rpartition(b"\n")[0].splitlines()
        # Read from the middle of the file, the first line is the rest of one.
        decoded = (Event(**json.loads(line)) for line in (lines[1:] if start else lines))
        events += [event for event in decoded if event.kind == kind]
    return sorted(events, key=lambda event: event.monotonic, reverse=True)[:count]
