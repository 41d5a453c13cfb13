from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dogpile_fs import LockTimeout, NotHeld, PathError, SidecarError, WouldDeadlock
from dogpile_fs.cli import dispatch, main
from dogpile_fs.cli.commands import run as _run  # noqa: F401  # imported before a child may no longer read it
from dogpile_fs.cli.exits import CANTCREAT, Exit, message_of, status_of
from tests.support.cli_processes import Cli, bytecode, cli, logger_as_before
from tests.support.places import files_in
from tests.support.processes import ended_well, in_child

__all__ = ["bytecode", "cli", "logger_as_before"]  # fixtures

pytestmark = pytest.mark.permissions

STALE = ("run", "--expire", "0", "--output", "file")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Exit(69, "x"), 69),
        (LockTimeout("x"), 75),
        (WouldDeadlock("x"), 70),
        (NotHeld("x"), 70),
        (PathError(errno.EINVAL, "x"), 64),
        (PathError(errno.EISDIR, "x"), 73),
        (SidecarError(errno.EPROTO, "x"), 78),
        (SidecarError(errno.EACCES, "x"), 77),
        (SidecarError(errno.ENOSPC, "x"), 74),
        (OSError(errno.EIO, "x"), 74),
        (OSError(errno.EMFILE, "x"), 71),
        (OSError(), 74),
        (RuntimeError("x"), 70),
    ],
)
def test_every_error_has_its_status(error: Exception, status: int) -> None:
    assert status_of(error) == status


def test_a_missing_file_is_status_66_and_73_if_it_was_to_be_made() -> None:
    error = FileNotFoundError(errno.ENOENT, "x")
    assert status_of(error) == 66
    assert status_of(error, CANTCREAT) == 73


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PathError(errno.EINVAL, "the whole\n story"), "the whole story"),
        (OSError(errno.EIO, "Input/output error", "file"), "file: Input/output error"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError("odd"), "odd"),
        (LockTimeout("too late"), "too late"),
        (
            PathError(
                errno.EROFS, "no mode=0o666 here. Hint: let it (chown, mode=0o666), or pass directory= with it."
            ),
            "no mode=0o666 here. Hint: let it (chown), or pass --directory with it.",
        ),
    ],
)
def test_every_error_is_one_line(error: Exception, text: str) -> None:
    assert message_of(error) == text


def test_a_command_that_cannot_be_found_or_executed_has_the_status_of_a_shell(cli: Cli) -> None:
    cli.make()
    (cli.directory / "data").write_text("no program")
    for command, status in (("no-such-command", 127), ("./nowhere", 127), ("./data", 126), (".", 126)):
        result = cli.run(*STALE, "--backoff", "0", "--", command, status=status)
        assert result.stderr.startswith(f"dogpile-fs: file is not replaced: cannot run COMMAND: {command}: ")
        assert ("Hint: write its whole path" in result.stderr) == (command == "no-such-command")
    (cli.directory / "data").chmod(0o755)
    cli.run(*STALE, "--backoff", "0", "--", "./data", status=126)
    assert cli.text() == "old\n"
    assert cli.left_behind() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may search every directory")
def test_a_command_is_not_found_though_a_directory_of_path_may_not_be_searched(cli: Cli) -> None:
    cli.make()
    locked, other = cli.directory / "locked", cli.directory / "other"
    locked.mkdir(mode=0o600)
    other.mkdir()
    (other / "data").write_text("no program")
    cli.environment["PATH"] = os.pathsep.join([str(locked), str(other), os.environ["PATH"]])
    result = cli.run(*STALE, "--", "no-such-command", status=127)
    assert "COMMAND: no-such-command: not found in a directory of PATH that" in result.stderr
    assert "Hint: write its whole path" in result.stderr
    assert "Permission denied" in cli.run(*STALE, "--force", "--", "data", status=126).stderr
    cli.run(*STALE, "--force", "--", "true", status=65)
    locked.chmod(0o700)


def test_a_command_that_makes_no_file_is_status_65(cli: Cli) -> None:
    cli.make()
    for script, instead in (
        ("true", ""),
        ("mkdir $DOGPILE_FS_OUTPUT", ", but a directory"),
        ("ln -s file $DOGPILE_FS_OUTPUT", ", but a symbolic link"),
        ("mkfifo $DOGPILE_FS_OUTPUT", ", but a FIFO"),
    ):
        result = cli.run(*STALE, "--backoff", "0", "--", "sh", "-c", script, status=65)
        expected = "dogpile-fs: file is not replaced: COMMAND made no file at $DOGPILE_FS_OUTPUT"
        assert result.stderr == f"{expected}{instead}\n"
        assert cli.left_behind() == []
    assert cli.text() == "old\n"


def test_a_command_that_wrote_the_file_itself_or_one_beside_its_target_is_told_so(cli: Cli) -> None:
    cli.make()
    hint = "Hint: only what is made at the path that"
    result = cli.run(*STALE, "--", "sh", "-c", "echo new > file", status=65)
    assert (
        f"COMMAND made no file at $DOGPILE_FS_OUTPUT, but '{cli.directory}/file' itself was written"
        in result.stderr
    )
    assert hint in result.stderr
    result = cli.run(*STALE, "--force", "--stdout", "--", "sh", "-c", "echo newer > file", status=65)
    assert (
        f"COMMAND printed nothing, but '{cli.directory}/file' itself was written meanwhile. Hint: "
        in result.stderr
    )
    assert cli.text() == "newer\n"
    for script in ("echo new > $DOGPILE_FS_OUTPUT.npy", "echo new > ${DOGPILE_FS_OUTPUT%.*}.npy"):
        output = ("run", "--expire", "0", "--output", "c.bin", "--force")
        result = cli.run(*output, "--", "sh", "-c", script, status=65)
        assert "made no file at $DOGPILE_FS_OUTPUT, but '.dogpile-" in result.stderr
        assert ".npy' beside it. Hint: some functions give" in result.stderr
    assert cli.left_behind() == []


def test_a_file_that_cannot_be_made_there_is_status_73(cli: Cli) -> None:
    (cli.directory / "folder").mkdir()
    for output in ("missing/file", "folder", "gate/file", "x" * 300):
        result = cli.run("run", "--expire", "1h", "--output", output, "--", "true", status=73)
        assert result.stderr.startswith("dogpile-fs: ")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("output", ["gate", "socket", "/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("to_file", [False, True])
def test_a_path_that_is_no_regular_file_is_refused_by_every_command(cli: Cli, output: str, to_file: bool) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(cli.directory / "socket"))
    beside = os.path.dirname(cli.directory / output)
    are_own = beside in ("/proc/self/fd", "/dev/fd")  # the descriptors of this process, which come and go
    before = [] if are_own else sorted(os.listdir(beside))
    for words in (
        ("run", "--expire", "1h", "--output", output, "--stdout", "--", "echo", "new"),
        ("run", "--force", "--expire", "1h", "--output", output, "--then", "echo", "--", "sh", "-c", "date > {}"),
        ("status", output),
        ("status", "--json", output),
        ("history", output),
        ("touch", output),
        ("rollback", output),
        ("invalidate", output),
        ("wait", output),
        ("watch", output),
    ):
        with open(cli.directory.parent / "printed", "w+") as printed:
            result = cli.run(*words, status=73, stdout=printed if to_file else subprocess.PIPE)
        assert result.stderr.startswith("dogpile-fs: "), words
        assert result.stderr.count("\n") == 1, words
        assert "Hint: give the path of " in result.stderr, words
    if before:
        assert sorted(os.listdir(beside)) == before


def test_in_a_deleted_current_directory_the_error_has_a_hint(cli: Cli) -> None:
    gone = cli.directory / "gone"
    for words, status in (
        (("run", "--expire", "1h", "--output", "file", "--stdout", "--", "date"), 73),
        (("status", "file"), 66),
        (("wait", "file"), 66),
        (("watch", "file"), 66),
    ):
        gone.mkdir()
        # Deleted only after the start: some interpreters do not start without a current directory.
        script = (
            "import os, runpy; import dogpile_fs.cli; os.rmdir(os.getcwd()); "
            "runpy.run_module('dogpile_fs', run_name='__main__')"
        )
        run = subprocess.run(
            [sys.executable, "-c", script, *words],
            cwd=gone,
            env=cli.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert run.returncode == status, run.stderr
        assert "'file' is relative to the current directory, which was deleted. Hint: " in run.stderr


def test_a_path_without_a_file_is_status_66(cli: Cli) -> None:
    for command in ("invalidate", "touch", "rollback"):
        assert "nothing at 'missing'" in cli.run(command, "missing", status=66).stderr
    for command in ("status", "history", "wait"):
        assert "does not exist" in cli.run(command, "missing/file", status=66).stderr
    cli.make()
    error = cli.run("rollback", "file", status=66).stderr
    assert "no earlier version" in error
    assert "Hint: keep some, with run --keep 1 or more." in error
    assert files_in(cli.directory) == ["file", "file.dogpile", "file.dogpile.journal", "file.dogpile.lock", "gate"]


def test_the_sidecar_of_a_newer_version_is_status_78(cli: Cli) -> None:
    cli.make()
    body = json.dumps({"dogpile_fs": 999}).encode().ljust(2039)
    (cli.directory / "file.dogpile").write_bytes(body + b"%08x\n" % zlib.crc32(body))
    for words in (
        (*STALE, "--", "true"),
        ("status", "file"),
        ("wait", "file"),
        ("touch", "file"),
        ("watch", "file"),
    ):
        assert "written by" not in (error := cli.run(*words, status=78).stderr)
        assert "format 999" in error


def test_a_full_disk_is_status_74(cli: Cli) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    cli.make("other")  # an interpreter that cannot write its compiled modules ends by SIGXFSZ
    result = cli.run(*STALE, "--", "true", status=74, preexec_fn=limit)
    assert "ulimit -f" in result.stderr


@pytest.fixture
def shared_directory(logger_as_before: None) -> Iterator[Path]:
    """Yield a directory that other users may enter and read, with a file and its sidecar."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        assert main(["run", "--expire", "1h", "--output", str(directory / "file"), "--stdout", "--", "date"]) == 0
        yield directory


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user can only be made by root")
def test_a_user_without_permission_for_the_coordination_files_gets_status_77(
    shared_directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = str(shared_directory / "file")
    shared_directory.chmod(0o555)
    for path in shared_directory.iterdir():
        path.chmod(0o444)

    def nobody() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        assert main(["run", "--expire", "1h", "--output", file, "--", "false"]) == 0
        assert main(["run", "--expire", "0", "--output", file, "--", "false"]) == 77
        assert main(["run", "--expire", "0", "--output", file + ".other", "--", "false"]) == 77
        assert main(["invalidate", file]) == 77
        assert main(["touch", file]) == 77
        assert main(["status", file]) == 0
        assert main(["wait", file]) == 0

    assert ended_well(in_child(nobody)), capfd.readouterr().err
    assert capfd.readouterr().err.count("dogpile-fs: cannot ") == 4


def test_a_user_without_permission_for_the_directory_gets_status_77(
    shared_directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shared_directory.chmod(0o555)
    file = str(shared_directory / "other")

    def nobody() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        assert main(["run", "--expire", "0", "--output", file, "--", "false"]) == 77
        assert main(["status", file]) == 2

    assert ended_well(in_child(nobody)), capfd.readouterr().err
    assert capfd.readouterr().err.count("dogpile-fs: cannot ") == 1


def test_below_a_directory_without_permission_no_file_is_said_to_be_missing(
    shared_directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    private = shared_directory / "private"
    private.mkdir()
    (private / "file").touch()
    private.chmod(0)
    file = str(private / "file")

    def nobody() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        for command in ("touch", "rollback", "invalidate", "status", "wait", "watch"):
            assert main([command, file]) == 77, command

    assert ended_well(in_child(nobody)), capfd.readouterr().err
    private.chmod(0o700)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 6
    for line in lines:
        assert line.startswith(f"dogpile-fs: cannot look at '{file}' by user ")
        assert "Permission denied" in line


def test_a_reader_that_leaves_early_is_no_error(cli: Cli) -> None:
    read, write = os.pipe()
    os.close(read)
    for words in (("status", "data"), ("watch", "data")):
        process = cli.start(*words, stdout=write)
        assert cli.end(process, 141).stderr == ""
    os.close(write)


def test_an_internal_error_shows_a_traceback(
    logger_as_before: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(words: object) -> None:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(dispatch, "parsed", broken)
    assert main(["status", "file"]) == 70
    error = capsys.readouterr().err
    assert error.startswith("dogpile-fs: a mistake\nTraceback")


def test_a_directory_of_modules_that_cannot_be_listed_is_an_error_of_the_installation(
    logger_as_before: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modules = str(Path(dispatch.__file__).parents[1] / "origin")

    def broken(words: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), modules)  # as the import system raises it

    monkeypatch.setattr(dispatch, "parsed", broken)
    assert main(["status", "file"]) == 74
    assert capsys.readouterr().err.startswith("dogpile-fs: a part of dogpile-fs cannot be loaded: ")


def test_a_part_that_cannot_be_loaded_is_an_error_of_the_installation_in_one_line(cli: Cli) -> None:
    package = Path(dispatch.__file__).parents[1]
    copy = cli.directory / "installed" / "dogpile_fs"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__", "watch.py"))
    environment = {**cli.environment, "PYTHONPATH": str(copy.parent)}
    for words in (("status", "file"), ("watch", "file")):
        error = cli.run(*words, status=74, env=environment).stderr
        assert error.startswith("dogpile-fs: a part of dogpile-fs cannot be loaded: ")
        assert error.count("\n") == 1
