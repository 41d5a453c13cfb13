"""Rounds of random programs on one resource, with nemeses beside them, and a check of what happened.

    python -m tests.campaign.histories --seconds 60 --seed 1

Each round has a seed of its own, which decides on the kind of the resource, the nemeses, and what all do; the next
round has the next one. So a round is begun again, though it never happens twice in the same way, by
``--seed N --rounds 1``.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dogpile_fs import DogpileError, FileMutex, atomic_write

from .account import History
from .history import Journal, operations_in
from .nemeses import NEMESES, Nemesis, lying_clock, set_clock
from .programs import SIDE
from .promises import violations
from .subjects import KINDS, Found
from .worker import NOBODY

__all__ = ["Plan", "Round", "main"]

#: Seconds that workers may take, once they shall end, before that is called hanging.
PATIENCE = 45.0
_IN_PROGRAMS = ("forks", "creators", "descriptors", "invalidations", "commands")
_ALL = (*NEMESES, *_IN_PROGRAMS)


@dataclass
class Plan:
    """What a round is to be."""

    seed: int
    kind: str
    nemeses: frozenset[str]
    workers: int = 6
    expiretime: float = 0.2
    seconds: float = 5.0
    unprivileged: bool = False
    mutant: str = ""

    @classmethod
    def by(cls, seed: int) -> Plan:
        """The one that *seed* stands for."""
        rng = random.Random(seed)
        kind = rng.choice(list(KINDS))
        how = rng.random()
        if how < 0.1 and KINDS[kind].synced:
            nemeses = {"crowd"}
        elif how < 0.5:
            nemeses = set(rng.sample(_ALL, rng.randrange(3)))
        elif how < 0.75:
            nemeses = set(_ALL) - set(rng.sample(("clocks", "files", "invalidations"), 2))
        else:
            nemeses = set(_ALL)
        if lying_clock() is None:
            nemeses.discard("clocks")
        unprivileged = os.geteuid() == 0 and rng.random() < 0.4
        if unprivileged:
            nemeses.discard("commands")  # the interpreter may be root's
        return cls(
            seed,
            kind,
            frozenset(nemeses),
            workers=rng.randrange(3, 9),
            expiretime=rng.choice([0.05, 0.2, 0.5]),
            seconds=rng.choice([3.0, 5.0, 8.0]),
            unprivileged=unprivileged,
        )

    def __str__(self) -> str:
        nemeses = "+".join(sorted(self.nemeses)) or "none"
        who = " unprivileged" if self.unprivileged else ""
        return (
            f"seed {self.seed}: {self.kind}, {self.workers} workers{who}, {self.expiretime} s, nemeses {nemeses}"
        )


@dataclass
class _Worker:
    name: str
    popen: subprocess.Popen[bytes]
    clock: Path
    errors: Path
    reaped: bool = False

    @property
    def process(self) -> str:
        return f"{self.name}.{self.popen.pid}"


@dataclass(order=True)
class _Due:
    at: float
    number: int
    do: Callable[[], None] = field(compare=False)


class Round:
    """One round, carried out in *place*, a directory of its own."""

    def __init__(self, plan: Plan, place: Path) -> None:
        self.plan = plan
        self.random = random.Random(plan.seed)
        self.place = place
        self.directory = place / "data"
        self.histories = place / "histories"
        for directory in (self.directory, self.histories):
            directory.mkdir()
            directory.chmod(0o777)
        self.path = str(self.directory / "resource")
        self.journal = Journal(self.histories, "nemeses")
        self._numbers = itertools.count()
        self._due: list[_Due] = []
        self._slots: list[_Worker] = []
        self._incarnations = Counter[int]()
        self._groups: set[int] = set()
        self.clocks = [place / f"clock{slot}" for slot in range(plan.workers)]
        self.owner = NOBODY if plan.unprivileged else None
        self._go = place / "go"
        self.failures: list[str] = []
        self._over = False

    @property
    def workers(self) -> list[_Worker]:
        """Those that have begun, and not ended."""
        return [worker for worker in self._slots if worker.popen.poll() is None and self._has_begun(worker)]

    def _has_begun(self, worker: _Worker) -> bool:
        return (self.histories / worker.process).exists()

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, _Due(time.monotonic() + seconds, next(self._numbers), do))

    def run(self) -> list[str]:
        """What was violated, as text; empty if nothing was."""
        for clock in self.clocks:
            set_clock(clock, 0)
        for slot in range(self.plan.workers):
            self._slots.append(self._started(slot))
        deadline = self._begun()
        nemeses = [NEMESES[name](self) for name in sorted(self.plan.nemeses & NEMESES.keys())]
        try:
            for nemesis in nemeses:
                self._strike_later(nemesis, deadline)
            while (now := time.monotonic()) < deadline:
                self._do_what_is_due(now)
                self._look_after_workers(deadline)
                time.sleep(0.002)
        finally:
            self._over = True
            while self._due:
                heapq.heappop(self._due).do()
            for nemesis in nemeses:
                nemesis.end()
            self._end_workers()
        self.journal.close()
        self.failures += self._epilogue()
        history = History(
            operations_in(self.histories),
            self.plan.expiretime,
            synced=KINDS[self.plan.kind].synced,
            clocks="clocks" in self.plan.nemeses,
            opens=self.plan.kind in ("datafile", "readers", "directory"),
        )
        self.counts = _counts(history)
        return self.failures + [str(violation) for violation in violations(history)]

    def _begun(self) -> float:
        """Have all workers begin together, once they are there. When they shall end, on the monotonic clock."""
        while any(worker.popen.poll() is None and not self._has_begun(worker) for worker in self._slots):
            time.sleep(0.002)
        deadline = time.monotonic() + self.plan.seconds
        new = self._go.with_suffix(".new")
        new.write_text(repr(deadline))
        new.replace(self._go)
        return deadline

    def _strike_later(self, nemesis: Nemesis, deadline: float) -> None:
        def strike() -> None:
            if not self._over:
                nemesis.strike()
                self._strike_later(nemesis, deadline)

        pause = self.random.expovariate(1 / nemesis.pause)
        if time.monotonic() + pause < deadline:
            self.later(pause, strike)

    def _do_what_is_due(self, now: float) -> None:
        while self._due and self._due[0].at <= now:
            heapq.heappop(self._due).do()

    def _started(self, slot: int) -> _Worker:
        plan = self.plan
        self._incarnations[slot] += 1
        name = f"w{slot}.{self._incarnations[slot]}"
        errors = self.place / f"errors.{name}"
        environment = dict(os.environ)
        if "clocks" in plan.nemeses:
            environment |= {"LD_PRELOAD": lying_clock() or "", "LYING_CLOCK": str(self.clocks[slot])}
        options = {
            "kind": plan.kind,
            "path": self.path,
            "expiretime": plan.expiretime,
            "keep": plan.seed % 3,
            "histories": self.histories,
            "name": name,
            "seed": plan.seed * 1000 + slot * 50 + self._incarnations[slot],
            "go": self._go,
            "nemeses": ",".join(sorted(plan.nemeses)),
            "mutant": plan.mutant,
        }
        words = [sys.executable, "-m", "tests.campaign.worker"]
        words += [word for option, value in options.items() for word in (f"--{option}", str(value))]
        if plan.unprivileged:
            words.append("--unprivileged")
        with errors.open("wb") as stderr:
            popen = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stderr=stderr)
        self._groups.add(popen.pid)
        return _Worker(name, popen, self.clocks[slot], errors)

    def _look_after_workers(self, deadline: float) -> None:
        for slot, worker in enumerate(self._slots):
            if worker.popen.poll() is None:
                continue
            if worker.reaped:
                continue
            self._reap(worker)
            if deadline - time.monotonic() > 0.5:
                self._slots[slot] = self._started(slot)

    def _reap(self, worker: _Worker) -> None:
        worker.reaped = True
        status = worker.popen.wait()
        op = self.journal.begin("death")
        self.journal.note(op, "reaped", process=worker.process, status=status)
        said = worker.errors.read_text(errors="replace")
        if status not in (0, -signal.SIGKILL) or "Traceback" in said:
            self.failures.append(f"a worker ended with {status}, and said:\n{said[-3000:]}")

    def _end_workers(self) -> None:
        """Wait until all have ended, their children included; who does not is a violation."""
        patience = time.monotonic() + PATIENCE
        for worker in self._slots:
            try:
                worker.popen.wait(max(0.1, patience - time.monotonic()))
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(worker.popen.pid, signal.SIGUSR1)  # faulthandler
                time.sleep(1)
                said = worker.errors.read_text(errors="replace")
                self.failures.append(f"{worker.process} hangs:\n{said[-6000:]}\n{self._locks()}")
                with suppress(ProcessLookupError):
                    os.killpg(worker.popen.pid, signal.SIGKILL)
            if not worker.reaped:
                self._reap(worker)
        for group in self._groups:
            self._end_group(group, patience)

    def _end_group(self, group: int, patience: float) -> None:
        while True:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return
            if time.monotonic() > patience:
                os.killpg(group, signal.SIGKILL)
                self.failures.append(f"children of {group} hang\n{self._locks()}")
                return
            time.sleep(0.01)

    def _locks(self) -> str:
        return Path("/proc/locks").read_text()

    def _epilogue(self) -> list[str]:
        """All is over: what the next one finds, who comes with an honest clock and no harm in mind."""
        subject = KINDS[self.plan.kind](self.path, self.plan.expiretime)
        version = time.monotonic_ns()

        def build(target: str) -> None:
            with suppress(FileNotFoundError):
                os.unlink(target)
            subject.make(target, version, 1000)
            if not subject.swaps:
                os.replace(target, self.path)

        wrong = []
        try:
            if not subject.refresh(build, True, 30.0):
                wrong.append("afterwards: refresh() does not create")
            with subject.block(None, 30.0) as given:
                found = subject.read(given)
            if found != Found(version):
                wrong.append(f"afterwards: {found} is read, not version {version}")
            with atomic_write(self.path + SIDE, durable=False) as file:
                file.write(b"")
            with subject.block(None, 30.0), suppress(FileNotFoundError):
                left = [
                    name
                    for name in os.listdir(self.directory)
                    if name.startswith((".dogpile-new", ".dogpile-tmp"))
                ]
                if left:
                    wrong.append(f"afterwards: {left} are left")
            if FileMutex(self.path + ".dogpile.lock").locked():
                wrong.append(f"afterwards: the mutex is locked\n{self._locks()}")
        except DogpileError as error:
            wrong.append(f"afterwards: {error!r}\n{self._locks()}")
        return wrong


def _counts(history: History) -> Counter[str]:
    counts = Counter[str]({f"operations: {operation.do}": 0 for operation in history.operations})
    for operation in history.operations:
        counts[f"operations: {operation.do}"] += 1
        counts["reads"] += operation.event("read") is not None
    counts["creations"] = len(history.creations)
    counts["creations that did not end well"] = sum(creation.sure_at is None for creation in history.creations)
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1_000_000))
    parser.add_argument("--rounds", type=int, help="so many, however long that takes")
    parser.add_argument("--mutant", default="")
    parser.add_argument("--keep", action="store_true", help="keep what a round has left, if it violates a promise")
    options = parser.parse_args(arguments)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # tidily
    until = time.monotonic() + options.seconds
    counts = Counter[str]()
    found: list[str] = []
    number = 0
    while (number < options.rounds) if options.rounds else (time.monotonic() < until):
        plan = Plan.by(options.seed + number)
        plan.mutant = options.mutant
        violated, counted = _carried_out(plan, options.keep)
        counts += counted
        counts.update({f"rounds of {plan.kind}": 1, **{f"rounds with {nemesis}": 1 for nemesis in plan.nemeses}})
        number += 1
        print(f"{plan}: {len(violated) or 'no'} violations", flush=True)
        for violation in violated[:5]:
            print(f"{violation}\n", flush=True)
        found += [f"{plan}: {violation}" for violation in violated]
    summary: dict[str, Any] = {"seed": options.seed, "rounds": number, **dict(sorted(counts.items()))}
    print("RESULT " + json.dumps({**summary, "violations": [text[:300] for text in found[:20]]}))
    return 1 if found else 0


def _carried_out(plan: Plan, keep: bool) -> tuple[list[str], Counter[str]]:
    place = Path(tempfile.mkdtemp(prefix="dogpile-round-"))
    place.chmod(0o755)
    round_ = Round(plan, place)
    violated: list[str] = []
    try:
        violated = round_.run()
    finally:
        if violated and keep:
            print(f"kept: {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)
    return violated, round_.counts


if __name__ == "__main__":
    sys.exit(main())
