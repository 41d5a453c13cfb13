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
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock
from types import TracebackType
from typing import Self
from weakref import ref

from filelock import lock_descriptor, unlock_descriptor

from .._os import byterange
from .._os.fork import forget_in_child
from .._os.openfile import Description
from .._os.paths import absolute, checked_mode
from .._os.waiting import INHERIT, Deadline, Timeout, checked_timeout, deadline_of, wait_until
from ..errors import LockFileError, LockTimeout, NotHeld, WouldDeadlock, explained

__all__ = ["FileMutex"]

log = logging.getLogger("dogpile_fs")

# Whoever only asks, or has just been woken, holds a shared lock for microseconds, or for as long as the
# scheduler makes him wait in the middle of them. So often and after such pauses a try that met him is repeated.
_TRIES = 10
_WHILE_ANOTHER_LOOKS = 0.0005

#: Those that this process holds. Added to and taken from by who holds one.
_all_held: set[ref[FileMutex]] = set()


class FileMutex:
    """A mutual exclusion lock on a file.

    :param path: the lock file; made if it is missing, never deleted.
    :param timeout: seconds after which a waiting :meth:`acquire` gives up; ``None``: never.
    :param mode: permission bits of the file if it has to be made; ``None``: what the umask leaves of 0o666.

    Not re-entrant. Any thread of the process may release it (dogpile.cache's asynchronous creators do); until
    then the thread that acquired it counts as its holder, and must not wait for it. It can be pickled; the copy
    names the same file and holds nothing. Its methods are the ones that dogpile.cache expects of a
    ``CacheMutex``.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "one.lock")
    >>> mutex, other = FileMutex(path), FileMutex(path)
    >>> with mutex:
    ...     other.acquire(wait=False)
    False
    >>> mutex.locked()
    False
    """

    __slots__ = (
        "__weakref__",
        "_held",
        "_held_by_parent",
        "_owner",
        "_threads",
        "_turn",
        "mode",
        "path",
        "timeout",
    )

    def __init__(
        self, path: str | os.PathLike[str], *, timeout: float | None = None, mode: int | None = None
    ) -> None:
        self.path = absolute(path)
        self.timeout = checked_timeout(timeout)
        self.mode = checked_mode(mode)
        # Held by whoever holds the mutex, or waits for the file in this process's name: its threads contend
        # here, and only one of them for the file.
        self._threads = threading.Lock()
        # Read by all, written by who holds that.
        self._held: Description | None = None
        self._owner = 0
        self._turn = 0
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
        deadline = deadline_of(timeout, self.timeout)
        if self._try():
            return True
        if not wait:
            return False
        self.refuse_to_wait_for_oneself()
        if not wait_until(lambda: self._threads.acquire(False), self._threads.acquire, deadline):
            raise self._timed_out(deadline)
        try:
            if not wait_until(self._try_file, self._take_file_by_blocking, deadline):
                raise self._timed_out(deadline)
        except BaseException:
            self._threads.release()
            raise
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
        try:
            _all_held.discard(ref(self))
            if description.lost_its_path():
                log.warning(
                    "the lock file %r was deleted or replaced while it was locked: others may have held it at the "
                    "same time. Keep cleaners away from it.",
                    self.path,
                )
            # Not by closing alone: a child between fork and exec has a copy of the descriptor. First the mutex,
            # then the turn: who is woken by its end shall find the mutex free.
            with suppress(OSError):  # then by closing
                unlock_descriptor(description.fd)
                byterange.unlock(description.fd, self._turn)
        finally:
            description.close()
            self._threads.release()

    def locked(self) -> bool:
        """Whether anybody holds it, in this process or another.

        :raises LockFileError: if there is a lock file that cannot be opened.
        """
        return not self._look(lambda description, turn: False, lambda description: False)

    @property
    def held(self) -> bool:
        """Whether this object holds it: not its parent process, not another object of the same path."""
        return self._held is not None

    @property
    def lost(self) -> bool:
        """Whether this object holds it by a file that is no longer at the path: another may hold it too."""
        held = self._held
        return held is not None and not held.is_at_its_path()

    def wait_released(self, deadline: Deadline) -> bool:
        """Wait until whoever holds it now has released it, without taking it: all who wait so wake at once.

        Another may have taken it by the time this returns.

        :returns: False if *deadline* came first.
        :raises WouldDeadlock: if this thread holds it.
        """
        self.refuse_to_wait_for_oneself()

        def wait_for_turn(description: Description, turn: int) -> bool:
            return wait_until(
                lambda: byterange.shared(description.fd, turn, wait=False),
                lambda: byterange.shared(description.fd, turn, wait=True),
                deadline,
            )

        def wait_for_foreigner(description: Description) -> bool:
            return wait_until(lambda: _is_free(description), lambda: flock(description.fd, LOCK_SH), deadline)

        return self._look(wait_for_turn, wait_for_foreigner)

    def _look(
        self,
        held_as_turn: Callable[[Description, int], bool],
        held_by_foreigner: Callable[[Description], bool],
    ) -> bool:
        """True if nobody holds it; else what is answered to the turn of its holder.

        Whoever takes no turn is flock(1), filelock, or had no permission to write the file.
        """
        try:
            description = Description.of_lock_file(self.path, create=False)
        except FileNotFoundError:
            return True
        try:
            for _ in range(_TRIES):
                turn = byterange.find_exclusive(description.fd)
                if turn is not None:
                    return held_as_turn(description, turn)
                if _is_free(description):
                    return True
                time.sleep(_WHILE_ANOTHER_LOOKS)  # or between taking the mutex and taking his turn
            return held_by_foreigner(description)
        except OSError as error:
            raise explained(LockFileError, self.path, "lock", error) from error
        finally:
            description.close()

    def refuse_to_wait_for_oneself(self) -> None:
        """:raises WouldDeadlock: if this thread holds the lock, through whichever object."""
        me = _thread.get_ident()
        for reference in _all_held.copy():
            mutex = reference()
            held = None if mutex is None else mutex._held
            if mutex is None or held is None or mutex._owner != me:
                continue
            if mutex is self or held.is_at(self.path):
                raise WouldDeadlock(
                    f"this thread holds {self.path!r} and would wait for itself, for ever: it runs the creator "
                    "or holds the mutex. Cure: do not acquire it again inside; hand in what is needed."
                )

    def _try(self) -> bool:
        if not self._threads.acquire(False):
            return False
        won = False
        try:
            won = self._try_file()
        finally:
            if not won:
                self._threads.release()
        return won

    def _try_file(self) -> bool:
        while True:
            description = Description.of_lock_file(self.path, self.mode)
            try:
                if not self._lock_now(description):
                    return False
                if self._has_won(description):
                    return True
            finally:
                if self._held is not description:
                    description.close()

    def _take_file_by_blocking(self) -> None:
        while True:
            description = Description.of_lock_file(self.path, self.mode)
            try:
                flock(description.fd, LOCK_EX)
                if self._has_won(description):
                    return
            except OSError as error:
                raise explained(LockFileError, self.path, "lock", error) from error
            finally:
                if self._held is not description:
                    description.close()

    def _lock_now(self, description: Description) -> bool:
        try:
            for attempt in range(_TRIES):
                if lock_descriptor(description.fd, blocking=False):
                    return True
                if not _is_free(description):
                    return False
                if attempt:
                    time.sleep(_WHILE_ANOTHER_LOOKS)
        except OSError as error:
            raise explained(LockFileError, self.path, "lock", error) from error
        return False

    def _has_won(self, description: Description) -> bool:
        """Hold what *description* has locked, unless that is no longer the file at the path."""
        if not description.is_at_its_path():
            return False
        # The turn of this hold: a byte that no other has had, so that who waits for its end does not wait for
        # the end of the next as well, however soon that follows.
        self._turn = time.monotonic_ns()
        with suppress(OSError):  # no permission to write the file: then they wait for the mutex itself
            byterange.exclusive(description.fd, self._turn, wait=False)
        self._owner = _thread.get_ident()
        _all_held.add(ref(self, _all_held.discard))  # first: one too many does no harm
        self._held = description
        return True

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

    def after_fork(self) -> None:
        if self._held is not None and self._owner == _thread.get_ident():
            self._held_by_parent = True  # or by its parent's parent: it stays true until it is left
        self._held = None
        _all_held.discard(ref(self))
        self._threads = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (self.path, self.timeout, self.mode)

    def __repr__(self) -> str:
        return f"<FileMutex {self.path!r}{' held' if self.held else ''}>"


def _is_free(description: Description) -> bool:
    """Whether nobody has locked the mutex, but for those who look as this does."""
    try:
        flock(description.fd, LOCK_SH | LOCK_NB)
    except BlockingIOError:
        return False
    flock(description.fd, LOCK_UN)
    return True


def _unpickled(path: str, timeout: float | None, mode: int | None) -> FileMutex:
    return FileMutex(path, timeout=timeout, mode=mode)
