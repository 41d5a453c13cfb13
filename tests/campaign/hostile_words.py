"""Command lines with wrong words: how they are parsed, refused, and executed.

What must hold: no traceback; an exit status that the documentation lists; a wrong usage is one line on stderr;
every accepted duration is a finite number of seconds from 0 on; argparse accepts each line that the quick scan
accepts, with the same meaning; and nothing is written outside of the directory that the paths name.
"""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from random import Random
from typing import TypeVar

from dogpile_fs.cli import exits
from dogpile_fs.cli.arguments import Arguments, parsed
from dogpile_fs.cli.durations import format_seconds, parse, parse_or_never
from dogpile_fs.cli.options import Settings, scan

from .command_lines import DURATIONS, NO_DURATIONS, CommandLines
from .mutated_records import MutatedRecords

__all__ = ["HostileWords"]

T = TypeVar("T")

_ROOT = Path(__file__).parent.parent.parent
#: Seconds that a run may take. Each has only a moment's work to do.
_PATIENCE = 60.0

_OF_DURATION = ["--expire", "--wait", "--timeout", "--kill-after"]
_DOCUMENTED = {0, 64, 65, 66, 69, 71, 73, 74, 75, 77, 78, 124, 126, 127}
#: Further statuses, by command.
_OWN = {
    "status": {1, 2, 3},
    "history": {2},  # nothing is known
    "run": {1, 3, 137},  # of COMMAND, of a shell's ``kill -9``
}
#: Commands that report on each path by itself.
_OF_MANY = ("status", "invalidate", "metrics")


class HostileWords:
    """Every choice is *random*'s."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._records = MutatedRecords(random)
        self._lines = CommandLines(random)
        self._violations: list[str] = []

    # In this process: parsed or refused, and not executed.

    def parse(self, seconds: float) -> tuple[dict[str, int], list[str]]:
        counts = {"durations_read": 0, "command_lines_parsed": 0, "values_refused": 0}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(100):
                self._try(self.read_a_duration)
            for _ in range(20):
                self._try(self.parse_a_line)
            for _ in range(5):
                self._try(self.refuse_a_value)
            counts["durations_read"] += 100
            counts["command_lines_parsed"] += 20
            counts["values_refused"] += 5
        return counts, self._violations

    def read_a_duration(self) -> None:
        """Check a text that may be no duration; its printed form must parse to the same."""
        text = self._random.choice(DURATIONS + NO_DURATIONS)
        if self._random.random() < 0.7:
            text = "".join(self._random.choices("0123456789..wdhms\u0661 -+e", k=self._random.randrange(12)))
        try:
            seconds = parse_or_never(text)
        except ValueError as error:
            _sure("is not a duration" in str(error), f"{text!r} is refused with {error!r}")
            return
        if seconds is None:
            return
        _sure(math.isfinite(seconds) and seconds >= 0, f"{text!r} is {seconds}")
        printed = format_seconds(seconds)
        _sure(
            math.isclose(parse(printed), seconds, rel_tol=0.05, abs_tol=0.001),
            f"{text!r} becomes {printed!r}",
        )

    def parse_a_line(self) -> None:
        """Check a whole command line, and that the quick scan agrees."""
        words = self._lines.any(most=6)
        quickly = scan(words[1:]) if words[:1] == ["run"] else None
        try:
            with redirect_stdout(io.StringIO()):
                found = parsed(words)
        except exits.Exit as error:
            message = exits.message_of(error)
            _sure(error.status == exits.USAGE, f"{words!r} ends with {error.status}: {message}")
            _sure(bool(message) and len(message.splitlines()) == 1, f"{words!r} is refused with {message!r}")
            _sure(quickly is None, f"{words!r} is refused, but not at the quick scan")
            return
        except Exception as error:
            raise AssertionError(f"{words!r}: {error!r}") from error
        if isinstance(found, (Settings, Arguments)):
            for name in ("expire", "timeout", "wait", "kill_after"):
                value = getattr(found, name, None)
                _sure(value is None or 0 <= value < math.inf, f"{words!r}: {name} is {value}")
        if quickly is not None:
            _sure(
                isinstance(found, Settings) and vars(found) == vars(quickly),
                f"{words!r} is scanned {vars(quickly)}",
            )

    def refuse_a_value(self) -> None:
        """Check a correct line with one wrong value, which must be reported with its option."""
        flag = self._random.choice(_OF_DURATION)
        value = self._random.choice(NO_DURATIONS)
        words = ["run", "--expire=1h", "--output=file", f"{flag}={value}", "--", "true"]
        _sure(scan(words[1:]) is None, f"{words!r} is taken at the quick scan")
        try:
            parsed(words)
        except exits.Exit as error:
            message = exits.message_of(error)
            _sure(error.status == exits.USAGE and flag in message, f"{words!r} is refused with {message!r}")
            _sure(len(message.splitlines()) == 1, f"{words!r} is refused with {message!r}")
        else:
            _sure(False, f"{words!r} is taken")

    # As processes.

    def run(self, seconds: float) -> tuple[dict[str, int], list[str]]:
        """Run the command, with files and sidecars of any kind under its paths."""
        counts = {"command_lines_run": 0}
        ended: dict[int, int] = {}
        with tempfile.TemporaryDirectory() as directory:
            top = Path(directory)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                status = self._try(lambda: self._run_one(top))
                if status is not None:
                    ended[status] = ended.get(status, 0) + 1
                counts["command_lines_run"] += 1
        counts.update({f"runs_ended_{status}": count for status, count in sorted(ended.items())})
        return counts, self._violations

    def _run_one(self, top: Path) -> int | None:
        work = top / "in" / "work"
        (work / "sub").mkdir(parents=True, exist_ok=True)
        (top / "home").mkdir(exist_ok=True)
        self._prepare(work)
        words = self._lines.possible(most=1)
        if "demo" in words:
            return None
        may_wait = words[:1] in (["wait"], ["watch"])
        if may_wait:
            words += ["--timeout=0.05"]
        try:
            ended = subprocess.run(
                [*self._closing(), sys.executable, "-m", "dogpile_fs", *words],
                cwd=work,
                env=self._environment(top),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=2.0 if may_wait and "--" in words else _PATIENCE,
            )
        except subprocess.TimeoutExpired:
            _sure(may_wait and "--" in words, f"{words!r} does not end")
            return None  # after a --, the --timeout was a path
        err = ended.stderr.decode(errors="replace")
        told = f"{words!r} ends with {ended.returncode}: {err[-1500:]}"
        _sure("Traceback" not in err, told)
        allowed = _DOCUMENTED | _OWN.get(words[0] if words else "", set())
        _sure(ended.returncode in allowed, told)
        if ended.returncode == exits.USAGE and err:
            _sure(err.startswith("dogpile-fs: ") and (err.count("\n") == 1 or words[0] in _OF_MANY), told)
        _sure(sorted(os.listdir(top)) == ["home", "in"], f"{words!r} wrote {os.listdir(top)}")
        _sure(os.listdir(top / "home") == [], f"{words!r} wrote {os.listdir(top / 'home')}")
        return ended.returncode

    def _prepare(self, work: Path) -> None:
        """Make files and sidecars, among the leftovers of the runs before."""
        if self._random.random() < 0.2:
            for path in work.iterdir():
                if path.is_file():
                    path.unlink()
        for name in ("file", "other", "sub/file", "sub"):
            if self._random.random() < 0.3:
                (work / (name + ".dogpile")).write_bytes(self._records.next())
            if self._random.random() < 0.3 and name != "sub":
                with suppress(OSError):
                    (work / name).write_text("foreign")

    def _environment(self, top: Path) -> dict[str, str]:
        environment = {**os.environ, "HOME": str(top / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
        more = {"LC_ALL": "C.UTF-8"}
        if self._random.random() < 0.3:
            more = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        return {**environment, **more}

    def _closing(self) -> list[str]:
        """Return the words that run a command with standard descriptors closed; mostly none."""
        if self._random.random() < 0.9:
            return []
        return ["sh", "-c", 'exec "$@" ' + self._random.choice(["<&-", ">&-", "2>&-", ">&- 2>&-"]), "sh"]

    def _try(self, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except AssertionError as error:
            self._violations.append(str(error))
            return None


def _sure(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
