"""Dogpile and SyncReaderDogpile: what acquire does, in both scopes, and the rest of the public face."""

from __future__ import annotations

import asyncio
import logging
import math
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import (
    Dogpile,
    FileMutex,
    LockTimeout,
    NeedRegenerationException,
    Outcome,
    SyncReaderDogpile,
    WouldDeadlock,
)
from tests.support.processes import PATIENCE, Processes, Record, wait_for, wait_until_it_waits_for_a_release

Make = Callable[..., Dogpile]


@pytest.fixture(params=["thread", "process"])
def make(request: pytest.FixtureRequest, path: str) -> Make:
    """Makes a dogpile of either scope: ``make(expiretime, **options)``."""

    def make(expiretime: float | None, kind: type[Dogpile] = Dogpile, **options: Any) -> Dogpile:
        return kind(expiretime, None if request.param == "thread" else path, **options)

    return make


def fail() -> None:
    pytest.fail("the creator was called")


def take(dogpile: Dogpile, *functions: Any, **more: Any) -> Any:
    with dogpile.acquire(*functions, **more) as value:
        return value


# What acquire does


def test_a_missing_resource_is_created_and_then_fresh(make: Make) -> None:
    dogpile = make(3600)
    assert (dogpile.has_value, dogpile.is_expired, dogpile.createdtime) == (False, True, -1)
    before = time.time()
    assert take(dogpile, lambda: "made") == "made"
    assert (dogpile.has_value, dogpile.is_expired) == (True, False)
    assert before <= dogpile.createdtime <= time.time()
    assert take(dogpile, fail) is None


def test_an_expired_resource_is_created_again(make: Make) -> None:
    dogpile = make(0.02)
    take(dogpile, lambda: 1)
    wait_for(lambda: dogpile.is_expired, "the expiry")
    assert dogpile.has_value
    assert take(dogpile, lambda: 2) == 2


def test_without_an_expiretime_it_is_fresh_for_ever(make: Make) -> None:
    dogpile = make(None)
    take(dogpile, lambda: 1)
    dogpile.createdtime = 1.0
    assert not dogpile.is_expired
    assert take(dogpile, fail) is None
    dogpile.createdtime = time.time() + 1e6
    assert take(dogpile, fail) is None


def test_an_expiretime_of_zero_creates_every_time(make: Make) -> None:
    dogpile = make(0)
    assert [take(dogpile, lambda n=n: n) for n in range(3)] == [0, 1, 2]


def test_the_expiretime_may_change(make: Make) -> None:
    dogpile = make(3600)
    take(dogpile, lambda: 1)
    dogpile.expiretime = 0
    assert dogpile.is_expired
    dogpile.expiretime = None
    assert not dogpile.is_expired
    assert dogpile.expiretime is None


def test_a_creators_error_reaches_its_caller_and_changes_nothing(make: Make) -> None:
    dogpile = make(3600)
    error = KeyError("mine")

    def creator() -> None:
        raise error

    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            take(dogpile, creator)
        assert caught.value is error
        assert not dogpile.has_value
    take(dogpile, lambda: None)
    before = dogpile.createdtime
    dogpile.invalidate()
    with pytest.raises(KeyError):
        take(dogpile, creator)
    assert dogpile.createdtime == before
    assert not dogpile.status().creating
    take(dogpile, lambda: None)


def test_threads_wait_for_the_first_creation_and_pass_all_others(make: Make) -> None:
    dogpile = make(3600)
    creating, enough = threading.Event(), threading.Event()
    inside: list[int] = []

    def creator() -> None:
        creating.set()
        enough.wait()

    def use(number: int) -> None:
        with dogpile.acquire(creator):
            inside.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    creating.wait()
    assert inside == []
    enough.set()
    for thread in threads:
        thread.join()
    assert sorted(inside) == list(range(6))
    assert dogpile.status().generation == 1

    dogpile.invalidate()
    creating.clear()
    enough.clear()
    thread = threading.Thread(target=use, args=(7,))
    thread.start()
    creating.wait()
    take(dogpile, fail)
    assert 7 not in inside
    enough.set()
    thread.join()
    assert dogpile.status().generation == 2


def test_when_a_first_creator_fails_a_waiter_creates(make: Make) -> None:
    dogpile = make(3600)
    creating, enough = threading.Event(), threading.Event()

    def creator() -> None:
        creating.set()
        enough.wait()
        raise KeyError

    def use() -> None:
        with pytest.raises(KeyError):
            take(dogpile, creator)

    first = threading.Thread(target=use)
    first.start()
    creating.wait()
    made: list[int] = []
    waiters = [threading.Thread(target=take, args=(dogpile, lambda: made.append(1))) for _ in range(4)]
    for waiter in waiters:
        waiter.start()
    enough.set()
    for thread in (first, *waiters):
        thread.join()
    assert made == [1]


# The value


def test_value_fn_gives_the_value_to_callers_that_do_not_create(make: Make) -> None:
    dogpile = make(3600)
    assert take(dogpile, lambda: "created", lambda: "kept") == "created"
    assert take(dogpile, fail, lambda: "kept") == "kept"
    dogpile.invalidate()
    assert take(dogpile, None, lambda: "kept") == "kept"


def test_value_fn_can_demand_a_creation(make: Make) -> None:
    dogpile = make(3600)
    kept: list[str] = []

    def value_fn() -> str:
        if not kept:
            raise NeedRegenerationException
        return kept[0]

    take(dogpile, lambda: None)

    def creator() -> str:
        kept.append("kept")
        return "created"

    assert take(dogpile, creator, value_fn) == "created"
    assert take(dogpile, fail, value_fn) == "kept"


def test_a_caller_that_waited_for_a_value_gets_it_from_value_fn(make: Make) -> None:
    dogpile = make(3600)
    kept: list[str] = []
    creating, enough = threading.Event(), threading.Event()

    def creator() -> str:
        creating.set()
        enough.wait()
        kept.append("kept")
        return "created"

    def value_fn() -> str:
        if not kept:
            raise NeedRegenerationException
        return kept[0]

    values: list[str] = []
    threads = [threading.Thread(target=lambda: values.append(take(dogpile, creator, value_fn))) for _ in range(4)]
    for thread in threads:
        thread.start()
    creating.wait()
    enough.set()
    for thread in threads:
        thread.join()
    assert sorted(values) == ["created", "kept", "kept", "kept"]


def test_the_createdtime_of_value_and_created_fn_counts(make: Make) -> None:
    dogpile = make(10)
    now = time.time()
    store: list[tuple[str, float]] = []

    def value_and_created_fn() -> tuple[str, float]:
        if not store:
            raise NeedRegenerationException
        return store[0]

    def creator() -> tuple[str, float]:
        store[:] = [("new", time.time())]
        return store[0]

    assert take(dogpile, creator, value_and_created_fn=value_and_created_fn) == "new"
    store[:] = [("kept", now)]
    assert take(dogpile, fail, value_and_created_fn=value_and_created_fn) == "kept"
    store[:] = [("old", now - 11)]
    assert take(dogpile, None, value_and_created_fn=value_and_created_fn) == "old"
    assert take(dogpile, creator, value_and_created_fn=value_and_created_fn) == "new"
    dogpile.invalidate(hard=True)
    assert take(dogpile, creator, value_and_created_fn=value_and_created_fn) == "new"
    assert dogpile.status().generation == 3


def test_a_value_missed_inside_the_block_is_created_anew_once(make: Make) -> None:
    dogpile = make(3600)
    take(dogpile, lambda: None)
    missing = [dogpile.acquire(fail) for _ in range(3)]
    for acquisition in missing:
        acquisition.__enter__()
    missing[0].__exit__(NeedRegenerationException, NeedRegenerationException(), None)
    assert not dogpile.has_value
    assert take(dogpile, lambda: "anew") == "anew"
    for acquisition in missing[1:]:
        acquisition.__exit__(NeedRegenerationException, NeedRegenerationException(), None)
    assert dogpile.has_value


def test_a_value_missed_right_after_its_creation_is_invalidated_too(make: Make) -> None:
    dogpile = make(3600)
    with pytest.raises(NeedRegenerationException), dogpile.acquire(lambda: None):
        raise NeedRegenerationException
    assert not dogpile.has_value


def test_of_nested_blocks_the_innermost_has_missed_its_value(make: Make, tmp_path: Path) -> None:
    outer, inner = make(3600), Dogpile(3600, tmp_path / "inner")
    outer.refresh(lambda: None)
    inner.refresh(lambda: None)
    with pytest.raises(NeedRegenerationException), outer.acquire(fail), inner.acquire(fail):
        raise NeedRegenerationException
    assert (outer.has_value, inner.has_value) == (True, False)


# Without a creator


def test_without_a_creator_fresh_and_stale_pass(make: Make) -> None:
    dogpile = make(3600)
    take(dogpile, lambda: None)
    take(dogpile)
    dogpile.invalidate()
    take(dogpile)
    assert dogpile.is_expired


def test_without_a_creator_a_missing_resource_is_waited_for(make: Make) -> None:
    dogpile = make(3600)
    passed = threading.Event()

    def use() -> None:
        with dogpile.acquire():
            passed.set()

    thread = threading.Thread(target=use)
    thread.start()
    assert not passed.wait(0.05)
    with pytest.raises(LockTimeout):
        take(dogpile, timeout=0.01)
    dogpile.refresh(lambda: None)
    thread.join(30)
    assert passed.is_set()


def _create_when_told(path: str, record: Record) -> None:
    def creator() -> None:
        record.write("creating")
        record.wait("go on")

    Dogpile(3600, path).refresh(creator)


def test_a_timeout_names_the_process_that_creates(path: str, record: Record, processes: Processes) -> None:
    creating = processes.start(_create_when_told, path, record)
    record.wait("creating")
    for wait in (
        lambda: take(Dogpile(3600, path), timeout=0.01),
        lambda: take(SyncReaderDogpile(3600, path), fail, timeout=0),
        lambda: Dogpile(3600, path, timeout=0.01).refresh(fail, force=True),
    ):
        with pytest.raises(LockTimeout) as caught:
            wait()
        assert f" s: process {creating.pid} on {os.uname().nodename} has been creating it for " in str(
            caught.value
        )
        assert "Hint: a longer timeout, or create ahead with refresh()." in str(caught.value)
    record.write("go on")
    processes.join()


def test_a_timeout_says_that_this_process_creates(make: Make) -> None:
    dogpile, began, go_on = make(3600), threading.Event(), threading.Event()

    def creator() -> None:
        began.set()
        assert go_on.wait(30)

    thread = threading.Thread(target=lambda: dogpile.refresh(creator))
    thread.start()
    assert began.wait(30)
    for wait in (lambda: take(dogpile, timeout=0), lambda: dogpile.refresh(fail, force=True, timeout=0)):
        with pytest.raises(LockTimeout, match=": this process, by another thread or task, has been creating it"):
            wait()
    go_on.set()
    thread.join()


def test_a_timeout_says_that_no_process_creates(make: Make) -> None:
    dogpile = make(3600)
    with pytest.raises(LockTimeout, match=r": no process creates it\. Hint: this caller has no creator"):
        take(dogpile, timeout=0.01)
    with pytest.raises(ZeroDivisionError):
        dogpile.refresh(lambda: 1 // 0)
    with pytest.raises(LockTimeout, match=": no process creates it"):
        take(dogpile, timeout=0.01)


def test_a_timeout_says_that_the_mutex_is_locked_without_a_creation(path: str) -> None:
    with FileMutex(path + ".dogpile.lock"), pytest.raises(LockTimeout) as caught:
        take(Dogpile(3600, path), fail, timeout=0.01)
    assert ": its mutex is locked, and no creation is on record." in str(caught.value)


# refresh, invalidate, status


def test_refresh_creates_unless_it_is_fresh_and_returns_whether(make: Make) -> None:
    dogpile = make(3600)
    assert dogpile.refresh(lambda: None)
    assert not dogpile.refresh(fail)
    dogpile.invalidate()
    assert dogpile.refresh(lambda: None)
    assert dogpile.refresh(lambda: None, force=True)
    assert dogpile.status().generation == 3
    with pytest.raises(ZeroDivisionError):
        dogpile.refresh(lambda: 1 // 0, force=True)
    assert dogpile.status().generation == 3


def test_a_refresh_that_waited_for_a_first_creation_creates_if_that_is_stale_already(make: Make) -> None:
    dogpile, begun, go_on = make(3600), threading.Event(), threading.Event()

    def creator() -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    first = threading.Thread(target=dogpile.refresh, args=(creator,))
    first.start()
    assert begun.wait(PATIENCE)
    answers: list[Outcome] = []
    second = threading.Thread(target=lambda: answers.append(dogpile.refresh(lambda: None)))
    second.start()
    wait_until_it_waits_for_a_release(second)
    dogpile.invalidate()
    go_on.set()
    first.join(PATIENCE)
    second.join(PATIENCE)
    assert answers == [Outcome.created], "the first one's result was stale from the beginning"
    assert dogpile.status().generation == 2
    assert dogpile.status().state == "fresh"


def test_a_soft_invalidation_makes_it_stale_a_hard_one_missing(make: Make) -> None:
    dogpile = make(None)
    dogpile.invalidate()
    assert dogpile.status().state == "missing"
    dogpile.refresh(lambda: None)
    assert dogpile.status().state == "fresh"
    dogpile.invalidate()
    assert (dogpile.status().state, dogpile.has_value, dogpile.is_expired) == ("stale", True, True)
    dogpile.invalidate(hard=True)
    dogpile.invalidate()
    assert (dogpile.status().state, dogpile.has_value) == ("missing", False)
    with pytest.raises(LockTimeout):
        take(dogpile, timeout=0.01)
    take(dogpile, lambda: None)
    assert dogpile.status().invalidated is None


@pytest.mark.parametrize(("hard", "state"), [(False, "stale"), (True, "missing")])
def test_an_invalidation_during_a_creation_is_not_lost(make: Make, hard: bool, state: str) -> None:
    dogpile = make(3600)
    dogpile.invalidate()
    take(dogpile, lambda: dogpile.invalidate(hard=hard))
    assert dogpile.status().state == state
    take(dogpile, lambda: None)
    assert dogpile.status().state == "fresh"


def test_an_invalidation_reaches_all_objects_of_the_path(path: str) -> None:
    one, other = Dogpile(3600, path), Dogpile(None, path)
    one.refresh(lambda: None)
    take(other, fail)
    one.invalidate()
    assert other.is_expired
    assert take(other, lambda: "again") == "again"
    take(one, fail)


def test_a_creation_that_begins_while_the_status_is_taken_is_not_called_dead(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, done = threading.Event(), threading.Event()

    def creator() -> None:
        begun.set()
        done.wait()

    creating = threading.Thread(target=lambda: Dogpile(3600, path).refresh(creator))
    dogpile = Dogpile(3600, path)
    locked = FileMutex.locked

    def begin_after(mutex: FileMutex) -> bool:
        found = locked(mutex)
        monkeypatch.undo()
        creating.start()
        begun.wait()
        return found

    monkeypatch.setattr(FileMutex, "locked", begin_after)
    try:
        status = dogpile.status()
        assert (status.failures, status.failed_type) == (0, None)
        assert dogpile.status().creating_pid == os.getpid()
    finally:
        done.set()
        creating.join()


def test_the_status_shows_the_record(path: str) -> None:
    dogpile = Dogpile(3600, path)
    status = dogpile.status()
    assert (status.state, status.age, status.generation, status.pid) == ("missing", None, 0, None)
    dogpile.refresh(lambda: time.sleep(0.01))
    status = dogpile.status()
    assert status.state == "fresh"
    assert status.age is not None
    assert status.remaining is not None
    assert status.age + status.remaining == pytest.approx(3600)
    assert (status.generation, status.pid, status.host) == (1, os.getpid(), os.uname().nodename)
    assert status.cost is not None
    assert status.cost >= 0.01
    assert not status.creating
    with FileMutex(path + ".dogpile.lock"):
        assert dogpile.status().creating
    assert Dogpile(None, path).status().remaining is None
    assert Dogpile(0, path).status().remaining == 0
    with pytest.raises(FrozenInstanceError):
        status.generation = 7  # type: ignore[misc]


@pytest.mark.parametrize("is_there", [True, False])
def test_no_call_touches_the_resource_itself(path: str, is_there: bool) -> None:
    resource = Path(path)
    if is_there:
        resource.write_text("another program's")
        os.utime(path, (1_000_000, 1_000_000))
    before = os.stat(path) if is_there else None
    dogpile = SyncReaderDogpile(3600, path)
    with dogpile.acquire(lambda: None), dogpile.acquire():
        pass
    assert dogpile.refresh(lambda: None, force=True)
    with dogpile.acquire_write_lock():
        pass
    for hard in (False, True):
        dogpile.invalidate(hard, durable=True)
    dogpile.createdtime = time.time()
    assert dogpile.status().generation == 3
    assert dogpile.fresh_version() is not None
    if before is None:
        assert not os.path.lexists(path)
    else:
        # st_ctime_ns changes with every write, rename, link, and change of permissions.
        after = os.stat(path)
        assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns, after.st_atime_ns) == (
            before.st_ino,
            before.st_mtime_ns,
            before.st_ctime_ns,
            before.st_atime_ns,
        )


def not_a_number() -> Any:
    return "kept", "yesterday"


def no_pair() -> Any:
    return None


@pytest.mark.parametrize("function", [not_a_number, no_pair])
def test_a_value_function_that_returns_something_else_is_named(make: Make, function: Any) -> None:
    dogpile = make(3600, SyncReaderDogpile)
    uses: list[Callable[[], object]] = [
        lambda: take(dogpile, lambda: ("new", 1.0), value_and_created_fn=function),
        lambda: take(dogpile, value_and_created_fn=function),
        lambda: take(dogpile, function, value_and_created_fn=_no_value),
    ]
    for use in uses:
        with pytest.raises(TypeError, match=rf"<function {function.__name__} .* return"):
            use()
    take(dogpile, lambda: None)
    with dogpile.acquire():
        dogpile.invalidate(hard=True)
        with pytest.raises(TypeError, match=rf"<function {function.__name__} .* return"):
            take(dogpile, value_and_created_fn=function)
    assert dogpile.refresh(lambda: None)


def _no_value() -> Any:
    raise NeedRegenerationException


# Construction


def test_init_declares_it_created_now_unless_it_was_before(make: Make, path: str) -> None:
    dogpile = make(3600, init=True)
    assert dogpile.has_value
    take(dogpile, fail)
    if dogpile.path is not None:
        before = dogpile.createdtime
        assert make(3600, init=True).createdtime == before


def test_the_users_own_lock_is_used(make: Make) -> None:
    lock = threading.Lock()
    dogpile = make(3600, lock=lock)
    dogpile.refresh(lambda: None)
    dogpile.invalidate()
    with lock:
        take(dogpile, fail)
        assert dogpile.status().creating
    dogpile.refresh(lambda: pytest.fail("not locked") if lock.acquire(False) else None)
    assert not lock.locked()
    dogpile.invalidate(hard=True)
    with lock, pytest.raises(LockTimeout):
        take(dogpile, fail, timeout=0.01)
    with pytest.raises(WouldDeadlock):
        take(dogpile, lambda: take(dogpile, fail))


class ReentrantLock:
    """A lock that does not look re-entrant."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.acquire, self.release = self.lock.acquire, self.lock.release


@pytest.mark.parametrize(
    "lock",
    [
        threading.RLock(),
        threading._PyRLock(),  # type: ignore[attr-defined]
        multiprocessing.RLock(),
        asyncio.Lock(),
        "no lock",
    ],
    ids=lambda lock: type(lock).__module__ + type(lock).__name__,
)
def test_a_lock_that_cannot_elect_is_refused(make: Make, lock: Any) -> None:
    with pytest.raises(TypeError, match="lock"):
        make(3600, lock=lock)


def test_a_lock_that_lets_its_thread_in_twice_is_refused_in_use_and_is_free_afterwards(make: Make) -> None:
    lock = ReentrantLock()
    dogpile = make(3600, lock=lock)
    take(dogpile, lambda: None)
    dogpile.invalidate()
    with pytest.raises(TypeError, match="second caller"):
        take(dogpile, lambda: take(dogpile, fail))
    thread = threading.Thread(target=lambda: take(dogpile, lambda: None))
    thread.start()
    thread.join(PATIENCE)
    assert not dogpile.is_expired


def test_a_lock_of_multiprocessing_elects_between_processes(
    path: str, record: Record, processes: Processes
) -> None:
    lock = multiprocessing.get_context("fork").Lock()
    dogpile = Dogpile(3600, path, lock=lock)

    def use() -> None:
        take(dogpile, lambda: record.write("create"))

    processes.start_many(4, use)
    processes.join()
    assert len(record.events("create")) == 1


@pytest.mark.parametrize("kind", [Dogpile, SyncReaderDogpile])
def test_a_timeout_bounds_the_wait_for_a_first_creation(make: Make, kind: type[Dogpile]) -> None:
    dogpile = make(3600, kind, timeout=0.02)
    creating, enough = threading.Event(), threading.Event()

    def creator() -> None:
        creating.set()
        enough.wait()

    thread = threading.Thread(target=dogpile.refresh, args=(creator,))
    thread.start()
    creating.wait()
    for more in ({}, {"timeout": 0.01}, {"timeout": 0}):
        began = time.monotonic()
        with pytest.raises(LockTimeout):
            take(dogpile, fail, **more)
        assert time.monotonic() - began >= more.get("timeout", 0.02)
    waiting = threading.Thread(target=take, args=(dogpile, fail), kwargs={"timeout": None})
    waiting.start()
    enough.set()
    thread.join()
    waiting.join(30)
    assert not waiting.is_alive()


def test_a_timeout_bounds_the_wait_for_readers_and_writers(make: Make) -> None:
    dogpile = make(3600, SyncReaderDogpile, timeout=0.02)
    assert isinstance(dogpile, SyncReaderDogpile)
    dogpile.refresh(lambda: None)
    inside, leave = threading.Event(), threading.Event()

    def stay(block: Any) -> None:
        with block:
            inside.set()
            leave.wait()

    def write() -> None:
        with dogpile.acquire_write_lock():
            pass

    for block, attempt in (
        (dogpile.acquire(), write),
        (dogpile.acquire_write_lock(), lambda: take(dogpile)),
        (dogpile.acquire_write_lock(), write),
    ):
        inside.clear()
        leave.clear()
        thread = threading.Thread(target=stay, args=(block,))
        thread.start()
        inside.wait()
        with pytest.raises(LockTimeout):
            attempt()
        leave.set()
        thread.join()
        attempt()


def test_coordination_files_go_where_directory_says_with_the_mode_given(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "data").mkdir()
    dogpile = SyncReaderDogpile(3600, tmp_path / "data" / "x", directory=tmp_path / "locks", mode=0o606)
    take(dogpile, lambda: None)
    assert list((tmp_path / "data").iterdir()) == []
    files = sorted((tmp_path / "locks").iterdir())
    assert [file.name.rpartition(".dogpile")[2] for file in files] == ["", ".journal", ".lock", ".rwlock"]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o606}
    assert not SyncReaderDogpile(3600, tmp_path / "data" / "x", directory=tmp_path / "locks").is_expired


def test_by_default_the_umask_decides_on_the_mode(path: str) -> None:
    before = os.umask(0o027)
    try:
        take(SyncReaderDogpile(3600, path), lambda: None)
    finally:
        os.umask(before)
    for suffix in ("", ".journal", ".lock", ".rwlock"):
        assert os.stat(f"{path}.dogpile{suffix}").st_mode & 0o777 == 0o640


def test_a_relative_path_is_fixed_when_the_object_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dogpile = Dogpile(3600, "resource")
    monkeypatch.chdir("/")
    take(dogpile, lambda: None)
    assert (tmp_path / "resource.dogpile").exists()


def test_a_copy_by_pickle_means_the_same_resource(path: str) -> None:
    dogpile = SyncReaderDogpile(60, path, timeout=5)
    take(dogpile, lambda: None)
    copy = pickle.loads(pickle.dumps(dogpile))
    assert type(copy) is SyncReaderDogpile
    assert (copy.expiretime, copy.path, copy.createdtime) == (60, path, dogpile.createdtime)
    take(copy, fail)
    with pytest.raises(TypeError, match="give it a path"):
        pickle.dumps(Dogpile(60))


def test_thread_scope_touches_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dogpile = SyncReaderDogpile(3600)

    def creator() -> None:
        with dogpile.acquire_write_lock():
            pass

    take(dogpile, creator)
    assert list(tmp_path.iterdir()) == []


def test_the_names_of_dogpile_core_are_there(make: Make) -> None:
    dogpile = make(60, SyncReaderDogpile)
    assert isinstance(dogpile, SyncReaderDogpile)
    assert dogpile.dogpilelock.acquire(False)
    dogpile.dogpilelock.release()
    assert dogpile.readwritelock.acquire_write_lock(False)
    dogpile.readwritelock.release_write_lock()
    assert "60" in repr(dogpile)


def test_setting_the_createdtime_stamps(make: Make) -> None:
    dogpile = make(3600)
    dogpile.createdtime = time.time() - 10
    assert not dogpile.is_expired
    dogpile.createdtime = -1
    assert not dogpile.has_value
    for nonsense in (math.nan, math.inf, "now"):
        with pytest.raises((TypeError, ValueError)):
            dogpile.createdtime = nonsense  # type: ignore[assignment]


def test_the_log_shows_each_step(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "dogpile_fs")
    dogpile = Dogpile(3600, path)
    take(dogpile, lambda: None)
    take(dogpile, fail)
    dogpile.invalidate()
    with FileMutex(path + ".dogpile.lock"):
        take(dogpile, fail)
    story = [record.message for record in caplog.records]
    assert all(line.startswith(f"{path!r}: ") for line in story)
    assert [line.removeprefix(f"{path!r}: ").split()[0] for line in story] == ["creating", "created", "stale:"], (
        story
    )


# SyncReaderDogpile


def test_no_reader_is_inside_while_the_creator_swaps(make: Make) -> None:
    dogpile = make(0.01, SyncReaderDogpile)
    assert isinstance(dogpile, SyncReaderDogpile)
    halves = [0, 0]
    torn: list[list[int]] = []
    stop = threading.Event()

    def creator() -> None:
        with dogpile.acquire_write_lock():
            halves[0] += 1
            time.sleep(0.001)
            halves[1] += 1

    def use() -> None:
        while not stop.is_set():
            with dogpile.acquire(creator):
                if halves[0] != halves[1]:
                    torn.append(list(halves))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: halves[1] >= 20, "twenty creations")
    stop.set()
    for thread in threads:
        thread.join()
    assert torn == []


def test_inside_the_creator_the_old_may_be_read_while_the_new_is_built(make: Make) -> None:
    dogpile = make(3600, SyncReaderDogpile)
    assert isinstance(dogpile, SyncReaderDogpile)
    dogpile.refresh(lambda: None)
    dogpile.invalidate()

    def creator() -> None:
        with dogpile.acquire():
            pass
        with dogpile.acquire_write_lock():
            pass

    take(dogpile, creator)
    assert not dogpile.is_expired
