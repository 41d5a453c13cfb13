"""Command lines that may be correct, and wrong words to put into them."""

from __future__ import annotations

from random import Random
from typing import TypeVar

from dogpile_fs.cli.options import RUN_OPTIONS

__all__ = ["DURATIONS", "NO_DURATIONS", "CommandLines"]

T = TypeVar("T")

_COMMANDS = ["run", "status", "invalidate", "cancel", "history", "wait", "metrics", "touch", "rollback", "watch"]
_FLAGS = [name for option in RUN_OPTIONS for name in (option.flag, option.short) if name]
_FLAGS += ["--json", "--hard", "--fresh", "--count", "--help", "-h", "--version"]
DURATIONS = [
    "0",
    "90",
    "5m",
    "1h30m",
    "0.5s",
    "1d",
    "never",
    "2w1d",
    "9" * 300,
    "9" * 300 + "s",
    "0." + "0" * 400 + "1",
]
NO_DURATIONS = [
    "",
    "-1",
    "-1s",
    "+1",
    "1x",
    "s",
    ".",
    "1.2.3",
    "1h30",
    "30m1h",
    "inf",
    "nan",
    "NaN",
    "1e3",
    "1_0",
    "0x1",
    "\u0661",
    "\uff11s",
    "\u00b2",
    "1 ",
    " 1",
    "1\n",
    "Never",
    "9" * 310,
    "9" * 400 + "d",
    "\udcff",
    "%s",
    "%(prog)s",
]
_NUMBERS = ["0", "1", "3", "-1", "007", "9" * 30, "9" * 5000, "\u0661", "\u00b2", "1.0", "", "two", "1_0", "0x1"]
_PATHS = [
    "file",
    "other",
    "./file",
    "sub/file",
    "missing/file",
    "sub",
    "caf\u00e9",
    "a b",
    "a\nb",
    "\udcff",
    "-file",
]
_PATHS += ["", ".", "..", "file/", "sub/.", "x" * 241, "x" * 300, "\u6771" * 80, "'\"", "{}", "%s", "file.dogpile"]
#: Words that are harmless wherever they come to stand: as a shell command, too.
_GARBAGE = ["", "-", "--", "---", "=", "--=", "-=", "nonsense", "--nonsense", "--nonsense=1", "-x", "-vq", "-vvv"]
_GARBAGE += [
    "-v=1",
    "-q1",
    "--quiet=1",
    "--expir",
    "--expire=",
    "--output=",
    "--output=--",
    "--keep=-1",
    "-1",
    "-1.5",
]
_GARBAGE += [
    "\udcff\udc80",
    "caf\u00e9",
    "a\nb",
    "\u2028",
    "\x1b[2J",
    "%s",
    "%(prog)s",
    "@file",
    "9" * 5000,
    "-v 1",
]
#: Words that no process can get as an argument, but ``main`` can.
_IMPOSSIBLE = ["\0", "\ud800", "file\0", "x" * 200_000]
_SHELL = ["true", "false", "test -s {}", "exit 3", "kill -9 $$"]
_WORKS = [
    ["true"],
    ["false"],
    ["sh", "-c", "echo x > {}"],
    ["sh", "-c", 'echo x > "$DOGPILE_FS_OUTPUT"'],
    ["nonsense"],
]
_WORKS += [["echo", "x"], ["sub"], []]


class CommandLines:
    """Every choice is *random*'s."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def possible(self, most: int) -> list[str]:
        """Return one that a process can get, with up to *most* words changed; COMMAND stays."""
        return self._line(_GARBAGE, most)

    def any(self, most: int) -> list[str]:
        """Return the same with words that only ``main`` can get."""
        return self._line(_GARBAGE + _IMPOSSIBLE, most)

    def _line(self, garbage: list[str], most: int) -> list[str]:
        """Return a command line that may be correct, with up to *most* words changed, before a ``--`` at least."""
        command = self._one_of(_COMMANDS)
        words = self._run_line() if command == "run" else self._other_line(command)
        work: list[str] = []
        if "--" in words:
            at = words.index("--")
            words, work = words[:at], words[at:]
        for _ in range(max(0, self._random.randrange(-most - 1, most + 1))):
            at = self._random.randrange(len(words) + 1)
            match self._random.randrange(4):
                case 0:
                    words.insert(at, self._one_of(garbage))
                case 1:
                    words[at : at + 1] = [self._one_of(garbage)]
                case 2:
                    words.insert(at, self._one_of(_FLAGS))
                case _:
                    del words[at : at + 1]
        return words + work

    def _run_line(self) -> list[str]:
        words = ["run"]
        options = [option for option in RUN_OPTIONS if self._random.random() < 0.15]
        for option in options:
            words += self._option(option.flag, self._value(option.flag) if option.read is not None else None)
        words += self._option("--expire", self._one_of(["0", "1h", "never"]))
        words += self._option("--output", self._path())
        return [*words, "--", *self._one_of(_WORKS)]

    def _other_line(self, command: str) -> list[str]:
        words = [command]
        for flag in ("--json", "--hard", "--fresh", "--readers"):
            if self._random.random() < 0.15:
                words.append(flag)
        for flag in ("--expire", "--timeout", "--count", "--directory"):
            if self._random.random() < 0.1:
                words += self._option(flag, self._value(flag))
        if command == "metrics" and self._random.random() < 0.5:
            words += self._option("--output", self._path())
        if command == "status" and self._random.random() < 0.3:
            words += ["--check", self._one_of(DURATIONS), self._one_of(DURATIONS)]
        for _ in range(1 if self._random.random() < 0.8 else self._random.randrange(4)):
            words.append(self._path())
        if command == "watch":
            words += ["--count", "1"]
        return words

    def _option(self, flag: str, value: str | None) -> list[str]:
        if value is None:
            return [flag]
        return [flag, value] if self._random.random() < 0.6 else [f"{flag}={value}"]

    def _path(self) -> str:
        return self._one_of(_PATHS if self._random.random() < 0.4 else ["file", "other"])

    def _value(self, flag: str) -> str:
        match flag:
            case "--output":
                return self._path()
            case "--directory":
                return self._one_of(["sub", ".", "missing", "", "file", "x" * 300])
            case "--then" | "--validate":
                return self._one_of(_SHELL)
            case "--keep" | "--count":
                return self._one_of(_NUMBERS)
            case _:
                return self._one_of(DURATIONS if self._random.random() < 0.95 else NO_DURATIONS)

    def _one_of(self, values: list[T]) -> T:
        return values[self._random.randrange(len(values))]
