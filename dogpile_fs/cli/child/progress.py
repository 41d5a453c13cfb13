"""The line that tells somebody at a terminal how long it has taken so far, and how long it took last time."""

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

_EVERY = 0.5
_ERASE = "\r\x1b[K"


class Progress:
    """One line on stderr, rewritten twice a second; nothing for what takes less than that.

    :param name: what is being created.
    :param estimate: seconds that it took the last time; ``None``: not known.
    """

    def __init__(self, name: str, estimate: float | None) -> None:
        self._name = name
        self._estimate = estimate
        self._shown = False
        #: Monotonic time at which the line is due again.
        self.next_at = monotonic() + _EVERY

    def show(self, elapsed: float) -> None:
        """Tell that *elapsed* seconds have gone by, if it is time to."""
        if monotonic() < self.next_at:
            return
        self.next_at = monotonic() + _EVERY
        if not _is_in_foreground():
            return
        text = f"{self._name}: creating for {format_seconds(math.floor(elapsed))}"
        if self._estimate is not None:
            text += f", last time it took {format_seconds(self._estimate)}"
        self._shown = True
        if not _write_line(text):
            self.next_at = math.inf

    def clear(self) -> None:
        """Take the line away."""
        if self._shown and _is_in_foreground():
            self._shown = False
            _write_line("")


def progress_on_terminal(name: str, estimate: float | None) -> Progress | None:
    """A :class:`Progress`, if stderr is a terminal that can take a line away again.

    It is seen while this process is in the foreground there: in the background, the line is somebody else's.
    """
    return Progress(name, estimate) if _is_capable() else None


@contextmanager
def line_on_terminal(text: str) -> Iterator[None]:
    """A block during which *text* is shown, on such a terminal."""
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
        return False  # not our terminal, or gone


def _write_line(text: str) -> bool:
    """Put *text* in the place of the line that is there; False if the terminal is gone."""
    try:
        columns = os.get_terminal_size(2).columns or 80
        sys.stderr.write(_ERASE + printable_name(text)[: columns - 1])
        sys.stderr.flush()
    except OSError:
        return False
    return True
