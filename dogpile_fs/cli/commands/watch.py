"""``watch``: what happens to files, as it happens, a line each, for people or as JSON for programs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ... import Status
from ..._os.waiting import Deadline
from ..._sidecar.record import DIED
from ..arguments import Arguments
from ..durations import format_seconds
from ..exits import OK
from ..output import failure_told, printable_name, process_name
from .changes import Changes
from .lookup import dogpile_at

__all__ = ["Happening", "Story", "main"]

#: Seconds until a process that has made a sidecar has written its record: microseconds on an idle machine.
_UNTIL_WRITTEN = 0.01
#: Seconds after a version's last fresh moment at which it is looked at again; it is stale then.
_JUST_AFTER = 0.001

_UNKNOWN = "an unknown process"

#: What JSON says of every event, and of those that are about a creation, an invalidation, a failure or an attempt.
_GENERAL = ("state", "age", "generation")
_CREATION = ("cost", "host", "pid")
_INVALIDATION = ("invalidated",)
_FAILURE = ("failures", "failures_total", "failed_since", "failed_at", "failed_type", "failed_pid", "retry_at")
_ATTEMPT = ("creating_host", "creating_pid", "creating_since")


def main(arguments: Arguments) -> int:
    """Print until Ctrl-C, ``--count`` or ``--timeout``."""
    deadline = Deadline(arguments.timeout)
    changes = Changes(arguments.paths, arguments.directory)
    count = arguments.count
    stories: dict[str, Story] = {}

    def look(path: str) -> Status:
        dogpile = dogpile_at(path, arguments)
        status = dogpile.status()
        if status.invalidated and not status.generation:
            time.sleep(_UNTIL_WRITTEN)  # the sidecar may be there without a record
            status = dogpile.status()
        return status

    def happened() -> bool:
        return any(_deeds(look(path)) != _deeds(story.last) for path, story in stories.items())

    while True:
        for path in arguments.paths:
            status = look(path)
            if path in stories:
                events = stories[path].events(status)
            else:
                stories[path] = Story(status)
                events = iter([_first(status)])
            for event in events:
                print(_as_json(path, event, status) if arguments.json else _as_line(path, event), flush=True)
                if count is not None and (count := count - 1) == 0:
                    return OK
        if not deadline.left:
            return OK
        changes.wait(min(deadline.left, *(_stale_in(story.last) for story in stories.values())), happened)


class Happening(NamedTuple):
    """One event: a word for programs, a text for people, and what ``status --json`` says of it, by name."""

    event: str
    text: str
    facts: dict[str, object]


class Story:
    """The events of one resource, as far as its statuses show them.

    A status is taken between any two system calls of a creator: a version may be swapped in and not stamped yet,
    and the attempt on record may be that of another process than the mutex's holder. So a creation is known by the
    record alone: it begins when its attempt is on record, and ends well when the next generation is, or badly when
    one more failure is. A stamp alone also makes a generation, but leaves the cost of the last creation.
    """

    def __init__(self, status: Status) -> None:
        self.last: Status = status
        #: The status in which the attempt that runs was seen first, or the last one that ran.
        self._begun = status
        self._running = status.creating_since
        self._failures = status.failures_total
        self._failed_at = status.failed_at
        #: The version that was in place before the creation that runs.
        self._version = status.version

    def events(self, status: Status) -> Iterator[Happening]:
        """Yield what must have happened since the last status, in order."""
        before, self.last = self.last, status
        created = status.generation > before.generation
        running = status.creating_since
        # A death is told with the time of its attempt, before the next holder of the mutex counts it.
        is_dead = running is not None and running == self._failed_at
        # Where the mutex is taken and no attempt is on record, one begins or ends.
        is_changing = is_dead or (running is None and status.creating)
        failed = 0
        if not is_dead:
            failed = status.failures_total - self._failures
            self._failures, self._failed_at = status.failures_total, status.failed_at
        if failed > status.failures:
            yield Happening("failed", "failed", _facts(status, _FAILURE))  # before the creation that succeeded
        if created:
            self._running = None
            yield self._creation(before, status)
        if failed > 0 and status.failures:
            self._running = None
            event = "died" if status.failed_type == DIED else "failed"
            yield Happening(event, failure_told(status), _facts(status, _FAILURE))
        elif self._running not in (None, running) and not is_changing:
            self._running = None
            text = f"ended without a result: {_creator(self._begun)}"
            yield Happening("ended", text, _facts(self._begun, _ATTEMPT))
        if not created and status.createdtime not in (None, before.createdtime) and not status.creating:
            yield Happening("replaced", "replaced by another program", {})
        if status.invalidated and (status.invalidated != before.invalidated or created):
            yield Happening("invalidated", f"invalidated ({status.invalidated})", _facts(status, _INVALIDATION))
        elif status.state != before.state and status.state != "fresh":
            yield Happening(status.state, status.state, {})
        if running not in (None, self._running) and not is_dead:
            self._running = running
            self._begun = status
            yield Happening("creating", f"creating: {_creator(status)}", _facts(status, _ATTEMPT))
        if created or not status.creating:
            self._version = status.version

    def _creation(self, before: Status, status: Status) -> Happening:
        if status.cost == (before.cost or 0.0):
            # The same cost to the nanosecond: no creator ran.
            event, what = "stamped", "stamped anew (touch or rollback)"
        elif status.version is not None and status.version == self._version:
            event, what = "unchanged", "stamped, not swapped"
        else:
            event, what = "created", f"created in {format_seconds(status.cost or 0)}"
        by = process_name(status.host, status.pid) or _UNKNOWN
        return Happening(event, f"{what}: generation {status.generation}, by {by}", _facts(status, _CREATION))


def _first(status: Status) -> Happening:
    """Return what is said of the state that there is when watching begins."""
    failed = f", {failure_told(status)}" if status.failures else ""
    creating = f", creating: {_creator(status)}" if status.creating else ""
    everything = _facts(status, (*_CREATION, *_INVALIDATION, *_FAILURE, *_ATTEMPT))
    return Happening("watching", f"is {status.state}{failed}{creating}", everything)


def _as_line(path: str, happening: Happening) -> str:
    return f"{time.strftime('%F %T')} {printable_name(path)} {happening.text}"


def _as_json(path: str, happening: Happening, status: Status) -> str:
    """Return an object with what every event has, and then the facts of this one."""
    general = {"time": time.time(), "path": path, "event": happening.event, **_facts(status, _GENERAL)}
    return json.dumps(general | happening.facts)


def _facts(status: Status, names: Iterable[str]) -> dict[str, object]:
    return {name: getattr(status, name) for name in names}


def _creator(status: Status) -> str:
    return process_name(status.creating_host, status.creating_pid) or _UNKNOWN


def _deeds(status: Status) -> tuple[object, ...]:
    """Return what a process changes, and time alone does not."""
    return (
        status.state,
        status.createdtime,
        status.generation,
        status.invalidated,
        status.creating_since,
        status.creating,
        status.failures_total,
    )


def _stale_in(status: Status) -> float:
    """Return the seconds until time alone makes the version stale."""
    if status.state != "fresh" or status.remaining is None:
        return math.inf
    return status.remaining + _JUST_AFTER
