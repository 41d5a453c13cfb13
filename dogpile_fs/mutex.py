"""FileMutex: one holder at a time, among all threads of all processes that name its file.

Promised: the kernel gives it back when its holder dies, at whatever instruction; waiters sleep in the kernel;
a lock file that was deleted is noticed by whoever wins; a forked child holds nothing. Not promised: fairness,
and anything on file systems without ``flock``.

Built on filelock's descriptor lock, so that it excludes ``filelock.FileLock`` and flock(1) on the same file.
"""

from __future__ import annotations

import _thread
import logging
import os
import time
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock
from types import TracebackType
from typing import Self

from filelock import lock_descriptor, unlock_descriptor

from .errors import LockFileError, LockTimeout, NotHeld, WouldDeadlock, explained
from .forking import forget_in_child, living
from .lockfile import Description, identity_at
from .paths import absolute
from .waiting import INHERIT, Deadline, Timeout, checked_timeout, deadline_of, wait_until

__all__ = ["FileMutex"]

log = logging.getLogger("dogpile_fs")

# Whoever only asks, or has just been woken, holds a shared lock for microseconds, or for as long as the
# scheduler makes him wait in the middle of them. So often and after such pauses a try that met him is repeated.
_TRIES = 10
_WHILE_ANOTHER_LOOKS = 0.0005


class FileMutex:
    """A mutual exclusion lock on a file.

    :param path: the lock file; made if it is missing, never deleted.
    :param timeout: seconds after which a waiting :meth:`acquire` gives up; ``None``: never.
    :param mode: permission bits of the file if it has to be made; ``None``: what the umask leaves of 0o666.

    Not re-entrant. Any thread of the process may release it (dogpile.cache's asynchronous creators do). It
    can be pickled; the copy names the same file and holds nothing. Its methods are the ones that
    dogpile.cache expects of a ``CacheMutex``.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "one.lock")
    >>> mutex, other = FileMutex(path), FileMutex(path)
    >>> with mutex:
    ...     other.acquire(wait=False)
    False
    >>> mutex.locked()
    False
    """

    def __init__(
        self, path: str | os.PathLike[str], *, timeout: float | None = None, mode: int | None = None
    ) -> None:
        self.path = absolute(path)
        self.timeout = checked_timeout(timeout)
        self.mode = mode
        # Written by whoever wins or releases the lock, which is the guard: one at a time.
        self._held: Description | None = None
        self._owner = 0
        # In a child: its parent's forking thread held it, and the child may leave the block it was in.
        self._held_by_parent = False
        forget_in_child(self)

    def acquire(self, wait: bool = True, timeout: Timeout = INHERIT) -> bool:
        """Take the lock.

        :param wait: False: one try.
        :param timeout: seconds to wait at most; ``None``: for ever. Default: the object's.
        :returns: True if it is held now; False only if *wait* is false.
        :raises LockTimeout: if it did not come free in time.
        :raises WouldDeadlock: if this thread holds it already.
        :raises LockFileError: if the lock file cannot be opened, made or locked.
        """
        if not wait:
            return self._try()
        deadline = deadline_of(timeout, self.timeout)
        if self._try():
            return True
        self.refuse_to_wait_for_oneself()
        if not wait_until(self._try, self._take_by_blocking, deadline):
            raise LockTimeout(
                f"{self.path!r} did not come free within {deadline.timeout} s. Cure: a longer timeout, or find "
                "its holder with fuser(1) or in /proc/locks."
            )
        return True

    def release(self) -> None:
        """Give the lock back. In a forked child, leaving the parent's block: do nothing.

        :raises NotHeld: if this object does not hold it.
        """
        description, self._held = self._held, None
        if description is None:
            if not self._held_by_parent:
                raise NotHeld(f"the mutex {self.path!r} is not held by this object: acquire it first")
            self._held_by_parent = False
            return
        if not description.is_at_its_path():
            log.warning(
                "the lock file %r was deleted or replaced while it was locked: others may have held it at the "
                "same time. Keep cleaners away from it.",
                self.path,
            )
        try:
            # Not by closing alone: a child between fork and exec has a copy of the descriptor.
            unlock_descriptor(description.fd)
        finally:
            description.close()

    def locked(self) -> bool:
        """Whether anybody holds it, in this process or another.

        :raises LockFileError: if there is a lock file that cannot be opened.
        """
        if self._held is not None:
            return True
        try:
            description = Description.of_lock_file(self.path, create=False)
        except FileNotFoundError:
            return False
        try:
            return not self._is_only_looked_at(description)
        finally:
            description.close()

    @property
    def held(self) -> bool:
        """Whether this object holds it: not its parent process, not another object of the same path."""
        return self._held is not None

    def wait_released(self, deadline: Deadline) -> bool:
        """Wait until nobody holds it, without taking it: all who wait so wake at once.

        Another may have taken it by the time this returns.

        :returns: False if *deadline* came first.
        :raises WouldDeadlock: if this thread holds it.
        """
        self.refuse_to_wait_for_oneself()
        return wait_until(lambda: not self.locked(), self._block_until_released, deadline)

    def refuse_to_wait_for_oneself(self) -> None:
        """:raises WouldDeadlock: if this thread holds the lock, through whichever object."""
        me = _thread.get_ident()
        for mutex in living(FileMutex):
            held = mutex._held
            if held is None or mutex._owner != me:
                continue
            if mutex is self or identity_at(self.path) == held.identity:
                raise WouldDeadlock(
                    f"this thread holds {self.path!r} and would wait for itself, for ever: it runs the creator "
                    "or holds the mutex. Cure: do not acquire it again inside; hand in what is needed."
                )

    def _try(self) -> bool:
        while self._held is None:
            description = self._opened()
            try:
                if not self._locked_now(description):
                    return False
                if description.is_at_its_path():
                    self._won(description)
                    return True
            finally:
                if self._held is not description:
                    description.close()
        return False

    def _locked_now(self, description: Description) -> bool:
        try:
            for attempt in range(_TRIES):
                if lock_descriptor(description.fd, blocking=False):
                    return True
                if not self._is_only_looked_at(description):
                    return False
                if attempt:
                    time.sleep(_WHILE_ANOTHER_LOOKS)
        except OSError as error:
            raise explained(LockFileError, self.path, "lock", error) from error
        return False

    def _is_only_looked_at(self, description: Description) -> bool:
        try:
            flock(description.fd, LOCK_SH | LOCK_NB)
        except BlockingIOError:
            return False
        flock(description.fd, LOCK_UN)
        return True

    def _take_by_blocking(self) -> None:
        while True:
            description = self._opened()
            flock(description.fd, LOCK_EX)
            if description.is_at_its_path():
                self._won(description)
                return
            description.close()

    def _block_until_released(self) -> None:
        try:
            description = Description.of_lock_file(self.path, create=False)
        except FileNotFoundError:
            return
        try:
            flock(description.fd, LOCK_SH)
        finally:
            description.close()

    def _opened(self) -> Description:
        return Description.of_lock_file(self.path, self.mode)

    def _won(self, description: Description) -> None:
        self._owner = _thread.get_ident()
        self._held = description

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def after_fork(self) -> None:
        if self._held is not None and self._owner == _thread.get_ident():
            self._held_by_parent = True  # or by its parent's parent: it stays true until it is left
        self._held = None

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (self.path, self.timeout, self.mode)

    def __repr__(self) -> str:
        return f"<FileMutex {self.path!r}{' held' if self.held else ''}>"


def _unpickled(path: str, timeout: float | None, mode: int | None) -> FileMutex:
    return FileMutex(path, timeout=timeout, mode=mode)
