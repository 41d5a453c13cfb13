"""The tasks of a worker: as :mod:`.programs`, in an event loop, and each operation may be cancelled at any moment.

A creation goes on when its task is cancelled. So an operation that was cancelled has no end: its effect may come
until its process ends, as that of a process which was killed.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio

from dogpile_fs import NeedRegenerationException

from .creators import Creators
from .history import Journal
from .programs import OF_ALL_KEYS, drawn_bounds, outcome_of, weights
from .subjects import Found
from .task_subjects import TaskSubject

__all__ = ["TaskProgram", "run_tasks", "warm_up"]

#: Tasks of a worker that run programs.
_TASKS = 4
#: How long an operation may take before it is cancelled.
_PATIENCE = (None, None, None, None, None, 0.0, 0.002, 0.02, 0.2)
#: What other workers do is left to them.
_LEFT_OUT = ("side-write", "side-read", "command", "command-killed", "command-status", "by-path")
#: How the names of the threads begin which work for a task.
_THREADS = "dogpile_fs: "


class TaskProgram:
    """The program of one task until *deadline* (on the monotonic clock)."""

    def __init__(
        self,
        subjects: Sequence[TaskSubject],
        journal: Journal,
        seed: int,
        deadline: float,
        nemeses: frozenset[str],
        loop: str,
    ) -> None:
        self.subjects = subjects
        self.subject = subjects[0]
        self.journal = journal
        self.random = random.Random(seed)
        self.deadline = deadline
        self.nemeses = nemeses
        self.loop = loop
        own = subjects[0].own
        self._weights = weights(own, nemeses) | dict.fromkeys(_LEFT_OUT, 0)
        if own.swaps:
            self._weights["write"] = 0  # those classes have no method for it
        self._creators = Creators(journal, self.random, deadline, nemeses, self._fork)
        self.children: list[int] = []

    async def run(self) -> None:
        while time.monotonic() < self.deadline:
            await self.step()
            if "crowd" not in self.nemeses and self.random.random() < 0.3:
                await anyio.sleep(self.random.uniform(0, 0.02))
            else:
                await anyio.sleep(0)  # a pass does not pause its task
        while self.children:
            await anyio.sleep(0.002)
            self._reap()

    async def step(self) -> None:
        do = self.random.choices(list(self._weights), list(self._weights.values()))[0]
        timeout = self.random.choice([None, None, None, 0.0, 0.05, 1.0])
        patience = self.random.choice(_PATIENCE)
        self.subject = self.random.choice(self.subjects)
        key = {"key": self.subject.own.key} if self.subject.own.key and do not in OF_ALL_KEYS else {}
        op = self.journal.begin(do, timeout=timeout, patience=patience, **key)
        self.subject.begin(op, self._creators, self.random)
        outcome: dict[str, Any] = {}
        with anyio.move_on_after(patience) as scope:
            try:
                await getattr(self, f"_{do}")(op, timeout)
            except (Exception, ExceptionGroup) as error:
                outcome = outcome_of(error)
        if scope.cancelled_caught:
            self.journal.note(op, "cancelled")
        else:
            self.journal.note(op, "ended", **outcome)
        self._reap()

    # Operations.

    async def _pass(self, op: int, timeout: float | None) -> None:
        async with self.subject.block(timeout) as given:
            await self._be_inside(op, given)

    async def _look(self, op: int, timeout: float | None) -> None:
        # A caller without a creator waits until another caller creates, so it has a timeout.
        async with self.subject.block(0.5 if timeout is None else timeout, creates=False) as given:
            await self._be_inside(op, given)

    async def _nested(self, op: int, timeout: float | None) -> None:
        async with self.subject.block(timeout) as given:
            await self._be_inside(op, given)
            if self.subject.own.synced:
                # As in _look(); and after max_stale the creator that this waits for may wait for the block around.
                async with self.subject.block(0.5 if timeout is None else timeout, creates=False):
                    self.journal.note(op, "twice")

    async def _miss(self, op: int, timeout: float | None) -> None:
        with suppress(NeedRegenerationException):
            async with self.subject.block(timeout) as given:
                await self._be_inside(op, given)
                raise NeedRegenerationException

    async def _refresh(self, op: int, timeout: float | None, force: bool = False) -> None:
        outcome = await self.subject.refresh(force, timeout)
        self.journal.note(op, "refreshed", created=bool(outcome), outcome=str(outcome))

    async def _force(self, op: int, timeout: float | None) -> None:
        await self._refresh(op, timeout, force=True)

    async def _soft(self, op: int, timeout: float | None) -> None:
        await self.subject.invalidate()

    async def _hard(self, op: int, timeout: float | None) -> None:
        await self.subject.invalidate(hard=True)

    async def _load(self, op: int, timeout: float | None) -> None:
        found = await self.subject.load(timeout)
        # While another task loads the next version, this one gets the version before.
        self.journal.note(op, "loaded", version=found.version, whole=found.whole)

    async def _status(self, op: int, timeout: float | None) -> None:
        status = self.subject.own.dogpile.status()
        self.journal.note(
            op,
            "reported",
            state=status.state,
            createdtime=status.createdtime,
            version=status.generation,
            creating=status.creating,
            failures=status.failures,
            failures_total=status.failures_total,
        )
        found = self.subject.own.read()
        self.journal.note(op, "found", version=found.version, whole=found.whole)

    async def _write(self, op: int, timeout: float | None) -> None:
        async with self.subject.write_lock(timeout):
            self.journal.note(op, "writing")
            try:
                await anyio.sleep(self.random.uniform(0, 0.005))
            finally:
                self.journal.note(op, "written")

    async def _prune(self, op: int, timeout: float | None) -> None:
        bounds = drawn_bounds(self.random, self.subject.own.expiretime)
        self.journal.note(op, "pruning", **bounds)
        self.journal.note(op, "pruned", gone=await self.subject.prune(**bounds))

    # Inside a block.

    async def _be_inside(self, op: int, given: Any) -> None:
        own = self.subject.own
        self.journal.note(op, "entered")
        try:
            self._note_read(op, "read", own.read(given))
            if "forks" in self.nemeses and self.random.random() < 0.02:
                self._fork(op)
            crowd = "crowd" in self.nemeses
            await anyio.sleep(self.random.uniform(0.05, 0.1) if crowd else self.random.choice([0, 0, 0.005, 0.01]))
            if own.synced:  # nothing may be swapped in meanwhile
                self._note_read(op, "reread", own.read())
            elif own.key:  # what is open stays, also if it is pruned meanwhile
                given.seek(0)
                self._note_read(op, "again", own.read(given))
        finally:
            self.journal.note(op, "leaving")

    def _note_read(self, op: int, what: str, found: Found) -> None:
        self.journal.note(op, what, version=found.version, whole=found.whole)

    # Children.

    def _fork(self, op: int) -> None:
        """Fork here. The child uses the objects of its parent in an event loop of its own."""
        child = os.fork()
        if child:
            self.children.append(child)
            return
        try:
            self.journal.in_child(f"{self.journal.name}f")
            # In another thread: this one is in the middle of an event loop.
            thread = threading.Thread(target=anyio.run, args=(self._live_as_child,), kwargs={"backend": self.loop})
            thread.start()
            thread.join()
        finally:
            os._exit(0)

    async def _live_as_child(self) -> None:
        program = TaskProgram(
            self.subjects, self.journal, os.getpid(), self.deadline, self.nemeses - {"forks"}, self.loop
        )
        for _ in range(3):
            await program.step()
        await all_work_is_done()

    def _reap(self) -> None:
        for child in self.children.copy():
            done, _ = os.waitpid(child, os.WNOHANG)
            if done:
                self.children.remove(child)


async def all_work_is_done() -> None:
    """Wait until no thread works for a task: a creation whose task was cancelled goes on in the event loop."""
    main = threading.main_thread()  # of a child that was forked by such a thread, that one
    while any(each.name.startswith(_THREADS) for each in threading.enumerate() if each is not main):
        await anyio.sleep(0.005)


def warm_up(loop: str) -> None:
    """Import all that *loop* needs, before the descriptors are counted and privileges given up."""
    anyio.run(anyio.sleep, 0, backend=loop)


def run_tasks(
    subjects: Sequence[TaskSubject],
    journal: Journal,
    seed: int,
    deadline: float,
    nemeses: frozenset[str],
    loop: str,
) -> None:
    """Run the programs of a worker's tasks in a *loop*."""

    async def run_all() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(_TASKS):
                program = TaskProgram(subjects, journal, _TASKS * seed + number, deadline, nemeses, loop)
                tasks.start_soon(program.run)
        await all_work_is_done()

    anyio.run(run_all, backend=loop)
