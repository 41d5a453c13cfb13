"""``dogpile-fs run`` ends with all that it started, by whatever ends it."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dogpile_fs.cli.child.process_group import Members
from tests.support.cli_processes import Cli, bytecode, cli, gone
from tests.support.processes import wait_for, waiters_for

__all__ = ["bytecode", "cli"]  # fixtures

RUN = ("run", "--expire", "0", "--output", "file")
#: COMMAND, its child and its grandchild tell their process ids, half the file is made, and nothing goes on.
FAMILY = (
    "sh",
    "-c",
    "echo half > $DOGPILE_FS_OUTPUT; echo $$ >> family;"
    "sh -c 'echo $$ >> family; sleep 1000 & echo $! >> family; wait; true'; true",
)
#: The same, but all of them ignore what asks them to end.
STUBBORN = ("sh", "-c", "trap '' TERM INT HUP; " + FAMILY[2])


@contextmanager
def started(cli: Cli, *words: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A run of *words* with the ids of its COMMAND's family; all of them must end in the block."""
    run = cli.start(*RUN, *words)
    family = [int(line) for line in cli.wait_for_line("family", 3)]
    try:
        yield run, family
        wait_for(lambda: all(gone(pid) for pid in family), f"the end of {family}", 20)
    finally:
        for pid in family:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


def is_pending(number: signal.Signals, pid: int) -> bool:
    """Whether the process *pid* has yet to be given signal *number*."""
    with open(f"/proc/{pid}/status") as file:
        pending = next(int(line.split()[1], 16) for line in file if line.startswith("ShdPnd"))
    return bool(pending >> (number - 1) & 1)


def nothing_is_left(cli: Cli) -> None:
    """The old file is there, no temporary one is, and the next run works."""
    assert cli.text() == "old\n"
    assert cli.left_behind() == []
    cli.run(*RUN, "--no-wait", "--stdout", "--", "echo", "next")
    assert cli.text() == "next\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_whole_family_and_the_run_dies_of_it(cli: Cli, number: signal.Signals) -> None:
    cli.make()
    with started(cli, "--", *FAMILY) as (run, _):
        run.send_signal(number)
        result = cli.end(run, -number)
        assert (result.stdout, result.stderr) == ("", "")
    nothing_is_left(cli)


def test_the_family_gets_the_very_signal_and_the_time_to_tidy_up(cli: Cli) -> None:
    cli.make()
    tidy = "trap 'echo INT > caught; echo > tidying; read x < gate; exit 0' INT; echo > started; read x < never"
    os.mkfifo(cli.directory / "never")
    run = cli.start(*RUN, "--", "sh", "-c", tidy)
    cli.wait_for_line("started")
    run.send_signal(signal.SIGINT)
    cli.wait_for_line("tidying")
    assert run.poll() is None
    cli.let_go()
    cli.end(run, -signal.SIGINT)
    assert cli.text("caught") == "INT\n"
    nothing_is_left(cli)


def test_who_does_not_end_in_time_is_killed(cli: Cli) -> None:
    cli.make()
    with started(cli, "--kill-after", "0.1s", "--", *STUBBORN) as (run, _):
        run.send_signal(signal.SIGTERM)
        cli.end(run, -signal.SIGTERM)
    nothing_is_left(cli)


def test_a_second_signal_kills_at_once_but_what_comes_together_is_one(cli: Cli) -> None:
    cli.make()
    with started(cli, "--kill-after", "1h", "--", *STUBBORN) as (run, family):
        run.send_signal(signal.SIGTERM)
        wait_for(lambda: not is_pending(signal.SIGTERM, run.pid), "its delivery")
        run.send_signal(signal.SIGHUP)
        wait_for(lambda: not is_pending(signal.SIGHUP, run.pid), "its delivery")
        assert run.poll() is None
        assert not any(gone(pid) for pid in family)

        def insist() -> bool:
            run.send_signal(signal.SIGINT)
            return run.poll() is not None

        wait_for(insist, "its end")
        # Who goes on insisting while it ends already, may be what it dies of.
        assert run.returncode in (-signal.SIGTERM, -signal.SIGINT)
        cli.end(run, run.returncode)
    nothing_is_left(cli)


def test_those_whom_command_leaves_behind_when_it_is_ended_are_ended_too(cli: Cli) -> None:
    cli.make()
    orphan = "echo $$ >> family; (trap '' TERM; echo >> family; sleep 1000) & echo $! >> family; wait"
    run = cli.start(*RUN, "--kill-after", "0.1s", "--", "sh", "-c", orphan)
    family = [int(line) for line in cli.wait_for_line("family", 3) if line]
    run.send_signal(signal.SIGTERM)
    cli.end(run, -signal.SIGTERM)
    wait_for(lambda: all(gone(pid) for pid in family), "their end", 20)
    nothing_is_left(cli)


#: Starts a command, hands SIGTERM on to it, and tells what ended it; the orphans that it becomes the parent of, as
#: the first process of a container does, it never reaps.
CARELESS = """
import ctypes, os, signal, subprocess, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
run = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda number, frame: run.send_signal(number))
print(run.wait(), flush=True)
"""


def test_nobody_is_waited_for_who_has_ended_but_is_reaped_by_nobody(cli: Cli) -> None:
    cli.make()
    words = cli.command(*RUN, "--kill-after", "1h", "--", "sh", "-c", "echo $$ > family; sleep 1000 & wait")
    parent = subprocess.Popen(
        [sys.executable, "-c", CARELESS, *words],
        cwd=cli.directory,
        env=cli.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    cli.started.append(parent)
    cli.wait_for_line("family")
    parent.terminate()
    assert cli.end(parent).stdout == f"{-signal.SIGTERM}\n"
    nothing_is_left(cli)


def test_who_still_runs_is_waited_for_though_others_have_ended(cli: Cli) -> None:
    cli.make()
    stubborn = "(trap '' TERM; echo > ready; read x < gate; echo > tidied)"
    run = cli.start(*RUN, "--kill-after", "1h", "--", "sh", "-c", f"echo $$ > family; {stubborn} & wait")
    cli.wait_for_line("ready")
    (leader,) = cli.wait_for_line("family")
    run.send_signal(signal.SIGTERM)
    wait_for(lambda: gone(int(leader)), "the leader's end")
    assert run.poll() is None
    cli.let_go()
    cli.end(run, -signal.SIGTERM)
    assert cli.text("tidied") == "\n"
    nothing_is_left(cli)


def test_a_group_has_members_until_the_last_one_has_ended_reaped_or_not() -> None:
    with subprocess.Popen(["sleep", "1000"], process_group=0) as first:
        members = Members(first.pid)
        with subprocess.Popen(["sleep", "1000"], process_group=first.pid) as second:
            assert members.any_runs()
            first.kill()
            wait_for(lambda: gone(first.pid), "its end")
            assert members.any_runs()
            second.kill()
            wait_for(lambda: not members.any_runs(), "the end of all")
            assert second.returncode is None
            os.killpg(first.pid, 0)


def test_a_stopped_family_ends_as_well(cli: Cli) -> None:
    cli.make()
    with started(cli, "--", *FAMILY) as (run, family):
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        run.send_signal(signal.SIGTERM)
        cli.end(run, -signal.SIGTERM)
    nothing_is_left(cli)


@pytest.mark.parametrize("command", [FAMILY, STUBBORN])
def test_timeout_ends_the_whole_family(cli: Cli, command: tuple[str, ...]) -> None:
    cli.make()
    # The family must have been made by then.
    with started(cli, "--timeout", "1s", "--kill-after", "0.1s", "--", *command) as (run, _):
        result = cli.end(run, 124)
        assert result.stderr == "dogpile-fs: file is not replaced: COMMAND did not end within 1s and was ended\n"
    nothing_is_left(cli)


def test_a_command_that_ends_well_because_it_took_too_long_has_failed_all_the_same(cli: Cli) -> None:
    cli.make()
    script = "trap 'exit 0' TERM; echo half > $DOGPILE_FS_OUTPUT; sleep 1000 & wait"
    cli.run(*RUN, "--timeout", "0.3s", "--", "sh", "-c", script, status=124)
    nothing_is_left(cli)


@pytest.mark.parametrize("option", ["--validate", "--then"])
def test_the_other_commands_are_ended_likewise(cli: Cli, option: str) -> None:
    cli.make()
    script = "echo $$ > other; read x < gate"
    for words, send, status in (
        (("--timeout", "0.3s"), None, 65 if option == "--validate" else 69),
        ((), signal.SIGTERM, -signal.SIGTERM),
    ):
        run = cli.start(*RUN, *words, option, script, "--stdout", "--", "echo", "old")
        (pid,) = cli.wait_for_line("other")
        if send is not None:
            run.send_signal(send)
        cli.end(run, status)
        assert gone(int(pid))
        (cli.directory / "other").unlink()
    nothing_is_left(cli)


def test_when_the_run_itself_is_killed_its_family_is_killed_as_well(cli: Cli) -> None:
    cli.make()
    with started(cli, "--", *STUBBORN) as (run, _):
        run.kill()
        run.wait()
    assert cli.text() == "old\n"
    cli.run(*RUN, "--wait", "20", "--stdout", "--", "echo", "next")
    assert cli.text() == "next\n"
    assert cli.left_behind() == []


def test_a_command_that_is_killed_by_somebody_is_told_as_a_shell_does(cli: Cli) -> None:
    cli.make()
    result = cli.run(*RUN, "--", "sh", "-c", "kill -9 $$", status=128 + 9)
    assert result.stderr == "dogpile-fs: file is not replaced: COMMAND (sh) was ended by SIGKILL\n"
    nothing_is_left(cli)


def test_command_may_end_its_own_group_without_harm_to_us(cli: Cli) -> None:
    cli.make()
    cli.run(*RUN, "--", "sh", "-c", "kill -TERM 0", status=128 + 15)
    cli.run(*RUN, "--", "sh", "-c", "kill -KILL 0", status=128 + 9)
    nothing_is_left(cli)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_who_waits_for_another_dies_at_once_and_quietly(cli: Cli, number: signal.Signals) -> None:
    creator = cli.start_gated()
    cli.wait_for_line("started")
    other = cli.start(*RUN, "--", "false")
    wait_for(lambda: waiters_for(str(cli.directory / "file.dogpile.lock")) == 1, "one that waits")
    other.send_signal(number)
    assert cli.end(other, -number).stderr == ""
    cli.let_go()
    cli.end(creator)


def test_what_was_ignored_stays_ignored(cli: Cli) -> None:
    cli.make()

    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    run = cli.start_gated(preexec_fn=nohup)
    (command,) = cli.wait_for_line("started")
    run.send_signal(signal.SIGHUP)
    os.kill(int(command), signal.SIGHUP)
    cli.let_go()
    cli.end(run)
    assert cli.text() == "new\n"


def test_a_child_that_the_kernel_reaps_unseen_is_no_riddle(cli: Cli) -> None:
    cli.make()
    ignoring = lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # noqa: E731
    cli.run(*RUN, "--", "sh", "-c", "exit 3", status=3, preexec_fn=ignoring)


# At a terminal.


@contextmanager
def terminal(cli: Cli, *words: str, program: tuple[str, ...] = ()) -> Iterator[tuple[int, int]]:
    """``dogpile-fs`` with *words*, or *program*, in the foreground of a terminal of its own.

    Yields its process id and the other end.
    """
    pid, master = pty.fork()
    if pid == 0:
        try:
            os.chdir(cli.directory)
            command = program or cli.command(*words)
            os.execvpe(command[0], command, cli.environment)
        finally:
            os._exit(99)
    try:
        yield pid, master
    finally:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)
        os.close(master)


def status_of(pid: int) -> int:
    def reaped() -> tuple[int, int] | None:
        done, status = os.waitpid(pid, os.WNOHANG)
        return (done, status) if done else None

    return os.waitstatus_to_exitcode(wait_for(reaped, "its end")[1])


def seen_on(master: int, what: str) -> str:
    """What comes out of the terminal, until *what* has."""
    seen = b""
    while what.encode() not in seen:
        seen += os.read(master, 4096)
    return seen.decode()


def test_ctrl_c_ends_the_whole_family(cli: Cli) -> None:
    cli.make()
    with terminal(cli, *RUN, "--", *FAMILY) as (pid, master):
        family = [int(line) for line in cli.wait_for_line("family", 3)]
        os.write(master, b"\x03")
        assert status_of(pid) == -signal.SIGINT
        wait_for(lambda: all(gone(member) for member in family), "the end of the family", 20)
    nothing_is_left(cli)


def test_a_command_that_asks_the_terminal_gets_an_error_and_is_not_stopped(cli: Cli) -> None:
    script = "{ read x < /dev/tty; } 2> /dev/null; echo $?; cat; stty tostop < /dev/tty; echo shown > /dev/tty"
    with terminal(cli, *RUN, "--stdout", "--", "sh", "-c", script) as (pid, master):
        seen_on(master, "shown")
        assert status_of(pid) == 0
    assert cli.text() == "1\n" or cli.text() == "2\n"


def test_who_is_waited_for_is_shown_at_a_terminal(cli: Cli) -> None:
    creator = cli.start_gated(expire="1h")
    cli.wait_for_line("started")
    with terminal(cli, "run", "--expire", "1h", "--output", "file", "--", "false") as (pid, master):
        seen_on(master, f":{creator.pid}) is creating")
        cli.let_go()
        cli.end(creator)
        seen_on(master, "\x1b[K")
        assert status_of(pid) == 0


def test_progress_is_shown_at_a_terminal_and_taken_away(cli: Cli) -> None:
    cli.make()
    with terminal(cli, *RUN, "--", "sh", "-c", 'read x < gate; echo new > "$DOGPILE_FS_OUTPUT"') as (pid, master):
        assert "\r\x1b[Kfile: creating for 0s, last time it took 0." in seen_on(master, "s\r")
        cli.let_go()
        seen_on(master, "\x1b[K")
        assert status_of(pid) == 0


def test_in_the_background_of_a_terminal_no_line_is_drawn(cli: Cli) -> None:
    cli.make()
    words = shlex.join(cli.command(*RUN, "--", "sh", "-c", 'sleep 1.2; echo new > "$DOGPILE_FS_OUTPUT"'))
    with terminal(cli, program=("sh", "-mc", f"{words} & wait; echo over")) as (pid, master):
        seen = seen_on(master, "over")
        assert status_of(pid) == 0
    assert cli.text() == "new\n"
    assert "creating" not in seen
    assert "\x1b[K" not in seen
