"""A fleet of simulated hosts with one origin: the library's own code, in one process, in simulated time.

Each host has a directory of its own, and its processes have objects of their own, as in a real fleet. The origin
is a register in memory that counts what it is asked. Hosts pass, ask, create, fetch and publish; some are cut off,
some creators are stopped beyond the ttl, clocks differ, answers are lost. The judge looks at each head that the
register had, and at each read.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dogpile_fs import Datafile, DogpileError, Event, Origin
from dogpile_fs._dogpile.conformance import _FIT
from dogpile_fs._dogpile.engine import Sink
from dogpile_fs._dogpile.head import Head, decode_head
from dogpile_fs.origin import UNCHANGED, Down, Engine, Gone, Lost

from .simulation import SimulatedProcess, Simulation, simulated

__all__ = ["Fleet", "Result", "Settings", "measure", "run_fleet"]

T = TypeVar("T")
_URL = "simulated://fleet/report"
#: Seconds that a request is on its way, and its answer.
_LATENCY = 0.001, 0.015
#: Seconds that a creator runs.
_CREATION = 1.0, 3.0
#: Seconds by which clocks are wrong at most; the origin's too.
_SKEW = 30.0
#: Seconds that a pass takes at most which neither creates nor fetches: for one question without an answer; and
#: that of the caller that was elected, and has asked when its host was cut off.
_PASS, _ELECTED = 0.6, 6.0
#: Seconds after an expiry within which another host has published, if nothing has disturbed that.
_LATE = 10.0
#: The part of all answers to writes that are lost, of creators that are stopped or cut off, and the mean number of
#: other hosts that are cut off in each lifetime, of a hundred.
_LOST, _STOPPED, _CUT_OFF, _CUTS = 0.01, 0.3, 0.2, 5.0
#: Seconds for which a caller without a version waits.
_PATIENCE = 60.0
#: Seconds that the longest pause between two questions to an origin that was down takes.
_BACKOFF = 10.0


@dataclass(frozen=True)
class Settings:
    """*workers*: processes of each host; *lifetimes*: how long it runs; *every*: seconds between two passes of a
    process. *is_disturbed*: whether there are pauses, cuts and lost answers.
    """

    hosts: int
    workers: int
    seed: int
    is_disturbed: bool = False
    lifetimes: int = 4
    expiretime: float = 60.0
    check: float | None = None
    ttl: float = 10.0
    every: float = 1.0

    @property
    def seconds_between_checks(self) -> float:
        return Origin(_URL, check=self.check)._check_after(self.expiretime)


@dataclass
class Result:
    """What came of a run. *requests*: by kind, as the register has seen them; *later*: those after the first
    lifetime; *busiest*: of those, in the busiest second, and *busiest_writes* as many writes. *violations*: what
    breaks a promise.
    """

    settings: Settings
    requests: dict[str, int] = field(default_factory=dict)
    versions: int = 0
    creations: int = 0
    fenced: int = 0
    reads: int = 0
    later: int = 0
    busiest: int = 0
    busiest_writes: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def per_version(self) -> dict[str, float]:
        each = max(1, self.versions) * self.settings.hosts
        return {kind: round(count / each, 2) for kind, count in self.requests.items()}

    @property
    def per_second_and_host(self) -> float:
        """Requests from the second lifetime on: in the first one all hosts begin."""
        return self.later / self.settings.hosts / self.settings.expiretime / (self.settings.lifetimes - 1)

    @property
    def beside_checks(self) -> float:
        """Requests for each version and host beyond one each *check*."""
        settings = self.settings
        return (
            self.per_second_and_host * settings.expiretime - settings.expiretime / settings.seconds_between_checks
        )

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "per_version_and_host": self.per_version,
            "per_second_and_host": round(self.per_second_and_host, 4),
        }


class SimulatedHost:
    """*clock*: seconds by which it is fast. *cut_until*: it is cut off until then."""

    def __init__(self, name: str, directory: Path, clock: float) -> None:
        self.name, self.directory, self.clock = name, directory, clock
        self.cut_until = 0.0
        directory.mkdir()


class Register:
    """The server. *heads*: each that it had, since when, its tag, and the process that wrote it."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.value: bytes | None = None
        self.tag = ""
        self.blobs: dict[str, tuple[bytes, float]] = {}
        self.heads: list[tuple[float, str, Head, SimulatedProcess]] = []
        self.requests = Counter[str]()
        self.seconds = Counter[int]()
        self.writes = Counter[int]()

    def count(self, kind: str) -> None:
        self.requests[kind] += 1
        second = int(self.fleet.simulation.now)
        self.seconds[second] += 1
        self.writes[second] += kind in ("replaced", "refused", "blob stored")


class _Client:
    """The engine of one process: what it asks is on its way for a while, and may get lost."""

    def __init__(self, register: Register) -> None:
        self._register, self._fleet = register, register.fleet

    def read(self, known: str = "", *, seconds: float = 5.0) -> Any:
        def answer() -> Any:
            value, tag = self._register.value, self._register.tag
            if value is None:
                return "head read", None
            return ("head unchanged", UNCHANGED) if tag == known else ("head read", (value, tag))

        return self._ask(answer, seconds)

    def swap(self, value: bytes, tag: str | None) -> str:
        def answer() -> tuple[str, str]:
            register, process = self._register, self._process
            if (register.tag or None) != tag:
                return "refused", ""
            register.value, register.tag = value, secrets.token_hex(8)
            head = decode_head(value)
            register.heads.append((self._fleet.simulation.now, register.tag, head, process))
            self._fleet.saw(head, process)
            return "replaced", register.tag

        new = self._ask(answer, 5.0, writes=True)
        if not new:
            raise Lost("the tag is another one")
        return new

    def discard(self) -> None:
        raise NotImplementedError

    def now(self) -> float:
        fleet = self._fleet
        return self._ask(lambda: ("clock", fleet.true_time() + fleet.clock), 5.0)

    def put(self, name: str, path: str) -> None:
        contents = Path(path).read_bytes()

        def answer() -> tuple[str, None]:
            self._register.blobs[name] = contents, self._fleet.simulation.now
            return "blob stored", None

        self._ask(answer, 300.0, writes=True)

    def get(self, name: str, file: Sink, size: int) -> None:
        def answer() -> tuple[str, bytes | None]:
            return "blob read", self._register.blobs.get(name, (None,))[0]

        contents = self._ask(answer, 300.0, writes=True)
        if contents is None:
            raise Gone(name)
        file.write(contents)

    def blobs(self) -> Iterator[tuple[str, float]]:
        now = self._fleet.simulation.now
        return iter([(name, now - since) for name, (_, since) in self._register.blobs.items()])

    def remove(self, name: str) -> None:
        self._register.blobs.pop(name, None)

    def close(self) -> None:
        pass

    @property
    def _process(self) -> SimulatedProcess:
        process = self._fleet.simulation.process
        assert process is not None
        return process

    def _ask(self, answer: Callable[[], tuple[str, T]], seconds: float, *, writes: bool = False) -> T:
        simulation, process = self._fleet.simulation, self._process
        process.has_worked |= writes
        began = simulation.now
        self._travel(began, seconds)
        kind, said = answer()
        self._register.count(kind)
        if self._fleet.is_disturbed and writes and simulation.random.random() < _LOST:
            self._time_out(began, seconds)
        self._travel(began, seconds)
        return said

    def _travel(self, began: float, seconds: float) -> None:
        simulation, host = self._fleet.simulation, self._process.host
        simulation.sleep(simulation.random.uniform(*_LATENCY))
        if host.cut_until > simulation.now:
            self._time_out(began, seconds)

    def _time_out(self, began: float, seconds: float) -> None:
        simulation = self._fleet.simulation
        simulation.sleep(min(5.0, seconds) + began - simulation.now)
        raise Down("there is no answer")


class _Fit:
    """What the origin has beside the head: that it was tried, and found to be fit."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def now(self) -> float:
        return self._client.now()

    def read(self, known: str = "", *, seconds: float = 5.0) -> tuple[bytes, str]:
        return self._client._ask(lambda: ("fitness read", (json.dumps(_FIT).encode(), "1")), seconds)


class Fleet:
    """The hosts of one run."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.settings = settings
        self.simulation = simulation = Simulation(settings.seed)
        self.is_disturbed = settings.is_disturbed
        skew = _SKEW if settings.is_disturbed else 1.0
        self.clock = simulation.random.uniform(-skew, skew)
        self.register = Register(self)
        self.hosts = [
            SimulatedHost(f"h{number}", directory / f"h{number}", simulation.random.uniform(-skew, skew))
            for number in range(settings.hosts)
        ]
        self.processes = [
            SimulatedProcess(f"{host.name}w{number}", host)
            for host in self.hosts
            for number in range(settings.workers)
        ]
        self.result = Result(settings)
        #: By the SHA-256 of its contents: which process has created a version, and when.
        self.created: dict[str, tuple[SimulatedProcess, float]] = {}
        #: The number of each version's head, by the SHA-256 of its contents.
        self.published: dict[str, int] = {}
        #: For each process what it has read last, and when.
        self.last_read: dict[SimulatedProcess, tuple[str, float]] = {}

    def run(self) -> Result:
        settings, simulation = self.settings, self.simulation

        def make(origin: Origin) -> Engine:
            engine: Engine = self._engine(origin)
            return engine

        with simulated(simulation), pytest.MonkeyPatch.context() as patch:
            patch.setattr(Origin, "_engine", make)
            for process in self.processes:
                self._start(process)
            if settings.is_disturbed:
                simulation.spawn(self._cut_hosts_off, None)
            simulation.run(settings.lifetimes * settings.expiretime)
            self.is_disturbed = False
            if settings.is_disturbed:
                simulation.run(2 * settings.expiretime)
        self._judge()
        return self.result

    def true_time(self) -> float:
        """Return the wall-clock time of the process that runs, less what its clock is wrong by."""
        process = self.simulation.process
        wrong: float = 0.0 if process is None else process.host.clock
        return self.simulation.time() - wrong

    def _engine(self, origin: Origin) -> Any:
        client = _Client(self.register)
        return _Fit(client) if origin.url.endswith("/conformance") else client

    def _start(self, process: SimulatedProcess) -> None:
        settings, simulation = self.settings, self.simulation
        origin = Origin(_URL, ttl=settings.ttl, check=settings.check)

        def create(target: str) -> None:
            process.has_worked = True
            contents = f"{process.name} {simulation.random.random()}".encode()
            self.created[hashlib.sha256(contents).hexdigest()] = process, simulation.now
            self.result.creations += 1
            simulation.sleep(simulation.random.uniform(*_CREATION))
            Path(target).write_bytes(contents)

        report = Datafile(
            process.host.directory / "report",
            settings.expiretime,
            create,
            origin=origin,
            timeout=_PATIENCE,
            durable=False,
            on_event=lambda event: self._note(process, event),
        )

        def work() -> None:
            simulation.sleep(simulation.random.uniform(0.0, settings.every))
            while True:
                self._read(process, report)
                simulation.sleep(simulation.random.uniform(0.5, 1.5) * settings.every)

        simulation.spawn(work, process)

    def _read(self, process: SimulatedProcess, report: Datafile) -> None:
        began, process.has_worked, process.was_stopped = self.simulation.now, False, False
        had_one = process in self.last_read
        try:
            sha = hashlib.sha256(report.load(_contents)).hexdigest()
        except DogpileError as error:
            if had_one:
                self._object(f"{process.name} got {type(error).__name__}: {error}")
            return
        self.result.reads += 1
        took = self.simulation.now - began
        longest = _ELECTED if self.settings.is_disturbed else _PASS
        if had_one and took > longest and not process.has_worked and not process.was_stopped:
            self._object(f"{process.name} has waited for {took:.2f} s")
        published, before = self.published, self.last_read.get(process)
        if sha not in published:
            self._object(f"{process.name} has read what was not published")
            return
        if before is not None and published[before[0]] > published[sha]:
            self._object(f"{process.name} has read an earlier version after a later one")
        self.last_read[process] = sha, self.simulation.now

    def _note(self, process: SimulatedProcess, event: Event) -> None:
        if event.kind == "failed":
            self._object(f"a creation of {process.name} has failed: {event.error}")

    def _object(self, what: str) -> None:
        self.result.violations.append(f"at {self.simulation.now:.2f}: {what}")

    def saw(self, head: Head, process: SimulatedProcess) -> None:
        """Note a head that the register has now. Disturb the process that has begun a creation, if chance has
        it."""
        if head.blob is not None:
            self.published.setdefault(head.blob.name, len(self.published))
        if not self.is_disturbed or not head.attempt or head.beat:
            return
        simulation, chance = self.simulation, self.simulation.random.random()

        def disturb() -> None:
            simulation.sleep(simulation.random.uniform(0.0, _CREATION[1]))
            until = simulation.now + simulation.random.uniform(0.5, 3.0) * self.settings.ttl
            if chance < _STOPPED:
                process.stopped_until = until
            else:
                process.host.cut_until = until

        if chance < _STOPPED + _CUT_OFF:
            simulation.spawn(disturb, None)

    def _cut_hosts_off(self) -> None:
        simulation, mean = self.simulation, self.settings.expiretime / (_CUTS / 100 * len(self.hosts))
        while self.is_disturbed:
            simulation.sleep(simulation.random.expovariate(1 / mean))
            host = simulation.random.choice(self.hosts)
            host.cut_until = max(host.cut_until, simulation.now + simulation.random.uniform(1.0, 40.0))

    def _judge(self) -> None:
        register, settings, result = self.register, self.settings, self.result
        result.requests = dict(sorted(register.requests.items()))
        later = range(int(settings.expiretime), int(settings.lifetimes * settings.expiretime))
        result.later = sum(register.seconds[second] for second in later)
        result.busiest = max(register.seconds[second] for second in later)
        result.busiest_writes = max(register.writes[second] for second in later)
        published = self._judge_heads()
        result.versions = len(published)
        shas = [head.blob.name for _, head in published if head.blob]
        for number, (at, _) in enumerate(published[1:], 1):
            before = published[number - 1][0]
            began = self.created[shas[number]][1]
            if began < before + settings.expiretime - 0.01:
                result.violations.append(
                    f"the creation that was published at {at:.2f} began {began - before:.2f} s after the last one"
                )
            if not settings.is_disturbed and at > before + settings.expiretime + _LATE:
                result.violations.append(f"the version at {at:.2f} came {at - before:.2f} s after the last one")
        if len(set(shas)) != len(shas):
            result.violations.append("a version was published twice")
        # A creation that has ended, or was stopped, without being published: it was fenced.
        result.fenced = sum(
            sha not in shas and began < self.simulation.now - _LATE for sha, (_, began) in self.created.items()
        )
        if not settings.is_disturbed and result.fenced:
            result.violations.append(f"{result.fenced} creations were for nothing")
        self._judge_ends(published)

    def _judge_heads(self) -> list[tuple[float, Head]]:
        """Return the publications; the heads must follow each other as the protocol says."""
        published, violations = list[tuple[float, Head]](), self.result.violations
        owners: dict[str, SimulatedProcess] = {}
        last: tuple[float, str, Head, SimulatedProcess] | None = None
        for at, tag, head, process in self.register.heads:
            before = None if last is None else last[2]
            if head.attempt:
                owners.setdefault(head.attempt, process)
            generation = 0 if before is None else before.record.generation
            if head.record.generation != generation:
                published.append((at, head))
                if head.record.generation != generation + 1:
                    violations.append(f"generation {head.record.generation} follows {generation}, at {at:.2f}")
                if before is not None and owners.get(before.attempt) is not process:
                    violations.append(f"{process.name} has published at {at:.2f} without an attempt on record")
            if before is not None and before.attempt and head.attempt != before.attempt:
                assert last is not None
                owner = owners[before.attempt]
                if owner is not process and at < last[0] + self.settings.ttl:
                    violations.append(f"{process.name} took over from {owner.name} after {at - last[0]:.2f} s")
            if before is not None and head.lineage != before.lineage:
                violations.append(f"{process.name} has begun another lineage at {at:.2f}")
            last = at, tag, head, process
        return published

    def _judge_ends(self, published: list[tuple[float, Head]]) -> None:
        """At the end, each process has read the last version, or the one that it followed a moment ago."""
        settings, now = self.settings, self.simulation.now
        bound = (
            settings.seconds_between_checks
            + 2 * settings.every
            + 1.0
            + (_BACKOFF if settings.is_disturbed else 0.0)
        )
        followed = {head.blob.name: at for (_, head), (at, _) in pairwise(published) if head.blob}
        for process in self.processes:
            sha, at = self.last_read.get(process, ("", 0.0))
            if not sha:
                self.result.violations.append(f"{process.name} has read nothing")
            elif now - at > bound + _CREATION[1] + settings.ttl:
                self.result.violations.append(f"{process.name} has read nothing since {at:.2f}")
            elif followed.get(sha, now) + bound < at:
                self.result.violations.append(
                    f"{process.name} has read a version that was followed at {followed[sha]:.2f}"
                )


def _contents(file: Any) -> bytes:
    contents: bytes = file.read()
    return contents


def run_fleet(settings: Settings) -> Result:
    """Run one fleet, in a directory in memory where there is one."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = tempfile.mkdtemp(prefix="fleet-", dir=memory)
    try:
        return Fleet(settings, Path(directory)).run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


#: Processes of each host where the number of hosts varies, and the numbers of processes where that varies.
_WORKERS, _MANY_WORKERS = 4, (1, 2, 4, 8, 16)
#: Hosts of the large fleet that the figures are extrapolated to.
_LARGE = 10_000
#: Seconds of the check with real processes, and its fleets: how many hosts, of how many processes.
_REAL_SECONDS, _REAL = 20.0, ((8, 1), (4, 2), (2, 4))


def measure(hosts: int, seed: int, disturbed: int, root: Path) -> dict[str, Any]:
    """Run fleets of up to *hosts* hosts, the same with more and more processes, *disturbed* ones, and real ones.

    :returns: what came of all, as JSON has it.
    """
    from .real_fleet import run_real_fleet

    few = max(2, hosts // 8)
    by_hosts = [_told(Settings(number, _WORKERS, seed)) for number in (few, hosts // 4, hosts // 2, hosts)]
    by_workers = [_told(Settings(few, workers, seed)) for workers in _MANY_WORKERS]
    stricken = [_told(Settings(hosts, 2, seed + number, is_disturbed=True)) for number in range(disturbed)]
    real = []
    for kind in ("redis", "s3"):
        for number, workers in _REAL:
            try:
                real.append(run_real_fleet(kind, number, workers, _REAL_SECONDS, root))
            except pytest.skip.Exception as reason:
                print(f"real processes over {kind}: skipped: {reason}", flush=True)
                continue
            print(f"real processes: {real[-1]}", flush=True)
    return {
        "seed": seed,
        "by_hosts": [each.as_json() for each in by_hosts],
        "by_workers": [each.as_json() for each in by_workers],
        "disturbed": [each.as_json() for each in stricken],
        "real": real,
        "extrapolated": _extrapolated([*by_hosts, *by_workers]),
    }


def _extrapolated(results: list[Result]) -> dict[str, Any]:
    """Return what a large fleet asks by the worst of all *results*: requests go with the hosts alone."""
    settings = results[0].settings
    return {
        "hosts": _LARGE,
        "expiretime": settings.expiretime,
        "check": settings.seconds_between_checks,
        "requests_per_second": round(_LARGE * max(each.per_second_and_host for each in results)),
        "requests_in_the_busiest_second": round(
            _LARGE * max(each.busiest / each.settings.hosts for each in results)
        ),
        "writes_in_the_busiest_second": round(
            _LARGE * max(each.busiest_writes / each.settings.hosts for each in results)
        ),
        "requests_per_version_and_host_beside_checks": round(max(each.beside_checks for each in results), 2),
    }


def _told(settings: Settings) -> Result:
    result = run_fleet(settings)
    print(
        f"{settings.hosts} hosts of {settings.workers}{', disturbed' if settings.is_disturbed else ''}: "
        f"{result.versions} versions of {result.creations} creations, {sum(result.requests.values())} requests, "
        f"{result.per_second_and_host:.3f} each second and host, {result.busiest} in the busiest second; "
        f"{len(result.violations)} violations",
        flush=True,
    )
    for each in result.violations[:10]:
        print(f"    {each}", flush=True)
    return result
