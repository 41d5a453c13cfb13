"""Defects of datafiles, directories and the command that were found once, each by what showed it."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dogpile_fs import DataDirectory, Datafile, DatafileError, LockTimeout, atomic_write
from dogpile_fs._layout import number_in
from dogpile_fs._os import replace as swap
from tests.hostile.test_broken_environments import NOBODY, Unprivileged, unprivileged
from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.places import left_beside, writing

from .test_datadirectory import making, opened, versions

__all__ = ["bytecode", "cli", "unprivileged"]  # fixtures


@pytest.mark.parametrize("layout", ["link", "plain"])
def test_who_keeps_none_rolls_back_and_leaves_the_others(path: str, layout: str) -> None:
    versions(path, 4, layout, keep=3)
    for expected in ("3", "2", "1"):
        DataDirectory(path).rollback()
        assert opened(DataDirectory(path)) == expected


def test_a_directory_that_was_removed_is_rolled_back_and_has_a_status(cli: Cli) -> None:
    path = str(cli.directory / "index")
    versions(path, 3, keep=2)
    current = os.path.realpath(path)
    os.rename(current, current + ".away")
    assert cli.run("status", "index", status=2).stderr == ""
    cli.run("rollback", "index")
    assert opened(DataDirectory(path)) == "2"
    os.unlink(path)
    cli.run("rollback", "index")
    assert opened(DataDirectory(path)) in ("1", "2")


def test_a_file_that_was_removed_is_rolled_back(cli: Cli) -> None:
    for text in ("one", "two"):
        Datafile(cli.directory / "file", 0, writing(text), keep=1).refresh(force=True)
    os.unlink(cli.directory / "file")
    cli.run("rollback", "file")
    assert cli.text() == "one"


def test_what_a_foreign_link_leads_to_keeps_its_permissions(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "below").mkdir(parents=True)
    for directory in (home / "below", home):
        directory.chmod(0o555)
    link = tmp_path / "link"
    link.symlink_to(home)
    swap.remove_tree(str(link))
    assert [stat.S_IMODE(directory.stat().st_mode) for directory in (home, home / "below")] == [0o555, 0o555]
    begin, end = swap.marked("new", str(tmp_path / "report"))
    os.symlink(home, tmp_path / f"{begin}deadbeef{end}")
    Datafile(tmp_path / "report", 0, writing("new")).refresh()
    assert left_beside(str(tmp_path / "report")) == []
    assert stat.S_IMODE(home.stat().st_mode) == 0o555


def test_the_swaps_wait_for_readers_ends_at_the_timeout_of_the_call(path: str) -> None:
    datafile = Datafile(path, 0, writing("old"), readers=True, keep=1)
    datafile.refresh()
    datafile.refresh(force=True)
    inside, leave = threading.Event(), threading.Event()

    def read() -> None:
        with Datafile(path, readers=True).acquire():
            inside.set()
            leave.wait(60)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert inside.wait(60)
        for wait in (
            lambda: datafile.path(timeout=0.1),
            lambda: datafile.refresh(timeout=0.1),
            lambda: datafile.rollback(timeout=0.1),
        ):
            with pytest.raises(LockTimeout):
                wait()
    finally:
        leave.set()
        reader.join()
    assert datafile.refresh()


def test_a_signal_ends_the_swaps_wait_for_readers(cli: Cli) -> None:
    run = ("run", "--expire", "0", "--output", "file", "--readers", "--stdout")
    cli.run(*run, "--", "echo", "old")
    with Datafile(cli.directory / "file", readers=True).acquire():
        for more in ((), ("--validate", "true")):
            process = cli.start(*run, *more, "--then", "echo then", "--", "sh", "-c", "echo new; echo yes > done")
            cli.wait_for_line("done")
            os.unlink(cli.directory / "done")
            time.sleep(0.1)  # whether it waits already or not yet must make no difference
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == -signal.SIGTERM
    assert cli.text() == "old\n"
    assert cli.left_behind() == []
    assert cli.run(*run, "--no-wait", "--", "echo", "next").returncode == 0
    assert cli.text() == "next\n"


def test_a_timeout_ends_a_command_that_has_left_the_group(cli: Cli) -> None:
    cli.run(
        "run",
        "--expire",
        "0",
        "--output",
        "file",
        "--stdout",
        "--timeout",
        "0.3",
        "--",
        "setsid",
        "sleep",
        "1000",
        status=124,
    )


def test_then_is_not_run_where_nothing_was_swapped(cli: Cli) -> None:
    run = (
        "run",
        "--expire",
        "0",
        "--output",
        "file",
        "--stdout",
        "--skip-unchanged",
        "--then",
        "echo then",
        "--",
        "echo",
    )
    assert cli.run(*run, "one").stdout == "then\n"
    assert cli.run(*run, "one").stdout == ""
    assert cli.run(*run, "two").stdout == "then\n"


def test_many_loaders_load_once_each(path: str) -> None:
    datafile = Datafile(path, 3600, writing("{}"))
    calls: list[int] = []

    def loader(number: int) -> Callable[[object], int]:
        def load(file: object) -> int:
            calls.append(number)
            return number

        return load

    loaders = [loader(number) for number in range(60)]
    for _ in range(3):
        assert [datafile.load(load) for load in loaders] == list(range(60))
    assert calls == list(range(60))
    assert datafile.load(json.load) == {}


def test_a_temp_file_far_from_the_others_is_removed(path: str) -> None:
    begin, end = swap.marked("tmp", path)
    Path(os.path.dirname(path), f"{begin}99{end}").write_text("left")
    with atomic_write(path) as file:
        file.write(b"new")
    assert left_beside(path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to others")
def test_a_group_that_never_had_a_right_is_given_none(unprivileged: Unprivileged) -> None:
    unprivileged.writable()
    path = Path(unprivileged.path)
    path.write_text("old")
    os.chown(path, 4001, 4000)
    path.chmod(0o660)

    def write() -> None:
        with atomic_write(path) as file:
            file.write(b"new")

    unprivileged.run(write)
    found = path.stat()
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (NOBODY, 0o600)


def test_a_version_that_cannot_be_named_changes_places_again(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datadir = versions(path, 1, "plain", keep=1)
    rename = swap.rename

    def full(new: str, place: str) -> None:
        if ".dogpile-dir-" in place:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)
        rename(new, place)

    monkeypatch.setattr(swap, "rename", full)
    with pytest.raises(OSError, match="No space"):
        datadir.refresh(force=True)
    monkeypatch.undo()
    assert opened(datadir) == "1"
    DataDirectory(path, 3600, making("2"), keep=1).refresh(force=True)
    DataDirectory(path).rollback()
    assert opened(datadir) == "1"


def test_whose_build_another_creator_removed_for_lack_of_a_lock_file_builds_again(path: str) -> None:
    """Found by the campaign: a temp cleaner, two creators, and an error for the first of them."""
    built: list[str] = []

    def creator(target: str) -> None:
        built.append(target)
        Path(target).write_text(f"version {len(built)}")
        if len(built) == 1:
            os.unlink(path + ".dogpile.lock")
            assert Datafile(path, 3600, creator).refresh(force=True)  # takes the first one for left

    Datafile(path, 3600, creator).refresh()
    assert Path(path).read_text() == "version 3"
    assert len(set(built)) == 3


def test_who_has_lost_his_lock_file_does_not_take_for_left_what_another_builds(path: str) -> None:
    beside: list[str] = []

    def creator(target: str) -> None:
        Path(target).write_text("mine")
        os.unlink(path + ".dogpile.lock")
        beside.append(target + "-anothers")
        Path(beside[0]).write_text("another's")

    Datafile(path, 3600, creator).refresh()
    assert Path(beside[0]).read_text() == "another's"
    Datafile(path, 3600, lambda target: Path(target).write_text("next")).refresh(force=True)
    assert not os.path.exists(beside[0])


def test_whose_build_vanishes_while_the_lock_file_is_there_is_told(path: str) -> None:
    def creator(target: str) -> None:
        Path(target).write_text("gone")
        os.unlink(target)

    with pytest.raises(DatafileError, match="made no regular file"):
        Datafile(path, 3600, creator).refresh()


@pytest.mark.parametrize("number", ["9" * 215, "\u0661", "01", "\u0669" * 9], ids=ascii)
def test_a_number_that_we_do_not_write_is_no_version_of_a_file(path: str, number: str) -> None:
    begin, end = swap.marked("kept", path)
    foreign = Path(os.path.dirname(path), begin + number + end)
    foreign.write_text("foreign")
    for text in ("one", "two", "three"):
        Datafile(path, 0, writing(text), keep=1).refresh(force=True)
    Datafile(path).rollback()
    assert Path(path).read_text() == "two"
    with pytest.raises(DatafileError, match="no earlier version"):
        Datafile(path).rollback()
    assert foreign.read_text() == "foreign"


@pytest.mark.parametrize("numbers", ["1-\u0660", "\u0661-0", "01-0", "1-00", "9" * 205 + "-0"], ids=ascii)
def test_a_number_that_we_do_not_write_is_no_version_of_a_directory(path: str, numbers: str) -> None:
    begin, end = swap.marked("dir", path)
    foreign = Path(os.path.dirname(path), begin + numbers + end)
    versions(path, 1, keep=1)
    foreign.mkdir()
    DataDirectory(path, 3600, making("2"), keep=1).refresh(force=True)
    DataDirectory(path, 3600, making("3"), keep=1).refresh(force=True)
    DataDirectory(path).rollback()
    assert opened(DataDirectory(path)) == "2"
    ours = {os.path.basename(os.path.realpath(path))}
    assert {name for name in os.listdir(foreign.parent) if name.startswith(begin)} == {foreign.name} | ours


def test_a_link_that_leads_where_no_name_does_is_told_and_does_not_hang(path: str) -> None:
    # Through /proc it leads to a directory that was removed, and still can be looked at.
    removed = path + "-removed"
    os.mkdir(removed)
    descriptor = os.open(removed, os.O_RDONLY)
    try:
        os.rmdir(removed)
        os.symlink(f"/proc/self/fd/{descriptor}", path)
        with pytest.raises(DatafileError, match="vanishes"), DataDirectory(path, 3600).open():
            pass
        assert DataDirectory(path, 3600, making("new")).refresh(force=True)
        assert opened(DataDirectory(path)) == "new"
    finally:
        os.close(descriptor)


def test_whose_build_another_removes_and_gives_the_lock_file_back_builds_again(path: str) -> None:
    """Found by the campaign: his lock file is at its path, and his new version is not."""
    built: list[str] = []

    def validate(target: str) -> None:
        built.append(target)
        if len(built) == 1:
            os.unlink(target)

    Datafile(path, 3600, lambda target: Path(target).write_text("new"), validate=validate).refresh()
    assert Path(path).read_text() == "new"
    assert len(set(built)) == 2


def test_a_version_of_a_directory_that_another_made_meanwhile_is_not_in_the_way(path: str) -> None:
    """Found by the campaign: two creators, for lack of a lock file, had counted to the same number."""
    made: list[str] = []

    def creator(target: str) -> None:
        os.mkdir(target)
        made.append(target)
        if len(made) == 1:
            os.unlink(path + ".dogpile.lock")
            assert DataDirectory(path, 3600, creator, keep=3).refresh(force=True)

    index = DataDirectory(path, 3600, creator, keep=3)
    index.refresh()
    assert index.status().state == "fresh"
    assert len(made) >= 2


def test_what_was_left_and_cannot_be_removed_is_in_nobodys_way(unprivileged: Unprivileged) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs another user, and so root")
    path, directory = unprivileged.path, unprivileged.directory
    directory.chmod(0o1777)
    os.chown(directory, NOBODY + 1, NOBODY + 1)
    begin, end = swap.marked("new", path)
    left = directory / f"{begin}left{end}"
    left.write_text("another's")
    unprivileged.run(lambda: Datafile(path, 3600, writing("new")).refresh())
    assert Path(path).read_text() == "new"
    assert left.exists()


def test_a_number_that_leaves_none_for_the_next_version_is_none() -> None:
    assert number_in("9" * 17) == 10**17 - 1
    assert number_in("9" * 18) is None


def test_a_command_that_is_run_twice_for_lack_of_a_lock_file_leaves_signals_as_they_were(cli: Cli) -> None:
    once = "[ -e again ] || { touch again; rm file.dogpile.lock; rm -f {}; exit 0; }; echo new > {}"
    program = (
        "import signal, sys; from dogpile_fs.cli import main\n"
        "before = signal.getsignal(signal.SIGTERM)\n"
        "status = main(sys.argv[1:])\n"
        "assert signal.getsignal(signal.SIGTERM) is before and signal.set_wakeup_fd(-1) == -1\n"
        "sys.exit(status)"
    )
    words = ["run", "--expire", "1h", "--output", "file", "--", "sh", "-c", once]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=cli.directory,
        env=cli.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (cli.directory / "file").read_text() == "new\n"
