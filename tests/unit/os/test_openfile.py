"""Coordination files: opened with care, and noticed when they are gone."""

from __future__ import annotations

import errno
import fcntl
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

import pytest

from dogpile_fs import LockFileError
from dogpile_fs._os.openfile import Description, _remove_foreign, identity_at, open_regular
from tests.support.processes import PATIENCE, Processes, Record, wait_for


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
        description = open_regular(Description(path), access, create=True)
        assert stat.S_ISREG(os.fstat(description.fd).st_mode)
        assert fcntl.fcntl(description.fd, fcntl.F_GETFL) & os.O_ACCMODE == access


def test_what_a_file_holds_is_left_alone(path: str) -> None:
    Path(path).write_text("something")
    open_regular(Description(path), os.O_RDWR, 0o600, create=True).close()
    assert Path(path).read_text() == "something"


def test_a_missing_file_is_not_made_where_that_is_not_wanted(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        open_regular(Description(path), os.O_RDWR, create=False)
    with pytest.raises(FileNotFoundError):
        Description.of_lock_file(path, create=False)
    assert not os.path.exists(path)


def test_a_descriptor_does_not_survive_an_exec(path: str) -> None:
    assert not os.get_inheritable(open_regular(Description(path), os.O_RDWR, create=True).fd)
    assert not os.get_inheritable(Description.of_lock_file(path).fd)


@pytest.mark.parametrize(
    ("mode", "umask", "expected"), [(0o640, 0o077, 0o640), (None, 0o027, 0o640), (0o666, 0o022, 0o666)]
)
def test_a_new_file_has_the_given_permissions_or_what_the_umask_leaves(
    path: str, mode: int | None, umask: int, expected: int
) -> None:
    before = os.umask(umask)
    try:
        description = Description.of_lock_file(path, mode)
    finally:
        os.umask(before)
    assert f"{stat.S_IMODE(os.fstat(description.fd).st_mode):04o}" == f"{expected:04o}"
    Description.of_lock_file(path, 0o600)
    assert f"{stat.S_IMODE(os.fstat(description.fd).st_mode):04o}" == f"{expected:04o}", "changed by opening"


def test_all_who_open_a_missing_file_at_once_open_the_same(
    path: str, record: Record, processes: Processes
) -> None:
    def be_among_the_first() -> None:
        record.write("ready")
        record.wait("go")
        for number in range(30):
            description = Description.of_lock_file(f"{path}.{number}", 0o640)
            record.write("opened", number=number, identity=description.identity, kept=os.dup(description.fd))

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
@pytest.mark.parametrize("foreign", FOREIGN)
def test_what_is_no_regular_file_is_removed_and_told(
    foreign: Callable[[str], None], access: int, path: str, logged: pytest.LogCaptureFixture
) -> None:
    foreign(path)
    description = open_regular(Description(path), access, create=True)
    assert stat.S_ISREG(os.lstat(path).st_mode)
    assert os.path.samestat(os.fstat(description.fd), os.lstat(path))
    assert len(logged.messages) == 1, logged.messages
    assert repr(path) in logged.messages[0]
    assert not os.path.lexists(os.path.join(os.path.dirname(path), "nowhere"))
    if foreign is _link_to_a_file:
        assert Path(path + ".victim").read_text() == "precious"


@pytest.mark.parametrize("foreign", FOREIGN)
def test_what_is_no_regular_file_is_removed_even_by_who_would_not_make_one(
    foreign: Callable[[str], None], path: str
) -> None:
    foreign(path)
    with pytest.raises(FileNotFoundError):
        open_regular(Description(path), os.O_RDONLY, create=False)
    assert not os.path.lexists(path)


@pytest.mark.parametrize("foreign", FOREIGN)
def test_what_is_no_regular_file_is_removed_in_the_current_directory_as_well(
    foreign: Callable[[str], None], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(path)
    monkeypatch.chdir(os.path.dirname(path))
    description = Description.of_lock_file(os.path.basename(path))
    assert description.is_at_its_path()
    assert stat.S_ISREG(os.lstat(path).st_mode)


def test_a_directory_is_never_removed(path: str, logged: pytest.LogCaptureFixture) -> None:
    os.mkdir(path)
    for access in (os.O_RDONLY, os.O_RDWR):
        with pytest.raises(IsADirectoryError):
            open_regular(Description(path), access, create=True)
    with pytest.raises(LockFileError) as caught:
        Description.of_lock_file(path)
    assert caught.value.errno == errno.EISDIR
    assert repr(path) in str(caught.value)
    assert "Cure: move the directory away" in str(caught.value)
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
            description = Description.of_lock_file(f"{path}.{number}")
            record.write("opened", number=number, identity=description.identity, kept=os.dup(description.fd))

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
    _remove_foreign(path)
    assert Path(path).read_text() == "made by another since"


def test_only_one_removes_at_a_time_and_the_others_look_again(path: str) -> None:
    os.mkfifo(path)
    fd = os.open(os.path.dirname(path), os.O_RDONLY)
    flock(fd, LOCK_EX)
    _remove_foreign(path)
    assert os.path.lexists(path)
    os.close(fd)
    _remove_foreign(path)
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
    opened: list[Description] = []
    opening = threading.Thread(target=lambda: opened.append(Description.of_lock_file(path)))
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

    # Called after each removal: a foreign hand that is always quicker.
    monkeypatch.setattr(logging.getLogger("dogpile_fs"), "warning", replace_again)
    os.mkfifo(path)
    with pytest.raises(LockFileError) as caught:
        Description.of_lock_file(path)
    assert replaced.is_set()
    assert repr(path) in str(caught.value)
    assert "somebody keeps replacing it" in str(caught.value)


def test_a_missing_directory_is_an_error_with_a_cure(path: str) -> None:
    with pytest.raises(LockFileError) as caught:
        Description.of_lock_file(path + "/lock")
    assert caught.value.errno == errno.ENOENT
    assert repr(path + "/lock") in str(caught.value)
    assert "Cure: make the directory first" in str(caught.value)


def test_a_file_in_place_of_the_directory_is_an_error_with_a_cure(path: str) -> None:
    Path(path).touch()
    with pytest.raises(LockFileError) as caught:
        Description.of_lock_file(path + "/lock")
    assert caught.value.errno == errno.ENOTDIR
    assert "Cure: name a path whose parents are directories" in str(caught.value)


# Identity.


def test_a_description_knows_whether_it_still_is_the_file_at_its_path(path: str) -> None:
    description = Description.of_lock_file(path)
    assert description.is_at_its_path()
    assert description.identity == identity_at(path)
    os.rename(path, path + ".old")
    assert not description.is_at_its_path()
    other = Description.of_lock_file(path)
    assert not description.is_at_its_path()
    assert other.is_at_its_path()
    os.replace(path + ".old", path)
    assert description.is_at_its_path()
    assert not other.is_at_its_path()


def test_a_deleted_and_remade_file_is_another_as_long_as_the_description_is_open(path: str) -> None:
    for _ in range(50):
        description = Description.of_lock_file(path)
        os.unlink(path)
        assert not description.is_at_its_path()
        Path(path).touch()
        assert not description.is_at_its_path()


def test_a_symbolic_link_to_the_file_is_not_the_file(path: str) -> None:
    description = Description.of_lock_file(path)
    os.rename(path, path + ".old")
    os.symlink(path + ".old", path)
    assert not description.is_at_its_path()


def test_where_nothing_is_there_is_no_identity(path: str) -> None:
    assert identity_at(path) is None
    assert identity_at(path + "/beneath") is None


# Closing.


def test_a_description_is_closed_once_and_then_never_another_of_the_same_number(path: str) -> None:
    description = Description.of_lock_file(path)
    number = description.fd
    description.close()
    assert description.fd == -1
    other = os.open(path, os.O_RDONLY)
    assert other == number, "the test is pointless unless the number was used again"
    description.close()
    del description
    os.fstat(other)
    os.close(other)


def test_a_dropped_description_is_closed_and_its_lock_given_back(path: str) -> None:
    description = Description.of_lock_file(path)
    flock(description.fd, LOCK_EX)
    assert not is_free(path)
    del description
    assert is_free(path)
    assert descriptors_of(path) == 0


# Forks.


def test_a_child_closes_its_copy_without_unlocking_its_parents(path: str, processes: Processes) -> None:
    description = Description.of_lock_file(path)
    flock(description.fd, LOCK_EX)

    def in_the_child() -> None:
        assert description.fd == -1
        assert descriptors_of(path) == 0
        assert not is_free(path)

    processes.start(in_the_child)
    processes.join()
    assert not is_free(path)
    flock(description.fd, LOCK_EX | LOCK_NB)


def test_a_child_that_lives_on_does_not_keep_a_lock_that_its_parent_closes(
    path: str, record: Record, processes: Processes
) -> None:
    description = Description.of_lock_file(path)
    flock(description.fd, LOCK_EX)

    def live_on() -> None:
        record.write("alive")
        record.wait("enough")

    processes.start(live_on)
    record.wait("alive")
    description.close()
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
        description = Description.of_lock_file(path)
        flock(description.fd, LOCK_EX)
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
            description = Description.of_lock_file(path)
            with suppress(BlockingIOError):
                flock(description.fd, LOCK_EX | LOCK_NB)
            description.give_back()

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
    description = Description.of_lock_file(path)
    flock(description.fd, LOCK_EX | LOCK_NB)
    description.give_back()
    os.close(write)
    os.close(read)
    processes.join()


def test_a_child_opens_descriptions_of_its_own_and_its_children_close_those(
    path: str, processes: Processes
) -> None:
    def in_the_grandchild() -> None:
        assert descriptors_of(path) == 0

    def in_the_child() -> None:
        description = Description.of_lock_file(path)
        flock(description.fd, LOCK_EX | LOCK_NB)
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
    """Found by the campaign: the other one was slow, and all who came meanwhile got an error."""
    os.mkfifo(path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        threading.Timer(0.5, fcntl.flock, (directory, fcntl.LOCK_UN)).start()
        Description.of_lock_file(path).close()
    finally:
        os.close(directory)
    assert os.path.isfile(path)
