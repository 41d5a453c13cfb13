"""``on_new_version``: one thread of each process calls back after each new version, and sleeps otherwise."""

from __future__ import annotations

import ctypes
import errno
import gc
import logging
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import DataDirectory, Datafile, Dogpile, PathError
from dogpile_fs._dogpile import new_versions
from dogpile_fs._os import linux
from tests.support.processes import (
    PATIENCE,
    Processes,
    Record,
    ended_well,
    in_child,
    wait_for,
    wait_until_other_threads_sleep,
)

#: Seconds in which nothing happens, and no thread may wake.
QUIET = 2.0


def write(target: str) -> None:
    Path(target).write_text("the report")


def write_directory(target: str) -> None:
    os.mkdir(target)
    write(os.path.join(target, "part"))


def datafile(path: str, **options: Any) -> Datafile:
    return Datafile(path, None, write, durable=False, **options)


def thread() -> threading.Thread | None:
    """Return the one that calls back; one before it may be about to end."""
    found = [each for each in threading.enumerate() if each.name == "dogpile_fs"]
    return found[-1] if found else None


def wake_ups() -> int:
    """Return how often the thread has gone to sleep, and so has woken."""
    sleeper = thread()
    assert sleeper is not None
    with open(f"/proc/self/task/{sleeper.native_id}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))


def settled() -> int:
    """Wait until the thread sleeps, and return its wake-ups."""
    before = -1
    while before != (now := wake_ups()):
        before = now
        time.sleep(0.1)
    return before


class Calls(list[Any]):
    """A callback that notes the version at each call."""

    def __call__(self, resource: Any) -> None:
        self.append(resource.version)

    def wait(self, resource: Any) -> None:
        """Wait until the version in place was told; none is told twice."""
        wait_for(lambda: self and self[-1] == resource.version, f"{resource.version}; told: {self}")
        assert len(set(self)) == len(self)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    for each in list(new_versions._notifier._watches):
        if (watch := each()) is not None:
            watch.is_cancelled = True
            new_versions._notifier.dismiss(watch)
    wait_for(lambda: thread() is None, "the end of the thread")


def work(path: str, record: Record) -> None:
    report = Datafile(path)

    def reload(report: Datafile) -> None:
        record.write("told", version=report.version)

    with report.on_new_version(reload):
        record.write("ready")
        record.wait("over")
        last = list(report.version or ())
        wait_for(
            lambda: any(e.pid == os.getpid() and e.more["version"] == last for e in record.events("told")),
            "the last version",
        )


def test_four_workers_are_told_of_ten_swaps_by_a_fifth_process(
    path: str, record: Record, processes: Processes
) -> None:
    write(path)
    workers = processes.start_many(4, work, path, record)
    record.wait("ready", 4)

    def swap() -> None:
        report = datafile(path, validate=lambda target: record.write("swapping"))
        for number in range(10):
            report.refresh(force=True)
            record.write("swapped", version=report.version)
            if number % 2:  # else the next one follows at once
                time.sleep(0.1)
        record.write("over")

    processes.join(processes.start(swap), *workers)
    versions = [event.more["version"] for event in record.events("swapped")]
    for worker in workers:
        told = [event.more["version"] for event in record.events("told") if event.pid == worker.pid]
        assert told[-1] == versions[-1]
        assert all(told.count(version) == 1 for version in told)
        assert set(map(tuple, told)) <= set(map(tuple, versions))
        assert len(told) >= 5
    began = {
        tuple(done.more["version"]): at.at
        for at, done in zip(record.events("swapping"), record.events("swapped"), strict=True)
    }
    latencies = [event.at - began[tuple(event.more["version"])] for event in record.events("told")]
    print(f"told {1000 * statistics.median(latencies):.1f} ms after the swap, at most {1000 * max(latencies):.1f}")
    assert statistics.median(latencies) < 2


def test_one_thread_serves_all_and_does_not_wake_while_nothing_happens(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    all_calls = []
    reports = [datafile(str(tmp_path / f"report{number}")) for number in range(50)]
    subscriptions = []
    for report in reports:
        report.refresh()
        calls = Calls()
        subscriptions.append(report.on_new_version(calls))
        all_calls.append(calls)
    at_rest = settled()
    time.sleep(QUIET)
    assert wake_ups() == at_rest
    assert [each.name for each in threading.enumerate()].count("dogpile_fs") == 1
    reports[7].refresh(force=True)
    all_calls[7].wait(reports[7])
    assert [len(calls) for calls in all_calls] == [number == 7 for number in range(50)]
    for subscription in subscriptions:
        subscription.cancel()
    wait_for(lambda: thread() is None, "the end of the thread")
    del reports, report, subscriptions, subscription
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_what_makes_a_new_version_is_told_and_nothing_else(path: str) -> None:
    note = "1"

    def create(target: Any) -> object:
        if target.note == note:
            return target.unchanged()
        write(target)
        target.note = note
        return None

    report, calls = Datafile(path, None, create, durable=False, keep=2), Calls()
    report.refresh()
    with report.on_new_version(calls):
        report.touch()
        report.invalidate()
        assert str(report.refresh(force=True)) == "unchanged"
        report.invalidate(hard=True)
        report.touch()
        settled()
        assert calls == []  # nor the version that was in place
        note = "2"
        report.refresh(force=True)
        calls.wait(report)
        report.rollback()
        calls.wait(report)
        settled()
        assert len(calls) == 2
        other = Path(path + ".other")
        other.write_text("of another program")
        other.replace(path)
        calls.wait(report)
        report.touch()
        settled()
        assert len(calls) == 3
        os.remove(path)
        report.refresh(force=True)
        calls.wait(report)
    report.refresh(force=True)
    assert len(calls) == 4


def test_the_first_version_of_all_is_told(path: str) -> None:
    report, calls = datafile(path), Calls()
    with report.on_new_version(calls):
        report.refresh()
        calls.wait(report)


def test_versions_of_a_directory_are_told(path: str) -> None:
    index, calls = DataDirectory(path, None, write_directory, durable=False, keep=1), Calls()
    with index.on_new_version(calls):
        for number in range(1, 5):
            index.refresh(force=True)
            calls.wait(index)
            settled()
            assert len(calls) == number
        index.rollback()
        calls.wait(index)
    assert len(calls) == 5


def test_a_plain_directory_that_changes_places_is_told(path: str) -> None:
    write_directory(path)
    index, calls = DataDirectory(path, None, write_directory, durable=False), Calls()
    with index.on_new_version(calls):
        for _ in range(3):
            index.refresh(force=True)
            calls.wait(index)
            settled()
    assert len(calls) == 3


@pytest.mark.parametrize("shared", [False, True])
def test_creations_of_a_dogpile_are_told(path: str, tmp_path: Path, shared: bool) -> None:
    if shared:
        (tmp_path / "locks").mkdir()
    options: Any = {"directory": tmp_path / "locks"} if shared else {}
    dogpile, calls = Dogpile(3600, path, **options), Calls()
    with dogpile.on_new_version(calls):
        for _ in range(3):
            Dogpile(3600, path, **options).refresh(lambda: None, force=True)
            calls.wait(dogpile)
        dogpile.invalidate()
        settled()
    assert len(calls) == 3


def test_a_dogpile_of_threads_has_none() -> None:
    with pytest.raises(TypeError, match="give it a path"):
        Dogpile(3600).on_new_version(print)


def test_no_plain_function_is_refused(path: str) -> None:
    async def reload(report: Datafile) -> None:
        pass

    with pytest.raises(TypeError, match="coroutine"):
        datafile(path).on_new_version(reload)
    with pytest.raises(TypeError, match="function"):
        datafile(path).on_new_version(None)  # type: ignore[arg-type]


def test_with_coordination_files_elsewhere_a_swap_and_another_programs_file_are_told(
    path: str, tmp_path: Path
) -> None:
    (tmp_path / "locks").mkdir()
    report, calls = datafile(path, directory=tmp_path / "locks"), Calls()
    with report.on_new_version(calls):
        report.refresh()
        calls.wait(report)
        write(path + ".other")
        os.replace(path + ".other", path)
        calls.wait(report)


def deployed(tmp_path: Path) -> Path:
    for release in ("one", "two"):
        (tmp_path / release).mkdir()
        write(str(tmp_path / release / "report"))
    current = tmp_path / "current"
    current.symlink_to("one")
    return current


def test_a_link_on_the_way_that_is_retargeted_is_told(tmp_path: Path) -> None:
    current = deployed(tmp_path)
    (tmp_path / "link").symlink_to("current/report")
    report, calls = Datafile(tmp_path / "link"), Calls()
    with report.on_new_version(calls):
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").rename(current)
        calls.wait(report)
        settled()
        datafile(str(tmp_path / "one" / "report")).refresh(force=True)  # no longer ours
        settled()
        assert len(calls) == 1
        datafile(str(tmp_path / "two" / "report")).refresh(force=True)
        calls.wait(report)
    assert len(calls) == 2


@pytest.mark.parametrize("how", ["removed", "moved", "above"])
def test_a_directory_that_is_made_again_is_watched_again(tmp_path: Path, how: str) -> None:
    place = tmp_path / "above" / "place"
    place.mkdir(parents=True)
    report, calls = datafile(str(place / "report"), parents=True), Calls()
    report.refresh()
    _ = report.version  # the sidecar is open: it keeps the directory, which is removed, in memory
    with report.on_new_version(calls):
        for _ in range(3):
            if how == "removed":
                shutil.rmtree(place)
            else:
                (place.parent if how == "above" else place).rename(tmp_path / "away")
            place.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(tmp_path / "away", ignore_errors=True)
            datafile(str(place / "report")).refresh()
            calls.wait(report)
            datafile(str(place / "report")).refresh(force=True)
            calls.wait(report)


def test_after_a_file_was_missing_the_directories_above_are_not_watched_for_more(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    report, calls = datafile(str(place / "report")), Calls()
    with report.on_new_version(calls):
        report.refresh()
        calls.wait(report)
        at_rest = settled()
        for number in range(20):
            (tmp_path / str(number)).touch()
        assert settled() == at_rest


def test_it_may_be_asked_for_before_the_directory_is_there(tmp_path: Path) -> None:
    report, calls = datafile(str(tmp_path / "a" / "b" / "report"), parents=True), Calls()
    with report.on_new_version(calls):
        settled()
        assert not (tmp_path / "a").exists()
        report.refresh()
        calls.wait(report)
    with pytest.raises(PathError):
        Datafile(tmp_path / "c" / "report")


def test_a_callback_that_raises_is_logged_and_others_are_called(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(report: Datafile) -> None:
        raise SystemExit("out of order")

    report, calls = datafile(path), Calls()
    with report.on_new_version(fail), report.on_new_version(calls), report.on_new_version(fail):
        for number in (1, 2):
            report.refresh(force=True)
            calls.wait(report)
            wait_for(lambda number=number: len(caplog.records) == 2 * number, "the log")  # type: ignore[misc]
    for line in caplog.records:
        assert line.levelno == logging.ERROR
        assert path in line.getMessage()
        assert "out of order" in line.getMessage()
        assert line.exc_info is not None


def test_a_callback_may_load_cancel_itself_and_ask_for_more(path: str) -> None:
    report, calls, loaded = datafile(path), Calls(), list[bytes]()

    def reload(report: Datafile) -> None:
        loaded.append(report.load(lambda file: file.read()))
        first.cancel()
        first.cancel()
        later.append(report.on_new_version(calls))

    later: list[Any] = []
    first = report.on_new_version(reload)
    report.refresh()
    wait_for(lambda: later, "the first call")
    report.refresh(force=True)
    calls.wait(report)
    assert loaded == [b"the report"]
    assert len(calls) == 1


def test_a_burst_is_merged_and_its_last_version_is_told_though_events_are_lost(path: str) -> None:
    with open("/proc/sys/fs/inotify/max_queued_events") as most:
        lost = int(most.read()) + 1000
    if lost > 100_000:
        pytest.skip("this system keeps very many events")
    report, calls, go_on = datafile(path), Calls(), threading.Event()

    def busy(report: Datafile) -> None:
        calls(report)
        go_on.wait(PATIENCE)

    with report.on_new_version(busy):
        report.refresh()
        wait_for(lambda: calls, "the first call")
        other = path + ".other"
        for _ in range(lost // 2):
            os.close(os.open(other, os.O_CREAT | os.O_WRONLY))
            os.unlink(other)
        for _ in range(5):
            report.refresh(force=True)
        go_on.set()
        calls.wait(report)
        settled()
    assert len(calls) == 2


def test_a_resource_that_is_dropped_is_not_kept_alive_even_if_the_callback_refers_to_it(path: str) -> None:
    report = datafile(path)
    alive = weakref.ref(report)
    report.on_new_version(lambda _: report)  # noqa: F821
    settled()
    del report
    gc.collect()
    assert alive() is None
    wait_for(lambda: thread() is None, "the end of the thread")


def test_a_subscription_keeps_its_resource(path: str) -> None:
    calls = Calls()
    subscription = datafile(path).on_new_version(calls)
    gc.collect()
    other = datafile(path)
    other.refresh()
    calls.wait(other)
    subscription.cancel()


def no_inotify(monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(linux, call, refuse)


@pytest.mark.parametrize(("call", "code"), [("inotify_init", errno.EMFILE), ("inotify_add_watch", errno.ENOSPC)])
def test_without_inotify_it_looks_now_and_then_and_one_warning_tells(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str, code: int
) -> None:
    monkeypatch.setattr(new_versions._notifier, "_has_told", False)
    report, calls, others = datafile(path), Calls(), Calls()
    with monkeypatch.context() as without:
        no_inotify(without, call, code)
        with report.on_new_version(calls), report.on_new_version(others):
            for _ in range(2):
                report.refresh(force=True)
                calls.wait(report)
                others.wait(report)
            wait_for(lambda: len(caplog.records) == 1, "the warning")
            assert "/proc/sys/fs/inotify" in caplog.text
            without.undo()  # the limit was raised
            time.sleep(new_versions._PAUSE)
            at_rest = settled()
            time.sleep(QUIET)
            assert wake_ups() <= at_rest + 1


def test_it_goes_on_after_another_part_of_the_program_has_closed_all_descriptors(path: str) -> None:
    script = """
import os, sys, threading, time
from dogpile_fs import Datafile
def write(target):
    open(target, "w").close()
def pauses():
    (thread,) = (each for each in threading.enumerate() if each.name == "dogpile_fs")
    with open(f"/proc/self/task/{thread.native_id}/status") as lines:
        return [line for line in lines if line.startswith(("State", "voluntary"))]
def wait_until_the_thread_waits():
    seen = None
    while seen != pauses() or "S (sleeping)" not in seen[0]:
        seen = pauses()
        time.sleep(0.1)
report, calls = Datafile(sys.argv[1], None, write, durable=False), []
report.on_new_version(lambda report: calls.append(1))
def refreshed():
    calls.clear()
    report.refresh(force=True)
    deadline = time.monotonic() + 60
    while not calls and time.monotonic() < deadline:
        time.sleep(0.001)
    assert calls
refreshed()
wait_until_the_thread_waits()  # in the middle of a call it would say in the log which call was disturbed
os.closerange(3, 256)
second = []
report.on_new_version(lambda report: second.append(1))
for _ in range(3):
    refreshed()
assert second
"""
    ended = subprocess.run([sys.executable, "-W", "error", "-c", script, path], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_at_exit_the_thread_makes_no_noise(path: str) -> None:
    script = """
import sys, time
from dogpile_fs import Datafile
def write(target):
    open(target, "w").close()
report = Datafile(sys.argv[1], None, write, durable=False)
report.on_new_version(lambda report: time.sleep(0.001))
for _ in range(3):
    report.refresh(force=True)
"""
    for _ in range(5):
        ended = subprocess.run([sys.executable, "-X", "dev", "-c", script, path], capture_output=True, text=True)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def plain_fork(action: Callable[[], object]) -> int:
    """As ``in_child``, but by libc's ``fork``: Python's hooks do not run."""
    wait_until_other_threads_sleep()
    pid: int = ctypes.PyDLL(None).fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return pid


@pytest.mark.forks_among_threads
def test_what_was_asked_for_before_a_fork_is_told_to_the_children_as_well(path: str, record: Record) -> None:
    report = datafile(path)

    def reload(report: Datafile) -> None:
        record.write("told", version=report.version)

    def live() -> None:
        record.write("ready")
        record.wait("over")

    with report.on_new_version(reload):
        settled()
        children = [in_child(live) for _ in range(3)]
        record.wait("ready", 3)
        datafile(path).refresh()
        record.wait("told", 4)
        assert {event.pid for event in record.events("told")} == {os.getpid(), *children}
        datafile(path).refresh(force=True)
        record.wait("told", 8)
        record.write("over")
        assert all(map(ended_well, children))
        assert len(record.events("told")) == 8


@pytest.mark.forks_among_threads
def test_no_thread_is_started_in_a_child_of_a_plain_fork_where_that_may_hang(path: str) -> None:
    report, calls = datafile(path), Calls()

    def live() -> None:
        report.invalidate()  # the first call of ours: the child learns that it is one
        report.refresh()
        assert report.load(lambda file: file.read()) == b"the report"
        assert len(os.listdir("/proc/self/task")) == 1

    with report.on_new_version(calls):
        report.refresh()
        for _ in range(10):
            assert ended_well(plain_fork(live))
        calls.wait(report)


def test_a_child_of_a_plain_fork_may_ask_for_itself(path: str) -> None:
    script = """
import ctypes, os, sys, time
from dogpile_fs import Datafile
def write(target):
    open(target, "w").close()
report, calls = Datafile(sys.argv[1], None, write, durable=False), []
report.refresh()
child = ctypes.PyDLL(None).fork()
if child:
    sys.exit(os.waitpid(child, 0)[1])
report.on_new_version(lambda report: calls.append(report.version))
report.refresh(force=True)
deadline = time.monotonic() + 60
while not calls and time.monotonic() < deadline:
    time.sleep(0.001)
os._exit(calls != [report.version])
"""
    ended = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.forks_among_threads
def test_a_child_is_told_of_a_version_that_came_while_it_was_forked_or_was_being_told_then(
    path: str, record: Record
) -> None:
    report, go_on = datafile(path), threading.Event()
    parent = os.getpid()

    def reload(report: Datafile) -> None:
        record.write("told", version=report.version)
        if os.getpid() == parent:
            go_on.wait(PATIENCE)

    with report.on_new_version(reload):
        report.refresh()
        record.wait("told")
        child = in_child(lambda: record.wait("told", 2))
        assert ended_well(child)
        assert [event.pid for event in record.events("told")] == [parent, child]
        go_on.set()


@pytest.mark.forks_among_threads
def test_a_callback_that_forks_is_not_called_again_in_its_child(path: str, record: Record) -> None:
    report = datafile(path)

    def reload(report: Datafile) -> None:
        record.write("told")
        record.write("ended", well=ended_well(in_child(lambda: time.sleep(0.3))))

    with report.on_new_version(reload):
        report.refresh()
        assert record.wait("ended")[0].more == {"well": True}
        assert len(record.events("told")) == 1


def test_under_gevent_greenlets_of_the_process_and_of_its_children_are_told(path: str) -> None:
    pytest.importorskip("gevent")
    script = """
from gevent import monkey
monkey.patch_all()
import os, sys, time
from dogpile_fs import Datafile
def write(target):
    open(target, "w").close()
report, calls = Datafile(sys.argv[1], None, write, durable=False), []
report.on_new_version(lambda report: calls.append(report.version))
def refreshed():
    calls.clear()
    report.refresh(force=True)
    deadline = time.monotonic() + 60
    while report.version not in calls and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(1)
    assert calls == [report.version], calls
refreshed()
child = os.fork()
if child == 0:
    refreshed()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
refreshed()
"""
    ended = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_copy_has_no_callbacks(path: str) -> None:
    import pickle

    report, calls = datafile(path), Calls()
    with report.on_new_version(calls):
        copy = pickle.loads(pickle.dumps(report))
        assert copy._watches is None
