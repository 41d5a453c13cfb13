"""FileMutex: one holder at a time, among all threads of all processes that name its file.

Promised: the kernel gives it back when its holder dies, at whatever instruction; waiters sleep in the kernel;
a lock file that was deleted is noticed by the caller that wins; a forked child holds nothing; an exception at any
instruction leaves it free, or :attr:`FileMutex.held` is true. Not promised: fairness, and anything on
file systems without ``flock``.

Built on filelock's descriptor lock, so that it excludes ``filelock.FileLock`` and flock(1) on the same file. It is
imported at the first attempt to take a mutex: callers that only pass do not pay for it.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock

from .._os import byterange, fork
from .._os.copying import copied_by
from .._os.openfile import OpenFile
from .._os.paths import absolute, checked_mode
from .._os.waiting import NOW, Deadline, checked_timeout, wait_until
from ..errors import LockFileError, as_error
from . import holds
from .base import MutexBase

__all__ = ["FileMutex", "MutexHold"]

#: A caller that only asks, or has just been woken, holds a shared lock for microseconds, or longer if the
#: scheduler stops it meanwhile. An attempt that met it is repeated so many times, after pauses of so many seconds.
_TRIES = 10
_WHILE_ANOTHER_LOOKS = 0.0005
#: Seconds between two looks whether another thread has released a mutex whose file was deleted.
_WHILE_THE_FILE_IS_LOST = 0.010
#: Whether mutexes are taken without filelock. While it is imported: a signal handler in the middle would find half
#: a module, and a child that another thread has forked would wait for ever. And where it cannot be imported any
#: more: the process has dropped its privileges or changed its root, or has no descriptor left.
_without_filelock = False


class MutexHold(holds.Hold):
    """The mutex, taken once. Dropping it gives the mutex back."""

    __slots__ = ("byte", "is_handed_over")

    def __init__(self, path: str) -> None:
        super().__init__(path)
        #: Whether a child process has it from now on, so that this process closes it without unlocking.
        self.is_handed_over = False
        #: The hold byte: one that no other hold has had, so that a caller which waits for the end of this hold
        #: does not wait for the end of the next as well, however soon that follows.
        self.byte = 0

    def unlock(self) -> None:
        if self.is_handed_over:
            return
        # First the mutex, then its byte: a caller that is woken by the byte's end shall find the mutex free.
        super().unlock()
        byterange.unlock(self.fd, self.byte)


class FileMutex(MutexBase[MutexHold]):
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

    __slots__ = ("_mode", "path")

    def __init__(
        self, path: str | os.PathLike[str], *, timeout: float | None = None, mode: int | None = None
    ) -> None:
        self.path: str = absolute(path)
        super().__init__(checked_timeout(timeout))
        self._mode = checked_mode(mode)

    @property
    def _name(self) -> str:
        return f"the mutex {self.path!r}"

    @property
    def _path(self) -> str:  # type: ignore[override]
        return self.path

    def _new_hold(self) -> MutexHold:
        return MutexHold(self.path)

    def _give_back(self, hold: MutexHold) -> None:
        if self._hold is hold:
            self._hold = None
        hold.give_back_and_warn("others may have held it at the same time")

    def _holds_here(self) -> Iterator[MutexHold]:
        yield from holds.living(MutexHold, self.path)
        hold = self._hold
        if hold is not None and hold.path != self.path:
            yield hold

    def _adopt(self, fd: int, byte: int, *, taker: holds.Taker) -> bool:
        """Hold the mutex by the descriptor *fd*, which a parent process has locked and handed over.

        :param byte: the parent's hold byte.
        :param taker: as of :meth:`acquire`.
        :returns: False, and the descriptor is closed, if it was unlocked meanwhile and another process has it.
        """
        hold = taker.mutex_hold = self._new_hold()
        hold.adopt(fd)
        hold.is_regular()  # remembers what it is
        if not _lock_descriptor(fd):  # does nothing to what it has locked already
            hold.close()
            return False
        hold.byte, hold.holder = byte, holds.current()
        self._hold = hold
        return True

    def locked(self) -> bool:
        """Return whether it is held, in this process or another, through whichever object.

        :raises LockFileError: if there is a lock file that cannot be opened.
        """
        return not self._comes_free(NOW)

    @property
    def held(self) -> bool:
        fork.settle()
        return self._is_held()

    @property
    def lost(self) -> bool:
        hold = self._hold
        # A look that fails says nothing: it must not cost a creation.
        return hold is not None and hold.fd >= 0 and (hold.path != self.path or hold.is_lost())

    def _wait_until_released(self, deadline: Deadline) -> bool:
        return self._comes_free(deadline)

    def _comes_free(self, deadline: Deadline) -> bool:
        """Wait until the mutex is free, or the hold of now has ended; False if *deadline* came first.

        A holder without a hold byte is flock(1), filelock, or a process that may not write the file.
        """
        try:
            open_file = OpenFile.of_lock_file(self.path, create=False)
        except FileNotFoundError:
            return True
        try:
            for _ in range(_TRIES):
                byte = byterange.find_exclusive(open_file.fd)
                if byte is not None:
                    return byterange.lock_until(byterange.shared, open_file.fd, byte, deadline)
                if _is_free(open_file):
                    return True
                time.sleep(_WHILE_ANOTHER_LOOKS)  # or between taking the mutex and locking its byte
            return wait_until(lambda: _is_free(open_file), lambda: flock(open_file.fd, LOCK_SH), deadline)
        except OSError as error:
            raise as_error(LockFileError, self.path, "lock", error) from error
        finally:
            open_file.give_back()

    def _try(self, hold: MutexHold) -> bool:
        return self._take(hold, _lock_now)

    def _wait(self, hold: MutexHold, deadline: Deadline) -> bool:
        def block() -> None:
            while not self._take(hold, _lock_by_blocking):
                # A thread of this object holds it, mostly by the file at the path: then the kernel wakes this one.
                self._wait_for_own_hold()

        return wait_until(lambda: self._try(hold), block, deadline)

    def _take(self, hold: MutexHold, lock: Callable[[MutexHold], bool]) -> bool:
        """Have *hold* lock the file that is at the path then; False, and it is closed, if *lock* did not."""
        again = True
        while not self._is_held():
            hold.open_lock_file(self._mode)
            try:
                is_locked = lock(hold)
            except OSError as error:
                hold.give_back()
                if again and error.errno == errno.ESTALE:  # another host has replaced it
                    again = False
                    continue
                raise as_error(LockFileError, self.path, "lock", error) from error
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

    def _wait_for_own_hold(self) -> None:
        held = self._hold
        if held is None or held.fd < 0:
            return
        if not held.is_at(self.path):
            time.sleep(_WHILE_THE_FILE_IS_LOST)
            return
        open_file = OpenFile.of_lock_file(self.path, self._mode)
        try:
            flock(open_file.fd, LOCK_SH)
        finally:
            open_file.give_back()

    def __reduce__(self) -> tuple[object, ...]:  # type: ignore[override]
        return copied_by(self, FileMutex, self.path, timeout=self.timeout, mode=self._mode)

    def __repr__(self) -> str:
        return f"<FileMutex {self.path!r}{' held' if self.held else ''}>"


def _lock_descriptor(fd: int) -> bool:
    """Lock *fd* exclusively; False if that would have to wait."""
    global _without_filelock
    if not _without_filelock:
        _without_filelock = "filelock" not in sys.modules
        try:
            from filelock import lock_descriptor
        except ImportError:
            pass  # it is locked below
        else:
            _without_filelock = False
            return lock_descriptor(fd, blocking=False)
    # As filelock does it.
    try:
        flock(fd, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_now(hold: MutexHold) -> bool:
    for attempt in range(_TRIES):
        if _lock_descriptor(hold.fd):
            return True
        if not _is_free(hold):
            return False
        if attempt:
            time.sleep(_WHILE_ANOTHER_LOOKS)
    return False


def _lock_by_blocking(hold: MutexHold) -> bool:
    flock(hold.fd, LOCK_EX)
    return True


def _is_free(open_file: OpenFile) -> bool:
    """Return whether no caller has locked the mutex, but for callers that only look, as this one does."""
    try:
        flock(open_file.fd, LOCK_SH | LOCK_NB)
    except BlockingIOError:
        return False
    flock(open_file.fd, LOCK_UN)
    return True
