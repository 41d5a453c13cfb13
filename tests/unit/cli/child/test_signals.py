"""``dogpile-fs run`` ends together with all processes that it started."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dogpile_fs.cli.child.process_group import ProcessGroup
from dogpile_fs.cli.child.signals import ENDING
from tests.support.cli_processes import Cli, bytecode, cli, gone
from tests.support.processes import wait_for, waiters_for

__all__ = ["bytecode", "cli"]  # fixtures

RUN = ("run", "--expire", "0", "--output", "file")
#: COMMAND, its child and its grandchild write their process ids; half the file is made, and they sleep.
FAMILY = (
    "sh",
    "-c",
    "echo half > $DOGPILE_FS_OUTPUT; echo $$ >> family;"
    "sh -c 'echo $$ >> family; sleep 1000 & echo $! >> family; wait; true'; true",
)
#: The same, but all of them ignore the signals that ask them to end.
STUBBORN = ("sh", "-c", "trap '' TERM INT HUP; " + FAMILY[2])


@contextmanager
def started(cli: Cli, *words: str, **options: Any) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start a run of *words*; yield it and the ids of its COMMAND's family, which must end in the block."""
    run = cli.start(*RUN, *words, **options)
    family = [int(line) for line in cli.wait_for_line("family", 3)]
    try:
        yield run, family
        wait_for(lambda: all(gone(pid) for pid in family), f"the end of {family}", 20)
    finally:
        for pid in family:
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


def is_pending(number: signal.Signals, pid: int) -> bool:
    """Return whether signal *number* has not been delivered to the process *pid* yet."""
    with open(f"/proc/{pid}/status") as file:
        pending = next(int(line.split()[1], 16) for line in file if line.startswith("ShdPnd"))
    return bool(pending >> (number - 1) & 1)


def check_nothing_is_left(cli: Cli) -> None:
    """Check that the old file is there, no temporary one is, and the next run works."""
    assert cli.text() == "old\n"
    assert cli.left_behind() == []
    cli.run(*RUN, "--force", "--no-wait", "--stdout", "--", "echo", "next")
    assert cli.text() == "next\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_whole_family_and_the_run(cli: Cli, number: signal.Signals) -> None:
    cli.make()
    with started(cli, "--", *FAMILY) as (run, _):
        run.send_signal(number)
        result = cli.end(run, -number)
        assert (result.stdout, result.stderr) == ("", "")
    check_nothing_is_left(cli)


def test_command_gets_the_same_signal_and_time_to_tidy_up(cli: Cli) -> None:
    cli.make()
    tidy = "trap 'echo INT > caught; echo > tidying; read x < gate; exit 0' INT; echo > started; read x < never"
    os.mkfifo(cli.directory / "never")
    run = cli.start(*RUN, "--", "sh", "-c", tidy)
    cli.wait_for_line("started")
    run.send_signal(signal.SIGINT)
    cli.wait_for_line("tidying")
    assert run.poll() is None
    cli.open_gate()
    cli.end(run, -signal.SIGINT)
    assert cli.text("caught") == "INT\n"
    check_nothing_is_left(cli)


def test_a_family_that_does_not_end_in_time_is_killed(cli: Cli) -> None:
    cli.make()
    with started(cli, "--kill-after", "0.1s", "--", *STUBBORN) as (run, _):
        run.send_signal(signal.SIGTERM)
        cli.end(run, -signal.SIGTERM)
    check_nothing_is_left(cli)


def test_a_second_signal_kills_at_once_but_two_at_the_same_time_are_one(cli: Cli) -> None:
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
        # A signal that comes while the run ends may be the one that ends it.
        assert run.returncode in (-signal.SIGTERM, -signal.SIGINT)
        cli.end(run, run.returncode)
    check_nothing_is_left(cli)


def test_processes_that_an_ended_command_leaves_behind_are_ended_too(cli: Cli) -> None:
    cli.make()
    orphan = "echo $$ >> family; (trap '' TERM; echo >> family; sleep 1000) & echo $! >> family; wait"
    run = cli.start(*RUN, "--kill-after", "0.1s", "--", "sh", "-c", orphan)
    family = [int(line) for line in cli.wait_for_line("family", 3) if line]
    run.send_signal(signal.SIGTERM)
    cli.end(run, -signal.SIGTERM)
    wait_for(lambda: all(gone(pid) for pid in family), "the end of all", 20)
    check_nothing_is_left(cli)


#: Starts a command, hands SIGTERM on to it, and prints how it ended. Like the first process of a container it
#: becomes the parent of orphans, and it does not reap them.
CARELESS = """
import ctypes, os, signal, subprocess, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
run = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda number, frame: run.send_signal(number))
print(run.wait(), flush=True)
"""


def test_a_process_that_has_ended_and_is_not_reaped_is_not_waited_for(cli: Cli) -> None:
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
    check_nothing_is_left(cli)


def test_a_running_process_is_waited_for_after_the_leader_has_ended(cli: Cli) -> None:
    cli.make()
    stubborn = "(trap '' TERM; echo > ready; read x < gate; echo > tidied)"
    run = cli.start(*RUN, "--kill-after", "1h", "--", "sh", "-c", f"echo $$ > family; {stubborn} & wait")
    cli.wait_for_line("ready")
    (leader,) = cli.wait_for_line("family")
    run.send_signal(signal.SIGTERM)
    wait_for(lambda: gone(int(leader)), "the leader's end")
    assert run.poll() is None
    cli.open_gate()
    cli.end(run, -signal.SIGTERM)
    assert cli.text("tidied") == "\n"
    check_nothing_is_left(cli)


def test_a_group_has_members_until_the_last_one_has_ended_reaped_or_not() -> None:
    with subprocess.Popen(["sleep", "1000"], process_group=0) as first:
        members = ProcessGroup(first.pid)
        with subprocess.Popen(["sleep", "1000"], process_group=first.pid) as second:
            assert members.any_runs()
            first.kill()
            wait_for(lambda: gone(first.pid), "its end")
            assert members.any_runs()
            second.kill()
            wait_for(lambda: not members.any_runs(), "the end of all")
            assert second.returncode is None
            os.killpg(first.pid, 0)


def test_a_stopped_family_is_ended_too(cli: Cli) -> None:
    cli.make()
    with started(cli, "--", *FAMILY) as (run, family):
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        run.send_signal(signal.SIGTERM)
        cli.end(run, -signal.SIGTERM)
    check_nothing_is_left(cli)


@pytest.mark.parametrize("command", [FAMILY, STUBBORN])
def test_timeout_ends_the_whole_family(cli: Cli, command: tuple[str, ...]) -> None:
    cli.make()
    # The family must have been made by then.
    with started(cli, "--timeout", "1s", "--kill-after", "0.1s", "--", *command) as (run, _):
        result = cli.end(run, 124)
        assert result.stderr == "dogpile-fs: file is not replaced: COMMAND did not end within 1s and was ended\n"
    check_nothing_is_left(cli)


def test_a_command_that_exits_with_0_after_its_timeout_has_failed(cli: Cli) -> None:
    cli.make()
    script = "trap 'exit 0' TERM; echo half > $DOGPILE_FS_OUTPUT; sleep 1000 & wait"
    cli.run(*RUN, "--timeout", "0.3s", "--", "sh", "-c", script, status=124)
    check_nothing_is_left(cli)


@pytest.mark.parametrize("option", ["--validate", "--then"])
def test_the_shell_commands_are_ended_like_command(cli: Cli, option: str) -> None:
    cli.make()
    script = "echo $$ > other; read x < gate"
    for words, send, status in (
        (("--timeout", "0.3s"), None, 65 if option == "--validate" else 69),
        ((), signal.SIGTERM, -signal.SIGTERM),
    ):
        run = cli.start(*RUN, "--force", *words, option, script, "--stdout", "--", "echo", "old")
        (pid,) = cli.wait_for_line("other")
        if send is not None:
            run.send_signal(send)
        cli.end(run, status)
        assert gone(int(pid))
        (cli.directory / "other").unlink()
    check_nothing_is_left(cli)


def test_the_family_of_a_killed_run_is_killed_too(cli: Cli) -> None:
    cli.make()
    with started(cli, "--", *STUBBORN) as (run, _):
        run.kill()
        run.wait()
    assert cli.text() == "old\n"
    cli.run(*RUN, "--wait", "20", "--stdout", "--", "echo", "next")
    assert cli.text() == "next\n"
    assert cli.left_behind() == []


def test_a_command_that_another_process_kills_has_the_status_of_a_shell(cli: Cli) -> None:
    cli.make()
    result = cli.run(*RUN, "--", "sh", "-c", "kill -9 $$", status=128 + 9)
    assert result.stderr == "dogpile-fs: file is not replaced: COMMAND (sh) was ended by SIGKILL\n"
    check_nothing_is_left(cli)


def test_a_command_that_ends_its_own_group_does_not_end_the_run(cli: Cli) -> None:
    cli.make()
    cli.run(*RUN, "--", "sh", "-c", "kill -TERM 0", status=128 + 15)
    cli.run(*RUN, "--force", "--", "sh", "-c", "kill -KILL 0", status=128 + 9)
    check_nothing_is_left(cli)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_run_that_waits_for_another_ends_at_once_and_prints_nothing(cli: Cli, number: signal.Signals) -> None:
    creator = cli.start_gated()
    cli.wait_for_line("started")
    other = cli.start(*RUN, "--", "false")
    wait_for(lambda: waiters_for(str(cli.directory / "file.dogpile.lock")) == 1, "one waiter")
    other.send_signal(number)
    assert cli.end(other, -number).stderr == ""
    cli.open_gate()
    cli.end(creator)


def test_an_ignored_signal_stays_ignored(cli: Cli) -> None:
    cli.make()

    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    run = cli.start_gated(preexec_fn=nohup)
    (command,) = cli.wait_for_line("started")
    run.send_signal(signal.SIGHUP)
    os.kill(int(command), signal.SIGHUP)
    cli.open_gate()
    cli.end(run)
    assert cli.text() == "new\n"


def test_the_status_of_command_is_known_though_sigchld_was_ignored(cli: Cli) -> None:
    cli.make()
    ignoring = lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # noqa: E731
    cli.run(*RUN, "--", "sh", "-c", "exit 3", status=3, preexec_fn=ignoring)


# Started with blocked signals, or as the first process of a container.


def blocked(*numbers: signal.Signals) -> Callable[[], object]:
    """Return a function that blocks *numbers*, for a child before it is executed."""
    return lambda: signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


@pytest.mark.parametrize("options", [(), ("--timeout", "10m"), ("--validate", "true", "--then", "true")])
def test_the_end_of_command_is_noticed_though_sigchld_was_blocked(cli: Cli, options: tuple[str, ...]) -> None:
    run = cli.start_gated(*options, preexec_fn=blocked(signal.SIGCHLD))
    cli.wait_for_line("started")
    cli.open_gate()
    cli.end(run)
    assert cli.text() == "new\n"


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_that_was_blocked_ends_the_whole_family_and_the_run(cli: Cli, number: signal.Signals) -> None:
    cli.make()
    with started(cli, "--kill-after", "1h", "--", *FAMILY, preexec_fn=blocked(*ENDING)) as (run, _):
        run.send_signal(number)
        cli.end(run, -number)
    check_nothing_is_left(cli)


def waiting(cli: Cli, command: str, **options: Any) -> subprocess.Popen[str]:
    """Start a *command* that waits until a creation ends, which has begun, and return it when it waits."""
    lock_file = cli.directory / "file.dogpile.lock"
    words = {"run": ("run", "--expire", "1h", "--output", "file", "--", "false"), "rollback": ("rollback", "file")}
    process = cli.start(*words.get(command, (command, "file")), **options)
    if command in words:
        wait_for(lambda: waiters_for(str(lock_file)) == 1, "one waiter for the mutex")
    elif command == "watch":
        assert process.stdout is not None
        assert "creating" in process.stdout.readline()
    else:
        wait_for(lambda: asleep(innermost(process.pid)), "its sleep")
    return process


def innermost(pid: int) -> int:
    """Return the process *pid* or, if it has a child, that child, its child and so on."""
    while True:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = file.read().split()
        if not children:
            return pid
        pid = int(children[0])


def asleep(pid: int) -> bool:
    """Return whether the process *pid* waits in poll(2)."""
    with open(f"/proc/{pid}/wchan") as file:
        return "poll" in file.read()


WAITING = ["run", "wait", "watch", "rollback"]


@pytest.fixture
def creator(cli: Cli, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A run whose COMMAND waits at the gate; there is an earlier version if the test's command needs one."""
    if request.node.callspec.params["command"] == "rollback":
        cli.run(*RUN, "--keep", "1", "--stdout", "--", "echo", "old")
    creator = cli.start_gated()
    cli.wait_for_line("started")
    yield creator
    cli.open_gate()
    cli.end(creator)


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("command", WAITING)
def test_a_waiting_command_ends_by_a_signal_that_was_blocked(
    cli: Cli, creator: subprocess.Popen[str], command: str, number: signal.Signals
) -> None:
    process = waiting(cli, command, preexec_fn=blocked(*ENDING))
    process.send_signal(number)
    assert cli.end(process, -number).stderr == ""


@pytest.fixture
def first_process(cli: Cli) -> Cli:
    """The command line as the first process of a PID namespace each, as in a container."""
    may_share = ["--user", "--map-root-user"] if os.geteuid() != 0 else []
    starter = ["unshare", *may_share, "--pid", "--fork", "--kill-child"]
    try:
        subprocess.run([*starter, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs unshare(1), and root or user namespaces")
    cli.starter = starter
    return cli


@pytest.mark.permissions
@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("command", WAITING)
def test_a_waiting_first_process_of_a_container_ends_by_a_signal(
    creator: subprocess.Popen[str], first_process: Cli, command: str, number: signal.Signals
) -> None:
    process = waiting(first_process, command)
    os.kill(innermost(process.pid), number)
    assert first_process.end(process, 128 + number).stderr == ""


@pytest.mark.permissions
@pytest.mark.parametrize("number", ENDING)
def test_a_first_process_of_a_container_ends_with_command_by_a_signal(
    first_process: Cli, number: signal.Signals
) -> None:
    run = first_process.start(*RUN, "--kill-after", "1h", "--", "sh", "-c", "echo > started; exec sleep 1000")
    first_process.wait_for_line("started")
    with open(f"/proc/{run.pid}/task/{run.pid}/children") as file:
        os.kill(int(file.read()), number)
    assert first_process.end(run, 128 + number).stderr == ""
    assert first_process.left_behind() == []


def test_a_signal_that_was_ignored_stays_ignored_by_the_first_process_of_a_container(first_process: Cli) -> None:
    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = first_process.start("watch", "file", preexec_fn=nohup)
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(innermost(process.pid), signal.SIGHUP)
    first_process.starter = []
    first_process.make()
    while "file created" not in process.stdout.readline():  # "creating" comes before, if a look was in time
        pass
    os.kill(innermost(process.pid), signal.SIGTERM)
    first_process.end(process, 128 + signal.SIGTERM)


# At a terminal.


@contextmanager
def terminal(cli: Cli, *words: str, program: tuple[str, ...] = ()) -> Iterator[tuple[int, int]]:
    """Run ``dogpile-fs`` with *words*, or *program*, in the foreground of a terminal of its own.

    Yield its process id and the other end.
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
    """Return what comes out of the terminal, up to *what*."""
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
    check_nothing_is_left(cli)


def test_a_command_that_reads_from_the_terminal_gets_an_error_and_is_not_stopped(cli: Cli) -> None:
    script = "{ read x < /dev/tty; } 2> /dev/null; echo $?; cat; stty tostop < /dev/tty; echo shown > /dev/tty"
    with terminal(cli, *RUN, "--stdout", "--", "sh", "-c", script) as (pid, master):
        seen_on(master, "shown")
        assert status_of(pid) == 0
    assert cli.text() == "1\n" or cli.text() == "2\n"


def test_a_terminal_shows_which_process_is_waited_for(cli: Cli) -> None:
    creator = cli.start_gated(expire="1h")
    cli.wait_for_line("started")
    with terminal(cli, "run", "--expire", "1h", "--output", "file", "--", "false") as (pid, master):
        seen_on(master, f":{creator.pid}) is creating")
        cli.open_gate()
        cli.end(creator)
        seen_on(master, "\x1b[K")
        assert status_of(pid) == 0


def test_a_terminal_shows_progress_and_erases_it(cli: Cli) -> None:
    cli.make()
    with terminal(cli, *RUN, "--", "sh", "-c", 'read x < gate; echo new > "$DOGPILE_FS_OUTPUT"') as (pid, master):
        assert "\r\x1b[Kfile: creating for 0s, last time it took 0." in seen_on(master, "s\r")
        cli.open_gate()
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
