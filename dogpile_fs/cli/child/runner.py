"""COMMAND as a child in a process group of its own: started, waited for, and ended with all its children.

Promised: nothing of the group runs on after :class:`Interrupted` or a timeout; an exception never leaves COMMAND
running unseen; and if this process is killed by SIGKILL, the group is too (:mod:`.guardian`).
"""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic

from ..durations import format_seconds
from ..exits import BY_SIGNAL, NOT_EXECUTABLE, NOT_FOUND, OSERR, TIMED_OUT, Exit, status_of
from .progress import Progress
from .signals import Signals
from .termination import Ending
from .watchdog import Guardian

__all__ = ["OUTPUT_VARIABLE", "Interrupted", "Runner", "shell_status"]

#: Where COMMAND finds the path that it shall make.
OUTPUT_VARIABLE = "DOGPILE_FS_OUTPUT"

# What the system says that has no more to give, which is not COMMAND's fault.
_EXHAUSTED = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


_CURES = {NOT_FOUND: ". Cure: write its whole path, or set PATH, which cron gives few directories"}

#: In the order in which the interpreter tries them.
_COERCED_TO = ("C.UTF-8", "C.utf8", "UTF-8")


class Interrupted(Exit):
    """A signal told this process to end, and it has ended its child: now it shall die by signal *number*."""

    def __init__(self, number: int) -> None:
        super().__init__(BY_SIGNAL + number, f"ended by {signal.Signals(number).name}")
        self.number = number


class Runner:
    """Runs one command after the other under the same terms.

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
        output: str,
        *,
        name: str,
        stdout: int | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Run the command *words* and wait for its end.

        :param output: what it finds in :data:`OUTPUT_VARIABLE`.
        :param name: what the user knows it as, for messages.
        :param stdout: a descriptor for what it prints; ``None``: this process's own.
        :returns: its exit status; -n if signal n ended it.
        :raises Interrupted: if this process was told to end; the command and its group have ended.
        :raises Exit: if it could not be started, or took too long.
        """
        with _telling_of(name), Guardian() as guardian:
            try:
                process = _start(words, output, name, stdout, guardian.group)
            except BaseException:
                guardian.kill_group()  # it may have been started all the same
                raise
            ending = Ending(guardian, process, self.kill_after)
            try:
                self._wait(process, ending, progress)
            except BaseException:
                ending.kill()
                process.wait()
                raise
            finally:
                if progress is not None:
                    progress.clear()
        if ending.interrupted_by:
            raise Interrupted(ending.interrupted_by)
        if ending.timed_out:
            raise Exit(TIMED_OUT, f"{name} did not end within {format_seconds(self.timeout or 0)} and was ended")
        return process.returncode

    def _wait(self, process: subprocess.Popen[bytes], ending: Ending, progress: Progress | None) -> None:
        began = monotonic()
        due = began + (math.inf if self.timeout is None else self.timeout)
        while process.poll() is None:
            next_look = min(due, ending.kill_at, math.inf if progress is None else progress.next_at)
            for number in self.signals.wait(None if next_look == math.inf else max(0.0, next_look - monotonic())):
                ending.by_signal(number)
            if monotonic() >= due and process.poll() is None:
                due = math.inf
                ending.by_timeout()
            ending.kill_if_due()
            if progress is not None:
                progress.show(monotonic() - began)
        if ending.begun:
            ending.finish(self.signals)


@contextmanager
def _telling_of(name: str) -> Iterator[None]:
    """What the system fails to do while the command *name* runs, or is to be run, is told as that."""
    try:
        yield
    except OSError as error:
        raise Exit(status_of(error), f"cannot run {name} to its end: {error.strerror}") from error


def shell_status(ended: int) -> int:
    """The exit status that a shell shows for what :meth:`Runner.run` has returned."""
    return ended if ended >= 0 else BY_SIGNAL - ended


def _start(
    words: Sequence[str], output: str, name: str, stdout: int | None, group: int
) -> subprocess.Popen[bytes]:
    # A terminal as stdin would stop it: its group is in the background.
    stdin = subprocess.DEVNULL if os.isatty(0) else None
    try:
        with _asking_nobody():
            return subprocess.Popen(
                words,
                stdin=stdin,
                stdout=stdout,
                env={**_callers_environment(), OUTPUT_VARIABLE: output},
                process_group=group,
            )
    except OSError as error:
        status = NOT_EXECUTABLE
        if error.errno == errno.ENOENT:
            status = NOT_FOUND
        elif error.errno in _EXHAUSTED:
            status = OSERR
        cure = _CURES.get(status, "") if "/" not in words[0] else ""
        raise Exit(status, f"cannot run {name}: {words[0]}: {error.strerror}{cure}") from error


def _callers_environment() -> dict[str, str]:
    """The environment as this process was given it.

    In the C locale, which is cron's, the interpreter sets LC_CTYPE to one of UTF-8 for itself and all whom it
    starts (PEP 538): what sees its locale would do something else than without us. What was there before, the
    kernel still knows.
    """
    environment = dict(os.environ)
    if environment.get("LC_CTYPE") in _COERCED_TO:
        with suppress(OSError), open("/proc/self/environ", "rb") as file:
            given = dict(entry.partition(b"=")[::2] for entry in file.read().split(b"\0"))
            if b"LC_CTYPE" in given:
                environment["LC_CTYPE"] = os.fsdecode(given[b"LC_CTYPE"])
            else:
                del environment["LC_CTYPE"]
    return environment


@contextmanager
def _asking_nobody() -> Iterator[None]:
    """Who is started here gets an error if it asks the terminal for anything, and is not stopped for ever.

    A process of a background group that reads from its terminal is stopped by SIGTTIN, and one that writes to it
    may be by SIGTTOU; where these are ignored, reading fails and writing succeeds. Ignored signals stay ignored
    through ``exec``.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTTIN, signal.SIGTTOU)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
