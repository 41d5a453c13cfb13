from __future__ import annotations

import pytest

from dogpile_fs import __version__
from dogpile_fs.cli import main
from tests.support.cli_processes import Cli, bytecode, cli, logger_as_before

__all__ = ["bytecode", "cli", "logger_as_before"]  # fixtures

RUN = ("run", "--expire", "1h", "--output", "file")


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
        ((*RUN, "--forc", "--", "true"), "unrecognized arguments: --forc"),
        ((*RUN, "--wait", "1", "--no-wait", "--", "true"), "--wait and --no-wait exclude each other"),
        ((*RUN, "-v", "-q", "--", "true"), "--verbose and --quiet exclude each other"),
        ((*RUN, "--timeout", "1x", "--", "true"), "--timeout: '1x' is no duration"),
        ((*RUN, "--timeout", "0", "--", "true"), "--timeout 0 leaves COMMAND no time at all"),
        ((*RUN, "--then=--", "--", "true"), "--then has no value"),
        ((*RUN, "--keep", "-1", "--", "true"), "--keep"),
        ((*RUN, "--keep=two", "--", "true"), "'two' is no number of versions"),
        (("status",), "PATH"),
        (("status", "--expire", "soon", "file"), "'soon' is no duration"),
        (("wait", "one", "two"), "two"),
        (("watch", "--count", "0", "file"), "'0' is no number of lines"),
    ],
)
def test_a_wrong_usage_is_told_in_one_line_with_its_own_exit_status(
    logger_as_before: None, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], complaint: str
) -> None:
    assert main(words) == 64
    told = capsys.readouterr()
    assert complaint in told.err
    assert told.err.startswith("dogpile-fs: ")
    assert told.err.count("\n") == 1


def test_a_wrong_usage_is_told_even_if_the_file_is_fresh(cli: Cli) -> None:
    cli.make()
    assert cli.run(*RUN, "--timeout", "1x", "--", "true", status=64).stdout == ""
    assert "names no file" in cli.run("status", "", status=64).stderr


@pytest.mark.parametrize("command", ["run", "status", "invalidate", "wait", "touch", "rollback", "watch", "demo"])
def test_every_command_has_a_help_text_and_is_named_in_the_general_one(cli: Cli, command: str) -> None:
    own = cli.run(command, "--help").stdout
    assert own.startswith(f"usage: dogpile-fs {command} ")
    assert "  -h, --help" in own
    assert f"\n    {command}" in cli.run("--help").stdout


def test_the_help_of_run_names_durations_exit_statuses_and_how_command_knows_its_file(cli: Cli) -> None:
    text = cli.run("run", "--help").stdout
    for part in ("DOGPILE_FS_OUTPUT", "{}", "1h30m", "75 waited in vain", "-- COMMAND [ARG...]"):
        assert part in text


@pytest.mark.parametrize("command", ["status", "invalidate", "wait", "touch", "rollback", "watch"])
def test_the_help_of_the_other_commands_names_durations_and_exit_statuses(cli: Cli, command: str) -> None:
    text = cli.run(command, "--help").stdout
    for part in ("Exit status: 0 ", "66 nothing at PATH", "77 not permitted"):
        assert part in text
    assert ("1h30m" in text) == ("DURATION" in text)


@pytest.mark.parametrize("command", ["run", "status", "invalidate", "wait", "touch", "rollback", "watch", "demo"])
def test_no_help_text_is_wider_than_a_page(cli: Cli, command: str) -> None:
    text = cli.run(command, "--help", env={**cli.environment, "COLUMNS": "100"}).stdout
    assert max(map(len, text.splitlines())) <= 115


def test_the_version_is_told(cli: Cli) -> None:
    assert cli.run("--version").stdout == f"dogpile-fs {__version__}\n"
