"""DataDirectory: no reader loses a file, no version outlives its last one, and both layouts behave the same."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_UN, flock
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import DataDirectory, DatafileError, Dogpile, DogpileError, LockTimeout, PathError, WouldDeadlock
from dogpile_fs._layout import temp_affixes
from dogpile_fs._os import replace as swap
from tests.hostile.test_broken_environments import (
    Unprivileged,
    foreign,
    may_mount,
    mounted,
    promptly,
    tells,
    unprivileged,
)
from tests.support.places import descriptors, left_beside, survives_few_descriptors, umask
from tests.support.processes import Processes, Record, ended_well, in_child, wait_for, waiters_for

__all__ = ["foreign", "may_mount", "mounted", "unprivileged"]  # fixtures

LAYOUTS = ["link", "plain"]
both_layouts = pytest.mark.parametrize("layout", LAYOUTS)


def unwanted(target: str) -> None:
    raise AssertionError("the creator was called")


def making(what: object) -> Callable[[str], None]:
    """A creator of a directory with a file that says *what*, and one in a directory in it."""

    def creator(target: str) -> None:
        os.makedirs(os.path.join(target, "sub"))
        for name in ("file", "sub/file"):
            Path(target, name).write_text(str(what))

    return creator


class Numbered:
    """A creator of version 1, then 2, ..."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, target: str) -> None:
        self.calls += 1
        making(self.calls)(target)


def text(path: str) -> str:
    """What the version at *path* says, in all its files."""
    [said] = {Path(path, name).read_text() for name in ("file", "sub/file")}
    return said


def opened(datadir: DataDirectory) -> str:
    with datadir.open() as path:
        return text(path)


def loaded(datadir: DataDirectory) -> str:
    read: str = datadir.load(lambda path: text(path))
    return read


WAYS: list[Callable[[DataDirectory], str]] = [opened, loaded]


def lay(path: str, layout: str) -> None:
    """Have what is to be at *path* in this *layout*, before there is any version."""
    if layout == "plain":
        making("plain")(path)
        os.utime(path, (1000, 1000))


def versions(path: str, count: int, layout: str = "link", **options: Any) -> DataDirectory:
    """A directory that was created *count* times."""
    if count and not os.path.lexists(path):
        lay(path, layout)
    options.setdefault("durable", False)
    datadir = DataDirectory(path, 3600, Numbered(), **options)
    for _ in range(count):
        assert datadir.refresh(force=True)
    return datadir


def hidden(path: str) -> list[str]:
    """What each hidden directory beside *path*, and in the hidden sub-directory, says."""
    found = [*Path(path).parent.glob(".dogpile*/.dogpile-*"), *Path(path).parent.glob(".dogpile-[a-z]*")]
    return sorted(text(str(each)) for each in found if str(each) != os.path.realpath(path))


# What it is for.


@both_layouts
@pytest.mark.parametrize("way", WAYS)
def test_it_is_created_when_it_is_missing_and_when_it_is_stale(
    path: str, layout: str, way: Callable[[DataDirectory], str]
) -> None:
    lay(path, layout)
    creator = Numbered()
    datadir = DataDirectory(path, 3600, creator)
    assert [way(datadir), way(datadir)] == ["1", "1"]
    datadir.invalidate()
    assert [way(datadir), way(datadir)] == ["2", "2"]
    assert creator.calls == datadir.status().generation == 2
    assert text(path) == "2"
    assert os.path.islink(path) == (layout == "link")
    assert hidden(path) == []


def test_a_path_where_nothing_is_becomes_a_relative_link_to_a_hidden_directory(tmp_path: Path) -> None:
    versions(str(tmp_path / "index"), 1)
    assert os.path.islink(tmp_path / "index")
    name = os.readlink(tmp_path / "index")
    assert name.startswith(".dogpile-dir-")
    assert name.endswith(".index")
    shutil.copytree(tmp_path, tmp_path.parent / "moved", symlinks=True)  # with all that is in it
    assert text(str(tmp_path.parent / "moved" / "index")) == "1"


def test_refresh_creates_if_it_must_or_is_told_to(path: str) -> None:
    datadir = DataDirectory(path, 3600, Numbered())
    assert [datadir.refresh(), datadir.refresh(), datadir.refresh(force=True)] == ["created", "fresh", "created"]
    datadir.invalidate(hard=True)
    assert datadir.status().state == "missing"
    assert [datadir.refresh(), datadir.refresh()] == ["created", "fresh"]
    assert text(path) == "3"
    with pytest.raises(TypeError, match="without a creator"):
        DataDirectory(path, 3600).refresh()


@both_layouts
def test_a_path_with_a_slash_at_its_end_is_the_same(path: str, layout: str) -> None:
    lay(path, layout)
    datadir = DataDirectory(path + "//", 3600, Numbered())
    datadir.refresh(force=True)
    assert opened(DataDirectory(path, 3600, unwanted)) == "1"
    datadir.refresh(force=True)
    assert text(path) == "2"
    assert hidden(path) == []


@pytest.mark.parametrize("given", ["", "/", "//", ".", "..", "missing/..", "missing/."])
def test_what_names_no_directory_of_its_own_is_a_path_error(
    tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    with pytest.raises(PathError):
        DataDirectory(given, 3600, unwanted)
    assert os.listdir(tmp_path / "home") == []


def test_a_file_at_the_path_is_a_path_error(path: str) -> None:
    Path(path).touch()
    with pytest.raises(PathError):
        DataDirectory(path, 3600, unwanted)


def test_arguments_of_no_use_are_refused(path: str) -> None:
    make: Any = DataDirectory
    for wrong in (
        {"creator": 3},
        {"validate": "x"},
        {"keep": -1},
        {"keep": 0.5},
        {"readers": True},
        {"timeout": -1},
    ):
        with pytest.raises((TypeError, ValueError)):
            make(path, **wrong)


@pytest.mark.parametrize(
    "name", ["-rf", ".hidden", "new\nline", "'\"", "\udcff\udcfe", "ä" * 110, "n" * 235, "a-1.b"]
)
@both_layouts
def test_any_name_will_do(tmp_path: Path, name: str, layout: str) -> None:
    path = str(tmp_path / name)
    datadir = versions(path, 3, layout, keep=1)
    assert opened(datadir) == "3"
    datadir.rollback()
    assert opened(datadir) == text(path) == "2"
    assert hidden(path) == []


@both_layouts
def test_no_descriptor_is_left_open(path: str, layout: str) -> None:
    datadir = versions(path, 2, layout, keep=1)
    opened(datadir)
    before = descriptors()
    for _ in range(3):
        datadir.refresh(force=True)
        opened(datadir)
        loaded(datadir)
        datadir.rollback()
        with pytest.raises(ZeroDivisionError), datadir.open():
            raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError):
            datadir.load(lambda path: 1 / 0)
    assert descriptors() == before


# Readers.


def _stay(path: str, record: Record, name: str = "", with_creator: bool = True) -> None:
    with DataDirectory(path, 3600, unwanted if with_creator else None).open() as version:
        record.write("inside", text=text(version), version=version)
        record.wait("leave" + name)
        with open(os.path.join(version, "sub", "file")) as file:
            assert file.read() == record.events("inside")[0].more["text"]
        assert sorted(os.listdir(version)) == ["file", "sub"]
    record.write("left")


@both_layouts
def test_a_reader_in_another_process_loses_nothing_and_his_version_goes_when_he_leaves(
    path: str, record: Record, processes: Processes, layout: str
) -> None:
    datadir = versions(path, 1, layout)
    reader = processes.start(_stay, path, record)
    record.wait("inside")
    for _ in range(3):
        datadir.refresh(force=True)
        assert opened(datadir) == text(path) == str(datadir.status().generation)
        assert hidden(path) == ["1"]
    record.write("leave")
    processes.join(reader)
    assert hidden(path) == []


@both_layouts
def test_the_version_of_a_reader_who_may_not_remove_it_goes_with_the_next_swap(
    path: str, record: Record, processes: Processes, layout: str
) -> None:
    datadir = versions(path, 1, layout)
    reader = processes.start(_stay, path, record, "", False)
    record.wait("inside")
    datadir.refresh(force=True)
    record.write("leave")
    processes.join(reader)
    assert hidden(path) == ["1"]
    datadir.refresh(force=True)
    assert hidden(path) == []


def test_on_nfs_a_replaced_version_stays_until_the_next_swap_and_no_reader_removes_one(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of another host has a lock that is not seen, and may take an old version for the current one."""
    monkeypatch.setattr("dogpile_fs._datafile.datadirectory.has_local_directory_locks", lambda fd, identity: True)
    datadir = versions(path, 1)
    datadir.refresh(force=True)
    assert hidden(path) == ["1"]
    with datadir.open():
        datadir.refresh(force=True)
        assert hidden(path) == ["2"]
    assert hidden(path) == ["2"]


@both_layouts
def test_the_version_of_a_killed_reader_goes_with_the_next_swap(
    path: str, record: Record, processes: Processes, layout: str
) -> None:
    datadir = versions(path, 1, layout)
    reader = processes.start(_stay, path, record)
    record.wait("inside")
    datadir.refresh(force=True)
    assert hidden(path) == ["1"]
    assert reader.pid is not None
    os.kill(reader.pid, signal.SIGKILL)
    reader.join()
    datadir.refresh(force=True)
    assert hidden(path) == []


@both_layouts
def test_of_two_readers_of_a_version_the_last_one_counts(
    path: str, record: Record, processes: Processes, layout: str
) -> None:
    datadir = versions(path, 1, layout)
    readers = [processes.start(_stay, path, record, str(number)) for number in range(2)]
    record.wait("inside", 2)
    datadir.refresh(force=True)
    record.write("leave1")
    processes.join(readers[1])
    assert hidden(path) == ["1"]
    record.write("leave0")
    processes.join(readers[0])
    assert hidden(path) == []


@both_layouts
def test_threads_of_one_object_are_readers_of_their_own(path: str, layout: str) -> None:
    datadir = versions(path, 1, layout)
    first, second = datadir.open(), datadir.open()
    one, other = first.__enter__(), second.__enter__()
    datadir.refresh(force=True)
    third = datadir.open()
    newest = third.__enter__()
    assert (text(one), text(other), text(newest)) == ("1", "1", "2")
    datadir.refresh(force=True)
    assert hidden(path) == ["1", "2"]
    second.__exit__(None, None, None)
    assert text(one) == "1"
    first.__exit__(None, None, None)
    assert hidden(path) == ["2"]
    third.__exit__(None, None, None)
    assert hidden(path) == []


@both_layouts
def test_a_loader_is_a_reader(path: str, layout: str) -> None:
    datadir = versions(path, 1, layout)

    def loader(version: str) -> str:
        datadir.refresh(force=True)
        assert text(path) == "2"
        return text(version)

    assert datadir.load(loader) == "1"
    assert hidden(path) == []


@both_layouts
def test_a_version_path_can_be_used_by_a_program_that_is_started_in_the_block(path: str, layout: str) -> None:
    datadir = versions(path, 1, layout)
    with datadir.open() as version:
        datadir.refresh(force=True)
        said = subprocess.run(
            ["cat", os.path.join(version, "sub/file")], capture_output=True, text=True, check=True
        )
    assert said.stdout == "1"


@both_layouts
def test_a_forked_child_is_no_reader_and_its_parent_stays_one(
    path: str, record: Record, processes: Processes, layout: str
) -> None:
    datadir = versions(path, 1, layout)
    with datadir.open() as version:

        def in_the_child() -> None:
            assert opened(datadir) == "1"
            datadir.refresh(force=True)
            assert opened(datadir) == "2"

        assert ended_well(in_child(in_the_child))
        assert text(version) == "1"
        assert hidden(path) == ["1"]
    assert hidden(path) == []


@both_layouts
def test_a_child_that_leaves_its_parents_block_does_not_take_the_version_away(path: str, layout: str) -> None:
    datadir = versions(path, 1, layout)
    me = os.getpid()
    try:
        with datadir.open() as version:
            datadir.refresh(force=True)
            child = os.fork()
            if child:
                assert ended_well(child)
                datadir.refresh(force=True)
                assert text(version) == "1"
    finally:
        if os.getpid() != me:
            os._exit(0)
    assert hidden(path) == []


@both_layouts
def test_a_child_that_lives_on_does_not_keep_its_dead_parents_version(
    path: str, record: Record, processes: Processes, layout: str
) -> None:
    def read_fork_and_wait() -> None:
        def live_on() -> None:
            record.write("child")
            record.wait("end")

        with DataDirectory(path, 3600).open():
            in_child(live_on)
            time.sleep(3600)

    datadir = versions(path, 1, layout)
    parent = processes.start(read_fork_and_wait)
    record.wait("child")
    datadir.refresh(force=True)
    assert hidden(path) == ["1"]
    assert parent.pid is not None
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    try:
        datadir.refresh(force=True)
        assert hidden(path) == []
    finally:
        record.write("end")


@both_layouts
def test_a_reader_without_a_number_to_keep_removes_no_version_that_the_creator_keeps(
    path: str, layout: str
) -> None:
    datadir = versions(path, 2, layout, keep=1)
    with DataDirectory(path, 3600, unwanted).open():
        datadir.refresh(force=True)
    assert hidden(path) == ["2"]


# What a creator may do, and validate.


def test_the_creator_gets_a_path_in_the_hidden_directory_where_nothing_is_yet(path: str) -> None:
    def creator(target: str) -> None:
        assert not os.path.lexists(target)
        assert os.path.dirname(target) == os.path.join(os.path.dirname(path), ".dogpile")
        assert target.endswith("." + os.path.basename(path))
        making("x")(target)

    assert DataDirectory(path, 3600, creator).refresh()


def _makes_nothing(target: str) -> None:
    pass


def _makes_a_file(target: str) -> None:
    Path(target).touch()


def _makes_a_symlink(target: str) -> None:
    making("x")(target + ".real")
    os.symlink(target + ".real", target)


def _makes_a_fifo(target: str) -> None:
    os.mkfifo(target)


@both_layouts
@pytest.mark.parametrize("creator", [_makes_nothing, _makes_a_file, _makes_a_symlink, _makes_a_fifo])
def test_a_new_version_that_is_no_directory_is_refused_and_removed(
    path: str, layout: str, creator: Callable[[str], None]
) -> None:
    versions(path, 1, layout)
    datadir = DataDirectory(path, 3600, creator, validate=lambda target: pytest.fail("validated"))
    with pytest.raises(DatafileError) as caught:
        promptly(lambda: datadir.refresh(force=True))
    tells(caught.value, ".dogpile-new-", "Hint: ")
    assert text(path) == "1"
    assert hidden(path) == []


@pytest.mark.parametrize("creator", [_makes_a_file, _makes_a_symlink, _makes_a_fifo])
def test_the_error_for_a_new_version_that_is_no_directory_names_the_creator(
    path: str, creator: Callable[[str], None]
) -> None:
    with pytest.raises(DatafileError) as caught:
        DataDirectory(path, 3600, creator).refresh()
    tells(caught.value, "the creator made", repr(path))


@both_layouts
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_a_creators_error_reaches_its_caller_and_the_old_one_stays(
    path: str, layout: str, error: type[BaseException]
) -> None:
    datadir = versions(path, 1, layout)

    def creator(target: str) -> None:
        making("half")(target)
        Path(target + ".work").touch()
        raise error("mine")

    datadir._creator = creator
    with pytest.raises(error, match="mine"):
        datadir.refresh(force=True)
    assert (text(path), hidden(path), left_beside(path)) == ("1", [], [])
    assert datadir.status().generation == 1


@both_layouts
@pytest.mark.parametrize("verdict", [False, True, None])
def test_validate_is_asked_before_the_swap(path: str, layout: str, verdict: bool | None) -> None:
    versions(path, 1, layout)

    def validate(target: str) -> bool | None:
        assert (text(target), text(path)) == ("new", "1")
        return verdict

    datadir = DataDirectory(path, 3600, making("new"), validate=validate)
    if verdict is False:
        with pytest.raises(DatafileError, match="validate refused"):
            datadir.refresh(force=True)
    else:
        datadir.refresh(force=True)
    assert text(path) == ("1" if verdict is False else "new")
    assert hidden(path) == []


@both_layouts
def test_a_child_forked_inside_the_creator_puts_nothing_in_place_and_removes_nothing(
    path: str, layout: str
) -> None:
    me = os.getpid()
    lay(path, layout)

    def creator(target: str) -> None:
        making("parent's")(target)
        child = os.fork()
        if child:
            assert ended_well(child)
            assert text(target) == "parent's"

    datadir = DataDirectory(path, 3600, creator)
    try:
        datadir.refresh(force=True)
    finally:
        if os.getpid() != me:
            os._exit(0)
    assert opened(datadir) == "parent's"
    assert datadir.status().generation == 1


@pytest.mark.permissions
@both_layouts
def test_permission_bits_and_owner_of_the_directory_are_kept(path: str, layout: str) -> None:
    with umask(0o027):
        datadir = versions(path, 1, layout)
    assert f"{stat.S_IMODE(os.stat(path).st_mode):04o}" == "0750"
    os.chmod(path, 0o2705)
    if os.geteuid() == 0:
        os.chown(path, 1234, 5678)
    datadir.refresh(force=True)
    st = os.stat(path)
    assert f"{stat.S_IMODE(st.st_mode):04o}" == "2705"
    if os.geteuid() == 0:
        assert (st.st_uid, st.st_gid) == (1234, 5678)


@pytest.mark.permissions
@pytest.mark.parametrize("durable", [True, False])
def test_a_directory_may_hold_anything(path: str, durable: bool) -> None:
    def creator(target: str) -> None:
        making("x")(target)
        os.mkfifo(os.path.join(target, "fifo"))
        os.symlink("nowhere", os.path.join(target, "dangling"))
        os.symlink("..", os.path.join(target, "up"))
        if os.geteuid() == 0 or not durable:  # else it could not be opened to have it on the disk, which is told
            Path(target, "unreadable").touch(mode=0o200)
        Path(target, "-name\n").touch()

    datadir = DataDirectory(path, 3600, creator, durable=durable)
    for _ in range(2):
        promptly(lambda: datadir.refresh(force=True))
    assert opened(datadir) == "x"
    assert hidden(path) == []


# Between processes.


def _create_when_told(path: str, record: Record, what: str) -> None:
    def creator(target: str) -> None:
        making("half")(target)
        record.write("creating")
        record.wait("go on")
        shutil.rmtree(target)
        making(what)(target)

    DataDirectory(path, 3600, creator).refresh(force=True)


@both_layouts
@pytest.mark.parametrize("way", WAYS)
def test_a_stale_one_passes_while_another_process_creates(
    path: str, record: Record, processes: Processes, layout: str, way: Callable[[DataDirectory], str]
) -> None:
    datadir = versions(path, 1, layout)
    datadir._creator = unwanted
    datadir.invalidate()
    creating = processes.start(_create_when_told, path, record, "new")
    record.wait("creating")
    for _ in range(10):
        assert promptly(lambda: way(datadir)) == "1"
    assert not datadir.refresh()
    record.write("go on")
    processes.join(creating)
    assert way(datadir) == "new"


@pytest.mark.parametrize("way", WAYS)
def test_while_it_is_missing_all_callers_wait_for_the_one_that_creates(
    path: str, record: Record, processes: Processes, way: Callable[[DataDirectory], str]
) -> None:
    creating = processes.start(_create_when_told, path, record, "new")
    record.wait("creating")

    def use() -> None:
        assert way(DataDirectory(path, 3600, unwanted)) == "new"

    users = processes.start_many(3, use)
    wait_for(lambda: waiters_for(path + ".dogpile.lock") == 3, "three waiters")
    with pytest.raises(LockTimeout):
        way(DataDirectory(path, 3600, unwanted, timeout=0.02))
    with pytest.raises(LockTimeout):
        way(DataDirectory(path, 3600, timeout=0.02))
    record.write("go on")
    processes.join(creating, *users)


def _open_cold(path: str, record: Record, barrier: Any) -> None:
    def creator(target: str) -> None:
        record.write("create")
        making("x")(target)

    barrier.wait()
    assert opened(DataDirectory(path, 3600, creator)) in ("x", "plain")  # which is stale


@both_layouts
def test_of_twelve_that_start_cold_one_creates(
    path: str, record: Record, processes: Processes, layout: str
) -> None:
    lay(path, layout)
    barrier = multiprocessing.Barrier(12)
    processes.start_many(12, _open_cold, path, record, barrier)
    processes.join()
    wait_for(lambda: text(path) == "x", "the creation of what was stale")
    assert len(record.events("create")) == 1


def _read_in_a_loop(path: str, record: Record, stop: str) -> None:
    datadir = DataDirectory(path, 3600, unwanted, keep=1)
    record.write("reading")
    while not os.path.exists(stop):
        with datadir.open() as version:
            assert len({Path(version, name).read_text() for name in ("file", "sub/file", "file")}) == 1


@both_layouts
def test_readers_that_leave_remove_the_old_versions_without_harm_to_the_new_ones(
    path: str, record: Record, processes: Processes, layout: str
) -> None:
    datadir = versions(path, 1, layout, keep=1)
    readers = processes.start_many(3, _read_in_a_loop, path, record, path + ".stop")
    record.wait("reading", 3)
    for number in range(2, 32):
        datadir.refresh(force=True)
        assert text(path) == str(number)
        if number % 10 == 0:
            datadir.rollback()
            assert text(path) == str(number - 1)
    Path(path + ".stop").touch()
    processes.join(*readers)
    datadir.refresh(force=True)
    assert hidden(path) == ["31"]


def test_it_can_be_pickled_to_another_process(path: str, processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    datadir = DataDirectory(
        path, 60, _module_creator, validate=_module_validate, keep=2, durable=False, timeout=9,
        directory=tmp_path / "elsewhere", mode=0o600,
    )  # fmt: skip
    assert opened(datadir) == "module"
    copy: DataDirectory = pickle.loads(pickle.dumps(datadir))
    for name in ("_creator", "_validate", "_keep", "_durable", "_path", "_timeout"):
        assert getattr(copy, name) == getattr(datadir, name), name
    assert copy._dogpile.expiretime == 60
    processes.start(_use_pickled, pickle.dumps(datadir), method="spawn")
    processes.join()


def _module_creator(target: str) -> None:
    making("module")(target)


def _module_validate(target: str) -> None:
    pass


def _use_pickled(data: bytes) -> None:
    assert opened(pickle.loads(data)) == "module"


def test_acquiring_it_inside_its_first_creator_would_deadlock(path: str) -> None:
    datadir = DataDirectory(path, 3600, lambda target: print(opened(datadir)))
    with pytest.raises(WouldDeadlock):
        promptly(datadir.refresh)


# Links that others made.


@pytest.mark.parametrize("relative", [True, False])
def test_a_foreign_link_is_adopted_flipped_and_what_it_led_to_is_left_alone(
    tmp_path: Path, relative: bool
) -> None:
    making("foreign")(str(tmp_path / "elsewhere"))
    link = tmp_path / "link"
    link.symlink_to("elsewhere" if relative else tmp_path / "elsewhere")
    datadir = versions(str(link), 0, keep=1)
    assert opened(datadir) == "foreign"
    with datadir.open() as version:
        datadir.refresh(force=True)
        assert (text(version), opened(datadir)) == ("foreign", "1")
    datadir.refresh(force=True)
    assert text(str(tmp_path / "elsewhere")) == "foreign"
    assert hidden(str(link)) == ["1"]


@pytest.mark.parametrize("leads", ["nowhere", "to itself"])
def test_a_link_that_leads_nowhere_is_missing(path: str, leads: str) -> None:
    os.symlink("nowhere" if leads == "nowhere" else os.path.basename(path), path)
    if leads == "to itself":
        with pytest.raises(PathError):
            DataDirectory(path, 3600, unwanted)
        return
    datadir = versions(path, 0)
    assert datadir.status().state == "missing"
    assert opened(datadir) == "1"


@pytest.mark.parametrize("how", ["removed", "emptied"])
def test_a_version_that_another_program_removed_is_created_again(path: str, how: str) -> None:
    datadir = versions(path, 1)
    loaded(datadir)
    if how == "removed":
        shutil.rmtree(os.path.realpath(path))
    else:
        os.unlink(path)
    time.sleep(0.001)
    assert datadir.status().state == "missing"
    assert opened(datadir) == loaded(datadir) == text(path) == "2"
    assert hidden(path) == []


@both_layouts
def test_a_file_that_is_left_in_a_version_does_not_make_it_another(path: str, layout: str) -> None:
    datadir = versions(path, 2, layout)
    createdtime, version = datadir.status().createdtime, datadir._dogpile.version
    with datadir.open() as inside:
        Path(inside, "lock").touch()
    time.sleep(0.001)
    assert (datadir.status().createdtime, datadir._dogpile.version) == (createdtime, version)


def test_another_directory_with_the_inode_of_the_removed_one_is_another(path: str) -> None:
    datadir = versions(path, 2, "plain")
    assert loaded(datadir) == "2"
    inode = os.stat(path).st_ino
    for _ in range(200):
        shutil.rmtree(path)
        making("foreign")(path)
        if os.stat(path).st_ino == inode:
            break
    else:
        pytest.skip("this file system does not use inodes again")
    time.sleep(0.001)
    assert loaded(datadir) == "foreign"
    assert datadir.status().createdtime == pytest.approx(os.stat(path).st_mtime, abs=1e-3)


def test_where_a_plain_directory_has_no_name_that_stays_it_is_not_read(
    path: str, mounted: Callable[..., None]
) -> None:
    datadir = versions(path, 1, "plain")

    def read_without_proc() -> None:
        for use in (opened, loaded):
            with pytest.raises(DatafileError) as caught:
                use(datadir)
            tells(caught.value, repr(path), "/proc is not mounted", "Hint: mount it")
            assert str(caught.value).count("Hint") == 1
        assert opened(versions(path + ".link", 1)) == "1"

    mounted(Path("/proc"), "size=1m", read_without_proc)


def test_a_copy_of_a_version_is_another_whatever_it_has_been_marked_with(path: str) -> None:
    datadir = versions(path, 1)
    before = datadir._dogpile.version
    subprocess.run(["cp", "-a", os.path.realpath(path), path + ".copy"], check=True)
    os.unlink(path)
    os.rename(path + ".copy", path)
    time.sleep(0.001)
    assert datadir._dogpile.version != before


def test_a_link_that_was_set_back_by_hand_is_believed_and_the_later_version_is_dropped(path: str) -> None:
    # A creator that is killed before it flips the link leaves the same.
    datadir = versions(path, 2, keep=2)
    earlier = os.readlink(path)
    datadir.refresh(force=True)
    os.symlink(earlier, path + ".next")
    os.replace(path + ".next", path)
    time.sleep(0.001)
    assert opened(datadir) == loaded(datadir) == "2"
    datadir.refresh(force=True)
    assert (opened(datadir), hidden(path)) == ("4", ["1", "2"])
    for expected in ("2", "1"):
        datadir.rollback()
        assert opened(datadir) == expected
    with pytest.raises(DatafileError):
        datadir.rollback()


def test_links_among_the_parents_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "home").symlink_to("real")
    datadir = versions(str(tmp_path / "home" / "index"), 2, keep=1)
    assert opened(datadir) == opened(DataDirectory(tmp_path / "real" / "index", 3600, unwanted)) == "2"
    assert hidden(str(tmp_path / "real" / "index")) == ["1"]
    assert os.path.islink(tmp_path / "home")


def test_a_parent_that_is_pointed_elsewhere_is_another_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "home").symlink_to("one")
    datadir = versions(str(tmp_path / "home" / "index"), 1)
    with datadir.open() as version:
        (tmp_path / "next").symlink_to("two")
        os.replace(tmp_path / "next", tmp_path / "home")
        time.sleep(0.02)  # for as long as a kept descriptor of the sidecar is believed
        assert opened(datadir) == "2"
        assert text(version) == "1"
    assert text(str(tmp_path / "one" / "index")) == "1"


# Something else at the path.


def _replaced_by(path: str, make: Callable[[str], object]) -> DataDirectory:
    datadir = versions(path, 1)
    os.unlink(path)
    make(path)
    time.sleep(0.001)
    return datadir


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).touch()], ids=["fifo", "file"])
def test_a_path_that_is_no_directory_is_neither_replaced_nor_read_and_nothing_piles_up(
    path: str, make: Callable[[str], object]
) -> None:
    datadir = _replaced_by(path, make)
    before = os.lstat(path)
    for _ in range(3):
        for use in (lambda: datadir.refresh(force=True), lambda: opened(datadir), lambda: loaded(datadir)):
            with pytest.raises(DogpileError) as caught:
                promptly(use)
            tells(caught.value, repr(path))
    assert (os.lstat(path).st_mode, os.lstat(path).st_ino) == (before.st_mode, before.st_ino)
    assert len(hidden(path)) <= 1  # the version that was there


def test_a_plain_directory_that_comes_during_the_creation_changes_places(path: str) -> None:
    def creator(target: str) -> None:
        making("new")(target)
        making("plain")(path)

    datadir = DataDirectory(path, 3600, creator, keep=1)
    datadir.refresh()
    assert text(path) == "new"
    assert not os.path.islink(path)
    datadir.rollback()
    assert opened(datadir) == "plain"


def test_an_empty_directory_is_a_version_like_any_other(path: str) -> None:
    os.mkdir(path)
    datadir = versions(path, 0)
    with datadir.open() as version:
        assert os.listdir(version) == []
        datadir.refresh(force=True)
        assert os.listdir(version) == []
    assert opened(datadir) == "1"


# keep and rollback.


@both_layouts
@pytest.mark.parametrize("keep", [0, 1, 2, 9])
def test_as_many_earlier_versions_are_kept_as_asked_for(path: str, layout: str, keep: int) -> None:
    datadir = versions(path, 4, layout, keep=keep)
    earlier = (["plain"] if layout == "plain" else []) + ["1", "2", "3"]
    assert hidden(path) == sorted(earlier[max(0, len(earlier) - keep) :])
    for expected in earlier[::-1][:keep]:
        datadir.rollback()
        assert opened(datadir) == loaded(datadir) == text(path) == expected
        assert datadir.status().state == "fresh"
    with pytest.raises(DatafileError) as caught:
        datadir.rollback()
    assert caught.value.errno == errno.ENOENT
    tells(caught.value, repr(path), "no earlier version", "Hint: ")
    assert hidden(path) == []


@both_layouts
def test_after_a_rollback_creations_go_on_keeping(path: str, layout: str) -> None:
    datadir = versions(path, 3, layout, keep=2)
    datadir.rollback()
    datadir.refresh(force=True)
    assert opened(datadir) == "4"
    for expected in ("2", "1"):
        datadir.rollback()
        assert opened(datadir) == expected


@both_layouts
def test_a_version_goes_with_its_last_reader_though_those_between_are_gone(path: str, layout: str) -> None:
    datadir = versions(path, 2, layout, keep=1)
    with datadir.open() as inside:
        for _ in range(3):
            datadir.refresh(force=True)
        assert text(inside) == "2"
        assert hidden(path) == ["2", "4"]
    assert hidden(path) == ["4"]


@both_layouts
@pytest.mark.parametrize("error", [OSError(errno.EIO, "no look is possible"), KeyboardInterrupt()], ids=type)
def test_an_error_right_after_the_swap_leaves_the_version_before_it(
    path: str, layout: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    datadir = versions(path, 2, layout, keep=1)

    def fails(*_: object) -> None:
        monkeypatch.undo()
        raise error

    monkeypatch.setattr("dogpile_fs._datafile.datadirectory.fingerprint_of", fails)
    with pytest.raises(type(error)):
        datadir.refresh(force=True)
    assert text(path) == "3"
    datadir.rollback()
    assert text(path) == "2"


@pytest.mark.parametrize("call", ["exchange", "rename"])
def test_an_interrupt_at_the_swap_of_a_plain_directory_leaves_the_version_before_it(
    path: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    datadir, real = versions(path, 2, "plain", keep=1), getattr(swap, call)

    def interrupted(new: str, old: str) -> None:
        real(new, old)
        if call == "exchange" or ".dogpile-dir-" in old:
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(swap, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        datadir.refresh(force=True)
    now = text(path)
    assert now == ("2" if call == "exchange" else "3")
    datadir.rollback()
    assert text(path) == ("1" if now == "2" else "2")


@both_layouts
def test_a_rollback_goes_past_a_kept_version_that_was_removed_by_hand(path: str, layout: str) -> None:
    datadir = versions(path, 5, layout, keep=3)
    for name in os.listdir(os.path.dirname(path)):
        there = os.path.join(os.path.dirname(path), name)
        if name.startswith(".dogpile-dir-") and text(there) in ("4", "3"):
            shutil.rmtree(there)
    datadir.rollback()
    assert opened(datadir) == "2"


@both_layouts
def test_a_rollback_while_a_reader_is_in_what_it_drops_does_not_come_back_to_that(path: str, layout: str) -> None:
    datadir = versions(path, 3, layout, keep=3)
    with datadir.open() as version:
        datadir.rollback()
        assert (opened(datadir), text(version)) == ("2", "3")
        datadir.rollback()
        assert (opened(datadir), text(version)) == ("1", "3")
    assert "3" not in hidden(path)
    assert "2" not in hidden(path)


@both_layouts
def test_a_dropped_version_does_not_count_among_those_to_keep(path: str, layout: str) -> None:
    datadir = versions(path, 4, layout, keep=2)
    with datadir.open():
        datadir.rollback()
        datadir.refresh(force=True)  # version 5, on 3
    datadir.refresh(force=True)
    assert opened(datadir) == "6"
    for expected in ("5", "3"):
        datadir.rollback()
        assert opened(datadir) == expected


@both_layouts
def test_a_rollback_to_a_version_that_readers_are_still_in(path: str, layout: str) -> None:
    datadir = versions(path, 1, layout, keep=1)
    with datadir.open() as version:
        datadir.refresh(force=True)
        datadir.rollback()
        assert opened(datadir) == text(version) == text(path) == "1"
        datadir.refresh(force=True)
        assert (opened(datadir), text(version)) == ("3", "1")
    assert text(path) == "3"


@both_layouts
def test_a_rollback_when_the_current_version_was_removed(path: str, layout: str) -> None:
    datadir = versions(path, 3, layout, keep=1)
    if layout == "link":
        os.unlink(path)
    else:
        shutil.rmtree(path)
    datadir.rollback()
    # The last that was there but for the current one; where that cannot be told any more, it itself.
    assert opened(datadir) in ("2", "3")


# What a killed creator leaves.


@both_layouts
def test_what_a_killed_creator_left_is_removed_by_the_next(
    path: str, record: Record, processes: Processes, layout: str
) -> None:
    datadir = versions(path, 1, layout)
    for number in range(3):
        victim = processes.start(_create_when_told, path, record, "new")
        record.wait("creating", number + 1)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        assert hidden(path) == ["half"]
        assert opened(datadir) == "1"
    datadir.refresh(force=True)
    assert (opened(datadir), hidden(path), left_beside(path)) == ("2", [], [])


@both_layouts
def test_a_creator_that_was_killed_after_validating_costs_one_creation(
    path: str, record: Record, processes: Processes, layout: str
) -> None:
    def validate(target: str) -> None:
        record.write("validating")
        time.sleep(3600)

    datadir = versions(path, 1, layout, keep=1)
    victim = processes.start(lambda: DataDirectory(path, 3600, making("x"), validate=validate).refresh(force=True))
    record.wait("validating")
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    assert datadir.status().failed_pid == victim.pid
    datadir.refresh(force=True)
    assert (opened(datadir), hidden(path)) == ("2", ["1"])


def _places(path: str) -> tuple[str, str]:
    begin, end = temp_affixes("dir", path)
    return os.path.join(os.path.dirname(path), begin), end


def test_a_creator_that_was_killed_between_exchange_and_rename_left_the_old_version_which_goes(path: str) -> None:
    datadir = versions(path, 1, "plain")
    target = f"{_places(path)[0].replace('-dir-', '-new-')}abcd{_places(path)[1]}"
    making("new")(target)
    swap.exchange(target, path)
    time.sleep(0.001)
    assert opened(datadir) == "new"
    datadir.refresh(force=True)
    assert (opened(datadir), hidden(path)) == ("2", [])


@pytest.mark.parametrize("kind", ["new", "old"])
def test_one_who_was_killed_while_he_removed_left_what_the_next_removes(path: str, kind: str) -> None:
    datadir = versions(path, 1)
    half = f"{_places(path)[0].replace('-dir-', f'-{kind}-')}abcd{_places(path)[1]}"
    os.mkdir(half)
    Path(half, "file").touch()
    datadir.refresh(force=True)
    assert left_beside(path) == []
    assert not os.path.exists(half)


def test_foreign_things_under_names_of_versions_do_no_harm(path: str) -> None:
    datadir = versions(path, 1)
    begin, end = _places(path)
    outside = os.path.join(os.path.dirname(path), "outside")
    making("outside")(outside)
    os.symlink("outside", f"{begin}7-6{end}")
    os.symlink("nowhere", f"{begin}8-7{end}")
    Path(f"{begin}9-8{end}").touch()
    os.mkdir(f"{begin}x{end}")
    for number in ("2", "3"):
        datadir.refresh(force=True)
        assert opened(datadir) == number
    assert text(outside) == "outside"


def test_one_name_that_begins_like_another_shares_nothing_with_it(tmp_path: Path) -> None:
    names = ["index", "index.", "index.old", ".index", "dex"]
    datadirs = [versions(str(tmp_path / name), 2, keep=1) for name in names]
    for datadir in datadirs:
        datadir.refresh(force=True)
        datadir.rollback()
    assert [opened(datadir) for datadir in datadirs] == ["2"] * 5
    assert len([name for name in os.listdir(tmp_path) if name.startswith(".dogpile-")]) == 5


def test_two_directories_that_a_link_makes_one_leave_each_others_work_alone(tmp_path: Path) -> None:
    making("old")(str(tmp_path / "index"))
    (tmp_path / "link").symlink_to("index")

    def by_the_link(target: str) -> None:
        making("by the link")(target)
        DataDirectory(tmp_path / "index", 3600, making("by itself")).refresh(force=True)
        assert text(target) == "by the link"

    DataDirectory(tmp_path / "link", 3600, by_the_link).refresh(force=True)
    assert (text(str(tmp_path / "link")), text(str(tmp_path / "index"))) == ("by the link", "by itself")


# Replaced by another program, adopted.


@both_layouts
@pytest.mark.parametrize(("age", "state"), [(10, "fresh"), (7200, "stale"), (None, "stale"), (-3600, "stale")])
def test_a_directory_without_a_sidecar_is_adopted_with_its_mtime(
    path: str, layout: str, age: float | None, state: str
) -> None:
    making("shipped")(path if layout == "plain" else path + ".1")
    if layout == "link":
        os.symlink(path + ".1", path)
    when = 0 if age is None else time.time() - age
    os.utime(path, (when, when))
    datadir = DataDirectory(path, 3600, making("new"))
    assert datadir.status().state == state
    assert datadir.status().createdtime == pytest.approx(max(when, 1))
    assert opened(datadir) == ("shipped" if state == "fresh" else "new")


@both_layouts
def test_a_directory_that_was_replaced_behind_our_back_counts_by_its_own_mtime(path: str, layout: str) -> None:
    datadir = versions(path, 1, layout)
    assert loaded(datadir) == "1"
    making("foreign")(path + ".foreign")
    os.utime(path + ".foreign", (1000, 1000))
    if layout == "link":
        os.unlink(path)
    else:
        shutil.rmtree(path)
    os.rename(path + ".foreign", path)
    time.sleep(0.001)
    assert (datadir.status().state, datadir.status().createdtime) == ("stale", 1000)
    assert opened(datadir) == loaded(datadir) == "2"


@both_layouts
def test_what_a_reader_leaves_in_it_does_not_make_it_another(path: str, layout: str) -> None:
    datadir = versions(path, 1, layout)
    objects = [datadir.load(_load_a_list)]
    before = datadir.status()
    Path(path, "core").touch()
    os.mkdir(os.path.join(path, "__pycache__"))
    time.sleep(0.001)
    objects.append(datadir.load(_load_a_list))
    after = datadir.status()
    assert (after.createdtime, after.pid) == (before.createdtime, os.getpid())
    assert objects[0] is objects[1]


def _load_a_list(version: str) -> list[str]:
    return os.listdir(version)


# Permissions, room, descriptors.


def test_a_version_that_its_creator_made_read_only_is_removed_too(unprivileged: Unprivileged) -> None:
    unprivileged.writable()

    def swap_read_only_trees() -> None:
        def creator(target: str) -> None:
            making("x")(target)
            os.chmod(os.path.join(target, "sub"), 0o555)

        datadir = DataDirectory(unprivileged.path, 3600, creator)
        try:
            for _ in range(3):
                datadir.refresh(force=True)
            assert left_beside(unprivileged.path) == []
        finally:
            subprocess.run(["chmod", "-Rf", "u+rwx", str(unprivileged.directory)], check=False)

    unprivileged.run(swap_read_only_trees)


def test_a_directory_that_may_not_be_written_is_an_error(unprivileged: Unprivileged) -> None:
    unprivileged.writable()
    versions(unprivileged.path, 1)
    for name in (".dogpile", ".dogpile.lock"):
        os.chmod(unprivileged.path + name, 0o666)
    unprivileged.read_only()

    def use() -> None:
        datadir = DataDirectory(unprivileged.path, 3600, making("x"))
        assert opened(datadir) == loaded(datadir) == "1"
        with pytest.raises(OSError, match="Permission denied"):
            datadir.refresh(force=True)
        assert opened(datadir) == "1"

    unprivileged.run(use)


def test_a_version_that_this_user_may_not_enter_is_an_error(unprivileged: Unprivileged) -> None:
    unprivileged.writable()
    versions(unprivileged.path, 1)
    os.chmod(os.path.realpath(unprivileged.path), 0)

    def read_in_vain() -> None:
        with pytest.raises(DatafileError) as caught:
            opened(DataDirectory(unprivileged.path, 3600))
        assert caught.value.errno == errno.EACCES

    unprivileged.run(read_in_vain)
    os.chmod(os.path.realpath(unprivileged.path), 0o755)  # so that it can be removed


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_parent_that_may_not_be_listed_is_told_or_will_do_but_nothing_piles_up(
    unprivileged: Unprivileged, layout: str
) -> None:
    unprivileged.writable()
    unprivileged.run(lambda: lay(unprivileged.path, layout))
    unprivileged.directory.chmod(0o333)

    def create_twice() -> None:
        datadir = DataDirectory(unprivileged.path, 3600, Numbered())
        for _ in range(3):
            with suppress(DogpileError):
                datadir.refresh(force=True)

    unprivileged.run(create_twice)
    unprivileged.directory.chmod(0o777)
    assert len(hidden(unprivileged.path)) <= 1


@both_layouts
def test_a_mount_point_is_an_error(mounted: Callable[..., None], tmp_path: Path, layout: str) -> None:
    place = tmp_path / "mount"

    def create_in_vain() -> None:
        path = str(place)
        making("old")(path)
        with pytest.raises(DatafileError) as caught:
            DataDirectory(path, 3600, making("new")).refresh(force=True)
        tells(caught.value, repr(path))
        assert text(path) == "old"
        assert left_beside(path) == []

    def making(what: str) -> Callable[[str], None]:
        def creator(target: str) -> None:
            os.makedirs(os.path.join(target, "sub"))
            for name in ("file", "sub/file"):
                Path(target, name).write_text(what)

        return creator

    mounted(place, "size=1m", create_in_vain)


@both_layouts
def test_with_too_few_descriptors_it_says_so_and_leaves_nothing(path: str, layout: str) -> None:
    datadir = versions(path, 1, layout)
    datadir._creator, datadir._durable = os.mkdir, True
    survives_few_descriptors(lambda: datadir.refresh(force=True))
    assert left_beside(path) == []
    survives_few_descriptors(lambda: datadir.open().__enter__() and None)


def test_a_version_that_another_program_keeps_locked_holds_up_no_reader_beyond_its_timeout(
    path: str, record: Record, processes: Processes
) -> None:
    versions(path, 1)

    def lock() -> None:
        fd = os.open(os.path.realpath(path), os.O_RDONLY)
        flock(fd, LOCK_EX)
        record.write("locked")
        record.wait("unlock")
        flock(fd, LOCK_UN)

    locking = processes.start(lock)
    record.wait("locked")
    outcome: list[object] = []

    def read() -> None:
        try:
            outcome.append(opened(DataDirectory(path, 3600, unwanted, timeout=0.05)))
        except BaseException as error:
            outcome.append(error)

    reading = threading.Thread(target=read)
    reading.start()
    reading.join(1)
    in_time = not reading.is_alive()
    record.write("unlock")
    processes.join(locking)
    reading.join()
    assert in_time, outcome
    assert outcome == ["1"] or isinstance(outcome[0], DogpileError)


# The Dogpile under it.


def test_the_dogpile_under_it_is_the_public_one(path: str) -> None:
    datadir = versions(path, 1)
    assert type(datadir._dogpile) is Dogpile
    assert datadir._dogpile.path == path
    assert repr(datadir) == f"DataDirectory({path!r}, 3600.0)"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as another user")
@pytest.mark.parametrize("is_member", [True, False])
def test_a_version_keeps_the_setgid_bit_of_another_users_version_with_its_group(
    tmp_path: Path, is_member: bool
) -> None:
    place, group, other = tmp_path / "place", 54321, 54322
    for directory in (tmp_path, *tmp_path.parents):
        if not directory.stat().st_mode & stat.S_IXOTH:
            directory.chmod(directory.stat().st_mode | stat.S_IXOTH)
    place.mkdir()
    place.chmod(0o777)
    path = place / "version"
    path.mkdir()
    os.chown(path, 0, group)
    path.chmod(0o2775)

    def replace_as_another_user() -> None:
        os.setgroups([group if is_member else other])
        os.setresgid(other, other, other)
        os.setresuid(65534, 65534, 65534)
        DataDirectory(path, 3600, os.mkdir).refresh(force=True)

    assert ended_well(in_child(replace_as_another_user))
    found = path.stat()
    # Without the group, its permissions are those of all others, and new files must not get another one.
    expected = (65534, group, 0o2775) if is_member else (65534, other, 0o755)
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == expected


def test_a_version_keeps_the_setgid_bit_of_an_own_version(tmp_path: Path) -> None:
    path = tmp_path / "version"
    directory = DataDirectory(path, 3600, os.mkdir)
    directory.refresh()
    path.chmod(0o2750)
    for _ in range(2):
        directory.refresh(force=True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o2750
