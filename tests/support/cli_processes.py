"""Run ``dogpile-fs`` as real processes in a directory of their own, with COMMANDs that wait at a gate."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .places import ours_in
from .processes import PATIENCE, wait_for

__all__ = ["Cli", "bytecode", "cli", "gone", "logger_as_before"]

_CLI = (sys.executable, "-m", "dogpile_fs")

_ROOT = Path(__file__).parents[2]

#: Shell code that writes down that it runs, then waits for :meth:`Cli.open_gate`.
GATED = 'echo $$ >> started; read word < gate; echo "$word" > "$DOGPILE_FS_OUTPUT"; echo $$ >> finished'


class Cli:
    """Start ``dogpile-fs`` in *directory*, and kill the processes that still run at the end.

    The directory has a FIFO ``gate``: a process that reads from it waits for :meth:`open_gate`.
    """

    def __init__(self, directory: Path, bytecode: Path) -> None:
        self.directory = directory
        self.started: list[subprocess.Popen[str]] = []
        #: The words of a program that starts ``dogpile-fs``, before its own.
        self.starter: list[str] = []
        os.mkfifo(directory / "gate")
        # Compiled modules, as users have them, also where this user may not write beside the package.
        self.environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(bytecode), "TERM": "xterm"}
        self.environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def command(self, *words: str) -> list[str]:
        """Return the command line of ``dogpile-fs`` with *words*."""
        return [*self.starter, *_CLI, *words]

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start ``dogpile-fs`` with *words* and *options* of ``Popen``; by default its output is captured."""
        options = {
            "cwd": self.directory,
            "env": self.environment,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        }
        process = subprocess.Popen(self.command(*words), text=True, **options)
        self.started.append(process)
        return process

    def run(self, *words: str, status: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run it to its end, which must have the exit *status*."""
        return self.end(self.start(*words, **options), status)

    def end(self, process: subprocess.Popen[str], status: int = 0) -> subprocess.CompletedProcess[str]:
        """Wait for the end of *process*, which must have the exit *status*."""
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == status, f"exit status {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in (err or ""), err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def make(self, file: str = "file", contents: str = "old") -> None:
        """Make *file*, fresh for ``--expire 1h`` and stale for ``--expire 0``."""
        self.run("run", "--expire", "1h", "--output", file, "--stdout", "--", "echo", contents)

    def start_gated(self, *options: str, expire: str = "0", **more: Any) -> subprocess.Popen[str]:
        """Start a ``run`` for ``file`` whose COMMAND waits for :meth:`open_gate`."""
        return self.start("run", "--expire", expire, "--output", "file", *options, "--", "sh", "-c", GATED, **more)

    def wait_for_line(self, name: str, count: int = 1) -> list[str]:
        """Wait until *name* has *count* whole lines, and return all of them."""

        def lines() -> list[str] | None:
            text = self.text(name)
            found = text.splitlines()[: text.count("\n")]
            return found if len(found) >= count else None

        return wait_for(lines, f"{count} lines in {name!r}")

    def open_gate(self, word: str = "new") -> None:
        """Resume the COMMAND that waits at the gate, with *word* as the contents of its file."""
        with open(self.directory / "gate", "w") as gate:
            gate.write(word + "\n")

    def text(self, name: str = "file") -> str:
        """Return the contents of *name*, ``""`` if there is no such file."""
        try:
            return (self.directory / name).read_text()
        except FileNotFoundError:
            return ""

    def left_behind(self) -> list[str]:
        """Return the names of the temporary files."""
        return ours_in(self.directory)

    def kill_all(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=PATIENCE)


def gone(pid: int) -> bool:
    """Return whether the process *pid* has ended, reaped or not."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory of compiled modules for all test modules that import this fixture, and for all workers."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "bytecode"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


@pytest.fixture
def cli(tmp_path: Path, bytecode: Path) -> Iterator[Cli]:
    directory = tmp_path / "work"
    directory.mkdir()
    cli = Cli(directory, bytecode)
    # The dispositions of a shell's child, and not those that pytest was started with.
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGTERM)}
    yield cli
    cli.kill_all()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def logger_as_before() -> Iterator[None]:
    """Restore the package's logger after a test that calls the command in this process, which configures it."""
    log = logging.getLogger("dogpile_fs")
    handlers, level = log.handlers[:], log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)
