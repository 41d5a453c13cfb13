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
from typing import Any

import pytest

from dogpile_fs import (
    DataDirectory,
    Datafile,
    DatafileError,
    Dogpile,
    DogpileError,
    LockTimeout,
    Policy,
    atomic_write,
)
from dogpile_fs._layout import number_in, temp_affixes
from dogpile_fs._os import byterange
from dogpile_fs._os import replace as swap
from dogpile_fs._os.openfile import OpenFile
from tests.hostile.test_broken_environments import NOBODY, Unprivileged, unprivileged
from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.places import hidden, left_beside, writing
from tests.support.processes import PATIENCE, wait_for

from .test_datadirectory import making, opened, versions

__all__ = ["bytecode", "cli", "unprivileged"]  # fixtures


@pytest.mark.parametrize("layout", ["link", "plain"])
def test_an_object_that_keeps_none_rolls_back_and_leaves_the_others(path: str, layout: str) -> None:
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


def test_the_target_of_another_programs_link_keeps_its_permissions(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "below").mkdir(parents=True)
    for directory in (home / "below", home):
        directory.chmod(0o555)
    link = tmp_path / "link"
    link.symlink_to(home)
    swap.remove_tree(str(link))
    assert [stat.S_IMODE(directory.stat().st_mode) for directory in (home, home / "below")] == [0o555, 0o555]
    begin, end = temp_affixes("new", str(tmp_path / "report"))
    (tmp_path / ".dogpile").mkdir()
    os.symlink(home, tmp_path / ".dogpile" / f"{begin}deadbeef{end}")
    Datafile(tmp_path / "report", 0, writing("new")).refresh()
    assert left_beside(str(tmp_path / "report")) == []
    assert stat.S_IMODE(home.stat().st_mode) == 0o555


def test_the_swaps_wait_for_readers_ends_at_the_timeout_of_the_call(path: str) -> None:
    policy = Policy(backoff=None, stale_if_error=False)
    datafile = Datafile(path, 0, writing("old"), readers=True, keep=1, policy=policy)
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

    loaders = [loader(number) for number in range(16)]
    for _ in range(3):
        assert [datafile.load(load) for load in loaders] == list(range(16))
    assert calls == list(range(16))
    assert datafile.load(json.load) == {}


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


def test_a_creator_whose_build_another_one_removed_does_not_create(path: str) -> None:
    """Found by the campaign: a temp cleaner, two creators, and an error for the first of them."""
    built: list[str] = []

    def creator(target: str) -> None:
        built.append(target)
        Path(target).write_text(f"version {len(built)}")
        if len(built) == 1:
            os.unlink(path + ".dogpile.lock")
            assert Datafile(path, 3600, creator).refresh(force=True)  # takes the first one for left

    assert not Datafile(path, 3600, creator).refresh()
    assert Path(path).read_text() == "version 2"
    assert Datafile(path, 3600).status().generation == 1
    assert len(set(built)) == 2


def test_a_creator_that_has_lost_its_lock_file_removes_no_other_build(path: str) -> None:
    beside: list[str] = []

    def creator(target: str) -> None:
        Path(target).write_text("mine")
        if not beside:
            os.unlink(path + ".dogpile.lock")
            beside.append(target + "-anothers")
            Path(beside[0]).write_text("another's")

    leftovers: list[bool] = []

    def validate(target: str) -> None:
        leftovers.append(os.path.exists(beside[0]))

    assert Datafile(path, 3600, creator, validate=validate).refresh()
    assert leftovers == [True, False], "the creator that has its lock file removes leftovers"
    assert Path(path).read_text() == "mine"


def test_a_creator_that_has_lost_its_lock_file_neither_swaps_nor_stamps(path: str) -> None:
    def creator(target: str) -> None:
        Path(target).write_text("new")
        os.unlink(path + ".dogpile.lock")

    Datafile(path, 3600, lambda target: Path(target).write_text("old")).refresh()
    datafile = Datafile(path, 3600, creator)
    datafile.invalidate()
    with datafile.open("r") as file:
        assert file.read() == "old"
    with pytest.raises(DatafileError, match="was removed each time"):
        datafile.refresh()
    assert (Path(path).read_text(), datafile.status().generation, datafile.status().state) == ("old", 1, "stale")
    assert left_beside(path) == []
    dogpile = Dogpile(3600, path)
    assert not dogpile.refresh(lambda: os.unlink(path + ".dogpile.lock"))
    assert dogpile.status().state == "stale"


def test_a_new_version_that_vanishes_while_the_lock_file_is_there_is_an_error(path: str) -> None:
    def creator(target: str) -> None:
        Path(target).write_text("gone")
        os.unlink(target)

    with pytest.raises(DatafileError, match="made no regular file"):
        Datafile(path, 3600, creator).refresh()


@pytest.mark.parametrize("number", ["9" * 215, "\u0661", "01", "\u0669" * 9], ids=ascii)
def test_a_number_that_we_do_not_write_is_no_version_of_a_file(path: str, number: str) -> None:
    begin, end = temp_affixes("kept", path)
    foreign = Path(hidden(path), begin + number + end)
    foreign.parent.mkdir()
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
    begin, end = temp_affixes("dir", path)
    foreign = Path(os.path.dirname(path), begin + numbers + end)
    versions(path, 1, keep=1)
    foreign.mkdir()
    DataDirectory(path, 3600, making("2"), keep=1).refresh(force=True)
    DataDirectory(path, 3600, making("3"), keep=1).refresh(force=True)
    DataDirectory(path).rollback()
    assert opened(DataDirectory(path)) == "2"
    ours = {os.path.basename(os.path.realpath(path))}
    assert {name for name in os.listdir(foreign.parent) if name.startswith(begin)} == {foreign.name} | ours


def test_a_link_that_leads_where_no_name_does_is_an_error_and_does_not_hang(path: str) -> None:
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


def test_a_creator_whose_build_another_removes_and_gives_the_lock_file_back_builds_again(path: str) -> None:
    """Found by the campaign: the lock file is at its path, and the new version is not."""
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


#: Where another program's link leads nowhere: by its length, through a file, to itself, to a closed directory.
NOWHERE = ["x" * 300, "file/under", "/proc/self/fd/99999/x", "itself", "closed/within"]


def plant(leads: str, place: str) -> None:
    """Make a link that leads nowhere at *place*."""
    home = os.path.dirname(place)
    if leads.startswith("file"):
        Path(home, "file").touch()
    elif leads.startswith("closed"):
        os.mkdir(os.path.join(home, "closed"), 0)
    os.symlink(os.path.basename(place) if leads == "itself" else leads, place)


@pytest.mark.parametrize("leads", NOWHERE, ids=lambda leads: leads[:20])
def test_a_link_to_nowhere_under_the_name_of_a_version_is_passed_over(
    leads: str, unprivileged: Unprivileged
) -> None:
    unprivileged.writable()

    def create_and_roll_back() -> None:
        path = unprivileged.path
        begin, end = temp_affixes("dir", path)
        index = DataDirectory(path, 3600, making("1"), keep=1)
        plant(leads, os.path.join(unprivileged.directory, f"{begin}7-6{end}"))
        index.refresh()
        DataDirectory(path, 3600, making("2"), keep=1).refresh(force=True)
        assert opened(index) == "2"
        index.rollback()
        assert opened(index) == "1"

    unprivileged.run(create_and_roll_back)


@pytest.mark.parametrize("leads", ["x" * 300, "file/under"], ids=lambda leads: leads[:20])
@pytest.mark.parametrize("by", ["path", "another link"])
@pytest.mark.parametrize("kind", [Datafile, DataDirectory, atomic_write])
def test_a_link_to_nowhere_that_is_in_the_way_is_told_by_its_own_name(
    kind: Any, by: str, leads: str, path: str
) -> None:
    link = path
    if by == "another link":
        link = os.path.join(os.path.dirname(path), ".dogpile-dir-0123456789abcdef-1-0.resource")
        os.symlink(os.path.basename(link), path)
    plant(leads, link)
    with pytest.raises(DogpileError) as caught, kind(path) as _:
        pass
    assert f"{link!r} is a symbolic link to {leads[:100]!r}"[:-1] in str(caught.value)
    assert str(caught.value).endswith("Hint: remove that link.")


@pytest.mark.parametrize("leads", ["x" * 300, "file/under"], ids=lambda leads: leads[:20])
def test_a_link_to_nowhere_that_comes_later_is_told_by_its_own_name(leads: str, path: str) -> None:
    report = Datafile(path, 3600, writing("new"))
    plant(leads, path)
    for act in (report.refresh, report.rollback):
        with pytest.raises(DogpileError) as caught:
            act()
        assert f"{path!r} is a symbolic link to " in str(caught.value)
        assert "shorten the name" not in str(caught.value)


def test_a_leftover_that_cannot_be_removed_blocks_no_creation(unprivileged: Unprivileged) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs another user, and so root")
    path, directory = unprivileged.path, unprivileged.directory
    directory.chmod(0o1777)
    os.chown(directory, NOBODY + 1, NOBODY + 1)
    begin, end = temp_affixes("new", path)
    hidden = directory / f".dogpile-{NOBODY}"
    hidden.mkdir()
    hidden.chmod(0o1777)
    os.chown(hidden, NOBODY + 1, NOBODY + 1)
    left = hidden / f"{begin}left{end}"
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


@pytest.mark.parametrize("how", ["refresh", "rollback"])
def test_a_lock_file_removed_while_the_swap_waits_for_a_reader_stops_that_swap(path: str, how: str) -> None:
    built: list[str] = []

    def creator(target: str) -> None:
        built.append(target)
        Path(target).write_text(f"version {len(built)}")

    datafile = Datafile(path, 3600, creator, keep=1, readers=True)
    datafile.refresh()
    datafile.refresh(force=True)
    ended: list[object] = []

    def swap() -> None:
        try:
            if how == "refresh":
                ended.append(datafile.refresh(force=True))
            else:
                datafile.rollback()
        except DatafileError as error:
            ended.append(str(error))

    def is_writer_waiting() -> bool:
        lock_file = OpenFile.of_lock_file(path + ".dogpile.rwlock")
        try:
            return byterange.is_exclusively_locked(lock_file.fd, 0)
        finally:
            lock_file.close()

    with Datafile(path, 3600, readers=True).open("r") as file:
        thread = threading.Thread(target=swap)
        thread.start()
        wait_for(is_writer_waiting, "the swap to wait")
        os.unlink(path + ".dogpile.lock")
        assert file.read() == "version 2"
    thread.join(PATIENCE)
    if how == "refresh":
        assert (ended, len(built), Path(path).read_text()) == (["created"], 4, "version 4"), (
            "it is built and swapped anew"
        )
        assert datafile.status().generation == 3
    else:
        assert "was removed meanwhile" in str(ended[0])
        assert (len(built), Path(path).read_text(), datafile.status().generation) == (2, "version 2", 2)
