"""Where the record lives: a small file that is read at every pass and written at every creation.

The file is as long as its record, and longer by one zero byte for each creation or invalidation so far (up to
4 KB; then it begins again). So a read is one ``lseek`` on a kept descriptor, the cheapest question that can be
asked of a file: has its length changed? The record itself, and whether the file at the path still is that one, is
looked at when it has, and every 10 ms. Memory-mapping the file would be faster still, but a foreign truncate would
then kill every reader with SIGBUS. Where there is no file, the question is whether there still is none.

A write is read, change and one ``pwrite`` under an exclusive ``flock`` on the sidecar itself, held for
microseconds: a creator's stamp and somebody's invalidation of it cannot overwrite each other. The creation
mutex would not do for that, because an invalidation must not wait until a creator is ready.

A file that has another name as well is not written, because it may be anything: a new one takes its place.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock
from functools import partial
from os import F_OK, access
from os.path import lexists
from time import time
from weakref import ref

from .._os import fsync as durability
from .._os.openfile import Description, open_regular
from .._os.waiting import Deadline, wait_until
from ..errors import NO_PERMISSION, LockTimeout, SidecarError, explained
from . import hardlink
from .record import CHECKSUM_AT, DAMAGED, NOTHING, SIZE, NewerFormat, Record, decode, encode, is_whole

__all__ = ["Sidecar", "Sighting", "contents", "unseen"]

log = logging.getLogger("dogpile_fs")

_LOOK_EVERY = 0.010
#: So many lengths the file may have. To run through them takes many times the 10 ms for which one is believed.
_LENGTHS = 4096 - SIZE
#: How long a reader that met half a record waits for its writer. A ``pwrite`` of 512 bytes takes
#: microseconds; only a process stopped in the middle of one, or a foreign lock, takes longer.
_PATIENCE = 1.0


class Sighting:
    """A record as it was read, and what tells whether it still is that. Never changed once it is made."""

    __slots__ = ("absent", "checksum", "description", "length", "record", "since", "until")

    def __init__(
        self,
        record: Record,
        description: Description | None,
        length: int,
        checksum: bytes,
        since: float,
        until: float,
        absent: str = "",
    ) -> None:
        self.record = record
        #: From where it was read, and how long that was; closes when the last one who uses it lets go.
        self.description = description
        self.length = length
        #: The record's last bytes.
        self.checksum = checksum
        #: By the wall clock, from when to when no more may be asked. A clock set back is before that.
        self.since = since
        self.until = until
        #: Without a description: where there was no file.
        self.absent = absent

    def still_holds(self) -> bool:
        """Whether the record is what it was: one system call, unless more has to be looked at."""
        if not self.since <= time() < self.until:
            return False
        if self.description is None:
            return not _is_there(self.absent)
        try:
            return os.lseek(self.description.fd, 0, os.SEEK_END) == self.length
        except OSError:
            return False  # closed by a fork, or stale on a network: a look tells


def unseen(record: Record) -> Sighting:
    """Of *record*, which nothing but a look can confirm."""
    return Sighting(record, None, 0, b"", math.inf, -math.inf)


class Sidecar:
    """The sidecar file at *path*; its methods may be called by any thread."""

    __slots__ = ("_complaint", "_seen", "mode", "path", "timeout")

    def __init__(self, path: str, mode: int | None = None, timeout: float | None = None) -> None:
        self.path = path
        self.mode = mode
        self.timeout = timeout
        # Racing threads may write these; whichever wins is right.
        self._seen = _NOTHING_SEEN
        self._complaint = ""

    def sight(self) -> Sighting:
        """The record as it is now; :data:`~.record.NOTHING` if there is none. The first one is seen at once.

        A sidecar that was deleted, replaced or scribbled on less than 10 ms ago may still be believed.

        :raises SidecarError: as :meth:`look` does.
        """
        seen = self._seen
        return seen if seen.still_holds() else self.look()

    def standing(self) -> None:
        """What stands at the resource's path: nobody looks at it here."""

    def look(self) -> Sighting:
        """The record of the file that is at the path now.

        :raises SidecarError: if there is a directory in its place, it was written by a newer format, or
            the system fails to read it. Damage is no error, nor is a file that this user may not read:
            they count as no creation yet (:data:`~.record.DAMAGED`),
            and are logged.
        """
        try:
            return self._look()
        except FileNotFoundError:
            pass
        except SidecarError:
            raise
        except OSError as error:
            explanation = explained(SidecarError, self.path, "read the sidecar", error, reading=True)
            if error.errno not in NO_PERMISSION:
                raise explanation from error
            self._complain(f"{explanation.strerror} Until then it counts as no creation yet.")
            return self._forgotten(_DAMAGE_SEEN)
        now = time()
        return self._forgotten(Sighting(NOTHING, None, 0, b"", now, now + _LOOK_EVERY, absent=self.path))

    def _look(self) -> Sighting:
        fd = -1
        while fd < 0:  # unless another thread finds in between that it is gone
            seen = self._seen
            # Kept until this returns: while the descriptor is used, no other file can get its number.
            description = seen.description
            if description is None or not description.is_at_its_path():
                self._forgotten(_NOTHING_SEEN)
                description = self._opened()
            fd = description.fd
        now = time()
        length = os.lseek(fd, 0, os.SEEK_END)  # first: what changes in between shall be noticed
        data = os.pread(fd, SIZE, 0)
        if length == seen.length and data[CHECKSUM_AT:] == seen.checksum and is_whole(data):
            record = seen.record
        else:
            sound = self._decoded(data)
            if sound is None:
                # Half of the old record and half of the new one, or damage: with the writer out, it shows.
                data = self._read_while_nobody_writes()
                sound = self._decoded(data)
            record = self._sound(sound, data)
        until = now + _LOOK_EVERY
        seen = self._seen = Sighting(record, description, length, data[CHECKSUM_AT:], now, until)
        return seen

    def change(self, make: Callable[[Record], Record]) -> None:
        """Replace the record by ``make(record)``, against which no other change can slip in.

        The file is made if it is missing. If this fails or the process dies, the old record stands; unless it is
        told only afterwards, by closing the file, that it may not last: then either may stand.

        :raises SidecarError: if it cannot be opened or written, or was written by a newer format.
        :raises LockTimeout: if a foreign hand keeps it locked.
        """
        try:
            while not self._changed(make):
                pass
        except (SidecarError, LockTimeout):
            raise
        except OSError as error:
            raise explained(SidecarError, self.path, "write the sidecar", error) from error

    def sync(self) -> None:
        """Have the record on the disk, and the sidecar's name; else they come there whenever the system likes.

        :raises SidecarError: if the disk fails: the record stands, but the machine may forget it.
        """
        try:
            description = self._opened()
            try:
                durability.sync(description.fd)
            finally:
                description.close()
        except FileNotFoundError:
            return  # removed since, and what it said with it
        except OSError as error:
            if error.errno not in durability.NOT_SUPPORTED:
                raise explained(SidecarError, self.path, "make durable what was written to", error) from error
        durability.sync_directory(os.path.dirname(self.path), SidecarError)

    def _changed(self, make: Callable[[Record], Record]) -> bool:
        change = _Change.in_progress_at(self.path)
        if change is not None:
            # A signal handler or a finalizer has come in the middle of a change by this thread, which would wait
            # for itself. It changes the file under the same lock, and what it came into begins anew.
            change.crossings += 1
            return self._change_locked(change, make)
        change = _Change(open_regular(Description(self.path), os.O_RDWR, self.mode, create=True))
        try:
            change.begin()
            return self._change_locked(change, make)
        finally:
            change.end()

    def _change_locked(self, change: _Change, make: Callable[[Record], Record]) -> bool:
        description = change.description
        if not _wait_for_lock(description, LOCK_EX, Deadline(self.timeout)):
            raise LockTimeout(
                f"somebody kept the sidecar {self.path!r} locked for {self.timeout} s. Cure: find who it is "
                "with fuser(1) or in /proc/locks; dogpile_fs itself does so for microseconds."
            )
        found = description.found_at_its_path()
        if found is None:
            return False
        complain, is_written = b"", False
        while not is_written:
            crossings = change.crossings
            length = os.lseek(description.fd, 0, os.SEEK_END)
            data = os.pread(description.fd, SIZE, 0)
            seen = self._seen
            if length == seen.length and data[CHECKSUM_AT:] == seen.checksum and is_whole(data):
                record = seen.record
            elif data:
                sound = self._decoded(data)
                complain = data if sound is None else b""
                record = DAMAGED if sound is None else sound
            else:
                record = NOTHING
            record = make(record)
            new = contents(record)
            if found.st_nlink > 1:
                hardlink.replace(self.path, found, new, mode=self.mode, is_ours=is_whole(data))
                is_written = True
            else:
                is_written = _overwrite(description.fd, data, length, new, change, crossings)
        kept = self._seen.description
        if kept is not None:
            if kept.is_at_its_path():
                # A look will find it unchanged and need not decode it.
                self._seen = Sighting(record, kept, len(new), new[CHECKSUM_AT:SIZE], math.inf, -math.inf)
            else:
                self._forgotten(_NOTHING_SEEN)
        if complain:
            change.complaints.append(partial(self._tell_healed, complain))
        else:
            self._complaint = ""
        return True

    def _tell_healed(self, data: bytes) -> None:
        self._sound(None, data)
        self._complaint = ""

    def _forgotten(self, seen: Sighting) -> Sighting:
        """Have nobody believe for 10 ms more what was read from a file that is no longer at the path."""
        kept, self._seen = self._seen.description, seen
        if kept is not None:
            kept.retire()
        return seen

    def _opened(self) -> Description:
        return open_regular(Description(self.path), os.O_RDONLY, create=False)

    def _read_while_nobody_writes(self) -> bytes:
        # A description of its own: a shared lock on the kept one would belong to all threads at once.
        change = _Change.in_progress_at(self.path)
        if change is not None:  # by this thread, into which a signal handler has come
            return os.pread(change.description.fd, SIZE, 0)
        description = self._opened()
        try:
            _wait_for_lock(description, LOCK_SH, Deadline(_PATIENCE))
            return os.pread(description.fd, SIZE, 0)
        finally:
            description.give_back()

    def _decoded(self, data: bytes) -> Record | None:
        try:
            return decode(data)
        except NewerFormat as error:
            raise SidecarError(
                errno.EPROTO,
                f"cannot use the sidecar {self.path!r}: {error}. "
                "Cure: let all users of the resource run the same dogpile_fs, or delete the sidecar.",
            ) from error

    def _sound(self, record: Record | None, data: bytes) -> Record:
        if record is None:
            # Empty is also what a reader sees that comes between its making and its first record.
            self._complain(
                f"the sidecar {self.path!r} holds no sound record but {len(data)} bytes of something else: "
                "it counts as no creation yet, and the next creation writes it anew.",
                logging.WARNING if data else logging.INFO,
            )
            return DAMAGED
        self._complaint = ""
        return record

    def _complain(self, text: str, level: int = logging.WARNING) -> None:
        if text != self._complaint:
            self._complaint = text
            log.log(level, text)


def _is_there_by_access(path: str) -> bool:
    """Whether anything is called *path*. Raises nothing, which would cost more than the question does.

    As ``open`` would find it: for who this process acts as, and through no link that was planted there.
    """
    return access(path, F_OK, effective_ids=True, follow_symlinks=False)


#: Some systems refuse that question (musl on Linux before 5.8, a filter that does not know faccessat2), and so
#: would tell that nothing is anywhere.
_is_there: Callable[[str], bool] = lexists
if access in os.supports_effective_ids and access in os.supports_follow_symlinks and _is_there_by_access("/"):
    _is_there = _is_there_by_access

_NOTHING_SEEN = unseen(NOTHING)
_DAMAGE_SEEN = unseen(DAMAGED)


def contents(record: Record) -> bytes:
    """All of a file that holds *record*."""
    return encode(record) + bytes((record.generation + record.invalidations) % _LENGTHS)


class _Change:
    """A change of a sidecar that a thread is about to make, from before it locks the file until it has unlocked
    it."""

    __slots__ = ("__weakref__", "complaints", "crossings", "description")

    def __init__(self, description: Description) -> None:
        self.description = description
        #: How many others have changed the file under this one's lock.
        self.crossings = 0
        #: What is to be logged when the file is unlocked.
        self.complaints: list[Callable[[], object]] = []

    def begin(self) -> None:
        _changes.of_this_thread.append(ref(self))

    def end(self) -> None:
        """Unlock and close the file, then log.

        :raises OSError: if what was written did not get to where it belongs.
        """
        try:
            _unlock(self.description)
            self.description.close_written()
        finally:
            self.description.give_back()
            _changes.of_this_thread[:] = [each for each in _changes.of_this_thread if each() not in (None, self)]
        for complain in self.complaints:
            complain()

    @classmethod
    def in_progress_at(cls, path: str) -> _Change | None:
        """The change that this thread is in the middle of, of the file at *path*."""
        for reference in _changes.of_this_thread:
            change = reference()
            if change is not None and change.description.fd >= 0 and change.description.is_at(path):
                return change
        return None


class _Changes(threading.local):
    """The changes that each thread is in the middle of; weakly, so that one that was interrupted ends."""

    def __init__(self) -> None:
        self.of_this_thread: list[ref[_Change]] = []


_changes = _Changes()


def _unlock(description: Description) -> None:
    with suppress(OSError):
        flock(description.fd, LOCK_UN)


def _overwrite(fd: int, old: bytes, length: int, new: bytes, change: _Change, crossings: int) -> bool:
    """Write *new* over the *old* bytes of a file that is *length* bytes long.

    :returns: False, and nothing was written, if another has changed it in the meantime.
    """
    if length > len(new):
        os.ftruncate(fd, len(new))  # before: afterwards it would cut what a signal handler has written
    # No signal handler runs between the question and the writing.
    if change.crossings != crossings:
        return False
    written = os.pwrite(fd, new, 0)
    if written != len(new):  # a full disk or a limit, met in the middle
        os.pwrite(fd, old[:written], 0)
        os.ftruncate(fd, length)
        raise OSError(errno.ENOSPC, f"there was room for only {written} of {len(new)} bytes")
    return True


def _wait_for_lock(description: Description, kind: int, deadline: Deadline) -> bool:
    def attempt() -> bool:
        try:
            flock(description.fd, kind | LOCK_NB)
        except BlockingIOError:
            return False
        return True

    return wait_until(attempt, lambda: flock(description.fd, kind), deadline)
