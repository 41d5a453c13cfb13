from __future__ import annotations

import os
import re
import time

import pytest

from tests.support.cli_processes import Cli, bytecode, cli

__all__ = ["bytecode", "cli"]  # fixtures

#: Of one path: the label, its age, and the rest of the performance data.
PERFORMANCE = re.compile(r"'([^'=|]+)'=(\d+(?:\.\d+)?)s;([\d.;]*)")


def make_aged(cli: Cli, name: str, seconds: float) -> None:
    """Make a file *name* that is so old, and without a sidecar."""
    (cli.directory / name).write_text("shipped")
    os.utime(cli.directory / name, (time.time() - seconds,) * 2)


def checked(cli: Cli, *words: str, status: int) -> tuple[str, list[tuple[str, ...]]]:
    """Return the text of the one line of ``status --check``, and its performance data."""
    line = cli.run("status", "--check", *words, status=status).stdout
    assert line.endswith("\n")
    assert line.count("\n") == 1
    text, _bar, performance = line.rstrip("\n").partition(" | ")
    return text, [match.groups() for match in PERFORMANCE.finditer(performance)]


@pytest.mark.parametrize(
    ("warn", "crit", "status", "text"),
    [
        ("2h", "3h", 0, "DOGPILE OK: file is 1h old"),
        ("30m", "2h", 1, "DOGPILE WARNING: file is 1h old, more than 30m"),
        ("30m", "45m", 2, "DOGPILE CRITICAL: file is 1h old, more than 45m"),
        ("30m", "30m", 2, "DOGPILE CRITICAL: file is 1h old, more than 30m"),
    ],
)
def test_the_age_decides_and_the_line_says_why(cli: Cli, warn: str, crit: str, status: int, text: str) -> None:
    make_aged(cli, "file", 3610)
    found, performance = checked(cli, warn, crit, "file", status=status)
    assert found == text
    ((label, age, _),) = performance
    assert label == "file"
    assert 3600 < float(age) < 3700


def test_performance_data_have_the_thresholds_in_seconds_and_no_exponents(cli: Cli) -> None:
    make_aged(cli, "file", 10)
    ((_, _, rest),) = checked(cli, "1h", "9999999999999999999", "file", status=0)[1]
    assert rest == "3600;10000000000000000000;0"
    assert checked(cli, "0.5s", "1.25s", "file", status=2)[1][0][2] == "0.5;1.25;0"


def test_a_missing_file_is_critical_with_the_failure_that_may_be_its_cause(cli: Cli) -> None:
    assert checked(cli, "1h", "2h", "file", status=2) == ("DOGPILE CRITICAL: file is missing", [])
    cli.run("run", "--expire", "1h", "--output", "file", "--", "sh", "-c", "exit 3", status=3)
    text, _ = checked(cli, "1h", "2h", "file", status=2)
    assert re.fullmatch(
        r"DOGPILE CRITICAL: file is missing \(failed once, \S+ ago: status 3 \(pid \d+\).*\)", text
    )


def test_a_version_that_no_reader_gets_is_critical_however_young(cli: Cli) -> None:
    cli.make("hard")
    cli.run("invalidate", "--hard", "hard")
    assert (
        checked(cli, "1h", "2h", "hard", status=2)[0] == "DOGPILE CRITICAL: hard is missing (invalidated (hard))"
    )
    cli.run("run", "--expire", "0", "--max-stale", "0", "--output", "old", "--stdout", "--", "date")
    assert re.fullmatch(r"DOGPILE CRITICAL: old is \S+ old, expired", checked(cli, "1h", "2h", "old", status=2)[0])


def test_what_is_stale_but_young_is_ok(cli: Cli) -> None:
    cli.run("run", "--expire", "0", "--output", "file", "--stdout", "--", "date")
    assert checked(cli, "1h", "2h", "file", status=0)[0].startswith("DOGPILE OK: file is ")


def test_an_error_is_unknown_and_in_the_line(cli: Cli) -> None:
    text, performance = checked(cli, "1h", "2h", "missing/file", status=3)
    assert text.startswith("DOGPILE UNKNOWN: the directory ")
    assert performance == []
    assert checked(cli, "1h", "2h", "/dev/stdout", status=3)[0].startswith("DOGPILE UNKNOWN: '/dev/stdout' names ")


def test_of_several_paths_the_worst_counts_and_those_that_are_well_are_not_named(cli: Cli) -> None:
    for name, hours in (("young", 0), ("middle", 2), ("old", 5)):
        make_aged(cli, name, hours * 3600 + 10)
    text, performance = checked(cli, "1h", "4h", "young", "middle", status=1)
    assert text == "DOGPILE WARNING: middle is 2h old, more than 1h"
    assert {label for label, *_ in performance} == {"young", "middle"}
    text, _ = checked(cli, "1h", "4h", "young", "middle", "missing/file", status=3)
    assert text.startswith("DOGPILE UNKNOWN: the directory ")
    assert text.endswith("; middle is 2h old, more than 1h")
    # What is known to be bad is not hidden by what is unknown.
    text, _ = checked(cli, "1h", "4h", "young", "missing/file", "old", "middle", status=2)
    assert text.startswith("DOGPILE CRITICAL: old is 5h old, more than 4h; the directory ")
    text, _ = checked(cli, "8h", "9h", "young", "middle", status=0)
    assert re.fullmatch(r"DOGPILE OK: young is \S+ old; middle is 2h old", text)


def test_a_name_cannot_end_the_line_or_begin_the_performance_data(cli: Cli) -> None:
    name = "it's=a | b\nc"
    make_aged(cli, name, 7210)
    text, performance = checked(cli, "1h", "4h", name, status=1)
    assert text == "DOGPILE WARNING: it's=a ? b?c is 2h old, more than 1h"
    assert performance[0][0] == "it_s_a ? b?c"
