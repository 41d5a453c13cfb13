"""The grammar of the command line, and which function does what each command asks for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from ..version import VERSION
from . import exits
from .durations import parse, parse_or_never
from .options import DIRECTORY, RUN_OPTIONS, Option, Settings, split_at_command

__all__ = ["Arguments", "parsed"]

_RUN_USAGE = "%(prog)s --expire DURATION --output FILE [OPTION...] -- COMMAND [ARG...]"

_RUN_ABOUT = """\
Have FILE made by COMMAND if it is stale or missing, by one process at a time, and swap it in whole.

COMMAND finds the path that it shall make in the environment as DOGPILE_FS_OUTPUT, and in place of each {} in its
arguments. FILE is swapped only if COMMAND ends with status 0; else it stays, and dogpile-fs exits with COMMAND's
status. If FILE is fresh, or it exists and another process is making a new one, dogpile-fs exits with 0 at once."""

_DURATIONS = "Durations: 90 (seconds), 90s, 5m, 1h30m, 1d, 0.5s.\n\n"

_MORE = (
    _DURATIONS
    + """\
Exit status: 0 done, or nothing to do; of status: 1 stale, 2 nothing yet. 64 usage; 65 COMMAND made no file, or
--validate refused it; 66 nothing at PATH; 69 --then failed; 70 a defect; 71 the system has no more to give;
73 FILE cannot be made there; 74 I/O error; 75 waited in vain, try again later; 77 not permitted; 78 the sidecar
is a newer dogpile_fs's; 124 COMMAND took too long; 126 it cannot be executed; 127 it was not found; 128+n a
signal n; else the status of COMMAND."""
)

_STATUSES = """\
64 usage; 66 nothing at PATH; 70 a defect; 71 the system has no more to give; 73 there can be no file at PATH;
74 I/O error; 75 waited in vain, try again later; 77 not permitted; 78 the sidecar is a newer dogpile_fs's;
128+n a signal n."""
_OTHERS = f"Exit status: 0 done;\n{_STATUSES}"
_ASKING = f"{_DURATIONS}Exit status: 0 all are fresh; 1 one is stale; 2 of one there is nothing yet;\n{_STATUSES}"


class Arguments(argparse.Namespace):
    """What a command other than ``run`` was given."""

    command: str
    directory: str | None
    expire: float | None
    count: int | None
    fresh: bool
    hard: bool
    json: bool
    path: str
    paths: list[str]
    readers: bool
    timeout: float | None


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        raise exits.Exit(exits.USAGE, f"{message} (see {self.prog} --help)")


def parsed(words: Sequence[str]) -> Settings | Arguments | None:
    """The settings of ``run``, or what another command was given.

    :returns: ``None`` after ``--help`` or ``--version``: all has been said.
    :raises Exit: with status 64, if *words* are none of what there is.
    """
    parser, commands = _grammar()
    try:
        if words[:1] == ["run"]:
            return _run_settings(commands["run"], list(words[1:]))
        if words[:1] == ["demo"]:
            import_module(".demo", __package__).add_arguments(commands["demo"])
        return parser.parse_args(words, namespace=Arguments())
    except SystemExit:
        return None


def _run_settings(parser: _Parser, words: list[str]) -> Settings:
    options, command = split_at_command(words)
    given = parser.parse_args(options)
    settings = Settings()
    for name, value in vars(given).items():
        if value in ([], "--"):  # which of them, for a value that is a double dash, depends on the Python
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
        description="Files that one process rebuilds when they are too old, while all others read what there is.",
        epilog=_MORE,
    )
    parser.add_argument("--version", action="version", version=f"dogpile-fs {VERSION}")
    group = parser.add_subparsers(dest="command", metavar="command", required=True)
    commands: dict[str, _Parser] = {}

    def command(name: str, help: str, about: str = "", **options: Any) -> _Parser:
        commands[name] = group.add_parser(
            name, help=help, description=about or f"{help[0].upper()}{help[1:]}.", **options
        )
        return commands[name]

    run = command(
        "run",
        "have a file made by a command, if it is stale or missing",
        _RUN_ABOUT,
        usage=_RUN_USAGE,
        epilog=_MORE,
        argument_default=argparse.SUPPRESS,
    )
    for option in RUN_OPTIONS:
        _add(run, option)

    status = command(
        "status",
        "tell how old files are, who made them, and who is making them",
        epilog=_ASKING,
    )
    _add_paths(status)
    status.add_argument("--json", action="store_true", help="as a list of objects; times in seconds")
    _add_expire(status)

    invalidate = command("invalidate", "make files stale from now on, for all processes", epilog=_OTHERS)
    _add_paths(invalidate)
    invalidate.add_argument("--hard", action="store_true", help="nobody uses them before they are made anew")

    wait = command("wait", "wait until there is a file, or until it is fresh", epilog=_DURATIONS + _OTHERS)
    _add_path(wait)
    wait.add_argument("--fresh", action="store_true", help="until it is fresh; a stale one does not do")
    _add_expire(wait)
    _add_duration(wait, "--timeout", "give up after so long, with exit status 75")

    touch = command("touch", "declare a file as made now, without making it", epilog=_OTHERS)
    _add_path(touch)

    rollback = command("rollback", "put the version before the last one back, and make it fresh", epilog=_OTHERS)
    _add_path(rollback)
    rollback.add_argument(
        "--readers", action="store_true", help="when no reader is inside, of those who use readers=True"
    )

    watch = command(
        "watch", "follow creations, swaps and failures, a line each, until Ctrl-C", epilog=_DURATIONS + _OTHERS
    )
    _add_paths(watch)
    _add_expire(watch)
    watch.add_argument("--count", type=_told(_positive), metavar="N", help="end after so many lines")
    _add_duration(watch, "--timeout", "end after so long")

    command("demo", "show eight processes that share a file, live in this terminal")
    return parser, commands


def _add(parser: _Parser, option: Option) -> None:
    names = [name for name in (option.short, option.flag) if name]
    if option.read is not None:
        parser.add_argument(
            *names, dest=option.attribute, type=_told(option.read), metavar=option.metavar, help=option.help
        )
    elif option.attribute == "verbose":
        parser.add_argument(*names, dest=option.attribute, action="count", help=option.help)
    else:
        parser.add_argument(*names, dest=option.attribute, action="store_true", help=option.help)


def _add_paths(parser: _Parser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a file or directory that processes share")
    _add(parser, DIRECTORY)


def _add_path(parser: _Parser) -> None:
    parser.add_argument("path", metavar="PATH", help="the file or directory that processes share")
    _add(parser, DIRECTORY)


def _add_expire(parser: _Parser) -> None:
    parser.add_argument(
        "--expire",
        type=_told(parse_or_never),
        metavar="DURATION",
        default=argparse.SUPPRESS,
        help="stale after so long (default: as its last creator said)",
    )


def _add_duration(parser: _Parser, flag: str, help: str) -> None:
    parser.add_argument(flag, type=_told(parse), metavar="DURATION", help=help)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(f"{text!r} is no number of lines: write it as 1, 2, 3 and so on")
    return int(text)


def _told(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """*read*, with its complaint in the form that argparse passes on."""

    def reading(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return reading
