"""The demo's worker processes: each reads one shared datafile again and again, and tells its parent what it does.

They are forked, as gunicorn's are. What they tell comes through one pipe, a line per event in one ``write`` each.
A second pipe is their lifeline: its other end is the parent's alone. What comes through it lets them begin, and by
its closing they see that he wants them to end, or that he is no more.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import select
import signal
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess

from ..._datafile.datafile import Datafile
from .timeline import Event, Outcome, What

__all__ = ["Crew", "Plan"]

#: The datafile: a header (version and checksum of the rest), and so many parts of so many bytes.
_PARTS, _SIZE = 8, 4096
_HEADER = len(b"%08d %032x\n" % (0, 0))

_READ = (0.10, 0.30)
_PAUSE = (0.05, 0.20)
#: What a creation may take beyond its own time, with the swap and a read after it.
_SLACK = 0.5
#: How long to wait for what must come.
_PATIENCE = 10.0
#: What is sent to each worker, for all to begin together: when they do (monotonic clock).
_GO = struct.Struct("d")

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the demo shall show. All times in seconds."""

    workers: int = 8
    seconds: float = 12.0
    expiretime: float = 1.5
    #: What a creation takes, but for the swap.
    build: float = 0.7

    @property
    def kills(self) -> bool:
        """Whether a worker is to die; there must be others to take over."""
        return self.workers > 2

    def may_kill(self, at: float) -> bool:
        """Whether who begins to create a later version *at* that time is killed in the middle of it, if he is the
        first of them."""
        return self.kills and self.seconds / 3 < at < self.seconds - 2 * self.build - _SLACK

    def is_too_late_to_create(self, at: float) -> bool:
        """Whether a creation that begins *at* that time might not end within the demo."""
        return at > self.seconds - self.build - _SLACK


class _Worker:
    """What runs in one of the processes, as number *number*."""

    def __init__(self, plan: Plan, directory: str, number: int, events: int, lifeline: int) -> None:
        self.plan = plan
        self.number = number
        self.began = 0.0
        self.events = events
        self.lifeline = lifeline
        self.random = random.Random()
        self.version = 0
        self.created = False
        self.killed_mark = os.path.join(directory, "killed")
        self.datafile = Datafile(
            os.path.join(directory, "datafile"),
            plan.expiretime,
            self.create,
            validate=self.validate,
            readers=True,
        )

    def run(self) -> None:
        os.write(self.events, b"\n")  # ready
        go = os.read(self.lifeline, _GO.size)
        if not go:
            return
        (self.began,) = _GO.unpack(go)
        while self.now() < self.plan.seconds:
            self.tell("asks")
            before = self.datafile.status()
            if before.state == "stale" and not before.creating and self.plan.is_too_late_to_create(self.now()):
                break
            self.created = False
            with self.datafile.acquire() as path:
                header, _ = _part(path, 0)
                version = int(header[:8])
                outcome: Outcome = "stale"
                if self.created:
                    outcome = "created"
                elif before.state == "nothing":
                    outcome = "waited"
                elif before.state == "fresh" or version > before.generation:
                    outcome = "fresh"  # it may have become so while this worker waited for the swap
                age = self.datafile.status().age if self.created else None
                self.tell("reads", version=version, outcome=outcome, age=age or 0.0)
                torn = self.read(path, header)
            self.tell("leaves", torn=torn)
            if self.pause():
                break
        self.tell("ends")

    def read(self, path: str, header: bytes) -> bool:
        """Read the datafile at leisure, opening it by its name for every part; tell whether it was a mixture."""
        digest = hashlib.blake2b(digest_size=16)
        seconds = self.random.uniform(*_READ)
        for part in range(_PARTS):
            try:
                found, contents = _part(path, part)
            except FileNotFoundError:
                return True
            if found != header:
                return True
            digest.update(contents)
            time.sleep(seconds / _PARTS)
        return header != _header(int(header[:8]), digest.hexdigest())

    def create(self, target: str) -> None:
        """Make the next version at *target*, slowly."""
        version = self.datafile.status().generation + 1
        began = self.now()
        self.tell("creates", version=version)
        contents = os.urandom(_PARTS * _SIZE)
        with open(target, "xb", buffering=0) as file:
            file.write(_header(version, hashlib.blake2b(contents, digest_size=16).hexdigest()))
            for part in range(_PARTS):
                time.sleep(self.plan.build / _PARTS)
                if part == _PARTS // 2 and version > 1 and self.plan.may_kill(began):
                    self.be_killed_once(version)
                file.write(contents[part * _SIZE : (part + 1) * _SIZE])
        self.version = version

    def validate(self, target: str) -> bool:
        """Called when the new version is complete and the swap is next."""
        self.created = True
        self.tell("swaps", version=self.version)
        return not self.is_torn(target)

    def is_torn(self, target: str) -> bool:
        parts = [_part(target, part) for part in range(_PARTS)]
        digest = hashlib.blake2b(b"".join(contents for _, contents in parts), digest_size=16).hexdigest()
        return parts[0][0] != _header(self.version, digest)

    def be_killed_once(self, version: int) -> None:
        """Die as by ``kill -9``, unless another has."""
        try:
            os.close(os.open(self.killed_mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return
        self.tell("killed", version=version)
        os.kill(os.getpid(), signal.SIGKILL)

    def pause(self) -> bool:
        """Do nothing for a moment; tell whether it is time to go."""
        readable, _, _ = select.select([self.lifeline], [], [], self.random.uniform(*_PAUSE))
        return bool(readable)

    def now(self) -> float:
        return time.monotonic() - self.began

    def tell(
        self,
        what: What,
        *,
        version: int = 0,
        outcome: Outcome = "",
        age: float = 0.0,
        torn: bool = False,
        why: str = "",
    ) -> None:
        event = Event(round(self.now(), 6), self.number, what, version, outcome, round(age, 6), torn, why[:300])
        # Below PIPE_BUF: it does not mingle with what others write.
        os.write(self.events, json.dumps(asdict(event)).encode() + b"\n")


def _header(version: int, digest: str) -> bytes:
    return b"%08d %s\n" % (version, digest.encode())


def _part(path: str, part: int) -> tuple[bytes, bytes]:
    with open(path, "rb", buffering=0) as file:
        return file.read(_HEADER), os.pread(file.fileno(), _SIZE, _HEADER + part * _SIZE)


def _work(worker: _Worker, parents_ends: tuple[int, ...]) -> None:
    """What a forked child runs. Its parent decides when it ends; the keyboard does not."""
    for fd in parents_ends:
        os.close(fd)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGTSTP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    try:
        worker.run()
    except BrokenPipeError:
        pass  # the parent is no more
    except Exception as error:
        with suppress(BrokenPipeError):
            worker.tell("fails", why=f"{type(error).__name__}: {error}")


class Crew:
    """The processes of *plan*, which share a datafile in *directory*; on leaving its block none is left.

    Time 0 of their events is when they all begin.
    """

    def __init__(self, plan: Plan, directory: str) -> None:
        self.plan = plan
        self.directory = directory
        self.processes: list[BaseProcess] = []
        self._pending = b""
        self._over = False

    def __enter__(self) -> Crew:
        self._reading, writing = os.pipe()
        lifeline, self._lifeline = os.pipe()
        fork = multiprocessing.get_context("fork")
        try:
            with _no_signals():
                for number in range(1, self.plan.workers + 1):
                    worker = _Worker(self.plan, self.directory, number, writing, lifeline)
                    process = fork.Process(
                        target=_work,
                        args=(worker, (self._reading, self._lifeline)),
                        name=f"dogpile-fs-demo-{number}",
                        daemon=True,
                    )
                    process.start()
                    self.processes.append(process)
            os.close(writing)
            self._let_them_begin()
        except BaseException:
            self._end()
            raise
        finally:
            os.close(lifeline)
        return self

    def _let_them_begin(self) -> None:
        missing = self.plan.workers
        until = time.monotonic() + _PATIENCE
        while missing:
            readable, _, _ = select.select([self._reading], [], [], max(0.0, until - time.monotonic()))
            ready = os.read(self._reading, missing) if readable else b""
            if not ready:
                raise ChildProcessError(f"{missing} of {self.plan.workers} worker processes did not start")
            missing -= len(ready)
        self._began = time.monotonic()
        os.write(self._lifeline, _GO.pack(self._began) * self.plan.workers)

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        os.close(self._lifeline)
        os.close(self._reading)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    @property
    def now(self) -> float:
        """Seconds since the workers began."""
        return time.monotonic() - self._began

    @property
    def over(self) -> bool:
        """Whether all workers have ended, and all that they told was returned by :meth:`events`."""
        return self._over

    @property
    def is_stuck(self) -> bool:
        """Whether the workers should have ended long since, and have not."""
        return not self._over and self.now > self.plan.seconds + self.plan.build + _PATIENCE

    @property
    def busy(self) -> str:
        """Which workers have not ended, for people."""
        return "worker " + ", ".join(str(n) for n, process in enumerate(self.processes, 1) if process.is_alive())

    def events(self, seconds: float) -> Iterator[Event]:
        """What the workers tell within *seconds* from now, as it comes; sooner over if they have all ended."""
        until = time.monotonic() + seconds
        while not self._over and (left := until - time.monotonic()) > 0:
            readable, _, _ = select.select([self._reading], [], [], left)
            if not readable:
                break
            received = os.read(self._reading, 65536)
            self._over = not received
            *lines, self._pending = (self._pending + received).split(b"\n")
            for line in lines:
                yield Event(**json.loads(line))

    def unexpected_ends(self, killed: set[int]) -> list[str]:
        """Once all is over: how those ended that did not end as they should; the *killed* should by SIGKILL."""
        ends = []
        for number, process in enumerate(self.processes, 1):
            process.join(_PATIENCE)
            expected = -signal.SIGKILL if number in killed else 0
            if process.exitcode != expected:
                ends.append(f"worker {number} ended with exit status {process.exitcode} instead of {expected}")
        return ends


@contextmanager
def _no_signals() -> Iterator[None]:
    """Signals that come inside the block are delivered after it: no forked child runs its parent's handlers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        sys.stdout.flush()
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
