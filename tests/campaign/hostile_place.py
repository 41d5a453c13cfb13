"""A directory in which another program changes files at random, and the checks of what a user of it gets."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType

__all__ = ["EXPIRETIME", "HostilePlace", "no_hang", "sure"]

#: Seconds. No file that is put there is as young as that: if it counts as fresh, that is wrong.
EXPIRETIME = 3600.0
#: Seconds after which a call counts as hanging.
_PATIENCE = 60.0


class HostilePlace:
    """*directory* is ours alone; every choice is *random*'s."""

    def __init__(self, directory: str, random: Random) -> None:
        self.top = Path(directory)
        self.random = random
        self.violations: list[str] = []
        self.number = 0
        #: Descriptors that are closed with the next place.
        self.open: list[int] = []

    def fresh_place(self) -> Path:
        """Make an empty directory, the only one, and return it."""
        for descriptor in self.open:
            os.close(descriptor)
        self.open.clear()
        for old in self.top.iterdir():
            shutil.rmtree(old)
        self.number += 1
        place = self.top / str(self.number)
        place.mkdir()
        return place

    def attempt(self, action: Callable[[], object]) -> None:
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
        try:
            action()
        except Exception as error:
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            line = f" at {where.tb_frame.f_code.co_qualname}:{where.tb_lineno}" if where is not None else ""
            left = [
                (os.fsencode(path.name), os.fsencode(os.readlink(path)) if path.is_symlink() else "")
                for each in self.top.iterdir()
                for path in each.iterdir()
            ]
            self.violations.append(f"place {self.number}: {error!r}{line}; there: {left}"[:3000])


def sure(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


@contextmanager
def no_hang() -> Iterator[None]:
    """Leave the block by an error if a single call in it hangs. For the main thread only."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"hangs in {frame.f_code.co_qualname if frame is not None else 'nothing'}")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
