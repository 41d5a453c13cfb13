"""Run ``dogpile-fs`` in a pseudo terminal, and read what it sends there."""

from __future__ import annotations

import fcntl
import os
import re
import select
import termios
import time
from pathlib import Path

from .cli_processes import Cli
from .processes import PATIENCE

__all__ = ["Terminal", "control_terminal", "stopped", "widest", "without_controls"]


def control_terminal() -> None:
    """Let the terminal that is standard input control this session; for ``preexec_fn``."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A pseudo terminal with a ``dogpile-fs`` inside, and all that it has sent.

    It is alone in its session, which the terminal controls; as a *job* it is in a group of its own in the
    tests' session, as a shell would start it.
    """

    def __init__(
        self,
        cli: Cli,
        *words: str,
        columns: int = 80,
        lines: int = 24,
        term: str = "xterm-256color",
        job: bool = False,
    ) -> None:
        self.master, slave = os.openpty()
        self.resize(columns, lines)
        self.sent = b""
        self.process = cli.start(
            *words,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**cli.environment, "TERM": term},
            **({"process_group": 0} if job else {"start_new_session": True, "preexec_fn": control_terminal}),
        )
        os.close(slave)

    def resize(self, columns: int, lines: int) -> None:
        termios.tcsetwinsize(self.master, (lines, columns))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def read_until(self, condition: str | None = None) -> str:
        """Read until *condition*, a regular expression, or the end; return what came since the call."""
        begin = len(self.sent)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if condition and re.search(condition, self.since(begin), re.DOTALL):
                return self.since(begin)
            if not select.select([self.master], [], [], 1)[0]:
                continue
            try:
                received = os.read(self.master, 65536)
            except OSError:  # EIO: no process has the other end open
                received = b""
            if not received:
                assert condition is None, f"ended before {condition!r}: {self.since(begin)[-3000:]}"
                return self.since(begin)
            self.sent += received
        raise AssertionError(f"timed out waiting for {condition!r}: {self.since(begin)[-3000:]}")

    def since(self, begin: int = 0) -> str:
        return self.sent[begin:].decode(errors="replace")

    def end(self, status: int) -> str:
        """Wait for its end; return what it sent since its display was closed."""
        self.read_until()
        assert self.process.wait(PATIENCE) == status, self.since()
        return self.since().rpartition("\x1b[?1049l")[2]

    @property
    def is_restored(self) -> bool:
        """Whether the cursor is shown, the screen is the first one, and no colour is on."""
        sent = self.since()
        return all(
            sent.rfind(on) < sent.rfind(off)
            for on, off in (("\x1b[?25l", "\x1b[?25h"), ("\x1b[?1049h", "\x1b[?1049l"))
        ) and re.findall(r"\x1b\[[0-9;]*m", sent)[-1:] in ([], ["\x1b[0m"])


def stopped(pid: int) -> bool:
    """Return whether the process *pid* is stopped, as by Ctrl-Z."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def without_controls(sent: str) -> str:
    """Return *sent* without control sequences."""
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", sent)


def widest(sent: str) -> int:
    """Return the length of the longest line in any frame of *sent*."""
    frames = sent.split("\x1b[H")
    return max(len(line) for frame in frames for line in re.split(r"[\r\n]+", without_controls(frame)))
