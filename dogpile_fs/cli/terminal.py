"""A live display in a terminal, which gives the screen back as it was.

It uses the alternate screen, as ``less`` does: nothing that stood on the screen is overwritten, and after a change
of the terminal's size the next frame is drawn anew. The control sequences are those of ECMA-48 and xterm.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import TextIO

__all__ = ["Display", "can_encode", "is_capable", "wants_colours"]

_BEGIN = "\x1b[?1049h\x1b[?25l\x1b[2J"  # alternate screen, no cursor, nothing on it
_END = "\x1b[0m\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR, _TO_END_OF_LINE, _TO_END_OF_SCREEN = "\x1b[H", "\x1b[2J", "\x1b[K", "\x1b[J"


def is_capable(stream: TextIO) -> bool:
    """Return whether *stream* is a terminal that takes control sequences."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def wants_colours(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return whether text on *stream* may have colours.

    Only on a terminal, unless FORCE_COLOR asks for them elsewhere, as in the logs of a CI service. NO_COLOR comes
    first: https://no-color.org, https://force-color.org.
    """
    if environment.get("NO_COLOR"):
        return False
    return bool(environment.get("FORCE_COLOR")) or is_capable(stream)


def can_encode(stream: TextIO, text: str) -> bool:
    """Return whether *stream* has all characters of *text*."""
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


class Display:
    """A ``with`` block in which :meth:`show` draws frames on *stream*, a terminal.

    Ctrl-Z gives the terminal back as well, and takes it again when the process goes on.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._size = (0, 0)

    def __enter__(self) -> Display:
        self._stop_as_before = signal.getsignal(signal.SIGTSTP)
        if self._stop_as_before is not signal.SIG_IGN:
            signal.signal(signal.SIGTSTP, self._stop)
        self._write(_BEGIN)
        return self

    def __exit__(self, *_: object) -> None:
        self._write(_END)
        signal.signal(signal.SIGTSTP, self._stop_as_before)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines of the terminal now; 80 and 24 if it does not know."""
        columns, lines = os.get_terminal_size(self.stream.fileno())
        return columns or 80, lines or 24

    @property
    def is_outdated(self) -> bool:
        """Whether what is shown has another size than the terminal, or was lost by Ctrl-Z."""
        return self._size != self.size

    def show(self, lines: Iterable[str]) -> None:
        """Draw *lines*, which fit into :attr:`size`, in place of what was shown before."""
        size = self.size
        clear = "" if size == self._size else _CLEAR
        self._size = size
        body = "\n".join(line + _TO_END_OF_LINE for line in lines)
        self._write(_HOME + clear + body + _TO_END_OF_SCREEN)

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def _stop(self, number: int, at: FrameType | None) -> None:
        # Straight to the descriptor: the stream may be in the middle of a write.
        os.write(self.stream.fileno(), _END.encode())
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here the process goes on after SIGCONT.
        signal.signal(signal.SIGTSTP, self._stop)
        os.write(self.stream.fileno(), _BEGIN.encode())
        self._size = (0, 0)
