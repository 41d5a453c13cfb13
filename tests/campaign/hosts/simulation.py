"""Many processes in one: each is a greenlet, the library's own code runs in it, and time is simulated.

Only one greenlet runs at a time. It gives way where it sleeps, or waits for an answer; then the scheduler resumes
the one whose time comes next, and simulated time jumps there. Of those whose time is the same, a random number
decides. So a seed gives the same run again.

Within :func:`simulated`, the clocks, sleeps and threads of the library are those of the simulation. A wait for a
lock, which would block the only thread, becomes a repeated attempt.
"""

from __future__ import annotations

import heapq
import importlib
import pkgutil
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import greenlet  # type: ignore[import-untyped]
import pytest

import dogpile_fs
from dogpile_fs import LockTimeout
from dogpile_fs._dogpile import election, heartbeat
from dogpile_fs._locks import mutex
from dogpile_fs._locks.mutex import FileMutex
from dogpile_fs._os.waiting import Deadline

__all__ = ["SimulatedProcess", "Simulation", "simulated"]

#: Seconds between two attempts to take a lock.
_LOOK = 0.01
#: The wall clock at the begin of a simulation.
_EPOCH = 1_800_000_000.0


class SimulatedProcess:
    """A process. *host*: any object with a ``clock``, the seconds by which its wall clock is fast."""

    def __init__(self, name: str, host: Any) -> None:
        self.name, self.host = name, host
        #: The simulated time until which it is stopped.
        self.stopped_until = 0.0
        self.was_stopped = False
        #: Whether it has created, fetched, or written to the origin since this was last set.
        self.has_worked = False


class Simulation:
    """The scheduler. *now*: simulated seconds since its begin."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self._due: list[tuple[float, float, int, Any]] = []
        #: Which entry of ``_due`` resumes a greenlet; others of it are over.
        self._tickets: dict[Any, int] = {}
        self._processes: dict[Any, SimulatedProcess] = {}
        self._count = 0
        self._hub: Any = None

    @property
    def process(self) -> SimulatedProcess | None:
        """The process that runs; ``None`` outside of all."""
        return self._processes.get(greenlet.getcurrent())

    def spawn(self, do: Callable[[], object], process: SimulatedProcess | None) -> Any:
        """Have *process* run *do*, beside what it does already; without one it is a part of the simulation.

        :returns: what :meth:`is_running` is asked about.
        """

        def run() -> None:
            try:
                do()
            finally:
                self._tickets.pop(made, None)
                self._processes.pop(made, None)

        made = greenlet.greenlet(run)
        if process is not None:
            self._processes[made] = process
        self._resume_at(self.now, made)
        return made

    def is_running(self, spawned: Any) -> bool:
        return spawned in self._tickets

    def sleep(self, seconds: float) -> None:
        me = greenlet.getcurrent()
        self._resume_at(self.now + max(0.0, seconds), me)
        self._hub.switch()

    def wake(self, sleeper: Any) -> None:
        """Resume a greenlet that sleeps."""
        if self.is_running(sleeper):
            self._resume_at(self.now, sleeper)

    def run(self, seconds: float) -> None:
        """Run all processes for so many simulated *seconds*."""
        self._hub, end = greenlet.getcurrent(), self.now + seconds
        while self._due and self._due[0][0] <= end:
            at, _, ticket, one = heapq.heappop(self._due)
            if self._tickets.get(one) != ticket:
                continue
            process = self._processes.get(one)
            if process is not None and process.stopped_until > at:
                process.was_stopped = True
                self._resume_at(process.stopped_until, one)
                continue
            self.now = max(self.now, at)
            one.parent = self._hub
            one.switch()
        self.now = end

    def _resume_at(self, at: float, one: Any) -> None:
        self._count += 1
        self._tickets[one] = self._count
        heapq.heappush(self._due, (at, self.random.random(), self._count, one))

    # What the library asks.

    def time(self) -> float:
        process = self.process
        return _EPOCH + self.now + (0.0 if process is None else process.host.clock)

    def monotonic(self) -> float:
        return 1000.0 + self.now


class _Thread:
    def __init__(self, simulation: Simulation, target: Callable[[], object]) -> None:
        self._simulation, self._target, self._run = simulation, target, None

    def start(self) -> None:
        self._run = self._simulation.spawn(self._target, self._simulation.process)

    def is_alive(self) -> bool:
        return self._simulation.is_running(self._run)

    def join(self) -> None:
        while self.is_alive():
            self._simulation.sleep(_LOOK)


class _Event:
    def __init__(self, simulation: Simulation) -> None:
        self._simulation, self._is_set, self._waiter = simulation, False, None

    def set(self) -> None:
        self._is_set = True
        self._simulation.wake(self._waiter)

    def wait(self, seconds: float) -> bool:
        if not self._is_set:
            self._waiter = greenlet.getcurrent()
            self._simulation.sleep(seconds)
        return self._is_set


class _Time:
    """The module ``time``, as far as the library uses it."""

    def __init__(self, simulation: Simulation) -> None:
        self.time, self.monotonic, self.sleep = simulation.time, simulation.monotonic, simulation.sleep

    def clock_gettime(self, clock: int) -> float:
        return self.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextmanager
def simulated(simulation: Simulation) -> Iterator[None]:
    """A block in which the library lives in *simulation*."""
    for each in ("_dogpile", "_datafile", "_sidecar", "_locks", "_os", "origin"):
        package = importlib.import_module(f"{dogpile_fs.__name__}.{each}")
        for found in pkgutil.iter_modules(package.__path__):
            if not found.name.endswith("_main"):
                importlib.import_module(f"{package.__name__}.{found.name}")
    module = _Time(simulation)
    instead: dict[Any, Any] = {
        time: module,
        time.time: simulation.time,
        time.monotonic: simulation.monotonic,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, library in list(sys.modules.items()):
            if name.partition(".")[0] == dogpile_fs.__name__:
                for attribute, value in list(vars(library).items()):
                    if isinstance(value, type(time) | type(time.time)) and value in instead:
                        patch.setattr(library, attribute, instead[value])
        threads = SimpleNamespace(
            Thread=lambda target, **more: _Thread(simulation, target), Event=lambda: _Event(simulation)
        )
        patch.setattr(heartbeat, "threading", threads)
        _have_waits_repeat(patch, simulation)
        yield


def _have_waits_repeat(patch: pytest.MonkeyPatch, simulation: Simulation) -> None:
    def until(condition: Callable[[], bool], deadline: Deadline) -> bool:
        while not condition():
            if deadline.left == 0:
                return False
            simulation.sleep(min(_LOOK, deadline.left))
        return True

    acquire, one_step = FileMutex.acquire, election.run

    def acquired(self: FileMutex, wait: bool = True, timeout: Any = ..., *, taker: Any = None) -> bool:
        bound = self.timeout if timeout is ... else timeout
        deadline = Deadline(bound if wait and bound != float("inf") else None if wait else 0.0)
        if until(lambda: acquire(self, False, taker=taker), deadline):
            return True
        if wait:
            raise LockTimeout(f"{self.path} did not come free within {bound} s")
        return False

    def released(self: election.Acquisition) -> bool:
        return until(lambda: not self.scope.mutex.locked(), self.deadline)

    def changed(self: election.Acquisition, seconds: float) -> None:
        deadline = self.deadline.within(seconds)
        until(lambda: self.scope.read() != self.seen, deadline)

    def stepped(steps: election.Election) -> Any:
        """Step the algorithm, with any other process between two steps."""

        def giving_way() -> election.Election:
            answer, error = None, None
            try:
                while True:
                    try:
                        step = steps.send(answer) if error is None else steps.throw(error)
                    except StopIteration as end:
                        return end.value
                    simulation.sleep(0.0)
                    try:
                        answer, error = (yield step), None
                    except Exception as raised:
                        answer, error = None, raised
            finally:
                steps.close()

        return one_step(giving_way())

    patch.setattr(mutex, "NOW", Deadline(0.0))  # the one that it has is of the real clock
    patch.setattr(FileMutex, "acquire", acquired)
    patch.setattr(election.Acquisition, "_wait_released", released)
    patch.setattr(election.Acquisition, "_wait_for_change_within", changed)
    patch.setattr(election, "run", stepped)
