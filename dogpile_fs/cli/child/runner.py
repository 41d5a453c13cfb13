"""COMMAND as a child in a process group of its own: started, waited for, and ended with all its children.

Promised: no process of the group runs after :class:`Interrupted` or a timeout; no exception leaves COMMAND
running; and if this process is killed by SIGKILL, the group is too (:mod:`.watchdog`).
"""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from time import monotonic

from ..durations import format_seconds
from ..exits import BY_SIGNAL, NOT_EXECUTABLE, NOT_FOUND, OSERR, TIMED_OUT, Exit, status_of
from .progress import Progress
from .signals import Signals
from .termination import Termination
from .watchdog import Watchdog

__all__ = ["OUTPUT_VARIABLE", "VARIABLES", "Interrupted", "Runner", "shell_status"]

#: The environment variable with the path that COMMAND shall make.
OUTPUT_VARIABLE = "DOGPILE_FS_OUTPUT"
#: All variables that a command may be given. Those that this process was started with are of a run around it.
VARIABLES = (
    OUTPUT_VARIABLE,
    "DOGPILE_FS_PREVIOUS",
    "DOGPILE_FS_NOTE",
    "DOGPILE_FS_NOTE_FILE",
    "DOGPILE_FS_FAILURE",
    "DOGPILE_FS_FAILURES",
)

#: The errors of a system that has no more processes, memory or descriptors: not COMMAND's fault.
_EXHAUSTED = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)

_HINT = ". Hint: write its whole path, or set PATH, which cron gives few directories"

#: The locales of PEP 538, in the order in which the interpreter tries them.
_COERCED_TO = ("C.UTF-8", "C.utf8", "UTF-8")


class Interrupted(KeyboardInterrupt):
    """Signal *number* told this process to end, and its child has ended: now it ends itself by that signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


class Runner:
    """Run commands, one after the other, with the same timeout.

    :param signals: entered before anything is run.
    :param timeout: seconds after which a command is ended; ``None``: never.
    :param kill_after: seconds between asking a command to end and SIGKILL.
    """

    def __init__(self, signals: Signals, timeout: float | None, kill_after: float) -> None:
        self.signals = signals
        self.timeout = timeout
        self.kill_after = kill_after

    def run(
        self,
        words: Sequence[str],
        variables: Mapping[str, str],
        *,
        name: str,
        stdout: int | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Run the command *words* and wait for its end.

        :param variables: those of :data:`VARIABLES` that it finds in its environment.
        :param name: what messages call it.
        :param stdout: a descriptor for what it prints; ``None``: this process's own.
        :returns: its exit status; -n if signal n ended it.
        :raises Interrupted: if a signal told this process to end; the command and its group have ended.
        :raises Exit: if it could not be started, or took longer than *timeout*.
        """
        try:
            with Watchdog() as watchdog:
                try:
                    process = _start(words, variables, name, stdout, watchdog.group)
                except BaseException:
                    watchdog.kill_group()  # the command may run already
                    raise
                termination = Termination(watchdog, process, self.kill_after)
                try:
                    self._wait(process, termination, progress)
                except BaseException:
                    termination.kill()
                    process.wait()
                    raise
                finally:
                    if progress is not None:
                        progress.clear()
        except OSError as error:
            raise Exit(status_of(error), f"cannot run {name} to its end: {error.strerror}") from error
        if termination.interrupted_by:
            raise Interrupted(termination.interrupted_by)
        if termination.timed_out:
            took = format_seconds(self.timeout or 0)
            why = f"{name} did not end within {took} and was ended"
            raise Exit(TIMED_OUT, why, "timeout", process.returncode)
        return process.returncode

    def _wait(self, process: subprocess.Popen[bytes], termination: Termination, progress: Progress | None) -> None:
        began = monotonic()
        due = began + (math.inf if self.timeout is None else self.timeout)
        while process.poll() is None:
            next_look = min(due, termination.kill_at, math.inf if progress is None else progress.next_at)
            for number in self.signals.wait(None if next_look == math.inf else max(0.0, next_look - monotonic())):
                termination.by_signal(number)
            if monotonic() >= due and process.poll() is None:
                due = math.inf
                termination.by_timeout()
            termination.kill_if_due()
            if progress is not None:
                progress.show(monotonic() - began)
        if termination.begun:
            termination.finish(self.signals)


def shell_status(ended: int) -> int:
    """Return the exit status that a shell shows for what :meth:`Runner.run` has returned."""
    return ended if ended >= 0 else BY_SIGNAL - ended


def _start(
    words: Sequence[str], variables: Mapping[str, str], name: str, stdout: int | None, group: int
) -> subprocess.Popen[bytes]:
    # To read from a terminal would stop it: its group is in the background.
    stdin = subprocess.DEVNULL if os.isatty(0) else None
    environment = {**_callers_environment(), **variables}
    try:
        with _terminal_stops_ignored():
            return subprocess.Popen(words, stdin=stdin, stdout=stdout, env=environment, process_group=group)
    except OSError as error:
        status, why, hint = NOT_EXECUTABLE, error.strerror, ""
        if error.errno == errno.ENOENT:
            status = NOT_FOUND
        elif error.errno in _EXHAUSTED:
            status = OSERR
        elif error.errno == errno.EACCES and not _is_there(words[0], environment):
            # execvp(3) says so of a directory in PATH that it may not search, though the command be nowhere.
            status, why = NOT_FOUND, "not found in a directory of PATH that this user may search"
        if status == NOT_FOUND and "/" not in words[0]:
            hint = _HINT
        why = why or "failed"
        raise Exit(status, f"cannot run {name}: {words[0]}: {why}{hint}", why) from error


def _is_there(command: str, environment: dict[str, str]) -> bool:
    """Return whether anything is where *command* is looked for, as far as this user may look."""
    if "/" in command:
        return True
    return any(os.path.exists(os.path.join(each, command)) for each in os.get_exec_path(environment))


def _callers_environment() -> dict[str, str]:
    """Return the environment that this process was started with.

    In the C locale, which is cron's, the interpreter sets LC_CTYPE to a UTF-8 locale for itself and its children
    (PEP 538): COMMAND would behave differently than without ``dogpile-fs``. ``/proc`` has the value before. A
    program made by PyInstaller finds its own libraries first, and keeps its caller's path under another name.
    """
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    if environment.get("LC_CTYPE") in _COERCED_TO:
        with suppress(OSError), open("/proc/self/environ", "rb") as file:
            given = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0"))
            if b"LC_CTYPE" in given:
                environment["LC_CTYPE"] = os.fsdecode(given[b"LC_CTYPE"])
            else:
                del environment["LC_CTYPE"]
    if getattr(sys, "frozen", False):
        environment.pop("LD_LIBRARY_PATH", None)
        if (given_path := environment.pop("LD_LIBRARY_PATH_ORIG", None)) is not None:
            environment["LD_LIBRARY_PATH"] = given_path
    return environment


@contextmanager
def _terminal_stops_ignored() -> Iterator[None]:
    """Start children in the block with SIGTTIN and SIGTTOU ignored, so that the terminal does not stop them.

    A process of a background group that reads from its terminal is stopped by SIGTTIN, and one that writes to it
    may be stopped by SIGTTOU; where these are ignored, reading fails and writing succeeds. Ignored signals stay
    ignored through ``exec``.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTTIN, signal.SIGTTOU)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
