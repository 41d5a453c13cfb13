"""What ``top`` shows, as lines of text: a title and a table, the resources that need a look first."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Literal, NamedTuple, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ... import Status
from ..durations import format_seconds
from ..output import now_told, printable_name
from ..terminal import can_encode, wants_colours
from .survey import Finding

__all__ = ["Look", "frame", "listing"]

#: Columns of a bar, and the width of a terminal below which bars are shorter.
_BAR, _SHORT_BAR, _NARROW = 16, 8, 100
#: The width of lines that go to no terminal: more than any line has.
_WIDEST = 100_000
_HEADS = ("STATE", "LIFETIME", "AGE", "SIZE", "COST", "PATH")
#: The least width of columns: that of what is in them, so that the path alone is cut; and of an age, so that the
#: others keep their places from second to second.
_WIDTHS = {"STATE": len("unreadable"), "AGE": len("59m59s of 12h"), "SIZE": len("999 kB")}
#: The width of a terminal from which on a column is shown.
_LEAST = {"COST": _NARROW, "LIFETIME": 72}
_INDENT = "    "
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")

#: Styles of states, by rich's names; of the 16 colours that each terminal has.
_STYLES = {
    "fresh": "green",
    "stale": "yellow",
    "expired": "bold red",
    "missing": "red",
    "unreadable": "bold red",
    "keys": "",
}
#: From the one that needs a look most.
_RANKS = ("failing", "unreadable", "expired", "missing", "creating", "stale", "keys", "fresh")


class Look(NamedTuple):
    """How text for a stream may look: with colours, and with which characters for a bar."""

    colours: bool
    used: str
    left: str

    @classmethod
    def of(cls, stream: TextIO, environment: Mapping[str, str]) -> Look:
        """Return how text on *stream* may look."""
        used, left = ("█", "░") if can_encode(stream, "█░") else ("#", ".")
        return cls(wants_colours(stream, environment), used, left)


def listing(findings: Sequence[Finding], directory: str, look: Look, width: int | None) -> list[str]:
    """Return all *findings* as lines; *width*: columns, ``None``: as many as the longest line has."""
    found = _sorted(findings)
    lines = _lines([Text(_title(found, directory))], look, width or _WIDEST)
    return lines + _rows(found, directory, look, width or _WIDEST)


def frame(findings: Sequence[Finding], directory: str, look: Look, columns: int, height: int) -> list[str]:
    """Return what a terminal of so many *columns* and lines (*height*) shows: what has no room is counted."""
    found = _sorted(findings)
    clock = time.strftime("%T")
    title = Text(_title(found, directory), style="bold")
    if title.cell_len + len(clock) + 2 <= columns:
        title.append(" " * (columns - title.cell_len - len(clock)) + clock, style="not bold dim")
    room = height - 2  # without the title and the heads
    lengths = [1 + bool(_note(finding)[0]) for finding in found]
    count = len(found)
    if sum(lengths) > room:
        count = 0
        while sum(lengths[: count + 1]) < room:
            count += 1
    lines = _lines([title], look, columns) + _rows(found[:count], directory, look, columns)
    if count < len(found):
        lines += _lines([Text(f"{len(found) - count} more: {_states(found[count:])}", "dim")], look, columns)
    return lines[:height]


def _lines(what: Sequence[Table | Text], look: Look, columns: int) -> list[str]:
    """Return *what* as lines of at most so many *columns*."""
    stream = StringIO()
    console = Console(
        file=stream,
        width=columns,
        force_terminal=look.colours,
        color_system="auto" if look.colours else None,
        no_color=not look.colours,
        legacy_windows=False,
    )
    for each in what:
        console.print(each, markup=False, highlight=False, emoji=False, no_wrap=True, overflow="crop", crop=True)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def _rows(findings: Sequence[Finding], directory: str, look: Look, columns: int) -> list[str]:
    """Return the heads of the table, and one or two lines for each of *findings*."""
    if not findings:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    is_narrow = columns < _NARROW
    shown_heads = [head for head in _HEADS if columns >= _LEAST.get(head, 0)]
    for head in shown_heads:
        justify: Literal["right", "left"] = "right" if head in ("SIZE", "COST") else "left"
        table.add_column(head, no_wrap=True, justify=justify, min_width=_WIDTHS.get(head), overflow="crop")
    for finding in findings:
        row = _row(finding, directory, look, _SHORT_BAR if is_narrow else _BAR)
        table.add_row(*(row[head] for head in shown_heads))
    heads, *lines = _lines([table], look, columns)
    notes = [Text(f"{_INDENT}{text}", style) for text, style in map(_note, findings) if text]
    told = iter(_lines(notes, look, columns))
    shown = [heads]
    for finding, line in zip(findings, lines, strict=True):
        shown.append(line)
        if _note(finding)[0]:
            shown.append(next(told))
    return shown


def _note(finding: Finding) -> tuple[str, str]:
    """Return what stands below the row of *finding*, and its style; two empty strings if nothing does."""
    status = finding.status
    if status is not None:
        return now_told(status), "red" if status.failures else "cyan"
    if finding.keys is None:
        return printable_name(finding.complaint), "red"
    if finding.failing:
        return f"{finding.failing} of them fail", "red"
    return "", ""


def _row(finding: Finding, directory: str, look: Look, width: int) -> dict[str, Text]:
    """Return the row of *finding*, by the heads of its columns; *width*: columns of the bar."""
    state = _state(finding)
    status = finding.status
    age, size, cost, bar = "-", "-", "-", Text()
    if finding.keys is not None:
        size = f"{finding.keys} key{'' if finding.keys == 1 else 's'}"
    elif finding.size is not None:
        size = _bytes(finding.size)
    if status is not None and status.cost is not None:
        cost = format_seconds(max(0.0, status.cost))
    if status is not None and status.age is not None:
        # Whole seconds: a fraction would give the columns other places in each frame.
        age = format_seconds(int(max(0.0, status.age)))
        lifetime = _lifetime(status)
        if lifetime is not None:
            share = 1.0 if lifetime <= 0 else min(1.0, max(0.0, status.age / lifetime))
            used = round(share * width)
            bar = Text(look.used * used + look.left * (width - used), _STYLES[state])
            age += f" of {format_seconds(lifetime)}"
    path = printable_name(os.path.relpath(finding.path, directory))
    cells = (Text(state, _STYLES[state]), bar, *map(Text, (age, size, cost, path)))
    return dict(zip(_HEADS, cells, strict=True))


def _bytes(count: int) -> str:
    """Return *count* bytes as text of at most six characters."""
    value, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 9.95 else f"{value:.1f} {unit}"


def _state(finding: Finding) -> str:
    if finding.status is not None:
        return finding.status.state
    return "unreadable" if finding.keys is None else "keys"


def _lifetime(status: Status) -> float | None:
    """Return the seconds from the creation of the version until it is stale; ``None``: never, or unknown."""
    if status.fresh_until is None or status.createdtime is None:
        return None
    return max(0.0, status.fresh_until - status.createdtime)


def _sorted(findings: Sequence[Finding]) -> list[Finding]:
    """Return *findings*, those first that need a look; of the others, those that expire next."""

    def order(finding: Finding) -> tuple[int, float, str]:
        status = finding.status
        kind = _state(finding)
        if finding.failing or (status is not None and status.failures):
            kind = "failing"
        elif status is not None and status.creating:
            kind = "creating"
        left = float("inf") if status is None or status.remaining is None else status.remaining
        return _RANKS.index(kind), left, finding.path

    return sorted(findings, key=order)


def _title(findings: Sequence[Finding], directory: str) -> str:
    name = printable_name(directory)
    return f"{name}: {_states(findings)}" if findings else f"{name}: no datafiles"


def _states(findings: Sequence[Finding]) -> str:
    """Return how many resources are in each state, and how many are created now or fail."""
    states = [_state(finding) for finding in findings]
    keys = sum(finding.keys or 0 for finding in findings)
    counts = [(state, states.count(state)) for state in ("fresh", "stale", "expired", "missing", "unreadable")]
    counts += [("keys", keys)]
    counts += [("creating", sum(bool(each.status and each.status.creating) for each in findings))]
    counts += [("failing", sum(bool(each.status and each.status.failures) or each.failing for each in findings))]
    return ", ".join(f"{count} {name}" for name, count in counts if count) or "0 keys"
