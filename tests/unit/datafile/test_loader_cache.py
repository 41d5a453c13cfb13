"""load: once per process and version, by one thread, while the others keep what they have."""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import itertools
import json
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dogpile_fs import (
    Backoff,
    CreationFailed,
    DataDirectory,
    Datafile,
    DatafileError,
    Dogpile,
    LockTimeout,
    NeedRegenerationException,
    WouldDeadlock,
)
from dogpile_fs._datafile.loader_cache import LoaderCache, loader_key
from dogpile_fs._os.waiting import NOW
from dogpile_fs._sidecar.fingerprint import TAGGED, Fingerprint
from dogpile_fs._sidecar.record import Record as SidecarRecord
from tests.campaign.programs import few_descriptors
from tests.support.places import writing
from tests.support.processes import PATIENCE, Processes, Record, ended_well, in_child, wait_for
from tests.unit.locks.test_readwrite import in_thread


class Thing:
    """Something made from a version; one is told from another by what it is, not by what it says."""

    def __init__(self, said: str) -> None:
        self.said = said


class Loader:
    """Makes Things, tells how often, and can be stopped in the middle."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.gate: threading.Event | None = None
        self.inside = threading.Semaphore(0)

    def __call__(self, file: BinaryIO) -> Thing:
        said = file.read().decode()
        self.made.append(said)
        if self.gate is not None:
            self.inside.release()
            assert self.gate.wait(PATIENCE)
        return Thing(said)


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def datafile(path: str) -> Datafile:
    """With version "1" in place; every creation makes the next."""
    numbers: Iterator[int] = iter(range(1, 10**6))

    def creator(target: str) -> None:
        writing(str(next(numbers)))(target)

    datafile = Datafile(path, 3600, creator, durable=False)
    datafile.refresh()
    return datafile


def threads_of(count: int, action: Callable[[], object]) -> tuple[list[threading.Thread], list[Any]]:
    """Start *count* threads; what *action* returns or raises in them comes into the list."""
    outcomes: list[Any] = []

    def run() -> None:
        try:
            outcomes.append(action())
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, outcomes


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


# Once per version.


def test_what_was_loaded_is_shared_until_there_is_another_version(datafile: Datafile, loader: Loader) -> None:
    first = datafile.load(loader)
    assert all(datafile.load(loader) is first for _ in range(100))
    datafile.refresh(force=True)
    second = datafile.load(loader)
    assert second is not first
    assert all(datafile.load(loader) is second for _ in range(100))
    assert loader.made == ["1", "2"]


def test_the_loader_gets_the_version_opened_for_reading_bytes_and_closed_after_it(datafile: Datafile) -> None:
    files: list[BinaryIO] = []

    def loader(file: BinaryIO) -> None:
        assert (file.mode, file.name, file.tell()) == ("rb", datafile._dogpile.path, 0)
        files.append(file)

    assert datafile.load(loader) is None
    assert files[0].closed
    assert datafile.load(loader) is None
    assert len(files) == 1  # None is an object as any other


def test_a_directorys_loader_gets_its_path(path: str) -> None:
    datadir = DataDirectory(path, 3600, os.mkdir)
    assert datadir.load(os.listdir) == []
    assert datadir.load(os.listdir) is datadir.load(os.listdir)


def test_a_stale_version_that_was_loaded_is_not_loaded_again(
    path: str, loader: Loader, record: Record, processes: Processes
) -> None:
    def create_when_told() -> None:
        def creator(target: str) -> None:
            record.write("creating")
            record.wait("go on")
            writing("2")(target)

        Datafile(path, 3600, creator).refresh()

    datafile = Datafile(path, 3600, writing("1"))
    first = datafile.load(loader)
    datafile.invalidate()
    creating = processes.start(create_when_told)
    record.wait("creating")
    assert [datafile.load(loader) for _ in range(20)] == [first] * 20
    assert loader.made == ["1"]
    record.write("go on")
    processes.join(creating)
    assert datafile.load(loader).said == "2"
    assert loader.made == ["1", "2"]


def test_a_creation_by_another_process_is_seen_by_the_next_call(
    datafile: Datafile, loader: Loader, processes: Processes
) -> None:
    for number in range(1, 6):
        assert datafile.load(loader).said == str(number)
        # Whose creator is its own copy, and counts from where its parent's was.
        processes.join(processes.start(lambda: datafile.refresh(force=True)))
        assert datafile.load(loader).said == str(number + 1)
        datafile._creator = writing(str(number + 2))
    assert loader.made == [str(number) for number in range(1, 7)]


def test_each_process_loads_for_itself(datafile: Datafile, loader: Loader) -> None:
    assert ended_well(in_child(lambda: datafile.load(loader)))
    assert loader.made == []
    datafile.load(loader)
    assert loader.made == ["1"]


def test_a_forked_child_has_what_its_parent_had_loaded(datafile: Datafile, loader: Loader) -> None:
    first = datafile.load(loader)

    def in_the_child() -> None:
        assert datafile.load(loader) is first
        datafile.refresh(force=True)
        assert datafile.load(loader).said == "2"
        assert loader.made == ["1", "2"]

    assert ended_well(in_child(in_the_child))
    assert datafile.load(loader).said == "2"


def test_two_objects_of_one_path_load_for_themselves(datafile: Datafile, loader: Loader) -> None:
    assert datafile._dogpile.path is not None
    other = Datafile(datafile._dogpile.path, 3600)
    assert datafile.load(loader) is not other.load(loader)
    assert loader.made == ["1", "1"]


def test_the_old_object_is_let_go_when_there_is_a_new_one(datafile: Datafile, loader: Loader) -> None:
    first = weakref.ref(datafile.load(loader))
    datafile.refresh(force=True)
    datafile.load(loader)
    gc.collect()
    assert first() is None


# Many threads.


def test_of_twenty_threads_that_load_first_one_calls_the_loader_and_all_get_its_object(
    datafile: Datafile, loader: Loader
) -> None:
    loader.gate = threading.Event()
    threads, things = threads_of(20, lambda: datafile.load(loader))
    assert loader.inside.acquire(timeout=PATIENCE)
    assert things == []
    loader.gate.set()
    join(threads)
    assert (loader.made, len(things), len(set(map(id, things)))) == (["1"], 20, 1)


def test_while_one_thread_loads_the_next_all_others_get_the_old_one_at_once(
    datafile: Datafile, loader: Loader
) -> None:
    first = datafile.load(loader)
    datafile.refresh(force=True)
    loader.gate = threading.Event()
    [loading], new = threads_of(1, lambda: datafile.load(loader))
    assert loader.inside.acquire(timeout=PATIENCE)
    threads, old = threads_of(19, lambda: [datafile.load(loader) for _ in range(50)])
    join(threads)  # the loader still waits at the gate
    assert old == [[first] * 50] * 19
    assert new == []
    loader.gate.set()
    join([loading])
    assert new[0].said == "2"
    assert datafile.load(loader) is new[0]
    assert loader.made == ["1", "2"]


def test_a_version_that_is_swapped_in_during_a_load_is_loaded_next(datafile: Datafile, loader: Loader) -> None:
    loader.gate = threading.Event()
    threads, things = threads_of(1, lambda: datafile.load(loader))
    assert loader.inside.acquire(timeout=PATIENCE)
    datafile.refresh(force=True)
    loader.gate.set()
    join(threads)
    assert things[0].said == "1"
    assert datafile.load(loader).said == "2"
    assert loader.made == ["1", "2"]


def test_while_versions_come_and_go_no_version_is_loaded_twice_and_none_before_an_older_one(
    datafile: Datafile, loader: Loader
) -> None:
    end = threading.Event()

    def load_in_a_loop() -> list[int]:
        seen: list[int] = []
        while not end.is_set():
            number = int(datafile.load(loader).said)
            if not seen or seen[-1] != number:
                seen.append(number)
        return seen

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads, outcomes = threads_of(4, load_in_a_loop)
        for _ in range(50):
            datafile.refresh(force=True)
            time.sleep(0.002)
        end.set()
        join(threads)
    finally:
        sys.setswitchinterval(before)
    twice = {said for said in loader.made if loader.made.count(said) > 1}
    assert twice == set(), f"of {len(loader.made)} calls of the loader"
    assert loader.made == sorted(loader.made, key=int)
    for seen in outcomes:
        assert seen == sorted(seen)


class Hashed(Loader):
    """A loader that holds up a thread at the second look for its object: between the pass and the loading."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.victim = 0

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        if threading.get_ident() == self.victim:
            self.asked += 1
            if self.asked == 2:
                self.held.set()
                assert self.go_on.wait(PATIENCE)
        return id(self)


def test_a_thread_that_was_held_up_after_its_pass_does_not_load_again_what_another_has_loaded_meanwhile(
    datafile: Datafile,
) -> None:
    loader = Hashed()
    datafile.load(loader)
    datafile.invalidate()
    datafile._creator, creator = None, datafile._creator  # so that the thread passes, and sees version 1

    def load_late() -> Thing:
        loader.victim = threading.get_ident()
        return datafile.load(loader)

    [thread], things = threads_of(1, load_late)
    wait_for(lambda: loader.held.is_set() or not thread.is_alive(), "the thread to be held up, if it can be")
    datafile._creator = creator
    datafile.refresh(force=True)
    second = datafile.load(loader)
    loader.go_on.set()
    join([thread])
    assert things[0].said in ("1", "2")
    assert datafile.load(loader) is second
    assert loader.made == ["1", "2"]


# A loader that fails.


LONG = Backoff(initial=60)


class Failing:
    """Loads with *loader*, and then raises *error*, if there is one."""

    def __init__(self, loader: Callable[[BinaryIO], Thing], error: BaseException | None = None) -> None:
        self.loader = loader
        self.error = error

    def __call__(self, file: BinaryIO) -> Thing:
        thing = self.loader(file)
        if self.error is not None:
            raise self.error
        return thing


@pytest.fixture
def failing(loader: Loader) -> Failing:
    return Failing(loader)


def remade(datafile: Datafile, **policy: Any) -> Datafile:
    """Return another object of the same file and creator, with other policies."""
    return Datafile(datafile._path, 3600, datafile._creator, durable=False, **policy)


def errors_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_loader_that_fails_on_a_new_version_leaves_the_old_object_in_use(
    datafile: Datafile, loader: Loader, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    datafile = remade(datafile, backoff=LONG)
    first = datafile.load(failing)
    datafile.refresh(force=True)
    failing.error = ZeroDivisionError("mine")
    assert [datafile.load(failing) for _ in range(20)] == [first] * 20
    assert loader.made == ["1", "2"]
    [told] = errors_in(caplog)
    assert told.exc_info is not None
    assert told.exc_info[1] is failing.error
    assert repr(datafile._path)[1:-1] in told.getMessage()
    assert "ZeroDivisionError: mine" in told.getMessage()


def test_a_new_version_ends_a_loaders_backoff(
    datafile: Datafile, loader: Loader, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    datafile = remade(datafile, backoff=LONG)
    first = datafile.load(failing)
    failing.error = ZeroDivisionError()
    for number in range(2, 5):
        datafile.refresh(force=True)
        assert [datafile.load(failing) for _ in range(3)] == [first] * 3
        assert len(errors_in(caplog)) == number - 1
    failing.error = None
    assert datafile.load(failing) is first
    datafile.refresh(force=True)
    assert datafile.load(failing).said == "5"
    assert loader.made == ["1", "2", "3", "4", "5"]


def test_a_loaders_backoff_grows_and_is_logged_once_per_version(
    datafile: Datafile, loader: Loader, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    datafile = remade(datafile, backoff=Backoff(initial=0.05, maximum=0.2, factor=2, jitter=0))
    called: list[float] = []

    def noting(file: BinaryIO) -> Thing:
        called.append(time.monotonic())
        return loader(file)

    failing.loader = noting
    first = datafile.load(failing)
    datafile.refresh(force=True)
    failing.error = ZeroDivisionError()
    while len(called) < 6:
        assert datafile.load(failing) is first
        time.sleep(0.001)
    delays = [after - before for before, after in itertools.pairwise(called[1:])]
    assert all(delay >= least for delay, least in zip(delays, [0.05, 0.1, 0.2, 0.2], strict=True)), delays
    assert len(errors_in(caplog)) == 1
    failing.error = None
    wait_for(lambda: datafile.load(failing) is not first, "the next attempt")
    assert datafile.load(failing).said == "2"


def test_without_a_backoff_a_loader_is_called_each_time_and_the_old_object_stays_in_use(
    datafile: Datafile, loader: Loader, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    datafile = remade(datafile, backoff=None)
    first = datafile.load(failing)
    datafile.refresh(force=True)
    failing.error = ZeroDivisionError()
    assert [datafile.load(failing) for _ in range(3)] == [first] * 3
    assert loader.made == ["1", "2", "2", "2"]
    assert len(errors_in(caplog)) == 1
    failing.error = None
    assert datafile.load(failing).said == "2"


def test_a_loader_that_fails_without_an_old_object_raises_and_within_its_backoff_is_not_called(
    datafile: Datafile, loader: Loader, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    datafile = remade(datafile, backoff=LONG)
    failing.error = ZeroDivisionError("mine")
    with pytest.raises(ZeroDivisionError) as caught:
        datafile.load(failing)
    assert caught.value is failing.error
    for _ in range(3):
        with pytest.raises(CreationFailed) as refused:
            datafile.load(failing, timeout=0)
        error = refused.value
        assert (error.path, error.failures, error.failed_type) == (datafile._path, 1, "ZeroDivisionError")
        assert error.loader == f"{__name__}.Failing"
        assert 0 < error.retry_at - time.time() <= 66
        assert isinstance(error.__cause__, ZeroDivisionError)
        assert error.__cause__.__traceback__ is None  # it keeps no file and no object of the loader's alive
        assert all(word in str(error) for word in (repr(datafile._path), "Failing", "Hint: "))
        assert str(pickle.loads(pickle.dumps(error)))[:20] == str(error)[:20]
    assert loader.made == ["1"]
    assert len(errors_in(caplog)) == 1
    assert datafile.load(loader).said == "1"  # another loader has a backoff of its own
    datafile.refresh(force=True)
    failing.error = None
    assert datafile.load(failing).said == "2"


def test_without_a_backoff_each_caller_without_an_object_gets_the_loaders_error(
    datafile: Datafile, failing: Failing
) -> None:
    datafile = remade(datafile, backoff=None)
    failing.error = ZeroDivisionError("mine")
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            datafile.load(failing)
    failing.error = None
    assert datafile.load(failing).said == "1"


@pytest.mark.parametrize("backoff", [None, LONG])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), asyncio.CancelledError(), WouldDeadlock()]
)
def test_interrupts_reach_the_caller_of_load_and_begin_no_backoff(
    datafile: Datafile,
    failing: Failing,
    error: BaseException,
    backoff: Backoff | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    datafile = remade(datafile, backoff=backoff)
    for said in ("1", "2"):
        failing.error = error
        for _ in range(2):
            with pytest.raises(type(error)) as caught:
                datafile.load(failing)
            assert caught.value is error
        failing.error = None
        assert datafile.load(failing).said == said
        datafile.refresh(force=True)
    assert errors_in(caplog) == []


def test_a_loader_that_needs_a_regeneration_has_a_new_version_created(
    datafile: Datafile, failing: Failing
) -> None:
    datafile = remade(datafile, backoff=LONG)
    first = datafile.load(failing)
    datafile.refresh(force=True)
    failing.error = NeedRegenerationException()
    with pytest.raises(NeedRegenerationException):
        datafile.load(failing)
    failing.error = None
    assert datafile.load(failing).said == "3"
    assert first.said == "1"


def test_a_process_that_may_not_read_a_new_version_goes_on_with_the_old_object(
    path: str, loader: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    datafile = Datafile(path, 3600, writing("1"), durable=False, backoff=Backoff(initial=0.01, maximum=0.01))
    first = datafile.load(loader)
    datafile._creator = writing("2")
    datafile.refresh(force=True)
    with few_descriptors(0):  # as a file whose mode forbids it; root may read that
        assert [datafile.load(loader) for _ in range(5)] == [first] * 5
        with pytest.raises(DatafileError):
            datafile.load(lambda file: file.read())
    assert len(errors_in(caplog)) == 1
    wait_for(lambda: datafile.load(loader) is not first, "the new version to be loaded")


def test_a_directorys_loader_that_fails_leaves_the_old_object_in_use(path: str) -> None:
    datadir = DataDirectory(path, 3600, os.mkdir, durable=False, backoff=LONG)

    def loader(place: str) -> list[str]:
        if fails:
            raise ZeroDivisionError
        return os.listdir(place)

    fails = False
    first = datadir.load(loader)
    datadir.refresh(force=True)
    fails = True
    assert datadir.load(loader) is datadir.load(loader) is first
    with pytest.raises(ZeroDivisionError):
        datadir.load(lambda place: loader(place))
    datadir.refresh(force=True)
    fails = False
    assert datadir.load(loader) is not first


def test_a_process_has_its_own_backoff_of_a_loader(datafile: Datafile, failing: Failing) -> None:
    datafile = remade(datafile, backoff=LONG)
    failing.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        datafile.load(failing)
    other = remade(datafile, backoff=LONG)  # as in another process
    failing.error = None
    assert other.load(failing).said == "1"
    assert datafile.status().failures == 0


# Creations that fail: load() does as open(), acquire() and path() do.


def is_there(given: Any) -> bool:
    return given is not None


def in_block(block: AbstractContextManager[Any]) -> bool:
    with block as given:
        return is_there(given)


WAYS: dict[str, Callable[[Any, Any], bool]] = {
    "open": lambda resource, timeout: in_block(resource.open(timeout=timeout)),
    "load": lambda resource, timeout: resource.load(is_there, timeout=timeout),
    "load, another loader": lambda resource, timeout: resource.load(bool, timeout=timeout),
    "acquire": lambda resource, timeout: in_block(resource.acquire(timeout=timeout)),
    "path": lambda resource, timeout: is_there(resource.path(timeout=timeout)),
}

KINDS: dict[str, Callable[..., Any]] = {
    "Datafile": Datafile,
    "Datafile, readers": partial(Datafile, readers=True),
    "DataDirectory": DataDirectory,
}


class Broken:
    """A creator of files or directories that fails from its second call on."""

    def __init__(self, kind: str) -> None:
        self.make = os.mkdir if kind == "DataDirectory" else writing("1")
        self.calls = 0

    def __call__(self, target: str) -> None:
        self.calls += 1
        if self.calls > 1:
            raise ZeroDivisionError
        self.make(target)


@pytest.mark.parametrize("timeout", [..., 0, None])
@pytest.mark.parametrize("lost", ["never created", "removed", "invalidated hard", "expired"])
@pytest.mark.parametrize("kind", KINDS)
def test_within_the_backoff_of_a_creation_all_ways_to_what_is_not_there_raise_creation_failed_at_once(
    path: str, kind: str, lost: str, timeout: Any
) -> None:
    creator = Broken(kind)
    resource = KINDS[kind](path, 3600, creator, durable=False, backoff=LONG, max_stale=60)
    ways = [way for way in WAYS if hasattr(resource, way.split(",")[0])]
    if lost == "never created":
        creator.calls = 1
    else:
        assert all(WAYS[way](resource, ...) for way in ways)  # load() has an old object, which it must not give
    if lost == "removed":
        os.unlink(path)
        time.sleep(0.02)
    elif lost == "invalidated hard":
        resource.invalidate(hard=True)
    elif lost == "expired":
        resource._dogpile.createdtime = time.time() - 3700
    for way in ways:
        with pytest.raises(ZeroDivisionError if creator.calls == 1 else CreationFailed) as caught:
            WAYS[way](resource, ...)
        with pytest.raises(CreationFailed) as caught:
            WAYS[way](resource, timeout)
        error: Any = caught.value
        assert (error.path, error.failures, error.failed_type) == (path, 1, "ZeroDivisionError")
        assert error.loader is None
        assert isinstance(error.__cause__, ZeroDivisionError)
    assert creator.calls == 2
    assert (resource.version is None) == (lost != "expired")
    assert resource.refresh() == "backing_off"
    reader = KINDS[kind](path, 3600, max_stale=60)
    for way in ways:  # without a creator they wait
        with pytest.raises(LockTimeout):
            WAYS[way](reader, 0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_within_the_backoff_of_a_creation_all_ways_give_what_is_stale(path: str, kind: str) -> None:
    creator = Broken(kind)
    resource = KINDS[kind](path, 3600, creator, durable=False, backoff=LONG)
    ways = [way for way in WAYS if hasattr(resource, way.split(",")[0])]
    resource.refresh()
    version = resource.version
    resource.invalidate()
    for _ in range(3):
        assert [WAYS[way](resource, ...) for way in ways] == [True] * len(ways)
    assert creator.calls == 2
    assert resource.version == version


# Versions that must not be read any more.


@pytest.mark.parametrize("fails", [False, True])
def test_after_a_hard_invalidation_no_caller_gets_the_object_of_an_earlier_version(
    datafile: Datafile, loader: Loader, failing: Failing, fails: bool
) -> None:
    datafile = remade(datafile, backoff=LONG)
    datafile.load(failing)
    remade(datafile).invalidate(hard=True)
    remade(datafile).refresh()
    loader.gate = threading.Event()
    failing.error = ZeroDivisionError() if fails else None
    threads, outcomes = threads_of(5, lambda: datafile.load(failing))
    assert loader.inside.acquire(timeout=PATIENCE)
    with pytest.raises(LockTimeout):
        datafile.load(failing, timeout=0)
    assert outcomes == []
    loader.gate.set()
    join(threads)
    if fails:
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["CreationFailed"] * 4 + [
            "ZeroDivisionError"
        ]
    else:
        assert {outcome.said for outcome in outcomes} == {"2"}
    assert loader.made == ["1", "2"]


def test_a_hard_invalidation_counts_also_where_the_sidecar_was_removed_before(
    datafile: Datafile, failing: Failing
) -> None:
    datafile.invalidate(hard=True)
    datafile.refresh()
    assert datafile.load(failing).said == "2"
    os.unlink(f"{datafile._path}.dogpile")
    datafile.invalidate(hard=True)
    datafile.refresh()
    failing.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        datafile.load(failing)


def test_beyond_max_stale_no_caller_gets_the_object_of_an_earlier_version(path: str, loader: Loader) -> None:
    failing = Failing(loader)
    numbers = iter("123")
    datafile = Datafile(path, 3600, lambda target: writing(next(numbers))(target), max_stale=60, backoff=None)
    datafile.load(failing)
    failing.error = ZeroDivisionError()
    datafile.refresh(force=True)
    assert datafile.load(failing).said == "1"  # younger than its lifetime and max_stale
    datafile._dogpile.expiretime = 0.0  # seconds
    datafile.refresh(force=True)
    assert datafile.load(failing).said == "1"
    datafile._dogpile.expiretime = 3600
    old = datafile._cache.slots[failing]  # type: ignore[union-attr]
    old.record = old.record.replace(createdtime=time.time() - 3661)  # type: ignore[union-attr]
    with pytest.raises(ZeroDivisionError):
        datafile.load(failing)


def test_while_a_loader_that_fails_runs_the_others_keep_the_old_object(
    datafile: Datafile, loader: Loader, failing: Failing
) -> None:
    datafile = remade(datafile, backoff=None)
    first = datafile.load(failing)
    datafile.refresh(force=True)
    loader.gate, failing.error = threading.Event(), ZeroDivisionError()
    [thread], outcome = threads_of(1, lambda: datafile.load(failing))
    assert loader.inside.acquire(timeout=PATIENCE)
    assert datafile.load(failing) is first
    loader.gate.set()
    join([thread])
    assert outcome == [first]
    loader.gate, failing.error = None, None
    assert datafile.load(failing).said == "2"


@pytest.mark.parametrize("backoff", [None, LONG])
def test_of_threads_that_wait_for_a_first_object_the_next_one_tries_when_the_loader_fails_without_a_backoff(
    datafile: Datafile, loader: Loader, backoff: Backoff | None
) -> None:
    datafile = remade(datafile, backoff=backoff)
    loader.gate = threading.Event()
    calls: list[int] = []

    def fail_twice(file: BinaryIO) -> Thing:
        calls.append(1)
        thing = loader(file)
        if len(calls) <= 2:
            raise ZeroDivisionError
        return thing

    threads, outcomes = threads_of(10, lambda: datafile.load(fail_twice))
    assert loader.inside.acquire(timeout=PATIENCE)
    loader.gate.set()
    join(threads)
    kinds = sorted(type(outcome).__name__ for outcome in outcomes)
    if backoff is not None:
        assert (kinds, len(calls)) == (["CreationFailed"] * 9 + ["ZeroDivisionError"], 1)
        return
    assert (kinds, len(calls)) == (["Thing"] * 8 + ["ZeroDivisionError"] * 2, 3)
    assert len({id(outcome) for outcome in outcomes if isinstance(outcome, Thing)}) == 1


def test_a_handler_of_the_log_may_load_what_has_failed(datafile: Datafile, failing: Failing) -> None:
    datafile = remade(datafile, backoff=LONG)
    first = datafile.load(failing)
    datafile.refresh(force=True)
    found: list[object] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(datafile.load(failing))
            with pytest.raises(CreationFailed):
                other.load(failing)

    other = remade(datafile, backoff=LONG)
    handler = Handler(logging.ERROR)
    failing.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        other.load(failing)
    logging.getLogger("dogpile_fs").addHandler(handler)
    try:
        assert datafile.load(failing) is first
    finally:
        logging.getLogger("dogpile_fs").removeHandler(handler)
    assert found == [first]


def test_a_failure_of_a_loader_keeps_nothing_alive_that_it_had_made(
    datafile: Datafile, loader: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "dogpile_fs")  # else the record of the log would keep it
    datafile = remade(datafile, backoff=LONG)
    things: list[weakref.ref[Thing]] = []

    def half_done(file: BinaryIO) -> Thing:
        thing = loader(file)
        things.append(weakref.ref(thing))
        if len(things) > 1:
            raise ZeroDivisionError
        return thing

    gc.disable()
    try:
        first = datafile.load(half_done)
        datafile.refresh(force=True)
        assert datafile.load(half_done) is first
        assert things[1]() is None
    finally:
        gc.enable()


# Waiting.


def test_the_timeout_bounds_the_wait_for_another_threads_first_object(path: str, loader: Loader) -> None:
    datafile = Datafile(path, 3600, writing("1"), timeout=0.03)
    loader.gate = threading.Event()
    threads, things = threads_of(1, lambda: datafile.load(loader))
    assert loader.inside.acquire(timeout=PATIENCE)
    for timeout in ({}, {"timeout": 0}, {"timeout": 0.01}):
        with pytest.raises(LockTimeout) as caught:
            datafile.load(loader, **timeout)
        assert repr(path) in str(caught.value)
        assert "Hint: " in str(caught.value)
    assert datafile.load(lambda file: "another's is not waited for") == "another's is not waited for"
    loader.gate.set()
    join(threads)
    assert datafile.load(loader, timeout=0) is things[0]


def test_a_timeout_that_is_no_number_is_refused(datafile: Datafile) -> None:
    with pytest.raises(ValueError, match="timeout"):
        datafile.load(json.load, timeout=-1)


@pytest.mark.parametrize("first", [True, False])
def test_loading_it_inside_its_first_loader_would_deadlock_and_later_gives_the_old_one(
    datafile: Datafile, first: bool
) -> None:
    inner: list[Any] = []

    def loader(file: BinaryIO) -> bytes:
        if inner or first:
            inner.append(datafile.load(loader))
        inner.append("called")
        return file.read()

    if first:
        with pytest.raises(WouldDeadlock):
            datafile.load(loader)
        return
    old = datafile.load(loader)
    datafile.refresh(force=True)
    assert datafile.load(loader) == b"2"
    assert inner == ["called", old, "called"]


def test_another_loader_may_be_used_inside_a_loader(datafile: Datafile) -> None:
    assert datafile.load(lambda file: datafile.load(BinaryReader.read) + file.read()) == b"11"


class BinaryReader:
    """A loader that is a function of a class."""

    @staticmethod
    def read(file: BinaryIO) -> bytes:
        return file.read()


def test_another_thread_may_load_with_the_same_loader_inside_a_loader_of_a_later_version(
    datafile: Datafile,
) -> None:
    def loader(file: BinaryIO) -> bytes:
        said = file.read()
        if said == b"2":
            assert in_thread(lambda: datafile.load(loader)) == b"1"
        return said

    datafile.load(loader)
    datafile.refresh(force=True)
    assert datafile.load(loader) == b"2"


# Which loader is which.


def test_a_lambda_is_the_same_every_time(datafile: Datafile) -> None:
    objects = [datafile.load(lambda file: [file.read()]) for _ in range(5)]
    assert all(thing is objects[0] for thing in objects)


def test_two_lambdas_are_not_the_same(datafile: Datafile) -> None:
    assert [datafile.load(lambda file: 1), datafile.load(lambda file: 2)] == [1, 2]
    for expected in (1, 2):  # closures, each of its own
        assert datafile.load(lambda file: expected) == expected  # noqa: B023
        assert datafile.load(lambda file, expected=expected: expected) == expected  # type: ignore[misc]
        assert datafile.load(functools.partial(lambda expected, file: expected, expected)) == expected


SOURCE = "def loader(file):\n    return parse(file)\n"


@pytest.mark.parametrize("filename", ["same.py", None])
def test_functions_of_two_modules_that_look_alike_are_not_the_same(
    datafile: Datafile, filename: str | None
) -> None:
    # As two plugins have them that were made from one template, at the same line.
    loaders = []
    for name in ("one", "other"):
        module = types.ModuleType(name)
        module.parse = lambda file, name=name: name  # type: ignore[attr-defined]
        exec(compile(SOURCE, filename or f"{name}.py", "exec"), vars(module))
        loaders.append(module.loader)
    assert loaders[0].__code__ == loaders[1].__code__
    assert [datafile.load(loader) for loader in loaders] == ["one", "other"]


def test_a_function_of_a_module_that_is_gone_is_not_taken_for_one_that_looks_like_it(datafile: Datafile) -> None:
    # Whose globals may be where those of the other were.
    for number in range(10):
        namespace: dict[str, Any] = {"parse": lambda file, number=number: number}
        exec(compile(SOURCE, "same.py", "exec"), namespace)
        assert datafile.load(namespace["loader"]) == number
        del namespace
        gc.collect()


def test_methods_and_builtins_and_classes_may_be_loaders(datafile: Datafile) -> None:
    class Parser:
        def __init__(self, word: str = "") -> None:
            self.word = word

        def parse(self, file: BinaryIO) -> list[str]:
            return [self.word]

        @classmethod
        def of(cls, file: BinaryIO) -> list[str]:
            return ["class"]

    one, other = Parser("one"), Parser("other")
    assert datafile.load(one.parse) is datafile.load(one.parse)
    assert (datafile.load(one.parse), datafile.load(other.parse)) == (["one"], ["other"])
    assert datafile.load(Parser.of) is datafile.load(Parser.of)
    assert datafile.load(json.load) == 1
    assert isinstance(datafile.load(lambda file: Thing(repr(file))), Thing)


def test_a_loader_that_has_no_hash_is_known_as_the_object_that_it_is(datafile: Datafile) -> None:
    @dataclass
    class Parser:
        word: str

        def __call__(self, file: BinaryIO) -> list[str]:
            return [self.word]

    one, other = Parser("word"), Parser("word")
    assert datafile.load(one) is datafile.load(one)
    assert datafile.load(other) is not datafile.load(one)


class Language:
    """A loader that is an object, and one that is its method."""

    def __init__(self, language: str) -> None:
        self.language = language

    def __call__(self, file: BinaryIO) -> Thing:
        return Thing(self.language)

    def load(self, file: BinaryIO) -> Thing:
        return Thing(self.language)


@dataclass(frozen=True)
class EqualLanguage:
    """A loader that equals others of its language."""

    language: str

    def __call__(self, file: BinaryIO) -> Thing:
        return Thing(self.language)


def in_language(language: str, file: BinaryIO) -> Thing:
    return Thing(language)


def closure(language: str) -> Callable[[BinaryIO], Thing]:
    def loader(file: BinaryIO) -> Thing:
        return Thing(language)

    return loader


def recursive_closure(language: str) -> Callable[[BinaryIO], Thing]:
    def loader(file: BinaryIO, deep: int = 3) -> Thing:
        return loader(file, deep - 1) if deep else Thing(language)

    return loader


def with_default(language: str) -> Callable[[BinaryIO], Thing]:
    return lambda file, language=language: Thing(language)  # type: ignore[misc]


def executed(language: str) -> Callable[[BinaryIO], Thing]:
    namespace: dict[str, Any] = {"Thing": Thing, "__name__": "executed"}
    exec(f"def loader(file):\n    return Thing({language!r})\n", namespace)
    return namespace["loader"]  # type: ignore[no-any-return]


def local_class(language: str) -> Callable[[BinaryIO], Thing]:
    class Local(Thing):
        def __init__(self, file: BinaryIO) -> None:
            super().__init__(language)

    return Local


#: Functions that make a loader of a language anew at each call, and what the warning calls that.
MADE_ANEW: dict[str, Callable[[str], Callable[[BinaryIO], Thing]]] = {
    "closure.<locals>.loader": closure,
    "recursive_closure.<locals>.loader": recursive_closure,
    "with_default.<locals>.<lambda>": with_default,
    "in_language": lambda language: partial(in_language, language),
    "Language": Language,
    "Language.load": lambda language: Language(language).load,
    "executed.loader": executed,
    "local_class.<locals>.Local": local_class,
}


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def kept_of(things: list[weakref.ref[Thing]]) -> int:
    gc.collect()
    return len([thing for thing in things if thing() is not None])


@pytest.mark.parametrize("name", MADE_ANEW)
@pytest.mark.parametrize("make", [Datafile, DataDirectory])
def test_of_a_loader_that_is_made_anew_at_each_call_a_few_objects_are_kept_and_one_warning_tells(
    path: str, name: str, make: type[Datafile | DataDirectory], caplog: pytest.LogCaptureFixture
) -> None:
    resource: Any = make(path, 3600, writing("1") if make is Datafile else os.mkdir, durable=False)
    things: list[weakref.ref[Thing]] = []
    for number in range(200):
        if number % 50 == 49:
            resource.refresh(force=True)
        thing = resource.load(MADE_ANEW[name](str(number)))
        things.append(weakref.ref(thing))
        assert thing.said == str(number)
        del thing
        assert len(warnings_in(caplog)) == (number >= 16)
    assert kept_of(things) <= 4
    [told] = warnings_in(caplog)
    assert told.startswith(repr(path))
    assert name in told
    assert "Hint: " in told


@pytest.mark.parametrize("count", [5, 16, 40])
@pytest.mark.parametrize("name", [*MADE_ANEW, "EqualLanguage"])
def test_loaders_of_one_name_that_are_made_once_and_kept_load_once_per_version(
    datafile: Datafile, name: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    make = MADE_ANEW.get(name, EqualLanguage)
    loaders = {str(number): make(str(number)) for number in range(count)}

    def load_all() -> list[Thing]:
        if make is EqualLanguage:  # also where they are made anew, because they are equal
            return [datafile.load(EqualLanguage(language)) for language in loaders]
        return [datafile.load(loader) for loader in loaders.values()]

    first = load_all()
    second = load_all()
    if count <= 16:
        assert list(map(id, first)) == list(map(id, second))
        assert warnings_in(caplog) == []
    # Of more, some are loaded a second time, and none a third time.
    for _ in range(3):
        assert list(map(id, load_all())) == list(map(id, second))
        datafile.refresh(force=True)
        second = load_all()
    assert len(warnings_in(caplog)) == (count > 16)
    assert [thing.said for thing in second] == list(loaders)


def test_loaders_that_are_made_anew_push_out_no_loader_that_came_again(
    datafile: Datafile, loader: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    first = datafile.load(loader)
    assert datafile.load(loader) is first
    for number in range(200):
        datafile.load(closure(str(number)))
        datafile.load(executed(str(number)))
    assert datafile.load(loader) is first
    assert loader.made == ["1"]
    assert len(datafile._cache.slots) <= 64  # type: ignore[union-attr]
    assert len(warnings_in(caplog)) == 2


def test_loaders_that_are_made_anew_by_many_threads_give_each_its_own_object(
    datafile: Datafile, loader: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    things: list[weakref.ref[Thing]] = []
    datafile.load(loader)
    first = datafile.load(loader)

    def load_in_a_loop() -> None:
        for number in range(100):
            said = f"{threading.get_ident()} {number}"
            thing = datafile.load(closure(said))
            things.append(weakref.ref(thing))
            assert thing.said == said
            assert datafile.load(loader) is first

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads, outcomes = threads_of(6, load_in_a_loop)
        join(threads)
    finally:
        sys.setswitchinterval(before)
    assert outcomes == [None] * 6
    del threads, outcomes
    datafile.load(closure("last"))
    assert kept_of(things) <= 4
    assert len(warnings_in(caplog)) == 1


def test_a_loader_that_others_pushed_out_while_it_ran_still_gives_its_object(
    datafile: Datafile, loader: Loader
) -> None:
    loader.gate = threading.Event()
    threads, things = threads_of(1, lambda: datafile.load(loader))
    assert loader.inside.acquire(timeout=PATIENCE)
    for number in range(160):
        datafile.load(lambda file, number=number: number)  # type: ignore[misc]
    loader.gate.set()
    join(threads)
    assert things[0].said == "1"


def test_the_key_of_a_plain_function_is_its_own_whatever_it_is_called() -> None:
    def make() -> Callable[[Any], int]:
        return lambda file: 1

    assert loader_key(make()) == loader_key(make())
    assert loader_key(len) is len


# fork.


def test_a_child_forked_inside_the_loader_may_return_from_it(datafile: Datafile) -> None:
    me = os.getpid()

    def loader(file: BinaryIO) -> str:
        child = os.fork()
        if child:
            assert ended_well(child)
            return "parent's"
        return "child's"

    try:
        said = datafile.load(loader)
        if os.getpid() != me:
            assert (said, datafile.load(loader)) == ("child's", "child's")
            os._exit(0)
    finally:
        if os.getpid() != me:
            os._exit(1)
    assert said == datafile.load(loader) == "parent's"


def test_a_child_forked_inside_the_loader_may_load_anew(datafile: Datafile) -> None:
    def loader(file: BinaryIO) -> str:
        if not forked:
            forked.append(in_child(lambda: datafile.load(loader)))
        return "loaded"

    forked: list[int] = []
    datafile.load(loader)
    assert ended_well(forked[0])


@pytest.mark.parametrize("first", [True, False])
def test_a_child_forked_while_another_thread_loads_is_not_held_up_by_it(
    datafile: Datafile, loader: Loader, first: bool
) -> None:
    if not first:
        datafile.load(loader)
        datafile.refresh(force=True)
    loader.gate = threading.Event()
    threads, _ = threads_of(1, lambda: datafile.load(loader))
    assert loader.inside.acquire(timeout=PATIENCE)

    def in_the_child() -> None:
        loader.gate = None
        assert datafile.load(loader).said == ("1" if first else "2")

    child = in_child(in_the_child)
    try:
        assert ended_well(child)
    finally:
        loader.gate.set()
        join(threads)


# What it costs.


def test_load_finds_nothing_new_for_about_what_a_pass_costs(datafile: Datafile, loader: Loader) -> None:
    def pass_through() -> None:
        with datafile._dogpile.acquire():
            pass

    def load() -> None:
        datafile.load(loader)

    def best(action: Callable[[], None]) -> float:
        times = []
        for _ in range(40):
            began = time.perf_counter()
            for _ in range(200):
                action()
            times.append(time.perf_counter() - began)
        return min(times)

    load()
    assert best(load) < 3 * best(pass_through)


def test_load_opens_nothing_while_there_is_nothing_new(datafile: Datafile, loader: Loader) -> None:
    datafile.load(loader)
    opened: list[str] = []
    watching = threading.get_ident()

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and threading.get_ident() == watching and listening:
            opened.append(arguments[0])

    listening = True
    sys.addaudithook(audit)
    for _ in range(100):
        datafile.load(loader)
    listening = False
    assert opened == []


def test_processes_that_load_at_once_each_load_once(path: str, record: Record, processes: Processes) -> None:
    barrier = multiprocessing.Barrier(4)

    def load_many() -> None:
        def loader(file: BinaryIO) -> str:
            record.write("loaded", said=file.read().decode())
            return "x"

        datafile = Datafile(path, 3600, writing("1"), durable=False)
        for _ in range(3):
            barrier.wait()
            threads, _ = threads_of(5, lambda: datafile.load(loader))
            join(threads)
            if barrier.wait() == 0:
                datafile.refresh(force=True)
            barrier.wait()

    processes.start_many(4, load_many)
    processes.join()
    loads = record.events("loaded")
    for pid in {event.pid for event in loads}:
        assert len([event for event in loads if event.pid == pid]) == 3
    assert len(loads) == 12


def test_a_directory_with_a_used_inode_and_generation_is_another_version() -> None:
    """Found by the campaign: the sidecar was deleted, so generations began again, and the inode was used again."""
    loading = LoaderCache(Dogpile(3600))
    loaded: list[SidecarRecord] = []

    @contextmanager
    def opening(record: SidecarRecord) -> Iterator[tuple[SidecarRecord, Callable[[], int]]]:
        loaded.append(record)
        yield record, lambda: len(loaded)

    before, after = (
        SidecarRecord(generation=1, fingerprint=Fingerprint(TAGGED, 0, mtime_ns, 7), fingerprint_generation=1)
        for mtime_ns in (1_000, 2_000)
    )
    values = [loading.value(str, record, partial(opening, record), NOW)[0] for record in (before, before, after)]
    assert values == [1, 1, 2]
    assert loaded == [before, after]


def test_a_loader_that_meets_a_stale_handle_is_given_the_version_that_took_its_place(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("old")
    given: list[bytes] = []

    def loader(file: BinaryIO) -> bytes:
        given.append(file.read())
        if len(given) == 1:  # another host has removed the file on the server
            (tmp_path / "new").write_text("new")
            os.replace(tmp_path / "new", tmp_path / "report")
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return given[-1]

    assert Datafile(tmp_path / "report").load(loader) == b"new"
    assert given == [b"old", b"new"]


def test_what_a_signal_handler_raises_in_a_loader_reaches_the_caller_and_counts_nothing(path: str) -> None:
    """A soft time limit must end the task, though there is an old object."""

    class TimeLimit(Exception):
        pass

    def limit(number: int, frame: object) -> None:
        raise TimeLimit

    def loader(file: BinaryIO) -> bytes:
        if is_late:
            signal.raise_signal(signal.SIGUSR2)
        return file.read()

    is_late = False
    datafile = Datafile(path, 3600, writing("1"))
    assert datafile.load(loader) == b"1"
    Datafile(path, 3600, writing("2")).refresh(force=True)
    before, is_late = signal.signal(signal.SIGUSR2, limit), True
    try:
        with pytest.raises(TimeLimit):
            datafile.load(loader)
    finally:
        signal.signal(signal.SIGUSR2, before)
    is_late = False
    assert datafile.load(loader) == b"2"
