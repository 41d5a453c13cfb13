"""A process that still has the new version open for writing: it would write on into what readers have."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from dogpile_fs import DataDirectory, Datafile, DatafileError
from dogpile_fs._os.lease import has_writer
from dogpile_fs._sidecar import quick_check
from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.places import left_beside, writing
from tests.support.processes import ended_well, in_child, wait_for

__all__ = ["bytecode", "cli"]  # fixtures


@pytest.fixture(autouse=True)
def _leases(tmp_path: Path) -> None:
    (tmp_path / "leased").touch()
    with open(tmp_path / "leased", "rb") as file:
        if has_writer(file.fileno()) is None:
            pytest.skip("this file system gives no leases")
    os.unlink(tmp_path / "leased")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dogpile_fs._datafile.open_writers._PATIENCE", 0.01)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine is no failure."""
    monkeypatch.setattr("dogpile_fs._datafile.open_writers._PATIENCE", 60.0)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(DatafileError) as caught:
        call()
    for part in ("is still open for writing", "Hint: close it before the creator returns"):
        assert part in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("durable", [True, False])
def test_a_file_that_the_creator_forgot_to_close_is_refused(path: str, durable: bool) -> None:
    Datafile(path, 3600, writing("old")).refresh()
    forgotten: list[IO[Any]] = []

    def creator(target: str) -> None:
        forgotten.append(open(target, "w"))  # noqa: SIM115
        forgotten[-1].write("new")  # in its buffer, and not in the file

    datafile = Datafile(path, 3600, creator, durable=durable)
    text = refused(lambda: datafile.refresh(force=True))
    assert f"by process {os.getpid()} (this one)" in text
    assert Path(path).read_text() == "old"
    assert left_beside(path) == []
    assert datafile.status().failed_pid == os.getpid()
    forgotten.pop().close()


@pytest.mark.usefixtures("impatient")
def test_a_file_that_a_program_of_the_creators_still_writes_is_refused_and_the_program_is_named(path: str) -> None:
    left: list[subprocess.Popen[bytes]] = []

    def creator(target: str) -> None:
        with open(target, "w") as file:
            left.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=file))

    text = refused(Datafile(path, 3600, creator).refresh)
    assert f"by process {left[0].pid} (" in text
    assert not os.path.exists(path)
    left[0].communicate(b"\n")


@pytest.mark.usefixtures("patient")
def test_a_program_that_ends_soon_is_waited_for_and_validate_finds_all_that_it_wrote(path: str) -> None:
    left: list[subprocess.Popen[bytes]] = []

    def creator(target: str) -> None:
        with open(target, "w") as file:
            left.append(subprocess.Popen(["sh", "-c", "sleep 0.1; echo late"], stdout=file))

    datafile = Datafile(path, 3600, creator, validate=lambda target: Path(target).read_text() == "late\n")
    assert datafile.refresh()
    assert datafile.load(lambda file: file.read()) == b"late\n"
    assert left[0].wait() == 0


@pytest.mark.usefixtures("patient")
def test_a_child_that_was_forked_while_the_file_was_open_is_waited_for_until_it_executes(path: str) -> None:
    read, write = os.pipe()

    def creator(target: str) -> None:
        with open(target, "w") as file:
            file.write("new")
            child = os.fork()
            if child == 0:  # as a process between fork and exec
                os.read(read, 1)
                os._exit(0)
        threading.Timer(0.1, os.write, (write, b"x")).start()

    assert Datafile(path, 3600, creator).refresh()
    assert Path(path).read_text() == "new"
    os.wait()
    for fd in (read, write):
        os.close(fd)


@pytest.mark.parametrize("kind", [Datafile, DataDirectory])
def test_a_process_that_was_forked_while_the_file_was_open_is_no_writer(path: str, kind: Any) -> None:
    """As threads that fork do: the child has a copy of the descriptor, and lives on."""
    children = []

    def creator(target: str) -> None:
        if kind is DataDirectory:
            os.mkdir(target)
            target = os.path.join(target, "file")
        with open(target, "w") as file:
            file.write("new")
            file.flush()
            child = os.fork()
            if not child:
                while True:
                    signal.pause()
            children.append(child)

    try:
        assert kind(path, 3600, creator).refresh()
        assert kind(path, 3600).status().state == "fresh"
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("durable", [True, False])
def test_a_file_in_a_directory_that_is_still_written_is_refused(path: str, durable: bool) -> None:
    opened: list[IO[Any]] = []

    def creator(target: str) -> None:
        os.makedirs(os.path.join(target, "below"))
        os.mkfifo(os.path.join(target, "fifo"))
        os.symlink("nowhere", os.path.join(target, "link"))
        opened.append(open(os.path.join(target, "below", "part"), "w"))  # noqa: SIM115

    directory = DataDirectory(path, 3600, creator, durable=durable)
    assert "below/part' is still open" in refused(directory.refresh)
    assert left_beside(path) == []
    assert not os.path.lexists(path)
    opened.pop().close()

    def closing_creator(target: str) -> None:
        creator(target)
        opened.pop().close()

    assert DataDirectory(path, 3600, closing_creator, durable=durable).refresh(force=True)


def test_what_command_leaves_running_with_its_output_is_told_and_file_stays(cli: Cli) -> None:
    cli.make()
    made = cli.run(
        "run", "--expire", "0", "--output", "file", "--stdout", "--",
        "sh", "-c", "echo new; sleep 600 2>&- & echo $! > pid",
        status=65, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    pid = int(cli.text("pid"))
    os.kill(pid, signal.SIGKILL)
    assert made.stderr.count("\n") == 1
    assert f"is still open for writing, by process {pid} (sleep)" in made.stderr
    assert cli.text() == "old\n"
    assert cli.left_behind() == []


# Where the system does not say whether a file has a writer.


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as another user")


def in_place_of_another_user(tmp_path: Path, action: Callable[[str], None]) -> None:
    """Call *action* as user nobody, in a child, with a path in a directory that all users may write."""
    with tempfile.TemporaryDirectory(prefix="dogpile_fs-") as place:  # pytest's are for their user alone
        os.chmod(place, 0o777)

        def as_nobody() -> None:
            os.setresuid(65534, 65534, 0)
            action(os.path.join(place, "resource"))

        assert ended_well(in_child(as_nobody))


def roots_file(target: str) -> None:
    """A creator's program with set-user-ID, or sudo: the new version belongs to another user."""
    os.seteuid(0)
    try:
        Path(target).write_text("new")
        os.chmod(target, 0o666)
    finally:
        os.seteuid(65534)


def _write_later(path: str) -> None:
    before = os.stat(path).st_mtime_ns

    def written() -> bool:
        with open(path, "a") as file:
            file.write(" and more")
        return os.stat(path).st_mtime_ns != before

    wait_for(written, "another mtime")


@needs_root
def test_a_version_that_may_have_a_writer_is_swapped_in_and_stale_once_it_is_changed_in_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def action(path: str) -> None:
        datafile = Datafile(path, None, roots_file)
        assert datafile.refresh()
        assert datafile.status().state == "fresh"
        assert quick_check.is_fresh(path, 3600)
        inode, created = os.stat(path).st_ino, datafile.status().createdtime
        for _ in range(2):
            _write_later(path)
            status = datafile.status()
            assert (status.state, status.createdtime) == ("stale", created)
            assert not quick_check.is_fresh(path, 3600)
            assert Datafile(path, None).load(lambda file: file.read()).startswith(b"new and more")
        reports = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
        assert sum("was changed after it was stamped" in text for text in reports) == 3  # once per object
        assert all(repr(path) in text for text in reports)
        assert datafile.load(lambda file: file.read()) == b"new"
        assert os.stat(path).st_ino != inode
        assert datafile.status().state == "fresh"
        # What a hand replaces by another file counts by its mtime, as ever.
        Path(path + ".foreign").write_text("foreign")
        os.replace(path + ".foreign", path)
        assert (datafile.status().state, datafile.status().pid) == ("fresh", None)

    in_place_of_another_user(tmp_path, action)


@needs_root
def test_a_version_that_is_known_to_be_finished_counts_by_its_mtime_when_it_is_changed_in_place(
    tmp_path: Path,
) -> None:
    def action(path: str) -> None:
        assert Datafile(path, 3600, roots_file).refresh()
        assert Datafile(path, 3600, writing("mine"), skip_unchanged=True).refresh(force=True)
        _write_later(path)
        status = Datafile(path, 3600).status()
        assert (status.state, status.createdtime) == ("fresh", os.stat(path).st_mtime)

    in_place_of_another_user(tmp_path, action)


@needs_root
def test_equal_contents_that_are_known_to_be_finished_do_not_vouch_for_the_file_that_stays(tmp_path: Path) -> None:
    def action(path: str) -> None:
        assert Datafile(path, 3600, roots_file).refresh()
        inode = os.stat(path).st_ino
        assert Datafile(path, 3600, writing("new"), skip_unchanged=True).refresh(force=True)
        assert os.stat(path).st_ino == inode
        _write_later(path)
        assert Datafile(path, 3600).status().state == "stale"

    in_place_of_another_user(tmp_path, action)
