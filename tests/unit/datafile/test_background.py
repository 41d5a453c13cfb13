"""Creations in the background: by a thread, and by a process that outlives the caller's."""

from __future__ import annotations

import contextvars
import errno
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from dogpile_fs import (
    Backoff,
    CreationFailed,
    DataDirectory,
    Datafile,
    Dogpile,
    LockTimeout,
    Outcome,
    Policy,
    SidecarError,
)
from tests.support import background as creators
from tests.support.processes import PATIENCE, Processes, Record, ended_well, in_child, wait_for

#: Seconds after which what these tests make is stale: at once, so that the next pass elects.
NO_TIME = 0.0
LONG = Backoff(initial=PATIENCE, maximum=PATIENCE, jitter=0)
Way = Literal["thread", "process"]

both = pytest.mark.parametrize("way", ["thread", "process"])


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    monkeypatch.setenv(creators.RECORD, str(tmp_path / "record"))
    return Record(tmp_path / "record")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "report")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = _own_threads()  # of earlier tests of this process: one that listens to hints ends at the next hint
    yield
    wait_for(lambda: not _own_threads() - before, "the end of all threads")


def _own_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("dogpile_fs")}


def contents(datafile: Datafile) -> str:
    with datafile.open("r") as file:
        return file.read()


def stale(path: str) -> None:
    """Put a stale version there."""
    Path(path).write_text("old")
    os.utime(path, (1.0, 1.0))


def is_over(datafile: Datafile | DataDirectory) -> Callable[[], bool]:
    return lambda: not datafile.status().creating


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@both
def test_the_caller_with_an_old_version_goes_on_with_it_and_the_new_one_comes(
    path: str, record: Record, way: Way, tmp_path: Path
) -> None:
    stale(path)
    report = Datafile(path, 3600, creators.build_when_told, background=way)
    assert contents(report) == "old"
    (begun,) = record.wait("begun")
    assert (begun.pid == os.getpid()) == (way == "thread")
    assert contents(report) == "old", "no second creator"
    wait_for(lambda: report.status().creating_pid == begun.pid, "its own attempt on record")
    assert report._dogpile._record.attempt is not None
    assert report._dogpile._record.attempt.kind == way
    (tmp_path / "go").touch()
    record.wait("ended")
    wait_for(is_over(report), "the stamp")
    assert contents(report) == str(begun.pid)
    assert report.status().state == "fresh"
    assert report.status().pid == begun.pid
    assert len(record.events("begun")) == 1


@both
def test_callers_wait_for_the_first_creation_and_get_what_it_made(path: str, record: Record, way: Way) -> None:
    report = Datafile(path, 3600, creators.build, background=way, timeout=PATIENCE)
    assert contents(report) == str(record.wait("ended")[0].pid)


@both
def test_the_wait_for_the_first_creation_is_bounded_and_the_creation_goes_on(
    path: str, record: Record, way: Way, tmp_path: Path
) -> None:
    report = Datafile(path, 3600, creators.build_when_told, background=way, timeout=0.01)
    with pytest.raises(LockTimeout, match="creation in the background of"):
        contents(report)
    with pytest.raises(LockTimeout):
        contents(report)
    (tmp_path / "go").touch()
    record.wait("ended")
    wait_for(lambda: report.status().state == "fresh", "the stamp")
    assert len(record.events("begun")) == 1


@both
def test_a_directory_is_created_in_the_background(path: str, record: Record, way: Way) -> None:
    index = DataDirectory(path, 3600, creators.build_directory, background=way, timeout=PATIENCE)
    with index.open() as version:
        assert Path(version, "pid").read_text() == str(record.wait("ended")[0].pid)
    index.invalidate()
    with index.open():
        pass
    wait_for(lambda: index.status().generation == 2, "the second creation")
    wait_for(is_over(index), "its end")


@both
def test_a_failure_counts_and_the_old_version_stays(path: str, record: Record, way: Way) -> None:
    stale(path)
    report = Datafile(path, 3600, creators.fail, background=way, backoff=LONG)
    assert contents(report) == "old"
    wait_for(lambda: report.status().failures == 1, "the failure on record")
    wait_for(is_over(report), "its end")
    assert report.status().failed_type == "ValueError"
    assert contents(report) == "old"
    assert len(record.events("begun")) == 1


@both
def test_a_caller_that_waits_for_a_first_creation_that_fails_is_told(path: str, record: Record, way: Way) -> None:
    report = Datafile(path, 3600, creators.fail, background=way, backoff=None, timeout=PATIENCE)
    with pytest.raises(CreationFailed, match="ValueError") as raised:
        contents(report)
    assert isinstance(raised.value.__cause__, ValueError) == (way == "thread")
    assert len(record.events("begun")) == 1, "not tried again by the same caller"


@both
def test_what_validate_refuses_is_a_failure(path: str, record: Record, way: Way) -> None:
    stale(path)
    report = Datafile(path, 3600, creators.build, validate=creators.refuse, background=way, backoff=LONG)
    assert contents(report) == "old"
    wait_for(lambda: report.status().failed_type == "DatafileError", "the refusal on record")
    wait_for(is_over(report), "its end")


@both
def test_an_invalidation_while_it_runs_stays_in_force(path: str, record: Record, way: Way, tmp_path: Path) -> None:
    stale(path)
    report = Datafile(path, 3600, creators.build_when_told, background=way)
    contents(report)
    record.wait("begun")
    report.invalidate()
    (tmp_path / "go").touch()
    record.wait("ended")
    wait_for(lambda: report.status().generation == 1, "the stamp")
    wait_for(is_over(report), "its end")
    assert report.status().state == "stale"


@both
def test_readers_keep_the_swap_out_and_the_block_of_the_elected_caller_is_no_obstacle(
    path: str, record: Record, way: Way, tmp_path: Path
) -> None:
    stale(path)
    report = Datafile(path, 3600, creators.build_when_told, background=way, readers=True)
    with report.open("r") as file:
        (tmp_path / "go").touch()  # only now: a creation that is over before the reader is inside may swap
        record.wait("ended")
        assert file.read() == "old"
        assert report.status().creating, "it waits for this reader"
    wait_for(lambda: report.status().generation == 1, "the swap")
    wait_for(is_over(report), "its end")


# refresh.


def test_refresh_creates_in_its_own_thread_if_others_do_in_the_background(path: str, record: Record) -> None:
    report = Datafile(path, 3600, creators.fail, background="thread")
    with pytest.raises(ValueError, match="no source"):
        report.refresh()
    assert [each.pid for each in record.events("begun")] == [os.getpid()]


def test_refresh_waits_for_the_process_and_tells_what_it_did(path: str, record: Record) -> None:
    report = Datafile(path, 3600, creators.build, background="process")
    assert report.refresh() is Outcome.created
    assert report.refresh() is Outcome.fresh
    assert report.refresh(force=True) is Outcome.created
    assert {each.pid for each in record.events("begun")}.isdisjoint({os.getpid()})
    assert len(record.events("begun")) == 2


def test_refresh_raises_what_the_process_has_recorded(path: str, record: Record) -> None:
    stale(path)
    report = Datafile(path, 3600, creators.fail, background="process", backoff=LONG)
    with pytest.raises(CreationFailed, match="ValueError"):
        report.refresh()
    assert report.refresh() is Outcome.backing_off
    with pytest.raises(CreationFailed, match="2 times in a row"):
        report.refresh(force=True)


def test_refresh_counts_the_death_of_the_process(path: str, record: Record) -> None:
    report = Datafile(path, 3600, creators.kill_itself, background="process", backoff=LONG)
    with pytest.raises(CreationFailed, match="died"):
        report.refresh()
    assert report.status().failures == 1
    assert report.status().failed_pid == record.events("begun")[0].pid


# A process.


def test_a_first_creation_whose_process_dies_is_tried_once_more(path: str, record: Record) -> None:
    report = Datafile(path, 3600, creators.kill_itself, background="process", backoff=LONG, timeout=PATIENCE)
    with pytest.raises(CreationFailed, match="2 times in a row"):
        contents(report)
    assert len(record.events("begun")) == 2


def test_the_process_outlives_the_caller_that_is_killed(
    path: str, record: Record, tmp_path: Path, processes: Processes
) -> None:
    stale(path)
    worker = processes.start(_pass_and_wait, path)
    (begun,) = record.wait("begun")
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(PATIENCE)
    report = Datafile(path, 3600, creators.build_when_told, background="process")
    assert contents(report) == "old"
    assert report.status().creating, "the mutex is the child's"
    (tmp_path / "go").touch()
    wait_for(lambda: report.status().state == "fresh", "the stamp")
    assert contents(report) == str(begun.pid)
    assert len(record.events("begun")) == 1
    wait_for(lambda: not running(begun.pid), "its end")


def _pass_and_wait(path: str) -> None:
    contents(Datafile(path, 3600, creators.build_when_told, background="process"))
    time.sleep(PATIENCE)


def test_a_creator_that_takes_too_long_is_ended_with_its_children_counted_and_tried_again(
    path: str, record: Record
) -> None:
    stale(path)
    report = Datafile(
        path, 3600, creators.hang_with_children, background="process", creator_timeout=5, backoff=None
    )
    assert contents(report) == "old"
    (begun,) = record.wait("begun")
    assert report._dogpile._record.attempt is not None
    assert report._dogpile._record.attempt.deadline is not None
    wait_for(lambda: report.status().failures == 1, "the end of its time")
    assert report.status().failed_type == "timeout"
    wait_for(lambda: not running(begun.more["child"]), "the end of its child")
    assert not running(begun.pid)
    wait_for(is_over(report), "its end")
    assert contents(report) == "old"
    record.wait("begun", 2)
    wait_for(lambda: report.status().failures == 2, "the second end")
    wait_for(is_over(report), "its end")


def test_a_caller_that_ignores_and_blocks_signals_has_its_creator_ended_all_the_same(
    path: str, record: Record
) -> None:
    stale(path)
    numbers = {signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP}
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        report = Datafile(
            path, 3600, creators.hang_with_children, background="process", creator_timeout=5, backoff=LONG
        )
        assert contents(report) == "old"
        (begun,) = record.wait("begun")
        wait_for(lambda: report.status().failed_type == "timeout", "the end of its time")
        wait_for(lambda: not running(begun.more["child"]), "the end of its child")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_creation_past_its_deadline_is_overdue(path: str, record: Record, tmp_path: Path) -> None:
    stale(path)
    report = Datafile(path, 3600, creators.build_when_told, background="process", creator_timeout=PATIENCE)
    contents(report)
    record.wait("begun")
    assert not report.status().overdue
    attempt = report._dogpile._record.attempt
    assert attempt is not None
    report._dogpile._shared.scope.change(lambda last: last.replace(attempt=attempt._replace(deadline=1.0)))
    assert report.status().overdue
    (tmp_path / "go").touch()
    wait_for(is_over(report), "its end")
    assert not report.status().overdue


def test_what_sets_the_process_up_is_called_before_the_creator_is_imported(path: str, record: Record) -> None:
    report = Datafile(path, 3600, creators.build, background="process", background_setup=creators.set_up)
    report.refresh()
    assert [each.what for each in record.events()] == ["set up", "begun", "ended"]


class _NotMade:
    """It can be pickled, and not be made again."""

    def __call__(self, target: str) -> None:
        raise AssertionError

    def __setstate__(self, state: object) -> None:
        raise ImportError("no module of that name")

    def __getstate__(self) -> object:
        return {"anything": 1}


def test_a_creator_that_the_process_cannot_import_is_a_failure_that_is_told(path: str, record: Record) -> None:
    report = Datafile(path, 3600, _NotMade(), background="process", backoff=LONG)
    with pytest.raises(CreationFailed, match="ImportError"):
        report.refresh()
    assert report.status().failures == 1


def test_if_no_process_can_be_started_the_caller_creates_and_says_so(
    path: str, record: Record, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stale(path)
    report = Datafile(path, 3600, creators.build, background="process")
    monkeypatch.setattr(sys, "executable", str(Path(path).with_name("python-that-is-missing")))
    for name in ("prefix", "exec_prefix", "base_prefix"):
        monkeypatch.setattr(sys, name, "/nowhere")
    assert contents(report) == str(os.getpid())
    assert "creating in the caller" in caplog.text
    assert report.status().pid == os.getpid()


def test_the_process_runs_no_module_of_the_working_directory(
    path: str, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = tmp_path / "planted"
    planted.mkdir()
    for name in ("pickle", "dogpile_fs", "tests", "logging"):
        (planted / f"{name}.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(planted)
    assert Datafile(path, 3600, creators.build, background="process").refresh() is Outcome.created


def test_the_process_has_the_mutex_and_no_other_descriptor_of_its_caller(
    path: str, record: Record, tmp_path: Path
) -> None:
    stale(path)
    report = Datafile(path, 3600, creators.build_when_told, background="process")
    with open(path):
        contents(report)
        (begun,) = record.wait("begun")
    files = {os.readlink(link): link for link in Path(f"/proc/{begun.pid}/fd").iterdir()}
    assert path not in files
    lock_file = files[f"{path}.dogpile.lock"]
    flags = dict(
        line.split() for line in Path(f"/proc/{begun.pid}/fdinfo/{lock_file.name}").read_text().splitlines()[:3]
    )
    assert int(flags["flags:"], 8) & os.O_CLOEXEC, "what the creator starts does not have it"
    (tmp_path / "go").touch()
    wait_for(is_over(report), "its end")


def test_no_zombie_is_left(path: str, record: Record) -> None:
    report = Datafile(path, NO_TIME, creators.build, background="process", durable=False, timeout=PATIENCE)
    for _ in range(5):
        report.refresh()
    wait_for(lambda: not _own_threads(), "the end of all children")
    assert not [pid for pid in _children_of(os.getpid()) if not running(pid)]


def _children_of(parent: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal():
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    found.append(int(name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("creator", [lambda target: None, partial(lambda target: None)])
def test_a_creator_that_no_other_process_can_import_is_refused_at_construction(path: str, creator: Any) -> None:
    with pytest.raises(ValueError, match="needs a creator that another process can import"):
        Datafile(path, 3600, creator, background="process")


def test_a_creator_of_a_program_is_found_in_its_file_and_refused_without_one(path: str, record: Record) -> None:
    program = f"""
import os
from dogpile_fs import Datafile

def build(target):
    with open(target, "w") as file:
        file.write(f"{{__name__}} {{os.getpid()}}")

if __name__ == "__main__":
    report = Datafile({path!r}, 3600, build, background="process")
    print(repr(report.refresh()))
"""
    file = Path(path).with_name("program.py")
    file.write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, env=environment, timeout=PATIENCE
    )
    assert said.stdout == "<Outcome.created: 'created'>\n", said.stderr
    assert Path(path).read_text().startswith("__mp_main__ ")
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=PATIENCE
    )
    assert "is defined in a program that is no file" in said.stderr


def test_a_program_that_uses_its_datafile_whenever_it_is_imported_is_told_so_and_does_not_hang(
    path: str, tmp_path: Path
) -> None:
    program = f"""
from dogpile_fs import Backoff, Datafile

def build(target):
    open(target, "w").write("new")

report = Datafile({path!r}, 3600, build, background="process", backoff=Backoff(60))
with report.open() as file:
    print(file.read())
"""
    (tmp_path / "program.py").write_text(program)
    said = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=PATIENCE,
    )
    assert "CreationFailed" in said.stderr
    assert "(ImportError)" in said.stderr
    assert "waits for the datafile when it is imported" in said.stderr


def test_a_datafile_with_a_background_can_be_pickled(path: str) -> None:
    report = Datafile(
        path, 3600, creators.build, background="process", creator_timeout=5, background_setup=creators.set_up
    )
    again = pickle.loads(pickle.dumps(report))
    assert again._policy == report._policy
    assert again._background is not None


def test_a_forked_child_does_not_wait_for_its_parents_children(path: str, record: Record, tmp_path: Path) -> None:
    stale(path)
    report = Datafile(path, 3600, creators.build_when_told, background="process")
    contents(report)
    record.wait("begun")
    assert ended_well(in_child(lambda: contents(report)))
    (tmp_path / "go").touch()
    wait_for(is_over(report), "its end")


# Threads.


def test_the_thread_has_an_empty_context(path: str, record: Record) -> None:
    variable = contextvars.ContextVar("variable", default="nothing")
    variable.set("of the request")
    seen = []

    def creator(target: str) -> None:
        seen.append(variable.get())
        creators.build(target)

    stale(path)
    report = Datafile(path, 3600, creator, background="thread")
    contents(report)
    record.wait("ended")
    assert seen == ["nothing"]


def test_four_threads_create_at_a_time_and_other_callers_pass(tmp_path: Path, record: Record) -> None:
    reports = []
    for name in "abcdef":
        stale(str(tmp_path / name))
        reports.append(Datafile(tmp_path / name, 3600, creators.build_when_told, background="thread"))
    assert [contents(each) for each in reports] == ["old"] * 6
    record.wait("begun", 4)
    assert [each.status().creating for each in reports] == [True] * 4 + [False] * 2
    (tmp_path / "go").touch()
    record.wait("ended", 4)
    wait_for(lambda: not _own_threads(), "their end")
    for report in reports[4:]:
        contents(report)
    record.wait("ended", 6)


def test_a_first_creation_finds_no_thread_and_is_made_by_the_caller(tmp_path: Path, record: Record) -> None:
    for name in "abcd":
        stale(str(tmp_path / name))
        contents(Datafile(tmp_path / name, 3600, creators.build_when_told, background="thread"))
    record.wait("begun", 4)
    report = Datafile(tmp_path / "e", 3600, creators.build, background="thread", timeout=PATIENCE)
    assert contents(report) == str(os.getpid())
    (tmp_path / "go").touch()
    record.wait("ended", 5)


@pytest.fixture
def ending(path: str, record: Record) -> Iterator[Callable[[float], subprocess.Popen[str]]]:
    """Start a process that ends, as a server's worker does, while one of its threads creates."""
    started: list[subprocess.Popen[str]] = []

    def start(exit_wait: float) -> subprocess.Popen[str]:
        program = f"""
import sys
from dogpile_fs import Datafile
from tests.support.background import build_when_told

report = Datafile({path!r}, 3600, build_when_told, background="thread", exit_wait={exit_wait})
with report.open():
    pass
sys.exit(0)
"""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", program]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        record.wait("begun")
        return started[0]

    stale(path)
    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_process_that_ends_waits_for_the_creation(
    path: str, tmp_path: Path, ending: Callable[[float], subprocess.Popen[str]]
) -> None:
    process = ending(PATIENCE)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    (tmp_path / "go").touch()
    _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (0, "")
    report = Datafile(path, 3600)
    assert report.status().state == "fresh"
    assert report.status().failures == 0


def test_a_process_that_ends_waits_so_long_and_then_neither_swaps_nor_counts(
    path: str, ending: Callable[[float], subprocess.Popen[str]]
) -> None:
    process = ending(0.2)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "this process ends before the creation in its thread" in said
    report = Datafile(path, 3600)
    assert contents(report) == "old"
    assert report._dogpile._record.attempt is None, "off the record"
    assert report.status().failures == 0


def test_a_killed_process_takes_the_creation_with_it_and_that_counts_as_a_death(
    path: str,
    record: Record,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    ending: Callable[[float], subprocess.Popen[str]],
) -> None:
    process = ending(PATIENCE)
    process.kill()
    process.communicate(timeout=PATIENCE)
    report = Datafile(path, 3600, creators.build_when_told, background="thread")
    with caplog.at_level(logging.WARNING):
        assert contents(report) == "old"
    assert "it died" in caplog.text
    (tmp_path / "go").touch()
    record.wait("ended")
    wait_for(lambda: report.status().state == "fresh", "the next attempt")
    assert report.status().failures_total == 1


def test_a_stamp_in_a_thread_that_cannot_be_written_is_in_the_log(
    path: str, record: Record, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale(path)
    report = Datafile(path, 3600, creators.build, background="thread")
    scope = report._dogpile._shared.scope
    change = scope.change

    def full(make: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise SidecarError(errno.ENOSPC, "the disk is full")
        change(make)

    monkeypatch.setattr(type(scope), "change", lambda self, make: full(make))
    contents(report)
    wait_for(lambda: not _own_threads(), "its end")
    assert "the end of the creation is not recorded" in caplog.text
    assert "the disk is full" in caplog.text


def test_a_creator_in_a_thread_that_exits_counts_as_a_death(path: str, record: Record) -> None:
    stale(path)
    report = Datafile(path, 3600, lambda target: sys.exit(3), background="thread", backoff=LONG)
    assert contents(report) == "old"
    wait_for(lambda: not _own_threads(), "its end")
    assert report._dogpile._record.attempt is not None
    assert report.status().failed_type == "died"


def test_a_child_forked_while_a_thread_creates_has_no_such_thread(
    path: str, record: Record, tmp_path: Path
) -> None:
    stale(path)
    report = Datafile(path, 3600, creators.build_when_told, background="thread")
    contents(report)
    record.wait("begun")

    def in_it() -> None:
        assert contents(report) == "old"
        assert report.status().creating

    assert ended_well(in_child(in_it))
    (tmp_path / "go").touch()
    record.wait("ended")
    wait_for(is_over(report), "its end")
    assert report.status().state == "fresh"


def test_an_acquire_inside_the_creator_of_the_thread_is_refused_and_does_not_hang(
    path: str, record: Record
) -> None:
    errors: list[Exception] = []

    def creator(target: str) -> None:
        try:
            contents(Datafile(path, 3600, creators.build))
        except Exception as error:
            errors.append(error)
        creators.build(target)

    report = Datafile(path, 3600, creator, background="thread", timeout=PATIENCE)
    contents(report)
    assert type(errors[0]).__name__ == "WouldDeadlock"


# What is refused.


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"background": "fiber"}, ValueError, "background must be"),
        ({"creator_timeout": 5}, ValueError, "creator_timeout= goes with background='process'"),
        ({"background": "thread", "creator_timeout": 5}, ValueError, "goes with background='process'"),
        ({"background": "process", "creator_timeout": 0}, ValueError, "would end each creator at once"),
        ({"background": "process", "creator_timeout": "5"}, TypeError, "creator_timeout"),
        ({"background_setup": print}, ValueError, "background_setup= goes with background='process'"),
        ({"background": "process", "background_setup": 5}, TypeError, "background_setup must be a function"),
        ({"exit_wait": 5}, ValueError, "exit_wait= goes with background='thread'"),
        ({"background": "process", "exit_wait": 5}, ValueError, "exit_wait= goes with background='thread'"),
        ({"background": "thread", "exit_wait": -1}, ValueError, "exit_wait"),
    ],
)
def test_incoherent_values_are_refused(
    path: str, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    for make in (Policy, partial(Datafile, path, 3600, creators.build), partial(DataDirectory, path, 3600)):
        with pytest.raises(error, match=says):
            make(**options)


def test_a_dogpile_of_its_own_has_no_background(path: str) -> None:
    with pytest.raises(ValueError, match="is for a Datafile or a DataDirectory"):
        Dogpile(3600, path, policy=Policy(background="thread"))
