"""A creator that kills its process runs twice before its backoff; versions that were made at once expire apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dogpile_fs import Backoff, CreationFailed, Datafile
from tests.support import facade
from tests.support.processes import PATIENCE, Processes, Record, wait_for

from .creators import ROUNDS

_LONG = Backoff(initial=600, maximum=600)


def _kill_this_process(target: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _read(path: str, record: Record) -> None:
    """Be a reader whose creator kills it."""
    report = Datafile(path, 3600, _kill_this_process, backoff=_LONG)
    try:
        with report.open("r") as file:
            record.write("read", text=file.read())
    except CreationFailed as error:
        record.write("refused", failures=error.failures, kind=error.failed_type)


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("is_stale", [False, True])
def test_of_six_readers_two_die_at_most_of_a_creator_that_kills_its_process(
    path: str, record: Record, processes: Processes, is_stale: bool, number: int
) -> None:
    if is_stale:
        Path(path).write_text("old")
        os.utime(path, (1000, 1000))
    readers = processes.start_many(6, _read, path, record)
    for reader in readers:
        reader.join(PATIENCE)
    dead = [reader for reader in readers if reader.exitcode == -signal.SIGKILL]
    assert len(dead) <= 2
    assert len(dead) + sum(reader.exitcode == 0 for reader in readers) == 6
    status = Datafile(path, 3600).status()
    assert (status.failures, status.failed_type) == (len(dead), "died")
    if is_stale:
        assert [event.more["text"] for event in record.events("read")] == ["old"] * (6 - len(dead))
    else:
        assert len(dead) == 2
        assert [event.more for event in record.events("refused")] == [{"failures": 2, "kind": "died"}] * 4


def _run(path: str, *command: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "dogpile_fs", "run", "--expire", "1h", "--output", path, "--", *command]
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)


def test_deaths_of_a_reader_and_of_a_command_are_one_count(
    path: str, record: Record, processes: Processes
) -> None:
    reader = processes.start(_read, path, record)
    reader.join(PATIENCE)
    assert reader.exitcode == -signal.SIGKILL
    killed = _run(path, "sh", "-c", "kill -KILL $PPID; sleep 600")
    assert killed.returncode == -signal.SIGKILL
    # The watchdog ends COMMAND, and the mutex was the dead process's.
    wait_for(lambda: not Datafile(path).status().creating, "the end of the command")
    third = processes.start(_read, path, record)
    processes.join(third)
    (refused,) = record.events("refused")
    assert refused.more == {"failures": 2, "kind": "died"}
    for _ in range(2):
        held_back = _run(path, "touch", path + ".ran")
        assert held_back.returncode == 75, held_back
    assert not os.path.exists(path + ".ran")
    assert Datafile(path).status().failures_total == 2


_FILES, _EXPIRETIME, _JITTER = 200, 4.0, 0.2


def _datafiles(directory: Path, record: Record) -> list[Datafile]:
    def datafile(number: int) -> Datafile:
        def create(target: str) -> None:
            record.write("create", number=number)
            Path(target).write_text("made")

        return Datafile(directory / str(number), _EXPIRETIME, create, jitter=_JITTER, durable=False)

    return [datafile(number) for number in range(_FILES)]


def _serve(directory: Path, record: Record, seen: Record, begun: float) -> None:
    """Be a web process that reads all datafiles again and again, until each has expired.

    It pauses between two rounds: long before the first expires, and shortly while they do.
    """
    datafiles = _datafiles(directory, record)
    seen.write("seen", fresh_until=[each.status().fresh_until for each in datafiles])
    is_last = False
    while not is_last:
        age = time.time() - begun
        is_last = age >= 1.1 * _EXPIRETIME
        for each in datafiles:
            with each.open():
                pass
        time.sleep(0.1 if age < (1 - 2 * _JITTER) * _EXPIRETIME else 0.01)


def test_datafiles_that_were_made_at_once_expire_apart_and_all_processes_agree_when(
    tmp_path: Path, record: Record, processes: Processes
) -> None:
    directory, seen = tmp_path / "files", Record(tmp_path / "seen")
    directory.mkdir()
    datafiles = _datafiles(directory, Record(tmp_path / "first"))
    for each in datafiles:
        assert each.refresh()
    first = [each.status() for each in datafiles]
    begun = max(status.createdtime or 0.0 for status in first)
    readers = processes.start_many(3, _serve, directory, record, seen, begun)
    # Each of 600 passes may go through two threads, on a loaded machine.
    wait_for(lambda: not any(each.is_alive() for each in readers), "the end of the readers", 5 * PATIENCE)
    processes.join()

    moments = [status.fresh_until for status in first]
    views = [event.more["fresh_until"] for event in seen.events()]
    assert len(views) == 3
    for view in views:  # a process may have been so late that some have expired, and another has created
        assert all(there >= moment for there, moment in zip(view, moments, strict=True))
        same = sum(there == moment for there, moment in zip(view, moments, strict=True))
        assert same > _FILES / 2

    # When each one's next creation began, as a fraction of its lifetime.
    offset = time.time() - time.monotonic()
    next_at: dict[int, float] = {}
    for event in record.events("create"):
        next_at.setdefault(event.more["number"], event.at + offset)
    assert len(next_at) == _FILES
    drawn = []
    for number, status in enumerate(first):
        assert status.fresh_until is not None
        assert status.createdtime is not None
        drawn.append((status.fresh_until - status.createdtime) / _EXPIRETIME)
        assert next_at[number] >= status.fresh_until - 0.01, "created before its time"
    assert 1 - _JITTER <= min(drawn) <= max(drawn) <= 1
    bins = [0] * 5
    for part in drawn:
        bins[min(4, int((part - (1 - _JITTER)) / _JITTER * 5))] += 1
    assert min(bins) >= 15, f"not spread: {bins}"  # 40 in each on average
    if Datafile.__module__ == facade.__name__:
        return  # each call goes through two threads: 200 of them may take as long as the window
    if min(next_at.values()) > min(moment or 0.0 for moment in moments) + 0.1 * _JITTER * _EXPIRETIME:
        return  # the machine is so loaded that the readers came late
    # And not only on record: the creations come one by one over the window.
    times = sorted(next_at[number] - (status.createdtime or 0.0) for number, status in enumerate(first))
    assert times[3 * _FILES // 4] - times[_FILES // 4] > 0.2 * _JITTER * _EXPIRETIME, times
