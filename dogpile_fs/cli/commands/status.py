"""``status``: what is known of files, as a table for people or as JSON for monitoring."""

from __future__ import annotations

import dataclasses
import json
import time

from ... import Status
from ...errors import DogpileError
from ..arguments import Arguments
from ..durations import format_seconds
from ..exits import NOTHING, OK, STALE, Exit, status_of, told
from ..output import printable, printable_name, say
from .lookup import dogpile_at

__all__ = ["main"]

_HEADS = ("PATH", "STATE", "AGE", "EXPIRES IN", "GENERATION", "COST", "BY", "NOW")
_EXITS = {"fresh": OK, "stale": STALE, "nothing": NOTHING}


def main(arguments: Arguments) -> int:
    """Print it; the worst state of all, or the worst error, is the exit status."""
    worst = OK
    known: list[tuple[str, Status]] = []
    told_expiry = "expire" in arguments
    for path in arguments.paths:
        try:
            dogpile = dogpile_at(path, arguments.directory)
            if told_expiry:
                dogpile.expiretime = arguments.expire
            status = dogpile.status()
        except (DogpileError, OSError, Exit) as error:
            say(told(error))
            worst = max(worst, status_of(error))
            continue
        known.append((path, status))
        worst = max(worst, _EXITS[status.state])
    if arguments.json:
        objects = [
            {
                "path": path,
                **dataclasses.asdict(status),
                "expiry_known": told_expiry or _is_expiry_known(status),
            }
            for path, status in known
        ]
        print(json.dumps(objects, indent=2))
    elif known:
        _print_table([_HEADS, *(_row(path, status, told_expiry) for path, status in known)])
    return worst


def _is_expiry_known(status: Status) -> bool:
    """Whether anybody has said when it expires; else it may be stale to whoever asks next.

    Who creates says so, when he begins and when he is done. What was never created, but only stamped, has cost
    nothing.
    """
    begun = status.creating_since is not None or status.failed_since is not None
    return status.expiretime is not None or begun or bool(status.cost)


def _row(path: str, status: Status, told_expiry: bool) -> tuple[str, ...]:
    return (
        printable_name(path),
        status.state,
        _seconds(status.age),
        _expires_in(status, told_expiry),
        str(status.generation),
        _seconds(status.cost),
        _who(status.host, status.pid),
        _now(status),
    )


def _expires_in(status: Status, told_expiry: bool) -> str:
    if status.state != "fresh":
        return "-"
    if status.remaining is not None:
        return format_seconds(status.remaining)
    return "never" if told_expiry or _is_expiry_known(status) else "unknown"


def _now(status: Status) -> str:
    """What goes on, and what went wrong."""
    told = []
    if status.invalidated:
        told.append(f"invalidated ({status.invalidated})")
    if status.creating_since is not None:
        who = _who(status.creating_host, status.creating_pid)
        told.append(f"creating since {_ago(status.creating_since)}, by {who}")
    elif status.creating:
        told.append("creating")  # or locked by a foreign hand
    if status.failed_since is not None:
        who = _who(status.failed_host, status.failed_pid)
        told.append(f"failed: begun {_ago(status.failed_since)}, by {who}")
    return "; ".join(told) or "-"


def _ago(moment: float) -> str:
    return f"{_seconds(time.time() - moment)} ago"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else format_seconds(max(0.0, seconds))


def _who(host: str | None, pid: int | None) -> str:
    return f"{printable(host)}:{pid}" if host else "-"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
