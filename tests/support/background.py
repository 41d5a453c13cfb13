"""Creators that a process of their own can import, and that tell what they do in a log of real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.processes import PATIENCE, Record, wait_for

__all__ = [
    "RECORD",
    "build",
    "build_directory",
    "build_when_told",
    "fail",
    "hang_with_children",
    "kill_itself",
    "refuse",
    "set_up",
]

#: The environment variable with the directory of the log.
RECORD = "DOGPILE_FS_TEST_RECORD"


def _record() -> Record:
    return Record(Path(os.environ[RECORD]))


def build(target: str) -> None:
    """Make a file with the process id."""
    record = _record()
    record.write("begun")
    Path(target).write_text(f"{os.getpid()}")
    record.write("ended")


def build_when_told(target: str) -> None:
    """Make a file once there is a file ``go`` beside the log."""
    record = _record()
    record.write("begun")
    wait_for((record.directory.parent / "go").exists, "the word to go on")
    Path(target).write_text(f"{os.getpid()}")
    record.write("ended")


def build_directory(target: str) -> None:
    os.mkdir(target)
    build(os.path.join(target, "pid"))


def fail(target: str) -> None:
    _record().write("begun")
    raise ValueError("no source")


def refuse(path: str) -> bool:
    return False


def kill_itself(target: str) -> None:
    _record().write("begun")
    os.kill(os.getpid(), signal.SIGKILL)


def hang_with_children(target: str) -> None:
    """Never end, and have a child that ignores SIGTERM."""
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(1000)"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()  # it ignores the signal now
    _record().write("begun", child=child.pid)
    time.sleep(PATIENCE)


def set_up() -> None:
    _record().write("set up", imported="tests.support.scenes" in sys.modules)
