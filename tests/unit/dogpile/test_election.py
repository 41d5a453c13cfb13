"""The election, step by step: every interleaving of a few callers, and a crash after any step.

Time stands still in these searches, but for a little at each step, and where a schedule says that a backoff
passes.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from dogpile_fs import (
    Backoff,
    CreationFailed,
    Datafile,
    DatafileError,
    Dogpile,
    NeedRegenerationException,
    Policy,
    SyncReaderDogpile,
    WouldDeadlock,
)
from dogpile_fs._dogpile import creation, election, guard, shared_state
from dogpile_fs._dogpile.election import Acquisition, Election, Step
from dogpile_fs._dogpile.policy import ORIGINAL
from dogpile_fs._dogpile.process_scope import ProcessScope
from dogpile_fs._dogpile.scope import Scope
from dogpile_fs._dogpile.shared_state import NOTHING, SharedState
from dogpile_fs._dogpile.thread_scope import ThreadScope
from dogpile_fs._os import byterange
from dogpile_fs._os.openfile import OpenFile
from dogpile_fs._sidecar.record import DIED, Record
from tests.support.processes import PATIENCE, wait_for, waiters_for

_KINDS = ("acquire", "refresh", "forced")
#: And callers without a creator, and those that have a value function.
_MORE_KINDS = (*_KINDS, "reading", "value")
_BEFORE = ("missing", "stale", "fresh")

_EXPIRETIME = 3600.0
_MAX_STALE = 1000.0
#: Seconds that a step takes.
_STEP = 1e-4


class Clock:
    """The wall clock and the monotonic clock of the election."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock | None]:
    """A clock that only the tests of interleavings set."""
    if "interleaving" not in request.function.__name__:
        yield None
        return
    clock = Clock()
    monkeypatch.setattr(creation.log, "disabled", True)  # there are thousands of failures
    monkeypatch.setattr(World, "clock", clock)
    for module, name in (
        (creation, "time"),
        (election, "time"),
        (election, "monotonic"),
        (shared_state, "monotonic"),
        (guard, "time"),
    ):
        monkeypatch.setattr(module, name, clock)
    yield clock


class World:
    """What all callers share: the record, the mutex, and a value that a creator leaves elsewhere.

    It also counts what a record has to tell: the failures and deaths, and until when no attempt may begin.
    """

    clock: Any = staticmethod(time.time)

    def __init__(self, before: str, path: str | None, policy: Policy = ORIGINAL) -> None:
        self.path = path
        self.policy = policy
        self.value = "" if before == "missing" else "before"
        self._thread_scope = ThreadScope(lock=None, timeout=None)
        self.in_a_row = self.failed = self.dead = 0
        self.retry_at = 0.0
        self.last_died = False
        #: Whether the last creator has died, and no caller has noticed.
        self.is_unnoticed = False
        prepared(self.scope(), before)
        if isinstance(self.clock, Clock):
            self.clock.now += {"early": 0.5 * _EXPIRETIME, "expired": _EXPIRETIME + _MAX_STALE}.get(
                before, 0.0
            ) + 1

    def scope(self) -> Scope:
        """The scope of one more caller: in process scope, one of its own."""
        if self.path is None:
            return self._thread_scope
        return ProcessScope(self.path, lock=None, timeout=None, directory=None, mode=None)

    def hold(self) -> object:
        """Which hold of the mutex it is now; another one after each release."""
        if self.path is None:
            mutex: Any = self._thread_scope.mutex
            return mutex._releases
        try:
            file = OpenFile.of_lock_file(self.path + ".dogpile.lock", create=False)
        except FileNotFoundError:
            return None
        try:
            return byterange.find_exclusive(file.fd)
        finally:
            file.close()

    def judge(self, record: Record, at: float | None = None) -> str:
        return self._shared(self.scope()).judge(record, self.clock() if at is None else at)

    def _shared(self, scope: Scope) -> SharedState:
        shared = SharedState(scope, None, self.policy)
        shared.expire_after(_EXPIRETIME)
        return shared

    def create(self) -> str:
        self.value = "created"
        self.in_a_row, self.retry_at, self.last_died = 0, 0.0, False
        return self.value

    def fails(self) -> None:
        """Count a creator that raises."""
        self.failed += 1
        self._backs_off(died=False)

    def dies(self) -> None:
        """Count a creator that does not come back."""
        self.dead += 1
        self.is_unnoticed = True

    def notices(self) -> None:
        """Count from now on, if a caller has just noticed a death."""
        if self.is_unnoticed and self.scope().read().failures_total == self.failed + self.dead:
            self.is_unnoticed = False
            self._backs_off(died=True)

    def _backs_off(self, *, died: bool) -> None:
        self.in_a_row += 1
        backoff, is_first_death = self.policy.backoff, died and not self.last_died
        delay = 0.0 if backoff is None or is_first_death else backoff.delay(self.in_a_row)
        self.retry_at, self.last_died = self.clock() + delay, died

    def check_record(self, is_creating: bool) -> None:
        """Compare the record with what was counted: nothing is forgotten, and nothing is held back for longer."""
        record = self.scope().read()
        assert (record.attempt is not None) == (is_creating or self.is_unnoticed)
        assert record.failures_total + self.is_unnoticed == self.failed + self.dead
        assert record.failures == self.in_a_row
        assert (record.failed_type == DIED) == self.last_died
        left = record.backoff_left(self.clock())
        assert left == pytest.approx(max(0.0, self.retry_at - self.clock()), abs=1e-5)

    def get(self) -> str:
        if not self.value:
            raise NeedRegenerationException
        return self.value


class Caller:
    """One caller, whose steps the test does. Each has a state of its own, as in a process of its own."""

    def __init__(self, world: World, kind: str) -> None:
        self.world, self.kind, self.scope = world, kind, world.scope()
        shared = world._shared(self.scope)
        creator = None if kind == "reading" else world.create
        self.acquisition = Acquisition(shared, creator, world.get if kind == "value" else None, None, None)
        self.election: Election | None = None
        self.step: Step | None = None
        self.segments = 0
        self.hold: object = None
        self.end = ""
        self.value: object = None

    @property
    def waits_for(self) -> str:
        """The name of the function that it has to wait for, or ``"create"``."""
        step = self.step.func if isinstance(self.step, partial) else self.step
        return "" if step is None else step.__name__

    @property
    def is_runnable(self) -> bool:
        """Whether the next step would not block. Nothing is tried that could wait."""
        if self.end:
            return False
        match self.waits_for:
            case "_acquire_mutex":
                return not self.scope.mutex.locked()
            case "_wait_released":  # the end of the hold counts, even if another follows
                return not self.scope.mutex.locked() or self.world.hold() != self.hold
            case "_wait_for_change":
                return self.scope.read() != self.acquisition.seen
        return True

    def go_on(self, how: str = "step") -> None:
        """Do the step, and what follows up to the next one.

        *how* also may be ``"fail"``, where the step is the creator, or ``"crash"``: the process ends here.
        """
        self.segments += 1
        answer: Any = None
        error: BaseException | None = {"fail": Broken(), "crash": SystemExit()}.get(how)
        try:
            if self.election is None:
                self.acquisition.must_create = self.kind == "refresh"
                self.acquisition.seen = self.scope.read()
                self.election = self.acquisition.forced() if self.kind == "forced" else self.acquisition.election()
                return  # others may go on between this look at the record and the election
            if error is not None:
                pass
            elif self.waits_for == "_wait_released":
                answer = True
            elif self.step is not None and self.waits_for not in ("_pause", "_wait_for_change"):
                try:
                    answer = self.step()
                except NeedRegenerationException as none:
                    error = none
            self.step = self.election.send(answer) if error is None else self.election.throw(error)
            while self.waits_for == "_begin_work":  # where no other driver has something to do there
                self.step = self.election.send(None)
            self.hold = self.world.hold() if self.waits_for == "_wait_released" else None
        except StopIteration as end:
            self.step, self.end, self.value = None, "done", end.value
        except SystemExit:  # gives the mutex back, as the kernel would, and leaves the attempt on record
            self.step, self.end = None, "crashed"
        except Broken:
            self.step, self.end = None, "raised"
        except CreationFailed:
            self.step, self.end = None, "refused"


class Broken(Exception):
    """What a creator raises."""


def prepared(scope: Scope, before: str) -> None:
    if before != "missing":
        Acquisition(SharedState(scope, None), lambda: None, None, None, None).refresh(force=True)
    if before in ("stale", "ageing"):
        scope.change(lambda record: record.invalidate(now=World.clock(), hard=False))


Schedule = tuple[tuple[int, str], ...]


def replay(world: World, before: str, kinds: tuple[str, ...], schedule: Schedule) -> list[Caller]:
    """Do the steps of *schedule* from the beginning, and look at what must always hold after the last one.

    A schedule is only made longer by a step after it was replayed, so that the steps before were looked at then.
    """
    callers = [Caller(world, kind) for kind in kinds]
    for index, what in schedule[:-1]:
        take_step(callers, index, what)
    if schedule:
        take_last_step(before, callers, *schedule[-1])
    return callers


def take_step(callers: list[Caller], index: int, what: str) -> None:
    """Do one step, and count what the record has to tell of it."""
    world = callers[0].world
    clock = world.clock
    assert isinstance(clock, Clock)
    if what == "wait":
        clock.now = max(clock.now, world.retry_at) + _STEP
        return
    clock.now += _STEP
    was_creating = callers[index].waits_for == "create"
    callers[index].go_on(what)
    if was_creating and what != "step":
        world.fails() if what == "fail" else world.dies()
    world.notices()


def take_last_step(before: str, callers: list[Caller], index: int, what: str) -> None:
    """Do one step, and look at what must always hold."""
    if what == "wait":
        take_step(callers, index, what)
        return
    world, caller = callers[0].world, callers[index]
    scope = world.scope()
    record, was_creating = scope.read(), caller.waits_for == "create"
    state = world.judge(record, world.clock() + _STEP)
    take_step(callers, index, what)
    creating = [each for each in callers if each.waits_for == "create"]
    assert len(creating) <= 1
    world.check_record(bool(creating))
    if caller in creating and not was_creating and caller.kind != "forced":
        assert world.clock() >= world.retry_at, "an attempt before its time"
    stamped = scope.read().generation - record.generation
    assert stamped == (was_creating and what == "step"), "a stamp precedes its creation, or is missing"
    check_answer(caller, what, state, bool(creating))
    if before not in ("missing", "expired", "ageing"):
        for each in callers:
            assert each.kind == "forced" or each.waits_for in ("", "create", "get"), each.waits_for


def check_answer(caller: Caller, what: str, state: str, is_creating: bool) -> None:
    """Check how *caller* has ended, if it has: *state* was that before the step."""
    world, acquisition = caller.world, caller.acquisition
    if what == "fail":
        policy = world.policy
        is_told = caller.kind in ("refresh", "forced") or state in NOTHING
        is_told |= state == "stale" and policy.stale_if_error is False
        assert caller.end == ("raised" if is_told else "done")
    if caller.end == "refused":
        # By its last look: a forced creation may have come and gone since.
        assert acquisition.seen.backoff_left(world.clock()) > 0
        assert world.judge(acquisition.seen) in NOTHING
        assert not is_creating
        assert caller.kind != "reading", "it waits for those that create"
    if caller.end == "done" and not acquisition.outcome:
        seen = {world.judge(acquisition.seen), world.judge(caller.scope.read())}
        assert not seen <= set(NOTHING), "it passes with nothing"


def situation(callers: list[Caller]) -> object:
    """What the future depends on. Two callers of one kind may change places: they have the same future."""
    world, scope = callers[0].world, callers[0].scope
    record = scope.read()
    return (
        record.generation,
        world.judge(record),
        record.failures,
        record.failed_type,
        record.attempt is not None,
        record.backoff_left(world.clock()) > 0,
        scope.mutex.locked(),
        world.value,
        *sorted(
            (
                caller.kind,
                caller.segments,
                caller.waits_for,
                caller.end,
                bool(caller.acquisition.outcome),
                caller.election is not None and caller.acquisition.seen.generation,
                caller.election is not None and caller.acquisition.seen == record,
                caller.election is not None and caller.acquisition.seen.backoff_left(world.clock()) > 0,
                caller.waits_for == "_wait_released" and world.hold() == caller.hold,
                holds_mutex(caller),
            )
            for caller in callers
        ),
    )


def holds_mutex(caller: Caller) -> bool:
    mutex: Any = caller.scope.mutex
    hold = getattr(caller.acquisition, "mutex_hold", None)
    return hold is not None and mutex._hold is hold


def check_end(before: str, callers: list[Caller]) -> None:
    world, scope = callers[0].world, callers[0].scope
    waiting = [caller for caller in callers if not caller.end]
    is_missing = world.judge(scope.read()) == "missing"
    for caller in waiting:
        assert (caller.kind, is_missing) == ("reading", True), "it waits, and there is nothing to wait for"
    assert not scope.mutex.locked()
    done = [caller for caller in callers if caller.end == "done"]
    forced = [caller for caller in done if caller.kind == "forced"]
    assert all(bool(caller.acquisition.outcome) for caller in forced)
    assert all(caller.value for caller in done if caller.kind == "value")
    created = sum(bool(caller.acquisition.outcome) for caller in done) - len(forced)
    assert scope.read().generation == (before != "missing") + created + len(forced)
    assert created <= (before != "fresh")
    creators = [caller for caller in done if caller.kind != "reading"]
    if done and before == "missing":
        assert created + len(forced) >= 1
    if before == "stale" and creators and len(done) == len(callers):
        assert created + len(forced) >= 1
    another = Caller(world, "refresh")
    is_fresh = world.judge(scope.read()) == "fresh"
    while not another.end:
        assert another.is_runnable
        another.go_on()
    assert bool(another.acquisition.outcome) != is_fresh
    for caller in waiting:
        while not caller.end:
            assert caller.is_runnable
            caller.go_on()


def check_end_after_failures(callers: list[Caller]) -> None:
    """Check the end of a schedule in which creators may have failed."""
    world, scope = callers[0].world, callers[0].scope
    waiting = [caller for caller in callers if not caller.end]
    for caller in waiting:
        assert caller.kind == "reading"
        assert world.judge(scope.read()) in NOTHING
    assert not scope.mutex.locked()
    assert all(caller.value for caller in callers if caller.end == "done" and caller.kind == "value")
    clock = world.clock
    assert isinstance(clock, Clock)
    # However often it has failed, a caller that comes in time creates; one that died meanwhile holds it up once.
    for _ in range(2):
        is_fresh = world.judge(scope.read()) == "fresh"
        clock.now = max(clock.now, world.retry_at) + 1.0
        another = Caller(world, "refresh")
        while not another.end:
            assert another.is_runnable
            another.go_on()
            world.notices()
        if is_fresh or another.acquisition.outcome:
            break
    assert bool(another.acquisition.outcome) != is_fresh
    assert is_fresh or scope.read().failures == 0
    assert scope.read().failures_total + world.is_unnoticed == world.failed + world.dead
    for caller in waiting:
        while not caller.end:
            assert caller.is_runnable
            caller.go_on()


def explore(before: str, kinds: tuple[str, ...], directory: Path | None = None, policy: Policy = ORIGINAL) -> int:
    """Follow every schedule; those that lead to one situation are followed once from there."""
    seen, ends, worlds = set(), 0, itertools.count()
    fails = policy is not ORIGINAL
    todo: list[Schedule] = [()]
    callers: list[Caller] = []
    done: Schedule | None = None  # by these callers, if they can go on
    while todo:
        schedule = todo.pop()
        if schedule and schedule[:-1] == done:
            take_last_step(before, callers, *schedule[-1])
        else:
            world = World(before, None if directory is None else str(directory / f"{next(worlds)}"), policy)
            callers = replay(world, before, kinds, schedule)
        done = schedule
        now = situation(callers)
        if now in seen:
            continue
        seen.add(now)
        more: list[Any] = [(i, "step") for i, caller in enumerate(callers) if caller.is_runnable]
        more += [(i, "crash") for i, caller in enumerate(callers) if caller.election and not caller.end]
        if fails:
            more += [(i, "fail") for i, caller in enumerate(callers) if caller.waits_for == "create"]
        if not any(what == "step" for _, what in more):
            check_end_after_failures(callers) if fails else check_end(before, callers)
            ends, done = ends + 1, None
        elif callers[0].world.retry_at > callers[0].world.clock():
            more.append((0, "wait"))
        todo += [(*schedule, each) for each in more]
    return ends


@pytest.mark.parametrize("before", _BEFORE)
@pytest.mark.parametrize(
    "kinds",
    [kinds for count in (2, 3) for kinds in itertools.combinations_with_replacement(_MORE_KINDS, count)],
    ids="-".join,
)
def test_every_interleaving_creates_once(before: str, kinds: tuple[str, ...]) -> None:
    assert explore(before, kinds)


@pytest.mark.parametrize("before", _BEFORE)
@pytest.mark.parametrize("kinds", list(itertools.combinations_with_replacement(_MORE_KINDS, 2)), ids="-".join)
def test_every_interleaving_of_two_processes_creates_once(
    before: str, kinds: tuple[str, ...], tmp_path: Path
) -> None:
    assert explore(before, kinds, tmp_path)


_BACKOFF = Backoff(initial=10, maximum=600, factor=2, jitter=0)
_POLICIES = {
    "tolerant": Policy(backoff=_BACKOFF, max_stale=_MAX_STALE, refresh_early=0.5),
    "strict": Policy(backoff=_BACKOFF, stale_if_error=False, max_stale=_MAX_STALE, refresh_early=0.5),
    # What is stale before the backoff is over is too old after it.
    "ageing": Policy(backoff=_BACKOFF, max_stale=5.0),
}


_ALWAYS = [
    ("tolerant", before, kinds)
    for before in ("missing", "stale")
    for kinds in itertools.combinations_with_replacement(_MORE_KINDS, 2)
]
_SITUATIONS = [
    *itertools.product(("tolerant",), ("early", "expired")),
    *itertools.product(("strict",), ("missing", "stale", "early", "expired")),
    ("ageing", "ageing"),
]
_ALSO = [(*each, kinds) for each in _SITUATIONS for kinds in itertools.combinations_with_replacement(_KINDS, 2)]


@pytest.mark.parametrize(
    ("policy", "before", "kinds"),
    [*_ALWAYS, *_ALSO],
    ids=lambda each: each if isinstance(each, str) else "-".join(each),
)
def test_every_interleaving_with_failures_and_deaths_counts_them_and_keeps_to_the_backoff(
    policy: str, before: str, kinds: tuple[str, ...]
) -> None:
    assert explore(before, kinds, policy=_POLICIES[policy])


@pytest.mark.parametrize("before", ["missing", "stale"])
@pytest.mark.parametrize("kinds", list(itertools.combinations_with_replacement(_KINDS, 3)), ids="-".join)
def test_every_interleaving_of_three_callers_with_failures_and_deaths_keeps_to_the_backoff(
    before: str, kinds: tuple[str, ...]
) -> None:
    assert explore(before, kinds, policy=_POLICIES["tolerant"])


@pytest.mark.parametrize("before", ["missing", "stale"])
@pytest.mark.parametrize("kinds", list(itertools.combinations_with_replacement(_KINDS, 2)), ids="-".join)
def test_every_interleaving_of_two_processes_with_failures_and_deaths_keeps_to_the_backoff(
    before: str, kinds: tuple[str, ...], tmp_path: Path
) -> None:
    assert explore(before, kinds, tmp_path, _POLICIES["tolerant"])


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("before", _BEFORE)
@pytest.mark.parametrize("how", ["close", "throw"])
@pytest.mark.parametrize("process", [False, True])
def test_the_mutex_is_free_after_an_election_is_abandoned_at_any_step(
    tmp_path: Path, kind: str, before: str, how: str, process: bool
) -> None:
    for steps in range(1, 9):
        path = str(tmp_path / f"{steps}")
        caller = Caller(World(before, path if process else None), kind)
        scope = caller.scope
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
    caller = Caller(World("fresh", None), "forced")
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
    datafile = Datafile(path, 3600, lambda target: stop(), backoff=None)
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


USES: dict[str, Callable[[Datafile], object]] = {
    "open": lambda datafile: entered(datafile.open("r")),
    "acquire": lambda datafile: entered(datafile.acquire()),
    "load": lambda datafile: datafile.load(lambda file: file.read()),
    "path": lambda datafile: datafile.path(),
    "version": lambda datafile: datafile._dogpile.version,
    "Dogpile": lambda datafile: entered(SyncReaderDogpile(3600, datafile.path()).acquire()),
}


def entered(block: AbstractContextManager[object]) -> None:
    with block:
        pass


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("creator", [write, None], ids=["creator", "no-creator"])
def test_a_datafile_is_used_again_inside_its_own_block(
    path: str, hard: bool, same: bool, creator: Callable[[str], None] | None
) -> None:
    Datafile(path, 3600, write, readers=True).refresh()
    outer = Datafile(path, 3600, creator, readers=True, timeout=2)
    inner = outer if same else Datafile(path, 3600, creator, readers=True, timeout=2)
    with outer.acquire():
        Dogpile(3600, path).invalidate(hard=hard)
        for use in USES.values():
            use(inner)
        if creator is not None:
            with pytest.raises(WouldDeadlock):
                inner.refresh()
            with pytest.raises(WouldDeadlock):
                inner.refresh(force=True)
    assert Datafile(path, 3600, write, readers=True).refresh()


@pytest.mark.parametrize("creator", [write, None], ids=["creator", "no-creator"])
@pytest.mark.parametrize("use", USES)
def test_a_datafile_is_used_again_inside_its_own_block_while_another_thread_waits_to_swap_it(
    path: str, creator: Callable[[str], None] | None, use: str
) -> None:
    Datafile(path, 3600, write, readers=True).refresh()
    datafile = Datafile(path, 3600, creator, readers=True)  # without a timeout, which would excuse a wait
    swapping = threading.Thread(target=Datafile(path, 3600, write, readers=True).refresh)
    with datafile.acquire():
        datafile.invalidate(hard=True)
        swapping.start()
        wait_for(lambda: waiters_for(path + ".dogpile.rwlock"), "the writer that waits")
        USES[use](datafile)
        assert swapping.is_alive()
    swapping.join(PATIENCE)
    assert datafile.status().state == "fresh"


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

    def unwanted() -> NoReturn:
        raise AssertionError("it creates")

    def no_value() -> NoReturn:
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
