"""``top`` as a user sees it: real datafiles, creators that run and fail, a terminal."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dogpile_fs import DataDirectory, Datafile, Datafiles
from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.processes import PATIENCE, wait_for
from tests.support.terminals import Terminal, stopped, widest, without_controls

pytest.importorskip("rich")

__all__ = ["bytecode", "cli"]  # fixtures


@pytest.fixture(autouse=True)
def plain_environment(cli: Cli) -> None:
    for variable in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        cli.environment.pop(variable, None)
    cli.environment["PYTHONUTF8"] = "1"


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    terminals: list[Terminal] = []
    yield terminals
    for terminal in terminals:
        terminal.process.kill()
        os.close(terminal.master)


def everything_in(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Return the inode and the times of change of all that is below *directory*."""
    found = {}
    for place, directories, files in os.walk(directory):
        for name in (*directories, *files):
            st = os.lstat(os.path.join(place, name))
            found[os.path.join(place, name)] = (st.st_ino, st.st_mtime_ns, st.st_ctime_ns)
    return found


def fail(cli: Cli, file: str) -> None:
    cli.run("run", "--force", "--expire", "1h", "--backoff", "1h", "--output", file, "--", "false", status=1)


def test_it_prints_once_where_there_is_no_terminal(cli: Cli) -> None:
    (cli.directory / "sub").mkdir()
    cli.make("fresh")
    cli.make("sub/failing")
    fail(cli, "sub/failing")
    fail(cli, "never-made")
    shown = cli.run("top")
    assert shown.stderr == ""
    assert "\x1b" not in shown.stdout
    title, heads, *rows = shown.stdout.splitlines()
    assert title == ".: 2 fresh, 1 missing, 2 failing"
    assert heads.split() == ["STATE", "LIFETIME", "AGE", "SIZE", "COST", "PATH"]
    assert [row.split()[0] for row in rows] == ["missing", "failed", "fresh", "failed", "fresh"]
    assert re.fullmatch(r"missing +- +- +- +never-made", rows[0])
    assert re.fullmatch(r" +failed once, \S+ ago: status 1 \(pid \d+\); next attempt in \S+", rows[1])
    assert re.fullmatch(r"fresh +░{16} +\d+s of 1h +4 B +\S+s +sub/failing", rows[2])
    assert rows[4].endswith(" fresh")
    assert cli.run("top", "--once", "sub").stdout.splitlines()[0] == "sub: 1 fresh, 1 failing"


def test_an_empty_directory_has_no_datafiles(cli: Cli) -> None:
    assert cli.run("top").stdout == ".: no datafiles\n"
    assert json.loads(cli.run("top", "--json").stdout) == []


def test_a_directory_that_is_missing_or_none_is_an_error(cli: Cli) -> None:
    cli.make()
    assert cli.run("top", "missing", status=66).stderr == "dogpile-fs: missing: No such file or directory\n"
    assert "'file' is no directory. Hint: status shows a single file" in cli.run("top", "file", status=66).stderr
    assert cli.run("top", "--json", "missing", status=66).stdout == ""


def test_in_a_terminal_it_is_live_fits_and_restores_the_screen(cli: Cli, terminals: list[Terminal]) -> None:
    cli.make("fresh")
    fail(cli, "failing")
    creator = cli.start_gated("--wait", "1m", expire="1h")
    cli.wait_for_line("started")
    terminal = Terminal(cli, "top", columns=110)
    terminals.append(terminal)
    before = without_controls(terminal.read_until("fresh.*4 B"))
    assert re.search(r"\.: 1 fresh, 2 missing, 1 creating, 1 failing +\d\d:\d\d:\d\d", before)
    assert re.search(rf"missing +- +- +- +file\s+creating since \S+s ago, by \S+:{creator.pid}", before)
    assert "failed once, " in before
    cli.open_gate()
    cli.end(creator)
    terminal.read_until("2 fresh.*1 failing.*4 B.*4 B")
    terminal.resize(50, 4)
    terminal.read_until("\x1b\\[2J")
    small = terminal.read_until("more: 2 fresh")
    assert widest(small) <= 50
    assert small.rpartition("\x1b[H")[2].count("\n") < 4
    terminal.type(b"\x03")
    assert terminal.end(-signal.SIGINT) == ""
    assert terminal.is_restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_restores_the_screen(
    cli: Cli, terminals: list[Terminal], number: signal.Signals
) -> None:
    cli.make()
    terminal = Terminal(cli, "top")
    terminals.append(terminal)
    terminal.read_until("fresh.*4 B")
    terminal.process.send_signal(number)
    terminal.end(-number)
    assert terminal.is_restored


def test_ctrl_z_restores_the_screen_until_it_continues(cli: Cli, terminals: list[Terminal]) -> None:
    cli.make()
    terminal = Terminal(cli, "top", job=True)
    terminals.append(terminal)
    pid = terminal.process.pid
    terminal.read_until("fresh.*4 B")
    os.killpg(pid, signal.SIGTSTP)
    wait_for(lambda: stopped(pid), "top to be stopped")
    terminal.read_until("\x1b\\[\\?1049l")
    assert terminal.is_restored
    os.killpg(pid, signal.SIGCONT)
    terminal.read_until("\x1b\\[\\?1049h.*fresh.*4 B")
    os.kill(pid, signal.SIGINT)
    terminal.end(-signal.SIGINT)
    assert terminal.is_restored


def test_nothing_is_printed_where_standard_output_is_closed(cli: Cli) -> None:
    cli.make()
    script = f"exec {shlex.join(cli.command('top'))} >&-"
    ended = subprocess.run(
        ["sh", "-c", script], cwd=cli.directory, env=cli.environment, stderr=subprocess.PIPE, timeout=PATIENCE
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_datafile_that_is_removed_or_added_meanwhile_is_seen(cli: Cli, terminals: list[Terminal]) -> None:
    cli.make()
    terminal = Terminal(cli, "top", "--", ".")
    terminals.append(terminal)
    terminal.read_until("1 fresh")
    cli.make("other")
    terminal.read_until("2 fresh")
    for name in ("file", "other"):
        (cli.directory / name).unlink()
        (cli.directory / f"{name}.dogpile").unlink()
    terminal.read_until("no datafiles")
    # Lines of a warning would break the picture.
    (cli.directory / "broken.dogpile").write_text("nonsense")
    terminal.read_until("holds no sound record")
    assert "dogpile-fs:" not in terminal.since()
    terminal.type(b"\x03")
    terminal.end(-signal.SIGINT)


def test_once_in_a_terminal_leaves_the_list_there(cli: Cli, terminals: list[Terminal]) -> None:
    cli.make()
    terminal = Terminal(cli, "top", "--once", columns=60)
    terminals.append(terminal)
    sent = terminal.end(0)
    assert "\x1b[?" not in sent
    assert "\x1b[32mfresh" in sent
    assert widest(sent) <= 60


def test_no_color_leaves_colours_out_and_a_dumb_terminal_gets_no_control_codes(
    cli: Cli, terminals: list[Terminal]
) -> None:
    cli.make()
    dumb = Terminal(cli, "top", term="dumb")
    terminals.append(dumb)
    assert "\x1b" not in dumb.end(0)
    cli.environment["NO_COLOR"] = "1"
    terminal = Terminal(cli, "top")
    terminals.append(terminal)
    assert re.findall(r"\x1b\[[0-9;]*m", terminal.read_until("fresh.*4 B")) == []
    terminal.type(b"\x03")
    terminal.end(-signal.SIGINT)


def test_what_cannot_be_read_is_shown_hides_nothing_and_stays(cli: Cli) -> None:
    cli.make()
    os.mkfifo(cli.directory / "fifo.dogpile")
    (cli.directory / "link.dogpile").symlink_to("/nowhere")
    (cli.directory / "to-file.dogpile").symlink_to("file.dogpile")
    (cli.directory / "nonsense.dogpile").write_text("{}\n" * 1000)
    (cli.directory / "newer.dogpile").write_bytes(b'{"dogpile_fs": 999}'.ljust(2039) + b"00000000\n")
    (cli.directory / "empty.dogpile").touch()
    for name in ("locked-out", "no-lock"):
        cli.make(name)
    (cli.directory / "locked-out.dogpile").chmod(0o440)
    (cli.directory / "no-lock.dogpile.lock").unlink()
    os.mkfifo(cli.directory / "no-lock.dogpile.lock")
    (cli.directory / "directory.dogpile").mkdir()
    (cli.directory / "\x1b[31mname\n.dogpile").write_text("")
    (cli.directory / os.fsdecode(b"\xff.dogpile")).write_text("")
    before = everything_in(cli.directory)
    shown = cli.run("top", errors="surrogateescape").stdout
    objects = {each["path"]: each for each in json.loads(cli.run("top", "--json").stdout)}
    assert everything_in(cli.directory) == before
    assert shown.splitlines()[0] == ".: 1 fresh, 10 unreadable"
    assert "\x1b" not in shown
    assert shown.count("no sound record") + shown.count("no regular file") >= 7
    assert "?[31mname?" in shown
    assert objects["file"]["state"] == "fresh"
    assert objects["file"]["error"] is None
    assert objects["fifo"] == {"path": "fifo", "size": None, "error": "'fifo.dogpile' is no regular file"}
    assert objects["nonsense"]["error"] == "'nonsense.dogpile' holds no sound record"
    lost = "'locked-out.dogpile' has lost its owner's permission to read and write"
    assert objects["locked-out"]["error"] == lost
    assert objects["no-lock"]["error"] == "'no-lock.dogpile.lock' is no regular file"
    assert set(objects) == {
        *("locked-out", "no-lock"),
        *("file", "fifo", "link", "to-file", "nonsense", "newer", "empty", "\x1b[31mname\n", "\udcff"),
    }


@pytest.mark.permissions
@pytest.mark.skipif(os.geteuid() == 0, reason="root may list each directory")
def test_a_directory_that_may_not_be_listed_is_shown(cli: Cli) -> None:
    cli.make()
    (cli.directory / "closed").mkdir(mode=0)
    shown = cli.run("top").stdout
    assert shown.splitlines()[0] == ".: 1 fresh, 1 unreadable"
    assert "cannot be listed: Permission denied" in shown


def test_directories_keys_and_coordination_files_elsewhere_are_shown(cli: Cli) -> None:
    place = cli.directory

    def fill(target: str) -> None:
        Path(target).mkdir()
        (Path(target) / "member").write_text("x")

    DataDirectory(place / "directory", 3600, fill).refresh()
    (place / "locks").mkdir()

    def write(target: str) -> None:
        Path(target).write_text("text")

    Datafile(place / "elsewhere", 3600, write, directory=place / "locks").refresh()
    (place / "keys").mkdir()

    def create(key: str, target: str) -> None:
        if key == "bad":
            raise ZeroDivisionError
        Path(target).write_text(key)

    files = Datafiles(place / "keys" / "{key}.txt", 3600, create)
    for key in ("one", "two", "bad"):
        try:
            files[key].refresh()
        except ZeroDivisionError:
            assert key == "bad"
    shown = cli.run("top").stdout
    assert shown.splitlines()[0] == ".: 2 fresh, 3 keys, 1 failing"
    assert re.search(r"fresh +░+ +\d+s of 1h +- +\S+ +directory$", shown, re.MULTILINE)
    assert re.search(r"fresh +░+ +\d+s of 1h +- +\S+ +locks/elsewhere-[0-9a-f]{16}$", shown, re.MULTILINE)
    assert re.search(r"keys +- +3 keys +- +keys/\{key\}\.txt\n +1 of them fail", shown)
    objects = json.loads(cli.run("top", "--json").stdout)
    assert {"path": "keys/{key}.txt", "keys": 3, "failing": 1, "size": None, "error": None} in objects


def test_json_has_the_names_of_status_and_needs_no_other_package(cli: Cli) -> None:
    (cli.directory / "sub").mkdir()
    cli.make("sub/file")
    (cli.directory / "rich.py").write_text("raise ImportError")
    (found,) = json.loads(cli.run("top", "--json", env={**cli.environment, "PYTHONPATH": cli_path(cli)}).stdout)
    (known,) = json.loads(cli.run("status", "--json", "sub/file").stdout)
    assert list(found) == [*known, "size", "error"]
    assert (found["path"], found["size"], found["error"]) == ("sub/file", 4, None)
    assert found["createdtime"] == known["createdtime"]


def cli_path(cli: Cli) -> str:
    return os.pathsep.join([str(cli.directory), cli.environment["PYTHONPATH"]])


def test_it_waits_for_no_lock(cli: Cli) -> None:
    cli.make()
    creator = cli.start_gated("--force")
    cli.wait_for_line("started")
    os.kill(creator.pid, signal.SIGSTOP)
    try:
        assert "creating since" in cli.run("top").stdout
    finally:
        os.kill(creator.pid, signal.SIGCONT)
    wait_for(lambda: creator.poll() is None, "the creator to go on")
    cli.open_gate()
    cli.end(creator)
