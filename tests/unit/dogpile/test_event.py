"""Events: which kind comes when, in which thread, under which locks, and what a callback may do."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import (
    Backoff,
    Datafile,
    DatafileError,
    Dogpile,
    Event,
    NeedRegenerationException,
    Outcome,
    Policy,
    SyncReaderDogpile,
    Target,
    WouldDeadlock,
    events,
)
from dogpile_fs._dogpile.event import _subscribed
from tests.support.places import writing
from tests.support.processes import PATIENCE, Processes, ended_well, in_child, wait_for
from tests.support.processes import Record as Diary

LATER = Backoff(initial=1000, maximum=1000, jitter=0)


class Told:
    """A callback that remembers the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.threads: list[int] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.threads.append(threading.get_ident())

    def take(self) -> list[str]:
        """Return the kinds so far, and forget them."""
        kinds: list[str] = [event.kind for event in self.events]
        self.events.clear()
        return kinds


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture(autouse=True)
def _no_subscription_is_left() -> Iterator[None]:
    yield
    left = [*_subscribed.values()]
    _subscribed.clear()
    assert left == []


def nothing() -> None:
    pass


def fail(target: object = None) -> None:
    raise ZeroDivisionError("away")


def text(datafile: Datafile) -> str:
    with datafile.open("r") as file:
        return str(file.read())


# Which kind comes when.


def test_a_creation_is_told_from_its_beginning_to_its_end(path: str, told: Told) -> None:
    datafile = Datafile(path, 3600, writing("new"), on_event=told)
    assert text(datafile) == "new"
    creating, swapped, created = told.events
    assert (creating.kind, swapped.kind, created.kind) == ("creating", "swapped", "created")
    assert {event.path for event in told.events} == {path}
    assert {event.generation for event in told.events} == {1}
    assert {event.pid for event in told.events} == {os.getpid()}
    assert {event.error for event in told.events} == {None}
    assert (creating.age, creating.cost) == (None, None)
    assert created.age == pytest.approx(0, abs=PATIENCE)
    assert created.cost == swapped.cost == datafile.status().cost
    datafile.refresh(force=True)
    assert [event.generation for event in told.events[3:]] == [2, 2, 2]
    assert told.events[3].age is not None


@pytest.mark.parametrize("kind", [Dogpile, SyncReaderDogpile])
@pytest.mark.parametrize("in_files", [True, False])
def test_a_dogpile_swaps_nothing_itself(kind: type[Dogpile], in_files: bool, path: str, told: Told) -> None:
    dogpile = kind(3600, path if in_files else None, on_event=told)
    with dogpile.acquire(nothing):
        pass
    assert [(event.kind, event.path) for event in told.events] == [
        ("creating", path if in_files else None),
        ("created", path if in_files else None),
    ]


def test_passes_are_not_told(path: str, told: Told) -> None:
    datafile = Datafile(path, 3600, writing("new"))
    text(datafile)
    reader = Datafile(path, 3600, writing("new"), on_event=told)
    for _ in range(5):
        assert text(reader) == "new"
        reader.status()
    failing = Datafile(path, 3600, fail, on_event=told, backoff=LATER)
    datafile.invalidate()
    text(failing)
    assert told.take() == ["creating", "failed", "stale_served"]
    for _ in range(5):  # stale passes
        text(failing)
    assert told.take() == []


def test_unchanged_and_an_equal_file_are_no_swap(path: str, told: Told) -> None:
    def creator(target: Target) -> object:
        return target.unchanged() if target.previous else Path(target).write_text("new")

    datafile = Datafile(path, 3600, creator, on_event=told)
    assert [datafile.refresh(force=True) for _ in range(2)] == [Outcome.created, Outcome.unchanged]
    assert told.take() == ["creating", "swapped", "created", "creating", "unchanged"]
    equal = Datafile(path, 3600, writing("new"), skip_unchanged=True, on_event=told)
    assert equal.refresh(force=True) == Outcome.created
    assert told.take() == ["creating", "created"]


def test_a_failure_has_the_error_and_a_reader_that_gets_the_old_version_has_it_too(path: str, told: Told) -> None:
    Datafile(path, 3600, writing("old")).refresh()
    datafile = Datafile(path, 0, fail, on_event=told, backoff=None)
    with pytest.raises(ZeroDivisionError) as caught:
        datafile.refresh()
    assert [(event.kind, event.error) for event in told.events] == [("creating", None), ("failed", caught.value)]
    assert told.events[1].cost is not None
    assert told.events[1].generation == 2
    told.take()
    assert text(datafile) == "old"
    assert [event.kind for event in told.events] == ["creating", "failed", "stale_served"]
    _, failed, served = told.events
    assert failed.error is served.error
    assert (failed.generation, served.generation) == (2, 1)
    assert served.age is not None


def test_a_refused_version_is_a_failure(path: str, told: Told) -> None:
    datafile = Datafile(path, 3600, writing("new"), validate=lambda target: False, on_event=told)
    with pytest.raises(DatafileError):
        datafile.refresh()
    assert told.take() == ["creating", "failed"]


def _kill_while_creating(path: str) -> None:
    Dogpile(3600, path).refresh(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_death_is_told_by_the_process_that_counts_it(path: str, told: Told, processes: Processes) -> None:
    process = processes.start(_kill_while_creating, path)
    process.join(PATIENCE)
    dogpile = Dogpile(3600, path, on_event=told)
    assert dogpile.refresh(nothing)
    died = told.events[0]
    assert (died.kind, died.pid, died.generation) == ("died", process.pid, 1)
    assert told.take() == ["died", "creating", "created"]
    Dogpile(3600, path, on_event=told).refresh(nothing, force=True)
    assert told.take() == ["creating", "created"]


def test_invalidations_by_this_process_are_told(path: str, told: Told) -> None:
    dogpile = Dogpile(3600, path, on_event=told)
    dogpile.refresh(nothing)
    told.take()
    dogpile.invalidate()
    dogpile.invalidate(hard=True)
    dogpile.createdtime = 0
    assert told.take() == ["invalidated"] * 3
    Dogpile(3600, path).invalidate()
    assert told.take() == []
    dogpile.refresh(nothing)
    told.take()
    for number in range(2):
        with pytest.raises(NeedRegenerationException), dogpile.acquire():
            raise NeedRegenerationException
        assert told.take() == ["invalidated"], number
        dogpile.refresh(nothing)
        told.take()
    blocks = [dogpile.acquire() for _ in range(2)]
    for block in blocks:
        block.__enter__()
    for block in blocks:  # the second one finds it invalidated
        error = NeedRegenerationException()
        block.__exit__(type(error), error, None)
    assert told.take() == ["invalidated"]
    datafile = Datafile(path, 3600, writing("new"), on_event=told)
    datafile.invalidate()
    assert told.take() == ["invalidated"]


def test_expired_is_told_once_per_version_and_object(path: str, told: Told) -> None:
    Dogpile(3600, path).refresh(nothing)
    dogpile, other = (Dogpile(0, path, max_stale=0, on_event=told) for _ in range(2))
    with pytest.raises(ZeroDivisionError), dogpile.acquire(fail):
        pass
    assert told.take() == ["expired", "creating", "failed"]
    with pytest.raises(ZeroDivisionError), dogpile.acquire(fail):
        pass
    assert told.take() == ["creating", "failed"]
    with other.acquire(nothing):
        pass
    assert told.take() == ["expired", "creating", "created"]
    with dogpile.acquire(nothing):
        pass
    assert told.take() == ["expired", "creating", "created"]


def _create_for_long(path: str, diary: Diary, creator_timeout: float | None) -> None:
    dogpile = Dogpile(0, path)
    dogpile._shared.creator_timeout = creator_timeout

    def creator() -> None:
        diary.write("creating")
        time.sleep(3600)

    dogpile.refresh(creator)


@pytest.mark.parametrize("cost", [1e-9, 1000.0], ids=["ten times the last cost", "past its deadline"])
def test_overdue_is_told_once_per_attempt_and_object_to_a_caller_that_lost(
    cost: float, path: str, told: Told, record: Diary, processes: Processes
) -> None:
    first = Dogpile(0, path)
    first.refresh(nothing)
    first._shared.scope.change(lambda made: made.replace(cost=cost))
    process = processes.start(_create_for_long, path, record, 0.0 if cost > 1 else None)
    record.wait("creating")
    objects = [Dogpile(0, path, on_event=told) for _ in range(2)]

    def pass_with_all() -> bool:
        for dogpile in objects:
            with dogpile.acquire(nothing):
                pass
        return len(told.events) >= 2

    wait_for(pass_with_all, "the events")
    for _ in range(5):
        pass_with_all()
        time.sleep(0.006)  # for 5 ms an object that lost does not try again
    assert [(event.kind, event.pid, event.generation) for event in told.events] == [
        ("overdue", process.pid, 2)
    ] * 2
    assert all(event.cost is not None and 0 < event.cost < PATIENCE for event in told.events)


def test_a_creation_that_takes_no_longer_than_others_is_not_overdue(
    path: str, told: Told, record: Diary, processes: Processes
) -> None:
    first = Dogpile(0, path)
    first.refresh(nothing)
    first._shared.scope.change(lambda made: made.replace(cost=1000.0))
    processes.start(_create_for_long, path, record, None)
    record.wait("creating")
    with Dogpile(0, path, on_event=told).acquire(nothing):
        pass
    assert told.take() == []


def test_loads_and_rollbacks_are_told(path: str, told: Told) -> None:
    datafile = Datafile(path, 3600, writing('"new"'), keep=1, on_event=told)
    assert [datafile.load(json.load) for _ in range(3)] == ["new"] * 3
    assert told.take() == ["creating", "swapped", "created", "loaded"]
    datafile.refresh(force=True)
    told.take()
    assert datafile.load(json.load) == "new"
    assert [(event.kind, event.generation) for event in told.events] == [("loaded", 2)]
    told.take()
    datafile.rollback()
    assert [(event.kind, event.generation) for event in told.events] == [("swapped", 3)]
    told.take()
    datafile.load(json.load)
    with pytest.raises(DatafileError):
        datafile.rollback()
    assert told.take() == ["loaded"]


def test_a_creation_that_lost_its_lock_file_has_no_event_of_its_end(path: str, told: Told) -> None:
    dogpile = Dogpile(3600, path, on_event=told)
    assert dogpile.refresh(lambda: os.unlink(path + ".dogpile.lock")) == Outcome.fenced
    assert told.take() == ["creating"]


# Which callbacks are called.


def test_subscribers_are_told_of_all_objects_until_they_unsubscribe(path: str, told: Told) -> None:
    other = Told()
    unsubscribe = [events.subscribe(told), events.subscribe(told), events.subscribe(other)]
    for name in (None, path, path + "2"):
        Dogpile(3600, name).invalidate()
    assert [event.path for event in other.events] == [None, path, path + "2"]
    assert told.take() == ["invalidated"] * 6
    unsubscribe[0]()
    unsubscribe[0]()
    Dogpile(3600).invalidate()
    assert told.take() == ["invalidated"]
    unsubscribe[1]()
    unsubscribe[2]()
    Dogpile(3600).invalidate()
    assert told.take() == []


def test_a_forked_child_has_its_parents_subscriptions(path: str, told: Told) -> None:
    unsubscribe = events.subscribe(told)

    def check() -> None:
        Dogpile(3600, path).invalidate()
        assert [event.pid for event in told.events] == [os.getpid()]

    assert ended_well(in_child(check))
    assert told.take() == []
    unsubscribe()


def test_each_event_comes_in_the_thread_that_causes_it(path: str, told: Told) -> None:
    dogpile = Dogpile(3600, path, on_event=told)
    thread = threading.Thread(target=lambda: dogpile.refresh(nothing))
    thread.start()
    thread.join(PATIENCE)
    assert told.threads == [thread.ident] * 2
    assert threading.get_ident() not in told.threads


@pytest.mark.parametrize("kind", [Dogpile, SyncReaderDogpile, Datafile])
def test_what_is_no_function_of_an_event_is_refused(kind: Any, path: str) -> None:
    async def later(event: Event) -> None:
        pass

    wrong: Any
    for wrong in (7, "print", later):
        with pytest.raises(TypeError, match="on_event must be"):
            kind(path, 3600, on_event=wrong) if kind is Datafile else kind(3600, path, on_event=wrong)
        with pytest.raises(TypeError, match="callback must be"):
            events.subscribe(wrong)


_module_events: list[str] = []


def _on_event(event: Event) -> None:
    _module_events.append(event.kind)


def test_a_callback_is_pickled_like_a_creator_and_is_no_part_of_what_a_policy_equals(path: str) -> None:
    _module_events.clear()
    policy = Policy(max_stale=5, on_event=_on_event)
    assert policy == Policy(max_stale=5)
    assert hash(policy) == hash(Policy(max_stale=5, on_event=print))
    for thing in (Datafile(path, 3600, policy=policy), Dogpile(3600, path, on_event=_on_event)):
        pickle.loads(pickle.dumps(thing)).invalidate()
        assert _module_events.pop() == "invalidated"
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(Datafile(path, 3600, on_event=lambda event: None))
    with pytest.raises(TypeError, match="contradict each other"):
        Datafile(path, 3600, policy=policy, on_event=print)


# What a callback may do.


@pytest.mark.parametrize(
    "error", [ValueError("x"), StopIteration(), WouldDeadlock("x"), OSError(5, "x"), TypeError()]
)
def test_what_a_callback_raises_is_logged_and_the_others_are_called(
    error: Exception, path: str, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    def callback(event: Event) -> None:
        raise error

    unsubscribe = events.subscribe(callback)
    datafile = Datafile(path, 3600, writing("new"), on_event=told)
    assert text(datafile) == "new"
    datafile.invalidate()
    unsubscribe()
    assert told.take() == ["creating", "swapped", "created", "invalidated"]
    assert len(caplog.records) == 4
    for record in caplog.records:
        assert record.levelno == logging.ERROR
        assert repr(path) in record.getMessage()
        assert record.exc_info is not None
        assert record.exc_info[1] is error
    assert datafile.status().failures_total == 0


def test_a_callback_that_returns_a_coroutine_is_logged(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async def later() -> None:
        pass

    Dogpile(3600, path, on_event=lambda event: later()).invalidate()
    assert "has failed on the event 'invalidated'" in caplog.text


@pytest.mark.parametrize("kind", ["creating", "swapped", "created"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_the_process_or_interrupts_it_goes_on(kind: str, error: type[BaseException], path: str) -> None:
    def callback(event: Event) -> None:
        if event.kind == kind:
            raise error

    datafile = Datafile(path, 3600, writing("new"), on_event=callback)
    with pytest.raises(error):
        datafile.refresh()
    assert not datafile._dogpile.dogpilelock.locked()
    status = datafile.status()
    is_over = kind != "creating"
    assert status.generation == is_over
    # As in a creator: an exit counts as a death, an interruption not at all.
    assert status.failures == (not is_over and error is SystemExit)
    assert Datafile(path, 3600, writing("new")).refresh() == (Outcome.fresh if is_over else Outcome.created)


class TooLong(Exception):
    """What a signal handler raises."""


def test_what_a_signal_handler_raises_in_a_callback_goes_on_and_counts_nothing(path: str) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise TooLong

    def callback(event: Event) -> None:
        if event.kind == "creating":
            signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        dogpile = Dogpile(3600, path, on_event=callback)
        with pytest.raises(TooLong):
            dogpile.refresh(nothing)
    finally:
        signal.signal(signal.SIGUSR1, before)
    status = dogpile.status()
    assert (status.generation, status.failures_total, status.creating) == (0, 0, False)


def test_a_callback_is_not_told_what_it_does_itself_and_the_others_are(path: str, told: Told) -> None:
    dogpile = Dogpile(3600, path, on_event=lambda event: dogpile.invalidate())
    unsubscribe = events.subscribe(told)
    dogpile.invalidate()
    dogpile.invalidate()
    unsubscribe()
    assert told.take() == ["invalidated"] * 4


def _all_methods_of(resource: Any) -> list[Callable[[], object]]:
    def enter(block: Any) -> None:
        with block:
            pass

    deeds: list[Callable[[], object]] = [
        resource.status,
        resource.invalidate,
        lambda: resource.version,
    ]
    if isinstance(resource, Datafile):
        return [
            *deeds,
            lambda: enter(resource.open()),
            lambda: enter(resource.acquire()),
            lambda: resource.load(json.load),
            resource.refresh,
            lambda: resource.refresh(force=True),
            resource.touch,
            resource.rollback,
            lambda: resource.invalidate(hard=True),
            lambda: enter(resource.open()),
            lambda: resource.load(json.load),
        ]
    return [
        *deeds,
        lambda: enter(resource.acquire(nothing)),
        lambda: enter(resource.acquire()),
        lambda: resource.refresh(nothing),
        lambda: resource.refresh(nothing, force=True),
        lambda: resource.invalidate(hard=True),
        lambda: enter(resource.acquire(nothing)),
        lambda: enter(resource.acquire()),
        lambda: setattr(resource, "createdtime", time.time()),
        resource.dogpilelock.locked,
    ]


def _write(target: str) -> None:
    Path(target).write_text('"new"')


@pytest.mark.parametrize(
    "make",
    [
        lambda path, **options: Dogpile(3600, **options),
        lambda path, **options: Dogpile(3600, lock=threading.Lock(), **options),
        lambda path, **options: Dogpile(3600, path, **options),
        lambda path, **options: SyncReaderDogpile(3600, **options),
        lambda path, **options: SyncReaderDogpile(3600, path, **options),
        lambda path, **options: Datafile(path, 3600, _write, keep=2, **options),
        lambda path, **options: Datafile(path, 3600, _write, keep=2, readers=True, **options),
    ],
    ids=["threads", "own lock", "Dogpile", "threads, readers", "SyncReaderDogpile", "Datafile", "readers=True"],
)
def test_a_callback_may_call_any_method_of_the_same_object(make: Any, path: str) -> None:
    seen: list[str] = []

    def callback(event: Event) -> None:
        seen.append(event.kind)
        for deed in _all_methods_of(resource):
            with suppress(WouldDeadlock, DatafileError):  # a forced refresh under the mutex; nothing was kept yet
                deed()

    resource = make(path, on_event=callback)

    def use() -> None:
        for deed in _all_methods_of(resource):
            with suppress(DatafileError):  # nothing was kept yet
                deed()
        if isinstance(resource, Datafile):
            resource.load(lambda file: file.read())  # by a loader that the callback has not used

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), f"it waits for itself, after {seen}"
    assert {"creating", "created", "invalidated"} <= set(seen)
    if isinstance(resource, Datafile):
        assert {"swapped", "loaded"} <= set(seen)


@pytest.mark.parametrize("readers", [False, True])
def test_no_lock_but_the_creation_mutex_is_held_in_a_callback(readers: bool, path: str) -> None:
    """Another process changes the sidecar, and takes the writer's side, while this one is in its callback."""
    seen: list[str] = []

    def use_in_another_process() -> None:
        other = SyncReaderDogpile(3600, path, timeout=PATIENCE)
        other._shared.scope.change(lambda record: record.replace(note="x"))
        with other.acquire_write_lock():
            pass

    def callback(event: Event) -> None:
        seen.append(event.kind)
        assert ended_well(in_child(use_in_another_process)), event.kind

    Datafile(path, 3600, _write).refresh()
    datafile = Datafile(path, 0, _write, keep=1, readers=readers, backoff=None, on_event=callback, max_stale=3600)
    datafile.load(json.load)
    datafile.invalidate()
    datafile.rollback()
    datafile._creator = fail
    text(datafile)
    assert {*seen} == {"creating", "swapped", "created", "loaded", "invalidated", "failed", "stale_served"}
