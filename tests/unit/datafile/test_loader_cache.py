"""load: once per process and version, by one thread, while the others keep what they have."""

from __future__ import annotations

import functools
import gc
import json
import multiprocessing
import os
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import pytest

from dogpile_fs import DataDirectory, Datafile, LockTimeout, WouldDeadlock
from dogpile_fs._datafile.loader_cache import Loading, key_of
from dogpile_fs._os.waiting import NOW
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
        assert (file.mode, file.name, file.tell()) == ("rb", datafile.dogpile.path, 0)
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
        datafile.creator = writing(str(number + 2))
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
    assert datafile.dogpile.path is not None
    other = Datafile(datafile.dogpile.path, 3600)
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


def test_what_is_swapped_in_while_one_loads_is_loaded_next(datafile: Datafile, loader: Loader) -> None:
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
    datafile.creator, creator = None, datafile.creator  # so that the thread passes, and sees version 1

    def load_late() -> Thing:
        loader.victim = threading.get_ident()
        return datafile.load(loader)

    [thread], things = threads_of(1, load_late)
    wait_for(lambda: loader.held.is_set() or not thread.is_alive(), "the thread to be held up, if it can be")
    datafile.creator = creator
    datafile.refresh(force=True)
    second = datafile.load(loader)
    loader.go_on.set()
    join([thread])
    assert things[0].said in ("1", "2")
    assert datafile.load(loader) is second
    assert loader.made == ["1", "2"]


# A loader that fails.


def test_what_the_loader_raises_reaches_the_caller_and_the_next_call_tries_again(datafile: Datafile) -> None:
    mine = ZeroDivisionError("mine")
    outcomes: list[Any] = [mine, mine, "one", mine, "two"]

    def loader(file: BinaryIO) -> Any:
        outcome = outcomes.pop(0)
        if outcome is mine:
            raise mine
        return outcome

    for _ in range(2):
        with pytest.raises(ZeroDivisionError) as caught:
            datafile.load(loader)
        assert caught.value is mine
    assert datafile.load(loader) == "one"
    datafile.refresh(force=True)
    with pytest.raises(ZeroDivisionError):
        datafile.load(loader)
    assert datafile.load(loader) == "two"
    assert outcomes == []


def test_while_a_loader_that_fails_runs_the_others_keep_the_old_object(datafile: Datafile, loader: Loader) -> None:
    failing = Failing(loader)
    first = datafile.load(failing)
    datafile.refresh(force=True)
    loader.gate, failing.fails = threading.Event(), True
    [thread], outcome = threads_of(1, lambda: datafile.load(failing))
    assert loader.inside.acquire(timeout=PATIENCE)
    assert datafile.load(failing) is first
    loader.gate.set()
    join([thread])
    assert isinstance(outcome[0], ZeroDivisionError)
    loader.gate, failing.fails = None, False
    assert datafile.load(failing).said == "2"


class Failing:
    """Loads with *loader*, and then raises if told so."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.fails = False

    def __call__(self, file: BinaryIO) -> Thing:
        thing = self.loader(file)
        if self.fails:
            raise ZeroDivisionError
        return thing


def test_of_threads_that_wait_for_a_first_object_the_next_one_tries_when_the_loader_fails(
    datafile: Datafile, loader: Loader
) -> None:
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
    assert sum(isinstance(outcome, ZeroDivisionError) for outcome in outcomes) == 2
    things = [outcome for outcome in outcomes if isinstance(outcome, Thing)]
    assert (len(things), len(set(map(id, things))), len(calls)) == (8, 1, 3)


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
        assert "Cure: " in str(caught.value)
    assert datafile.load(lambda file: "another's is not waited for") == "another's is not waited for"
    loader.gate.set()
    join(threads)
    assert datafile.load(loader, timeout=0) is things[0]


def test_a_timeout_that_is_none_at_all_is_refused(datafile: Datafile) -> None:
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


def test_loaders_without_end_keep_no_objects_without_end(datafile: Datafile) -> None:
    things: list[weakref.ref[Thing]] = []
    for number in range(200):
        thing = datafile.load(lambda file, number=number: Thing(str(number)))  # type: ignore[misc]
        things.append(weakref.ref(thing))
        assert thing.said == str(number)
        del thing
    gc.collect()
    assert len([thing for thing in things if thing() is not None]) <= 64


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

    assert key_of(make()) == key_of(make())
    assert key_of(len) is len


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


def test_a_child_forked_inside_the_loader_may_load_what_nobody_loads_there(datafile: Datafile) -> None:
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
        with datafile.dogpile.acquire():
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
    loading = Loading("index")
    loaded: list[tuple[int, ...]] = []

    @contextmanager
    def opening(version: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Callable[[], int]]]:
        loaded.append(version)
        yield version, lambda: len(loaded)

    before, after = (-1, 1_000, 7, 1), (-1, 2_000, 7, 1)
    values = [loading.value(str, version, opening, NOW) for version in (before, before, after)]
    assert values == [1, 1, 2]
    assert loaded == [before, after]
