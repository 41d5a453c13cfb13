"""``cancel``: ends the process of a creation, and no other one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from dogpile_fs import Datafile
from dogpile_fs._os.process_identity import own_identity, start_of
from dogpile_fs._sidecar.record import Attempt
from tests.support import background
from tests.support.cli_processes import Cli, bytecode, cli, gone
from tests.support.processes import PATIENCE, Record, wait_for

__all__ = ["bytecode", "cli"]  # fixtures

#: Of a COMMAND whose child ignores SIGTERM; both print a line first.
_HANGING = "(trap '' TERM; echo $BASHPID >> child; exec sleep 1000) & echo >> started; wait"


@pytest.fixture
def record(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Record:
    monkeypatch.setenv(background.RECORD, str(cli.directory / "record"))
    return Record(cli.directory / "record")


def hanging(cli: Cli) -> Datafile:
    """Return a datafile whose creator, in a process of its own, does not end."""
    cli.make()
    os.utime(cli.directory / "file", (1, 1))
    report = Datafile(cli.directory / "file", 3600, background.hang_with_children, background="process")
    with report.open():
        pass
    return report


def test_a_background_creation_is_ended_with_its_children_and_the_next_one_is_tried(
    cli: Cli, record: Record
) -> None:
    report = hanging(cli)
    (begun,) = record.wait("begun")
    cli.run("cancel", "--kill-after", "0.2s", "file")
    wait_for(lambda: gone(begun.more["child"]), "the end of its child")
    assert gone(begun.pid)
    assert not report.status().creating
    assert cli.text() == "old\n"
    with report.open():
        pass
    record.wait("begun", 2)
    assert report.status().failures_total == 1, "it counts as a death"
    cli.run("cancel", "--kill-after", "0.2s", "file")


def test_a_run_ends_by_the_signal_and_its_command_with_it(cli: Cli) -> None:
    cli.make()
    os.utime(cli.directory / "file", (1, 1))
    process = cli.start(
        "run", "--expire", "1h", "--output", "file", "--kill-after", "0.2s", "--", "bash", "-c", _HANGING
    )
    cli.wait_for_line("started")
    (line,) = cli.wait_for_line("child")
    cli.run("cancel", "file")
    cli.end(process, -15)  # 143 for a shell
    wait_for(lambda: gone(int(line)), "the end of the child that ignores SIGTERM")
    assert cli.text() == "old\n"
    assert cli.left_behind() == []


def test_where_nothing_runs_that_is_said(cli: Cli) -> None:
    cli.make()
    assert "no creation of 'file' runs" in cli.run("cancel", "file", status=66).stderr
    assert "no creation of 'missing' runs" in cli.run("cancel", "missing", status=66).stderr


def test_a_worker_is_never_ended(cli: Cli) -> None:
    cli.make()
    os.utime(cli.directory / "file", (1, 1))
    program = (
        "import time\nfrom dogpile_fs import Datafile\n"
        "def create(target):\n    open('started', 'w').write('\\n')\n    time.sleep(1000)\n"
        "Datafile('file', 3600, create).refresh()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    worker = subprocess.Popen([sys.executable, "-c", program], cwd=cli.directory, env=environment)
    try:
        cli.wait_for_line("started")
        said = cli.run("cancel", "file", status=77).stderr
        assert f":{worker.pid}, which does other work as well and is not ended" in said
        assert worker.poll() is None
    finally:
        worker.kill()
        worker.wait(PATIENCE)


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"host": "elsewhere"}, 77, "on another host, in another container, or before the last boot"),
        ({"boot": "0" * 16}, 77, "on another host"),
        ({"pid_ns": 1}, 77, "in another container"),
        ({"start": 1}, 66, "does not create 'file', and is not ended"),
        ({"pid": 2**22 + 1}, 66, "has ended"),
        ({"kind": "thread"}, 77, "does other work as well"),
    ],
)
def test_a_process_that_is_not_the_one_on_record_is_not_ended(
    cli: Cli, record: Record, changes: dict[str, Any], status: int, says: str
) -> None:
    report = hanging(cli)
    (begun,) = record.wait("begun")
    scope = report._dogpile._shared.scope

    def attempt() -> Attempt | None:
        found = report._dogpile._record.attempt
        return found if found is not None and found.pid == begun.pid else None

    right = wait_for(attempt, "the attempt of the child")
    scope.change(lambda last: last.replace(attempt=right._replace(**changes)))
    assert says in cli.run("cancel", "file", status=status).stderr
    assert not gone(begun.pid)
    scope.change(lambda last: last.replace(attempt=right))
    cli.run("cancel", "--kill-after", "0.2s", "file")


def test_a_process_that_has_not_the_mutex_open_is_not_ended(cli: Cli, record: Record) -> None:
    report = hanging(cli)
    (begun,) = record.wait("begun")
    scope = report._dogpile._shared.scope
    right = wait_for(lambda: report._dogpile._record.attempt, "the attempt of the child")
    other = subprocess.Popen(["sleep", "1000"])
    try:
        scope.change(lambda last: last.replace(attempt=right._replace(pid=other.pid, start=start_of(other.pid))))
        assert "does not create 'file'" in cli.run("cancel", "file", status=66).stderr
        assert other.poll() is None
    finally:
        other.kill()
        other.wait(PATIENCE)
        scope.change(lambda last: last.replace(attempt=right._replace(pid=begun.pid, start=start_of(begun.pid))))
        cli.run("cancel", "--kill-after", "0.2s", "file")


def test_the_attempt_says_which_process_it_is(cli: Cli, record: Record) -> None:
    report = hanging(cli)
    (begun,) = record.wait("begun")
    attempt = wait_for(
        lambda: found if (found := report._dogpile._record.attempt) and found.pid == begun.pid else None, "it"
    )
    own = own_identity()
    assert (attempt.boot, attempt.pid_ns, attempt.kind) == (own.boot, own.pid_ns, "process")
    assert attempt.start != own.start
    cli.run("cancel", "--kill-after", "0.2s", "file")
