"""``manage.py datafiles``: the state of registered datafiles, and their refresh."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any, NamedTuple

from django.core.management.base import BaseCommand, CommandError

from ... import DataDirectory, Datafile, Datafiles, DogpileError, Outcome
from ...cli.durations import format_seconds
from ...cli.output import now_told, printable, printable_name
from ._registry import Registered, registered

__all__ = ["Command"]

_HEADS = ("NAME", "STATE", "AGE", "FAILURES", "PATH", "NOW")
#: Those of ``dogpile-fs status``, for the worst state; 3: one could not be looked at.
_EXITS = {"fresh": 0, "stale": 1, "expired": 2, "missing": 2}
_UNKNOWN = 3


class _Look(NamedTuple):
    """What is printed of one datafile: a row of the table, or an object of JSON; and its exit status."""

    row: tuple[str, ...]
    json: dict[str, Any]
    exit: int


class Command(BaseCommand):  # type: ignore[misc,unused-ignore]
    help = (
        "Shows the datafiles that are registered, with their state, or refreshes them. The exit status of "
        "--status is 0 if all are fresh, 1 if one is stale, 2 if one is expired or missing, 3 if one cannot be "
        "looked at."
    )
    #: A cron job must not fail for what is wrong elsewhere.
    requires_system_checks: list[str] = []  # noqa: RUF012

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the arguments."""
        parser.add_argument("names", nargs="*", metavar="NAME", help="those with this name; default: all")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--status", action="store_true", help="show them; the default")
        what.add_argument("--refresh", action="store_true", help="create those that are stale or missing")
        parser.add_argument("--force", action="store_true", help="with --refresh: create in any case")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what the *options* say.

        :raises CommandError: for wrong arguments (64), and if one of those to be refreshed is not (1).
        :raises SystemExit: with the exit status, if it is not 0, of ``--status``.
        """
        if options["force"] and not options["refresh"]:
            raise CommandError("--force goes with --refresh", returncode=os.EX_USAGE)
        chosen = _chosen(options["names"])
        if options["refresh"]:
            self._refresh(chosen, options)
        else:
            self._show(chosen, options["json"])

    def _show(self, chosen: dict[str, Registered], as_json: bool) -> None:
        looks = [_look(name, datafile) for name, datafile in chosen.items()]
        if as_json:
            self.stdout.write(json.dumps([look.json for look in looks], indent=2))
        elif looks:
            rows = [_HEADS, *(look.row for look in looks)]
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for row in rows:
                self.stdout.write("  ".join(map(str.ljust, row, widths)).rstrip())
        else:
            self.stderr.write("No datafile is registered.")
        if worst := max((look.exit for look in looks), default=0):
            sys.exit(worst)

    def _refresh(self, chosen: dict[str, Registered], options: dict[str, Any]) -> None:
        done, failed = [], []
        for name, datafile in chosen.items():
            told: dict[str, str | None] = {"name": name, "outcome": None}
            try:
                if isinstance(datafile, Datafiles) or not datafile.writes_to:
                    if not options["names"]:
                        continue  # of all, those that can be
                    raise CommandError(_why_not(datafile))
                outcome, more = _refreshed(datafile, options["force"])
                told["outcome"] = outcome.value
                if options["verbosity"] and not options["json"]:
                    self.stdout.write(f"{name}: {outcome.value.replace('_', ' ')}{more and f' ({more})'}")
            except Exception as error:
                failed.append(name)
                told["error"] = _message_of(error)
                self.stderr.write(f"{name}: {told['error']}")  # the log has the traceback
            done.append(told)
        if options["json"]:
            self.stdout.write(json.dumps(done, indent=2))
        if failed:
            raise CommandError(f"not refreshed: {', '.join(failed)}")


def _chosen(names: list[str]) -> dict[str, Registered]:
    """:raises CommandError: if one of *names* is not registered; it tells those that are."""
    known = registered()
    if unknown := [repr(name) for name in names if name not in known]:
        there = f"registered are {', '.join(known)}" if known else "none is registered"
        raise CommandError(f"no datafile is called {', '.join(unknown)}: {there}", returncode=os.EX_USAGE)
    return {name: known[name] for name in dict.fromkeys(names)} if names else known


def _look(name: str, datafile: Registered) -> _Look:
    if isinstance(datafile, Datafiles):  # of keys, which are not listed
        path = datafile.pattern
        return _Look((name, "-", "-", "-", printable_name(path), ""), {"name": name, "pattern": path}, 0)
    path = datafile.name
    try:
        status = datafile.status()
    except (DogpileError, OSError) as error:
        message = _message_of(error)
        row = (name, "unknown", "-", "-", printable_name(path), printable_name(message))
        return _Look(row, {"name": name, "path": path, "error": message}, _UNKNOWN)
    age = "-" if status.age is None else format_seconds(max(0.0, status.age))
    row = (name, status.state, age, str(status.failures), printable_name(path), now_told(status))
    return _Look(row, {"name": name, "path": path, **asdict(status)}, _EXITS[status.state])


def _refreshed(datafile: Datafile | DataDirectory, force: bool) -> tuple[Outcome, str]:
    """Refresh, and return what came of it, and what there is to say of that.

    :raises CommandError: if it is too early after failures, and there is nothing to read meanwhile.
    """
    outcome = datafile.refresh(force)
    if outcome != Outcome.backing_off:
        return outcome, ""
    status = datafile.status()
    if status.state in ("missing", "expired"):
        raise CommandError(f"{status.state}: {now_told(status)}")
    return outcome, now_told(status)


def _why_not(datafile: Registered) -> str:
    if isinstance(datafile, Datafiles):
        return f"{datafile!r} has a datafile for each key, which its name does not tell: refresh them in code"
    return f"{datafile!r} was made without a creator: it only reads"


def _message_of(error: Exception) -> str:
    """Return *error* in one line; one of the creator's with its type."""
    if isinstance(error, DogpileError | CommandError):
        text = getattr(error, "strerror", None) or str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return printable(" ".join(text.split()))
