"""Nemeses: deaths, stops, wrong clocks, harmed files and load, each at random beside a round.

A nemesis is called to ``strike`` at random moments. Each of its actions is an operation of its own in the history,
so that the checker knows what it may have caused. Lasting harm is undone ``later``.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Protocol

from .history import Journal

__all__ = ["NEMESES", "Nemesis", "Stage", "Worker", "lying_clock", "set_clock"]


class Worker(Protocol):
    """A process of the round."""

    @property
    def process(self) -> str:
        """The name of its history."""

    popen: subprocess.Popen[bytes]


class Stage(Protocol):
    """The objects of a nemesis."""

    random: random.Random
    journal: Journal
    #: The directory of the resource, and the coordination files by their kinds.
    directory: Path
    coordination: dict[str, Path]
    #: What the resource is made from.
    input: Path
    #: The files from which the clocks of the workers read their offsets.
    clocks: list[Path]
    #: The owner of the coordination files, if that is not this process's user.
    owner: int | None

    @property
    def workers(self) -> Sequence[Worker]: ...

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Call *do* so many seconds from now, at the latest when the round is over."""


class Nemesis(ABC):
    """Harm what is on *stage*."""

    #: Seconds between two strokes, on average.
    pause = 0.2

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @abstractmethod
    def strike(self) -> None: ...

    def end(self) -> None:  # noqa: B027  (most have nothing to end)
        """End with the round."""


class Kills(Nemesis):
    """Send SIGKILL to a process."""

    pause = 0.4

    def strike(self) -> None:
        if self.stage.workers:
            worker = self.stage.random.choice(self.stage.workers)
            op = self.stage.journal.begin("kill")
            self.stage.journal.note(op, "killed", process=worker.process)
            worker.popen.kill()


class Stops(Nemesis):
    """Send SIGSTOP to a process, and SIGCONT later."""

    def strike(self) -> None:
        if not self.stage.workers:
            return
        worker = self.stage.random.choice(self.stage.workers)
        op = self.stage.journal.begin("stop")
        self.stage.journal.note(op, "stopped", process=worker.process)
        worker.popen.send_signal(signal.SIGSTOP)

        def go_on() -> None:
            worker.popen.send_signal(signal.SIGCONT)
            self.stage.journal.note(op, "continued", process=worker.process)

        self.stage.later(self.stage.random.choice([0.005, 0.05, 0.3, 0.8]), go_on)


class Clocks(Nemesis):
    """Set the wall clock of a process forth and back."""

    def strike(self) -> None:
        clock = self.stage.random.choice(self.stage.clocks)
        by = self.stage.random.choice([0, 0, -3600, 3600, -0.5, 0.5, -86400 * 400, 86400 * 400, -3, 3])
        op = self.stage.journal.begin("clock", by=by, clock=clock.name)
        set_clock(clock, by)
        self.stage.journal.note(op, "ended")


class Files(Nemesis):
    """Harm the coordination files, and their directory, as another program may."""

    pause = 0.1

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        #: A sidecar of some time ago.
        self._kept: bytes | None = None
        self._away = False

    def strike(self) -> None:
        if self._away:
            return
        kind = self.stage.random.choice(["sidecar", *self.stage.coordination, "directory"])
        if kind == "directory":
            if self.stage.random.random() < 0.3:
                self._move("directory", self.stage.directory, self.stage.directory.with_suffix(".away"))
            return
        file = self.stage.coordination[kind]
        hows = ["delete", "truncate", "scribble", "replace", "link", "fifo", "chmod", "away"]
        how = self.stage.random.choice([*hows, "older"] if kind == "sidecar" else hows)
        if how == "away":
            self._move(kind, file, file.with_suffix(".away"))
            return
        # The contents of a lock file mean nothing, and the owner of a file may restore its permissions: neither
        # excuses a violation.
        excuses = kind if kind in ("sidecar", "marker") or how in ("delete", "replace", "link", "fifo") else ""
        op = self.stage.journal.begin("tamper", file=excuses, how=how, of=file.name)
        with suppress(OSError):  # it is not there, or no regular file
            getattr(self, f"_{how}")(file)
        self.stage.journal.note(op, "ended")

    def _delete(self, file: Path) -> None:
        file.unlink()

    def _truncate(self, file: Path) -> None:
        if not file.is_file():
            return
        os.truncate(file, self.stage.random.choice([0, 100, 511, 600]))

    def _scribble(self, file: Path) -> None:
        fd = os.open(file, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            scribble = self.stage.random.randbytes(self.stage.random.choice([1, 40, 600]))
            somewhere = self.stage.random.randrange(os.fstat(fd).st_size or 1)
            # In the file with the records of keys, not where it is a hole.
            os.pwrite(fd, scribble, os.lseek(fd, somewhere, os.SEEK_DATA) + self.stage.random.randrange(500))
        finally:
            os.close(fd)

    def _replace(self, file: Path) -> None:
        self._put(file, self.stage.random.randbytes(self.stage.random.choice([0, 10, 512, 5000])))

    def _older(self, file: Path) -> None:
        """Put an older sidecar back, as from a backup."""
        if self._kept is not None and file.suffix == ".dogpile":
            self._put(file, self._kept)
        self._kept = file.read_bytes() if file.suffix == ".dogpile" and file.is_file() else self._kept

    def _put(self, file: Path, contents: bytes) -> None:
        new = file.with_suffix(".foreign")
        new.write_bytes(contents)
        new.chmod(0o666)
        if self.stage.owner is not None:
            os.chown(new, self.stage.owner, self.stage.owner)
        new.replace(file)

    def _link(self, file: Path) -> None:
        with suppress(FileExistsError):
            file.unlink()
            file.symlink_to(self.stage.random.choice(["/nonexistent/place", "canary", file.name]))

    def _fifo(self, file: Path) -> None:
        with suppress(FileExistsError):
            file.unlink()
            os.mkfifo(file)

    def _chmod(self, file: Path) -> None:
        if file.is_file() and not file.is_symlink():
            file.chmod(self.stage.random.choice([0, 0o400, 0o200]))

    def _move(self, kind: str, file: Path, away: Path) -> None:
        op = self.stage.journal.begin("tamper", file=kind, how="away", of=file.name)
        try:
            file.rename(away)
        except FileNotFoundError:
            self.stage.journal.note(op, "ended")
            return
        self._away = True

        def move_back() -> None:
            with suppress(OSError):
                away.rename(file)
            self.stage.journal.note(op, "ended")
            self._away = False

        self.stage.later(self.stage.random.choice([0.001, 0.01, 0.05]), move_back)


class Inputs(Nemesis):
    """Change what the resource is made from. Each change makes another size or mtime, or removes the file."""

    pause = 0.12

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._number = 0

    def strike(self) -> None:
        self._number += 1
        how = self.stage.random.choice(["write", "older", "replace", "touch", "remove"])
        if not self.stage.input.exists():
            how = "write"
        state = "missing" if how == "remove" else f"state {self._number}"
        op = self.stage.journal.begin("input", how=how, state=state)
        getattr(self, f"_{how}")(self.stage.input)
        self.stage.journal.note(op, "ended")

    def _write(self, file: Path) -> None:
        """Write other contents in place; no other state has their size, but those made from this one."""
        with file.open("r+b" if file.exists() else "wb") as opened:
            opened.write(bytes(100 + self._number))
            opened.truncate()

    def _older(self, file: Path) -> None:
        """Put a file of the same size and with an older mtime there, as from a backup."""
        self._put(file, file.stat().st_mtime_ns - 1_000_000_000)

    def _replace(self, file: Path) -> None:
        self._put(file, time.time_ns())

    def _put(self, file: Path, mtime_ns: int) -> None:
        new = file.with_suffix(".new")
        new.write_bytes(self.stage.random.randbytes(file.stat().st_size))
        os.utime(new, ns=(mtime_ns, mtime_ns))
        new.replace(file)

    def _touch(self, file: Path) -> None:
        now = time.time_ns()
        os.utime(file, ns=(now, now))

    def _remove(self, file: Path) -> None:
        file.unlink()


#: Burns until the process that started it is gone, perhaps killed.
_BURN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(10_000))"


class Load(Nemesis):
    """Keep all cores busy."""

    pause = 1e9

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._burners = [subprocess.Popen([sys.executable, "-S", "-c", _BURN]) for _ in range(os.cpu_count() or 2)]

    def strike(self) -> None:
        pass

    def end(self) -> None:
        for burner in self._burners:
            burner.kill()
            burner.wait()


#: The nemeses that run beside. Others are part of the programs: see programs.py.
NEMESES: dict[str, type[Nemesis]] = {
    "kills": Kills,
    "stops": Stops,
    "clocks": Clocks,
    "files": Files,
    "inputs": Inputs,
    "load": Load,
}


def set_clock(clock: Path, by: float) -> None:
    """Set the clock that *clock* controls so many seconds ahead."""
    with clock.open("r+b" if clock.exists() else "wb") as file:
        file.write(struct.pack("=q", int(by * 1e9)))


@cache
def lying_clock() -> str | None:
    """Build the library that reports a wrong time, and return its path; None where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    directory = tempfile.mkdtemp(prefix="dogpile-clock-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    os.chmod(directory, 0o755)
    library = os.path.join(directory, "lying_clock.so")
    source = Path(__file__).with_name("lying_clock.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library
