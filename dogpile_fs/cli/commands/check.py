"""``status --check``: ages against two thresholds, in one line, as a plugin of Nagios or Icinga prints it."""

from __future__ import annotations

from typing import NamedTuple

from ...errors import DogpileError
from ..arguments import Arguments
from ..durations import format_seconds
from ..exits import CRITICAL, OK, UNKNOWN, USAGE, WARNING, Exit, message_of
from ..output import now_told, printable_name
from .lookup import dogpile_at

__all__ = ["main"]

_WORDS = {OK: "OK", WARNING: "WARNING", UNKNOWN: "UNKNOWN", CRITICAL: "CRITICAL"}
#: From the best to the worst. A file that is known to be missing must not be hidden by one that is unknown.
_RANKS = list(_WORDS)


class _Finding(NamedTuple):
    """What is said of one path; *performance* is the value that monitoring draws, where there is one."""

    status: int
    text: str
    performance: str = ""


def main(arguments: Arguments) -> int:
    """Print the line; the exit status is that of the worst path."""
    assert arguments.check is not None
    warn, crit = arguments.check
    if warn > crit:
        raise Exit(USAGE, "--check: WARN is longer than CRIT: give the shorter duration first")
    if arguments.json:
        raise Exit(USAGE, "--check and --json exclude each other")
    findings = [_finding(path, arguments, warn, crit) for path in arguments.paths]
    findings.sort(key=lambda finding: _RANKS.index(finding.status), reverse=True)
    worst = findings[0].status
    told = [finding.text for finding in findings if finding.status != OK or worst == OK]
    line = f"DOGPILE {_WORDS[worst]}: {'; '.join(told)}"
    if performance := " ".join(finding.performance for finding in findings if finding.performance):
        line += f" | {performance}"
    print(line)
    return worst


def _finding(path: str, arguments: Arguments, warn: float, crit: float) -> _Finding:
    try:
        status = dogpile_at(path, arguments).status()
    except (DogpileError, OSError, Exit) as error:
        return _Finding(UNKNOWN, _plain(message_of(error)))
    now = now_told(status)
    more = f" ({now})" if now else ""
    if status.age is None or status.state == "missing":
        return _Finding(CRITICAL, _plain(f"{path} is missing{more}"))
    text = f"{path} is {format_seconds(status.age)} old"
    found = OK
    if status.state == "expired":
        text, found = f"{text}, expired", CRITICAL
    elif status.age > crit:
        text, found = f"{text}, more than {format_seconds(crit)}", CRITICAL
    elif status.age > warn:
        text, found = f"{text}, more than {format_seconds(warn)}", WARNING
    return _Finding(found, _plain(text + more), _performance(path, status.age, warn, crit))


def _performance(path: str, age: float, warn: float, crit: float) -> str:
    """Return ``'label'=value[unit];warn;crit;min``, whose label has neither quotes nor equals signs."""
    label = _plain(path).replace("'", "_").replace("=", "_")
    value, *thresholds = map(_decimal, (max(0.0, age), warn, crit))
    return f"'{label}'={value}s;{';'.join(thresholds)};0"


def _decimal(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".")  # no exponent: the format has none


def _plain(text: str) -> str:
    """Return *text* as a part of the one line, in which a bar separates text and performance data."""
    return printable_name(text).replace("|", "?")
