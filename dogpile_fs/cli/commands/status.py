"""``status``: what is known of files, as a table for people or as JSON for monitoring."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ... import Status
from ...errors import DogpileError
from ..arguments import Arguments
from ..durations import format_seconds
from ..exits import MISSING, OK, STALE, Exit, message_of, status_of
from ..output import now_told, printable_name, process_name, say
from . import check
from .lookup import dogpile_at

__all__ = ["as_object", "is_expiry_known", "main"]

_HEADS = ("PATH", "STATE", "AGE", "EXPIRES IN", "GENERATION", "COST", "BY", "NOW")
_EXITS = {"fresh": OK, "stale": STALE, "expired": MISSING, "missing": MISSING}


def main(arguments: Arguments) -> int:
    """Print the table or the JSON; the exit status is that of the worst state or error."""
    if arguments.check is not None:
        return check.main(arguments)
    worst = OK
    known: list[tuple[str, Status, bool]] = []
    for path in arguments.paths:
        try:
            status = dogpile_at(path, arguments).status()
        except (DogpileError, OSError, Exit) as error:
            say(message_of(error))
            worst = max(worst, status_of(error))
            continue
        known.append((path, status, "expire" in arguments or is_expiry_known(status)))
        worst = max(worst, _EXITS[status.state])
    if arguments.json:
        print(json.dumps([as_object(*each) for each in known], indent=2))
    elif known:
        rows = [_HEADS, *(_row(*each) for each in known)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(map(str.ljust, row, widths)).rstrip())
    return worst


def as_object(path: str, status: Status, expiry_known: bool) -> dict[str, Any]:
    """Return what ``--json`` says of the resource at *path*."""
    return {"path": path, **dataclasses.asdict(status), "expiry_known": expiry_known}


def is_expiry_known(status: Status) -> bool:
    """Return whether a creator has said when the version expires; else the next one may find it stale.

    A creator says so when it begins and when it ends. A version that was only stamped has cost nothing.
    """
    said = (status.expiretime, status.creating_since, status.failed_since)
    return said != (None, None, None) or bool(status.cost)


def _row(path: str, status: Status, expiry_known: bool) -> tuple[str, ...]:
    expires = "-"
    if status.state == "fresh":
        never = "never" if expiry_known else "unknown"
        expires = never if status.remaining is None else format_seconds(status.remaining)
    return (
        printable_name(path),
        status.state,
        _seconds(status.age),
        expires,
        str(status.generation),
        _seconds(status.cost),
        process_name(status.host, status.pid) or "-",
        now_told(status) or "-",
    )


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else format_seconds(max(0.0, seconds))
