"""``invalidate``, ``touch`` and ``rollback``: make a file stale, fresh, or the version before."""

from __future__ import annotations

import os

from dogpile_fs import DataDirectory, Datafile
from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.processes import wait_for, waiters_for

__all__ = ["bytecode", "cli"]  # fixtures


def test_invalidate_makes_stale_and_touch_makes_fresh_again(cli: Cli) -> None:
    cli.make()
    cli.run("invalidate", "file")
    cli.run("status", "file", status=1)
    cli.run("touch", "file")
    cli.run("status", "file")
    assert cli.text() == "old\n"


def test_after_a_hard_invalidation_the_file_is_missing_until_it_is_made_anew(cli: Cli) -> None:
    cli.make()
    cli.run("invalidate", "--hard", "file")
    cli.run("status", "file", status=2)
    cli.run("run", "--expire", "1h", "--output", "file", "--stdout", "--", "echo", "new")
    assert cli.text() == "new\n"


def test_several_files_are_invalidated_though_one_is_missing(cli: Cli) -> None:
    cli.make("one")
    cli.make("two")
    cli.run("invalidate", "one", "missing", "two", status=66)
    for file in ("one", "two"):
        cli.run("status", file, status=1)


def test_a_file_that_is_being_made_for_the_first_time_can_be_invalidated(cli: Cli) -> None:
    creator = cli.start_gated(expire="1h")
    cli.wait_for_line("started")
    cli.run("invalidate", "file")
    cli.open_gate()
    cli.end(creator)
    cli.run("status", "file", status=1)


def test_touch_and_rollback_leave_the_expiry_as_it_was(cli: Cli) -> None:
    for word in ("one", "two"):
        cli.run("run", "--expire", "0", "--output", "file", "--keep", "1", "--stdout", "--", "echo", word)
    for command in ("touch", "rollback"):
        cli.run(command, "file")
        cli.run("status", "file", status=1)
        cli.run("status", "--expire", "1h", "file")
    assert cli.text() == "one\n"


def test_rollback_with_readers_waits_for_readers(cli: Cli) -> None:
    for word in ("one", "two"):
        cli.run("run", "--expire", "0", "--output", "file", "--keep", "1", "--stdout", "--", "echo", word)
    with Datafile(cli.directory / "file", readers=True).acquire():
        rollback = cli.start("rollback", "--readers", "file")
        wait_for(lambda: waiters_for(str(cli.directory / "file.dogpile.rwlock")) == 1, "a writer that waits")
        assert cli.text() == "two\n"
    cli.end(rollback)
    assert cli.text() == "one\n"


def test_directories_are_invalidated_touched_and_rolled_back_too(cli: Cli) -> None:
    words = iter(("one", "two"))

    def creator(target: str) -> None:
        os.mkdir(target)
        with open(os.path.join(target, "word"), "w") as file:
            file.write(next(words))

    index = DataDirectory(cli.directory / "index", 3600, creator, keep=1)
    index.refresh()
    index.refresh(force=True)
    cli.run("invalidate", "index")
    cli.run("status", "index", status=1)
    cli.run("touch", "index")
    cli.run("status", "index")
    cli.run("rollback", "index")
    assert cli.text("index/word") == "one"
