"""One trial: two hosts of two workers each, an origin, one fault, and the judge."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from dogpile_fs._dogpile.head import Head, decode_head
from dogpile_fs.origin import UNCHANGED, Down, Engine, Origin
from tests.support import servers

from ..history import Journal, operations_in
from . import namespace
from .judge import violations
from .namespace import Namespace
from .proxy import Proxy
from .steps import order, taken_by
from .tale import Tale, tale_of
from .worker import TTL

__all__ = ["HOSTS", "ROOM", "Host", "Report", "Trial", "Worker", "run_trial"]

T = TypeVar("T")
HOSTS, _WORKERS = ("h1", "h2"), 2
#: Bytes of a version: more than one page, so that a torn one shows; and where files may not grow beyond
#: ``ROOM`` bytes, which histories never need.
_SIZE, _LARGE, ROOM = 64 * 1024, 3 * 1024 * 1024, 2 * 1024 * 1024
#: Seconds that a trial waits for what must come. A bound on hanging.
_PATIENCE = 60.0
#: Seconds after which all hosts must have one version, when the fault is over: longer than the longest pause
#: between two questions to an origin that was down, with a creation and the ttl of a dead one.
_SETTLES = 45.0
#: Seconds for which all workers must have the same version, to have settled.
_STILL = 1.0
#: Seconds in which a worker ends what it reads.
_ENDS = 10.0
#: Seconds of the run before the fault, and after it.
_BEFORE, _AFTER = 0.5, 1.0
_LOOK = 0.01
#: Seconds by which the clock of one host is fast, and that of the other slow, where that is the fault.
_SKEW = 30.0


class Worker:
    """A process of a host."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes]) -> None:
        self.name, self.popen = name, popen

    @property
    def process(self) -> str:
        """The name of its history."""
        return f"{self.name}.{self.popen.pid}"

    @property
    def is_alive(self) -> bool:
        return self.popen.poll() is None


class Host:
    """A host. *reach*: the proxy through which it reaches its server, or the symbolic link to the shared
    directory. *clock*: seconds by which its clock is wrong. *network*: its namespace, if it has one.
    """

    def __init__(
        self, name: str, directory: Path, reach: Proxy | Path, clock: float, network: Namespace | None
    ) -> None:
        self.name, self.directory, self.reach, self.clock = name, directory, reach, clock
        self.network = network
        self.workers: list[Worker] = []
        self._is_down = False

    def cut(self, *, is_silent: bool) -> None:
        """Cut it off. *is_silent*: packets vanish, else connections are refused."""
        if not isinstance(self.reach, Proxy):
            self.reach.rename(self.reach.with_suffix(".away"))
        elif is_silent and self.network is not None:
            self.network.cut()
            self._is_down = True
        else:
            self.reach.cut(is_silent=is_silent)

    def mend(self) -> None:
        if not isinstance(self.reach, Proxy):
            self.reach.with_suffix(".away").rename(self.reach)
        elif self.network is not None and self._is_down:
            self.network.mend()
            self._is_down = False
        else:
            self.reach.mend()


class Report:
    """What came of a trial."""

    def __init__(self, tale: Tale, found: list[str], root: Path) -> None:
        self.tale, self.violations, self.root = tale, found, root

    @property
    def counts(self) -> dict[str, int]:
        named = {each.tells.sha for each in self.tale.requests if each.tells is not None and each.tells.sha}
        fenced = sum(creation.is_fenced for creation in self.tale.creations)
        return {
            "reads": len(self.tale.reads),
            "creations": len(self.tale.creations),
            "versions": len(named),
            "fenced": fenced,
            "errors": sum(bool(read.error) for read in self.tale.reads),
        }


class Trial:
    """The stage of a fault."""

    def __init__(self, kind: str, fault: str, seed: int, *, mutant: str, root: Path) -> None:
        self.kind, self.root, self.seed, self.random = kind, root, seed, random.Random(seed)
        self.control, histories = root / "control", root / "histories"
        for each in (self.control, histories, root / "mnt"):
            each.mkdir()
        self.journal = Journal(histories, "trial")
        self.mutant, self.is_careless = mutant, fault == "unfit"
        self.size = _LARGE if fault == "full" else _SIZE
        clock = self.random.choice([-1, 1]) * _SKEW if fault == "clocks" else 0.0
        self._name, self._started = secrets.token_hex(4), Counter[str]()
        self.server = _server(kind, self.is_careless)
        self._mounted: list[Path] = []
        self._relays: list[Proxy] = []
        self.has_small_disk = False
        self.hosts = []
        for name in HOSTS:
            directory = root / name
            directory.mkdir()
            if fault == "full" and name == HOSTS[-1]:
                self.has_small_disk = self._mount_small_disk(directory)
            ahead = clock if name == HOSTS[0] else -clock
            has_network = self.server is not None and namespace.can_be_made()
            network = Namespace() if has_network else None
            self.hosts.append(Host(name, directory, self._reach(name, network), ahead, network))
        self.environment = self._environment(0 if self.server is None else self.server.port)
        self._before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)  # for the trial's own look at the origin
        self.origin = Origin(self._url(None))
        self.engine: Engine = self.origin._engine()

    def _reach(self, name: str, network: Namespace | None) -> Proxy | Path:
        if self.server is None:
            link = self.root / f"{name}.mnt"
            link.symlink_to(self.root / "mnt")
            return link
        is_http, seed, port = self.kind in ("s3", "az", "rgw"), self.random.randrange(1 << 30), self.server.port
        if network is None:
            return Proxy(port, is_http=is_http, seed=seed)
        # The servers listen to loopback alone, as their clients want it of a server without TLS.
        relay = Proxy(port, is_http=False, seed=seed, listens=network.outer)
        self._relays.append(relay)
        return Proxy(relay.port, is_http=is_http, seed=seed, server=network.outer, namespace=network)

    def _environment(self, port: int) -> dict[str, str]:
        if self.kind in ("s3", "rgw"):
            return {**servers.ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        return servers.azure_environment(port) if self.kind == "az" else {}

    def _url(self, host: Host | None) -> str:
        if self.kind == "directory":
            mount = self.root / "mnt" if host is None else host.reach
            return f"{mount}/{self._name}"
        if self.kind in ("s3", "az", "rgw"):
            return f"{'s3' if self.kind == 'rgw' else self.kind}://tests/{self._name}"
        assert self.server is not None
        port = self.server.port if host is None else self._port(host)
        return f"redis://127.0.0.1:{port}/0/{self._name}"

    def _port(self, host: Host) -> int:
        assert isinstance(host.reach, Proxy)
        return host.reach.port

    def start(self, host: Host) -> None:
        """Start the workers of *host*."""
        host.workers.clear()
        self.add_workers(host, _WORKERS)

    def add_workers(self, host: Host, number: int) -> None:
        """Start so many more workers of *host*."""
        own = {} if self.server is None else self._environment(self._port(host))
        for _ in range(number):
            self._started[host.name] += 1
            name = f"{host.name}w{self._started[host.name]}"
            words = [] if host.network is None else host.network.command
            words = [*words, sys.executable, "-m", f"{__package__}.worker", "--name", name]
            words += ["--directory", str(host.directory), "--control", str(self.control)]
            words += ["--histories", str(self.journal.directory), "--url", self._url(host)]
            words += ["--clock", str(host.clock), "--size", str(self.size), "--mutant", self.mutant]
            with open(self.root / f"{name}.log", "wb") as log:
                popen = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **own},
                    process_group=0,
                )
            host.workers.append(Worker(name, popen))

    def run(self, strike: Callable[[Trial], None]) -> Report:
        """Have all hosts run, *strike*, and judge."""
        has_settled = True
        try:
            for host in self.hosts:
                self.start(host)
            if self.is_careless:
                self.wait(self._answered, "an answer to each worker")
            else:
                self.wait(self._has_begun, "the second version")
                self.rest(_BEFORE)
                strike(self)
                self.rest(_AFTER)
                (self.control / "settle").touch()
                has_settled = self._settled()
        finally:
            self.end()
        operations = operations_in(self.journal.directory)
        tale = tale_of(operations, ttl=TTL, is_unfit=self.is_careless, has_settled=has_settled)
        return Report(tale, violations(tale), self.root)

    def end(self) -> None:
        """End all processes that this trial has started."""
        (self.control / "end").touch()
        for worker in self.workers():
            with suppress(ProcessLookupError):
                os.kill(worker.popen.pid, signal.SIGCONT)
        for worker in self.workers():
            try:
                worker.popen.wait(_ENDS)
            except subprocess.TimeoutExpired:
                worker.popen.kill()
                worker.popen.wait()
        self.engine.close()
        for host in self.hosts:
            if isinstance(host.reach, Proxy):
                host.reach.close()
            if host.network is not None:
                host.network.remove()
        for relay in self._relays:
            relay.close()
        if self.server is not None and (self.kind == "redis" or self.is_careless):
            self.server.end()
        for each in self._mounted:
            subprocess.run(["umount", each], check=True)
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    # What faults ask and do.

    def workers(self) -> list[Worker]:
        return [worker for host in self.hosts for worker in host.workers if worker.is_alive]

    def host_of(self, worker: Worker) -> Host:
        return next(host for host in self.hosts if worker in host.workers)

    def others(self, host: Host) -> Host:
        """Return the other host."""
        return next(each for each in self.hosts if each is not host)

    def rest(self, seconds: float) -> None:
        """Have the hosts run for so long; it is no condition that is waited for."""
        time.sleep(seconds)

    def wait(self, condition: Callable[[], T | None], what: str, patience: float = _PATIENCE) -> T:
        """Wait until *condition* returns something true, and return it."""
        deadline = time.monotonic() + patience
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} within {patience} s, in {self.root}")
            time.sleep(_LOOK)
        return found

    def head(self) -> Head | None:
        """Return the head of the origin as it is; ``None`` without one, or if there is no answer."""
        try:
            found = self.engine.read()
        except Down:
            return None
        return None if found is None or found == UNCHANGED else decode_head(found[0])

    def creating(self, *, on: Host | None = None) -> Worker:
        """Wait until a worker creates, and return it. *on*: of this host."""

        def found() -> Worker | None:
            head = self.head()
            attempt = None if head is None else head.record.attempt
            workers = self.workers() if on is None else [each for each in on.workers if each.is_alive]
            return next((each for each in workers if attempt and each.popen.pid == attempt.pid), None)

        return self.wait(found, "creation")

    def reached(self, step: str, what: str) -> Worker:
        """Wait until a worker has come to *step* of the protocol, and was ``killed`` or ``stopped`` there."""
        order(self.control, step, what)
        process = self.wait(lambda: taken_by(self.control, step), f"process at the step {step}")
        worker = next(each for host in self.hosts for each in host.workers if each.process == process)
        if what == "stopped":  # which it is a little later: a SIGCONT that came first would be in vain
            stat = Path(f"/proc/{worker.popen.pid}/stat")
            self.wait(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "stop of that process")
        return worker

    def next_version(self, patience: float = _PATIENCE) -> None:
        """Wait until another version is published.

        :raises AssertionError: if that takes longer than *patience*.
        """
        before = self.head()
        known = None if before is None else (before.lineage, before.record.generation)

        def is_there() -> bool:
            head = self.head()
            return head is not None and head.blob is not None and (head.lineage, head.record.generation) != known

        self.wait(is_there, "version", patience)

    @contextmanager
    def harm(self, what: str, worker: Worker | None = None) -> Iterator[None]:
        """A block in which harm is done, as the judge is told."""
        op = self.journal.begin("harm", harm=what, of="" if worker is None else worker.process)
        yield
        self.journal.note(op, "ended")

    def _mount_small_disk(self, directory: Path) -> bool:
        """Mount a file system of the size of a few versions at *directory*; return whether this user may."""
        options = f"size={6 * self.size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", directory], capture_output=True)
        self._mounted += [directory] if done.returncode == 0 else []
        return done.returncode == 0

    def _has_begun(self) -> bool:
        dead = [each for host in self.hosts for each in host.workers if not each.is_alive]
        if dead:
            log = (self.root / f"{dead[0].name}.log").read_text(errors="replace")
            raise AssertionError(f"{dead[0].name} has ended: {log[-2000:]}")
        head = self.head()
        has_replicas = all((host.directory / "report").exists() for host in self.hosts)
        return has_replicas and head is not None and head.record.generation >= 2

    def _answered(self) -> bool:
        told = {op.process for op in operations_in(self.journal.directory) if op.do == "read" and op.ended}
        return all(worker.process in told for worker in self.workers())

    def _settled(self) -> bool:
        deadline, since, last = time.monotonic() + _SETTLES, time.monotonic(), ""
        while time.monotonic() < deadline:
            found = {self._at(worker) for worker in self.workers()}
            one = found.pop() if len(found) == 1 else ""
            if not one or one != last:
                since, last = time.monotonic(), one
            elif time.monotonic() > since + _STILL:
                return True
            time.sleep(_LOOK)
        return False

    def _at(self, worker: Worker) -> str:
        with suppress(FileNotFoundError):
            return (self.control / f"at.{worker.process}").read_text()
        return ""


def _server(kind: str, is_careless: bool) -> servers.Server | None:
    if is_careless:
        port = servers.free_port()
        command = [sys.executable, "-m", f"{__package__}.careless", str(port)]
        directory = tempfile.mkdtemp(prefix="careless-")
        # The module is found from the directory of the tests.
        os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[3]))
        return servers.Server(command, port, directory)
    if kind == "redis":
        return servers.new_redis()  # of its own: it is restarted, and set back
    if kind in ("az", "rgw"):
        return servers.azurite() if kind == "az" else servers.rgw()
    return servers.moto() if kind == "s3" else None


def run_trial(kind: str, fault: str, seed: int, *, mutant: str = "", root: Path | None = None) -> Report:
    """Run one trial, and return what came of it. Its files stay only if *root* is given, or if the judge objects.

    :param kind: of the origin: ``directory``, ``redis``, ``s3``, ``az`` or ``rgw``.
    :param fault: one of :data:`.faults.FAULTS`.
    """
    from .faults import FAULTS

    given, root = root, Path(tempfile.mkdtemp(prefix=f"hosts-{kind}-{fault}-", dir=root))
    report = Trial(kind, fault, seed, mutant=mutant, root=root).run(FAULTS[fault].strike)
    if given is None and not report.violations:
        shutil.rmtree(root, ignore_errors=True)
    return report
