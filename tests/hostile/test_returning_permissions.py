"""Permissions that come back right after the system has refused a file: what is permitted by then is done."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import Datafile, Dogpile, FileMutex, LockFileError, ReadWriteFileLock
from tests.support.processes import Processes

from .test_broken_environments import Unprivileged, foreign, unprivileged

__all__ = ["foreign", "unprivileged"]  # fixtures


def enter(block: Any) -> None:
    with block:
        pass


def read(path: str) -> None:
    with Datafile(path, None).open("r") as file:
        assert file.read() == "made"


def known(path: str) -> None:
    assert Dogpile(3600, path).createdtime > 0


#: By what uses it: the file that is refused, and the use.
USES: dict[str, tuple[str, Callable[[str], object]]] = {
    "mutex": (".dogpile.lock", lambda path: enter(FileMutex(path + ".dogpile.lock"))),
    "mutex, asked": (".dogpile.lock", lambda path: FileMutex(path + ".dogpile.lock").locked()),
    "reader": (".dogpile.rwlock", lambda path: enter(ReadWriteFileLock(path + ".dogpile.rwlock").read())),
    "writer": (".dogpile.rwlock", lambda path: enter(ReadWriteFileLock(path + ".dogpile.rwlock").write())),
    "sidecar, read": (".dogpile", known),
    "sidecar, written": (".dogpile", lambda path: Dogpile(3600, path).invalidate()),
    "datafile": ("", read),
}


@contextmanager
def coming_back(path: str, as_owner: Callable[[Callable[[], None]], None]) -> Iterator[list[str]]:
    """Take the permissions of *path* away, and have them come back after each time that the system refuses it."""
    refused: list[str] = []
    real = os.open

    def opening(name: Any, *arguments: Any, **options: Any) -> int:
        try:
            return real(name, *arguments, **options)
        except PermissionError:
            refused.append(name)
            as_owner(lambda: os.chmod(path, 0o666))
            raise

    as_owner(lambda: os.chmod(path, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", opening)
        yield refused


def as_itself(action: Callable[[], None]) -> None:
    action()


def as_root(action: Callable[[], None]) -> None:
    user = os.geteuid()
    os.seteuid(0)
    try:
        action()
    finally:
        os.seteuid(user)


def make_all(path: str) -> None:
    Path(path).write_text("made")
    for suffix in (".dogpile.lock", ".dogpile.rwlock"):
        Path(path + suffix).touch(0o666)
    Dogpile(3600, path).createdtime = time.time()


@pytest.mark.parametrize("use", USES)
def test_a_file_of_ones_own_that_is_permitted_again_is_used(unprivileged: Unprivileged, use: str) -> None:
    unprivileged.writable()
    suffix, action = USES[use]

    def run() -> None:
        logged: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("dogpile_fs").addHandler(handler)
        make_all(unprivileged.path)
        with coming_back(unprivileged.path + suffix, as_itself) as refused:
            action(unprivileged.path)
        assert refused
        assert not logged

    unprivileged.run(run)


@pytest.mark.parametrize("use", USES)
def test_a_file_of_another_user_that_is_permitted_again_is_used(foreign: Unprivileged, use: str) -> None:
    foreign.writable()
    suffix, action = USES[use]
    make_all(foreign.path)
    for each in USES.values():
        os.chmod(foreign.path + each[0], 0o666)

    def run() -> None:
        with coming_back(foreign.path + suffix, as_root) as refused:
            action(foreign.path)
        assert refused

    foreign.run(run)


def test_a_directory_that_is_permitted_again_gets_its_lock_file(foreign: Unprivileged) -> None:
    def run() -> None:
        refused: list[object] = []
        real = os.open

        def opening(name: Any, *arguments: Any, **options: Any) -> int:
            try:
                return real(name, *arguments, **options)
            except PermissionError as error:
                refused.append(error)
                as_root(lambda: foreign.directory.chmod(0o777))
                raise

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", opening)
            assert Dogpile(3600, foreign.path).refresh(lambda: None)
        assert len(refused) == 1

    foreign.read_only()
    foreign.run(run)


def test_locks_whose_permissions_come_and_go_are_taken(unprivileged: Unprivileged, processes: Processes) -> None:
    """As above, with the system's own timing: several processes take the lock, and each takes its bits away."""
    unprivileged.writable()
    path = unprivileged.path + ".dogpile.lock"

    def run() -> None:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            os.chmod(path, 0o060)
            with FileMutex(path, timeout=60):
                pass
            assert stat.S_IMODE(os.stat(path).st_mode) in (0o060, 0o660)
            Dogpile(3600, unprivileged.path).invalidate()
            os.chmod(unprivileged.path + ".dogpile", 0)

    def start() -> None:
        Path(path).touch()
        Path(unprivileged.path + ".dogpile").touch()

    unprivileged.run(start)
    started = [unprivileged.start(run) for _ in range(4)]
    processes.join(*started)


def test_a_file_that_stays_refused_is_an_error_after_few_tries(foreign: Unprivileged) -> None:
    make_all(foreign.path)
    os.chmod(foreign.path + ".dogpile.lock", 0)

    def run() -> None:
        opened: list[object] = []
        real = os.open

        def opening(*arguments: Any, **options: Any) -> int:
            opened.append(arguments)
            return real(*arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", opening)
            with pytest.raises(LockFileError, match="Permission denied; it has mode 0000"):
                FileMutex(foreign.path + ".dogpile.lock").acquire()
        assert len(opened) <= 3

    foreign.run(run)


def test_a_sidecar_that_has_one_name_again_is_written(foreign: Unprivileged) -> None:
    sidecar = foreign.path + ".dogpile"
    make_all(foreign.path)
    os.chmod(sidecar, 0o666)
    os.link(sidecar, sidecar + ".second")
    foreign.read_only()

    def run() -> None:
        real = os.open

        def opening(*arguments: Any, **options: Any) -> int:
            try:
                return real(*arguments, **options)
            except PermissionError:  # to the file that would take its place
                as_root(lambda: os.unlink(sidecar + ".second"))
                raise

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", opening)
            Dogpile(3600, foreign.path).invalidate()
        assert Dogpile(3600, foreign.path).is_expired

    foreign.run(run)
