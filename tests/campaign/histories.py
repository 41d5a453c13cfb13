"""Run rounds of random programs on one resource, with nemeses beside them, and check the histories.

    python -m tests.campaign.histories --seconds 60 --seed 1

Each round has a seed of its own, which decides on the kind of the resource, the nemeses and the programs; the next
round has the next seed. ``--seed N --rounds 1`` repeats a round, though not in the same interleaving.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dogpile_fs import DogpileError, atomic_write
from dogpile_fs._dogpile.key_pattern import KeyPattern
from tests.support.places import hidden_names, left_beside

from .account import History
from .history import Journal, Operation, operations_in
from .nemeses import NEMESES, Nemesis, lying_clock, set_clock
from .programs import SIDE
from .promises import violations
from .subjects import KEYS, KINDS, Found, Subject, pattern_of, subjects_of
from .worker import LOOPS, NOBODY

__all__ = ["Plan", "Round", "main"]

#: Seconds after the end of a round in which workers must end, else they count as hanging.
PATIENCE = 45.0
#: One in so many rounds has keys, and tasks: the few of a short run have them, too.
_KEYS_EVERY = 4
_IN_PROGRAMS = ("forks", "creators", "descriptors", "invalidations", "commands", "failures")
_ALL = (*NEMESES, *_IN_PROGRAMS)


@dataclass
class Plan:
    """The settings of a round."""

    seed: int
    kind: str
    nemeses: frozenset[str]
    workers: int = 6
    expiretime: float = 0.2
    seconds: float = 5.0
    unprivileged: bool = False
    mutant: str = ""
    #: Seconds after a first failure; 0: the next caller tries again at once.
    backoff: float = 0.0
    #: Seconds past expiry; 0: no bound.
    max_stale: float = 0.0
    #: Whether readers get the errors of their creators.
    strict: bool = True
    #: How many of the workers have tasks, and no threads.
    tasks: int = 0

    @classmethod
    def by(cls, seed: int) -> Plan:
        """Return the plan for *seed*."""
        rng = random.Random(seed)
        kind = "keys" if seed % _KEYS_EVERY == 0 else rng.choice([each for each in KINDS if each != "keys"])
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
            backoff=rng.choice([0.0, 0.05, 0.2]),
            max_stale=rng.choice([0.0, 0.0, 0.3]),
            strict=rng.random() < 0.3,
            tasks=rng.choice([1, 1, 2, 9] if kind == "keys" else [0, 1, 2, 9]),
        )

    def __str__(self) -> str:
        nemeses = "+".join(sorted(self.nemeses)) or "none"
        who = " unprivileged" if self.unprivileged else ""
        policy = f"backoff {self.backoff} s, " if self.backoff else ""
        policy += f"max_stale {self.max_stale} s, " if self.max_stale else ""
        policy += "strict, " if self.strict else ""
        tasks = f", {min(self.tasks, self.workers)} of tasks" if self.tasks else ""
        return (
            f"seed {self.seed}: {self.kind}, {self.workers} workers{who}{tasks}, {self.expiretime} s, {policy}"
            f"nemeses {nemeses}"
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
        self.coordination = _coordination(plan.kind, self.path)
        self.input = place / "input"
        self.input.write_bytes(b"first")
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
        self._failures_at_last: dict[str, int] = {}
        self._over = False

    @property
    def workers(self) -> list[_Worker]:
        """Return the workers that have begun, and not ended."""
        return [worker for worker in self._slots if worker.popen.poll() is None and self._has_begun(worker)]

    def _has_begun(self, worker: _Worker) -> bool:
        return (self.histories / worker.process).exists()

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, _Due(time.monotonic() + seconds, next(self._numbers), do))

    def run(self) -> list[str]:
        """Run it, and return descriptions of the violations."""
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
        operations = operations_in(self.histories)
        found = list(self.failures)
        self.counts = _counts(operations)
        for key in KEYS if self.plan.kind == "keys" else [""]:
            history = self._history([each for each in operations if each.key in ("", key)], key)
            self.counts += _creations(history)
            found += [f"{violation}{f', of the key {key}' if key else ''}" for violation in violations(history)]
        return found

    def _history(self, operations: list[Operation], key: str) -> History:
        return History(
            operations,
            self.plan.expiretime,
            synced=KINDS[self.plan.kind].synced,
            clocks="clocks" in self.plan.nemeses,
            opens=self.plan.kind in ("datafile", "readers", "directory", "keys"),
            backoff=self.plan.backoff,
            tolerant=not self.plan.strict,
            max_stale=self.plan.max_stale or math.inf,
            keys=len(KEYS) if key else 0,
            failures_at_last=self._failures_at_last.get(key),
        )

    def _begun(self) -> float:
        """Let all workers begin together once they are ready, and return the round's end on the monotonic
        clock."""
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
            "backoff": plan.backoff,
            "max-stale": plan.max_stale,
            "loop": LOOPS[slot % len(LOOPS)] if slot < plan.tasks else "",
            "input": self.input if "inputs" in plan.nemeses else "",
        }
        words = [sys.executable, "-m", "tests.campaign.worker"]
        words += [word for option, value in options.items() for word in (f"--{option}", str(value))]
        words += ["--unprivileged"] if plan.unprivileged else []
        words += ["--strict"] if plan.strict else []
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
        """Wait until all workers and their children have ended; one that does not is a violation."""
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
        """Check, after the round, a process with a true clock and without nemeses."""
        wrong: list[str] = []
        subjects = subjects_of(self.plan.kind, self.path, self.plan.expiretime)
        try:
            for subject in subjects:
                wrong += self._works_on(subject)
            if subjects[0].key:
                wrong += _is_emptied(subjects, by_another_user=self.plan.unprivileged)
        except DogpileError as error:
            wrong.append(f"{error!r}\n{self._locks()}")
        return [f"afterwards: {each}" for each in wrong]

    def _works_on(self, subject: Subject) -> Iterator[str]:
        """Create a version, read it, and look for what the round has left."""
        version = time.monotonic_ns()

        def build(target: str) -> None:
            with suppress(FileNotFoundError):
                os.unlink(target)
            subject.make(target, version, 1000)
            if not subject.swaps:
                os.replace(target, subject.path)

        if not subject.refresh(build, True, 30.0):
            yield "refresh() does not create"
        status = subject.dogpile.status()
        self._failures_at_last[subject.key] = status.failures_total
        if status.failures or status.retry_at is not None:
            yield f"a creation did not clear the failures: {status}"
        with subject.block(None, 30.0) as given:
            found = subject.read(given)
        if found != Found(version):
            yield f"{found} is read, not version {version}"
        with atomic_write(subject.path + SIDE, durable=False) as file:
            file.write(b"")
        os.unlink(subject.path + SIDE)
        with subject.block(None, 30.0), suppress(FileNotFoundError):
            # Each user has a hidden sub-directory of its own, and leaves those of others alone.
            left = hidden_names(subject.path) if self.plan.unprivileged else left_beside(subject.path)
            left = [name for name in left if not name.startswith(".dogpile-kept-")]
            if left:
                yield f"{left} are left"
        if subject.dogpile.dogpilelock.locked():
            yield f"the mutex is locked\n{self._locks()}"


def _coordination(kind: str, path: str) -> dict[str, Path]:
    """Return the coordination files of the resource at *path*, by what they are to it."""
    if kind != "keys":
        files = {"sidecar": "", "journal": ".journal", "lock": ".lock", "rwlock": ".rwlock"}
        return {kind: Path(f"{path}.dogpile{suffix}") for kind, suffix in files.items()}
    pattern = KeyPattern(pattern_of(path))
    files = {"sidecar": pattern.records_path, "lock": pattern.lock_path, "marker": pattern.marker}
    return {kind: Path(file) for kind, file in files.items()}


def _is_emptied(subjects: Sequence[Subject], *, by_another_user: bool) -> Iterator[str]:
    """Prune all keys: nothing may be left of them, but what another user has kept in a directory of its own."""
    gone = subjects[0].files.prune(older_than=0)
    fixed = os.path.dirname(subjects[0].files.pattern)
    left = sorted(os.listdir(fixed))
    if gone != len(subjects) or (left != [".dogpile"] and not by_another_user):
        yield f"prune() removed {gone} keys, and {left} is left"
    for subject in subjects:
        if (state := subject.dogpile.status().state) != "missing":
            yield f"{subject.path} was pruned, and is {state}"


def _counts(operations: Sequence[Operation]) -> Counter[str]:
    counts = Counter[str]()
    for operation in operations:
        counts[f"operations: {operation.do}"] += 1
        counts["reads"] += operation.event("read") is not None
        counts["cancelled"] += operation.cancelled is not None
    return counts


def _creations(history: History) -> Counter[str]:
    not_well = sum(creation.sure_at is None for creation in history.creations)
    return Counter({"creations": len(history.creations), "creations that did not end well": not_well})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1_000_000))
    parser.add_argument("--rounds", type=int, help="so many, however long that takes")
    parser.add_argument("--mutant", default="")
    parser.add_argument("--keep", action="store_true", help="keep what a round has left, if it violates a promise")
    options = parser.parse_args(arguments)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the finally blocks run
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
