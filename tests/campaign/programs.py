"""The threads of a worker: random operations on one resource, each logged as it begins and ends.

The seed decides on the program. The other workers and the nemeses decide on its course.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dogpile_fs import CreationFailed, Datafile, DogpileError, NeedRegenerationException, PathError, atomic_write

from .creators import Creators, Refused
from .history import Journal
from .subjects import Found, Subject, contents_of, parsed

__all__ = ["OF_ALL_KEYS", "SIDE", "Program", "descriptors", "drawn_bounds", "outcome_of", "weights"]

#: The end of the name of the file beside, which all may write.
SIDE = ".side"
_COMMAND = Path(__file__).with_name("command.py")


class _InChild(BaseException):
    """Leave all blocks of a forked child."""


#: The weight of each operation, where the nemeses do not change it.
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
    "prune": 1.5,
    "by-path": 1,
}
#: The operations that are not about one key.
OF_ALL_KEYS = ("prune", "by-path")


def weights(subject: Subject, nemeses: frozenset[str]) -> dict[str, float]:
    """Return the weight of each operation on *subject*."""
    weights = dict(_USUAL)
    if "invalidations" not in nemeses:
        weights |= {"soft": 0, "hard": 0, "miss": 0}
    if not subject.synced:
        weights |= {"write": 0}
    if not subject.swaps:
        weights |= {"load": 0}
    if not (subject.by_command and "commands" in nemeses):
        weights |= {"command": 0, "command-killed": 0, "command-status": 0}
    if subject.key:
        weights |= {"side-write": 0, "side-read": 0}
    else:
        weights |= {"prune": 0, "by-path": 0}
    if "crowd" in nemeses:
        weights = {"pass": 80, "look": 18, "write": 2}
    return weights


def drawn_bounds(rng: random.Random, expiretime: float) -> dict[str, Any]:
    """Return the arguments of a ``prune``."""
    if rng.random() < 0.3:
        return {"max_bytes": rng.choice([0, 20_000, 300_000])}
    return {"older_than": rng.choice([0.0, expiretime / 2, expiretime, 4 * expiretime])}


def outcome_of(error: Exception) -> dict[str, Any]:
    """Return what an operation that ended with *error* says of it at its end."""
    if isinstance(error, Refused):
        return {"error": "Refused", "message": str(error)}
    return {
        "error": type(error).__name__,
        "ours": isinstance(error, DogpileError),
        "errno": getattr(error, "errno", None),
        "message": str(error),
        "where": "" if isinstance(error, DogpileError) else "".join(traceback.format_exception(error))[-1500:],
    }


class Program:
    """The program of one thread of a worker until *deadline* (on the monotonic clock)."""

    def __init__(
        self, subjects: Sequence[Subject], journal: Journal, seed: int, deadline: float, nemeses: frozenset[str]
    ) -> None:
        self.subjects = subjects
        self.subject = subjects[0]
        self.journal = journal
        self.random = random.Random(seed)
        self.deadline = deadline
        self.nemeses = nemeses
        self._choices = weights(subjects[0], nemeses)
        self._creators = Creators(journal, self.random, deadline, nemeses, self._fork)
        self.children: list[int] = []
        #: Whether no other thread shares this process.
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
        self.subject = self.random.choice(self.subjects)
        key = {"key": self.subject.key} if self.subject.key and do not in OF_ALL_KEYS else {}
        op = self.journal.begin(do, timeout=timeout, starved=starved, **key)
        outcome: dict[str, Any] = {}
        try:
            if starved:
                with few_descriptors(self.random.randrange(4)):
                    self._do(do, op, timeout)
            else:
                self._do(do, op, timeout)
        except _InChild:
            self._live_as_child()
        except (Exception, ExceptionGroup) as error:
            outcome = outcome_of(error)
        self.journal.note(op, "ended", **outcome)
        self.reap()

    def _do(self, do: str, op: int, timeout: float | None) -> None:
        method: Callable[[int, float | None], None] = getattr(self, f"_{do.replace('-', '_')}")
        method(op, timeout)

    # Operations.

    def _pass(self, op: int, timeout: float | None) -> None:
        with self.subject.block(self._creators.builder(op, self.subject), timeout) as given:
            self._be_inside(op, given)

    def _look(self, op: int, timeout: float | None) -> None:
        # A caller without a creator waits until another caller creates, so it has a timeout.
        with self.subject.block(None, 0.5 if timeout is None else timeout) as given:
            self._be_inside(op, given)

    def _nested(self, op: int, timeout: float | None) -> None:
        with self.subject.block(self._creators.builder(op, self.subject), timeout) as given:
            self._be_inside(op, given)
            if self.subject.synced:
                # As in _look(); and after max_stale the creator that this waits for may wait for the block around.
                with self.subject.block(None, 0.5 if timeout is None else timeout):
                    self.journal.note(op, "twice")

    def _refresh(self, op: int, timeout: float | None) -> None:
        outcome = self.subject.refresh(self._creators.builder(op, self.subject), False, timeout)
        self.journal.note(op, "refreshed", created=bool(outcome), outcome=str(outcome))

    def _force(self, op: int, timeout: float | None) -> None:
        outcome = self.subject.refresh(self._creators.builder(op, self.subject), True, timeout)
        self.journal.note(op, "refreshed", created=bool(outcome), outcome=str(outcome))

    def _soft(self, op: int, timeout: float | None) -> None:
        self.subject.dogpile.invalidate()

    def _hard(self, op: int, timeout: float | None) -> None:
        self.subject.dogpile.invalidate(hard=True)

    def _miss(self, op: int, timeout: float | None) -> None:
        with (
            suppress(NeedRegenerationException),
            self.subject.block(self._creators.builder(op, self.subject), timeout) as given,
        ):
            self._be_inside(op, given)
            raise NeedRegenerationException

    def _load(self, op: int, timeout: float | None) -> None:
        try:
            found = self.subject.load(self._creators.builder(op, self.subject), timeout)
        except OSError as error:
            if isinstance(error, DogpileError) or error.errno != errno.EMFILE:
                raise
            raise Refused("no descriptor was left to load with") from error
        except CreationFailed as error:
            if error.loader is None:
                raise
            raise Refused("no descriptor was left to load with a moment ago") from error
        # While another thread loads the next version, or after too few descriptors to load it, this one gets the
        # version before.
        is_current = self.alone and "descriptors" not in self.nemeses
        self.journal.note(op, "read" if is_current else "loaded", version=found.version, whole=found.whole)

    def _prune(self, op: int, timeout: float | None) -> None:
        bounds = drawn_bounds(self.random, self.subject.expiretime)
        self.journal.note(op, "pruning", **bounds)
        self.journal.note(op, "pruned", gone=self.subject.files.prune(**bounds))

    def _by_path(self, op: int, timeout: float | None) -> None:
        """Use the path of a key's file, as a program may that does not know of keys."""
        try:
            Datafile(self.subject.path, self.subject.expiretime, durable=False)
        except PathError:
            refused = True
        else:
            refused = False
        self.journal.note(op, "named", refused=refused)

    def _side_write(self, op: int, timeout: float | None) -> None:
        """Write another file beside the resource, which all may write."""
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
            op,
            "reported",
            state=status.state,
            createdtime=status.createdtime,
            version=status.generation,
            creating=status.creating,
            failures=status.failures,
            failures_total=status.failures_total,
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
        for each in self.subject.policy.depends_on:
            arguments += ["--depends-on", str(each)]
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
        elif self.subject.key:  # what is open stays, also if it is pruned meanwhile
            given.seek(0)
            again = self._read(given)
            self.journal.note(op, "again", version=again.version, whole=again.whole)
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
        """Fork here; the child leaves the blocks that it was born in, and then goes on by itself."""
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
    """Let this process open at most so many *more*."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors() -> int:
    """Return how many this process has open."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
