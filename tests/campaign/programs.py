"""What the threads of a worker do: random operations on one resource, each written down as it begins and ends.

The program is the seed's. What becomes of it is decided by who else runs, and by the nemeses.
"""

from __future__ import annotations

import errno
import gc
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dogpile_fs import DogpileError, NeedRegenerationException, atomic_write

from .creators import Creators, Refused
from .history import Journal
from .subjects import Found, Subject, contents_of, parsed

__all__ = ["SIDE", "Program", "descriptors"]

#: What the name of the file beside ends in that all may write.
SIDE = ".side"
_COMMAND = Path(__file__).with_name("command.py")


class _InChild(BaseException):
    """Leaves all blocks of a forked child."""


#: How often each is picked, where the nemeses have no say.
_USUAL = {
    "pass": 50,
    "look": 15,
    "refresh": 10,
    "force": 0.2,
    "status": 10,
    "soft": 0.3,
    "hard": 0.2,
    "miss": 0.1,
    "write": 2,
    "nested": 2,
    "load": 5,
    "side-write": 2,
    "side-read": 4,
    "command": 1.5,
    "command-killed": 0.8,
    "command-status": 0.5,
}


class Program:
    """What one thread of a worker does until *deadline* (on the monotonic clock)."""

    def __init__(
        self, subject: Subject, journal: Journal, seed: int, deadline: float, nemeses: frozenset[str]
    ) -> None:
        self.subject = subject
        self.journal = journal
        self.random = random.Random(seed)
        self.deadline = deadline
        self.nemeses = nemeses
        self._choices = dict(_USUAL)
        if "invalidations" not in nemeses:
            self._choices |= {"soft": 0, "hard": 0, "miss": 0}
        if not subject.synced:
            self._choices |= {"write": 0}
        if not subject.swaps:
            self._choices |= {"load": 0}
        if not (subject.by_command and "commands" in nemeses):
            self._choices |= {"command": 0, "command-killed": 0, "command-status": 0}
        if "crowd" in nemeses:
            self._choices = {"pass": 80, "look": 18, "write": 2}
        self._creators = Creators(subject, journal, self.random, deadline, nemeses, self._fork)
        self.children: list[int] = []
        #: Whether threads share this process.
        self.alone = True

    def run(self) -> None:
        while time.monotonic() < self.deadline:
            self.step()
            if "crowd" not in self.nemeses and self.random.random() < 0.3:
                time.sleep(self.random.uniform(0, 0.02))
        self.reap(wait=True)

    def step(self) -> None:
        do = self.random.choices(list(self._choices), list(self._choices.values()))[0]
        timeout = self.random.choice([None, None, None, 0.0, 0.05, 1.0])
        starved = "descriptors" in self.nemeses and self.alone and self.random.random() < 0.1
        starved = starved and not do.startswith("command")
        op = self.journal.begin(do, timeout=timeout, starved=starved)
        outcome: dict[str, Any] = {}
        try:
            if starved:
                with few_descriptors(self.random.randrange(4)):
                    self._do(do, op, timeout)
            else:
                self._do(do, op, timeout)
        except _InChild:
            self._live_as_child()
        except Refused as error:
            outcome = {"error": "Refused", "message": str(error)}
        except (Exception, ExceptionGroup) as error:
            outcome = {
                "error": type(error).__name__,
                "ours": isinstance(error, DogpileError),
                "errno": getattr(error, "errno", None),
                "message": str(error),
                "where": "" if isinstance(error, DogpileError) else traceback.format_exc()[-1500:],
            }
        self.journal.note(op, "ended", **outcome)
        self.reap()

    def _do(self, do: str, op: int, timeout: float | None) -> None:
        method: Callable[[int, float | None], None] = getattr(self, f"_{do.replace('-', '_')}")
        method(op, timeout)

    # Operations.

    def _pass(self, op: int, timeout: float | None) -> None:
        with self.subject.block(self._creators.builder(op), timeout) as given:
            self._be_inside(op, given)

    def _look(self, op: int, timeout: float | None) -> None:
        # Who brings no creator may wait as long as nobody else does.
        with self.subject.block(None, 0.5 if timeout is None else timeout) as given:
            self._be_inside(op, given)

    def _nested(self, op: int, timeout: float | None) -> None:
        with self.subject.block(self._creators.builder(op), timeout) as given:
            self._be_inside(op, given)
            if self.subject.synced:
                with self.subject.block(None, timeout):
                    self.journal.note(op, "twice")

    def _refresh(self, op: int, timeout: float | None) -> None:
        self.journal.note(
            op, "refreshed", created=self.subject.refresh(self._creators.builder(op), False, timeout)
        )

    def _force(self, op: int, timeout: float | None) -> None:
        created = self.subject.refresh(self._creators.builder(op), True, timeout)
        self.journal.note(op, "refreshed", created=created)

    def _soft(self, op: int, timeout: float | None) -> None:
        self.subject.dogpile.invalidate()

    def _hard(self, op: int, timeout: float | None) -> None:
        self.subject.dogpile.invalidate(hard=True)

    def _miss(self, op: int, timeout: float | None) -> None:
        with suppress(NeedRegenerationException), self.subject.block(self._creators.builder(op), timeout) as given:
            self._be_inside(op, given)
            raise NeedRegenerationException

    def _load(self, op: int, timeout: float | None) -> None:
        try:
            found = self.subject.load(self._creators.builder(op), timeout)
        except OSError as error:
            if isinstance(error, DogpileError) or error.errno != errno.EMFILE:
                raise
            raise Refused("no descriptor was left to load with") from error
        # While another thread loads the next one, this one gets the one before.
        self.journal.note(op, "read" if self.alone else "loaded", version=found.version, whole=found.whole)

    def _side_write(self, op: int, timeout: float | None) -> None:
        """Another file beside it, that all may write."""
        version = time.monotonic_ns()
        self.journal.note(op, "writing-side", version=version)
        with atomic_write(self.subject.path + SIDE, durable=False) as file:
            file.write(contents_of(version, self.random.choice([100, 5_000, 200_000])))
            if self.random.random() < 0.05:
                raise Refused("a writer that fails")

    def _side_read(self, op: int, timeout: float | None) -> None:
        try:
            found = parsed(Path(self.subject.path + SIDE).read_bytes())
        except FileNotFoundError:
            found = Found(0)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            raise Refused("no descriptor was left to read with") from error
        self.journal.note(op, "side", version=found.version, whole=found.whole)

    def _status(self, op: int, timeout: float | None) -> None:
        status = self.subject.dogpile.status()
        self.journal.note(
            op, "told", state=status.state, createdtime=status.createdtime, version=status.generation
        )
        found = self._read()
        self.journal.note(op, "found", version=found.version, whole=found.whole)

    def _write(self, op: int, timeout: float | None) -> None:
        with self.subject.dogpile.acquire_write_lock(timeout=timeout):  # type: ignore[attr-defined]
            self.journal.note(op, "writing")
            time.sleep(self.random.uniform(0, 0.005))
            self.journal.note(op, "written")

    def _command(self, op: int, timeout: float | None) -> None:
        arguments = ["run", "--expire", f"{self.subject.expiretime}s", "--output", self.subject.path]
        if self.subject.synced:
            arguments.append("--readers")
        if self.random.random() < 0.2:
            arguments.append("--force")
        if timeout is not None:
            arguments += ["--wait", f"{timeout}s"]
        if self.random.random() < 0.2:
            arguments += ["--timeout", "0.1s"]
        mood = self._creators.mood({"well": 80.0, "slow": 10.0, "raises": 10.0})
        words = [sys.executable, "-I", "-S", str(_COMMAND), str(self.journal.directory), self.journal.name]
        words += [self.journal.process, str(op), mood, str(self.random.randrange(50_000)), "{}"]
        self.journal.note(op, "arguments", forced="--force" in arguments)
        self._run_command(op, [*arguments, "--", *words])

    def _command_killed(self, op: int, timeout: float | None) -> None:
        self._killing = self.random.choice([signal.SIGKILL, signal.SIGTERM]), self.random.uniform(0, 0.4)
        self._command(op, timeout)

    _killing: tuple[signal.Signals, float] | None = None

    def _command_status(self, op: int, timeout: float | None) -> None:
        self._run_command(op, ["status", "--expire", f"{self.subject.expiretime}s", self.subject.path])

    def _run_command(self, op: int, arguments: list[str]) -> None:
        killing, self._killing = self._killing, None
        process = subprocess.Popen(
            [sys.executable, "-m", "dogpile_fs", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        if killing is not None:
            time.sleep(killing[1])
            process.send_signal(killing[0])
        _, said = process.communicate()
        self.journal.note(op, "exited", status=process.returncode, said=said.decode()[-1500:])

    # Inside a block.

    def _be_inside(self, op: int, given: Any) -> None:
        self.journal.note(op, "entered")
        found = self._read(given)
        self.journal.note(op, "read", version=found.version, whole=found.whole)
        if "forks" in self.nemeses and self.random.random() < 0.02:
            self._fork(op)
        if "crowd" in self.nemeses:
            time.sleep(self.random.uniform(0.05, 0.1))
        else:
            time.sleep(self.random.choice([0, 0, self.random.uniform(0, 0.01)]))
        if self.subject.synced:  # nothing may be swapped in meanwhile
            again = self._read()
            self.journal.note(op, "reread", version=again.version, whole=again.whole)
        self.journal.note(op, "leaving")

    def _read(self, given: Any = None) -> Found:
        try:
            return self.subject.read(given)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            raise Refused("no descriptor was left to read with") from error

    # Children.

    def _fork(self, op: int) -> None:
        """Fork here; the child leaves the blocks that it was born in, and then goes its own way."""
        child = os.fork()
        if child == 0:
            self.journal.in_child(f"{self.journal.name}f")
            raise _InChild
        self.children.append(child)

    def _live_as_child(self) -> None:
        self.random = self._creators.random = random.Random(os.getpid())
        self.children = []
        self._creators.moods.pop("forks", None)
        try:
            for _ in range(3):
                self.step()
        except _InChild:
            pass
        finally:
            os._exit(0)

    def reap(self, wait: bool = False) -> None:
        for child in self.children.copy():
            done, _ = os.waitpid(child, 0 if wait else os.WNOHANG)
            if done:
                self.children.remove(child)


@contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """Inside, this process may open so many *more*."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors() -> int:
    """How many this process has open."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
