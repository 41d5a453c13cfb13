"""``history``: how the last attempts to create a resource ended, as a table for people or as JSON."""

from __future__ import annotations

import json
import os
import time

from ..._dogpile.process_scope import ProcessScope
from ..._sidecar.journal import Entry
from ..arguments import Arguments
from ..durations import format_seconds
from ..exits import MISSING, OK
from ..output import printable, printable_name, process_name, say
from .lookup import dogpile_at

__all__ = ["main"]

_HEADS = ("BEGUN", "BY", "IN", "COST", "GENERATION", "OUTCOME")
#: What ``--json`` leaves out: it says nothing to other programs.
_OURS = ("input_signs",)


def main(arguments: Arguments) -> int:
    """Print the table or the JSON, the oldest attempt first; the exit status is 2 if nothing is known."""
    scope = dogpile_at(arguments.path, arguments)._shared.scope
    assert isinstance(scope, ProcessScope)
    entries = scope.journal.entries()
    is_known = bool(entries) or os.path.lexists(scope.sidecar.path)
    if arguments.json:
        objects = [
            {name: value for name, value in each._asdict().items() if name not in _OURS} for each in entries
        ]
        print(json.dumps(objects, indent=2))
    elif is_known:
        rows = [_HEADS, *map(_row, entries)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(map(str.ljust, row, widths)).rstrip())
    if is_known:
        return OK
    say(f"nothing is known of {arguments.path}: no process has begun to create it")
    return MISSING


def _row(entry: Entry) -> tuple[str, ...]:
    outcome = printable(entry.outcome)
    if entry.error_type is not None:
        outcome += f": {printable(entry.error_type)}"
    if entry.changed_input is not None:
        outcome += f" ({printable_name(entry.changed_input)} had changed)"
    return (
        _moment(entry.begun),
        process_name(entry.host, entry.pid) or "-",
        entry.kind or "-",
        "-" if entry.cost is None else format_seconds(max(0.0, entry.cost)),
        str(entry.generation),
        outcome,
    )


def _moment(seconds: float) -> str:
    try:
        return time.strftime("%F %T", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):  # another program may have written any number
        return "-"
