from __future__ import annotations

import os

import pytest

from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.places import umask

__all__ = ["bytecode", "cli"]  # fixtures


def values(text: str) -> dict[str, str]:
    """Return the values of the series by all that stands before them."""
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_the_metrics_of_all_paths_are_printed_with_absolute_paths(cli: Cli) -> None:
    cli.make("one")
    cli.run("run", "--expire", "1h", "--output", "two", "--", "false", status=1)
    printed = values(cli.run("metrics", "one", str(cli.directory / "two")).stdout)
    for name, creations, failures in (("one", "1", "0"), ("two", "0", "1")):
        labels = f'{{path="{cli.directory}/{name}"}}'
        assert printed["dogpile_fs_creations_total" + labels] == creations
        assert printed["dogpile_fs_failures_in_a_row" + labels] == failures
    assert printed[f'dogpile_fs_state{{path="{cli.directory}/one",state="fresh"}}'] == "1"


def test_a_path_that_cannot_be_looked_at_is_reported_and_the_others_are_there(cli: Cli) -> None:
    cli.make()
    result = cli.run("metrics", "missing/file", "file")
    assert result.stderr.startswith("dogpile-fs: there are no metrics of ")
    assert result.stderr.count("\n") == 1
    printed = values(result.stdout)
    assert printed[f'dogpile_fs_up{{path="{cli.directory}/missing/file"}}'] == "0"
    assert printed[f'dogpile_fs_up{{path="{cli.directory}/file"}}'] == "1"


def test_the_coordination_files_may_be_in_another_directory(cli: Cli) -> None:
    (cli.directory / "locks").mkdir()
    cli.run("run", "--directory", "locks", "--expire", "1h", "--output", "file", "--stdout", "--", "date")
    labels = f'{{path="{cli.directory}/file"}}'
    for options, creations in (((), "0"), (("--directory", "locks"), "1")):
        printed = values(cli.run("metrics", *options, "file").stdout)
        assert printed["dogpile_fs_creations_total" + labels] == creations


def test_they_are_written_to_a_file_in_one_step_which_others_may_read(cli: Cli) -> None:
    cli.make()
    with umask(0o022):
        assert cli.run("metrics", "--output", "dogpile.prom", "file").stdout == ""
    assert values(cli.text("dogpile.prom")).keys() == values(cli.run("metrics", "file").stdout).keys()
    assert (cli.directory / "dogpile.prom").stat().st_mode & 0o777 == 0o644
    inode = (cli.directory / "dogpile.prom").stat().st_ino
    with open(cli.directory / "dogpile.prom") as before:
        cli.run("metrics", "--output", "dogpile.prom", "file")
        assert (cli.directory / "dogpile.prom").stat().st_ino != inode
        assert before.read().startswith("# HELP ")
    assert cli.left_behind() == []


def test_a_file_that_cannot_be_written_is_an_error(cli: Cli) -> None:
    assert "missing" in cli.run("metrics", "--output", "missing/dogpile.prom", "file", status=73).stderr
    assert "descriptor" in cli.run("metrics", "--output", "/dev/stdout", "file", status=73).stderr
    assert "descriptor" in cli.run("metrics", "/dev/stdout", status=73).stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_it_is_utf_8_in_any_locale(cli: Cli, encoding: str) -> None:
    cli.make("é")
    environment = {**cli.environment, "PYTHONIOENCODING": encoding}
    process = cli.start("metrics", "é", os.fsdecode(b"\xff"), env=environment, encoding="utf-8")
    printed = values(cli.end(process).stdout)
    assert printed[f'dogpile_fs_creations_total{{path="{cli.directory}/é"}}'] == "1"
    assert printed[f'dogpile_fs_up{{path="{cli.directory}/\\\\udcff"}}'] == "1"
