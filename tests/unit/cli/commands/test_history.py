from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from dogpile_fs import Dogpile
from dogpile_fs._sidecar.journal import Entry, Journal
from tests.support.cli_processes import Cli, bytecode, cli

__all__ = ["bytecode", "cli"]  # fixtures

HEADS = ["BEGUN", "BY", "IN", "COST", "GENERATION", "OUTCOME"]


def table(cli: Cli, *words: str) -> list[list[str]]:
    """Return the rows of ``history``, without the heads."""
    heads, *rows = cli.run("history", *words).stdout.splitlines()
    assert re.split("  +", heads) == HEADS
    return [re.split("  +", row) for row in rows]


def make(cli: Cli, *words: str, status: int = 0) -> None:
    options = ("--expire", "0", "--backoff", "0", "--output", "file")
    cli.run("run", *options, *words, status=status)


def test_each_run_is_a_line_the_oldest_first(cli: Cli) -> None:
    before = time.strftime("%F %T")
    make(cli, "--stdout", "--", "echo", "new")
    make(cli, "--", "sh", "-c", "exit 3", status=3)
    make(cli, "--", "sh", "-c", "kill -9 $$", status=137)
    make(cli, "--timeout", "0.1", "--", "sleep", "60", status=124)
    make(cli, "--stdout", "--validate", "exit 7", "--", "echo", "new", status=65)
    make(cli, "--", "true", status=65)
    make(cli, "--unchanged-status", "9", "--", "sh", "-c", "exit 9")
    rows = table(cli, "file")
    assert [row[5] for row in rows] == [
        "created",
        "failed: status 3",
        "failed: SIGKILL",
        "failed: timeout",
        "failed: refused",
        "failed: no file",
        "unchanged",
    ]
    assert [row[4] for row in rows] == ["1", "2", "2", "2", "2", "2", "2"]
    begun = [row[0] for row in rows]
    assert before <= begun[0]
    assert begun == sorted(begun)
    for row in rows:
        assert re.fullmatch(re.escape(os.uname().nodename) + r":\d+", row[1])
        assert row[2] == "command"
        assert row[3].endswith("s")
    objects = json.loads(cli.run("history", "--json", "file").stdout)
    assert [(each["exit_status"], each["signal"]) for each in objects] == [
        (None, None),
        (3, None),
        (None, 9),
        (None, 15),
        (7, None),
        (None, None),
        (None, None),
    ]
    assert [each["number"] for each in objects] == [1, 2, 3, 4, 5, 6, 7]
    assert "input_signs" not in objects[0]


def test_a_killed_run_is_a_death_and_the_next_one_tells_it(cli: Cli) -> None:
    creator = cli.start_gated()
    cli.wait_for_line("started")
    creator.kill()
    creator.wait()
    assert table(cli, "file") == []
    make(cli, "--stdout", "--", "echo", "new")
    died, created = table(cli, "file")
    assert died[1:] == [f"{os.uname().nodename}:{creator.pid}", "command", "-", "1", "died"]
    assert created[5] == "created"


def test_the_input_that_had_changed_is_shown(cli: Cli) -> None:
    (cli.directory / "source").write_text("x")
    words = (
        "run",
        "--expire",
        "1h",
        "--output",
        "file",
        "--stdout",
        "--depends-on",
        "source",
        "--",
        "echo",
        "new",
    )
    cli.run(*words)
    (cli.directory / "source").write_text("other")
    cli.run(*words)
    assert [row[5] for row in table(cli, "file")] == [
        "created",
        f"created ({cli.directory / 'source'} had changed)",
    ]


def test_the_files_of_another_directory_are_found(cli: Cli) -> None:
    (cli.directory / "locks").mkdir()
    make(cli, "--directory", "locks", "--stdout", "--", "echo", "new")
    assert [row[5] for row in table(cli, "--directory", "locks", "file")] == ["created"]
    assert not (cli.directory / "file.dogpile.journal").exists()
    cli.run("history", "file", status=2)


@pytest.mark.parametrize("in_json", [True, False])
def test_without_a_journal_it_is_empty_or_nothing_is_known(in_json: bool, cli: Cli) -> None:
    words = ("history", "--json") if in_json else ("history",)
    nothing = cli.run(*words, "file", status=2)
    assert nothing.stdout == ("[]\n" if in_json else "")
    assert nothing.stderr == "dogpile-fs: nothing is known of file: no process has begun to create it\n"
    assert cli.run(*words, "nowhere/file", status=66).stdout == ""
    Dogpile(3600, cli.directory / "file", init=True)
    empty = cli.run(*words, "file")
    assert (empty.stderr, empty.stdout) == ("", "[]\n" if in_json else "  ".join(HEADS) + "\n")
    os.mkdir(cli.directory / "file.dogpile.journal")
    assert "Hint: move the directory away" in cli.run(*words, "file", status=73).stderr


def test_what_a_terminal_would_obey_is_shown_as_a_question_mark(cli: Cli) -> None:
    entry = Entry("ho\x1bst", 1, 1e300, "\x1b[2J", 1, error_type="\x9bx", changed_input="/a\nb")
    Journal(str(cli.directory / "file.dogpile.journal"), name="x").append(entry)
    ((begun, by, *_, outcome),) = table(cli, "file")
    assert (begun, by, outcome) == ("-", "ho?st:1", "?[2J: ?x (/a?b had changed)")


def test_it_is_a_text_file_for_people(cli: Cli) -> None:
    make(cli, "--stdout", "--", "echo", "new")
    line = Path(cli.directory / "file.dogpile.journal").read_text()
    assert line.startswith('{"dogpile_fs": 1, "number": 1, "host": ')
    assert line.endswith("\n")
