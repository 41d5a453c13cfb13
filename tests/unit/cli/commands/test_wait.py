from __future__ import annotations

import pytest

from dogpile_fs import Dogpile
from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.processes import wait_for

__all__ = ["bytecode", "cli"]  # fixtures


def asleep(pid: int) -> bool:
    """Whether the process *pid* waits in the kernel for something to happen in a directory or for a moment."""
    try:
        with open(f"/proc/{pid}/wchan") as file:
            return "poll" in file.read()
    except OSError:
        return False


def test_it_returns_at_once_if_there_is_something(cli: Cli) -> None:
    cli.make()
    cli.run("wait", "file")
    cli.run("wait", "--fresh", "file")
    cli.run("invalidate", "file")
    cli.run("wait", "file")


def test_it_waits_for_the_first_creation(cli: Cli) -> None:
    waiter = cli.start("wait", "file")
    wait_for(lambda: asleep(waiter.pid), "sleep")
    creator = cli.start_gated(expire="1h")
    cli.wait_for_line("started")
    assert waiter.poll() is None
    cli.let_go()
    cli.end(creator)
    cli.end(waiter)


def test_it_waits_for_a_file_that_is_put_there_by_hand(cli: Cli) -> None:
    waiter = cli.start("wait", "file")
    wait_for(lambda: asleep(waiter.pid), "sleep")
    (cli.directory / "file").write_text("by hand")
    cli.end(waiter)


def test_it_waits_for_the_name_of_what_is_no_file(cli: Cli) -> None:
    waiter = cli.start("wait", "warm-up")
    wait_for(lambda: asleep(waiter.pid), "sleep")
    Dogpile(3600, cli.directory / "warm-up").refresh(lambda: None)
    cli.end(waiter)


@pytest.mark.parametrize("hard", [(), ("--hard",)])
def test_fresh_waits_for_the_next_creation(cli: Cli, hard: tuple[str, ...]) -> None:
    cli.make()
    cli.run("invalidate", *hard, "file")
    waiter = cli.start("wait", "--fresh", "file")
    wait_for(lambda: asleep(waiter.pid), "sleep")
    cli.run("run", "--expire", "1h", "--output", "file", "--stdout", "--", "date")
    cli.end(waiter)


def test_it_gives_up_when_told_to(cli: Cli) -> None:
    result = cli.run("wait", "--timeout", "0.1s", "file", status=75)
    assert result.stderr == "dogpile-fs: 'file' was not there within 0.1s\n"
    cli.make()
    result = cli.run("wait", "--timeout", "0", "--fresh", "--expire", "0", "file", status=75)
    assert result.stderr == "dogpile-fs: 'file' was not fresh within 0s\n"


def test_what_is_wrong_with_the_sidecar_is_told_once_however_often_it_looks(cli: Cli) -> None:
    cli.make()
    (cli.directory / "file.dogpile").write_text("scribble")
    told = cli.run("wait", "--fresh", "--timeout", "1.2s", "file", status=75).stderr.splitlines()
    assert "holds no sound record" in told[0]
    assert told[1:] == ["dogpile-fs: 'file' was not fresh within 1.2s"]
