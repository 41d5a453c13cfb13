"""FileMutex: one holder at a time, among all threads of all processes that name its file.

Promised: the kernel gives it back when its holder dies, at whatever instruction; waiters sleep in the kernel;
a lock file that was deleted is noticed by the caller that wins; a forked child holds nothing; an exception at any
instruction leaves it free, or :attr:`FileMutex.held` tells that it is not. Not promised: fairness, and anything on
file systems without ``flock``.

Built on filelock's descriptor lock, so that it excludes ``filelock.FileLock`` and flock(1) on the same file.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock
from types import TracebackType
from typing import Self

from filelock import lock_descriptor, unlock_descriptor

from .._os import byterange
from .._os import fork as forking
from .._os.openfile import Description
from .._os.paths import absolute, checked_mode
from .._os.waiting import FOREVER, INHERIT, Deadline, Timeout, checked_timeout, deadline_of, wait_until
from ..errors import LockFileError, LockTimeout, NotHeld, WouldDeadlock, explained
from . import holds

__all__ = ["FileMutex", "MutexHold"]

log = logging.getLogger("dogpile_fs")

# A caller that only asks, or has just been woken, holds a shared lock for microseconds, or for as long as the
# scheduler makes it wait in the middle of them. So often and after such pauses a try that met it is repeated.
_TRIES = 10
_WHILE_ANOTHER_LOOKS = 0.0005
#: Seconds between two looks whether another thread has released a mutex whose file was deleted.
_WHILE_THE_FILE_IS_LOST = 0.010


class MutexHold(holds.Hold):
    """The mutex, taken once. Dropping it gives the mutex back."""

    __slots__ = ("byte",)

    def __init__(self, path: str) -> None:
        super().__init__(path)
        #: The hold byte: one that no other hold has had, so that a caller which waits for the end of this hold
        #: does not wait for the end of the next as well, however soon that follows.
        self.byte = 0

    def give_back(self) -> None:
        try:
            forking.settle()
            if self.fd >= 0:
                # Not by closing alone: a child between fork and exec has a copy of the descriptor. First the
                # mutex, then its byte: a caller that is woken by its end shall find the mutex free.
                with suppress(OSError):  # then by closing
                    unlock_descriptor(self.fd)
                    byterange.unlock(self.fd, self.byte)
        finally:
            self.close()


class FileMutex:
    """A mutual exclusion lock on a file.

    :param path: the lock file; made if it is missing, never deleted.
    :param timeout: seconds after which a waiting :meth:`acquire` gives up; ``None``: never.
    :param mode: permission bits of the file if it has to be made; ``None``: what the umask leaves of 0o666.

    Not re-entrant. Any thread or task of the process may release it (dogpile.cache's asynchronous creators do);
    until then the one that acquired it counts as its holder, and must not wait for it without a timeout. It is
    released if the object is dropped. It can be pickled; the copy names the same file and holds nothing. Its
    methods are the ones that dogpile.cache expects of a ``CacheMutex``.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "one.lock")
    >>> mutex, other = FileMutex(path), FileMutex(path)
    >>> with mutex:
    ...     other.acquire(wait=False)
    False
    >>> mutex.locked()
    False
    """

    __slots__ = ("__weakref__", "_hold", "_inherited", "mode", "path", "timeout")

    def __init__(
        self, path: str | os.PathLike[str], *, timeout: float | None = None, mode: int | None = None
    ) -> None:
        self.path = absolute(path)
        self.timeout = checked_timeout(timeout)
        self.mode = checked_mode(mode)
        # Written by the caller that has won the file; closed in a forked child, which may leave its parent's
        # block.
        self._hold: MutexHold | None = None
        # In a child: the block of its parent that it may leave is around one of its own.
        self._inherited = False

    def acquire(self, wait: bool = True, timeout: Timeout = INHERIT, *, taker: holds.Taker | None = None) -> bool:
        """Take the lock.

        :param wait: False: one try.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :param taker: has the hold as its ``mutex_hold`` before it locks anything; for :meth:`release_hold`.
        :returns: True if it is held now; False only if *wait* is false.
        :raises LockTimeout: if it did not come free in time.
        :raises WouldDeadlock: if this caller holds it already and would wait for itself without a timeout.
        :raises LockFileError: if the lock file cannot be opened, made or locked.
        """
        deadline = deadline_of(timeout, self.timeout)
        hold = MutexHold(self.path)
        if taker is not None:
            taker.mutex_hold = hold
        try:
            forking.settle()
            if not wait:
                return self._take(hold, _lock_now)
            if not self._take(hold, _lock_now):
                self._refuse_to_wait_for_oneself(deadline)
                if not wait_until(
                    lambda: self._take(hold, _lock_now), lambda: self._take_by_blocking(hold), deadline
                ):
                    raise self._timed_out(deadline)
            return True
        except BaseException:
            # An interrupt may come when the file is locked and the caller has not been told.
            if self._hold is hold:
                self._hold = None
            hold.give_back()
            raise

    def release(self) -> None:
        """Give the lock back, from any thread. In a forked child, leaving the parent's block: do nothing.

        :raises NotHeld: if this object does not hold it.
        """
        forking.settle()
        hold = self._hold
        if hold is None:
            if not self._inherited:
                raise NotHeld(f"the mutex {self.path!r} is not held by this object: acquire it first")
            self._inherited = False
            return
        try:
            self._hold = None
            lost = hold.fd >= 0 and hold.lost_its_path()
            hold.give_back()
        except BaseException:
            hold.give_back()  # an interrupt came first
            raise
        if lost:
            log.warning(
                "the lock file %r was deleted or replaced while it was locked: others may have held it at the "
                "same time. Keep cleaners away from it.",
                self.path,
            )

    def release_hold(self, hold: MutexHold) -> None:
        """Release the lock if it is *hold* by which this object holds it; else do nothing."""
        if self._hold is hold:
            self.release()

    def locked(self) -> bool:
        """Whether anybody holds it, in this process or another.

        :raises LockFileError: if there is a lock file that cannot be opened.
        """
        return not self._look(lambda description, byte: False, lambda description: False)

    @property
    def held(self) -> bool:
        """Whether this object holds it: not its parent process, not another object of the same path."""
        forking.settle()
        return self._is_held()

    @property
    def lost(self) -> bool:
        """Whether this object holds it by a file that is no longer at the path: another may hold it too."""
        hold = self._hold
        return hold is not None and hold.fd >= 0 and not hold.is_at_its_path()

    def wait_released(self, deadline: Deadline) -> bool:
        """Wait until the hold of now has ended, without taking the mutex: all callers that wait so wake at once.

        Another may have taken it by the time this returns.

        :returns: False if *deadline* came first.
        :raises WouldDeadlock: if this caller holds it and would wait for itself without a bound.
        """
        self._refuse_to_wait_for_oneself(deadline)

        def wait_for_byte(description: Description, byte: int) -> bool:
            return wait_until(
                lambda: byterange.shared(description.fd, byte, wait=False),
                lambda: byterange.shared(description.fd, byte, wait=True),
                deadline,
            )

        def wait_for_another_program(description: Description) -> bool:
            return wait_until(lambda: _is_free(description), lambda: flock(description.fd, LOCK_SH), deadline)

        return self._look(wait_for_byte, wait_for_another_program)

    def _look(
        self,
        held_by_byte: Callable[[Description, int], bool],
        held_by_another_program: Callable[[Description], bool],
    ) -> bool:
        """True if nobody holds it; else the answer for the hold byte of its holder.

        A holder without a hold byte is flock(1), filelock, or had no permission to write the file.
        """
        try:
            description = Description.of_lock_file(self.path, create=False)
        except FileNotFoundError:
            return True
        try:
            for _ in range(_TRIES):
                byte = byterange.find_exclusive(description.fd)
                if byte is not None:
                    return held_by_byte(description, byte)
                if _is_free(description):
                    return True
                time.sleep(_WHILE_ANOTHER_LOOKS)  # or between taking the mutex and locking its byte
            return held_by_another_program(description)
        except OSError as error:
            raise explained(LockFileError, self.path, "lock", error) from error
        finally:
            description.give_back()

    def refuse_to_wait_for_oneself(self) -> None:
        """:raises WouldDeadlock: if this caller holds the lock, through whichever object."""
        self._refuse_to_wait_for_oneself(FOREVER)

    def _refuse_to_wait_for_oneself(self, deadline: Deadline) -> None:
        me = holds.current()
        if any(holds.is_blocked_by(hold, me, deadline) for hold in holds.living(MutexHold, self.path)):
            raise WouldDeadlock(
                f"this thread holds {self.path!r} and would wait for itself, for ever: it runs the creator "
                "or holds the mutex. Cure: do not acquire it again inside; hand in what is needed."
            )

    def _take(self, hold: MutexHold, lock: Callable[[MutexHold], bool]) -> bool:
        """Have *hold* lock the file that is at the path then; False, and it is closed, if *lock* did not."""
        while not self._is_held():
            hold.open_lock_file(self.mode)
            try:
                is_locked = lock(hold)
            except OSError as error:
                hold.give_back()
                raise explained(LockFileError, self.path, "lock", error) from error
            # Two threads of one object exclude each other even if the file is deleted.
            if is_locked and hold.is_at_its_path() and not self._is_held():
                hold.byte = time.monotonic_ns()
                with suppress(OSError):  # no permission to write the file: then they wait for the mutex itself
                    byterange.exclusive(hold.fd, hold.byte, wait=False)
                hold.holder = holds.current()
                self._inherited |= self._hold is not None
                self._hold = hold
                return True
            hold.give_back()
            if not is_locked:
                break
        return False

    def _is_held(self) -> bool:
        hold = self._hold
        return hold is not None and hold.fd >= 0

    def _take_by_blocking(self, hold: MutexHold) -> None:
        while not self._take(hold, _lock_by_blocking):
            # A thread of this object holds it, by the file at the path as a rule: then the kernel wakes this one.
            self._wait_for_own_hold()

    def _wait_for_own_hold(self) -> None:
        held = self._hold
        if held is None or held.fd < 0:
            return
        if not held.is_at_its_path():
            time.sleep(_WHILE_THE_FILE_IS_LOST)
            return
        description = Description.of_lock_file(self.path, self.mode)
        try:
            flock(description.fd, LOCK_SH)
        finally:
            description.give_back()

    def _timed_out(self, deadline: Deadline) -> LockTimeout:
        return LockTimeout(
            f"{self.path!r} did not come free within {deadline.timeout} s. Cure: a longer timeout, or find "
            "its holder with fuser(1) or in /proc/locks."
        )

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (self.path, self.timeout, self.mode)

    def __repr__(self) -> str:
        return f"<FileMutex {self.path!r}{' held' if self.held else ''}>"


def _lock_now(hold: MutexHold) -> bool:
    for attempt in range(_TRIES):
        if lock_descriptor(hold.fd, blocking=False):
            return True
        if not _is_free(hold):
            return False
        if attempt:
            time.sleep(_WHILE_ANOTHER_LOOKS)
    return False


def _lock_by_blocking(hold: MutexHold) -> bool:
    flock(hold.fd, LOCK_EX)
    return True


def _is_free(description: Description) -> bool:
    """Whether no caller has locked the mutex, but for those that look as this one does."""
    try:
        flock(description.fd, LOCK_SH | LOCK_NB)
    except BlockingIOError:
        return False
    flock(description.fd, LOCK_UN)
    return True


def _unpickled(path: str, timeout: float | None, mode: int | None) -> FileMutex:
    return FileMutex(path, timeout=timeout, mode=mode)
