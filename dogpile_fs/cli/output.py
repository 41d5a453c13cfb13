"""What is told to the user: failures, and on request what is decided and why. On stderr, a line each."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

__all__ = ["Voice", "printable", "printable_name", "say"]

# What of the package's own log is told: warnings by default, as cron's mail shall show them.
_LEVELS = {-1: logging.CRITICAL + 1, 0: logging.WARNING, 1: logging.INFO}


#: What Python makes of the bytes of a name that is not text; but not of those that are control characters to a
#: terminal of an old kind.
_BYTES = range(0xDCA0, 0xDD00)


def printable(text: str) -> str:
    """*text* without what would do something to a terminal: a sidecar is written by whoever may."""
    return "".join(character if character.isprintable() else "?" for character in text)


def printable_name(name: str) -> str:
    """The same of the name of a file, or of a line with such names in it; they need not be text."""
    return "".join(part if ord(part) in _BYTES else printable(part) for part in name)


class Voice:
    """:param loudness: -1: tell nothing; 0: failures; 1: decisions too; 2 and more: every step."""

    def __init__(self, loudness: int = 0) -> None:
        self.loudness = loudness
        log = logging.getLogger("dogpile_fs")
        for handler in log.handlers[:]:
            if isinstance(handler, _Lines):
                log.removeHandler(handler)
        log.addHandler(_Lines(self))
        log.setLevel(_LEVELS.get(loudness, logging.DEBUG))

    def fail(self, text: str) -> None:
        if self.loudness >= 0:
            self.say(text)

    def tell(self, text: str) -> None:
        if self.loudness >= 1:
            self.say(text)

    def say(self, text: str) -> None:
        """Tell it in any case."""
        say(text)


def say(text: str) -> None:
    """Tell *text* on stderr, if there is one."""
    try:
        # One write: the lines of twenty cron jobs must not run into each other.
        sys.stderr.write(f"dogpile-fs: {printable_name(text)}\n")
        sys.stderr.flush()
    except (AttributeError, ValueError):
        pass  # nobody listens; the exit status tells
    except OSError:
        # What is in the buffer must go somewhere: else the interpreter ends with a status of its own, 120.
        with suppress(OSError, AttributeError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, sys.stderr.fileno())
            os.close(nowhere)


class _Lines(logging.Handler):
    def __init__(self, voice: Voice) -> None:
        super().__init__()
        self._voice = voice
        self._warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(record.getMessage().split())
        if record.levelno >= logging.WARNING:
            # Who waits looks again and again, each time with new eyes.
            if line in self._warned:
                return
            self._warned.add(line)
        self._voice.say(line)
