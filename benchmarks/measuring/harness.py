"""Many processes that begin together, note the moments of their events, and are evaluated afterwards.

Every process keeps its own track: moments on ``CLOCK_MONOTONIC``, which is one clock for all of them. It is in
memory, and is written to a file of its own when all roles have ended. So no process waits for another to report,
none takes processor time from those that are still measured, and the measuring is not measured. A process that has
not ended in time is interrupted, and its track shows how far it got: so starvation shows.

This module knows no contenders.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

__all__ = ["KEPT", "Crowd", "OutOfTime", "RoleFailed", "Track", "meanwhile", "processor_seconds", "seconds"]

#: Files that a scenario leaves in the directory of this name, in its scratch directory, are kept with the results.
KEPT = "kept"
#: Nanoseconds between the signal to begin and the beginning, so that the last process has received it too.
_NOTICE = 20_000_000
_MOMENT = struct.Struct("q")
#: Seconds in which a process that was interrupted must write down its track.
_GRACE = 10.0


class OutOfTime(BaseException):
    """A role did not end in time. No ``Exception``, so that no contender handles it as one of its own."""


class RoleFailed(Exception):
    """A role raised; the message is its traceback."""


class Track:
    """The track of one process. Moments are integers: nanoseconds on the monotonic clock."""

    def __init__(self, role: str, begin_at: int = -1, ready: int = -1, patience: float = 0.0) -> None:
        self.role = role
        self.marks: list[tuple[str, int]] = []
        #: Other results of a role, of types that JSON has.
        self.reported: dict[str, Any] = {}
        self.finished = False
        self.failure = ""
        self._begin_at = begin_at
        self._ready = ready
        self._patience = patience

    def begin(self) -> int:
        """Wait, when all is set up, for the others, and return the moment at which all begin."""
        os.write(self._ready, b".")
        begin: int = _MOMENT.unpack(os.read(self._begin_at, _MOMENT.size))[0]
        while (left := begin - time.monotonic_ns()) > 0:
            time.sleep(left / 1e9)
        signal.setitimer(signal.ITIMER_REAL, self._patience)
        return begin

    def mark(self, what: str) -> int:
        """Note that *what* happens now, and return the moment."""
        now = time.monotonic_ns()
        self.marks.append((what, now))
        return now

    def moments(self, what: str) -> list[int]:
        """Return the moments of *what* in this process."""
        return [at for name, at in self.marks if name == what]

    def at(self, what: str) -> int | None:
        """Return the first moment of *what*; None if there is none."""
        return next(iter(self.moments(what)), None)

    def as_json(self) -> dict[str, Any]:
        return {"marks": self.marks, "reported": self.reported, "finished": self.finished, "failure": self.failure}


class Crowd:
    """Processes forked from here, each in a role, that begin at one moment.

    A process whose role has ended, or was interrupted, sleeps until no role is left: to write a track and to exit
    costs about a millisecond of processor time, for which other processes may wait.

    :param place: an existing directory for their tracks.
    :param patience: seconds from the beginning after which a role is interrupted.

    >>> import tempfile
    >>> def role(track):
    ...     track.begin()
    ...     track.mark("there")
    >>> crowd = Crowd(Path(tempfile.mkdtemp()), patience=5)
    >>> crowd.add("walker", role, count=2)
    >>> [track.finished for track in crowd.run()]
    [True, True]
    """

    def __init__(self, place: Path, patience: float) -> None:
        self.place = place
        self.patience = patience
        self._roles: list[tuple[str, Callable[..., object], tuple[Any, ...]]] = []

    def add(self, name: str, role: Callable[..., object], *args: Any, count: int = 1) -> None:
        """Let *count* processes call ``role(track, *args)``, which calls ``track.begin()`` once, when it is set
        up."""
        self._roles += [(name, role, args)] * count

    def run(self) -> list[Track]:
        """Let them all begin, wait for them all, and return their tracks, in the order in which they were added.

        :raises RoleFailed: if one of them raised.
        """
        begin_at, tell = os.pipe()
        ready, say = os.pipe()
        # No process writes here: the pipe ends when no process has a role left, because each closes it after its
        # role, and the kernel does so for one that was killed.
        all_over, playing = os.pipe()
        pids: list[int] = []
        try:
            for number, (name, role, args) in enumerate(self._roles):
                pid = os.fork()
                if pid == 0:
                    os.close(tell)
                    os.close(ready)
                    track = Track(name, begin_at, say, self.patience)
                    self._play(number, track, role, args, all_over, (say, playing))
                pids.append(pid)
            os.close(say)
            os.close(playing)
            say = playing = -1
            self._wait_until_ready(ready, len(pids))
            os.write(tell, _MOMENT.pack(time.monotonic_ns() + _NOTICE) * len(pids))
            self._wait_for_the_end(pids, all_over)
        finally:
            for pid in pids:  # after an error some are left
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            for fd in (begin_at, tell, ready, say, all_over, playing):
                if fd >= 0:
                    os.close(fd)
        tracks = [self._track(number, name) for number, (name, _, _) in enumerate(self._roles)]
        for track in tracks:
            if track.failure:
                raise RoleFailed(f"{track.role}:\n{track.failure}")
        return tracks

    def _play(
        self,
        number: int,
        track: Track,
        role: Callable[..., object],
        args: tuple[Any, ...],
        all_over: int,
        let_go: tuple[int, ...],
    ) -> NoReturn:
        """Play the role in the child, then close the descriptors *let_go*, and wait until *all_over* ends."""
        over = False

        def interrupt(_number: int, _frame: FrameType | None) -> None:
            if not over:
                # Again soon, in case a destructor or a callback has swallowed this one.
                signal.setitimer(signal.ITIMER_REAL, 0.5)
                raise OutOfTime

        status = 1
        try:
            signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, self.patience + _GRACE)  # until begin(): for setting up
            with suppress(OutOfTime):
                try:
                    role(track, *args)
                    track.finished = True
                except OutOfTime:
                    pass
                except BaseException:
                    track.failure = traceback.format_exc()
                finally:
                    over = True  # no call, so that no interrupt comes between: from here on there is none
            signal.setitimer(signal.ITIMER_REAL, 0)
            for fd in let_go:
                os.close(fd)
            os.read(all_over, 1)
            self._file(number).write_text(json.dumps(track.as_json()))
            status = 0
        finally:
            # No atexit functions, no destructors: they belong to the parent, or take time that is not measured.
            os._exit(status)

    def _wait_until_ready(self, ready: int, count: int) -> None:
        deadline = time.monotonic() + self.patience + _GRACE
        while count > 0:
            if not select.select([ready], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise RoleFailed(f"{count} processes were not set up in time")
            said = len(os.read(ready, 4096))
            if said == 0:
                break  # they have ended: their tracks say why
            count -= said

    def _wait_for_the_end(self, pids: list[int], all_over: int) -> None:
        deadline = time.monotonic() + self.patience + 2 * _GRACE
        select.select([all_over], [], [], self.patience + 2 * _GRACE)  # asleep while there is something to measure
        while pids:
            done, _ = os.waitpid(pids[0], os.WNOHANG)
            if done:
                del pids[0]
            elif time.monotonic() > deadline:
                raise RoleFailed(f"{len(pids)} processes could not be interrupted")
            else:
                time.sleep(0.005)

    def _file(self, number: int) -> Path:
        return self.place / f"track-{number}.json"

    def _track(self, number: int, name: str) -> Track:
        track = Track(name)
        file = self._file(number)
        try:
            data = json.loads(file.read_text())
        except (OSError, ValueError):
            track.failure = "it left no track: it was killed"
            return track
        file.unlink()
        track.marks = [(what, at) for what, at in data["marks"]]
        track.reported, track.finished, track.failure = data["reported"], data["finished"], data["failure"]
        return track


@contextmanager
def meanwhile(action: Callable[[Callable[[], None]], object]) -> Iterator[None]:
    """A block during which another process is inside ``action(block)``, namely where it calls ``block()``.

    ``block()`` does not return: when this block ends, the process ends where it stands, as if it were killed.
    """
    end_at, end = os.pipe()
    inside_at, inside = os.pipe()
    pid = os.fork()
    if pid == 0:

        def block() -> NoReturn:
            os.write(inside, b".")
            os.read(end_at, 1)  # until the parent closes its end, or dies
            os._exit(0)

        try:
            os.close(end)
            os.close(inside_at)
            action(block)
            raise AssertionError("the action did not call block()")
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(end_at)
    os.close(inside)
    try:
        if not os.read(inside_at, 1):
            raise RoleFailed("the other process has ended; see its traceback")
        yield
    finally:
        os.close(end)
        os.close(inside_at)
        os.waitpid(pid, 0)


def seconds(begin: int, end: int) -> float:
    """Return the seconds from one moment to another."""
    return (end - begin) / 1e9


def processor_seconds() -> tuple[float, float]:
    """Return the processor time of this process so far: in its own code, in the kernel."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime
