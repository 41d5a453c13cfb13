from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from dogpile_fs import Datafile
from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.processes import wait_for, waiters_for

__all__ = ["bytecode", "cli"]  # fixtures

STALE = ("run", "--expire", "0", "--output", "file")
FRESH = ("run", "--expire", "1h", "--output", "file")


# Who runs COMMAND, and when.


def test_twenty_runs_on_one_missing_file_run_command_once_and_all_have_it(cli: Cli) -> None:
    runs = [cli.start_gated(expire="1h") for _ in range(20)]
    cli.wait_for_line("started")
    wait_for(lambda: waiters_for(str(cli.directory / "file.dogpile.lock")) == 19, "nineteen that wait", 120)
    cli.let_go()
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
    wait_for(lambda: sum(run.poll() is None for run in runs) == 1, "nineteen ends")
    assert cli.text() == "old\n"
    cli.let_go()
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


def test_a_file_from_elsewhere_is_as_old_as_its_mtime(cli: Cli) -> None:
    (cli.directory / "file").write_text("shipped")
    cli.run(*FRESH, "--", "false")
    os.utime(cli.directory / "file", (time.time() - 7200,) * 2)
    cli.run(*FRESH, "--stdout", "--", "echo", "new")
    assert cli.text() == "new\n"


def test_a_file_that_was_removed_is_made_anew_however_long_it_would_have_been_fresh(cli: Cli) -> None:
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


def test_force_waits_for_who_is_creating_and_then_creates_itself(cli: Cli) -> None:
    first = cli.start_gated()
    cli.wait_for_line("started")
    cli.run(*FRESH, "--force", "--no-wait", "--", "false", status=75)
    second = cli.start_gated("--force")
    wait_for(lambda: waiters_for(str(cli.directory / "file.dogpile.lock")) == 1, "one that waits")
    cli.let_go("first")
    cli.end(first)
    cli.wait_for_line("started", 2)
    assert cli.text() == "first\n"
    cli.let_go("second")
    cli.end(second)
    assert cli.text() == "second\n"


def test_who_waits_for_the_first_file_gives_up_when_told_to(cli: Cli) -> None:
    creator = cli.start_gated()
    cli.wait_for_line("started")
    for option in (("--no-wait",), ("--wait", "0.05s")):
        result = cli.run(*STALE, *option, "--", "false", status=75)
        assert "did not end within" in result.stderr
        assert result.stderr.endswith("Cure: a longer --wait, or try again later.\n")
    cli.let_go()
    cli.end(creator)


def test_who_waits_for_a_first_file_that_is_not_made_makes_it(cli: Cli) -> None:
    creator = cli.start(
        "run", "--expire", "1h", "--output", "file", "--", "sh", "-c", "echo >started; read x <gate; exit 3"
    )
    cli.wait_for_line("started")
    other = cli.start(*FRESH, "--stdout", "--", "echo", "other")
    wait_for(lambda: waiters_for(str(cli.directory / "file.dogpile.lock")) == 1, "one that waits")
    cli.let_go()
    cli.end(creator, 3)
    cli.end(other)
    assert cli.text() == "other\n"


def test_processes_that_use_the_library_and_those_of_the_command_line_coordinate(cli: Cli) -> None:
    cli.make()
    creator = cli.start_gated()
    cli.wait_for_line("started")
    datafile = Datafile(cli.directory / "file", 0, lambda target: pytest.fail("a second creator"))
    with datafile.open("r") as file:
        assert file.read() == "old\n"
    assert datafile.status().creating_pid == creator.pid
    cli.let_go()
    cli.end(creator)
    assert datafile.status().pid == creator.pid


def test_coordination_files_are_where_directory_says(cli: Cli) -> None:
    (cli.directory / "locks").mkdir()
    for word in ("one", "two"):
        cli.run(*FRESH, "--directory", "locks", "--stdout", "--", "echo", word)
    assert cli.text() == "one\n"
    assert sorted(os.listdir(cli.directory)) == ["file", "gate", "locks"]
    assert cli.run("status", "--directory", "locks", "file").returncode == 0


# What COMMAND is given, and what becomes of what it makes.


def test_command_finds_its_file_in_the_environment_and_in_its_arguments(cli: Cli) -> None:
    told = 'echo "$DOGPILE_FS_OUTPUT" > "$DOGPILE_FS_OUTPUT"; printf "%s\\n" "$@" >> "$DOGPILE_FS_OUTPUT"'
    cli.run(*STALE, "--", "sh", "-c", told, "sh", "{}", "--out={}", "{}{}", "plain")
    target, *words = cli.text().splitlines()
    assert os.path.dirname(target) == str(cli.directory)
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
        if name != "file":
            found = {name: value for name, value in found.items() if name in environment}
        assert {**found, "PWD": "", "_": ""} == {**environment, "PWD": "", "_": ""}, name
        assert ("LC_CTYPE" in found) == ("LC_CTYPE" in given)


def test_what_command_prints_passes_through_or_is_the_contents(cli: Cli) -> None:
    result = cli.run(*STALE, "--", "sh", "-c", "echo out; echo err >&2; echo new > $DOGPILE_FS_OUTPUT")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    result = cli.run(*STALE, "--stdout", "--", "sh", "-c", "echo out; echo err >&2")
    assert (result.stdout, result.stderr, cli.text()) == ("", "err\n", "out\n")


def test_an_empty_output_is_an_output(cli: Cli) -> None:
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


def test_validate_may_refuse_what_command_made(cli: Cli) -> None:
    cli.make()
    look = 'grep -q good {} && grep -q good "$DOGPILE_FS_OUTPUT"'
    result = cli.run(*STALE, "--stdout", "--validate", look, "--", "echo", "bad", status=65)
    assert (
        result.stderr
        == "dogpile-fs: file is not replaced: --validate refused the new one: it ended with status 1\n"
    )
    assert cli.text() == "old\n"
    assert cli.left_behind() == []
    cli.run(*STALE, "--stdout", "--validate", look, "--", "echo", "good")
    assert cli.text() == "good\n"


def test_the_commands_of_a_shell_can_take_any_file_name(cli: Cli) -> None:
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


def test_a_database_that_command_did_not_close_is_told_as_what_it_made(cli: Cli) -> None:
    cli.make()
    script = 'echo rows > "$DOGPILE_FS_OUTPUT"; echo more > "$DOGPILE_FS_OUTPUT-wal"'
    result = cli.run(*STALE, "--", "sh", "-c", script, status=65)
    assert "Cure: close the connection" in result.stderr
    assert cli.text() == "old\n"


def test_then_is_run_after_the_swap_by_who_created_and_by_nobody_else(cli: Cli) -> None:
    cli.make()
    then = ("--then", 'cat "$DOGPILE_FS_OUTPUT" >> copies; dogpile=$(cat {}); echo "$dogpile" >> copies')
    creator = cli.start_gated(*then)
    cli.wait_for_line("started")
    cli.run(*STALE, *then, "--", "false")
    cli.let_go()
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
    cli.let_go()
    cli.end(first)


def test_when_then_fails_the_new_file_stays_and_the_status_tells(cli: Cli) -> None:
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
def test_what_is_being_printed_is_no_more_open_than_the_file_that_it_replaces(cli: Cli, mode: int) -> None:
    cli.make()
    (cli.directory / "file").chmod(mode)
    look = 'stat -c %a "$DOGPILE_FS_OUTPUT" >&2'
    told = cli.run(*STALE, "--stdout", "--validate", look, "--", "sh", "-c", f"{look}; echo new", umask=0o022)
    assert told.stderr == "600\n600\n"
    assert cli.text() == "new\n"
    assert stat.S_IMODE((cli.directory / "file").stat().st_mode) == mode


def test_what_replaces_a_file_that_is_removed_meanwhile_is_a_first_one(cli: Cli) -> None:
    cli.make()
    (cli.directory / "file").chmod(0o600)
    cli.run(*STALE, "--stdout", "--", "sh", "-c", "rm file; echo new", umask=0o022)
    assert cli.text() == "new\n"
    assert stat.S_IMODE((cli.directory / "file").stat().st_mode) == 0o644


def test_what_is_unchanged_is_stamped_but_not_swapped_if_so_wished(cli: Cli) -> None:
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
        cli.let_go()
        cli.wait_for_line("finished")
        wait_for(lambda: waiters_for(str(cli.directory / "file.dogpile.rwlock")) == 1, "a writer that waits")
        assert cli.text() == "old\n"
    cli.end(creator)
    assert cli.text() == "new\n"


def test_what_command_leaves_running_in_the_background_is_let_live(cli: Cli) -> None:
    script = "(read x < gate; echo > after) & echo new > $DOGPILE_FS_OUTPUT"
    cli.run(*STALE, "--", "sh", "-c", script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert cli.text() == "new\n"
    cli.let_go()
    cli.wait_for_line("after")


# What COMMAND reads.


def test_command_can_read_what_was_piped_in(cli: Cli) -> None:
    with open(cli.directory / "input", "w+") as file:
        file.write("piped\n")
        file.seek(0)
        cli.run(*STALE, "--stdout", "--", "cat", stdin=file)
    assert cli.text() == "piped\n"


def test_closed_standard_streams_do_no_harm(cli: Cli) -> None:
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
        assert json.loads((cli.directory / "file.dogpile").read_text()[:503])["generation"]


# What is told.


def test_on_request_it_tells_what_it_decided_and_why(cli: Cli) -> None:
    first = cli.run(*FRESH, "-v", "--stdout", "--", "echo", "a b").stderr.splitlines()
    assert first[0] == "dogpile-fs: file: nothing yet"
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
    cli.let_go()
    cli.end(creator)


def test_said_twice_it_tells_every_step(cli: Cli) -> None:
    assert "creating, as generation 1" in cli.run(*FRESH, "-vv", "--stdout", "--", "date").stderr


def test_when_told_to_be_quiet_not_even_a_failure_is_told(cli: Cli) -> None:
    assert cli.run(*STALE, "-q", "--", "false", status=1).stderr == ""
    assert cli.run(*STALE, "-q", "--", "no such command", status=127).stderr == ""


def test_what_the_package_warns_of_is_told_like_everything_else(cli: Cli) -> None:
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
