from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from dogpile_fs._os import watch as watching
from dogpile_fs._os.waiting import FOREVER, Deadline
from dogpile_fs._os.watch import wait_for_change
from tests.support.processes import wait_for


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


def test_where_nothing_can_be_watched_it_looks_again_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_change(str(tmp_path / "no such directory" / "file"), lambda: False, FOREVER)
    monkeypatch.setattr(watching, "cooperative", lambda: True)
    looks = [0]

    def looked_thrice() -> bool:
        wait_for_change(str(tmp_path / "file"), lambda: False, FOREVER)
        looks[0] += 1
        return looks[0] == 3

    wait_for(looked_thrice, "three looks")
