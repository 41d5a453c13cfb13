"""Creators that mostly do what they shall, and else fail, hang, die, fork, or leave a daemon behind."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress

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
        journal: Journal,
        rng: random.Random,
        deadline: float,
        nemeses: frozenset[str],
        fork: Callable[[int], None],
    ) -> None:
        self.journal = journal
        self.random = rng
        self.deadline = deadline
        self.fork = fork
        self.moods = dict(_MOODS)
        if "failures" in nemeses:
            self.moods |= {"raises": 60.0, "exits": 12.0}
        if "creators" in nemeses:
            self.moods = {"exits": 3.0, **self.moods, "hangs": 2.0, "daemon": 3.0}
        if "forks" in nemeses:
            self.moods |= {"forks": 12.0}

    def mood(self, moods: dict[str, float]) -> str:
        return self.random.choices(list(moods), list(moods.values()))[0]

    def builder(self, op: int, subject: Subject) -> Callable[[str], None]:
        mood, size = self._drawn()

        def build(target: str) -> None:
            version = self._begin(op)
            time.sleep(self._first_pause(target))
            time.sleep(self._hanging(op, mood))
            self._misbehave(op, mood)
            with _own_trouble():
                subject.make(target, version, size)
                time.sleep(self._last_pause(mood))
                if not subject.swaps:
                    self._swap(op, subject, target)
            self.journal.note(op, "created")

        return build

    def coroutine_builder(
        self, op: int, subject: Subject, write_lock: Callable[[], AbstractAsyncContextManager[object]]
    ) -> Callable[[str], Awaitable[None]]:
        """Return the same as a coroutine function, which swaps inside ``write_lock()``."""
        from anyio import sleep  # here: other workers have no event loop

        mood, size = self._drawn()

        async def build(target: str) -> None:
            version = self._begin(op)
            await sleep(self._first_pause(target))
            await sleep(self._hanging(op, mood))
            self._misbehave(op, mood)
            with _own_trouble():
                subject.make(target, version, size)
                await sleep(self._last_pause(mood))
                if subject.synced and not subject.swaps:
                    self.journal.note(op, "asking")
                    async with write_lock():
                        self._put(op, subject, target)
                elif not subject.swaps:
                    self._swap(op, subject, target)
            self.journal.note(op, "created")

        return build

    def _drawn(self) -> tuple[str, int]:
        return self.mood(self.moods), self.random.choice([100, 5_000, 200_000])

    def _begin(self, op: int) -> int:
        version = time.monotonic_ns()
        self.journal.note(op, "creating", version=version)
        return version

    def _first_pause(self, target: str) -> float:
        """Remove what an earlier creator has left at *target*, and return the seconds that every creator takes."""
        with suppress(OSError):
            os.unlink(target)
        return self.random.uniform(0, 0.02)

    def _hanging(self, op: int, mood: str) -> float:
        """Return the seconds for which a creator of this *mood* hangs."""
        if mood != "hangs":
            return 0.0
        self.journal.note(op, "hanging")
        return min(HANGS, max(0.0, self.deadline - time.monotonic()))

    def _last_pause(self, mood: str) -> float:
        """Return the seconds for which a creator of this *mood* leaves the new version unfinished."""
        return self.random.uniform(0.1, 0.4) if mood == "slow" else 0.0

    def _misbehave(self, op: int, mood: str) -> None:
        if mood == "raises":
            self.journal.note(op, "raising")
            raise Refused("a creator that fails")
        if mood == "exits":
            self.journal.note(op, "exiting")
            os._exit(0)
        if mood == "forks":
            self.fork(op)
        elif mood == "daemon":
            self.journal.note(op, "daemon")
            self._fork_daemon()

    def _swap(self, op: int, subject: Subject, target: str) -> None:
        if subject.synced:
            self.journal.note(op, "asking")
            with subject.dogpile.acquire_write_lock():  # type: ignore[attr-defined]
                self._put(op, subject, target)
        else:
            os.replace(target, subject.path)
            self.journal.note(op, "swapped")

    def _put(self, op: int, subject: Subject, target: str) -> None:
        """Swap inside the write lock."""
        self.journal.note(op, "writing")
        os.replace(target, subject.path)
        self.journal.note(op, "swapped")
        self.journal.note(op, "written")

    def _fork_daemon(self) -> None:
        """Leave a process behind that outlives this one, and has inherited all that it can."""
        child = os.fork()
        if child == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(DAEMON_LIVES)
            os._exit(0)
        os.waitpid(child, 0)


@contextmanager
def _own_trouble() -> Iterator[None]:
    """Let a creator that meets an ``OSError`` of its own, because its directory is not there, raise
    :class:`Refused`."""
    try:
        yield
    except OSError as error:
        raise Refused(repr(error)) from error
