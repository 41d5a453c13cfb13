"""Creations in a process of their own: the child's side, two processes.

The first is the watchdog. It starts the second, which creates, and waits for its end. It ends that one with its
children when the creator takes too long, and records that. Both have the descriptor that holds the mutex. The
creator unlocks it at its end; if it is killed, the kernel frees the mutex when the watchdog has ended as well, and
the next caller counts a death.
"""

from __future__ import annotations

import errno
import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl
from time import monotonic
from types import FrameType
from typing import Any, NoReturn

from .._dogpile.creation import Creation
from .._dogpile.election import run
from .._os import linux
from ..errors import DatafileError, DogpileError, LockFileError, SidecarError, WouldDeadlock
from .child import Order
from .resource import Resource

__all__ = ["main"]

log = logging.getLogger("dogpile_fs")

#: Seconds between asking a creator to end and SIGKILL.
_KILL_AFTER = 5.0
#: Seconds after SIGKILL in which a process ends, unless it waits for a disk.
_UNTIL_KILLED = 5.0
#: Seconds between two looks at a process group whose leader has ended: the kernel does not report its end.
_LOOK_EVERY = 0.02
#: The signals that end this process and the creator.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _TimedOut(DatafileError):
    """The creator has taken too long."""

    failure_name = "timeout"


def main(order: Order) -> NoReturn:
    """Create as *order* says, and end this process."""
    os.set_inheritable(order.mutex[0], False)
    if order.is_detached and os.fork():
        os._exit(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    with suppress(OSError):  # else an orphan of the creator's stays a zombie where no process reaps it
        linux.adopt_orphans()
    signals = {signal.SIGCHLD, *_ENDING}
    for number in signals:
        signal.signal(number, signal.SIG_DFL)  # a signal that the caller ignored could not be waited for
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    began = monotonic()
    creator = os.fork()
    if creator == 0:
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())  # whatever the caller had blocked
        sys.exit(_create(order))
    with suppress(OSError):  # both do it: neither may go on before it is done
        os.setpgid(creator, creator)
    _watch(order, creator, signals, None if order.creator_timeout is None else began + order.creator_timeout)
    os._exit(0)


# The process that creates.


def _create(order: Order) -> int:
    try:
        with _holding_the_mutex(order):
            resource = _resource(order)
    except WouldDeadlock as error:
        text = (
            "the creator's module waits for the datafile when it is imported. Hint: put what a program does under "
            'if __name__ == "__main__".'
        )
        _record_failure(order, order.begun.pid, ImportError(f"{text} ({error})"))
        return 1
    except Exception as error:
        _record_failure(order, order.begun.pid, error)
        return 1
    acquisition, election = resource._creation_of(order.begun, order.mutex)

    def end(number: int, frame: FrameType | None) -> NoReturn:
        if acquisition.mutex_hold is not None:
            acquisition.mutex_hold.is_handed_over = True  # the watchdog has it as well, and records the end
        raise SystemExit(128 + number)

    for each in _ENDING:
        signal.signal(each, end)
    try:
        run(election)
    except (SidecarError, LockFileError):
        log.exception("%r: the creation is not recorded", resource)
        return 1
    except Exception:
        return 1  # the creator's, which is on record and in the log
    return 0


@contextmanager
def _holding_the_mutex(order: Order) -> Iterator[None]:
    """Have it known in the block that this process holds the mutex: what waits for it would wait for itself."""
    lock, taker, (fd, byte) = order.dogpile().dogpilelock, _Taker(), order.mutex
    lock._adopt(fcntl(fd, F_DUPFD_CLOEXEC, 3), byte, taker=taker)  # type: ignore[attr-defined]
    taker.mutex_hold.is_handed_over = True  # the creation has it afterwards
    try:
        yield
    finally:
        lock._release_hold(taker.mutex_hold)


def _resource(order: Order) -> Resource[Any]:
    sys.argv[:] = order.argv
    if order.main:
        from multiprocessing import spawn

        spawn.prepare(order.main)
    setup: Callable[[], object] | None = pickle.loads(order.setup)
    if setup is not None:
        setup()
    resource: Resource[Any] = pickle.loads(order.resource)
    return resource


class _Taker:
    mutex_hold: Any = None


def _record_failure(order: Order, pid: int, error: Exception) -> None:
    """Record that the attempt of process *pid*, or of the caller, has failed with *error*; the mutex is held."""
    dogpile, taker = order.dogpile(), _Taker()
    if not dogpile.dogpilelock._adopt(*order.mutex, taker=taker):  # type: ignore[attr-defined]
        return
    try:
        creation = Creation(dogpile._shared, dogpile._record)
        attempt = creation.seen.attempt
        if attempt is not None and attempt.pid in (pid, order.begun.pid):
            creation.adopt(attempt)
            creation.has_failed(error)
    finally:
        dogpile.dogpilelock._release_hold(taker.mutex_hold)


# The watchdog.


def _watch(order: Order, creator: int, signals: set[signal.Signals], deadline: float | None) -> None:
    """Wait until the process *creator* has ended; end it at *deadline*, or when this process is told to end."""
    while True:
        left = None if deadline is None else max(0.0, deadline - monotonic())
        found = signal.sigwaitinfo(signals) if left is None else signal.sigtimedwait(signals, left)
        if found is not None and found.si_signo == signal.SIGCHLD:
            ended = _reaped(creator)
            if ended is not None:
                if ended < 0:
                    _send(creator, signal.SIGKILL)  # what a creator that was killed has left
                return
        elif found is not None:
            _end_group(creator, found.si_signo)
            return
        elif deadline is not None and monotonic() >= deadline:
            _end_group(creator, signal.SIGTERM)
            assert order.creator_timeout is not None
            text = (
                f"the creator did not end within {order.creator_timeout:g} s, and was ended with its process group"
            )
            with suppress(DogpileError):  # then the next caller counts a death
                _record_failure(order, creator, _TimedOut(errno.ETIMEDOUT, text))
            return


def _end_group(creator: int, number: int) -> None:
    """Send signal *number* to the creator's process group, and SIGKILL if it has not ended in time."""
    _send(creator, number)
    _send(creator, signal.SIGCONT)
    due = monotonic() + _KILL_AFTER
    while _reaped(creator) is None and monotonic() < due:
        signal.sigtimedwait({signal.SIGCHLD}, _LOOK_EVERY)
    while _send(creator, 0) and monotonic() < due + _UNTIL_KILLED:  # what the creator has started
        if monotonic() >= due:
            _send(creator, signal.SIGKILL)
        signal.sigtimedwait({signal.SIGCHLD}, _LOOK_EVERY)
        _reaped(creator)


def _send(group: int, number: int) -> bool:
    """Send signal *number* to *group*; return whether there is such a process group."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # its processes are another user's now
    return True


def _reaped(pid: int) -> int | None:
    """Reap all children that have ended; return how process *pid* has, -n by signal n, and None if it has not."""
    ended = None
    with suppress(ChildProcessError):
        while True:
            found, status = os.waitpid(-1, os.WNOHANG)
            if not found:
                break
            if found == pid:
                ended = os.waitstatus_to_exitcode(status)
    return ended
