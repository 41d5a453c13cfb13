"""What creations write to the journal: how each ended, by which process, and which input had changed."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from dogpile_fs import Backoff, Datafile, DatafileError, Dogpile, Outcome, Target
from dogpile_fs._sidecar.journal import Entry
from tests.support.places import files_in, writing
from tests.support.processes import PATIENCE, Processes, Record, ended_well, in_child

#: Seconds after which an input is looked at again.
_LOOKED_AT = 0.011


class Secret(Exception):
    """An error whose message nobody else may read."""


def history(path: str | Path) -> list[Entry]:
    return Dogpile(3600, path)._shared.scope.journal.entries()


def outcomes(path: str | Path) -> list[str]:
    return [entry.outcome for entry in history(path)]


def nothing() -> None:
    pass


def fail(target: object = None) -> None:
    raise Secret("the password is 1234")


def test_each_end_of_an_attempt_is_a_line(path: str) -> None:
    begin = time.time()

    def creator(target: Target) -> object:
        return target.unchanged() if target.previous else Path(target).write_text("new")

    datafile = Datafile(path, 0, creator, backoff=None)
    assert [datafile.refresh() for _ in range(2)] == [Outcome.created, Outcome.unchanged]
    for fails in (Datafile(path, 0, fail, backoff=None), Datafile(path, 0, creator, backoff=None)):
        fails._creator = fail
        with pytest.raises(Secret):
            fails.refresh()
    with pytest.raises(DatafileError):
        Datafile(path, 0, writing("new"), validate=lambda target: False, backoff=None).refresh()
    entries = history(path)
    assert [(entry.outcome, entry.generation, entry.error_type) for entry in entries] == [
        ("created", 1, None),
        ("unchanged", 2, None),
        ("failed", 3, "Secret"),
        ("failed", 3, "Secret"),
        ("failed", 3, "DatafileError"),
    ]
    assert {(entry.host, entry.pid, entry.kind) for entry in entries} == {(os.uname().nodename, os.getpid(), None)}
    assert all(entry.cost is not None and 0 <= entry.cost < PATIENCE for entry in entries)
    begun = [entry.begun for entry in entries]
    assert begun == sorted(begun)
    assert begin - 1e-3 <= begun[0]
    assert begun[-1] <= time.time()
    assert b"1234" not in Path(path + ".dogpile.journal").read_bytes()


class Odd(Exception):
    """An error of a user whose attribute is no exit status."""

    returncode: object = "today"


@pytest.mark.parametrize(
    ("error", "exit_status", "number"),
    [
        (CalledProcessError(3, "make"), 3, None),
        (CalledProcessError(-9, "make"), None, 9),
        (Odd(), None, None),
    ],
)
def test_a_child_of_the_creator_that_failed_is_told(
    error: Exception, exit_status: int | None, number: int | None, path: str
) -> None:
    def creator() -> None:
        raise error

    with pytest.raises(type(error)):
        Dogpile(3600, path).refresh(creator)
    (entry,) = history(path)
    assert (entry.exit_status, entry.signal, entry.error_type) == (exit_status, number, type(error).__name__)


def test_stamps_invalidations_and_rollbacks_are_no_attempts(path: str) -> None:
    datafile = Datafile(path, 3600, writing("new"), keep=1)
    for _ in range(2):
        datafile.refresh(force=True)
    datafile.touch()
    datafile.invalidate()
    datafile.rollback()
    with pytest.raises(DatafileError):
        datafile.rollback()
    assert outcomes(path) == ["created", "created"]


def test_an_interrupted_attempt_is_one_and_so_is_one_that_lost_its_lock_file(path: str) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    dogpile = Dogpile(3600, path)
    with pytest.raises(KeyboardInterrupt):
        dogpile.refresh(interrupt)
    assert dogpile.refresh(lambda: os.unlink(path + ".dogpile.lock")) == Outcome.fenced
    assert [(entry.outcome, entry.error_type) for entry in history(path)] == [
        ("interrupted", "KeyboardInterrupt"),
        ("fenced", None),
    ]


def test_in_thread_scope_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dogpile = Dogpile(3600)
    dogpile.refresh(nothing)
    assert dogpile._shared.scope.journal.entries() == []
    assert files_in(tmp_path) == []


def test_a_child_that_was_forked_in_the_creator_writes_nothing(path: str) -> None:
    dogpile = Dogpile(3600, path)

    def create_in_both(*, and_fail: bool) -> None:
        pid = os.fork()
        if pid:
            assert ended_well(pid)
        else:
            children.append(os.getpid())
        if and_fail:
            fail()

    children: list[int] = []
    for and_fail in (False, True):
        try:
            with suppress(Secret):
                dogpile.refresh(partial(create_in_both, and_fail=and_fail), force=True)
        finally:
            if children:
                os._exit(0)
    assert [(entry.outcome, entry.pid) for entry in history(path)] == [
        ("created", os.getpid()),
        ("failed", os.getpid()),
    ]


def test_a_failure_is_no_line_where_the_path_leads_to_another_resource_by_now(tmp_path: Path) -> None:
    for release in ("1", "2"):
        (tmp_path / release).mkdir()
    (tmp_path / "current").symlink_to("1")

    def deploy_and_fail(target: str) -> None:
        (tmp_path / "next").symlink_to("2")
        os.replace(tmp_path / "next", tmp_path / "current")
        fail()

    with pytest.raises(Secret):
        Datafile(tmp_path / "current" / "report", 3600, deploy_and_fail).refresh()
    assert files_in(tmp_path / "2") == []


def test_a_journal_that_cannot_be_written_fails_no_creation(path: str, caplog: pytest.LogCaptureFixture) -> None:
    os.mkdir(path + ".dogpile.journal")
    datafile = Datafile(path, 0, writing("new"), depends_on=["input"])
    assert [datafile.refresh(force=True) for _ in range(3)] == [Outcome.created] * 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert path + ".dogpile.journal" in caplog.text


# Inputs.


def test_the_input_that_had_changed_is_named_by_whichever_process(tmp_path: Path) -> None:
    inputs = [tmp_path / name for name in ("one", "two", "three")]
    for each in inputs[:2]:
        each.write_text("x")
    path = tmp_path / "report"
    orders = Datafile(tmp_path / "orders", 3600, writing("x"))
    orders.refresh()

    def refresh() -> str | None:
        time.sleep(_LOOKED_AT)

        def refresh_in_another_process() -> None:
            assert Datafile(path, 3600, writing("x"), depends_on=[*inputs, orders]).refresh()

        assert ended_well(in_child(refresh_in_another_process))
        return history(path)[-1].changed_input

    assert refresh() is None  # the first
    inputs[1].write_text("other")
    assert refresh() == str(inputs[1])
    inputs[2].write_text("was missing")
    assert refresh() == str(inputs[2])
    inputs[0].unlink()
    assert refresh() == str(inputs[0])
    orders.refresh(force=True)
    assert refresh() == str(tmp_path / "orders")
    found = os.stat(inputs[1])
    (tmp_path / "new").write_text("other")
    os.utime(tmp_path / "new", ns=(found.st_atime_ns, found.st_mtime_ns))
    os.replace(tmp_path / "new", inputs[1])  # of the same size and mtime
    assert refresh() == str(inputs[1])
    Dogpile(3600, path).invalidate()
    assert refresh() is None


def test_it_is_named_by_failed_attempts_too_and_not_where_the_version_came_without_a_line(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "report"
    source.write_text("x")
    datafile = Datafile(path, 3600, writing("x"), depends_on=[source], backoff=None, stale_if_error=False)
    datafile.refresh()
    source.write_text("other")
    time.sleep(_LOOKED_AT)
    datafile._creator = fail
    for _ in range(2):
        with pytest.raises(Secret):
            datafile.refresh()
    assert [entry.changed_input for entry in history(path)] == [None, str(source), str(source)]
    datafile.touch()  # from now on the version counts as made from these inputs, by no attempt
    source.write_text("yet another")
    time.sleep(_LOOKED_AT)
    datafile._creator = writing("y")
    datafile.refresh()
    assert history(path)[-1].changed_input is None


# Several processes.


def _create_and_fail(path: str, diary: Record, number: int) -> None:
    dogpile = Dogpile(3600, path, backoff=Backoff(initial=0, maximum=0, jitter=0))

    def creator(attempt: int) -> None:
        if number == 0 and attempt == 3:
            diary.write("died")
            os.kill(os.getpid(), signal.SIGKILL)
        if (number + attempt) % 3 == 0:
            raise Secret

    for attempt in range(8):
        try:
            outcome = str(dogpile.refresh(partial(creator, attempt), force=True))
        except Secret:
            outcome = "failed"
        diary.write(outcome)


def test_it_tells_what_four_processes_tell_themselves(path: str, record: Record, processes: Processes) -> None:
    started = [processes.start(_create_and_fail, path, record, number) for number in range(4)]
    for process in started:
        process.join(PATIENCE)
    assert [process.exitcode for process in started] == [-signal.SIGKILL, 0, 0, 0]
    assert Dogpile(3600, path).refresh(nothing, force=True)  # if the one that died was the last
    entries = history(path)
    for process in started:
        own = [event.what for event in record.events() if event.pid == process.pid]
        assert [entry.outcome for entry in entries if entry.pid == process.pid] == own
        assert own.count("created") + own.count("failed") + own.count("died") == len(own) >= 4
    assert len(entries) == 4 + 3 * 8 + 1
    status = Dogpile(3600, path).status()
    assert (status.generation, status.failures_total) == (
        sum(entry.outcome == "created" for entry in entries),
        sum(entry.outcome in ("failed", "died") for entry in entries),
    )
    generations = [entry.generation for entry in entries if entry.outcome == "created"]
    assert generations == list(range(1, status.generation + 1))
