"""The demo's worker processes: each reads one shared datafile again and again, and reports to its parent.

They are forked, as gunicorn's are. Their events come through one pipe, a line per event in one ``write`` each. The
process that is started for a creation in the background opens it by its name. The other end of a second pipe,
their lifeline, is the parent's alone: when it is closed, by the parent or by the parent's end, the workers end.
"""

from __future__ import annotations

import atexit
import json
import logging
import multiprocessing
import os
import random
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Literal, NoReturn

from ..._datafile.datafile import Datafile
from ..._datafile.target import Target
from ..._dogpile.policy import Backoff
from ..._os import linux
from .timeline import BACKGROUND, Event, Outcome, What

__all__ = ["Crew", "Plan"]

#: The datafile has so many parts, and each part so many lines with the version's number. A mixture of versions has
#: different lines.
_PARTS, _LINES = 8, 256
_LINE = "version %08d\n"
_SIZE = len(_LINE % 0) * _LINES

#: Seconds that a read and a pause take, at least and at most.
_READ = (0.10, 0.30)
_PAUSE = (0.05, 0.20)
#: Seconds that a creation may take beyond :attr:`Plan.build`, with the swap and a read after it.
_SLACK = 0.5
#: Seconds that workers may take to end, beyond the plan, before the demo is stuck.
_PATIENCE = 10.0

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


Incident = Literal["failure", "death", "background"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the demo shall show. All times in seconds.

    *build* is what a creation takes, without the swap; *backoff*: for so long none is tried after one that failed.
    """

    workers: int = 8
    seconds: float = 15.0
    expiretime: float = 1.5
    build: float = 0.7
    backoff: float = 0.6

    def incident(self, version: int, at: float) -> Incident | None:
        """Return what happens to the first creation of *version*, if it begins *at* that time.

        There must be time enough for what follows, and, besides one that is killed, workers enough to go on.
        """
        left = self.seconds - self.build - _SLACK - at
        match version:
            case 2 if left > self.backoff + self.build:
                return "failure"
            case 3 if left > self.build and self.workers > 2:
                return "death"
            case 4 if left > _SLACK:  # a process of its own takes longer to start
                return "background"
        return None

    def is_too_late_to_create(self, at: float) -> bool:
        """Return whether a creation that begins *at* that time might not end within the demo."""
        return at > self.seconds - self.build - _SLACK


class _Reports:
    """The events of worker *number*, on their way to the parent; time 0 is when it *began*.

    They go to the descriptor *fd* of the named *pipe*. A copy in a process of its own, which the *elected* worker
    has started for a creation, opens the pipe again, and reports as that process.
    """

    def __init__(self, number: int, began: float, pipe: str, fd: int, elected: int = 0) -> None:
        self.number = number
        self.began = began
        self.pipe = pipe
        self.fd = fd
        self.elected = elected

    def __reduce__(self) -> tuple[Any, ...]:
        return _reports_of_another_process, (self.number, self.began, self.pipe)

    def now(self) -> float:
        return round(time.monotonic() - self.began, 6)

    def report(self, what: What, **more: Any) -> float:
        """Report an event; return when it happened."""
        event = Event(self.now(), self.number, what, **more)
        # Below PIPE_BUF: the line does not mingle with those of other processes.
        try:
            os.write(self.fd, json.dumps(asdict(event)).encode() + b"\n")
        except BrokenPipeError:
            self.end()
        return event.at

    def sleep(self, seconds: float) -> None:
        """Sleep, or end this process as soon as the demo has ended."""
        poll = select.poll()
        poll.register(self.fd, 0)  # for POLLERR: no process reads the events any more
        if poll.poll(seconds * 1000):
            self.end()

    def end(self) -> NoReturn:
        """End this process, because the demo has ended; a worker does by this error."""
        if self.elected:
            os._exit(0)
        raise BrokenPipeError


def _reports_of_another_process(elected: int, began: float, pipe: str) -> _Reports:
    try:
        fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # the demo has ended
        os._exit(0)
    os.set_blocking(fd, True)
    return _Reports(BACKGROUND, began, pipe, fd, elected)


class _Creator:
    """The creator of the datafile at *path*. Each version has the number of the one before it, and 1 more."""

    def __init__(self, plan: Plan, path: str, reports: _Reports) -> None:
        self.plan = plan
        self.path = path
        self.reports = reports
        self.version = 0
        #: Whether the worker has created since it last reset this.
        self.created = False

    def create(self, target: Target) -> None:
        """Make the next version at *target*, slowly."""
        self.version = 1 if target.previous is None else _version_of(target.previous) + 1
        began = self.reports.report("creates", version=self.version, elected=self.reports.elected)
        incident = self.plan.incident(self.version, began)
        with open(target, "xb", buffering=0) as file:
            for part in range(_PARTS):
                self.reports.sleep(self.plan.build / _PARTS)
                if incident == "death" and part == _PARTS // 2 and self.is_first(incident):
                    self.reports.report("killed", version=self.version)
                    os.kill(os.getpid(), signal.SIGKILL)
                file.write(_contents(self.version))
        if incident == "failure" and self.is_first(incident):
            error = ConnectionError("the source is down")
            self.reports.report("raises", version=self.version, why=str(error))
            raise error

    def validate(self, target: str) -> bool:
        """Report that the new version is complete and the swap is next."""
        self.created = True
        self.reports.report("swaps", version=self.version)
        if self.reports.elected:
            atexit.register(self.report_the_end)
        return _is_whole(target, self.version, 0.0)

    def report_the_end(self) -> None:
        """Report how the swap by this process, which does nothing else, has ended."""
        status = Datafile(self.path).status()
        if status.generation == self.version:
            self.reports.report("placed", version=self.version, age=status.age or 0.0)
        else:
            self.reports.report("fails", why=f"version {self.version} is not in place")

    def is_first(self, incident: Incident) -> bool:
        """Return whether that has not happened to any worker yet."""
        try:
            os.close(os.open(f"{self.path}.{incident}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True


class _Worker:
    """The work of one process. It ends when all other ends of its *lifeline* are closed."""

    def __init__(self, plan: Plan, path: str, reports: _Reports, lifeline: int) -> None:
        self.plan = plan
        self.reports = reports
        self.lifeline = lifeline
        self.creator = _Creator(plan, path, reports)
        self.datafile = self.datafile_at(path)
        self.datafile_in_background = self.datafile_at(path, "process")

    def datafile_at(self, path: str, background: Literal["process"] | None = None) -> Datafile:
        return Datafile(
            path,
            self.plan.expiretime,
            self.creator.create,
            validate=self.creator.validate,
            readers=True,
            backoff=Backoff(self.plan.backoff, self.plan.backoff, jitter=0),
            background=background,
        )

    def run(self) -> None:
        report, creator = self.reports.report, self.creator
        while self.reports.now() < self.plan.seconds:
            asked = report("asks")
            before = self.datafile.status()
            if before.state == "stale" and not before.creating and self.plan.is_too_late_to_create(asked):
                break
            incident = self.plan.incident(before.generation + 1, asked)
            datafile = self.datafile_in_background if incident == "background" else self.datafile
            creator.created = False
            with datafile.acquire() as path:
                version = _version_of(path)
                outcome: Outcome = "stale"
                if creator.created:
                    outcome = "created"
                elif before.state == "missing":
                    outcome = "waited"
                elif before.state == "fresh" or version > before.generation:
                    outcome = "fresh"  # it may have become fresh while this worker waited for the swap
                age = (creator.created and self.datafile.status().age) or 0.0
                report("reads", version=version, outcome=outcome, waited=self.reports.now() - asked, age=age)
                torn = not _is_whole(path, version, random.uniform(*_READ))
            report("leaves", torn=torn)
            if select.select([self.lifeline], [], [], random.uniform(*_PAUSE))[0]:
                break
        report("ends")


def _is_whole(path: str, version: int, seconds: float) -> bool:
    """Read the datafile in *seconds*, opening it by its name for every part: is all of it *version*?"""
    for part in range(_PARTS):
        try:
            if _part(path, part) != _contents(version):
                return False
        except FileNotFoundError:
            return False
        time.sleep(seconds / _PARTS)
    return True


def _version_of(path: str) -> int:
    return int(_part(path, 0).split()[1])


def _contents(version: int) -> bytes:
    """Return a part of that version."""
    return (_LINE % version * _LINES).encode()


def _part(path: str, part: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), _SIZE, part * _SIZE)


def _work(worker: _Worker, *parents_ends: int) -> None:
    """Run *worker* in a forked child. Its parent decides when it ends; the keyboard does not."""
    for fd in parents_ends:
        os.close(fd)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGTSTP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    # The timeline tells it, and a line on stderr would spoil the live picture.
    logging.getLogger("dogpile_fs").setLevel(logging.CRITICAL + 1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    with suppress(BrokenPipeError):  # the parent has ended
        try:
            worker.run()
        except BrokenPipeError:
            raise
        except Exception as error:
            worker.reports.report("fails", why=f"{type(error).__name__}: {error}"[:300])


class Crew:
    """The processes of *plan*, which share a datafile in *directory*; none is left after its ``with`` block.

    Time 0 of their events is when the block is entered.
    """

    def __init__(self, plan: Plan, directory: str) -> None:
        self.plan = plan
        self.directory = directory
        self.processes: list[BaseProcess] = []
        #: Whether all workers have ended, and :meth:`events` has returned all their events.
        self.over: bool = False
        self._pending = b""

    def __enter__(self) -> Crew:
        pipe = os.path.join(self.directory, "events")
        os.mkfifo(pipe)
        self._reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        writing = os.open(pipe, os.O_WRONLY | os.O_CLOEXEC)
        with suppress(OSError):  # then they end by themselves, a little later than this process
            linux.adopt_orphans()
        lifeline, self._lifeline = os.pipe()
        path = os.path.join(self.directory, "datafile")
        fork = multiprocessing.get_context("fork")
        self._began = time.monotonic()
        # Signals are delivered after the forks: no child runs its parent's handlers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            sys.stdout.flush()  # else each child prints what is in the buffer
            for number in range(1, self.plan.workers + 1):
                reports = _Reports(number, self._began, pipe, writing)
                worker = _Worker(self.plan, path, reports, lifeline)
                process = fork.Process(target=_work, args=(worker, self._reading, self._lifeline), daemon=True)
                process.start()
                self.processes.append(process)
        except BaseException:
            self.__exit__()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(writing)
            os.close(lifeline)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lifeline)
        os.close(self._reading)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        with suppress(
            ChildProcessError
        ):  # a process in the background, which ends when no process reads its events
            while True:
                os.waitpid(-1, 0)

    @property
    def now(self) -> float:
        """Seconds since the workers began."""
        return time.monotonic() - self._began

    @property
    def is_stuck(self) -> bool:
        """Whether the workers should have ended long ago, and have not."""
        return not self.over and self.now > self.plan.seconds + self.plan.build + _PATIENCE

    def events(self, seconds: float) -> Iterator[Event]:
        """Yield the events of the next *seconds*, as they come; stop sooner if all workers have ended."""
        until = time.monotonic() + seconds
        while not self.over and select.select([self._reading], [], [], max(0.0, until - time.monotonic()))[0]:
            received = os.read(self._reading, 65536)
            self.over = not received
            *lines, self._pending = (self._pending + received).split(b"\n")
            for line in lines:
                yield Event(**json.loads(line))

    def unexpected_ends(self, killed: set[int]) -> Iterator[str]:
        """Yield the wrong ends of workers, once all is over. The *killed* end by SIGKILL, the others well."""
        for number, process in enumerate(self.processes, 1):
            process.join(_PATIENCE)
            expected = -signal.SIGKILL if number in killed else 0
            if process.exitcode != expected:
                yield f"worker {number} ended with exit status {process.exitcode} instead of {expected}"
