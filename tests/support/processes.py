"""Real processes for the tests: started, watched through their logs, and killed at the end."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds that a test waits for an event that must come. A bound on hanging, not a measurement: far more than a
#: loaded machine needs.
PATIENCE = 60.0


def wait_for(condition: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T:
    """Wait until *condition* returns something true, and return it."""
    deadline = time.monotonic() + patience
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"timed out after {patience} s of waiting for {what}")
        time.sleep(0.001)
    return result


@dataclass(frozen=True)
class Event:
    """One event in the log of the process *pid*, at so many seconds on the monotonic clock."""

    what: str
    at: float
    pid: int
    more: dict[str, Any] = field(default_factory=dict)


class Record:
    """A log of events: one append-only file per process, one line per event, one ``write`` per line.

    It survives the death of its writers at any moment. ``CLOCK_MONOTONIC`` is one clock for all processes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)

    def write(self, what: str, **more: Any) -> None:
        line = json.dumps([what, time.monotonic(), os.getpid(), more]) + "\n"
        fd = os.open(self.directory / str(os.getpid()), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def events(self, *whats: str) -> list[Event]:
        """Return all events so far, or those called one of *whats*, in the order in which they happened."""
        texts = [file.read_text() for file in self.directory.iterdir()]
        # What follows the last newline is a line that is being written.
        lines = [line for text in texts for line in text.rpartition("\n")[0].splitlines()]
        events = [Event(*json.loads(line)) for line in lines]
        return sorted((e for e in events if not whats or e.what in whats), key=lambda e: e.at)

    def wait(self, what: str, count: int = 1) -> list[Event]:
        """Wait until *what* has happened *count* times."""
        wait_for(lambda: len(self.events(what)) >= count, f"{count} times {what!r}; so far: {self.events()}")
        return self.events(what)

    def spans(self, begin: str, end: str) -> list[tuple[float, float, int]]:
        """Return (began, ended, pid) of each span from *begin* to *end*, one at a time per process."""
        spans: list[tuple[float, float, int]] = []
        began: dict[int, float] = {}
        for event in self.events(begin, end):
            if event.what == begin:
                began[event.pid] = event.at
            else:
                spans.append((began.pop(event.pid), event.at, event.pid))
        return spans


def overlaps(one: list[tuple[float, float, int]], other: list[tuple[float, float, int]]) -> list[Any]:
    """Return the pairs of a span of *one* and another span of *other* that share a moment."""
    return [(a, b) for a in one for b in other if a is not b and a[0] < b[1] and b[0] < a[1]]


class Processes:
    """Start processes by ``fork`` or ``spawn``, and kill those that still run at the end."""

    def __init__(self) -> None:
        self.started: list[BaseProcess] = []

    def start(self, target: Callable[..., object], *args: Any, method: str = "fork") -> BaseProcess:
        process: BaseProcess = multiprocessing.get_context(method).Process(  # type: ignore[attr-defined]
            target=target, args=args, daemon=True
        )
        process.start()
        self.started.append(process)
        return process

    def start_many(
        self, count: int, target: Callable[..., object], *args: Any, method: str = "fork"
    ) -> list[BaseProcess]:
        return [self.start(target, *args, method=method) for _ in range(count)]

    def join(self, *processes: BaseProcess) -> None:
        """Wait until *processes* (default: all started) have ended with status 0."""
        for process in processes or self.started:
            process.join(PATIENCE)
            if process.exitcode is None and process.pid is not None:
                os.kill(process.pid, signal.SIGABRT)  # faulthandler tells where it hangs
                process.join(PATIENCE)
            assert process.exitcode == 0, f"{process} ended with {process.exitcode}"

    def end(self) -> None:
        for process in self.started:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)
        for process in self.started:
            process.join(PATIENCE)


def in_child(action: Callable[[], object]) -> int:
    """Run *action* in a forked child, and return its pid. Its exit status is 0 if it returned, 1 if it raised."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def wait_until_other_threads_sleep() -> None:
    """Wait until no other thread of this process has run for a while.

    A fork without Python's hooks copies the lock of the interpreter as it is. If another thread asks for it at
    that moment, the child may wait for that thread, which it does not have.
    """

    def switches() -> int:
        own, count = threading.get_native_id(), 0
        for thread in os.listdir("/proc/self/task"):
            if int(thread) != own:
                with suppress(FileNotFoundError), open(f"/proc/self/task/{thread}/status") as status:
                    count += sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
        return count

    def have_slept() -> bool:
        before = switches()
        time.sleep(0.02)
        return switches() == before

    wait_for(have_slept, "the sleep of all other threads")


def ended_well(pid: int, patience: float = PATIENCE) -> bool:
    """Wait for the child *pid*, and return whether it ended with status 0. Kill it if it hangs."""

    def reaped() -> tuple[int, int] | None:
        done, status = os.waitpid(pid, os.WNOHANG)
        return (done, status) if done else None

    try:
        return wait_for(reaped, f"the end of process {pid}", patience)[1] == 0
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        raise


def wait_until_it_waits_for_a_release(thread: threading.Thread) -> None:
    """Wait until *thread* has seen that a mutex is locked, and waits until it is released."""

    def waits() -> bool:
        frame = sys._current_frames().get(thread.ident or 0)
        while frame is not None and frame.f_code.co_name != "_wait_released":
            frame = frame.f_back
        return frame is not None

    wait_for(waits, f"{thread.name} to wait for a release")


def waiters_for(lock_file: str) -> int:
    """Return how many processes wait in the kernel for a lock on *lock_file*."""
    inode = os.stat(lock_file).st_ino
    with open("/proc/locks") as locks:
        return sum("->" in line and f":{inode} " in line for line in locks)
