"""Whether a process has a file open for writing: asked by a read lease (fcntl(2), ``F_SETLEASE``).

The kernel gives a read lease only while no process has the file open for writing, or mapped so; not even this one.
It is given back at once. A process that opens the file in between waits until then, and the kernel signals that to
this process: by SIGURG here, which is ignored unless a program handles it. The default, SIGIO, kills.
"""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import suppress

from .filesystem import DELEGATES, kind_of
from .paths import realpath

__all__ = ["has_writer", "is_copy", "name_of", "writers_at"]


def has_writer(fd: int) -> bool | None:
    """Return whether a process has the file open for writing; None if the system does not say.

    It says so for local file systems, to the file's owner and to root.

    :param fd: opened for reading only.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return None if kind_of(fd) in DELEGATES else True
    except (OSError, AttributeError):  # the latter: macOS
        return None
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def writers_at(path: str) -> list[int]:
    """Return which processes have the file at *path* open for writing, as far as this user may know.

    Only ``/proc`` is looked at: to look at the files themselves could wait for a network.
    """
    found = []
    real = realpath(path)
    for process in os.listdir("/proc") if os.path.isdir("/proc") else []:
        with suppress(OSError):
            if process.isdecimal() and _writes(f"/proc/{process}", real):
                found.append(int(process))
    return found


def name_of(pid: int) -> str:
    """Return the process *pid* with the name of its program, for messages."""
    if pid == os.getpid():
        return f"{pid} (this one)"
    with suppress(OSError), open(f"/proc/{pid}/comm") as file:
        return f"{pid} ({file.read().strip()})"
    return str(pid)


def is_copy(pid: int) -> bool:
    """Return whether *pid* was forked from this process, or is its parent, and has executed no other program.

    Such a process has copies of descriptors that another thread had open at the fork, and does not know of them.
    """
    if pid == os.getpid():
        return False
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as its, open("/proc/self/cmdline", "rb") as ours:
            return its.read() == ours.read() and os.path.samefile(f"/proc/{pid}/exe", "/proc/self/exe")
    except OSError:
        return False  # it has ended, or is another user's


def _writes(process: str, path: str) -> bool:
    for fd in os.listdir(f"{process}/fd"):
        with suppress(OSError):  # closed meanwhile
            if os.readlink(f"{process}/fd/{fd}") == path:
                with open(f"{process}/fdinfo/{fd}") as file:
                    flags = dict(line.split(":", 1) for line in file if ":" in line)["flags"]
                if int(flags, 8) & (os.O_WRONLY | os.O_RDWR):
                    return True
    return False
