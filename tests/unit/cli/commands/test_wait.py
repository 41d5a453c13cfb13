from __future__ import annotations

import json
import os

import pytest

from dogpile_fs import Dogpile
from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.processes import wait_for

__all__ = ["bytecode", "cli"]  # fixtures


def asleep(pid: int) -> bool:
    """Return whether the process *pid* waits in the kernel for a change in a directory or for a time."""
    try:
        with open(f"/proc/{pid}/wchan") as file:
            return "poll" in file.read()
    except OSError:
        return False


def test_wait_returns_at_once_if_there_is_a_version(cli: Cli) -> None:
    cli.make()
    cli.run("wait", "file")
    cli.run("wait", "--fresh", "file")
    cli.run("invalidate", "file")
    cli.run("wait", "file")


def test_wait_waits_for_the_first_creation(cli: Cli) -> None:
    waiter = cli.start("wait", "file")
    wait_for(lambda: asleep(waiter.pid), "sleep")
    creator = cli.start_gated(expire="1h")
    cli.wait_for_line("started")
    assert waiter.poll() is None
    cli.open_gate()
    cli.end(creator)
    cli.end(waiter)


def test_wait_waits_for_a_file_that_another_program_puts_there(cli: Cli) -> None:
    waiter = cli.start("wait", "file")
    wait_for(lambda: asleep(waiter.pid), "sleep")
    (cli.directory / "file").write_text("by hand")
    cli.end(waiter)


def test_wait_waits_for_a_resource_that_is_no_file(cli: Cli) -> None:
    waiter = cli.start("wait", "warm-up")
    wait_for(lambda: asleep(waiter.pid), "sleep")
    Dogpile(3600, cli.directory / "warm-up").refresh(lambda: None)
    cli.end(waiter)


@pytest.mark.parametrize("hard", [(), ("--hard",)])
def test_wait_fresh_waits_for_the_next_creation(cli: Cli, hard: tuple[str, ...]) -> None:
    cli.make()
    cli.run("invalidate", *hard, "file")
    waiter = cli.start("wait", "--fresh", "file")
    wait_for(lambda: asleep(waiter.pid), "sleep")
    cli.run("run", "--expire", "1h", "--output", "file", "--stdout", "--", "date")
    cli.end(waiter)


def test_wait_times_out(cli: Cli) -> None:
    result = cli.run("wait", "--timeout", "0.1s", "file", status=75)
    assert result.stderr == "dogpile-fs: 'file' was not there within 0.1s: no process creates it\n"
    cli.make()
    result = cli.run("wait", "--timeout", "0", "--fresh", "--expire", "0", "file", status=75)
    assert result.stderr == "dogpile-fs: 'file' was not fresh within 0s: no process creates it\n"
    creator = cli.start_gated()
    cli.wait_for_line("started")
    result = cli.run("wait", "--timeout", "0", "--fresh", "--expire", "0", "file", status=75)
    assert f"within 0s: process {creator.pid} on {os.uname().nodename} has been creating it for" in result.stderr
    cli.open_gate()
    cli.end(creator)


def test_a_damaged_sidecar_is_reported_once_during_a_wait(cli: Cli) -> None:
    cli.make()
    (cli.directory / "file.dogpile").write_text("scribble")
    lines = cli.run("wait", "--fresh", "--timeout", "1.2s", "file", status=75).stderr.splitlines()
    assert "holds no sound record" in lines[0]
    assert lines[1:] == ["dogpile-fs: 'file' was not fresh within 1.2s: no process creates it"]


def test_json_tells_what_is_known_when_the_wait_is_over(cli: Cli) -> None:
    cli.make()
    known = json.loads(cli.run("wait", "--json", "file").stdout)
    (status,) = json.loads(cli.run("status", "--json", "file").stdout)
    assert list(known) == list(status)
    assert (known["path"], known["state"], known["createdtime"]) == ("file", "fresh", status["createdtime"])
    creator = cli.start_gated("--force")
    cli.wait_for_line("started")
    late = cli.run("wait", "--json", "--fresh", "--expire", "0", "--timeout", "0", "file", status=75)
    assert json.loads(late.stdout)["creating_pid"] == creator.pid
    assert "was not fresh within 0s" in late.stderr
    cli.open_gate()
    cli.end(creator)
