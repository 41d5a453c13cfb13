"""Whether a process of a group still runs, by /proc."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

import pytest

from dogpile_fs.cli.child.process_group import ProcessGroup
from tests.support import machine
from tests.support.processes import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc, as Linux has it")

_EXIT_OF_A_THREAD = {"x86_64": 60, "aarch64": 93}


def state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def forked(*, leave_a_thread: bool) -> int:
    """Fork a child in a group of its own; its first thread ends, or all of it. It is not reaped."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setpgid(0, 0)
            os.write(write, b"x")
            if leave_a_thread:
                threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
                ctypes.CDLL(None).syscall(_EXIT_OF_A_THREAD[machine.NAME], 0)
        finally:
            os._exit(0)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    return child


@pytest.mark.skipif(machine.NAME not in _EXIT_OF_A_THREAD, reason="the number of exit(2) is not known")
def test_a_process_whose_first_thread_has_ended_runs_as_long_as_another_does() -> None:
    child = forked(leave_a_thread=True)
    try:
        wait_for(lambda: state(child) == "Z", "the end of the first thread")
        assert ProcessGroup(child).any_runs()
        os.kill(child, signal.SIGKILL)
        wait_for(lambda: not ProcessGroup(child).any_runs(), "the end of all threads")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_process_that_has_ended_and_was_not_reaped_does_not_run() -> None:
    child = forked(leave_a_thread=False)
    try:
        wait_for(lambda: state(child) == "Z", "its end")
        # Another package's hook may have started a thread in the child, which ends a moment after the first one.
        wait_for(lambda: not ProcessGroup(child).any_runs(), "the end of all threads")
        os.killpg(child, 0)  # to the kernel the group exists
        assert state(child) == "Z"
    finally:
        os.waitpid(child, 0)
