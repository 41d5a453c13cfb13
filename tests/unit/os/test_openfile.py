"""Coordination files: opened with care, and noticed when they are gone."""

from __future__ import annotations

import errno
import fcntl
import gc
import logging
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import Datafile, FileMutex, LockFileError, ReadWriteFileLock, SyncReaderDogpile
from dogpile_fs._os.openfile import OpenFile, _remove_obstacle, open_regular
from tests.support.processes import PATIENCE, Processes, Record, ended_well, in_child, wait_for


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "dogpile_fs")
    return caplog


def is_free(path: str) -> bool:
    """Whether a new description of the file at *path* could lock it."""
    fd = os.open(path, os.O_RDWR)
    try:
        flock(fd, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def identity_at(path: str) -> tuple[int, int]:
    """Device and inode of the file at *path*."""
    st = os.stat(path, follow_symlinks=False)
    return st.st_dev, st.st_ino


def descriptors_of(path: str) -> int:
    """How many descriptors this process has open on the file at *path*."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{fd}") == path
    return count


# Opening.


@pytest.mark.parametrize("access", [os.O_RDONLY, os.O_RDWR])
def test_a_missing_file_is_made_and_an_existing_one_is_opened(path: str, access: int) -> None:
    for _ in range(2):
        open_file = open_regular(OpenFile(path), access, create=True)
        assert stat.S_ISREG(os.fstat(open_file.fd).st_mode)
        assert fcntl.fcntl(open_file.fd, fcntl.F_GETFL) & os.O_ACCMODE == access


def test_opening_a_file_leaves_its_contents(path: str) -> None:
    Path(path).write_text("something")
    open_regular(OpenFile(path), os.O_RDWR, 0o600, create=True).close()
    assert Path(path).read_text() == "something"


def test_a_missing_file_is_not_made_with_create_false(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        open_regular(OpenFile(path), os.O_RDWR, create=False)
    with pytest.raises(FileNotFoundError):
        OpenFile.of_lock_file(path, create=False)
    assert not os.path.exists(path)


def test_a_descriptor_does_not_survive_an_exec(path: str) -> None:
    assert not os.get_inheritable(open_regular(OpenFile(path), os.O_RDWR, create=True).fd)
    assert not os.get_inheritable(OpenFile.of_lock_file(path).fd)


@pytest.mark.parametrize(
    ("mode", "umask", "expected"), [(0o640, 0o077, 0o640), (None, 0o027, 0o640), (0o666, 0o022, 0o666)]
)
def test_a_new_file_has_the_given_permissions_or_what_the_umask_leaves(
    path: str, mode: int | None, umask: int, expected: int
) -> None:
    before = os.umask(umask)
    try:
        open_file = OpenFile.of_lock_file(path, mode)
    finally:
        os.umask(before)
    assert f"{stat.S_IMODE(os.fstat(open_file.fd).st_mode):04o}" == f"{expected:04o}"
    OpenFile.of_lock_file(path, 0o600)
    assert f"{stat.S_IMODE(os.fstat(open_file.fd).st_mode):04o}" == f"{expected:04o}", "changed by opening"


def test_processes_that_open_a_missing_file_at_once_open_the_same(
    path: str, record: Record, processes: Processes
) -> None:
    def be_among_the_first() -> None:
        record.write("ready")
        record.wait("go")
        for number in range(30):
            open_file = OpenFile.of_lock_file(f"{path}.{number}", 0o640)
            record.write("opened", number=number, identity=open_file.identity, kept=os.dup(open_file.fd))

    processes.start_many(4, be_among_the_first)
    record.wait("ready", 4)
    record.write("go")
    processes.join()
    for number in range(30):
        opened = {tuple(e.more["identity"]) for e in record.events("opened") if e.more["number"] == number}
        assert opened == {identity_at(f"{path}.{number}")}


# What is no regular file.


def _fifo(path: str) -> None:
    os.mkfifo(path)


def _socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # The name of a socket may be 107 bytes long, which a test's directory may exceed.
        here = os.open(".", os.O_RDONLY)
        os.chdir(os.path.dirname(path))
        try:
            server.bind(os.path.basename(path))
        finally:
            os.fchdir(here)
            os.close(here)


def _dangling_link(path: str) -> None:
    os.symlink("nowhere", path)


def _link_to_itself(path: str) -> None:
    os.symlink(path, path)


def _link_to_a_file(path: str) -> None:
    Path(path + ".victim").write_text("precious")
    os.symlink(path + ".victim", path)


def _link_to_a_directory(path: str) -> None:
    os.symlink(os.path.dirname(path), path)


FOREIGN = [_fifo, _socket, _dangling_link, _link_to_itself, _link_to_a_file, _link_to_a_directory]


@pytest.mark.parametrize("access", [os.O_RDONLY, os.O_RDWR])
@pytest.mark.parametrize("make_obstacle", FOREIGN)
def test_what_is_no_regular_file_is_removed_and_told(
    make_obstacle: Callable[[str], None], access: int, path: str, logged: pytest.LogCaptureFixture
) -> None:
    make_obstacle(path)
    open_file = open_regular(OpenFile(path), access, create=True)
    assert stat.S_ISREG(os.lstat(path).st_mode)
    assert os.path.samestat(os.fstat(open_file.fd), os.lstat(path))
    assert len(logged.messages) == 1, logged.messages
    assert repr(path) in logged.messages[0]
    assert not os.path.lexists(os.path.join(os.path.dirname(path), "nowhere"))
    if make_obstacle is _link_to_a_file:
        assert Path(path + ".victim").read_text() == "precious"


@pytest.mark.parametrize("make_obstacle", FOREIGN)
def test_what_is_no_regular_file_is_removed_even_by_who_would_not_make_one(
    make_obstacle: Callable[[str], None], path: str
) -> None:
    make_obstacle(path)
    with pytest.raises(FileNotFoundError):
        open_regular(OpenFile(path), os.O_RDONLY, create=False)
    assert not os.path.lexists(path)


@pytest.mark.parametrize("make_obstacle", FOREIGN)
def test_what_is_no_regular_file_is_removed_in_the_current_directory_as_well(
    make_obstacle: Callable[[str], None], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_obstacle(path)
    monkeypatch.chdir(os.path.dirname(path))
    open_file = OpenFile.of_lock_file(os.path.basename(path))
    assert open_file.is_at_its_path()
    assert stat.S_ISREG(os.lstat(path).st_mode)


def test_a_directory_is_never_removed(path: str, logged: pytest.LogCaptureFixture) -> None:
    os.mkdir(path)
    for access in (os.O_RDONLY, os.O_RDWR):
        with pytest.raises(IsADirectoryError):
            open_regular(OpenFile(path), access, create=True)
    with pytest.raises(LockFileError) as caught:
        OpenFile.of_lock_file(path)
    assert caught.value.errno == errno.EISDIR
    assert repr(path) in str(caught.value)
    assert "Hint: move the directory away" in str(caught.value)
    assert os.path.isdir(path)
    assert logged.messages == []


def test_of_many_who_see_a_symbolic_link_none_removes_what_another_has_made_since(
    path: str, record: Record, processes: Processes
) -> None:
    rounds = 30

    def open_in_each_round() -> None:
        for number in range(rounds):
            while not os.path.lexists(f"{path}.{number}"):
                os.sched_yield()
            open_file = OpenFile.of_lock_file(f"{path}.{number}")
            record.write("opened", number=number, identity=open_file.identity, kept=os.dup(open_file.fd))

    processes.start_many(3, open_in_each_round)
    for number in range(rounds):
        os.symlink("nowhere", f"{path}.{number}")
        record.wait("opened", 3 * (number + 1))
    processes.join()
    for number in range(rounds):
        opened = {tuple(e.more["identity"]) for e in record.events("opened") if e.more["number"] == number}
        assert opened == {identity_at(f"{path}.{number}")}, f"round {number}"


def test_who_comes_to_remove_a_symbolic_link_and_finds_a_file_leaves_it(path: str) -> None:
    Path(path).write_text("made by another since")
    _remove_obstacle(path)
    assert Path(path).read_text() == "made by another since"


def test_only_one_removes_at_a_time_and_the_others_look_again(path: str) -> None:
    os.mkfifo(path)
    fd = os.open(os.path.dirname(path), os.O_RDONLY)
    flock(fd, LOCK_EX)
    _remove_obstacle(path)
    assert os.path.lexists(path)
    os.close(fd)
    _remove_obstacle(path)
    assert not os.path.lexists(path)


def test_who_waits_for_another_to_remove_it_keeps_nobody_from_forking(
    path: str, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = threading.Event()
    sleep = time.sleep

    def sleep_and_tell(seconds: float) -> None:
        waits.set()
        sleep(seconds)

    monkeypatch.setattr("dogpile_fs._os.openfile.time.sleep", sleep_and_tell)
    os.mkfifo(path)
    fd = os.open(os.path.dirname(path), os.O_RDONLY)
    flock(fd, LOCK_EX)
    opened: list[OpenFile] = []
    opening = threading.Thread(target=lambda: opened.append(OpenFile.of_lock_file(path)))
    opening.start()
    assert waits.wait(PATIENCE)
    processes.start(os.getpid)
    processes.join()
    assert opening.is_alive()
    os.close(fd)
    opening.join(PATIENCE)
    assert opened
    assert opened[0].is_at_its_path()


def test_who_finds_something_foreign_at_every_look_gives_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced = threading.Event()

    def replace_again(message: object, *args: object) -> None:
        os.mkfifo(path)
        replaced.set()

    # Called after each removal: another program that is always quicker.
    monkeypatch.setattr(logging.getLogger("dogpile_fs"), "warning", replace_again)
    os.mkfifo(path)
    with pytest.raises(LockFileError) as caught:
        OpenFile.of_lock_file(path)
    assert replaced.is_set()
    assert repr(path) in str(caught.value)
    assert "another process keeps replacing it" in str(caught.value)


def test_a_missing_directory_is_an_error_with_a_cure(path: str) -> None:
    with pytest.raises(LockFileError) as caught:
        OpenFile.of_lock_file(path + "/lock")
    assert caught.value.errno == errno.ENOENT
    assert repr(path + "/lock") in str(caught.value)
    assert "Hint: make the directory first" in str(caught.value)


def test_a_file_in_place_of_the_directory_is_an_error_with_a_cure(path: str) -> None:
    Path(path).touch()
    with pytest.raises(LockFileError) as caught:
        OpenFile.of_lock_file(path + "/lock")
    assert caught.value.errno == errno.ENOTDIR
    assert "Hint: name a path whose parents are directories" in str(caught.value)


# Identity.


def test_a_description_knows_whether_it_still_is_the_file_at_its_path(path: str) -> None:
    open_file = OpenFile.of_lock_file(path)
    assert open_file.is_at_its_path()
    assert open_file.identity == identity_at(path)
    os.rename(path, path + ".old")
    assert not open_file.is_at_its_path()
    other = OpenFile.of_lock_file(path)
    assert not open_file.is_at_its_path()
    assert other.is_at_its_path()
    os.replace(path + ".old", path)
    assert open_file.is_at_its_path()
    assert not other.is_at_its_path()


def test_a_deleted_and_remade_file_is_another_as_long_as_the_description_is_open(path: str) -> None:
    for _ in range(50):
        open_file = OpenFile.of_lock_file(path)
        os.unlink(path)
        assert not open_file.is_at_its_path()
        Path(path).touch()
        assert not open_file.is_at_its_path()


def test_a_symbolic_link_to_the_file_is_not_the_file(path: str) -> None:
    open_file = OpenFile.of_lock_file(path)
    os.rename(path, path + ".old")
    os.symlink(path + ".old", path)
    assert not open_file.is_at_its_path()


def test_a_description_is_not_at_a_path_where_there_is_nothing_nor_anywhere_once_it_is_closed(path: str) -> None:
    open_file = OpenFile.of_lock_file(path)
    assert open_file.is_at(path)
    assert not open_file.is_at(path + ".missing")
    assert not open_file.is_at(path + "/beneath")
    open_file.close()
    assert not open_file.is_at(path)


# Closing.


def test_a_description_is_closed_once_and_then_never_another_of_the_same_number(path: str) -> None:
    open_file = OpenFile.of_lock_file(path)
    number = open_file.fd
    open_file.close()
    assert open_file.fd == -1
    other = os.open(path, os.O_RDONLY)
    assert other == number, "the test is pointless unless the number was used again"
    open_file.close()
    del open_file
    os.fstat(other)
    os.close(other)


def test_a_dropped_description_is_closed_and_its_lock_given_back(path: str) -> None:
    open_file = OpenFile.of_lock_file(path)
    flock(open_file.fd, LOCK_EX)
    assert not is_free(path)
    del open_file
    assert is_free(path)
    assert descriptors_of(path) == 0


# Forks.


def test_a_child_closes_its_copy_without_unlocking_its_parents(path: str, processes: Processes) -> None:
    open_file = OpenFile.of_lock_file(path)
    flock(open_file.fd, LOCK_EX)

    def in_the_child() -> None:
        assert open_file.fd == -1
        assert descriptors_of(path) == 0
        assert not is_free(path)

    processes.start(in_the_child)
    processes.join()
    assert not is_free(path)
    flock(open_file.fd, LOCK_EX | LOCK_NB)


def test_a_child_that_lives_on_does_not_keep_a_lock_that_its_parent_closes(
    path: str, record: Record, processes: Processes
) -> None:
    open_file = OpenFile.of_lock_file(path)
    flock(open_file.fd, LOCK_EX)

    def live_on() -> None:
        record.write("alive")
        record.wait("enough")

    processes.start(live_on)
    record.wait("alive")
    open_file.close()
    assert is_free(path)
    record.write("enough")
    processes.join()


def test_a_lock_is_given_back_when_its_process_is_killed_though_its_child_lives_on(
    path: str, record: Record, processes: Processes
) -> None:
    def live_on() -> None:
        record.write("alive")
        record.wait("enough")

    def lock_and_fork() -> None:
        open_file = OpenFile.of_lock_file(path)
        flock(open_file.fd, LOCK_EX)
        if os.fork() == 0:
            live_on()
            os._exit(0)
        record.wait("enough")

    holder = processes.start(lock_and_fork)
    record.wait("alive")
    try:
        assert not is_free(path)
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        wait_for(lambda: is_free(path), "the lock", 10)
    finally:
        record.write("enough")


@pytest.mark.forks_among_threads
def test_no_child_that_lives_on_keeps_a_lock_that_was_given_back(path: str, processes: Processes) -> None:
    enough = threading.Event()

    def lock_and_give_back() -> None:
        while not enough.is_set():
            open_file = OpenFile.of_lock_file(path)
            with suppress(BlockingIOError):
                flock(open_file.fd, LOCK_EX | LOCK_NB)
            open_file.give_back()

    read, write = os.pipe()

    def in_the_child() -> None:
        os.close(write)
        os.read(read, 1)  # until the parent has looked

    threads = [threading.Thread(target=lock_and_give_back) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        processes.start_many(25, in_the_child)
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    open_file = OpenFile.of_lock_file(path)
    flock(open_file.fd, LOCK_EX | LOCK_NB)
    open_file.give_back()
    os.close(write)
    os.close(read)
    processes.join()


def test_a_child_opens_descriptions_of_its_own_and_its_children_close_those(
    path: str, processes: Processes
) -> None:
    def in_the_grandchild() -> None:
        assert descriptors_of(path) == 0

    def in_the_child() -> None:
        open_file = OpenFile.of_lock_file(path)
        flock(open_file.fd, LOCK_EX | LOCK_NB)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                in_the_grandchild()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert not is_free(path)

    processes.start(in_the_child)
    processes.join()
    assert is_free(path)


def test_who_meets_another_that_removes_what_is_foreign_waits_for_him_longer_than_a_moment(path: str) -> None:
    """Found by the campaign: the other process was slow, and all that came meanwhile got an error."""
    os.mkfifo(path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        threading.Timer(0.5, fcntl.flock, (directory, fcntl.LOCK_UN)).start()
        OpenFile.of_lock_file(path).close()
    finally:
        os.close(directory)
    assert os.path.isfile(path)


def test_a_file_that_is_removed_while_a_fork_has_it_opened_anew_is_made_again(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def forks() -> int:
        asked.append(1)
        if len(asked) == 3:
            os.unlink(path)  # another program, while another thread forks
        return int(len(asked) >= 3)

    monkeypatch.setattr("dogpile_fs._os.fork.forks", forks)
    file = open_regular(OpenFile(path), os.O_RDWR, create=True)
    assert file.is_at_its_path()
    with pytest.raises(FileNotFoundError):
        OpenFile(path + ".missing").open(os.O_RDWR)


# Descriptors that another part of the program has closed.


def _close_all_and_open_others(path: str) -> list[int]:
    """Close every descriptor of this process but the standard ones, as daemons do, and open as many other
    files."""
    numbers = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
    os.closerange(3, max(numbers) + 1)
    others = []
    for number in range(3, max(numbers) + 3):
        fd = os.open(f"{path}.other-{number}", os.O_RDWR | os.O_CREAT)
        os.write(fd, b"others")
        flock(fd, LOCK_EX)
        os.lseek(fd, 2, os.SEEK_SET)
        others.append(fd)
    return others


def _are_intact(path: str, others: list[int]) -> bool:
    for fd in others:
        number = os.readlink(f"/proc/self/fd/{fd}").rpartition("-")[2]
        assert os.pread(fd, 10, 0) == b"others"
        assert os.lseek(fd, 0, os.SEEK_CUR) == 2
        again = os.open(f"{path}.other-{number}", os.O_RDWR)
        try:
            flock(again, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            pass
        else:
            raise AssertionError(f"{number} was unlocked")
        os.close(again)
    return True


def _use(path: str) -> list[Any]:
    """Objects with open descriptors: a sidecar, idle reader slots, a mutex and blocks that are held."""
    datafile = Datafile(path, 3600, lambda target: Path(target).write_text("made"), readers=True)
    datafile.load(lambda file: file.read())
    dogpile = SyncReaderDogpile(3600, path + "-2")
    dogpile.refresh(lambda: None)
    with dogpile.acquire(), dogpile.acquire():
        pass
    mutex = FileMutex(path + "-3.lock")
    mutex.acquire()
    block = ReadWriteFileLock(path + "-4.lock").write()
    block.__enter__()
    reading = dogpile.acquire()
    reading.__enter__()
    return [datafile, dogpile, mutex, block, reading]


@pytest.mark.parametrize("end", ["used", "left", "dropped", "collected in a child"])
def test_descriptors_closed_elsewhere_are_neither_unlocked_nor_closed_by_number(path: str, end: str) -> None:
    def daemon() -> None:
        objects = _use(path)
        logging.disable()  # its handlers have descriptors, too
        time.sleep(0.02)  # snapshots and slots are trusted for 10 ms
        others = _close_all_and_open_others(path)
        datafile, dogpile, mutex, block, reading = objects
        if end == "used":
            assert datafile.load(lambda file: file.read()) == b"made"
            assert datafile.status().state == "fresh"
            with dogpile.acquire(), datafile.open() as file:
                assert file.read() == b"made"
            dogpile.invalidate()
            assert dogpile.refresh(lambda: None)
        elif end == "left":
            mutex.release()
            block.__exit__(
                None, None, None
            )  # a reader's block is left without a query: that would cost a pass a call
        elif end == "dropped":
            del datafile, dogpile, mutex, block, reading
            objects.clear()
            gc.collect()
        else:
            assert ended_well(in_child(objects.clear))
        assert _are_intact(path, others)

    assert ended_well(in_child(daemon))


def test_a_description_whose_reads_fail_has_lost_its_locks(tmp_path: Path) -> None:
    ours = OpenFile.of_lock_file(str(tmp_path / "lock"))
    assert not ours.is_revoked()
    unreadable = OpenFile("/proc/self/mem").open(os.O_RDONLY)  # EIO where no memory is mapped
    assert unreadable.is_revoked()
    ours.close()
    unreadable.close()
    assert not ours.is_revoked()
