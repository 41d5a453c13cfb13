"""Creators that mostly do what they shall, and else fail, hang, die, fork, or leave a daemon behind."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import suppress

from .history import Journal
from .subjects import Subject

__all__ = ["Creators", "Refused"]

#: How long a creator hangs at most, and a daemon that it has forked lives.
HANGS = 6.0
DAEMON_LIVES = 1.5
_MOODS = {"well": 80.0, "slow": 8.0, "raises": 5.0}


class Refused(Exception):
    """What a creator raises."""


class Creators:
    """Makes the creators of one thread's program.

    :param deadline: when the round is over, on the monotonic clock.
    :param fork: forks inside an operation; the child does not come back.
    """

    def __init__(
        self,
        subject: Subject,
        journal: Journal,
        rng: random.Random,
        deadline: float,
        nemeses: frozenset[str],
        fork: Callable[[int], None],
    ) -> None:
        self.subject = subject
        self.journal = journal
        self.random = rng
        self.deadline = deadline
        self.fork = fork
        self.moods = dict(_MOODS)
        if "creators" in nemeses:
            self.moods |= {"hangs": 2.0, "exits": 3.0, "daemon": 3.0}
        if "forks" in nemeses:
            self.moods |= {"forks": 12.0}

    def mood(self, moods: dict[str, float]) -> str:
        return self.random.choices(list(moods), list(moods.values()))[0]

    def builder(self, op: int) -> Callable[[str], None]:
        mood = self.mood(self.moods)
        size = self.random.choice([100, 5_000, 200_000])

        def build(target: str) -> None:
            version = time.monotonic_ns()
            self.journal.note(op, "creating", version=version)
            time.sleep(self.random.uniform(0, 0.02))
            with suppress(OSError):
                os.unlink(target)
            self._misbehave(op, mood)
            try:
                self.subject.make(target, version, size)
                if not self.subject.swaps:
                    self._swap(op, target)
            except OSError as error:  # a creator's own trouble, if its directory is not there
                raise Refused(repr(error)) from error
            self.journal.note(op, "created")

        return build

    def _misbehave(self, op: int, mood: str) -> None:
        if mood == "slow":
            time.sleep(self.random.uniform(0.1, 0.4))
        elif mood == "raises":
            self.journal.note(op, "raising")
            raise Refused("a creator that fails")
        elif mood == "hangs":
            self.journal.note(op, "hanging")
            time.sleep(min(HANGS, max(0.0, self.deadline - time.monotonic())))
        elif mood == "exits":
            self.journal.note(op, "exiting")
            os._exit(0)
        elif mood == "forks":
            self.fork(op)
        elif mood == "daemon":
            self.journal.note(op, "daemon")
            self._fork_daemon()

    def _swap(self, op: int, target: str) -> None:
        if self.subject.synced:
            self.journal.note(op, "asking")
            with self.subject.dogpile.acquire_write_lock():  # type: ignore[attr-defined]
                self.journal.note(op, "writing")
                os.replace(target, self.subject.path)
                self.journal.note(op, "swapped")
                self.journal.note(op, "written")
        else:
            os.replace(target, self.subject.path)
            self.journal.note(op, "swapped")

    def _fork_daemon(self) -> None:
        """Leave a process behind that outlives this one, and has inherited all that it can."""
        child = os.fork()
        if child == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(DAEMON_LIVES)
            os._exit(0)
        os.waitpid(child, 0)
