"""A line at a terminal that shows how long COMMAND has run so far, and how long it took last time."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from ..durations import format_seconds
from ..output import printable_name

__all__ = ["Progress", "line_on_terminal", "progress_on_terminal"]

#: Seconds from one line to the next.
_EVERY = 0.5
_ERASE = "\r\x1b[K"


class Progress:
    """One line on stderr, rewritten twice a second; none for what takes less than that.

    :param name: what is being created.
    :param estimate: seconds that it took the last time; ``None``: not known.
    """

    def __init__(self, name: str, estimate: float | None) -> None:
        self._name = name
        self._estimate = "" if estimate is None else f", last time it took {format_seconds(estimate)}"
        self._shown = False
        #: Monotonic time at which the line is due again.
        self.next_at: float = monotonic() + _EVERY

    def show(self, elapsed: float) -> None:
        """Show that *elapsed* seconds have gone by, if the line is due."""
        if monotonic() >= self.next_at:
            self.next_at = monotonic() + _EVERY
            if _is_in_foreground():
                self._shown = True
                written = _write_line(f"{self._name}: creating for {format_seconds(int(elapsed))}{self._estimate}")
                if not written:
                    self.next_at = math.inf

    def clear(self) -> None:
        """Erase the line."""
        if self._shown and _is_in_foreground():
            _write_line("")


def progress_on_terminal(name: str, estimate: float | None) -> Progress | None:
    """Return a :class:`Progress`, if stderr is a terminal on which a line can be erased.

    It is shown while this process is in the foreground there: in the background, the line is another program's.
    """
    return Progress(name, estimate) if _is_capable() else None


@contextmanager
def line_on_terminal(text: str) -> Iterator[None]:
    """Show *text* on such a terminal during the block."""
    shown = _is_capable() and _is_in_foreground() and _write_line(text)
    try:
        yield
    finally:
        if shown and _is_in_foreground():
            _write_line("")


def _is_capable() -> bool:
    return os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb"


def _is_in_foreground() -> bool:
    try:
        return os.tcgetpgrp(2) == os.getpgrp()
    except OSError:
        return False  # not the terminal of this session, or gone


def _write_line(text: str) -> bool:
    """Replace the line by *text*; return False if the terminal is gone."""
    try:
        columns = os.get_terminal_size(2).columns or 80
        sys.stderr.write(_ERASE + printable_name(text)[: columns - 1])
        sys.stderr.flush()
    except OSError:
        return False
    return True
