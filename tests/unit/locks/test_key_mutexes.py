"""KeyMutexes: a mutex for each of many keys, in one lock file."""

from __future__ import annotations

import os
import pickle
from typing import Any

import pytest

from dogpile_fs import KeyMutexes, LockFileError, LockTimeout, PathError, WouldDeadlock
from tests.support.processes import Processes, Record, overlaps, wait_for


def _count(path: str, record: Record, times: int) -> None:
    for _ in range(times):
        with KeyMutexes(path)["one"]:
            record.write("in")
            record.write("out")


def test_one_key_has_one_holder_at_a_time_in_all_processes(
    path: str, record: Record, processes: Processes
) -> None:
    processes.start_many(4, _count, path, record, 25)
    processes.join()
    spans = record.spans("in", "out")
    assert len(spans) == 100
    assert overlaps(spans, spans) == []


def _hold(path: str, record: Record, key: str) -> None:
    with KeyMutexes(path)[key]:
        record.write("in")
        wait_for(lambda: len(record.events("in")) == 4, "four holders at a time")


def test_different_keys_are_held_at_the_same_time(path: str, record: Record, processes: Processes) -> None:
    for key in ("one", "two", "", "../any \ud800 text" * 100):
        processes.start(_hold, path, record, key)
    processes.join()
    assert os.listdir(os.path.dirname(path)).count("resource") == 1
    assert os.path.getsize(path) == 0


def _hold_for_ever(path: str, record: Record) -> None:
    with KeyMutexes(path)["one"]:
        record.write("in")
        record.wait("never")


def test_a_process_that_is_killed_gives_its_mutexes_back(path: str, record: Record, processes: Processes) -> None:
    process = processes.start(_hold_for_ever, path, record)
    record.wait("in")
    assert KeyMutexes(path)["one"].locked()
    with pytest.raises(LockTimeout, match="one"):
        KeyMutexes(path, timeout=0.01)["one"].acquire()
    process.kill()
    with KeyMutexes(path)["one"] as mutex:
        assert mutex.held


def test_a_caller_that_would_wait_for_itself_is_told(path: str) -> None:
    mutexes = KeyMutexes(path)
    with mutexes["one"], pytest.raises(WouldDeadlock, match="one"):
        mutexes["one"].acquire()
    assert not mutexes["one"].locked()


def test_it_is_pickled(path: str) -> None:
    mutexes: KeyMutexes = pickle.loads(pickle.dumps(KeyMutexes(path, timeout=1.5, mode=0o600)))
    with mutexes["one"]:
        assert os.stat(path).st_mode & 0o777 == 0o600
    assert mutexes.timeout == mutexes["one"].timeout == 1.5
    assert path in repr(mutexes)


@pytest.mark.parametrize(
    ("arguments", "error"), [(("",), PathError), ((7,), TypeError), ((None,), TypeError)], ids=str
)
def test_a_path_that_is_none_is_refused(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        KeyMutexes(*arguments)


def test_a_key_that_is_no_text_is_refused(path: str) -> None:
    mutexes: Any = KeyMutexes(path)
    with pytest.raises(TypeError, match="7"):
        mutexes[7]


def test_a_missing_directory_is_an_error_that_names_it(path: str) -> None:
    with pytest.raises(LockFileError, match="resource"):
        KeyMutexes(os.path.join(path, "below"))["one"].acquire()
