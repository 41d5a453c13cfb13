"""The election, step by step: every interleaving of a few callers, and a crash after any step."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import (
    Datafile,
    DatafileError,
    Dogpile,
    NeedRegenerationException,
    SyncReaderDogpile,
    WouldDeadlock,
)
from dogpile_fs._dogpile.election import Election, Passage, Step, Terms
from dogpile_fs._dogpile.scope import ProcessScope, Scope, ThreadScope
from dogpile_fs._sidecar.record import lifetime

_KINDS = ("acquire", "refresh", "forced")
_BEFORE = ("nothing", "stale", "fresh")


class Caller:
    """One caller, whose steps the test does. Each has terms of its own, as in a process of its own."""

    def __init__(self, scope: Scope, kind: str) -> None:
        terms = Terms(None, scope, None, expiretime=3600, lifetime=lifetime(3600))
        self.scope, self.kind = scope, kind
        self.passage = Passage(terms, lambda: "created", None, None, None)
        self.election: Election | None = None
        self.step: Step | None = None
        self.segments = 0
        self.releases = 0
        self.end = ""

    @property
    def waits_for(self) -> str:
        """The name of the function that it has to wait for, or ``"creator"``."""
        if self.step is self.passage.creator:
            return "creator"
        step = self.step.func if isinstance(self.step, partial) else self.step
        return "" if step is None else step.__name__

    @property
    def is_runnable(self) -> bool:
        """Whether the next step would not block. Nothing is tried that could wait."""
        mutex: Any = self.scope.mutex
        if self.end:
            return False
        if self.waits_for == "_acquire_mutex":
            return not mutex.locked()
        if self.waits_for == "wait_released":  # the end of the hold counts, even if another follows
            return not mutex.locked() or mutex._releases != self.releases
        return True

    def go_on(self) -> None:
        """Do the step, and what follows up to the next one."""
        self.segments += 1
        answer: Any = None
        try:
            if self.election is None:
                self.passage.must_create = self.kind == "refresh"
                self.passage.seen = self.scope.look()
                self.election = self.passage.forced() if self.kind == "forced" else self.passage.election()
                return  # others may go on between this look at the record and the election
            if self.waits_for == "wait_released":
                answer = True
            elif self.step is not None and self.waits_for != "sleep":
                answer = self.step()
            self.step = self.election.send(answer)
            self.releases = getattr(self.scope.mutex, "_releases", 0)
        except StopIteration:
            self.step, self.end = None, "done"

    def crash(self) -> None:
        assert self.election is not None
        self.election.close()  # gives the mutex back, as the kernel would
        self.step, self.end = None, "crashed"


def thread_scope(before: str) -> Scope:
    return prepared(ThreadScope(lock=None, timeout=None), before)


def prepared(scope: Scope, before: str) -> Scope:
    if before != "nothing":
        Passage(Terms(None, scope, None), lambda: None, None, None, None).create_in_any_case()
    if before == "stale":
        scope.change(lambda record: record.invalidate(hard=False))
    return scope


def replay(before: str, kinds: tuple[str, ...], schedule: tuple[tuple[int, str], ...]) -> list[Caller]:
    """Do the steps of *schedule* from the beginning, and look at what must always hold after each."""
    scope = thread_scope(before)
    callers = [Caller(scope, kind) for kind in kinds]
    for index, what in schedule:
        caller, generation = callers[index], scope.look().generation
        was_creating = caller.waits_for == "creator"
        caller.go_on() if what == "step" else caller.crash()
        creating = [each for each in callers if each.waits_for == "creator"]
        assert len(creating) <= 1
        stamped = scope.look().generation - generation
        assert stamped == (was_creating and what == "step"), "a stamp precedes its creation, or is missing"
        if before != "nothing":
            for each in callers:
                assert each.kind == "forced" or each.waits_for in ("", "creator"), each.waits_for
    return callers


def situation(callers: list[Caller]) -> object:
    """What the future depends on."""
    scope = callers[0].scope
    record = scope.look()
    mutex: Any = scope.mutex
    return (
        record.generation,
        record.state(time.time(), 3600),
        mutex.locked(),
        tuple(
            (
                caller.segments,
                caller.waits_for,
                caller.end,
                caller.passage.created,
                caller.election is not None and caller.passage.seen.generation,
                mutex._releases - caller.releases if caller.waits_for == "wait_released" else 0,
                mutex._hold is not None and mutex._hold is getattr(caller.passage, "mutex_hold", None),
            )
            for caller in callers
        ),
    )


def check_end(before: str, callers: list[Caller]) -> None:
    scope = callers[0].scope
    assert all(caller.end for caller in callers), "all that are left wait, and nobody holds what they wait for"
    assert not scope.mutex.locked()
    done = [caller for caller in callers if caller.end == "done"]
    forced = [caller for caller in done if caller.kind == "forced"]
    assert all(caller.passage.created for caller in forced)
    created = sum(caller.passage.created for caller in done) - len(forced)
    assert scope.look().generation == (before != "nothing") + created + len(forced)
    assert created <= (before != "fresh")
    if done and before == "nothing":
        assert created + len(forced) >= 1
    if before == "stale" and len(done) == len(callers):
        assert created + len(forced) >= 1
    another = Caller(scope, "refresh")
    is_fresh = scope.look().state(time.time(), 3600) == "fresh"
    while not another.end:
        assert another.is_runnable
        another.go_on()
    assert another.passage.created != is_fresh


def explore(before: str, kinds: tuple[str, ...]) -> int:
    """Follow every schedule; those that lead to one situation are followed once from there."""
    seen, todo, ends = set(), [()], 0
    while todo:
        schedule: tuple[tuple[int, str], ...] = todo.pop()
        callers = replay(before, kinds, schedule)
        now = situation(callers)
        if now in seen:
            continue
        seen.add(now)
        more: list[Any] = [(i, "step") for i, caller in enumerate(callers) if caller.is_runnable]
        more += [(i, "crash") for i, caller in enumerate(callers) if caller.election and not caller.end]
        if not any(what == "step" for _, what in more):
            check_end(before, callers)
            ends += 1
        todo += [(*schedule, each) for each in more]
    return ends


@pytest.mark.parametrize("before", _BEFORE)
@pytest.mark.parametrize(
    "kinds",
    [*itertools.product(_KINDS, repeat=2), *itertools.combinations_with_replacement(_KINDS, 3)],
    ids="-".join,
)
def test_every_interleaving_creates_once(before: str, kinds: tuple[str, ...]) -> None:
    assert explore(before, kinds)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("before", _BEFORE)
@pytest.mark.parametrize("how", ["close", "throw"])
@pytest.mark.parametrize("process", [False, True])
def test_the_mutex_is_free_after_an_election_is_abandoned_at_any_step(
    tmp_path: Path, kind: str, before: str, how: str, process: bool
) -> None:
    for steps in range(1, 9):
        path = str(tmp_path / f"{steps}")
        scope: Scope = thread_scope(before)
        if process:
            scope = ProcessScope(path, lock=None, timeout=None, directory=None, mode=None)
            prepared(scope, before)
        caller = Caller(scope, kind)
        for _ in range(steps):
            if not caller.end:
                caller.go_on()
        if caller.end:
            break
        assert caller.election is not None
        if how == "close":
            caller.election.close()
        else:
            with pytest.raises(KeyboardInterrupt):
                caller.election.throw(KeyboardInterrupt())
        assert not scope.mutex.locked()
    else:
        raise AssertionError("it does not end")


def test_a_mutex_that_was_taken_is_free_if_the_election_is_abandoned_before_it_goes_on() -> None:
    caller = Caller(thread_scope("fresh"), "forced")
    caller.go_on()
    caller.go_on()
    assert caller.election is not None
    assert caller.step is not None
    caller.step()  # and an interruption comes before the result is sent
    assert caller.scope.mutex.locked()
    caller.election.close()
    assert not caller.scope.mutex.locked()


# A StopIteration arrives as itself.


def stop() -> Any:
    raise StopIteration("mine")


@pytest.mark.parametrize(
    "use",
    [
        lambda dogpile: dogpile.acquire(stop).__enter__(),
        lambda dogpile: dogpile.refresh(stop),
        lambda dogpile: dogpile.refresh(stop, force=True),
        lambda dogpile: (dogpile.refresh(lambda: None), dogpile.acquire(None, stop).__enter__()),
        lambda dogpile: dogpile.acquire(None, None, stop).__enter__(),
    ],
)
def test_stop_iteration_arrives_as_itself(use: Callable[[Dogpile], object]) -> None:
    dogpile = Dogpile(3600)
    with pytest.raises(StopIteration, match="mine") as caught:
        use(dogpile)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert not dogpile.dogpilelock.locked()


def test_stop_iteration_of_a_datafiles_creator_arrives_as_itself(path: str) -> None:
    datafile = Datafile(path, 3600, lambda target: stop())
    for use in (datafile.refresh, lambda: datafile.refresh(force=True), lambda: datafile.open().__enter__()):
        with pytest.raises(StopIteration, match="mine"):
            use()


def test_a_creators_own_runtime_error_is_not_unwrapped() -> None:
    def creator() -> None:
        raise RuntimeError("mine") from StopIteration()

    with pytest.raises(RuntimeError, match="mine"):
        Dogpile(3600).refresh(creator)


# A thread inside its own block.


def write(target: str) -> None:
    Path(target).write_text("made")


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_a_datafile_is_used_again_inside_its_own_block(path: str, hard: bool, same: bool) -> None:
    outer = Datafile(path, 3600, write, readers=True, timeout=2)
    inner = outer if same else Datafile(path, 3600, write, readers=True, timeout=2)
    with outer.acquire():
        Dogpile(3600, path).invalidate(hard=hard)
        with inner.open("r") as file:
            assert file.read() == "made"
        with inner.acquire() as found:
            assert found == inner.path() == path
        assert inner.load(lambda file: file.read()) == b"made"
        with pytest.raises(WouldDeadlock):
            inner.refresh()
        with pytest.raises(WouldDeadlock):
            inner.refresh(force=True)
    assert inner.refresh()


def test_a_datafile_that_was_removed_is_not_created_inside_its_own_block(path: str) -> None:
    datafile = Datafile(path, 3600, write, readers=True, timeout=2)
    with datafile.acquire():
        os.unlink(path)
        with pytest.raises(DatafileError, match="removed"):
            datafile.open().__enter__()
        with pytest.raises(DatafileError, match="removed"):
            datafile.load(lambda file: file.read())
    with datafile.open("r") as file:
        assert file.read() == "made"


def test_a_thread_inside_creates_only_if_a_value_function_has_no_value(path: str) -> None:
    dogpile = SyncReaderDogpile(3600, path, timeout=2)

    def unwanted() -> None:
        raise AssertionError("it creates")

    def no_value() -> None:
        raise NeedRegenerationException

    with dogpile.acquire(lambda: "first"):
        dogpile.invalidate(hard=True)
        with dogpile.acquire(unwanted) as value:
            assert value is None
        with dogpile.acquire(unwanted, lambda: "kept") as value:
            assert value == "kept"
        with dogpile.acquire(unwanted, None, lambda: ("kept", 1.0)) as value:
            assert value == "kept"
        with dogpile.acquire(lambda: "second", no_value) as value:
            assert value == "second"
