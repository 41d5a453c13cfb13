"""The grammar of the command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ..version import VERSION
from . import exits
from .durations import parse, parse_or_never
from .options import DIRECTORY, HINT, KILL_AFTER, RUN_OPTIONS, Option, Settings, split_at_command

__all__ = ["Arguments", "parsed", "whole_parser"]

_RUN_USAGE = "%(prog)s --expire DURATION --output FILE [OPTION...] -- COMMAND [ARG...]"

_RUN_ABOUT = """\
Have FILE made by COMMAND if it is stale or missing, by one process at a time, and swap it in whole.

COMMAND finds the path that it shall make in the environment as DOGPILE_FS_OUTPUT, and in place of each {} in its
arguments. FILE is swapped only if COMMAND ends with status 0; else it stays, and dogpile-fs exits with COMMAND's
status. If FILE is fresh, or it exists and another process is making a new one, or COMMAND failed a short time ago
(--backoff), dogpile-fs exits with 0 at once."""

_DURATIONS = "Durations: 90 (seconds), 90s, 5m, 1h30m, 1d, 0.5s.\n\n"

_MORE = (
    _DURATIONS
    + """\
Exit status: 0 done, or nothing to do; of status: 1 stale, 2 expired or missing. 64 usage; 65 COMMAND made no
file, or --validate refused it; 66 nothing at PATH; 69 --then failed, or the origin cannot be used; 70 internal
error; 71 the system has no more processes, open files or locks; 73 FILE cannot be made there; 74 I/O error;
75 timed out, or no FILE and too early after a failure: try again later; 77 not permitted; 78 the sidecar is a
newer dogpile_fs's; 124 COMMAND took too long; 126 it cannot be executed; 127 it was not found; 128+n signal n;
else the status of COMMAND."""
)

_STATUSES = """\
64 usage; 66 nothing at PATH; 69 the origin cannot be used; 70 internal error; 71 the system has no more
processes, open files or locks; 73 there can be no file at PATH; 74 I/O error; 75 timed out, try again later;
77 not permitted; 78 the sidecar is a newer dogpile_fs's; 128+n signal n."""
_OTHERS = f"Exit status: 0 done;\n{_STATUSES}"
_ASKING = f"{_DURATIONS}Exit status: 0 all are fresh; 1 one is stale; 2 one is expired or missing;\n{_STATUSES}"


#: The shells that ``completion`` knows.
SHELLS = ("bash", "zsh", "fish")


class Arguments(argparse.Namespace):
    """The options of a command other than ``run``; *expire* is there only if it was given."""

    check: tuple[float, float] | None
    command: str
    directory: str | None
    expire: float | None
    action: str
    below: str
    count: int | None
    fresh: bool
    hard: bool
    hint: str | None
    json: bool
    kill_after: float
    older_than: float | None
    once: bool
    origin: str | None
    output: str | None
    path: str
    paths: list[str]
    readers: bool
    ready_file: str | None
    shell: str
    timeout: float | None
    url: str


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        raise exits.Exit(exits.USAGE, f"{message} (see {self.prog} --help)")


def parsed(words: Sequence[str]) -> Settings | Arguments | None:
    """Return the settings of ``run``, or the options of another command.

    :returns: ``None`` after ``--help`` or ``--version``, which are done.
    :raises Exit: with status 64, for any other *words*.
    """
    parser, commands = _grammar()
    try:
        if words[:1] == ["run"]:
            return _run_settings(commands["run"], list(words[1:]))
        if words[:1] == ["demo"]:
            from .demo import add_arguments

            add_arguments(commands["demo"])
        return parser.parse_args(words, namespace=Arguments())
    except SystemExit:
        return None


def whole_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands with all their options, for what is made from it."""
    from .demo import add_arguments

    parser, commands = _grammar()
    add_arguments(commands["demo"])
    return parser


def _run_settings(parser: _Parser, words: list[str]) -> Settings:
    options, command = split_at_command(words)
    settings = Settings()
    try:
        found = vars(parser.parse_args(options))
    except exits.Exit as error:
        if "--" in words:
            raise
        raise exits.Exit(error.status, f"{error}. Hint: put COMMAND at the end, after --.") from error
    for name, value in found.items():
        if value in (
            [],
            "--",
        ):  # the value of an option is a double dash: Python versions differ in what they make of it
            parser.error(f"--{name.replace('_', '-')} has no value")
        setattr(settings, name, value)
        settings.given.add(name)
    settings.command = command
    if complaint := settings.complaint():
        parser.error(complaint)
    return settings


def _grammar() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        prog="dogpile-fs",
        description="Files that one process rebuilds when they are too old, while all others read the old ones.",
        epilog=_MORE,
    )
    parser.add_argument("--version", action="version", version=f"dogpile-fs {VERSION}")
    group = parser.add_subparsers(dest="command", metavar="command", required=True)
    commands: dict[str, _Parser] = {}

    def command(name: str, help: str, *options: Option, paths: str | None = None, **more: Any) -> None:
        """Add the command *name*, for one path or several (*paths*: ``"path"`` or ``"paths"``)."""
        more = {"description": f"{help[0].upper()}{help[1:]}.", **more}
        commands[name] = added = group.add_parser(name, help=help, **more)
        if paths == "path":
            added.add_argument("path", metavar="PATH", help="the file or directory that processes share")
        elif paths:
            added.add_argument("paths", nargs="+", metavar="PATH", help="a file or directory that processes share")
        for option in options:
            _add(added, option)

    command(
        "run",
        "have a file made by a command, if it is stale or missing",
        *RUN_OPTIONS,
        description=_RUN_ABOUT,
        usage=_RUN_USAGE,
        epilog=_MORE,
        argument_default=argparse.SUPPRESS,
    )
    command(
        "status",
        "show how old files are, which process made them, and which is making them",
        DIRECTORY,
        Option("--json", None, "", "as a list of objects; times in seconds"),
        _EXPIRE,
        paths="paths",
        epilog=_ASKING,
    )
    commands["status"].add_argument(
        "--check",
        nargs=2,
        type=_for_argparse(parse),
        metavar=("WARN", "CRIT"),
        help="as a plugin of Nagios: one line; exit status 0 OK, 1 older than WARN, 2 older than CRIT or missing, "
        "3 unknown",
    )
    command(
        "history",
        "show how the last creations of a file went, and which process made them",
        DIRECTORY,
        Option("--json", None, "", "as a list of objects; times in seconds"),
        paths="path",
        epilog=f"Exit status: 0 done; 2 no process has begun to make one yet;\n{_STATUSES}",
    )
    command(
        "invalidate",
        "make files stale from now on, for all processes",
        DIRECTORY,
        Option("--hard", None, "", "no process uses them before they are made anew"),
        paths="paths",
        epilog=_OTHERS,
    )
    command(
        "cancel",
        "end the processes that make files now: a COMMAND or a background creation, never a worker",
        DIRECTORY,
        KILL_AFTER,
        paths="paths",
        epilog=_DURATIONS + _OTHERS,
    )
    command(
        "wait",
        "wait until there is a file, or until it is fresh",
        DIRECTORY,
        Option("--fresh", None, "", "until it is fresh; a stale one does not do"),
        _EXPIRE,
        Option("--timeout", parse, "DURATION", "give up after so long, with exit status 75"),
        Option("--json", None, "", "print what is known of it then, as an object; times in seconds"),
        paths="path",
        epilog=_DURATIONS + _OTHERS,
    )
    command(
        "metrics",
        "print what Prometheus is told of files, for node_exporter's textfile collector",
        DIRECTORY,
        Option("--output", str, "FILE", "write it there, in one step, instead of printing it"),
        paths="paths",
        epilog=_OTHERS,
    )
    command("touch", "declare a file as made now, without making it", DIRECTORY, paths="path", epilog=_OTHERS)
    command(
        "rollback",
        "put the version before the last one back, and make it fresh",
        DIRECTORY,
        Option("--readers", None, "", "when no reader is inside, of processes that use readers=True"),
        paths="path",
        epilog=_OTHERS,
    )
    command(
        "watch",
        "follow creations, swaps and failures, a line each, until Ctrl-C",
        DIRECTORY,
        _EXPIRE,
        Option("--json", None, "", "an object on each line; times in seconds"),
        Option("--count", _positive, "N", "end after so many lines"),
        Option("--timeout", parse, "DURATION", "end after so long"),
        paths="paths",
        epilog=_DURATIONS + _OTHERS,
    )
    command(
        "follow",
        "keep this host's copies of what an origin has up to date, until SIGTERM",
        Option("--origin", str, "URL", "the origin (default: the one that the users of PATH have named)"),
        HINT,
        Option("--ready-file", str, "FILE", "make this empty file when all are there, and remove it at the end"),
        paths="paths",
        epilog=_OTHERS,
    )
    commands["origin"] = origin = group.add_parser(
        "origin",
        help="look at an origin: is it fit, which version has it; or remove what it needs no longer",
        description="Look at an origin.",
        epilog=_DURATIONS + _OTHERS,
    )
    origin.add_argument(
        "action",
        choices=("check", "status", "prune"),
        metavar="check|status|prune",
        help="check: is it fit, how fast is it, how far is its clock off; status: which version has it, which "
        "host creates; prune: remove blobs that no recent version has",
    )
    origin.add_argument("url", metavar="URL", help="s3://bucket/name, redis://host:port/db/name, a directory, ...")
    _add(origin, Option("--json", None, "", "as an object; times in seconds"))
    _add(origin, Option("--older-than", parse, "DURATION", "of prune: blobs stored so long ago (default: 1h)"))
    command(
        "top",
        "show all datafiles below a directory, live: ages, creations, failures, sizes",
        Option("--once", None, "", "print the list once; so it is without a terminal"),
        Option("--json", None, "", "print it once, as a list of objects; times in seconds"),
        epilog=_OTHERS,
    )
    commands["top"].add_argument(
        "below", metavar="DIR", nargs="?", default=os.curdir, help="the directory (default: this one)"
    )
    command("completion", "print what a shell needs to complete command lines", epilog=_OTHERS)
    commands["completion"].add_argument("shell", choices=SHELLS, metavar="|".join(SHELLS), help="the shell")
    command("demo", "show eight processes that share a file, live in this terminal")
    return parser, commands


def _add(parser: _Parser, option: Option) -> None:
    names = [name for name in (option.short, option.flag) if name]
    if option.read is not None:
        how: dict[str, Any] = {"type": _for_argparse(option.read), "metavar": option.metavar}
        if option.values:
            how |= {"nargs": option.values, **_SEVERAL[option.values]}
    else:
        how = {"action": "count" if option.attribute == "verbose" else "store_true"}
    if option is KILL_AFTER and parser.prog.endswith("cancel"):
        how["default"] = Settings.kill_after
    if option is _EXPIRE:
        how["default"] = argparse.SUPPRESS
    parser.add_argument(*names, help=option.help, **how)


_SEVERAL: dict[str, dict[str, Any]] = {"?": {"const": True}, "+": {"action": "extend"}}


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(f"{text!r} is not a number of lines: write it as 1, 2, 3 and so on")
    return int(text)


#: Left out of :class:`Arguments` unless it was given.
_EXPIRE = Option("--expire", parse_or_never, "DURATION", "stale after so long (default: as its last creator said)")


def _for_argparse(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return *read*, whose errors argparse passes on."""

    def reading(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return reading
