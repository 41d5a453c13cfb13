"""What the command prints on stderr, a line each: failures, and on request what it decides and why."""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import suppress

from .durations import format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .. import Status

__all__ = [
    "Reporter",
    "discard",
    "failure_told",
    "now_told",
    "printable",
    "printable_name",
    "process_name",
    "say",
]

#: Which of the package's log lines are printed: by default warnings, so that cron mails them.
_LEVELS = {-1: logging.CRITICAL + 1, 0: logging.WARNING, 1: logging.INFO}

#: The characters that stand in a name for bytes that are not text (PEP 383), without those for bytes that some
#: terminals obey (0x80 to 0x9f).
_BYTES = range(0xDCA0, 0xDD00)


def printable(text: str) -> str:
    """Return *text* with ``?`` for characters that a terminal would obey: anyone may have written a sidecar."""
    return "".join(character if character.isprintable() else "?" for character in text)


def printable_name(name: str) -> str:
    """Return the same of a file's name, or of a line with such names in it; they need not be text."""
    return "".join(part if ord(part) in _BYTES else printable(part) for part in name)


def process_name(host: str | None, pid: int | None) -> str:
    """Return the name of a process, such as ``web1:4711``; an empty string if *host* is not known."""
    return f"{printable(host)}:{pid}" if host else ""


def failure_told(status: Status) -> str:
    """Return how often creations in a row have failed, since when, how the last one failed, and when the next
    attempt is due."""
    now = time.time()
    told = "failed once" if status.failures == 1 else f"failed {status.failures} times"
    if status.failed_since is not None:
        told += f", {'' if status.failures == 1 else 'first '}{format_seconds(now - status.failed_since)} ago"
    told += f": {printable(status.failed_type or 'unknown')}"
    if status.failed_pid:
        told += f" (pid {status.failed_pid})"
    left = (status.retry_at or now) - now
    if left > 0:
        told += f"; next attempt in {format_seconds(left)}"
    elif status.state != "fresh" and not status.creating:
        told += "; next attempt due"
    return told


def now_told(status: Status) -> str:
    """Return what is going on and what failed; an empty string if nothing is."""
    parts = []
    if status.unlinked:
        parts.append("replaced where it is mounted from: mount its directory")
    if status.invalidated:
        parts.append(f"invalidated ({status.invalidated})")
    if status.creating_since is not None:
        process = process_name(status.creating_host, status.creating_pid) or "-"
        since = format_seconds(time.time() - status.creating_since)
        overdue = ", overdue" if status.overdue else ""
        parts.append(f"creating since {since} ago, by {process}{overdue}")
    elif status.creating:
        parts.append("creating")  # or another program has locked the file
    if status.failures:
        parts.append(failure_told(status))
    return "; ".join(parts)


class Reporter:
    """:param loudness: -1: print nothing; 0: failures; 1: decisions too; 2 and more: every step."""

    def __init__(self, loudness: int = 0) -> None:
        self.loudness = loudness
        log = logging.getLogger("dogpile_fs")
        for handler in log.handlers[:]:
            if isinstance(handler, _Lines):
                log.removeHandler(handler)
        log.addHandler(_Lines())
        log.setLevel(_LEVELS.get(loudness, logging.DEBUG))

    def report(self, text: str) -> None:
        """Print a decision."""
        if self.loudness >= 1:
            say(text)


def say(text: str) -> None:
    """Print *text* on stderr, if that is open."""
    try:
        # In one write: the lines of twenty cron jobs must not mix.
        sys.stderr.write(f"dogpile-fs: {printable_name(text)}\n")
        sys.stderr.flush()
    except (AttributeError, ValueError):
        pass  # stderr is closed; the exit status says enough
    except OSError:
        # Else the interpreter fails to flush the buffer at its end, and ends with status 120.
        with suppress(OSError, AttributeError, ValueError):
            discard(sys.stderr.fileno())


def discard(fd: int) -> None:
    """Let what is written to *fd* from now on go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, fd)
    os.close(nowhere)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self._warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "failure"):
            return  # the command itself prints it
        line = " ".join(record.getMessage().split())
        if record.levelno >= logging.WARNING:
            # A waiting command looks again and again, each time with a new object that warns again.
            if line in self._warned:
                return
            self._warned.add(line)
        say(line)
