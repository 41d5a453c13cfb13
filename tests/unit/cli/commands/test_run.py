from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from dogpile_fs import Datafile
from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.places import files_in
from tests.support.processes import wait_for, waiters_for

__all__ = ["bytecode", "cli"]  # fixtures

STALE = ("run", "--expire", "0", "--output", "file")
FRESH = ("run", "--expire", "1h", "--output", "file")


# Which run starts COMMAND, and when.


def test_twenty_runs_on_one_missing_file_run_command_once_and_all_have_it(cli: Cli) -> None:
    runs = [cli.start_gated(expire="1h") for _ in range(20)]
    cli.wait_for_line("started")
    wait_for(lambda: waiters_for(str(cli.directory / "file.dogpile.lock")) == 19, "nineteen waiters", 120)
    cli.open_gate()
    for run in runs:
        result = cli.end(run)
        assert (result.stdout, result.stderr) == ("", "")
        assert cli.text() == "new\n"
    assert len(cli.wait_for_line("started")) == 1
    assert cli.left_behind() == []


def test_twenty_runs_on_one_stale_file_run_command_once_and_the_others_return_meanwhile(cli: Cli) -> None:
    cli.make()
    runs = [cli.start_gated() for _ in range(20)]
    cli.wait_for_line("started")
    wait_for(lambda: sum(run.poll() is None for run in runs) == 1, "the end of nineteen runs")
    assert cli.text() == "old\n"
    cli.open_gate()
    for run in runs:
        cli.end(run)
    assert cli.text() == "new\n"
    assert len(cli.wait_for_line("started")) == len(cli.wait_for_line("finished")) == 1


def test_command_is_not_run_for_a_fresh_file(cli: Cli) -> None:
    cli.make()
    for options in ((), ("--stdout", "--then", "false"), ("--no-wait",), ("-q",), ("--keep", "3")):
        cli.run(*FRESH, *options, "--", "false")
    cli.run("run", "--expire", "never", "--output", "file", "--", "false")
    assert cli.text() == "old\n"


def test_a_file_without_a_sidecar_is_as_old_as_its_mtime(cli: Cli) -> None:
    (cli.directory / "file").write_text("shipped")
    cli.run(*FRESH, "--", "false")
    os.utime(cli.directory / "file", (time.time() - 7200,) * 2)
    cli.run(*FRESH, "--stdout", "--", "echo", "new")
    assert cli.text() == "new\n"


def test_a_file_that_was_removed_is_made_anew(cli: Cli) -> None:
    cli.make()
    (cli.directory / "file").unlink()
    cli.run(*FRESH, "--stdout", "--", "echo", "new")
    assert cli.text() == "new\n"


def test_an_invalidated_file_is_made_anew(cli: Cli) -> None:
    cli.make()
    cli.run("invalidate", "file")
    cli.run(*FRESH, "--stdout", "--", "echo", "new")
    assert cli.text() == "new\n"


def test_force_makes_a_fresh_file_anew(cli: Cli) -> None:
    cli.make()
    cli.run(*FRESH, "--force", "--stdout", "--", "echo", "new")
    assert cli.text() == "new\n"


def test_force_waits_for_the_creating_process_and_then_creates(cli: Cli) -> None:
    first = cli.start_gated()
    cli.wait_for_line("started")
    cli.run(*FRESH, "--force", "--no-wait", "--", "false", status=75)
    second = cli.start_gated("--force")
    wait_for(lambda: waiters_for(str(cli.directory / "file.dogpile.lock")) == 1, "one waiter")
    cli.open_gate("first")
    cli.end(first)
    cli.wait_for_line("started", 2)
    assert cli.text() == "first\n"
    cli.open_gate("second")
    cli.end(second)
    assert cli.text() == "second\n"


def test_a_run_that_waits_for_the_first_file_times_out(cli: Cli) -> None:
    creator = cli.start_gated()
    cli.wait_for_line("started")
    for option in (("--no-wait",), ("--wait", "0.05s")):
        result = cli.run(*STALE, *option, "--", "false", status=75)
        assert "did not end within" in result.stderr
        assert f": process {creator.pid} on {os.uname().nodename} has been creating it for " in result.stderr
        assert result.stderr.endswith("Hint: a longer --wait, or try again later.\n")
    cli.open_gate()
    cli.end(creator)


@pytest.mark.parametrize("backoff", ["0", "10m"])
def test_a_run_that_waits_for_a_first_file_makes_it_when_the_creator_fails_if_it_need_not_back_off(
    cli: Cli, backoff: str
) -> None:
    creator = cli.start(*FRESH, "--backoff", backoff, "--", "sh", "-c", "echo >started; read x <gate; exit 3")
    cli.wait_for_line("started")
    other = cli.start(*FRESH, "--backoff", backoff, "--stdout", "--", "echo", "other")
    wait_for(lambda: waiters_for(str(cli.directory / "file.dogpile.lock")) == 1, "one waiter")
    cli.open_gate()
    cli.end(creator, 3)
    cli.end(other, 0 if backoff == "0" else 75)
    assert cli.text() == ("other\n" if backoff == "0" else "")


def test_processes_that_use_the_library_and_those_of_the_command_line_coordinate(cli: Cli) -> None:
    cli.make()
    creator = cli.start_gated()
    cli.wait_for_line("started")
    datafile = Datafile(cli.directory / "file", 0, lambda target: pytest.fail("a second creator"))
    with datafile.open("r") as file:
        assert file.read() == "old\n"
    assert datafile.status().creating_pid == creator.pid
    cli.open_gate()
    cli.end(creator)
    assert datafile.status().pid == creator.pid


def test_coordination_files_are_where_directory_says(cli: Cli) -> None:
    (cli.directory / "locks").mkdir()
    for word in ("one", "two"):
        cli.run(*FRESH, "--directory", "locks", "--stdout", "--", "echo", word)
    assert cli.text() == "one\n"
    assert files_in(cli.directory) == ["file", "gate", "locks"]
    assert cli.run("status", "--directory", "locks", "file").returncode == 0


# What COMMAND gets, and what becomes of its file.


def test_command_finds_its_file_in_the_environment_and_in_its_arguments(cli: Cli) -> None:
    script = 'echo "$DOGPILE_FS_OUTPUT" > "$DOGPILE_FS_OUTPUT"; printf "%s\\n" "$@" >> "$DOGPILE_FS_OUTPUT"'
    cli.run(*STALE, "--", "sh", "-c", script, "sh", "{}", "--out={}", "{}{}", "plain")
    target, *words = cli.text().splitlines()
    assert os.path.dirname(target) == str(cli.directory / ".dogpile")
    assert target.endswith(".file")
    assert words == [target, f"--out={target}", target * 2, "plain"]
    assert not os.path.exists(target)


@pytest.mark.parametrize(
    "given",
    [{}, {"LC_CTYPE": "C"}, {"LANG": "C"}, {"LC_CTYPE": "C.UTF-8"}, {"LC_ALL": "C"}, {"LC_CTYPE": "UTF-8"}],
    ids=str,
)
def test_the_environment_is_otherwise_the_one_that_was_given(cli: Cli, given: dict[str, str]) -> None:
    environment = {
        name: value for name, value in cli.environment.items() if name != "LANG" and not name.startswith("LC_")
    }
    environment |= given
    then = ("--validate", "env -0 > validate", "--then", "env -0 > then")
    cli.run(*STALE, *then, "--stdout", "--", "env", "-0", env=environment)
    for name in ("file", "validate", "then"):
        found = dict(line.split("=", 1) for line in cli.text(name).split("\0") if line)
        assert found.pop("DOGPILE_FS_OUTPUT")
        for variable in ("PREVIOUS", "NOTE", "NOTE_FILE") if name == "file" else ():
            found.pop(f"DOGPILE_FS_{variable}")
        if name != "file":
            found = {name: value for name, value in found.items() if name in environment}
        assert {**found, "PWD": "", "_": ""} == {**environment, "PWD": "", "_": ""}, name
        assert ("LC_CTYPE" in found) == ("LC_CTYPE" in given)


def test_the_output_of_command_passes_through_or_is_the_contents(cli: Cli) -> None:
    result = cli.run(*STALE, "--", "sh", "-c", "echo out; echo err >&2; echo new > $DOGPILE_FS_OUTPUT")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    result = cli.run(*STALE, "--stdout", "--", "sh", "-c", "echo out; echo err >&2")
    assert (result.stdout, result.stderr, cli.text()) == ("", "err\n", "out\n")


def test_an_empty_output_makes_an_empty_file(cli: Cli) -> None:
    cli.make()
    cli.run(*STALE, "--stdout", "--", "true")
    assert (cli.directory / "file").read_bytes() == b""


@pytest.mark.parametrize("script", ["echo half > $DOGPILE_FS_OUTPUT; exit 3", "exit 3"])
def test_when_command_fails_the_old_file_stays_and_its_status_is_passed_on(cli: Cli, script: str) -> None:
    cli.make()
    result = cli.run(*STALE, "--", "sh", "-c", script, status=3)
    assert result.stderr == "dogpile-fs: file is not replaced: COMMAND (sh) ended with status 3\n"
    assert cli.text() == "old\n"
    assert cli.left_behind() == []


def test_validate_may_refuse_the_new_file(cli: Cli) -> None:
    cli.make()
    look = 'grep -q good {} && grep -q good "$DOGPILE_FS_OUTPUT"'
    result = cli.run(*STALE, "--stdout", "--validate", look, "--", "echo", "bad", status=65)
    assert (
        result.stderr
        == "dogpile-fs: file is not replaced: --validate refused the new one: it ended with status 1\n"
    )
    assert cli.text() == "old\n"
    assert cli.left_behind() == []
    cli.run(*STALE, "--force", "--stdout", "--validate", look, "--", "echo", "good")
    assert cli.text() == "good\n"


def test_the_shell_commands_take_any_file_name(cli: Cli) -> None:
    name = 'it\'s $HOME; a "file" *'
    run = ("run", "--expire", "0", "--output", name, "--stdout", "--validate", "test -e {}")
    cli.run(*run, "--then", "cat {} > copy", "--", "echo", "new")
    assert cli.text(name) == cli.text("copy") == "new\n"


def test_a_file_name_need_not_be_text(cli: Cli) -> None:
    name = os.fsdecode(b"caf\xe9")
    cli.run("run", "--expire", "1h", "--output", name, "--stdout", "--", "echo", "new")
    assert os.fsencode(cli.run("status", name, errors="surrogateescape").stdout.splitlines()[1]).startswith(
        b"caf\xe9 "
    )


def test_a_database_that_command_did_not_close_is_refused(cli: Cli) -> None:
    cli.make()
    script = 'echo rows > "$DOGPILE_FS_OUTPUT"; echo more > "$DOGPILE_FS_OUTPUT-wal"'
    result = cli.run(*STALE, "--", "sh", "-c", script, status=65)
    assert "Hint: close the connection" in result.stderr
    assert cli.text() == "old\n"


def test_then_is_run_after_the_swap_by_the_creating_process_alone(cli: Cli) -> None:
    cli.make()
    then = ("--then", 'cat "$DOGPILE_FS_OUTPUT" >> copies; dogpile=$(cat {}); echo "$dogpile" >> copies')
    creator = cli.start_gated(*then)
    cli.wait_for_line("started")
    cli.run(*STALE, *then, "--", "false")
    cli.open_gate()
    cli.end(creator)
    assert cli.text("copies") == "new\nnew\n"


def test_then_is_not_run_when_command_failed(cli: Cli) -> None:
    cli.run(*STALE, "--then", "touch follow-up", "--", "false", status=1)
    assert not (cli.directory / "follow-up").exists()


def test_then_runs_with_nothing_locked(cli: Cli) -> None:
    cli.make()
    first = cli.start(*STALE, "--stdout", "--then", "echo > then; read x < gate", "--", "echo", "first")
    cli.wait_for_line("then")
    cli.run(*STALE, "--stdout", "--", "echo", "second")
    assert cli.text() == "second\n"
    cli.open_gate()
    cli.end(first)


def test_when_then_fails_the_new_file_stays_and_the_status_is_69(cli: Cli) -> None:
    result = cli.run(*STALE, "--stdout", "--then", "exit 3", "--", "echo", "new", status=69)
    assert result.stderr == "dogpile-fs: file is new, but --then ended with status 3\n"
    assert cli.text() == "new\n"
    cli.run(*FRESH, "--", "false")


def test_a_swap_keeps_the_permission_bits(cli: Cli) -> None:
    cli.make()
    (cli.directory / "file").chmod(0o604)
    cli.run(*STALE, "--stdout", "--", "echo", "new")
    assert stat.S_IMODE((cli.directory / "file").stat().st_mode) == 0o604


def test_a_first_file_has_what_the_umask_leaves(cli: Cli) -> None:
    cli.run(*FRESH, "--stdout", "--", "echo", "new", umask=0o027)
    assert stat.S_IMODE((cli.directory / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o604, 0o666])
def test_an_unfinished_file_has_no_more_permissions_than_the_file_that_it_replaces(cli: Cli, mode: int) -> None:
    cli.make()
    (cli.directory / "file").chmod(mode)
    look = 'stat -c %a "$DOGPILE_FS_OUTPUT" >&2'
    result = cli.run(*STALE, "--stdout", "--validate", look, "--", "sh", "-c", f"{look}; echo new", umask=0o022)
    assert result.stderr == "600\n600\n"
    assert cli.text() == "new\n"
    assert stat.S_IMODE((cli.directory / "file").stat().st_mode) == mode


def test_the_replacement_of_a_file_that_is_removed_meanwhile_has_the_permissions_of_a_first_one(cli: Cli) -> None:
    cli.make()
    (cli.directory / "file").chmod(0o600)
    cli.run(*STALE, "--stdout", "--", "sh", "-c", "rm file; echo new", umask=0o022)
    assert cli.text() == "new\n"
    assert stat.S_IMODE((cli.directory / "file").stat().st_mode) == 0o644


def test_with_skip_unchanged_an_equal_file_is_stamped_and_not_swapped(cli: Cli) -> None:
    cli.make()
    before = (cli.directory / "file").stat()
    cli.run("invalidate", "file")
    cli.run(*FRESH, "--skip-unchanged", "--stdout", "--", "echo", "old")
    cli.run(*FRESH, "--", "false")
    after = (cli.directory / "file").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_earlier_versions_are_kept_and_can_be_rolled_back_to(cli: Cli) -> None:
    for word in ("one", "two", "three"):
        cli.run(*STALE, "--keep", "1", "--stdout", "--", "echo", word)
    cli.run("rollback", "file")
    assert cli.text() == "two\n"
    cli.run(*FRESH, "--", "false")


def test_with_readers_the_swap_waits_until_none_is_inside(cli: Cli) -> None:
    cli.make()
    datafile = Datafile(cli.directory / "file", readers=True)
    with datafile.acquire():
        creator = cli.start_gated("--readers")
        cli.open_gate()
        cli.wait_for_line("finished")
        wait_for(lambda: waiters_for(str(cli.directory / "file.dogpile.rwlock")) == 1, "a waiting writer")
        assert cli.text() == "old\n"
    cli.end(creator)
    assert cli.text() == "new\n"


def test_a_background_process_of_command_lives_on(cli: Cli) -> None:
    script = "(read x < gate; echo > after) & echo new > $DOGPILE_FS_OUTPUT"
    cli.run(*STALE, "--", "sh", "-c", script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert cli.text() == "new\n"
    cli.open_gate()
    cli.wait_for_line("after")


# What becomes of failures.


def test_after_a_failure_command_is_not_run_again_before_its_backoff_is_over(cli: Cli) -> None:
    cli.make()
    fail = ("--backoff", "1h", "--", "sh", "-c", "echo >> runs; exit 3")
    cli.run(*STALE, *fail, status=3)
    result = cli.run(*STALE, "-v", *fail)
    assert re.search(r"file: backing off: failed once, .*: status 3 \(pid \d+\); next attempt in ", result.stderr)
    # The delay is that of the process that has failed; a process without a backoff creates all the same.
    cli.run(*STALE, "--", "false")
    cli.run(*STALE, "--backoff", "0", *fail[2:], status=3)
    cli.run(*STALE, *fail, status=3)
    cli.run(*STALE, *fail)
    cli.run(*STALE, "--force", *fail, status=3)
    assert cli.text("runs").count("\n") == 4
    (cli.directory / "file").unlink()
    result = cli.run(*STALE, *fail, status=75)
    assert result.stderr.startswith("dogpile-fs: file is not made: failed 4 times, first ")
    assert result.stderr.endswith(" Hint: --force tries at once.\n")
    assert cli.text("runs").count("\n") == 4


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [("30s..10m", (30, 60, 120)), ("40s..1m", (40, 60, 60)), ("30s", (30, 30)), ("0", (0, 0)), ("", (1, 2, 4))],
)
def test_the_backoff_grows_from_its_first_delay_to_its_longest(
    cli: Cli, backoff: str, delays: tuple[float, ...]
) -> None:
    for delay in delays:
        cli.run(*STALE, "--force", *(("--backoff", backoff) if backoff else ()), "--", "false", status=1)
        status = Datafile(cli.directory / "file").status()
        assert status.failed_at is not None
        assert (status.retry_at or status.failed_at) - status.failed_at == pytest.approx(delay, rel=0.11)


@pytest.mark.parametrize(
    ("words", "status", "failed_type"),
    [
        (("--", "sh", "-c", "exit 3"), 3, "status 3"),
        (("--", "sh", "-c", "kill -9 $$"), 137, "SIGKILL"),
        (("--", "sh", "-c", "kill -40 $$"), 168, "signal 40"),
        (("--timeout", "0.05s", "--", "sleep", "600"), 124, "timeout"),
        (("--", "no-such-command"), 127, "No such file or directory"),
        (("--", "true"), 65, "no file"),
        (("--stdout", "--validate", "false", "--", "true"), 65, "refused"),
        (("--", "sh", "-c", "echo > {}; echo > {}-wal"), 65, "DatafileError"),
        (("--stdout", "--", "sh", "-c", "printf %0100d > $DOGPILE_FS_NOTE_FILE"), 65, "note"),
    ],
)
def test_what_has_failed_is_on_record_and_handed_to_on_failure(
    cli: Cli, words: tuple[str, ...], status: int, failed_type: str
) -> None:
    script = 'echo "$DOGPILE_FS_FAILURE,$DOGPILE_FS_FAILURES,$(basename {}),$DOGPILE_FS_OUTPUT" >> failures'
    for _ in range(2):
        cli.run(*STALE, "--force", "--on-failure", script, *words, status=status)
    found = Datafile(cli.directory / "file").status()
    assert (found.failures, found.failed_type) == (2, failed_type)
    file = cli.directory / "file"
    assert cli.text("failures") == "".join(f"{failed_type},{count},file,{file}\n" for count in (1, 2))
    assert cli.left_behind() == []


def test_on_failure_is_run_once_per_attempt_and_with_nothing_locked(cli: Cli) -> None:
    on_failure = ("--on-failure", "echo >> failures; read x < gate", "--backoff", "1h")
    first = cli.start(*STALE, *on_failure, "--", "false")
    cli.wait_for_line("failures")
    cli.run(*STALE, *on_failure, "--", "false", status=75)
    cli.run(*STALE, "--force", "--stdout", *on_failure, "--", "echo", "new")
    cli.open_gate()
    cli.end(first, 1)
    assert cli.text("failures") == "\n"
    interrupted = cli.start_gated("--on-failure", "echo >> failures")
    cli.wait_for_line("started")
    interrupted.send_signal(signal.SIGTERM)
    cli.end(interrupted, -signal.SIGTERM)
    assert cli.text("failures") == "\n"


def test_when_on_failure_fails_the_status_is_still_commands(cli: Cli) -> None:
    result = cli.run(*STALE, "--on-failure", "exit 5", "--", "sh", "-c", "exit 3", status=3)
    expected = "file is not replaced: COMMAND (sh) ended with status 3; --on-failure ended with status 5"
    assert result.stderr == f"dogpile-fs: {expected}\n"


def test_with_stale_if_error_a_run_that_failed_ends_well_while_the_old_file_is_there(cli: Cli) -> None:
    failing = (
        "--stale-if-error",
        "--backoff",
        "0",
        "--on-failure",
        "echo >> failures",
        "--",
        "sh",
        "-c",
        "exit 3",
    )
    cli.run(*STALE, *failing, status=3)
    cli.make()
    assert cli.run(*STALE, *failing).stderr.endswith("file is not replaced: COMMAND (sh) ended with status 3\n")
    assert (cli.text(), cli.text("failures")) == ("old\n", "\n\n")
    cli.run(*STALE, "--stale-if-error=1h", *failing[1:])
    cli.run(*STALE, "--stale-if-error", "0", *failing[1:], status=3)
    cli.run(*FRESH, "--force", "--stale-if-error", "0", *failing[1:])
    cli.run("invalidate", "--hard", "file")
    cli.run(*STALE, *failing, status=3)


# What other ages there are.


def test_beyond_max_stale_a_run_waits_for_another_and_does_not_pass_with_the_old_file(cli: Cli) -> None:
    cli.make()
    old = ("--max-stale", "0", "--no-wait", "--backoff", "1h", "--", "false")
    creator = cli.start_gated()
    cli.wait_for_line("started")
    cli.run(*STALE, "--max-stale", "1h", *old[2:])
    cli.run(*STALE, *old, status=75)
    cli.run(*STALE, "--readers", *old, status=75)
    cli.open_gate()
    cli.end(creator)
    cli.run(*STALE, "--stale-if-error", *old, status=1)
    cli.run(*STALE, *old, status=75)


def test_with_refresh_early_a_fresh_file_is_made_anew(cli: Cli) -> None:
    cli.make()
    os.utime(cli.directory / "file", (time.time() - 1800,) * 2)
    (cli.directory / "file.dogpile").unlink()
    cli.run(*FRESH, "--refresh-early", "0.9", "--", "false")
    cli.run(*FRESH, "--", "false")
    cli.run(*FRESH, "--refresh-early", "0.4", "--", "false", status=1)
    cli.run(*FRESH, "--refresh-early", "0.4", "--force", "--stdout", "--", "echo", "new")
    cli.run(*FRESH, "--refresh-early", "0.4", "--", "false")
    assert cli.text() == "new\n"


def test_jitter_shortens_the_lifetime_for_all_processes(cli: Cli) -> None:
    for _ in range(3):
        cli.run(*FRESH, "--force", "--jitter", "0.5", "--stdout", "--", "date")
        status = json.loads(cli.run("status", "--json", "--expire", "1h", "file").stdout)[0]
        assert 1800 <= status["fresh_until"] - status["createdtime"] <= 3600
        lifetime = status["fresh_until"] - status["createdtime"]
        assert lifetime < 3600
        again = json.loads(cli.run("status", "--json", "--expire", "2h", "file").stdout)[0]
        assert again["fresh_until"] == status["fresh_until"]


def test_a_file_is_made_anew_when_one_of_its_inputs_has_changed(cli: Cli) -> None:
    run = (*FRESH, "-v", "--depends-on", "one", "two", "--", "sh", "-c", "cat one two > {} || true")

    def is_new() -> bool:
        return "new, generation " in cli.run(*run).stderr

    (cli.directory / "one").write_text("1")
    assert [is_new(), is_new()] == [True, False]
    (cli.directory / "two").write_text("2")
    assert [is_new(), is_new(), cli.text()] == [True, False, "12"]
    os.utime(cli.directory / "one", (1, 1))
    assert [is_new(), is_new()] == [True, False]
    cli.run(*FRESH, "--", "false")


def test_a_file_cannot_depend_on_itself(cli: Cli) -> None:
    result = cli.run(*FRESH, "--depends-on", "./file", "--", "false", status=64)
    assert "depends on itself" in result.stderr
    assert "Traceback" not in result.stderr


# What COMMAND knows of the version before.


def test_command_may_say_by_its_status_that_the_file_is_still_right(cli: Cli) -> None:
    cli.make()
    before = (cli.directory / "file").stat()
    cli.run("invalidate", "file")
    unchanged = (
        "--unchanged-status",
        "9",
        "--then",
        "touch then",
        "--stdout",
        "--",
        "sh",
        "-c",
        "echo half; exit 9",
    )
    result = cli.run(*FRESH, "-v", *unchanged)
    assert result.stderr.endswith("file: unchanged: the old file stays and is fresh again\n")
    after = (cli.directory / "file").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not (cli.directory / "then").exists()
    assert cli.left_behind() == []
    cli.run(*FRESH, "--", "false")
    (cli.directory / "file").unlink()
    result = cli.run(*FRESH, *unchanged, status=65)
    assert result.stderr.endswith("COMMAND says by status 9 that it is unchanged, but there is no file\n")
    assert Datafile(cli.directory / "file").status().failures == 1


def test_command_gets_the_version_before_and_the_note_that_it_left_with_it(cli: Cli) -> None:
    tell = 'printf "%s\\n" "$(cat "$DOGPILE_FS_PREVIOUS")" "$DOGPILE_FS_NOTE" > told; '
    leave = 'echo "$1" > "$DOGPILE_FS_NOTE_FILE"; echo "$1"'
    told = []
    for script, word in (
        ('test -z "$DOGPILE_FS_PREVIOUS"; ' + leave, "\xe9tag"),
        (tell + leave, "two"),
        (tell + "exit 9", ""),
        (tell + "echo three", ""),
        (tell + "echo four", ""),
    ):
        # The variables are of this run, also where another run has started it.
        cli.environment["DOGPILE_FS_NOTE"] = cli.environment["DOGPILE_FS_PREVIOUS"] = "others"
        options = ("--unchanged-status", "9", "--stdout")
        cli.run(*STALE, *options, "--", "sh", "-c", script, "sh", word)
        told.append(cli.text("told").split("\n")[:2])
    assert told == [[""], ["\xe9tag", "\xe9tag"], ["two", "two"], ["two", "two"], ["three", ""]]
    assert cli.left_behind() == []


# What COMMAND reads.


def test_command_reads_the_standard_input_of_the_run(cli: Cli) -> None:
    with open(cli.directory / "input", "w+") as file:
        file.write("piped\n")
        file.seek(0)
        cli.run(*STALE, "--stdout", "--", "cat", stdin=file)
    assert cli.text() == "piped\n"


def test_a_run_works_with_closed_standard_streams(cli: Cli) -> None:
    for streams in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        command = 'exec "$@" ' + streams
        subprocess.run(
            ["sh", "-c", command, "sh", *cli.command(*STALE, "--", "sh", "-c", "cat; echo err >&2; echo $$ > {}")],
            cwd=cli.directory,
            env=cli.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
        )
        assert cli.text().strip().isdecimal()
        assert (cli.directory / "file.dogpile.lock").read_bytes() == b""
        assert json.loads((cli.directory / "file.dogpile").read_text()[:2039])["resource"]["generation"]


# What is printed.


def test_verbose_prints_decisions_and_reasons(cli: Cli) -> None:
    first = cli.run(*FRESH, "-v", "--stdout", "--", "echo", "a b").stderr.splitlines()
    assert first[0] == "dogpile-fs: file: missing"
    assert first[1] == "dogpile-fs: file: creating: echo 'a b'"
    assert first[2].startswith("dogpile-fs: file: new, generation 1, created in ")
    fresh = cli.run(*FRESH, "-v", "--", "false").stderr
    assert "file: fresh, " in fresh
    assert fresh.endswith("file: fresh: nothing to do\n")
    creator = cli.start_gated()
    cli.wait_for_line("started")
    assert "another process is creating: nothing to do" in cli.run(*STALE, "-v", "--", "false").stderr
    forced = cli.run(*STALE, "-v", "--force", "--no-wait", "--", "false", status=75)
    assert f"{os.uname().nodename}:{creator.pid}) is creating: waiting" in forced.stderr
    cli.open_gate()
    cli.end(creator)


def test_verbose_twice_prints_every_step(cli: Cli) -> None:
    assert "creating generation 1" in cli.run(*FRESH, "-vv", "--stdout", "--", "date").stderr


def test_quiet_prints_no_failure(cli: Cli) -> None:
    quiet = (*STALE, "-q", "--backoff", "1h")
    assert cli.run(*quiet, "--", "false", status=1).stderr == ""
    assert cli.run(*quiet, "--", "false", status=75).stderr == ""
    assert cli.run(*quiet, "--force", "--", "no such command", status=127).stderr == ""
    cli.run(*quiet, "--force", "--stdout", "--", "echo", "new")
    assert cli.run(*quiet, "--stale-if-error", "--", "false").stderr == ""


def test_a_warning_of_the_package_is_printed_like_other_lines(cli: Cli) -> None:
    cli.make()
    (cli.directory / "file.dogpile").write_text("scribble")
    result = cli.run(*FRESH, "--stdout", "--", "echo", "new")
    assert all(line.startswith("dogpile-fs: ") for line in result.stderr.splitlines())
    assert "holds no sound record" in result.stderr


def test_the_command_can_be_run_from_anywhere(cli: Cli, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    output = str(cli.directory / "file")
    cli.run("run", "--expire", "1h", "--output", output, "--stdout", "--", "pwd", cwd=elsewhere)
    assert cli.text() == f"{elsewhere}\n"
