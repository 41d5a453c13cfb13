"""The creation mutexes of many keys, in one file: a byte of it for each, chosen by 56 bits of the key's digest.

As :class:`.FileMutex`, but by open-file-description locks on bytes, which no flock(1) and no filelock sees. The
kernel gives them back when the holder dies. Waiters sleep on a second byte, the hold byte, which the next hold
changes for another one of the key's 32; so they all wake when this hold ends, and not when a later one does.

Two keys may have one byte. Then they exclude each other, which costs a wait. A creator that opens such a key of
its own goes on under the hold that it has: the two share the open file description, and the last one unlocks it.

A hold also has a shared lock on the byte of the directory that the key's file is in: nobody removes that directory
meanwhile.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from .._os import byterange, fork
from .._os.openfile import OpenFile
from .._os.waiting import NOW, Deadline, wait_until
from ..errors import LockFileError, as_error, os_errors_as
from . import holds
from .base import MutexBase

__all__ = ["KeyHold", "KeyMutex", "shard_for_removal"]

#: Where the bytes are: of the mutexes from 0 on, one for each value of so many bits; of the shards; of the holds.
_BITS = 56
_SHARDS = 1 << 60
_HOLDS = 1 << 62
#: Hold bytes of each mutex. More make it rarer that two holds in a row have the same.
_HOLD_BYTES = 32
#: Times that a caller which waits looks for the hold byte of a holder that has just taken the mutex, and the
#: seconds between two looks.
_TRIES = 10
_WHILE_IT_IS_TAKEN = 0.0005
#: Seconds between two looks whether another thread has released a mutex whose file was deleted.
_WHILE_THE_FILE_IS_LOST = 0.010
#: Seconds for which a process that removes a shard is waited for. That takes microseconds, unless the process was
#: stopped.
_PATIENCE = 1.0


class KeyHold(holds.Hold):
    """The mutex of one key, taken once. Dropping it gives the mutex back."""

    __slots__ = ("byte", "key", "sharing", "token")

    def __init__(self, path: str, key: str, byte: int) -> None:
        super().__init__(path)
        self.key = key
        self.byte = byte
        #: What stands for this hold among those that share the open file description.
        self.token = object()
        self.sharing: list[object] = []

    @property
    def resource(self) -> str:
        return self.key

    def unlock(self) -> None:
        with suppress(ValueError):  # given back before, and interrupted
            self.sharing.remove(self.token)
        if not self.sharing:
            # First the mutex, then its hold byte: a caller that is woken by that shall find the mutex free.
            byterange.unlock(self.fd, self.byte)
            byterange.unlock(self.fd, 0, 0)


class KeyMutex(MutexBase[KeyHold]):
    """The mutex of one key.

    :param path: the file with the bytes of all keys.
    :param key: the path of the key's file; what this mutex is known by.
    :param bits: at least 56 bits of the key's digest.
    :param shard: the number of the directory that the key's file is in.
    :param make: makes the directory of *path*, or finds it there.
    """

    __slots__ = ("_byte", "_key", "_make", "_mode", "_shard", "path")

    def __init__(
        self,
        path: str,
        key: str,
        bits: int,
        shard: int,
        *,
        make: Callable[[], object],
        timeout: float | None,
        mode: int | None,
    ) -> None:
        super().__init__(timeout)
        self.path: str = path
        self._mode = mode
        self._key = key
        self._byte = bits % (1 << _BITS)
        self._shard = _SHARDS + shard
        self._make = make

    @property
    def _name(self) -> str:
        return f"the mutex of {self._key!r}"

    @property
    def _path(self) -> str:  # type: ignore[override]
        return self._key  # what tells it from those of other keys

    def _locked_by(self) -> str:
        return ""  # the kernel does not tell which process has such a lock

    def _new_hold(self) -> KeyHold:
        return KeyHold(self.path, self._key, self._byte)

    def _give_back(self, hold: KeyHold) -> None:
        if self._hold is hold:
            self._hold = None
        hold.give_back_and_warn("others may have held it at the same time")

    def _of_this_byte(self) -> Iterator[KeyHold]:
        """Yield the holds of this process that keep other callers from the mutex, also those of other keys."""
        for hold in holds.living(KeyHold, self.path):
            if hold.byte == self._byte:
                yield hold

    def _holds_here(self) -> Iterator[KeyHold]:
        me = holds.current()
        # A hold of this caller for another key with the same byte is in nobody's way: see _share().
        yield from (hold for hold in self._of_this_byte() if hold.key == self._key or not hold.is_held_by(me))

    def _held_for_another_key(self) -> KeyHold | None:
        """Return this caller's hold of another key that has the same byte."""
        me = holds.current()
        of_byte = [hold for hold in self._of_this_byte() if hold.is_held_by(me)]
        return None if any(hold.key == self._key for hold in of_byte) else next(iter(of_byte), None)

    def locked(self) -> bool:
        """Return whether it is held, in this process or another, through whichever object.

        :raises LockFileError: if there is a lock file that cannot be opened.
        """
        return not self._wait_until_released(NOW)

    @property
    def held(self) -> bool:
        fork.settle()
        return self._is_held()

    @property
    def lost(self) -> bool:
        hold = self._hold
        # A look that fails says nothing: it must not cost a creation.
        return (
            hold is not None
            and hold.fd >= 0
            and (hold.lost_its_path() or not hold.is_intact() or hold.is_revoked())
        )

    def _is_held(self) -> bool:
        hold = self._hold
        return hold is not None and hold.fd >= 0

    def _try(self, hold: KeyHold) -> bool:
        return self._share(hold) or self._take(hold)

    def _wait(self, hold: KeyHold, deadline: Deadline) -> bool:
        while not self._take(hold):
            if not self._wait_until_released(deadline) or deadline.left == 0:
                return self._take(hold)
            if self._is_held():  # by another thread, and by a file that was deleted, so that nothing is waited for
                time.sleep(_WHILE_THE_FILE_IS_LOST)
        return True

    def _share(self, hold: KeyHold) -> bool:
        """Go on under the hold that this caller has for another key with the same byte, if it has one."""
        outer = self._held_for_another_key()
        if outer is None or self._is_held():
            return False
        outer.sharing.append(hold.token)  # first: from here on, the outer one does not unlock
        hold.sharing = outer.sharing
        hold.share(outer)
        with os_errors_as(LockFileError, self.path, "lock"):
            self._lock_shard(hold)
        return self._have(hold)

    def _take(self, hold: KeyHold) -> bool:
        """Have *hold* lock the file that is at the path then; False, and it is closed, if that has to wait."""
        while not self._is_held():
            self._make()
            hold.open_lock_file(self._mode, write=True)
            try:
                is_locked = byterange.exclusive(hold.fd, self._byte, wait=False)
                if is_locked:
                    self._lock_hold_byte(hold)
                    self._lock_shard(hold)
            except OSError as error:
                hold.give_back()
                raise as_error(LockFileError, self.path, "lock", error) from error
            hold.sharing = [hold.token]
            # Two threads of one object exclude each other even if the file is deleted.
            if is_locked and hold.is_at_its_path() and not self._is_held():
                return self._have(hold)
            hold.give_back()
            if not is_locked:
                break
        return False

    def _have(self, hold: KeyHold) -> bool:
        hold.holder = holds.current()
        self._inherited |= self._hold is not None
        self._hold = hold
        return True

    def _lock_shard(self, hold: KeyHold) -> None:
        byterange.lock_until(byterange.shared, hold.fd, self._shard, Deadline(_PATIENCE))

    def _lock_hold_byte(self, hold: KeyHold) -> None:
        first = _HOLDS + self._byte * _HOLD_BYTES
        chosen = time.monotonic_ns()
        for number in range(_HOLD_BYTES):
            byte = first + (chosen + number) % _HOLD_BYTES
            if byterange.exclusive(hold.fd, byte, wait=False):  # else those woken by an earlier hold have it still
                return

    def _wait_until_released(self, deadline: Deadline) -> bool:
        """Wait until the mutex is free, or the hold of now has ended; False if *deadline* came first."""
        if self._held_for_another_key() is not None:
            return True
        try:
            open_file = OpenFile.of_lock_file(self.path, create=False)
        except FileNotFoundError:
            return True
        first = _HOLDS + self._byte * _HOLD_BYTES

        def is_free() -> bool:
            return byterange.find_exclusive(open_file.fd, self._byte, 1) is None

        try:
            for _ in range(_TRIES):
                byte = byterange.find_exclusive(open_file.fd, first, _HOLD_BYTES)
                if byte is not None:
                    return byterange.lock_until(byterange.shared, open_file.fd, byte, deadline)
                if is_free():
                    return True
                time.sleep(_WHILE_IT_IS_TAKEN)
            # Its holder was stopped between locking the one and the other.
            return wait_until(is_free, lambda: _sleep_until(is_free), deadline)
        except OSError as error:
            raise as_error(LockFileError, self.path, "lock", error) from error
        finally:
            _unlock_and_close(open_file)

    def __repr__(self) -> str:
        return f"<KeyMutex {self._key!r}{' held' if self.held else ''}>"


def shard_for_removal(path: str, shard: int) -> OpenFile | None:
    """Return a description of the file at *path* that keeps callers from using the *shard*; ``None`` if one uses
    it.

    Closing it lets them.
    """
    try:
        open_file = OpenFile.of_lock_file(path, create=False, write=True)
    except FileNotFoundError:
        return None
    is_locked = False
    try:
        is_locked = byterange.exclusive(open_file.fd, _SHARDS + shard, wait=False)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EBADF):
            raise as_error(LockFileError, path, "lock", error) from error
    finally:
        if not is_locked:
            open_file.close()
    return open_file if is_locked else None


def _sleep_until(is_free: Callable[[], bool]) -> None:
    while not is_free():
        time.sleep(_WHILE_THE_FILE_IS_LOST)


def _unlock_and_close(open_file: OpenFile) -> None:
    """Give back its lock, also where another process has a copy, and close it."""
    with suppress(OSError):
        if open_file.fd >= 0 and open_file.is_intact():
            byterange.unlock(open_file.fd, 0, 0)
    open_file.close()
