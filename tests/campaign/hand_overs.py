"""Rounds of workers that create in the background, while workers, creators and watchdogs are killed and stopped.

    python -m tests.campaign.hand_overs --seconds 60 --seed 1

Each creator writes down that it runs, from its first moment to its last, whichever process it runs in. The checker
finds two creators at a time, reads that are torn or go back, results that are lost, stamps and failures that are
not counted, and locks and processes that are left.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dogpile_fs import Backoff, CreationFailed, Datafile, DogpileError, LockTimeout, Policy
from dogpile_fs._sidecar.journal import SLOTS, Entry
from dogpile_fs._sidecar.journal import Journal as OfAttempts

from . import mutants
from .history import Event, Journal, operations_in
from .subjects import contents_of, parsed

__all__ = ["Creator", "Plan", "Round", "main"]

#: Seconds after the end of a round in which all creations must have ended.
PATIENCE = 45.0
#: Seconds between two words of a creator that takes long.
_STILL = 0.01
_TIMEOUT = 1.0
_MOODS = {"well": 70.0, "slow": 15.0, "raises": 6.0, "exits": 3.0, "hangs": 3.0, "daemon": 3.0}


@dataclass
class Plan:
    """The settings of a round."""

    seed: int
    way: Literal["process", "thread"]
    workers: int
    expiretime: float
    seconds: float
    readers: bool
    backoff: float
    harm: bool
    mutant: str = ""

    @classmethod
    def by(cls, seed: int) -> Plan:
        """Return the plan for *seed*."""
        rng = random.Random(seed)
        return cls(
            seed,
            way="thread" if rng.random() < 0.25 else "process",
            workers=rng.randrange(2, 6),
            expiretime=rng.choice([0.0, 0.05, 0.3]),
            seconds=rng.choice([4.0, 6.0]),
            readers=rng.random() < 0.3,
            backoff=rng.choice([0.0, 0.05]),
            harm=rng.random() < 0.8,
        )

    def __str__(self) -> str:
        readers, harm = ", readers" if self.readers else "", "" if self.harm else ", no harm"
        return f"seed {self.seed}: {self.way}, {self.workers} workers, {self.expiretime} s{readers}{harm}"


class Creator:
    """Makes a version, and writes down what it does. It is imported by the process that creates."""

    def __init__(self, histories: str, path: str, mutant: str) -> None:
        self.histories = histories
        self.path = path
        self.mutant = mutant

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.mutant:  # before the mutex is adopted
            mutants.apply(self.mutant)

    def __call__(self, target: str) -> None:
        version = time.monotonic_ns()
        journal = Journal(Path(self.histories), f"creator{version}")  # a process may have several
        op = journal.begin("creation", version=version, parent=os.getppid())
        is_own_process = "-c" in sys.orig_argv
        if is_own_process:
            atexit.register(self._over, journal, op, version)
        mood = random.choices(list(_MOODS), list(_MOODS.values()))[0]
        journal.note(op, "creating", mood=mood)
        seconds = {"slow": 0.3, "hangs": 10 * _TIMEOUT}.get(mood, random.uniform(0, 0.02))
        until = time.monotonic() + (min(seconds, _TIMEOUT) if not is_own_process else seconds)
        while time.monotonic() < until:
            journal.note(op, "still")
            time.sleep(_STILL)
        if mood == "raises":
            journal.note(op, "raising")
            raise OSError("a source that fails")
        if mood == "exits" and is_own_process:
            journal.note(op, "exiting")
            os._exit(3)
        if mood == "daemon":
            subprocess.Popen(["sleep", "0.5"])
        Path(target).write_bytes(contents_of(version, random.choice([100, 50_000])))
        journal.note(op, "created")

    def _over(self, journal: Journal, op: int, version: int) -> None:
        """Note which version is in place when the process of a creation ends by itself."""
        with suppress(OSError):
            journal.note(op, "over", found=parsed(Path(self.path).read_bytes()).version)


class Round:
    """One round, carried out in *place*, a directory of its own."""

    def __init__(self, plan: Plan, place: Path) -> None:
        self.plan = plan
        self.random = random.Random(plan.seed)
        self.path = str(place / "data" / "resource")
        self.histories = place / "histories"
        self.place = place
        for directory in (place / "data", self.histories):
            directory.mkdir()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.wrong: list[str] = []
        self.counts = Counter[str]()
        self._numbers = 0

    def run(self) -> list[str]:
        """Run it, and return descriptions of the violations."""
        deadline = time.monotonic() + self.plan.seconds
        self.workers = [self._started(deadline) for _ in range(self.plan.workers)]
        stopped: list[tuple[float, int]] = []
        next_stroke = time.monotonic() + 0.5
        while (now := time.monotonic()) < deadline:
            for number, worker in enumerate(self.workers):
                if worker.poll() is not None:
                    self._reap(worker)
                    self.workers[number] = self._started(deadline)
            for at, pid in [each for each in stopped if each[0] <= now]:
                _signal(pid, signal.SIGCONT)
                stopped.remove((at, pid))
            if self.plan.harm and now >= next_stroke:
                self._strike(stopped)
                next_stroke = now + self.random.expovariate(1 / 0.15)
            time.sleep(0.002)
        for _, pid in stopped:
            _signal(pid, signal.SIGCONT)
        for worker in self.workers:
            try:
                worker.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.wrong.append(f"worker {worker.pid} hangs")
                worker.kill()
            self._reap(worker)
        self._wait_for_creations()
        self.wrong += _violations(self)
        return self.wrong

    def _started(self, deadline: float) -> subprocess.Popen[bytes]:
        self._numbers += 1
        words = [sys.executable, "-m", "tests.campaign.hand_overs", "--worker", self.path]
        words += ["--histories", str(self.histories), "--plan", json.dumps(self.plan.__dict__)]
        words += ["--deadline", repr(deadline), "--seed", str(self.plan.seed * 1000 + self._numbers)]
        with (self.place / f"errors.{self._numbers}").open("wb") as errors:
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=errors)

    def _reap(self, worker: subprocess.Popen[bytes]) -> None:
        if worker.wait() not in (0, -signal.SIGKILL):
            said = "".join(file.read_text(errors="replace")[-3000:] for file in self.place.glob("errors.*"))
            self.wrong.append(f"a worker ended with {worker.returncode}:\n{said[-6000:]}")

    def _strike(self, stopped: list[tuple[float, int]]) -> None:
        what = self.random.choice(["worker", "worker", "creation", "creation", "cancel"])
        if what == "cancel":
            self.counts["cancels"] += 1
            words = [sys.executable, "-m", "dogpile_fs", "cancel", "--kill-after", "0.2s", self.path]
            said = subprocess.run(words, capture_output=True, text=True)
            if said.returncode not in (0, 66, 75, 77) or "Traceback" in said.stderr:
                self.wrong.append(f"cancel ended with {said.returncode}: {said.stderr}")
            return
        found = [worker.pid for worker in self.workers] if what == "worker" else list(_creations_of(self.path))
        if not found:
            return
        pid = self.random.choice(found)
        if self.random.random() < 0.5:
            self.counts[f"{what}s killed"] += 1
            _signal(pid, signal.SIGKILL)
        else:
            self.counts[f"{what}s stopped"] += 1
            _signal(pid, signal.SIGSTOP)
            stopped.append((time.monotonic() + self.random.choice([0.01, 0.1, 0.5]), pid))

    def _wait_for_creations(self) -> None:
        patience = time.monotonic() + PATIENCE
        while left := list(_creations_of(self.path)):
            if time.monotonic() > patience:
                self.wrong.append(f"creations are left: {left}")
                for pid in left:
                    _signal(pid, signal.SIGKILL)
                return
            time.sleep(0.01)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _creations_of(path: str) -> Iterator[int]:
    """Yield the processes, creators and watchdogs, of background creations of *path* that run."""
    word = f"dogpile_fs: creating {path!r}".encode()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):
                if word in Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0"):
                    yield int(name)


# The checker.


@dataclass
class _Creation:
    events: list[Event]

    def event(self, what: str) -> Event | None:
        return next((event for event in self.events if event.what == what), None)

    @property
    def is_in_place(self) -> bool:
        """Whether its process found its version in place, or a later one, when it had released the mutex."""
        over = self.event("over")
        return over is not None and bool(over.more["found"] >= self.version)

    @property
    def pid(self) -> int:
        return int(self.events[0].process.rpartition(".")[2])

    @property
    def version(self) -> int:
        return int(self.events[0].more["version"])


def _violations(round_: Round) -> list[str]:
    operations = operations_in(round_.histories)
    creations = [_Creation(operation.events) for operation in operations if operation.do == "creation"]
    reads = [operation for operation in operations if operation.do == "pass"]
    wrong = [*_crossed(creations), *_wrong_reads([each.event("read") for each in reads], reads)]
    wrong += [f"{each.error}: {each.ended}" for each in operations if each.error]
    plain = Datafile(round_.path, round_.plan.expiretime)
    entries = OfAttempts(f"{plain._dogpile.path}.dogpile.journal", name="the round").entries()
    # Cancelled after the creator had returned; or readers, perhaps stopped ones, did not leave in time.
    excused = {each.pid for each in entries if each.outcome == "died" or each.error_type == "LockTimeout"}
    if (dead := plain._dogpile._record.attempt) is not None:
        excused.add(dead.pid)
    ended_well = [
        each for each in creations if each.event("created") and each.event("over") and each.pid not in excused
    ]
    for creation in ended_well:
        if not creation.is_in_place:
            wrong.append(f"a result was lost: {creation.events[0]} {creation.event('over')}")
    if plain._dogpile.dogpilelock.locked():
        wrong.append("the mutex is locked")
    status = plain.status()
    sure = len(ended_well)
    made = sum(bool(each.event("created")) for each in creations)
    if not sure <= status.generation <= made:
        wrong.append(f"{status.generation} stamps, and from {sure} to {made} creations")
    failed = sum(bool(each.event("raising") and each.event("over")) for each in creations)
    if status.failures_total < failed:
        wrong.append(f"{status.failures_total} failures are told, and there were {failed}")
    wrong += _wrong_journal(entries, creations, ended_well)
    round_.counts.update({"creations": made, "reads": len(reads), "failures": status.failures_total})
    return wrong


def _wrong_journal(entries: list[Entry], creations: list[_Creation], ended_well: list[_Creation]) -> Iterator[str]:
    """The journal tells of each creation that certainly ended well, and of none that was not."""
    told = Counter(entry.pid for entry in entries if entry.outcome == "created")
    made = Counter(each.pid for each in creations if each.event("created"))
    sure = Counter(each.pid for each in ended_well)
    if extra := told - made:
        yield f"the journal tells of creations that no process made: {extra}"
    if entries and entries[-1].number <= SLOTS and (lost := sure - told):
        yield f"the journal does not tell of {lost}: {entries}"


def _crossed(creations: list[_Creation]) -> Iterator[str]:
    inside = ("began", "creating", "still", "raising", "exiting", "created")
    spans = sorted(
        (each.events[0].at, max(event.at for event in each.events if event.what in inside), str(each.events[0]))
        for each in creations
    )
    latest = (0.0, "")
    for began, last, told in spans:
        if began < latest[0]:
            yield f"two creators at a time: {latest[1]}\n{told}"
        latest = max(latest, (last, told))


def _wrong_reads(reads: list[Event | None], operations: Sequence[Any]) -> Iterator[str]:
    found = sorted(
        (
            (event.at, operation.began.at, event)
            for event, operation in zip(reads, operations, strict=True)
            if event
        ),
        key=lambda each: each[0],
    )
    newest: list[tuple[float, int]] = []
    for at, began, event in found:
        if not event.more["whole"]:
            yield f"a torn read: {event}"
        before = bisect_left(newest, (began, 0))
        known = newest[before - 1][1] if before else 0
        if event.more["version"] < known:
            yield f"an older version, after {known} was read: {event}"
        newest.append((at, max(event.more["version"], newest[-1][1] if newest else 0)))


# A worker.


def _work(options: argparse.Namespace) -> None:
    plan = Plan(**json.loads(options.plan))
    if plan.mutant:
        mutants.apply(plan.mutant)
    rng = random.Random(options.seed)
    policy = Policy(
        backoff=Backoff(plan.backoff, 8 * plan.backoff) if plan.backoff else None,
        background=plan.way,
        creator_timeout=_TIMEOUT if plan.way == "process" else None,
    )
    creator = Creator(str(options.histories), options.worker, plan.mutant)
    report = Datafile(
        options.worker, plan.expiretime, creator, policy=policy, readers=plan.readers, durable=False, timeout=0.5
    )
    journal = Journal(options.histories, "worker")
    life = time.monotonic() + rng.uniform(0.5, 4.0)  # then it is recycled
    deeds: dict[str, tuple[float, Callable[[int], None]]] = {
        "pass": (80.0, lambda op: _pass(report, journal, op)),
        "status": (10.0, lambda op: _ignored(report.status())),
        "soft": (1.0, lambda op: report.invalidate()),
        "refresh": (3.0, lambda op: _ignored(report.refresh(timeout=rng.choice([0.01, 2.0])))),
    }
    while time.monotonic() < min(life, options.deadline):
        do = rng.choices(list(deeds), [weight for weight, _ in deeds.values()])[0]
        op = journal.begin(do)
        outcome = {}
        try:
            deeds[do][1](op)
        except (LockTimeout, CreationFailed):
            pass  # nothing is there yet, or its creation took longer
        except OSError as error:
            if isinstance(error, DogpileError) or plan.way == "process" or do != "refresh":
                outcome = {"error": repr(error)}
        except Exception as error:
            outcome = {"error": repr(error)}
        journal.note(op, "ended", **outcome)
        time.sleep(rng.choice([0.0, rng.uniform(0, 0.01)]))


def _pass(report: Datafile, journal: Journal, op: int) -> None:
    with report.open() as file:
        found = parsed(file.read())
    journal.note(op, "read", version=found.version, whole=found.whole)


def _ignored(result: object) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1_000_000))
    parser.add_argument("--rounds", type=int, help="so many, however long that takes")
    parser.add_argument("--mutant", default="")
    parser.add_argument("--keep", action="store_true", help="keep what a round has left, if it violates a promise")
    for name in ("--worker", "--plan"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--histories", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        _work(options)
        return 0
    until, number, found = time.monotonic() + options.seconds, 0, list[str]()
    counts = Counter[str]()
    while (number < options.rounds) if options.rounds else (time.monotonic() < until):
        plan = Plan.by(options.seed + number)
        plan.mutant = options.mutant
        place = Path(tempfile.mkdtemp(prefix="dogpile-round-"))
        round_ = Round(plan, place)
        wrong = round_.run()
        if not (wrong and options.keep):
            shutil.rmtree(place, ignore_errors=True)
        print(f"{plan}: {len(wrong) or 'no'} violations", flush=True)
        for violation in wrong[:5]:
            print(f"{violation}\n", flush=True)
        counts += round_.counts
        found += [f"{plan}: {violation}" for violation in wrong]
        number += 1
    summary = {"seed": options.seed, "rounds": number, **dict(sorted(counts.items()))}
    print("RESULT " + json.dumps({**summary, "violations": [text[:300] for text in found[:20]]}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
