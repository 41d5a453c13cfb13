"""Broken environments cause an error that names the path, or one more creation and a log line; nothing hangs."""

from __future__ import annotations

import ctypes
import errno
import gc
import logging
import math
import multiprocessing
import os
import random
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, flock
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import (
    Dogpile,
    DogpileError,
    FileMutex,
    LockFileError,
    LockTimeout,
    NeedRegenerationException,
    NotHeld,
    PathError,
    ReadWriteFileLock,
    SidecarError,
    SyncReaderDogpile,
    WouldDeadlock,
)
from tests.support.processes import PATIENCE, Processes, wait_for

NOBODY = 65534
FILES = (".dogpile", ".dogpile.journal", ".dogpile.lock", ".dogpile.rwlock")

both_dogpiles = pytest.mark.parametrize("kind", [Dogpile, SyncReaderDogpile])


def nothing() -> None:
    pass


def unwanted() -> None:
    raise AssertionError("the creator was called")


def tells(error: BaseException, *parts: str) -> None:
    for part in parts:
        assert part in str(error), f"{part!r} is not in: {error}"


@contextmanager
def raises(kind: type[BaseException], *parts: str, code: int | None = None) -> Iterator[None]:
    """Check that the block raises exactly a *kind* whose text has all *parts*."""
    with pytest.raises(kind) as caught:
        yield
    assert type(caught.value) is kind
    tells(caught.value, *parts)
    if code is not None:
        assert isinstance(caught.value, OSError)
        assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]


def promptly(action: Callable[[], Any]) -> Any:
    """What *action* returns or raises; the test fails, and does not hang, if *action* hangs."""
    ends: list[Callable[[], Any]] = []

    def run() -> None:
        try:
            value = action()
            ends.append(lambda: value)
        except BaseException as error:
            caught = error

            def again() -> Any:
                raise caught

            ends.append(again)

    threading.Thread(target=run, daemon=True).start()
    return wait_for(lambda: ends, f"the end of {action}", 10)[0]()


def creations(dogpile: Dogpile, passes: int = 5) -> int:
    """How often a creator is called while *dogpile* is passed through; it never hangs."""
    calls: list[int] = []

    def pass_through() -> None:
        for _ in range(passes):
            with dogpile.acquire(lambda: calls.append(1)):
                pass

    promptly(pass_through)
    return len(calls)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "dogpile_fs")
    return caplog


# Arguments.


@both_dogpiles
@pytest.mark.parametrize("expiretime", [-1, -0.001, -math.inf, math.nan], ids=repr)
def test_an_expiretime_below_0_or_none_at_all_is_refused(kind: type[Dogpile], expiretime: float) -> None:
    with raises(ValueError, "expiretime must be 0 or more seconds", f"not {expiretime!r}"):
        kind(expiretime)
    dogpile = kind(3600)
    with raises(ValueError, "expiretime must be", f"not {expiretime!r}"):
        dogpile.expiretime = expiretime
    assert dogpile.expiretime == 3600


@both_dogpiles
@pytest.mark.parametrize("expiretime", [True, False, "3600", b"1", [], 1j, ...], ids=repr)
def test_an_expiretime_that_is_no_number_is_refused(kind: type[Dogpile], expiretime: Any) -> None:
    with raises(TypeError, "expiretime must be a number of seconds", f"not {expiretime!r}"):
        kind(expiretime)


@pytest.mark.parametrize("expiretime", [0, 1, 2.5, math.inf, None], ids=repr)
def test_any_other_expiretime_will_do(expiretime: float | None, path: str) -> None:
    dogpile = Dogpile(expiretime, path)
    dogpile.refresh(nothing)
    assert dogpile.is_expired == (expiretime == 0)


@pytest.mark.parametrize("timeout", [-1, -0.001, -math.inf, math.nan], ids=repr)
def test_a_timeout_below_0_or_none_at_all_is_refused(path: str, timeout: float) -> None:
    for made in (
        lambda: Dogpile(1, path, timeout=timeout),
        lambda: SyncReaderDogpile(1, timeout=timeout),
        lambda: FileMutex(path, timeout=timeout),
        lambda: ReadWriteFileLock(path, timeout=timeout),
        lambda: Dogpile(1, path).acquire(nothing, timeout=timeout),
        lambda: SyncReaderDogpile(1, path).acquire(nothing, timeout=timeout),
        lambda: Dogpile(1, path).refresh(unwanted, timeout=timeout),
        lambda: FileMutex(path).acquire(timeout=timeout),
        lambda: ReadWriteFileLock(path).acquire_read_lock(timeout=timeout),
        lambda: ReadWriteFileLock(path).acquire_write_lock(timeout=timeout),
    ):
        with raises(ValueError, "timeout must be 0 or more seconds", f"not {timeout!r}"):
            made()


@pytest.mark.parametrize("timeout", ["5", True, [], {}], ids=repr)
def test_a_timeout_that_is_no_number_is_refused(path: str, timeout: Any) -> None:
    for made in (
        lambda: Dogpile(1, path, timeout=timeout),
        lambda: FileMutex(path, timeout=timeout),
        lambda: ReadWriteFileLock(path, timeout=timeout),
        lambda: Dogpile(1, path).acquire(nothing, timeout=timeout),
        lambda: FileMutex(path).acquire(timeout=timeout),
        lambda: ReadWriteFileLock(path).acquire_write_lock(timeout=timeout),
    ):
        with raises(TypeError, "timeout must be a number of seconds", f"not {timeout!r}"):
            made()


def test_the_originals_positional_init_is_refused_with_what_to_do() -> None:
    with raises(TypeError, "path must be", "not True", "init= and lock= are not"):
        Dogpile(3600, True)  # type: ignore[arg-type]


def test_directory_and_mode_without_a_path_are_refused(tmp_path: Path) -> None:
    with raises(TypeError, "directory=, mode= and resource= go with a path", "give one"):
        Dogpile(3600, directory=tmp_path)
    with raises(TypeError, "directory=, mode= and resource= go with a path", "give one"):
        Dogpile(3600, mode=0o600)


def test_without_a_path_it_is_not_sent_to_another_process() -> None:
    with raises(TypeError, "without a path", "give it a path"):
        Dogpile(3600).__reduce__()


# Paths.


@both_dogpiles
@pytest.mark.parametrize("path", [3, 2.5, b"resource", [], True, ...], ids=repr)
def test_a_path_that_is_none_is_refused(kind: type[Dogpile], path: Any) -> None:
    with raises(TypeError, "path must be", repr(path)):
        kind(3600, path)


@both_dogpiles
@pytest.mark.parametrize("path", ["", "a\0b", "resource/", "missing/.", "missing/.."], ids=repr)
def test_a_path_that_names_no_file_is_refused(kind: type[Dogpile], path: str) -> None:
    with raises(PathError, repr(path), "names no file", "Hint: give the path of the resource"):
        kind(3600, path)


@both_dogpiles
def test_a_directory_is_refused(kind: type[Dogpile], tmp_path: Path) -> None:
    with raises(
        PathError, repr(str(tmp_path)), "is a directory", "Hint: give the path of a file", code=errno.EISDIR
    ):
        kind(3600, tmp_path)


@both_dogpiles
def test_a_missing_directory_is_named(kind: type[Dogpile], tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with raises(PathError, repr(str(missing)), "does not exist", "Hint: make it first", code=errno.ENOENT):
        kind(3600, missing / "resource")


@both_dogpiles
def test_a_path_under_a_file_is_refused(kind: type[Dogpile], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with raises(PathError, f"{tmp_path}/file/resource", "Hint: name a path whose parents", code=errno.ENOTDIR):
        kind(3600, tmp_path / "file" / "resource")


@both_dogpiles
def test_a_link_to_no_directory_is_named(kind: type[Dogpile], path: str) -> None:
    os.symlink("nowhere/resource", path)
    with raises(PathError, repr(path), "'nowhere/resource'", "Hint: make that, or remove", code=errno.ENOENT):
        kind(3600, path)


@both_dogpiles
def test_a_link_to_itself_is_named(kind: type[Dogpile], path: str) -> None:
    os.symlink(path, path)
    with raises(PathError, repr(path), "Hint: remove the symbolic link", code=errno.ELOOP):
        kind(3600, path)


@both_dogpiles
@pytest.mark.parametrize("length", [240, 255, 256, 5000])
def test_a_name_that_is_too_long_is_refused(kind: type[Dogpile], tmp_path: Path, length: int) -> None:
    name = "x" * length
    with raises(PathError, name, "Hint: shorten the name", "directory=", code=errno.ENAMETOOLONG):
        kind(3600, tmp_path / name)


@both_dogpiles
@pytest.mark.parametrize("directory", [3, b"locks", [], True], ids=repr)
def test_a_directory_for_the_files_that_is_no_path_is_refused(
    kind: type[Dogpile], path: str, directory: Any
) -> None:
    with pytest.raises(TypeError):
        kind(3600, path, directory=directory)


@both_dogpiles
def test_a_directory_for_the_files_with_a_nul_in_its_name_is_refused(kind: type[Dogpile], path: str) -> None:
    with raises(PathError, repr("a\0b")[1:-1], "Hint: "):
        kind(3600, path, directory="a\0b")


@pytest.mark.parametrize("lock", [FileMutex, ReadWriteFileLock])
@pytest.mark.parametrize("path", ["", "a\0b"], ids=repr)
def test_a_lock_on_a_path_that_names_no_file_is_refused(lock: Any, path: str) -> None:
    with pytest.raises(DogpileError) as caught:
        lock(path).acquire()
    tells(caught.value, repr(path)[1:-1], "Hint: ")
    for misleading in ("make the directory", "move the directory"):
        assert misleading not in str(caught.value)


@pytest.mark.parametrize("lock", [FileMutex, ReadWriteFileLock])
@pytest.mark.parametrize("path", [None, 3, []], ids=repr)
def test_a_lock_on_an_object_that_is_no_path_is_refused(lock: Any, path: Any) -> None:
    with pytest.raises(TypeError, match=r"(?i)path"):
        lock(path)


def uses_of_locks(path: str) -> list[Callable[[], object]]:
    return [
        lambda: FileMutex(path).acquire(),
        lambda: FileMutex(path).acquire(wait=False),
        lambda: ReadWriteFileLock(path).acquire_read_lock(),
        lambda: ReadWriteFileLock(path).acquire_read_lock(wait=False),
        lambda: ReadWriteFileLock(path).acquire_write_lock(),
        lambda: ReadWriteFileLock(path).acquire_write_lock(wait=False),
    ]


def test_a_lock_in_a_missing_directory_raises_an_error_that_names_it(path: str) -> None:
    lock = path + "/lock"
    for use in uses_of_locks(lock):
        with raises(LockFileError, repr(lock), "Hint: make the directory first", code=errno.ENOENT):
            use()


def test_a_lock_under_a_file_is_refused(path: str) -> None:
    Path(path).touch()
    lock = path + "/lock"
    for use in uses_of_locks(lock):
        with raises(LockFileError, repr(lock), "Hint: name a path whose parents", code=errno.ENOTDIR):
            use()
    with raises(LockFileError, repr(lock), code=errno.ENOTDIR):
        FileMutex(lock).locked()


def test_a_lock_on_a_directory_is_refused_and_the_directory_stays(tmp_path: Path) -> None:
    lock = str(tmp_path)
    for use in uses_of_locks(lock):
        with raises(LockFileError, repr(lock), "Hint: move the directory away", code=errno.EISDIR):
            use()
    assert tmp_path.is_dir()


def test_a_lock_with_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    lock = str(tmp_path / ("x" * 256))
    for use in uses_of_locks(lock):
        with raises(LockFileError, repr(lock), "Hint: shorten the name", code=errno.ENAMETOOLONG):
            use()


@both_dogpiles
def test_a_directory_that_vanishes_raises_an_error_until_it_is_back(kind: type[Dogpile], tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    dogpile = kind(3600, home / "resource")
    assert creations(dogpile) == 1
    home.rename(tmp_path / "away")
    assert dogpile.status().state == "missing"
    with raises(LockFileError, repr(f"{home}/resource.dogpile.lock"), "Hint: make the directory first"):
        dogpile.refresh(unwanted)
    with raises(LockFileError, "Hint: make the directory first"), dogpile.acquire(unwanted):
        pass
    with raises(SidecarError, repr(f"{home}/resource.dogpile"), "Hint: make the directory first"):
        dogpile.invalidate()
    (tmp_path / "away").rename(home)
    assert creations(dogpile) == 0
    assert dogpile.status().state == "fresh"


# Another user.


class Unprivileged:
    """A directory of another user (where the tests run as root), and children that act as the user nobody."""

    def __init__(self, directory: Path, processes: Processes) -> None:
        self.directory = directory
        self.path = str(directory / "resource")
        self._processes = processes

    def run(self, action: Callable[[], object]) -> None:
        """Run *action* in a child without privileges; what it raises fails the test."""
        self._processes.join(self.start(action))

    def start(self, action: Callable[[], object]) -> BaseProcess:
        def without_privileges() -> None:
            if os.geteuid() != 0:
                action()
                return
            os.setgroups([])
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
            try:
                action()
            finally:
                os.seteuid(0)  # or what the child has measured of the coverage could not be written down

        return self._processes.start(without_privileges)

    def writable(self) -> None:
        self.directory.chmod(0o777)

    def read_only(self) -> None:
        self.directory.chmod(0o555)


@pytest.fixture
def unprivileged(processes: Processes) -> Iterator[Unprivileged]:
    # Not tmp_path: none but its owner may enter that.
    directory = Path(tempfile.mkdtemp(prefix="dogpile_fs-"))
    directory.chmod(0o555)
    yield Unprivileged(directory, processes)
    if os.geteuid() != 0:  # what the test has closed must be opened again
        subprocess.run(["chmod", "-R", "u+rwX", directory], check=True)
    directory.chmod(0o777)
    shutil.rmtree(directory)


@pytest.fixture
def foreign(unprivileged: Unprivileged) -> Unprivileged:
    """As *unprivileged*, where the files that the test makes belong to another user."""
    if os.geteuid() != 0:
        pytest.skip("files of another user can only be made by root")
    return unprivileged


def test_creating_in_a_directory_without_write_permission_raises_an_error(unprivileged: Unprivileged) -> None:
    path = unprivileged.path

    def create_in_vain() -> None:
        for kind in (Dogpile, SyncReaderDogpile):
            dogpile = kind(3600, path)
            assert dogpile.status().state == "missing"
            owner = f"user {os.geteuid()}"
            hint = "or pass directory= with a directory that all users of the resource may write"
            lock = repr(path + ".dogpile.lock")
            with raises(LockFileError, lock, owner, "mode 0555", hint, code=errno.EACCES):
                dogpile.refresh(unwanted)
            with raises(LockFileError, lock, owner, hint, code=errno.EACCES), dogpile.acquire(unwanted):
                pass
            with raises(SidecarError, repr(path + ".dogpile"), owner, hint, code=errno.EACCES):
                dogpile.invalidate()
            with raises(SidecarError, repr(path + ".dogpile"), owner, hint, code=errno.EACCES):
                dogpile.createdtime = time.time()
            with raises(SidecarError, repr(path + ".dogpile"), owner, hint, code=errno.EACCES):
                kind(3600, path, init=True)

    unprivileged.run(create_in_vain)
    assert os.listdir(unprivileged.directory) == []


def test_locking_in_a_directory_without_write_permission_raises_an_error(unprivileged: Unprivileged) -> None:
    def lock_in_vain() -> None:
        for use in uses_of_locks(unprivileged.path):
            with raises(LockFileError, repr(unprivileged.path), "Hint: let this user write it", code=errno.EACCES):
                use()
        assert not FileMutex(unprivileged.path).locked()

    unprivileged.run(lock_in_vain)


def test_a_directory_without_search_permission_raises_an_error(unprivileged: Unprivileged) -> None:
    unprivileged.directory.chmod(0)

    def use_in_vain() -> None:
        dogpile = Dogpile(3600, unprivileged.path)
        with raises(LockFileError, repr(unprivileged.path + ".dogpile.lock"), "Hint: ", code=errno.EACCES):
            dogpile.refresh(unwanted)
        with raises(LockFileError, repr(unprivileged.path + ".dogpile.lock"), "Hint: "), dogpile.acquire(unwanted):
            pass

    unprivileged.run(use_in_vain)


def test_a_read_only_directory_works_with_another_one_for_the_coordination_files(
    unprivileged: Unprivileged,
) -> None:
    locks = unprivileged.directory / "locks"
    unprivileged.writable()
    locks.mkdir()
    locks.chmod(0o777)
    unprivileged.read_only()

    def create_there() -> None:
        for number, kind in enumerate((Dogpile, SyncReaderDogpile)):
            assert creations(kind(3600, f"{unprivileged.path}{number}", directory=locks)) == 1

    unprivileged.run(create_there)
    assert os.listdir(unprivileged.directory) == ["locks"]


def created_by_root(
    path: str, mode: int, kind: type[Dogpile] = SyncReaderDogpile, expiretime: float = 3600
) -> None:
    """All files of a resource that was created just now, with permission bits *mode*."""
    dogpile = kind(expiretime, path)

    def creator() -> None:
        if isinstance(dogpile, SyncReaderDogpile):
            with dogpile.acquire_write_lock():
                pass

    dogpile.refresh(creator)
    for suffix in FILES:
        if os.path.exists(path + suffix):
            os.chmod(path + suffix, mode)


@both_dogpiles
def test_a_process_that_may_only_read_passes_while_fresh(kind: type[Dogpile], foreign: Unprivileged) -> None:
    created_by_root(foreign.path, 0o444)

    def only_read() -> None:
        dogpile = kind(3600, foreign.path, init=True)
        assert dogpile.status().state == "fresh"
        assert dogpile.status().generation == 1
        assert not dogpile.status().creating
        for _ in range(3):
            with dogpile.acquire(unwanted):
                pass
            with dogpile.acquire():
                pass
        assert not dogpile.refresh(unwanted)

    foreign.run(only_read)


@both_dogpiles
def test_a_process_that_may_only_read_passes_while_stale_and_logs_it_once(
    kind: type[Dogpile], foreign: Unprivileged, logged: pytest.LogCaptureFixture
) -> None:
    created_by_root(foreign.path, 0o444)
    kind(3600, foreign.path).invalidate()

    def only_read() -> None:
        dogpile = kind(3600, foreign.path)
        for _ in range(20):
            with dogpile.acquire(unwanted):
                pass
            with dogpile.acquire():
                pass
        assert dogpile.status().state == "stale"
        warnings = [message for message in logged.messages if "passing through, though it is stale" in message]
        # Once a second; a busy machine may take more than one.
        assert 1 <= len(warnings) < 10, logged.messages
        assert repr(foreign.path + ".dogpile") in warnings[0]
        assert "Hint: let this user write it" in warnings[0]
        assert len(logged.messages) == len(warnings)
        # And it does not keep the mutex from a process that may create.
        assert not FileMutex(foreign.path + ".dogpile.lock").locked()

    foreign.run(only_read)
    assert kind(3600, foreign.path).refresh(nothing)


@both_dogpiles
def test_a_process_that_may_only_read_gets_an_error_from_refresh_and_invalidate(
    kind: type[Dogpile], foreign: Unprivileged
) -> None:
    created_by_root(foreign.path, 0o444)
    kind(3600, foreign.path).invalidate()
    sidecar = repr(foreign.path + ".dogpile")

    def only_read() -> None:
        dogpile = kind(3600, foreign.path)
        for force in (False, True):
            with raises(SidecarError, sidecar, "owner 0", "Hint: let this user write it", code=errno.EACCES):
                dogpile.refresh(unwanted, force=force)
        with raises(SidecarError, sidecar, "Hint: let this user write it", code=errno.EACCES):
            dogpile.invalidate()
        assert not dogpile.status().creating

    foreign.run(only_read)


@both_dogpiles
def test_a_process_that_may_only_read_gets_an_error_where_there_is_no_version(
    kind: type[Dogpile], foreign: Unprivileged
) -> None:
    created_by_root(foreign.path, 0o444)
    os.unlink(foreign.path + ".dogpile")

    def only_read() -> None:
        dogpile = kind(3600, foreign.path)
        with (
            raises(SidecarError, repr(foreign.path + ".dogpile"), "Hint: let this user", code=errno.EACCES),
            dogpile.acquire(unwanted),
        ):
            pass
        assert not dogpile.status().creating
        # A caller without a creator waits for one.
        with raises(LockTimeout, repr(foreign.path), "did not end within 0.05 s", "Hint: "):
            promptly(lambda: dogpile.acquire(timeout=0.05).__enter__())

    foreign.run(only_read)


def test_a_process_that_may_only_read_locks_shared_and_keeps_a_writer_out(
    foreign: Unprivileged, processes: Processes
) -> None:
    path = foreign.path + ".dogpile.rwlock"
    created_by_root(foreign.path, 0o444)
    inside, enough = multiprocessing.Event(), multiprocessing.Event()

    def only_read() -> None:
        lock = ReadWriteFileLock(path)
        with lock.read(), lock.read():
            inside.set()
            assert enough.wait(PATIENCE)
        for wait in (True, False):
            with raises(LockFileError, repr(path), "Hint: let this user write it", code=errno.EACCES):
                lock.acquire_write_lock(wait)
        with lock.read():
            pass

    reader = foreign.start(only_read)
    wait_for(lambda: inside.is_set() or not reader.is_alive(), "the reader to be inside")
    try:
        assert not ReadWriteFileLock(path).acquire_write_lock(wait=False)
    finally:
        enough.set()
    processes.join()
    assert ReadWriteFileLock(path).acquire_write_lock(wait=False)


def test_a_process_that_may_only_read_waits_for_a_writer_and_for_a_creator(foreign: Unprivileged) -> None:
    created_by_root(foreign.path, 0o444)
    dogpile = SyncReaderDogpile(3600, foreign.path)

    def only_read() -> None:
        mine = SyncReaderDogpile(3600, foreign.path)
        with raises(LockTimeout, repr(foreign.path + ".dogpile.rwlock"), "Hint: "):
            mine.acquire(timeout=0.05).__enter__()
        assert mine.status().creating

    with FileMutex(foreign.path + ".dogpile.lock"), dogpile.acquire_write_lock():
        foreign.run(only_read)


def test_lock_files_of_another_user_without_permission_stop_no_pass_but_a_creation(
    foreign: Unprivileged, logged: pytest.LogCaptureFixture
) -> None:
    created_by_root(foreign.path, 0o644, Dogpile)
    os.chmod(foreign.path + ".dogpile.lock", 0o600)
    lock = repr(foreign.path + ".dogpile.lock")

    def pass_fresh() -> None:
        with Dogpile(3600, foreign.path).acquire(unwanted):
            pass
        assert logged.messages == []

    def pass_stale() -> None:
        dogpile = Dogpile(3600, foreign.path)
        for _ in range(10):
            with dogpile.acquire(unwanted):
                pass
        assert lock in logged.messages[0]
        with raises(LockFileError, lock, "mode 0600, owner 0", "Hint: let this user write it", code=errno.EACCES):
            dogpile.refresh(unwanted)
        with raises(LockFileError, lock, "Hint: let this user write it", code=errno.EACCES):
            dogpile.status()

    foreign.run(pass_fresh)
    Dogpile(3600, foreign.path).invalidate()
    foreign.run(pass_stale)
    os.chmod(foreign.path + ".dogpile", 0o666)
    os.chmod(foreign.path + ".dogpile.lock", 0o666)
    foreign.run(lambda: Dogpile(3600, foreign.path).refresh(nothing))
    assert Dogpile(3600, foreign.path).status().state == "fresh"


def test_an_unreadable_read_write_lock_file_of_another_user_raises_an_error(foreign: Unprivileged) -> None:
    created_by_root(foreign.path, 0o644)
    os.chmod(foreign.path + ".dogpile.rwlock", 0o600)

    def read_in_vain() -> None:
        dogpile = SyncReaderDogpile(3600, foreign.path)
        lock = repr(foreign.path + ".dogpile.rwlock")
        for _ in range(2):
            with (
                raises(LockFileError, lock, "mode 0600, owner 0", "Hint: let this user", code=errno.EACCES),
                dogpile.acquire(unwanted),
            ):
                pass

    foreign.run(read_in_vain)


def test_an_unreadable_sidecar_of_another_user_is_reported_and_logged_once(
    foreign: Unprivileged, logged: pytest.LogCaptureFixture
) -> None:
    foreign.writable()
    created_by_root(foreign.path, 0o666, Dogpile)
    os.chmod(foreign.path + ".dogpile", 0o600)

    def create_in_vain() -> None:
        dogpile = Dogpile(3600, foreign.path)
        sidecar = repr(foreign.path + ".dogpile")
        for _ in range(3):
            with (
                raises(SidecarError, sidecar, "mode 0600, owner 0", "Hint: let this user", code=errno.EACCES),
                dogpile.acquire(unwanted),
            ):
                pass
        assert dogpile.status().state == "missing"
        assert len(logged.messages) == 1, logged.messages
        assert sidecar in logged.messages[0]
        assert "counts as no creation yet" in logged.messages[0]

    foreign.run(create_in_vain)


@pytest.mark.parametrize("mode", [0o000, 0o200, 0o400])
@pytest.mark.parametrize("suffix", FILES)
def test_a_file_of_this_user_that_lost_its_permissions_gets_them_back_and_that_is_logged(
    suffix: str, mode: int, unprivileged: Unprivileged, logged: pytest.LogCaptureFixture
) -> None:
    unprivileged.writable()

    def lose_permissions() -> None:
        dogpile = SyncReaderDogpile(3600, unprivileged.path)

        def creator() -> None:
            with dogpile.acquire_write_lock():
                pass

        dogpile.refresh(creator)
        assert logged.messages == []
        os.chmod(unprivileged.path + suffix, mode)
        # One that has nothing open.
        dogpile = SyncReaderDogpile(3600, unprivileged.path)
        dogpile.refresh(creator, force=True)
        with dogpile.acquire(unwanted):
            pass
        assert dogpile.status().state == "fresh"
        assert dogpile.status().generation == 2
        told = [message for message in logged.messages if repr(unprivileged.path + suffix) in message]
        if mode != 0o400 or suffix != ".dogpile.lock":  # a mutex file needs no more than reading
            assert len(told) == 1, logged.messages
            assert stat.S_IMODE(os.stat(unprivileged.path + suffix).st_mode) & 0o600 == 0o600
        assert logged.messages == told

    unprivileged.run(lose_permissions)


# File systems.


@pytest.fixture
def may_mount() -> None:
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("mount"):
        pytest.skip("mounting a file system needs root, unshare(1) and mount(8)")
    trial = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True
    )
    if trial.returncode != 0:
        pytest.skip(f"mounting a file system is not permitted here: {trial.stderr.strip()}")


@pytest.fixture
def mounted(may_mount: None, tmp_path: Path, processes: Processes) -> Callable[..., None]:
    """Runs its last argument in a process that alone sees a tmpfs with *options* at the given place."""

    def run(place: Path, options: str, action: Callable[[], object]) -> None:
        place.mkdir(exist_ok=True)

        def in_own_mounts() -> None:
            clone_newns = 0x00020000
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.unshare(clone_newns) == 0, os.strerror(ctypes.get_errno())
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=True)
            action()

        processes.join(processes.start(in_own_mounts))

    return run


def remount_read_only(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)


def test_on_a_read_only_file_system_every_pass_works_and_every_creation_raises_an_error(
    mounted: Callable[..., None], tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "mount"
    path = str(place / "resource")

    def fresh_then_stale() -> None:
        created_by_root(path, 0o644)
        remount_read_only(place)
        for kind in (Dogpile, SyncReaderDogpile):
            assert creations(kind(3600, path)) == 0
        assert logged.messages == []
        lock = ReadWriteFileLock(path + ".dogpile.rwlock")
        with lock.read():
            pass
        with raises(LockFileError, repr(path + ".dogpile.rwlock"), "Hint: "):
            lock.acquire_write_lock()
        for kind in (Dogpile, SyncReaderDogpile):
            dogpile = kind(0, path)  # stale at once
            assert creations(dogpile) == 0
            assert dogpile.status().state == "stale"
            assert "passing through, though it is stale" in logged.messages[-1]
            hint = "Hint: pass directory= with a directory on a writable file system"
            assert hint in logged.messages[-1]
            for use in (lambda d=dogpile: d.refresh(unwanted), dogpile.invalidate):
                with raises(SidecarError, repr(path + ".dogpile"), hint, code=errno.EROFS):
                    use()

    mounted(place, "size=1m", fresh_then_stale)


def test_a_read_only_file_system_without_a_version_raises_an_error(
    mounted: Callable[..., None], tmp_path: Path
) -> None:
    place = tmp_path / "mount"
    path = str(place / "resource")

    def nothing_yet() -> None:
        hint = "Hint: pass directory= with a directory on a writable file system"
        for kind in (Dogpile, SyncReaderDogpile):
            dogpile = kind(3600, path)
            assert dogpile.status().state == "missing"
            with raises(LockFileError, repr(path + ".dogpile.lock"), hint, code=errno.EROFS):
                dogpile.refresh(unwanted)
            with raises(LockFileError, repr(path + ".dogpile.lock"), hint), dogpile.acquire(unwanted):
                pass
            with raises(SidecarError, repr(path + ".dogpile"), hint, code=errno.EROFS):
                dogpile.invalidate()
        for use in uses_of_locks(path):
            with raises(LockFileError, repr(path), hint, code=errno.EROFS):
                use()
        # What the hint says.
        locks = tmp_path / "locks"
        locks.mkdir()
        assert creations(SyncReaderDogpile(3600, path, directory=locks)) == 1

    mounted(place, "size=1m,ro", nothing_yet)


def fill(place: Path) -> None:
    """Write until the file system at *place* is full."""

    def write() -> None:
        with (place / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    with pytest.raises(OSError, match="No space left"):
        write()


def test_a_full_disk_raises_an_error_before_the_creator_runs_and_the_old_version_stays(
    mounted: Callable[..., None], tmp_path: Path
) -> None:
    place = tmp_path / "mount"
    path = str(place / "resource")
    hint = "Hint: free space on that file system"

    def run_full() -> None:
        old = Dogpile(3600, place / "old")
        assert creations(old) == 1
        fill(place)
        for kind in (Dogpile, SyncReaderDogpile):
            dogpile = kind(3600, path)
            for use in (
                lambda d=dogpile: d.refresh(unwanted),
                lambda d=dogpile: d.acquire(unwanted).__enter__(),
                dogpile.invalidate,
            ):
                with raises(SidecarError, repr(path + ".dogpile"), hint, code=errno.ENOSPC):
                    use()
            assert dogpile.status().state == "missing"
            assert not dogpile.status().creating
        # A record that is there is overwritten in place.
        assert creations(old) == 0
        assert creations(Dogpile(3600, place / "old")) == 0
        assert old.refresh(nothing, force=True)
        os.unlink(place / "filler")
        assert creations(dogpile) == 1

    mounted(place, "size=64k", run_full)


def test_a_file_system_without_free_inodes_raises_an_error(mounted: Callable[..., None], tmp_path: Path) -> None:
    place = tmp_path / "mount"
    path = str(place / "resource")

    def run_without_inodes() -> None:
        def make_many() -> None:
            for number in range(100):
                (place / str(number)).touch()

        with pytest.raises(OSError, match="No space left"):
            make_many()
        for use in uses_of_locks(path):
            with raises(LockFileError, repr(path), "Hint: free space on that file system", code=errno.ENOSPC):
                use()
        with raises(LockFileError, repr(path + ".dogpile.lock"), "Hint: free space on that file system"):
            Dogpile(3600, path).refresh(unwanted)
        (place / "0").unlink()
        (place / "1").unlink()
        assert creations(Dogpile(3600, path)) == 1

    mounted(place, "size=1m,nr_inodes=20", run_without_inodes)


# Harm by other programs to the coordination files.


def random_bytes(path: str) -> None:
    Path(path).write_bytes(random.Random(11).randbytes(512))


def truncate(path: str) -> None:
    os.truncate(path, 100)


def empty(path: str) -> None:
    os.truncate(path, 0)


def delete(path: str) -> None:
    os.unlink(path)


def make_fifo(path: str) -> None:
    os.unlink(path)
    os.mkfifo(path)


def make_link(path: str) -> None:
    Path(path + ".victim").write_text("precious")
    os.unlink(path)
    os.symlink(path + ".victim", path)


def make_dangling_link(path: str) -> None:
    os.unlink(path)
    os.symlink("nowhere", path)


def make_socket(path: str) -> None:
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as server:
        # The name of a socket may be 107 bytes long, which a test's directory may exceed.
        here = os.open(".", os.O_RDONLY)
        os.chdir(os.path.dirname(path))
        try:
            server.bind(os.path.basename(path))
        finally:
            os.fchdir(here)
            os.close(here)


def make_directory(path: str) -> None:
    os.unlink(path)
    os.mkdir(path)


def make_newer(path: str) -> None:
    body = b'{"dogpile_fs": 2, "created": "yesterday"}'.ljust(2039)
    Path(path).write_bytes(body + b"%08x\n" % zlib.crc32(body))


SIDECAR_FOULS = [truncate, empty, random_bytes, delete, make_fifo, make_link, make_dangling_link, make_socket]
LOCK_FOULS = [random_bytes, empty, delete, make_fifo, make_link, make_dangling_link, make_socket]


@both_dogpiles
@pytest.mark.parametrize("in_use", [True, False], ids=["in use", "made anew"])
@pytest.mark.parametrize("foul", SIDECAR_FOULS)
def test_a_damaged_sidecar_costs_one_more_creation_and_a_log_line(
    foul: Callable[[str], None],
    in_use: bool,
    kind: type[Dogpile],
    path: str,
    logged: pytest.LogCaptureFixture,
) -> None:
    dogpile = kind(3600, path)
    assert creations(dogpile) == 1
    foul(path + ".dogpile")
    if in_use:
        # For 10 ms a pass may trust a file that was deleted or replaced.
        wait_for(lambda: dogpile.status().state == "missing", "it to be noticed", 5)
    else:
        dogpile = kind(3600, path)
    assert creations(dogpile) == 1
    assert dogpile.status().state == "fresh"
    assert dogpile.status().generation == 1
    assert creations(kind(3600, path)) == 0
    assert stat.S_ISREG(os.lstat(path + ".dogpile").st_mode)
    told = [message for message in logged.messages if repr(path + ".dogpile") in message]
    assert len(told) == (foul is not delete), logged.messages
    assert logged.messages == told
    if foul is make_link:
        assert Path(path + ".dogpile.victim").read_text() == "precious"
    assert not os.path.exists(os.path.join(os.path.dirname(path), "nowhere"))


@both_dogpiles
def test_a_sidecar_of_a_newer_format_raises_an_error_and_stays(kind: type[Dogpile], path: str) -> None:
    in_use = kind(3600, path)
    assert creations(in_use) == 1
    make_newer(path + ".dogpile")
    before = Path(path + ".dogpile").read_bytes()
    for dogpile in (in_use, kind(3600, path)):
        for use in uses_of_sidecars(dogpile):
            hint = "Hint: let all users of the resource run the same dogpile_fs"
            with raises(SidecarError, repr(path + ".dogpile"), "format 2", hint):
                use()
        assert not FileMutex(path + ".dogpile.lock").locked()
    with raises(SidecarError, repr(path + ".dogpile")):
        kind(3600, path, init=True)
    assert Path(path + ".dogpile").read_bytes() == before
    os.unlink(path + ".dogpile")
    assert creations(dogpile) == 1


@both_dogpiles
def test_a_directory_in_place_of_the_sidecar_raises_an_error(kind: type[Dogpile], path: str) -> None:
    in_use = kind(3600, path)
    assert creations(in_use) == 1
    make_directory(path + ".dogpile")

    def is_noticed() -> bool:
        try:
            with in_use.acquire(unwanted):
                return False
        except SidecarError:
            return True

    wait_for(is_noticed, "the directory to be noticed", 5)  # for 10 ms a pass may trust the file
    for dogpile in (in_use, kind(3600, path)):
        for use in uses_of_sidecars(dogpile):
            hint = "Hint: move the directory away"
            with raises(SidecarError, repr(path + ".dogpile"), hint, code=errno.EISDIR):
                use()
        assert not FileMutex(path + ".dogpile.lock").locked()
    os.rmdir(path + ".dogpile")
    assert creations(dogpile) == 1


def uses_of_sidecars(dogpile: Dogpile) -> list[Callable[[], object]]:
    def stamp() -> None:
        dogpile.createdtime = 1.0

    return [
        dogpile.status,
        lambda: dogpile.acquire(unwanted).__enter__(),
        lambda: dogpile.acquire().__enter__(),
        lambda: dogpile.refresh(unwanted),
        lambda: dogpile.refresh(unwanted, force=True),
        dogpile.invalidate,
        lambda: dogpile.createdtime,
        lambda: dogpile.has_value,
        lambda: dogpile.is_expired,
        stamp,
    ]


@pytest.mark.parametrize("in_use", [True, False], ids=["in use", "made anew"])
@pytest.mark.parametrize("foul", LOCK_FOULS)
@pytest.mark.parametrize("suffix", [".dogpile.lock", ".dogpile.rwlock"])
def test_lock_files_with_other_contents_stop_no_caller(
    suffix: str, foul: Callable[[str], None], in_use: bool, path: str, logged: pytest.LogCaptureFixture
) -> None:
    dogpile = SyncReaderDogpile(3600, path)

    def creator() -> None:
        with dogpile.acquire_write_lock():
            pass

    with dogpile.acquire(creator):
        pass
    foul(path + suffix)
    if not in_use:
        dogpile = SyncReaderDogpile(3600, path)

    def use() -> None:
        for _ in range(3):
            assert dogpile.refresh(creator, force=True)
            with dogpile.acquire(unwanted):
                pass
            assert not dogpile.status().creating

    promptly(use)
    assert dogpile.status().generation == 4
    assert stat.S_ISREG(os.lstat(path + suffix).st_mode)
    told = [message for message in logged.messages if repr(path + suffix) in message]
    assert len(told) == (foul not in (random_bytes, empty, delete)), logged.messages
    assert logged.messages == told
    if foul is make_link:
        assert Path(path + suffix + ".victim").read_text() == "precious"


@pytest.mark.parametrize("in_use", [True, False], ids=["in use", "made anew"])
def test_a_directory_in_place_of_the_mutex_file_raises_an_error(path: str, in_use: bool) -> None:
    dogpile = Dogpile(0, path)
    assert creations(dogpile, passes=1) == 1
    make_directory(path + ".dogpile.lock")
    if not in_use:
        dogpile = Dogpile(0, path)
    for use in (
        lambda: dogpile.acquire(unwanted).__enter__(),
        lambda: dogpile.refresh(unwanted),
        lambda: dogpile.refresh(unwanted, force=True),
        dogpile.status,
    ):
        hint = "Hint: move the directory away"
        with raises(LockFileError, repr(path + ".dogpile.lock"), hint, code=errno.EISDIR):
            use()
    os.rmdir(path + ".dogpile.lock")
    assert dogpile.refresh(nothing)


@pytest.mark.parametrize("in_use", [True, False], ids=["in use", "made anew"])
def test_a_directory_in_place_of_the_read_write_lock_file_raises_an_error(path: str, in_use: bool) -> None:
    dogpile = SyncReaderDogpile(3600, path)
    assert creations(dogpile) == 1
    make_directory(path + ".dogpile.rwlock")
    if not in_use:
        dogpile = SyncReaderDogpile(3600, path)

    def is_noticed() -> bool:
        try:
            with dogpile.acquire(unwanted):
                return False
        except LockFileError as error:
            tells(error, repr(path + ".dogpile.rwlock"), "Hint: move the directory away")
            return True

    wait_for(is_noticed, "the directory to be noticed", 5)  # for 10 ms a pass may trust the file
    for _ in range(2):
        with (
            raises(LockFileError, repr(path + ".dogpile.rwlock"), "Hint: move the directory", code=errno.EISDIR),
            dogpile.acquire_write_lock(),
        ):
            pass
    os.rmdir(path + ".dogpile.rwlock")
    with dogpile.acquire_write_lock():
        pass


# Limits.


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """This process cannot open any more files inside of the block."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], 256), limits[1]))
    fillers: list[int] = []
    try:
        while True:
            try:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
            except OSError as error:
                if error.errno != errno.EMFILE:
                    raise
                break
        yield
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def descriptors() -> list[str]:
    """What this process has open."""
    gc.collect()
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the directory that was listed
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(links)


@both_dogpiles
def test_too_many_open_files_raise_an_error_and_later_calls_work(
    kind: type[Dogpile], path: str, processes: Processes
) -> None:
    def run_out() -> None:
        dogpile = kind(3600, path)
        before = descriptors()
        seen: list[Exception] = []
        with no_descriptors_left():
            for use in (
                lambda: dogpile.refresh(unwanted),
                lambda: dogpile.acquire(unwanted).__enter__(),
                dogpile.invalidate,
                *uses_of_locks(path + ".other"),
            ):
                with pytest.raises((LockFileError, SidecarError)) as caught:
                    use()
                seen.append(caught.value)
        for error in seen:
            assert isinstance(error, OSError)
            assert error.errno == errno.EMFILE, error
            tells(error, repr(path)[:-1], "Hint: raise this process's limit of open files (ulimit -n)")
        assert descriptors() == before
        assert creations(dogpile) == 1

    processes.start(run_out)
    processes.join()
    assert Dogpile(3600, path).status().state == "fresh"


@both_dogpiles
def test_an_object_in_use_passes_without_another_descriptor(
    kind: type[Dogpile], path: str, processes: Processes
) -> None:
    def run_out() -> None:
        dogpile = kind(3600, path)
        assert creations(dogpile) == 1
        with dogpile.acquire():
            pass
        before = descriptors()
        with no_descriptors_left():
            time.sleep(0.02)  # so that the path is looked at again
            for _ in range(3):
                with dogpile.acquire(unwanted):
                    pass
        assert descriptors() == before

    processes.start(run_out)
    processes.join()


@both_dogpiles
def test_a_stamp_that_fails_for_want_of_descriptors_leaves_the_old_createdtime_and_the_mutex_free(
    kind: type[Dogpile], path: str, processes: Processes
) -> None:
    def run_out() -> None:
        dogpile = kind(3600, path)
        dogpile.createdtime = 1000.0
        with no_descriptors_left():
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))

            def creator() -> None:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)

            with raises(SidecarError, repr(path + ".dogpile"), "Hint: raise this process's limit"):
                dogpile.refresh(creator)
        assert dogpile.createdtime == 1000.0
        assert not dogpile.status().creating
        assert creations(dogpile) == 1

    processes.start(run_out)
    processes.join()


# Descriptors.


def test_no_descriptor_leaks_over_a_thousand_passes_creations_and_errors(path: str) -> None:
    plain, reading = Dogpile(3600, path), SyncReaderDogpile(3600, path)
    other = Dogpile(3600, path)
    mutex, lock = FileMutex(path + ".lock"), ReadWriteFileLock(path + ".rwlock")

    def fail() -> None:
        raise ZeroDivisionError

    def swap() -> None:
        with reading.acquire_write_lock():
            pass

    def use_everything() -> None:
        for dogpile, creator in ((plain, nothing), (reading, swap)):
            with dogpile.acquire(creator):
                pass
            dogpile.refresh(creator, force=True)
            with pytest.raises(ZeroDivisionError):
                dogpile.refresh(fail, force=True)
            dogpile.invalidate()
            with dogpile.acquire(creator):
                assert dogpile.status().state == "fresh"
        with FileMutex(path + ".dogpile.lock"):
            other.invalidate()
            assert not other.refresh(unwanted)
            other.invalidate(hard=True)
            for use in (
                lambda: other.acquire(unwanted, timeout=0).__enter__(),
                lambda: other.dogpilelock.acquire(timeout=0),
            ):
                with pytest.raises(LockTimeout):
                    in_another_thread(use)
            assert other.dogpilelock.locked()
        with mutex, pytest.raises(WouldDeadlock):
            mutex.acquire()
        with lock.write(), pytest.raises(WouldDeadlock):
            lock.acquire_read_lock()
        with lock.read(), lock.read():
            assert not ReadWriteFileLock(lock.path).acquire_write_lock(wait=False)
        os.unlink(lock.path)
        os.unlink(path + ".dogpile")
        with reading.acquire(swap):
            pass
        for use_lock in uses_of_locks(path + "/beneath"):
            with pytest.raises(LockFileError):
                use_lock()

    for _ in range(3):
        use_everything()
    before = descriptors()
    # Some thirty passes, creations and errors each.
    for _ in range(35):
        use_everything()
    assert descriptors() == before


def test_no_descriptor_leaks_over_a_thousand_passes_that_are_fresh_or_stale(path: str) -> None:
    dogpiles = [Dogpile(3600, path), SyncReaderDogpile(3600, path)]
    for dogpile in dogpiles:
        dogpile.refresh(nothing, force=True)
        with dogpile.acquire():
            pass
    before = descriptors()
    for state in ("fresh", "stale"):
        for dogpile in dogpiles:
            assert dogpile.status().state == state
            for _ in range(500):
                with dogpile.acquire():
                    pass
        dogpiles[0].invalidate()
    assert descriptors() == before


def test_no_descriptor_is_left_when_objects_are_dropped(path: str) -> None:
    before = descriptors()
    for number in range(20):
        dogpile = SyncReaderDogpile(3600, f"{path}.{number}")
        with dogpile.acquire(nothing):
            pass
        assert FileMutex(path + ".lock").acquire(wait=False), "a dropped mutex is still locked"
        assert ReadWriteFileLock(path + ".rwlock").acquire_write_lock(wait=False), "a dropped lock is still locked"
    del dogpile
    assert descriptors() == before


# Giving back what one does not hold.


def in_another_thread(action: Callable[[], object]) -> object:
    return promptly(action)


def test_a_mutex_that_is_not_held_is_not_released(path: str) -> None:
    mutex, other = FileMutex(path), FileMutex(path)
    with raises(NotHeld, repr(path), "acquire it first"):
        mutex.release()
    with other:
        with raises(NotHeld, repr(path), "acquire it first"):
            mutex.release()
        assert mutex.locked()
    assert mutex.acquire(wait=False)
    mutex.release()
    with raises(NotHeld, repr(path)):
        mutex.release()


def test_a_mutex_may_be_released_by_another_thread(path: str) -> None:
    mutex = FileMutex(path)
    mutex.acquire()
    in_another_thread(mutex.release)
    assert not mutex.locked()


def test_a_read_lock_that_is_not_held_is_not_released(path: str) -> None:
    lock = ReadWriteFileLock(path)
    with raises(NotHeld, repr(path), "acquire it first"):
        lock.release_read_lock()
    with lock.read():
        with raises(NotHeld, repr(path), "acquire it first"):
            in_another_thread(lock.release_read_lock)
        with raises(NotHeld, repr(path)):
            lock.release_write_lock()
        with raises(NotHeld, repr(path)):
            ReadWriteFileLock(path).release_read_lock()
        assert not ReadWriteFileLock(path).acquire_write_lock(wait=False)
    with raises(NotHeld, repr(path)):
        lock.release_read_lock()


def test_a_write_lock_that_is_not_held_is_not_released(path: str) -> None:
    lock = ReadWriteFileLock(path)
    with raises(NotHeld, repr(path), "acquire it first"):
        lock.release_write_lock()
    with lock.write():
        with raises(NotHeld, repr(path), "acquire it first"):
            in_another_thread(lock.release_write_lock)
        with raises(NotHeld, repr(path)):
            lock.release_read_lock()
        with raises(NotHeld, repr(path)):
            ReadWriteFileLock(path).release_write_lock()
        assert not ReadWriteFileLock(path).acquire_read_lock(wait=False)
    with raises(NotHeld, repr(path)):
        lock.release_write_lock()


def test_locks_of_thread_scope_that_are_not_held_are_not_released() -> None:
    dogpile = SyncReaderDogpile(3600)
    with raises(NotHeld, "acquire it first"):
        dogpile.dogpilelock.release()
    with raises(NotHeld, "acquire it first"):
        dogpile.readwritelock.release_write_lock()
    dogpile.readwritelock.acquire_write_lock()
    in_another_thread(dogpile.readwritelock.release_write_lock)  # any thread may
    with raises(NotHeld, "acquire it first"):
        in_another_thread(dogpile.readwritelock.release_write_lock)


# Waiting for oneself.


class MyMutex(FileMutex):
    """A user's own kind of mutex."""


class MyLock(ReadWriteFileLock):
    """A user's own kind of lock."""


def ways_to_wait(dogpile: Dogpile) -> list[Callable[[], object]]:
    """For a creation, that is, while there is nothing yet."""
    return [
        lambda: dogpile.acquire(unwanted).__enter__(),
        lambda: dogpile.acquire().__enter__(),
        lambda: dogpile.refresh(unwanted),
        lambda: dogpile.refresh(unwanted, force=True),
    ]


@pytest.mark.parametrize("kind", [FileMutex, MyMutex])
def test_a_mutex_within_itself_would_wait_for_ever(kind: type[FileMutex], path: str) -> None:
    def enter_twice() -> None:
        with kind(path) as mutex:
            for inner in (mutex, kind(path), FileMutex(path)):
                with raises(WouldDeadlock, repr(path), "Hint: do not acquire it again inside"):
                    inner.acquire()
                with raises(LockTimeout, repr(path)):  # another thread may have given it back by then
                    inner.acquire(timeout=0)
                assert not inner.acquire(wait=False)
            assert mutex.held

    promptly(enter_twice)
    assert not FileMutex(path).locked()


def test_a_mutex_within_itself_through_a_hard_link_would_wait_for_ever_as_well(path: str) -> None:
    def enter_twice() -> None:
        with FileMutex(path):
            os.link(path, path + ".link")
            with raises(WouldDeadlock, repr(path + ".link"), "Hint: "):
                FileMutex(path + ".link").acquire()

    promptly(enter_twice)


@both_dogpiles
@pytest.mark.parametrize("scope", ["process", "thread"])
def test_an_acquire_in_its_own_first_creator_would_wait_for_ever(
    kind: type[Dogpile], scope: str, path: str
) -> None:
    dogpile = kind(3600, path if scope == "process" else None)
    also = kind(3600, path) if scope == "process" else dogpile
    errors: list[str] = []

    def creator() -> None:
        for inner in (dogpile, also):
            for use in ways_to_wait(inner):
                with pytest.raises(WouldDeadlock) as caught:
                    use()
                errors.append(str(caught.value))

    promptly(lambda: dogpile.refresh(creator))
    assert len(errors) == 8
    for error in errors:
        assert "would wait for itself" in error
        assert "Hint: " in error
        assert scope == "thread" or repr(path + ".dogpile.lock") in error
    assert dogpile.status().state == "fresh"


@both_dogpiles
@pytest.mark.parametrize("scope", ["process", "thread"])
def test_with_a_borrowed_lock_an_acquire_in_its_own_creator_would_wait_for_ever_as_well(
    kind: type[Dogpile], scope: str, path: str
) -> None:
    dogpile = kind(3600, path if scope == "process" else None, lock=threading.Lock())

    def creator() -> None:
        for use in ways_to_wait(dogpile):
            with raises(WouldDeadlock, "would wait for itself", "Hint: "):
                use()

    promptly(lambda: dogpile.refresh(creator))
    assert dogpile.status().state == "fresh"


@pytest.mark.parametrize("kind", [ReadWriteFileLock, MyLock])
@pytest.mark.parametrize("same", [True, False], ids=["same object", "second object"])
def test_of_read_and_write_only_reads_nest(path: str, same: bool, kind: type[ReadWriteFileLock]) -> None:
    def nest() -> None:
        lock = kind(path)
        inner = lock if same else ReadWriteFileLock(path)
        with lock.read():
            with inner.read():
                pass
            with raises(WouldDeadlock, repr(path), "as a reader", "Hint: leave the block before you write"):
                inner.acquire_write_lock()
            with raises(LockTimeout, repr(path)):
                inner.acquire_write_lock(timeout=0)
            assert not inner.acquire_write_lock(wait=False)
        with lock.write():
            with raises(WouldDeadlock, repr(path), "as the writer", "Hint: leave the block before you write"):
                inner.acquire_write_lock()
            with raises(WouldDeadlock, repr(path), "as the writer", "Hint: leave the block before you read"):
                inner.acquire_read_lock()
            for acquire in (inner.acquire_write_lock, inner.acquire_read_lock):
                with raises(LockTimeout, repr(path)):
                    acquire(timeout=0)
            assert not inner.acquire_write_lock(wait=False)
            assert not inner.acquire_read_lock(wait=False)
        with inner.write():
            pass

    promptly(nest)
    assert ReadWriteFileLock(path).acquire_write_lock(wait=False)


@pytest.mark.parametrize("scope", ["process", "thread"])
def test_a_writer_inside_its_own_pass_and_a_pass_inside_its_own_write_would_wait_for_ever(
    scope: str, path: str
) -> None:
    dogpile = SyncReaderDogpile(3600, path if scope == "process" else None)
    also = SyncReaderDogpile(3600, path) if scope == "process" else dogpile
    dogpile.refresh(nothing)

    def nest() -> None:
        for inner in (dogpile, also):
            with (
                dogpile.acquire(unwanted),
                raises(WouldDeadlock, "Hint: leave the block before you write"),
                inner.acquire_write_lock(),
            ):
                pass
            with (
                dogpile.acquire_write_lock(),
                raises(WouldDeadlock, "Hint: leave the block before you read"),
                inner.acquire(unwanted),
            ):
                pass
            with (
                dogpile.acquire_write_lock(),
                raises(WouldDeadlock, "Hint: leave the block before you write"),
                inner.acquire_write_lock(),
            ):
                pass

    promptly(nest)
    with dogpile.acquire_write_lock(timeout=0):
        pass


def test_a_lock_that_another_thread_holds_is_waited_for(path: str) -> None:
    with FileMutex(path) as mutex, pytest.raises(LockTimeout):
        in_another_thread(lambda: mutex.acquire(timeout=0.01))
    lock = ReadWriteFileLock(path + ".rwlock")
    with lock.write(), pytest.raises(LockTimeout):
        in_another_thread(lambda: lock.acquire_read_lock(timeout=0.01))
    with lock.read(), pytest.raises(LockTimeout):
        in_another_thread(lambda: lock.acquire_write_lock(timeout=0.01))


def test_a_thread_that_would_wait_for_itself_gets_an_error_while_others_make_and_drop_locks(
    path: str, request: pytest.FixtureRequest
) -> None:
    interval = sys.getswitchinterval()
    request.addfinalizer(lambda: sys.setswitchinterval(interval))
    sys.setswitchinterval(1e-6)
    enough = threading.Event()

    def make_and_drop() -> None:
        while not enough.is_set():
            FileMutex(path + ".other")
            ReadWriteFileLock(path + ".other")

    some = [(FileMutex(path + ".some"), ReadWriteFileLock(path + ".some")) for _ in range(1000)]
    mutex, lock = FileMutex(path), ReadWriteFileLock(path + ".rwlock")
    thread = threading.Thread(target=make_and_drop)
    thread.start()
    try:
        with mutex, lock.write():
            for _ in range(300):
                with raises(WouldDeadlock):
                    mutex.acquire()
                with raises(WouldDeadlock):
                    lock.acquire_write_lock()
    finally:
        enough.set()
        thread.join()
    assert len(some) == 1000


# Creators that fail.


class Odd(BaseException):
    """What no ``except Exception`` catches."""


@both_dogpiles
@pytest.mark.parametrize("scope", ["process", "thread"])
@pytest.mark.parametrize(
    "kind_of_error", [ZeroDivisionError, OSError, LockTimeout, KeyboardInterrupt, SystemExit, Odd]
)
def test_an_exception_of_the_creator_reaches_its_caller_and_changes_nothing(
    kind_of_error: type[BaseException], scope: str, kind: type[Dogpile], path: str
) -> None:
    dogpile = kind(3600, path if scope == "process" else None)
    error = kind_of_error("the very same")

    def fail() -> None:
        raise error

    def use_in_all_ways() -> None:
        for use in (
            lambda: dogpile.acquire(fail).__enter__(),
            lambda: dogpile.refresh(fail),
            lambda: dogpile.refresh(fail, force=True),
        ):
            with pytest.raises(kind_of_error) as caught:
                use()
            assert caught.value is error
            assert caught.value.__cause__ is None
            assert caught.value.__context__ is None
            assert dogpile.dogpilelock.acquire(wait=False), "the mutex is not free"
            dogpile.dogpilelock.release()

    use_in_all_ways()
    assert dogpile.status().state == "missing"
    assert dogpile.createdtime == -1
    assert dogpile.status().generation == 0

    dogpile.createdtime = 1000.0
    use_in_all_ways()
    assert dogpile.createdtime == 1000.0
    assert dogpile.status().generation == 1
    assert dogpile.status().state == "stale"

    assert creations(dogpile) == 1
    assert dogpile.status().state == "fresh"


def test_a_creator_that_fails_inside_the_write_lock_releases_it(path: str) -> None:
    dogpile = SyncReaderDogpile(3600, path)
    dogpile.createdtime = 1000.0

    def fail() -> None:
        with dogpile.acquire_write_lock():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), dogpile.acquire(fail):
        pass
    assert dogpile.createdtime == 1000.0
    with SyncReaderDogpile(3600, path).acquire(timeout=0):
        pass


def test_an_exception_of_the_block_reaches_its_caller_and_the_creation_counts(path: str) -> None:
    dogpile = SyncReaderDogpile(3600, path)
    error = ZeroDivisionError("the very same")
    with pytest.raises(ZeroDivisionError) as caught, dogpile.acquire(nothing):
        raise error
    assert caught.value is error
    assert dogpile.status().state == "fresh"
    with dogpile.acquire_write_lock(timeout=0):
        pass


@pytest.mark.parametrize("trouble", [make_directory, make_newer, None], ids=["directory", "newer", "locked"])
def test_a_sidecar_that_cannot_be_written_does_not_hide_the_exception_of_the_block(
    trouble: Callable[[str], None] | None, path: str, logged: pytest.LogCaptureFixture
) -> None:
    dogpile = Dogpile(3600, path, timeout=0.02)
    assert creations(dogpile) == 1
    error = NeedRegenerationException()

    def miss() -> None:
        with dogpile.acquire():
            if trouble is not None:
                trouble(path + ".dogpile")
            raise error

    fd = os.open(path + ".dogpile", os.O_RDONLY)
    if trouble is None:
        flock(fd, LOCK_EX)
    with pytest.raises(NeedRegenerationException) as caught:
        miss()
    os.close(fd)
    assert caught.value is error
    assert repr(path + ".dogpile") in logged.messages[-1]
