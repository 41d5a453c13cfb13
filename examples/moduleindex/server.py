"""A real gunicorn that serves an application on a free port of the loopback interface.

The listening socket is opened here and inherited, so that no port is guessed and clients may
connect before the first worker is up: the kernel keeps them until then.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_CONFIGURATION = Path(__file__).with_name("gunicorn_conf.py")


class Gunicorn:
    """A running gunicorn; leaving the ``with`` block ends it and every process that it started."""

    def __init__(
        self,
        options: Sequence[str],
        settings: Mapping[str, str],
        log: Path,
        configuration: Path = _CONFIGURATION,
    ) -> None:
        self._log = log
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, log.open("wb") as out:
            self.port: int = listener.getsockname()[1]
            bound = ["--bind", f"fd://{listener.fileno()}"]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", str(configuration), *bound, *options],
                env={**os.environ, **settings},
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # so that the whole family can be ended by one signal
            )

    def log(self, characters: int = 6000) -> str:
        """The last that gunicorn and its workers have said so far."""
        return self._log.read_text(errors="replace")[-characters:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):  # none left: the usual case
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass(frozen=True)
class Kill:
    """A worker that was killed: not before *asked*, and *gone* at the latest at that moment (monotonic)."""

    pid: int
    asked: int
    gone: int


def kill(pid: int, seconds: float = 30) -> Kill:
    """SIGKILL *pid*, another process's child, and wait until its parent has reaped it."""
    asked = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return Kill(pid, asked, time.monotonic_ns())
        time.sleep(0.005)
    raise TimeoutError(f"process {pid} was killed and still is there after {seconds:g} s")
