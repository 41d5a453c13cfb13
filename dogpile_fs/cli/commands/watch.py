"""``watch``: what happens to files, as it happens, a line each."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from ... import Status
from ..._os.waiting import Deadline
from ..arguments import Arguments
from ..durations import format_seconds
from ..exits import OK
from ..output import printable, printable_name
from .changes import Changes
from .lookup import dogpile_at

__all__ = ["Story", "main"]

_UNTIL_WRITTEN = 0.01


def main(arguments: Arguments) -> int:
    """Print until Ctrl-C, ``--count`` or ``--timeout``."""
    deadline = Deadline(arguments.timeout)
    changes = Changes(arguments.paths, arguments.directory)
    count = math.inf if arguments.count is None else arguments.count
    stories: dict[str, Story] = {}
    seen: dict[str, Status] = {}

    def look(path: str) -> Status:
        dogpile = dogpile_at(path, arguments.directory)
        if "expire" in arguments:
            dogpile.expiretime = arguments.expire
        status = dogpile.status()
        if status.invalidated and not status.generation:
            # It may be a sidecar that is there, but has no record yet: that will not last.
            time.sleep(_UNTIL_WRITTEN)
            status = dogpile.status()
        return status

    def happened() -> bool:
        return any(_lasting(look(path)) != _lasting(status) for path, status in seen.items())

    while True:
        for path in arguments.paths:
            status = look(path)
            seen[path] = status
            if path in stories:
                told = stories[path].events(status)
            else:
                stories[path], told = Story(status), iter([f"is {_described(status)}"])
            for event in told:
                print(f"{time.strftime('%F %T')} {printable_name(path)} {event}", flush=True)
                count -= 1
                if not count:
                    return OK
        if not deadline.left:
            return OK
        stale_in = min(_stale_in(status) for status in seen.values())
        changes.wait(min(deadline.left, stale_in), happened)


class Story:
    """What has happened to one resource, as far as its statuses tell.

    A status is taken at some moment between two system calls of its creator: what was swapped in may not be
    stamped yet, and whose attempt is on record may not be who holds the mutex. So a creation is told by the record
    alone: it has begun when its attempt is there, and ended well when the next generation is. What only stamps
    makes a generation as well, but leaves what the last creation cost.
    """

    def __init__(self, status: Status) -> None:
        self._last = status
        self._running = status.creating_since
        self._who = _who(status.creating_host, status.creating_pid)
        self._failed = status.failed_since

    def events(self, status: Status) -> Iterator[str]:
        """What must have happened since the last status, in order."""
        before, self._last = self._last, status
        created = status.generation > before.generation
        if created:
            self._running = None
            yield _creation(before, status)
        else:
            yield from self._failures(status)
            if status.createdtime not in (None, before.createdtime) and not status.creating:
                yield "replaced by a foreign hand"
        if status.invalidated and (status.invalidated != before.invalidated or created):
            yield f"invalidated ({status.invalidated})"
        elif status.state != before.state and status.state != "fresh":
            yield "stale" if status.state == "stale" else "gone"
        if status.creating_since not in (None, self._running, self._failed):
            self._running = status.creating_since
            self._who = _who(status.creating_host, status.creating_pid)
            yield f"creating: {self._who}"

    def _failures(self, status: Status) -> Iterator[str]:
        other = status.creating_since not in (None, self._running)
        if self._running is not None and (other or status.failed_since == self._running):
            self._failed, self._running = self._running, None
            yield f"failed: {self._who} made nothing"
        if status.failed_since not in (None, self._failed):
            self._failed = status.failed_since
            yield f"failed: {_who(status.failed_host, status.failed_pid)} made nothing"


def _creation(before: Status, status: Status) -> str:
    if status.cost == (before.cost or 0.0):
        # To the nanosecond what the creation before has cost: it was none, for that costs something of its own.
        what = "stamped anew (touch or rollback)"
    elif status.about is not None and status.about[3] < status.generation:
        what = "stamped, not swapped"
    else:
        what = f"created in {format_seconds(status.cost or 0)}"
    return f"{what}: generation {status.generation}, by {_who(status.host, status.pid)}"


def _described(status: Status) -> str:
    text = "not there yet" if status.state == "nothing" else str(status.state)
    if status.creating:
        text += f", creating: {_who(status.creating_host, status.creating_pid)}"
    return text


def _who(host: str | None, pid: int | None) -> str:
    return f"{printable(host)}:{pid}" if host else "somebody"


def _lasting(status: Status) -> tuple[object, ...]:
    """What changes by deeds, not by the hour."""
    return (
        status.state,
        status.createdtime,
        status.generation,
        status.invalidated,
        status.creating_since,
        status.creating,
        status.failed_since,
    )


def _stale_in(status: Status) -> float:
    """Seconds until time alone makes it stale."""
    if status.state != "fresh" or status.remaining is None:
        return math.inf
    return status.remaining + 0.001  # the other side of the moment
