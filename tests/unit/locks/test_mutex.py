"""FileMutex: one holder at a time."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest

from dogpile_fs import FileMutex, LockTimeout, NotHeld, WouldDeadlock
from dogpile_fs._os.waiting import FOREVER, NOW, Deadline
from tests.support.processes import Processes, Record, overlaps


def test_only_one_of_two_objects_holds_it(path: str) -> None:
    one, other = FileMutex(path), FileMutex(path)
    assert one.acquire()
    assert not other.acquire(wait=False)
    assert not one.acquire(wait=False)
    one.release()
    assert other.acquire(wait=False)


def test_a_with_block_holds_it_and_gives_it_back_after_an_error(path: str) -> None:
    mutex = FileMutex(path)
    with pytest.raises(ZeroDivisionError), mutex:
        1 / int(not mutex.held)
    assert not mutex.held
    assert not mutex.locked()


def test_locked_reports_any_holder_and_makes_no_file(path: str) -> None:
    mutex, other = FileMutex(path), FileMutex(path)
    assert not mutex.locked()
    assert not os.path.exists(path)
    with other:
        assert mutex.locked()
        assert other.locked()
        assert not mutex.held
    assert not mutex.locked()


def test_any_thread_may_release_it(path: str) -> None:
    mutex = FileMutex(path)
    mutex.acquire()
    thread = threading.Thread(target=mutex.release)
    thread.start()
    thread.join()
    assert mutex.acquire(wait=False)


def test_releasing_it_unheld_is_an_error_that_names_the_path(path: str) -> None:
    mutex = FileMutex(path)
    with pytest.raises(NotHeld, match=path):
        mutex.release()
    with mutex, pytest.raises(NotHeld):
        FileMutex(path).release()


def test_acquiring_it_twice_in_one_thread_would_deadlock(path: str) -> None:
    mutex = FileMutex(path)
    with mutex:
        with pytest.raises(WouldDeadlock, match=path):
            mutex.acquire()
        with pytest.raises(WouldDeadlock):
            FileMutex(path).acquire()
        with pytest.raises(LockTimeout):  # with a bound it is no deadlock: another thread may release it
            FileMutex(path).acquire(timeout=0.05)
        with FileMutex(path + ".other"):
            pass


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_a_wait_ends_at_its_timeout_and_holds_nothing(path: str, timeout: float) -> None:
    with FileMutex(path):
        outcome: list[BaseException | bool] = []

        def wait() -> None:
            began = time.monotonic()
            try:
                FileMutex(path, timeout=timeout).acquire()
            except LockTimeout as error:
                outcome.append(error)
            outcome.append(time.monotonic() - began >= timeout)

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(30)
    assert isinstance(outcome[0], TimeoutError)
    assert path in str(outcome[0])
    assert outcome[1] is True
    assert FileMutex(path).acquire(wait=False)


def test_a_timeout_given_to_the_call_counts_before_the_objects(path: str) -> None:
    mutex = FileMutex(path, timeout=3600)
    holder = FileMutex(path)
    thread = threading.Thread(target=holder.acquire)
    thread.start()
    thread.join()
    with pytest.raises(LockTimeout, match=r"0\.01 s"):
        mutex.acquire(timeout=0.01)
    holder.release()
    assert FileMutex(path, timeout=0.01).acquire(timeout=None)


@pytest.mark.parametrize("timeout", [None, 30])
def test_a_waiter_takes_it_when_the_holder_releases_it(path: str, timeout: float | None) -> None:
    holder, waiter = FileMutex(path), FileMutex(path)
    holder.acquire()
    thread = threading.Thread(target=waiter.acquire, kwargs={"timeout": timeout})
    thread.start()
    time.sleep(0.01)
    holder.release()
    thread.join(30)
    assert waiter.held


def test_waiting_for_its_release_does_not_take_it(path: str) -> None:
    mutex, other = FileMutex(path), FileMutex(path)
    assert mutex._wait_released(FOREVER)
    assert not os.path.exists(path)
    with other:
        done: list[bool] = []
        threads = [threading.Thread(target=lambda: done.append(mutex._wait_released(FOREVER))) for _ in range(5)]
        for thread in threads:
            thread.start()
        outcome: list[bool] = []
        thread = threading.Thread(target=lambda: outcome.append(mutex._wait_released(NOW)))
        thread.start()
        thread.join()
        assert (done, outcome) == ([], [False])
        with pytest.raises(WouldDeadlock):
            mutex._wait_released(FOREVER)
    for thread in threads:
        thread.join(30)
    assert done == [True] * 5
    assert mutex.acquire(wait=False)


def test_one_try_succeeds_beside_callers_that_only_look(path: str) -> None:
    mutex, looker = FileMutex(path), FileMutex(path)
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            looker.locked()

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        wins = 0
        for _ in range(300):
            if mutex.acquire(wait=False):
                wins += 1
                mutex.release()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    # All of them but for a looker that the scheduler stops for milliseconds in the middle of a look.
    assert wins >= 285


def test_it_excludes_filelock_and_flock(path: str) -> None:
    mutex = FileMutex(path)
    with mutex:
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(path).acquire(blocking=False)
        assert subprocess.run(["flock", "--nonblock", path, "true"], check=False).returncode == 1
    with filelock.FileLock(path):
        assert not mutex.acquire(wait=False)
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not mutex.acquire(wait=False)


def _hold_repeatedly(path: str, record: Record) -> None:
    mutex = FileMutex(path)
    for _ in range(60):
        with mutex:
            record.write("hold")
            record.write("held")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_hold_it_one_at_a_time(path: str, record: Record, processes: Processes, method: str) -> None:
    processes.start_many(4, _hold_repeatedly, path, record, method=method)
    processes.join()
    holds = record.spans("hold", "held")
    assert len(holds) == 240
    assert overlaps(holds, holds) == []


def test_many_threads_of_one_object_hold_it_one_at_a_time(path: str) -> None:
    mutex = FileMutex(path)
    inside = [0]
    worst = [0]

    def hold() -> None:
        for _ in range(50):
            with mutex:
                inside[0] += 1
                worst[0] = max(worst[0], inside[0])
                time.sleep(0)
                inside[0] -= 1

    threads = [threading.Thread(target=hold) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == [1]


@pytest.mark.parametrize("timeout", [None, 30])
def test_a_caller_that_waits_for_a_release_also_waits_for_flock_which_locks_no_hold_byte(
    path: str, timeout: float | None
) -> None:
    mutex = FileMutex(path)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert mutex.locked()
        assert not mutex._wait_released(NOW)
        done: list[bool] = []
        thread = threading.Thread(target=lambda: done.append(mutex._wait_released(Deadline(timeout))))
        thread.start()
        thread.join(0.05)
        assert done == []
        fcntl.flock(file, fcntl.LOCK_UN)
        thread.join(30)
    assert done == [True]


def test_a_caller_that_blocks_on_a_file_that_is_replaced_starts_over(path: str) -> None:
    mutex = FileMutex(path)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=mutex.acquire)
        thread.start()
        thread.join(0.05)
        os.unlink(path)
        assert not mutex.held
        fcntl.flock(file, fcntl.LOCK_UN)
        thread.join(30)
    assert mutex.held
    assert not FileMutex(path).acquire(wait=False)


_ASKED = """
import sys
from dogpile_fs import DataDirectory, Datafile, Dogpile, FileMutex

def create(target):
    with open(target, "w") as file:
        file.write("created")

def asked(*, refresh):
    mutex, dogpile = FileMutex("mutex"), Dogpile(3600, "value")
    directory = DataDirectory("directory", 3600, create)
    datafile = Datafile("file", 3600, create)
    if refresh:
        datafile.refresh()
    datafile.status(), dogpile.status(), mutex.locked()
    if datafile.status().state == "fresh":
        with datafile.open() as file:
            file.read()
        datafile.load(lambda file: file.read())
    return "filelock" in sys.modules

print(asked(refresh=REFRESH), asked(refresh=True))
"""


def _said(place: Path, script: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, check=True, text=True
    ).stdout.strip()


@pytest.mark.parametrize("before", ["missing", "fresh"])
def test_filelock_is_imported_when_a_mutex_is_taken_first_and_not_before(tmp_path: Path, before: str) -> None:
    def said(refresh: bool) -> list[str]:
        return _said(tmp_path, _ASKED.replace("REFRESH", str(refresh))).split()

    if before == "fresh":
        assert said(refresh=True) == ["True", "True"]
        assert said(refresh=False) == ["False", "False"], "a refresh of what is fresh takes none either"
    else:
        assert said(refresh=False) == ["False", "True"]


_IN_ITS_IMPORT = """
import os, signal, sys, threading
from dogpile_fs import FileMutex

def look(event, details):
    if event == "exec" and "filelock" in str(details[0]) and not met:
        met.append("filelock")
        meet()

met = []
sys.addaudithook(look)
other = FileMutex("mutex")

def take_the_other():
    with other:
        return FileMutex("mutex").acquire(wait=False)
"""

_BY_A_SIGNAL_HANDLER = """
seen = []
signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(take_the_other()))
meet = lambda: os.kill(os.getpid(), signal.SIGUSR1)
"""

_IN_A_CHILD = """
begun, go_on, seen = threading.Event(), threading.Event(), []

def meet():
    begun.set()
    assert go_on.wait(60)

def fork():
    assert begun.wait(60)
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        os._exit(take_the_other())
    seen.append(os.waitpid(pid, 0)[1])
    go_on.set()

threading.Thread(target=fork).start()
"""


@pytest.mark.parametrize("how", [_BY_A_SIGNAL_HANDLER, _IN_A_CHILD], ids=["signal", "fork"])
def test_a_mutex_is_taken_in_the_middle_of_the_import_of_filelock(tmp_path: Path, how: str) -> None:
    script = f"{_IN_ITS_IMPORT}{how}with FileMutex('first'): print(met, seen, 'filelock' in sys.modules)"
    assert _said(tmp_path, script) == f"['filelock'] [{'0' if 'fork' in how else 'False'}] True"


def test_a_process_that_can_no_longer_import_filelock_takes_mutexes_all_the_same(tmp_path: Path) -> None:
    script = """
import sys
from dogpile_fs import Datafile, FileMutex
path, sys.path[:], sys.path_importer_cache = sys.path[:], [], {}
first, second = FileMutex("mutex"), FileMutex("mutex")
with first:
    taken = second.acquire(wait=False)
again = second.acquire(wait=False)
sys.path[:] = path
from filelock import FileLock, Timeout
try:
    FileLock("mutex").acquire(blocking=False)
except Timeout:
    print(taken, again, "excluded")
"""
    assert _said(tmp_path, script) == "False True excluded"
