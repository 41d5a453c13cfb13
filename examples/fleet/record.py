"""The record: each creation, each answer of nginx, and what the demo has done to hosts, in files of JSON lines.

============================  ======================================================================
``creations-HOST-PID.jsonl``  written by the workers: how each creation began, was built, and ended
``answers.jsonl``             written by nginx: one line per answer, with the headers of the worker
``disturbances.jsonl``        written by the demo: which host was cut off, which worker was stopped
============================  ======================================================================

A line is one ``write`` to a file opened for appending. Times are epoch seconds: all of it runs on one machine.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["ANSWERS", "DISTURBANCES", "Answer", "Creation", "Disturbance", "History", "Record", "Step", "append"]

Step = Literal["begin", "built", "created", "fenced", "failed"]

ANSWERS, DISTURBANCES = "answers.jsonl", "disturbances.jsonl"


@dataclass(frozen=True, slots=True)
class Creation:
    """One run of the creator.

    *token*: a random name, which is in its version. *generation*: the number that this was to have.
    *built*: when the creator returned; *end*: when the library told the *outcome*, ``created``, ``fenced`` or
    ``failed``; ``None`` and "" where that is not on record.
    """

    host: str
    pid: int
    token: str
    generation: int
    begin: float
    built: float | None = None
    end: float | None = None
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of nginx. *time*: when it was complete; *took*: seconds since the request came; *age*: of the
    version in seconds. *host* and *token* are empty where no worker has given it."""

    time: float
    took: float
    status: int
    host: str
    pid: int
    token: str
    generation: int
    age: float

    @property
    def asked(self) -> float:
        """When the request came."""
        return self.time - self.took


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What the demo has done: *kind* ``cut`` of a host, or ``pause`` of the worker *pid* during the creation
    *token*; from *begin* to *end*."""

    kind: Literal["cut", "pause"]
    host: str
    begin: float
    end: float
    pid: int = 0
    token: str = ""


class Record:
    """Appends the creations of this process."""

    def __init__(self, directory: Path, host: str) -> None:
        self._directory, self._host = directory, host

    def write(self, step: Step, token: str, *, generation: int) -> None:
        """Append one step of a creation, with the time."""
        pid = os.getpid()
        line = {"step": step, "token": token, "generation": generation, "time": time.time()}
        append(self._directory / f"creations-{self._host}-{pid}.jsonl", {"host": self._host, "pid": pid, **line})


def append(path: Path, line: dict[str, Any]) -> None:
    """Append one *line* to the file at *path*."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, json.dumps(line).encode() + b"\n")
    finally:
        os.close(fd)


class History:
    """All that is on record so far, read on as it is written."""

    def __init__(self, directory: Path) -> None:
        self.answers: list[Answer] = []
        self.disturbances: list[Disturbance] = []
        self._directory = directory
        self._offsets: dict[Path, int] = defaultdict(int)
        self._steps: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def update(self) -> None:
        """Read the lines written since; one that is not whole yet waits for the next time."""
        for path in sorted(self._directory.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._offsets[path])
                whole, newline, _ = file.read().rpartition(b"\n")
            self._offsets[path] += len(whole) + len(newline)
            for line in map(json.loads, whole.splitlines()):
                if path.name == ANSWERS:
                    self.answers.append(_answer(line))
                elif path.name == DISTURBANCES:
                    self.disturbances.append(Disturbance(**line))
                elif path.name.startswith("creations-"):
                    self._steps[line["token"]].append(line)

    @property
    def creations(self) -> list[Creation]:
        """All creations, in the order of their begin."""
        return sorted(map(_creation, self._steps.values()), key=lambda creation: creation.begin)


def _answer(line: dict[str, Any]) -> Answer:
    # nginx writes "-", or nothing, for a header that is not there.
    told = {name: "" if value == "-" else value for name, value in line.items()}
    return Answer(
        time=float(told["time"]),
        took=float(told["took"]),
        status=int(told["status"]),
        host=told["host"],
        pid=int(told["pid"] or 0),
        token=told["token"],
        generation=int(told["generation"] or 0),
        age=float(told["age"] or 0.0),
    )


def _creation(steps: Iterable[dict[str, Any]]) -> Creation:
    at = {line["step"]: line for line in steps}
    begin, built = at["begin"], at.get("built")
    end = next((at[outcome] for outcome in ("created", "fenced", "failed") if outcome in at), None)
    return Creation(
        host=begin["host"],
        pid=begin["pid"],
        token=begin["token"],
        generation=end["generation"] if end and end["step"] == "created" else begin["generation"],
        begin=begin["time"],
        built=None if built is None else built["time"],
        end=None if end is None else end["time"],
        outcome="" if end is None else end["step"],
    )
