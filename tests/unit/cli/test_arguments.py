from __future__ import annotations

import pytest

from dogpile_fs import __version__
from dogpile_fs.cli import main
from tests.support.cli_processes import Cli, bytecode, cli, logger_as_before

__all__ = ["bytecode", "cli", "logger_as_before"]  # fixtures

RUN = ("run", "--expire", "1h", "--output", "file")

#: All commands but ``run`` and ``demo``, whose help is of another kind.
OTHERS = [
    "status",
    "history",
    "metrics",
    "invalidate",
    "cancel",
    "wait",
    "touch",
    "rollback",
    "watch",
    "top",
    "completion",
]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "required: command"),
        (("nonsense",), "nonsense"),
        (("status", "--nonsense", "file"), "--nonsense"),
        (("run", "--output", "file", "--", "true"), "--expire is missing"),
        (("run", "--expire", "1h", "--", "true"), "--output is missing"),
        (("run", "--expire", "1h", "--output", "", "--", "true"), "--output names no file"),
        (RUN, "COMMAND is missing: put it at the end, after --"),
        ((*RUN, "--"), "COMMAND is missing: put it at the end, after --"),
        ((*RUN, "true"), "unrecognized arguments: true"),
        ((*RUN, "echo", "hello"), "run --help). Hint: put COMMAND at the end, after --."),
        ((*RUN, "tar", "--directory"), "expected one argument (see dogpile-fs run --help). Hint: put COMMAND at"),
        ((*RUN, "--forc", "--", "true"), "unrecognized arguments: --forc"),
        ((*RUN, "--wait", "1", "--no-wait", "--", "true"), "--wait and --no-wait exclude each other"),
        ((*RUN, "-v", "-q", "--", "true"), "--verbose and --quiet exclude each other"),
        ((*RUN, "--timeout", "1x", "--", "true"), "--timeout: '1x' is not a duration"),
        ((*RUN, "--timeout", "0", "--", "true"), "--timeout 0 leaves COMMAND no time at all"),
        ((*RUN, "--then=--", "--", "true"), "--then has no value"),
        ((*RUN, "--keep", "-1", "--", "true"), "--keep"),
        ((*RUN, "--keep=two", "--", "true"), "'two' is not a number of versions"),
        ((*RUN, "--backoff", "soon", "--", "true"), "--backoff: 'soon' is not a duration"),
        ((*RUN, "--backoff", "30s..", "--", "true"), "'30s..' is no backoff: write it as 30s..10m, or 30s, or 0"),
        ((*RUN, "--backoff", "..1m", "--", "true"), "'..1m' is no backoff: write it as 30s..10m, or 30s, or 0"),
        ((*RUN, "--backoff", "", "--", "true"), "'' is no backoff: write it as"),
        ((*RUN, "--backoff", "10m..30s", "--", "true"), "the longest delay, 30s, is shorter than the first"),
        ((*RUN, "--backoff", "0..10m", "--", "true"), "a delay of 0 does not grow; write it as 1s..10m"),
        ((*RUN, "--stale-if-error", "yes", "--", "true"), "--stale-if-error: 'yes' is not a duration"),
        (
            (*RUN, "--stale-if-error", "2h", "--max-stale", "1h", "--", "true"),
            "--stale-if-error is longer than --max-stale, after which no process uses FILE: make it shorter",
        ),
        ((*RUN, "--max-stale", "never", "--", "true"), "--max-stale: 'never' is not a duration"),
        ((*RUN, "--refresh-early", "1.5", "--", "true"), "'1.5' is not a fraction: write it as 0.1 or 0.8"),
        ((*RUN, "--refresh-early", "80%", "--", "true"), "'80%' is not a fraction"),
        ((*RUN, "--jitter", "nan", "--", "true"), "--jitter: 'nan' is not a fraction"),
        (
            (*RUN, "--unchanged-status", "0", "--", "true"),
            "'0' is not an exit status of this kind: write",
        ),
        ((*RUN, "--unchanged-status", "256", "--", "true"), "'256' is not an exit status of this kind"),
        ((*RUN, "--depends-on", "--", "true"), "--depends-on: expected at least one argument"),
        ((*RUN, "--depends-on", "", "--", "true"), "--depends-on names no file"),
        (("status",), "PATH"),
        (("status", "--expire", "soon", "file"), "'soon' is not a duration"),
        (("status", "--check", "1h"), "--check: expected 2 arguments"),
        (("status", "--check", "1h", "soon", "file"), "--check: 'soon' is not a duration"),
        (("status", "--check", "2h", "1h", "file"), "--check: WARN is longer than CRIT"),
        (("status", "--check", "1h", "2h", "--json", "file"), "--check and --json exclude each other"),
        (("metrics", ""), "names no file"),
        (("wait", "one", "two"), "two"),
        (("watch", "--count", "0", "file"), "'0' is not a number of lines"),
    ],
)
def test_a_wrong_usage_is_reported_in_one_line_with_exit_status_64(
    logger_as_before: None, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], complaint: str
) -> None:
    assert main(words) == 64
    printed = capsys.readouterr()
    assert complaint in printed.err
    assert printed.err.startswith("dogpile-fs: ")
    assert printed.err.count("\n") == 1


def test_a_wrong_usage_is_reported_even_if_the_file_is_fresh(cli: Cli) -> None:
    cli.make()
    assert cli.run(*RUN, "--timeout", "1x", "--", "true", status=64).stdout == ""
    assert "names no file" in cli.run("status", "", status=64).stderr


@pytest.mark.parametrize(
    "command",
    ["run", *OTHERS, "demo"],
)
def test_every_command_has_a_help_text_and_is_named_in_the_general_one(cli: Cli, command: str) -> None:
    own = cli.run(command, "--help").stdout
    assert own.startswith(f"usage: dogpile-fs {command} ")
    assert "  -h, --help" in own
    assert f"\n    {command}" in cli.run("--help").stdout


def test_the_help_of_run_names_durations_exit_statuses_and_how_command_finds_its_file(cli: Cli) -> None:
    text = cli.run("run", "--help").stdout
    for part in ("DOGPILE_FS_OUTPUT", "{}", "1h30m", "75 timed out", "-- COMMAND [ARG...]"):
        assert part in text


@pytest.mark.parametrize("command", OTHERS)
def test_the_help_of_the_other_commands_names_durations_and_exit_statuses(cli: Cli, command: str) -> None:
    text = cli.run(command, "--help").stdout
    for part in ("Exit status: 0 ", "66 nothing at PATH", "77 not permitted"):
        assert part in text
    assert ("1h30m" in text) == ("DURATION" in text)


@pytest.mark.parametrize(
    "command",
    ["run", *OTHERS, "demo"],
)
def test_no_help_text_is_wider_than_a_page(cli: Cli, command: str) -> None:
    text = cli.run(command, "--help", env={**cli.environment, "COLUMNS": "100"}).stdout
    assert max(map(len, text.splitlines())) <= 115


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli.run("--version").stdout == f"dogpile-fs {__version__}\n"
