"""Waiting for a change of a file that no process has locked."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import pytest

from dogpile_fs._os import watch
from dogpile_fs._os.waiting import FOREVER, Deadline
from dogpile_fs._os.watch import wait_for_change
from tests.support.processes import PATIENCE, ended_well, in_child, wait_for


def test_it_does_not_wait_if_the_change_came_before_the_watch(path: str) -> None:
    wait_for_change(path, lambda: True, FOREVER)


@pytest.mark.parametrize("change", ["make", "write", "move"])
def test_it_wakes_when_the_file_is_made_written_or_moved_there(tmp_path: Path, change: str) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    if change != "make":
        (file if change == "write" else other).write_text("old")
    asked, woken = threading.Event(), threading.Event()

    def unchanged() -> bool:
        asked.set()
        return False

    def wait() -> None:
        wait_for_change(str(file), unchanged, FOREVER)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    asked.wait()
    assert not woken.wait(0.05)
    if change == "move":
        other.rename(file)
    else:
        file.write_text("new")
    assert woken.wait(30)
    thread.join()


def test_it_ends_at_its_deadline_and_leaks_no_descriptor(path: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for timeout in (0, 0.01):
        began = time.monotonic()
        wait_for_change(path, lambda: False, Deadline(timeout))
        assert time.monotonic() - began >= timeout
    assert len(os.listdir("/proc/self/fd")) == before


def test_where_nothing_can_be_watched_it_looks_again_soon(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "cooperative", lambda: True)
    for file in (path, path + " no such directory/file"):
        looks: list[float] = []

        def has_changed(looks: list[float] = looks) -> bool:
            looks.append(time.monotonic())
            return len(looks) == 4

        wait_for_change(file, has_changed, FOREVER)
        assert len(looks) == 4
        assert looks[-1] - looks[0] >= 0.03


def instances() -> int:
    """Return how many instances of inotify this process has."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return links.count("anon_inode:inotify")


class Waiting:
    """Threads that each wait for a change of a file, until it is there."""

    def __init__(self, files: list[Path]) -> None:
        self.looked: set[int] = set()
        self.woken: set[int] = set()
        self.threads = [threading.Thread(target=self._wait, args=each) for each in enumerate(files)]
        for thread in self.threads:
            thread.start()
        wait_for(lambda: len(self.looked) == len(files), "the first look of all")

    def _wait(self, number: int, file: Path) -> None:
        def is_there() -> bool:
            self.looked.add(number)
            return file.exists()

        while not file.exists():
            wait_for_change(str(file), is_there, FOREVER)
        self.woken.add(number)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_all_waits_of_a_process_take_one_instance_of_inotify_and_leave_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_LONGEST", PATIENCE)  # none wakes by a look of its own, once a second
    directories = [tmp_path / str(number) for number in range(4)]
    for directory in directories:
        directory.mkdir()
    waiting = Waiting([directory / "file" for directory in directories for _ in range(40)])
    assert instances() == 1
    for number, directory in enumerate(directories, 1):
        (directory / "file").touch()
        wait_for(lambda number=number: len(waiting.woken) == 40 * number, "those of one directory")  # type: ignore[misc]
    waiting.join()
    assert instances() == 0


@pytest.mark.forks_among_threads
def test_a_child_makes_an_instance_of_its_own(tmp_path: Path) -> None:
    waiting = Waiting([tmp_path / "parents"] * 3)

    def child() -> None:
        assert instances() == 0
        waiting_there = Waiting([tmp_path / "childs"] * 3)
        assert instances() == 1
        (tmp_path / "childs").touch()
        waiting_there.join()

    pid = in_child(child)
    assert ended_well(pid)
    assert len(waiting.woken) == 0
    (tmp_path / "parents").touch()
    waiting.join()


def test_an_instance_that_another_part_of_the_program_has_closed_is_made_anew(tmp_path: Path) -> None:
    waiting = Waiting([tmp_path / "file"] * 3)
    inotify = watch._lookouts[watch._Watching]._inotify  # type: ignore[attr-defined]
    with open(os.devnull) as other:
        os.dup2(other.fileno(), inotify.fd)  # its number belongs to another file now
    wait_for(lambda: instances() == 1, "another instance")
    (tmp_path / "file").touch()
    waiting.join()


def test_without_inotify_two_hundred_waits_take_a_small_part_of_a_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "cooperative", lambda: True)
    looks = [0]
    done = threading.Event()

    def slow_look() -> bool:
        looks[0] += 1
        return done.is_set()

    def wait(number: int) -> None:
        while not done.is_set():
            wait_for_change(str(tmp_path / str(number % 2)), slow_look, FOREVER)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    wait_for(lambda: looks[0] >= 200, "the first look of all")
    before, began, used = looks[0], time.monotonic(), time.process_time()
    time.sleep(2)
    seconds = time.monotonic() - began
    # Two looks each 10 ms for two paths, and one look a second of each thread of its own.
    assert looks[0] - before <= (2 * 100 + 2 * 200) * seconds + 400
    assert time.process_time() - used < 0.3 * seconds
    done.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
