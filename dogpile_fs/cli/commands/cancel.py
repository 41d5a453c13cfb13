"""``cancel``: end creations that run, and never another process.

Only a process that exists for the creation alone is ended: the child of ``background="process"``, or a ``run``
with its COMMAND. It is known by a descriptor of the process itself (pidfd_open(2)), which stays that of this
process when its number is used again, and it must have the mutex's file open. Nothing is unlocked here: the kernel
frees the mutex when the process has ended.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic

from ... import Dogpile
from ..._os.openfile import close_quietly
from ..._os.process_identity import own_identity, start_of
from ..._os.waiting import Deadline
from ..._sidecar.record import Attempt, cleaned_host
from ...errors import DogpileError
from ..arguments import Arguments
from ..child.process_group import ProcessGroup
from ..exits import NOINPUT, NOPERM, OK, TEMPFAIL, Exit, message_of, status_of
from ..output import process_name, say
from .lookup import dogpile_at

__all__ = ["main"]

#: Seconds between two looks at a process group: the kernel reports the end of its leader only.
_LOOK_EVERY = 0.02
#: Seconds until a process that got SIGKILL has ended, and the kernel has freed the mutex.
_UNTIL_KILLED = 10.0
#: Seconds that a ``run`` has more than its COMMAND, to end by itself.
_MORE_FOR_RUN = 5.0


def main(arguments: Arguments) -> int:
    """Cancel the creation of each path, also after another one has failed; return the greatest exit status."""
    worst = OK
    for path in arguments.paths:
        try:
            _cancel(dogpile_at(path, arguments), path, arguments.kill_after)
        except (DogpileError, OSError, Exit) as error:
            say(message_of(error))
            worst = max(worst, status_of(error))
    return worst


def _cancel(dogpile: Dogpile, path: str, kill_after: float) -> None:
    attempt, lock_file = dogpile._record.attempt, dogpile.dogpilelock.path  # type: ignore[attr-defined]
    if attempt is None or not dogpile.dogpilelock.locked():
        raise Exit(NOINPUT, f"no creation of {path!r} runs")
    _refuse_unless_own(attempt, path)
    with _process(attempt, lock_file, path) as pidfd:
        if attempt.kind == "command":
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            # Its watchdog kills the group of COMMAND if it is killed itself.
            if not _has_ended(pidfd, kill_after + _MORE_FOR_RUN):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        else:
            _end_group(attempt.pid, pidfd, kill_after)
        deadline = Deadline(_UNTIL_KILLED)
        if not _has_ended(pidfd, _UNTIL_KILLED) or not dogpile.dogpilelock._wait_released(deadline):
            raise Exit(TEMPFAIL, f"{_name(attempt)} has not ended: it is stopped, or waits for a disk")


def _refuse_unless_own(attempt: Attempt, path: str) -> None:
    """:raises Exit: if *attempt* runs in a process that is not to be ended, or not to be reached from here."""
    if attempt.kind not in ("process", "command"):
        raise Exit(
            NOPERM,
            f"{path!r} is created by {_name(attempt)}, which does other work as well and is not ended. Hint: "
            "restart its service, or let it create with background='process'.",
        )
    own = own_identity()
    if (attempt.host, attempt.boot, attempt.pid_ns) != (cleaned_host(os.uname().nodename), own.boot, own.pid_ns):
        raise Exit(
            NOPERM,
            f"{path!r} is created by {_name(attempt)}, on another host, in another container, or before the last "
            "boot. Hint: cancel it there.",
        )


@contextmanager
def _process(attempt: Attempt, lock_file: str, path: str) -> Iterator[int]:
    """Yield a descriptor of the process of *attempt*.

    :raises Exit: if it has ended, or is another one.
    """
    try:
        pidfd = os.pidfd_open(attempt.pid)
    except ProcessLookupError:
        raise Exit(NOINPUT, f"no creation of {path!r} runs: {_name(attempt)} has ended") from None
    try:
        if start_of(attempt.pid) != attempt.start or not _has_open(attempt.pid, lock_file):
            raise Exit(NOINPUT, f"{_name(attempt)} does not create {path!r}, and is not ended")
        yield pidfd
    finally:
        close_quietly(pidfd)


def _has_open(pid: int, path: str) -> bool:
    """Return whether process *pid* has the file at *path* open.

    :raises PermissionError: if this user may not know.
    """
    directory, file = f"/proc/{pid}/fd", os.stat(path)
    for name in os.listdir(directory):
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(os.path.join(directory, name)), file):
                return True
    return False


def _end_group(leader: int, pidfd: int, kill_after: float) -> None:
    """Ask the process group of *leader* to end, and kill it if it has not in time."""
    if os.getpgid(leader) != leader:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return
    members = ProcessGroup(leader)
    os.killpg(leader, signal.SIGTERM)
    os.killpg(leader, signal.SIGCONT)
    due = monotonic() + kill_after
    while monotonic() < due:
        if _has_ended(pidfd, _LOOK_EVERY) and not members.any_runs():
            return
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _has_ended(pidfd: int, seconds: float) -> bool:
    """Wait until the process has ended, for so many *seconds* at most; return whether it has."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _name(attempt: Attempt) -> str:
    return process_name(attempt.host, attempt.pid) or "an unknown process"
