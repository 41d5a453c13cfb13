"""The states that a disk may have after a power cut, by the log of a recorded run.

A cut is a moment in the log. The disk has all writes until the last flush before it. Of each later write it may
have all, nothing, or some of its blocks of 4 KB, whether or not it has earlier ones: a volatile cache writes back
in any order. A block itself is there or not, because a disk writes whole sectors.
"""

from __future__ import annotations

import bisect
import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .blocklog import Entry, entries

__all__ = ["Cut", "Replay"]

_BLOCK = 4096

#: How much of the unflushed writes arrives, by the name under which the loss is reported.
_FATES = {"all": 1.0, "most": 0.9, "half": 0.5, "few": 0.1, "none": 0.0}


@dataclass(frozen=True)
class Cut:
    """A cut after *index* entries of the log, *at* the moment when the next one would have come. *fate*: how many
    of the unflushed writes arrive.
    """

    index: int
    at: float
    fate: str


class Replay:
    """The states that cuts leave of a disk that was *base* before a run. Each cut is to be later than the one
    before."""

    def __init__(self, base: Path, log: Path, directory: Path) -> None:
        self._entries = entries(log)
        self._moments = [entry.at for entry in self._entries]
        self._log = open(log, "rb", buffering=0)  # noqa: SIM115
        self._flushed = directory / "flushed"
        copy(base, self._flushed)
        self._disk = os.open(self._flushed, os.O_RDWR | os.O_CLOEXEC)
        self._done = 0
        self._flushes = [number for number, entry in enumerate(self._entries) if entry.is_flush]

    def close(self) -> None:
        self._log.close()
        os.close(self._disk)

    def at(self, moment: float, fate: str = "all") -> Cut:
        """Return the cut at a *moment* of the monotonic clock."""
        return Cut(bisect.bisect_left(self._moments, moment), moment, fate)

    def cuts(self, count: int, since: float, until: float, chance: random.Random, *, in_time: bool) -> list[Cut]:
        """Return *count* cuts between two moments, in their order.

        :param in_time: choose them evenly over time, as the power fails. Otherwise by the log: anywhere, next to a
            flush, or where much is not flushed, so that short moments are hit too.
        """
        first, last = self.at(since).index, self.at(until).index
        flushes = [number for number in self._flushes if first <= number < last]
        if not flushes:
            raise AssertionError(f"nothing was flushed in {until - since:.1f} s: this tests nothing")
        unflushed = [
            number - flushes[max(0, bisect.bisect_left(flushes, number) - 1)] for number in range(first, last)
        ]
        chosen = []
        for _ in range(count):
            way = "in time" if in_time else chance.choice(("anywhere", "next to a flush", "much to lose"))
            if way == "in time":
                index = self.at(chance.uniform(since, until)).index
            elif way == "anywhere":
                index = chance.randrange(first, last)
            elif way == "next to a flush":
                index = min(max(first, chance.choice(flushes) + chance.randint(-2, 2)), last - 1)
            else:
                index = chance.choices(range(first, last), [max(1, many) for many in unflushed])[0]
            at = self._moments[index] if index < len(self._moments) else until
            chosen.append(Cut(index, at, chance.choice(list(_FATES))))
        return sorted(chosen, key=lambda cut: cut.index)

    def make(self, cut: Cut, image: Path, chance: random.Random) -> int:
        """Write the state that *cut* leaves to *image*, and return how many blocks had not been flushed."""
        before = bisect.bisect_left(self._flushes, cut.index)
        flushed = self._flushes[before - 1] if before else 0
        for entry in self._entries[self._done : flushed]:
            if not entry.is_flush:
                self._write(entry, self._disk)
        self._done = max(self._done, flushed)
        copy(self._flushed, image)
        unflushed = [entry for entry in self._entries[self._done : cut.index] if not entry.is_flush]
        disk = os.open(image, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for entry in unflushed:
                self._write_some(entry, disk, _FATES[cut.fate], chance)
        finally:
            os.close(disk)
        return sum(-(-entry.length // _BLOCK) for entry in unflushed)

    def _write(self, entry: Entry, disk: int, begin: int = 0, end: int | None = None) -> None:
        size = (entry.length if end is None else end) - begin
        os.pwrite(disk, os.pread(self._log.fileno(), size, entry.position + begin), entry.offset + begin)

    def _write_some(self, entry: Entry, disk: int, share: float, chance: random.Random) -> None:
        if share in (0.0, 1.0) or chance.random() < 0.5:
            if chance.random() < share:
                self._write(entry, disk)
            return
        begin = 0
        while begin < entry.length:
            end = min(entry.length, begin + _BLOCK - (entry.offset + begin) % _BLOCK)
            if chance.random() < share:
                self._write(entry, disk, begin, end)
            begin = end


def copy(image: Path, to: Path) -> None:
    """Copy a sparse file, and keep the copy sparse."""
    subprocess.run(["cp", "--sparse=always", str(image), str(to)], check=True)
