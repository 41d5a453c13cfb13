"""The sidecar: a small file that is read at every pass and written at every creation.

The file is as long as its record, and longer by one zero byte for each write so far (up to 4 KB; then it begins
again). So a pass asks one ``lseek`` on a kept descriptor, the cheapest question that a file answers: has its
length changed? When it has, the record is read. Every 10 ms a pass also asks whether the path still leads to that
file, and whether the file was changed in any other way. Memory-mapping the file would be faster still, but a
truncation by another program would then kill every reader with SIGBUS. Where there is no file, the question is
whether there still is none.

A write is read, change and one ``pwrite`` under an exclusive ``flock`` on the sidecar itself, held for
microseconds: a stamp and an invalidation cannot overwrite each other. The creation mutex would not do for that,
because an invalidation must not wait until a creator has finished.

A file with a second name is not written, because it may be another user's: a new file takes its place.
"""

from __future__ import annotations

import errno
import logging
import math
import os
from collections.abc import Callable
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from functools import partial
from time import time

from .._os import fsync, kept_open
from .._os.openfile import OpenFile, open_regular
from .._os.waiting import Deadline, wait_until
from ..errors import NO_PERMISSION, LockTimeout, SidecarError, as_error
from . import hardlink
from .change import Change
from .decoding import NewerFormat, decode, is_whole
from .encoding import encode
from .record import CHECKSUM_AT, DAMAGED, MISSING, SIZE, Record
from .snapshot import LOOK_EVERY, Snapshot, unverified

__all__ = ["Sidecar", "contents"]

log = logging.getLogger("dogpile_fs")

#: Lengths that the file may have. Running through all of them takes many times :data:`.LOOK_EVERY`.
_LENGTHS = 4096 - SIZE
#: Seconds for which a reader that has met half a record waits for its writer. The ``pwrite`` takes microseconds;
#: only a process that was stopped in the middle of it, or another program's lock, takes longer.
_PATIENCE = 1.0


class Sidecar:
    """The sidecar file at *path*. Any thread may call its methods.

    *mode*: permission bits of a file that has to be made; ``None``: what the umask leaves of 0o666. *timeout*:
    seconds to wait at most for another program's lock; ``None``: no bound.
    """

    __slots__ = ("_complaint", "_last", "mode", "path", "timeout")

    def __init__(self, path: str, mode: int | None = None, timeout: float | None = None) -> None:
        self.path = path
        self.mode = mode
        self.timeout = timeout
        # Racing threads may write these; either value is right.
        self._last = _MISSING
        self._complaint = ""

    def peek(self) -> Snapshot:
        """Return the record, at the price of a fresh pass; that of :data:`~.record.MISSING` if there is no file.

        A sidecar that another program has deleted, replaced or overwritten is noticed within 10 ms.

        :raises SidecarError: as :meth:`read` does.
        """
        last = self._last
        return last if last.is_current() or last.is_unchanged(self.path) else self.read()

    def last_read(self) -> float:
        """Return the wall-clock time at which the record was read or written last; 0 if nothing is kept of it."""
        since = self._last.since
        return since if since < math.inf else 0.0

    def let_go(self) -> None:
        """Keep nothing open: the last user that drops the file closes it."""
        self._last = _MISSING

    def fingerprint(self) -> None:
        """Return ``None``: without a :class:`~.reconciled.ReconciledRecord` the resource is not looked at."""

    def read(self, again: bool = True) -> Snapshot:
        """Return the record of the file that is at the path now.

        Damage is no error, nor is a file that this user may not read: they count as no creation yet
        (:data:`~.record.DAMAGED`), and are logged.

        :raises SidecarError: if a directory is in its place, a newer format is in it, or the system fails to read
            it.
        """
        try:
            return self._read()
        except FileNotFoundError:
            pass
        except SidecarError:
            raise
        except OSError as error:
            if again and error.errno == errno.ESTALE:  # another host has replaced it
                self._replace_last(_MISSING)
                return self.read(again=False)
            failure = as_error(SidecarError, self.path, "read the sidecar", error, reading=True)
            if error.errno not in NO_PERMISSION:
                raise failure from error
            self._complain(f"{failure.strerror} Until then it counts as no creation yet.")
            return self._replace_last(_DAMAGED)
        now = time()
        return self._replace_last(Snapshot(MISSING, None, 0, b"", now, now + LOOK_EVERY, absent=self.path))

    def _read(self) -> Snapshot:
        fd = -1
        while fd < 0:  # unless another thread finds in between that the file is gone
            last, found = self._last, None
            # This reference keeps the descriptor open, so that its number cannot come to mean another file.
            open_file = last.open_file
            if open_file is not None:
                found = open_file.found_at(self.path)
            if open_file is None or found is None:
                self._replace_last(_MISSING)
                open_file = self._opened()
                kept_open.has_opened()
            fd = open_file.fd
        now = time()
        length = os.lseek(fd, 0, os.SEEK_END)  # first, so that a write between the two calls is noticed
        data = os.pread(fd, SIZE, 0)
        if length == last.length and data[CHECKSUM_AT:] == last.checksum and is_whole(data):
            record = last.record
        else:
            sound = self._decoded(data)
            if sound is None:
                # Half of the old record and half of the new one, or damage: without a writer inside it shows.
                data = self._read_without_a_writer()
                sound = self._decoded(data)
            if sound is None:
                self._complain_of_damage(data)
            else:
                self._complaint = ""
            record = DAMAGED if sound is None else self._noted(sound)
        snapshot = self._last = Snapshot(record, open_file, length, data[CHECKSUM_AT:], now, now + LOOK_EVERY)
        if found is not None:
            snapshot.settle(found)
        return snapshot

    def change(self, make: Callable[[Record], Record]) -> None:
        """Replace the record by ``make(record)``; no other change can come in between.

        The file is made if it is missing. *make* may be called more than once. If the change fails or the process
        dies, the old record stays. If only closing the file fails, either may have been written.

        :raises SidecarError: if the file cannot be opened or written, or a newer format is in it.
        :raises LockTimeout: if another program keeps it locked.
        """
        again = True
        while True:
            try:
                if self._changed(make):
                    return
            except (SidecarError, LockTimeout):
                raise
            except OSError as error:
                if not again or error.errno != errno.ESTALE:  # that is: another host has replaced it
                    raise as_error(SidecarError, self.path, "write the sidecar", error) from error
                again = False

    def sync(self) -> None:
        """Write the record and the sidecar's name to the disk; otherwise the system does so when it likes.

        :raises SidecarError: if the disk fails: the record stays, but a crash of the machine may lose it.
        """
        try:
            open_file = self._opened()
            try:
                fsync.sync(open_file.fd)
            finally:
                open_file.close()
        except FileNotFoundError:
            return  # it was removed, and the record with it
        except OSError as error:
            if error.errno not in fsync.NOT_SUPPORTED:
                raise as_error(SidecarError, self.path, "make durable what was written to", error) from error
        fsync.sync_directory(os.path.dirname(self.path), SidecarError)

    def _changed(self, make: Callable[[Record], Record]) -> bool:
        change = Change.in_progress_at(self.path)
        if change is not None:
            # A signal handler or a finalizer runs in the middle of a change by this thread, and would wait for
            # that. It changes the file under the same lock, and the change that it interrupted begins anew.
            change.crossings += 1
            return self._change_locked(change, make)
        change = Change(open_regular(OpenFile(self.path), os.O_RDWR, self.mode, create=True))
        try:
            change.begin()
            return self._change_locked(change, make)
        finally:
            change.end()

    def _change_locked(self, change: Change, make: Callable[[Record], Record]) -> bool:
        open_file = change.open_file
        if not _wait_for_lock(open_file, LOCK_EX, Deadline(self.timeout)):
            raise LockTimeout(
                f"another program kept the sidecar {self.path!r} locked for {self.timeout} s. Hint: find it with "
                "fuser(1) or in /proc/locks; dogpile_fs locks a sidecar for microseconds."
            )
        is_written = False
        while not is_written:
            found = open_file.found_at_its_path()
            if found is None:
                return False
            crossings = change.crossings
            length = os.lseek(open_file.fd, 0, os.SEEK_END)
            data = os.pread(open_file.fd, SIZE, 0)
            last = self._last
            if length == last.length and data[CHECKSUM_AT:] == last.checksum and is_whole(data):
                before: Record | None = last.record
            else:
                before = self._decoded(data) if data else MISSING
            # Where no record says how often the file was written, its length goes on from the one that it has.
            changes = max(0, length - SIZE) if before is None or not data else before.changes
            made = make(DAMAGED if before is None else before)
            if made is before and data:
                break  # nothing is to be changed
            record = made.replace(changes=changes + 1)
            new = contents(record)
            if found.st_nlink > 1:
                is_written = hardlink.replace(self.path, found, new, self.mode, is_whole(data), change, crossings)
            else:
                is_written = _overwrite(open_file.fd, data, length, new, change, crossings)
        kept = self._last.open_file if is_written else None
        if kept is not None:
            if kept.is_at(self.path):
                # The next read finds these bytes and need not decode them.
                self._last = Snapshot(
                    self._noted(record), kept, len(new), new[CHECKSUM_AT:SIZE], time(), -math.inf
                )
            else:
                self._replace_last(_MISSING)
        if before is None:
            change.after_unlocking.append(partial(self._report_healed, data))
        else:
            self._complaint = ""
        return True

    def _report_healed(self, data: bytes) -> None:
        self._complain_of_damage(data)
        self._complaint = ""

    def _noted(self, record: Record) -> Record:
        """Return *record*, which was read or written just now, as callers shall see it."""
        return record

    def _replace_last(self, snapshot: Snapshot) -> Snapshot:
        """Let no thread believe the last snapshot any longer: its file is no longer at the path."""
        kept, self._last = self._last.open_file, snapshot
        if kept is not None:
            kept.defer_close()
        return snapshot

    def _opened(self) -> OpenFile:
        return open_regular(OpenFile(self.path), os.O_RDONLY, create=False)

    def _read_without_a_writer(self) -> bytes:
        change = Change.in_progress_at(self.path)
        if change is not None:  # by this thread, which a signal handler has interrupted
            return os.pread(change.open_file.fd, SIZE, 0)
        # A description of its own: a shared lock on the kept one would belong to all threads at once.
        open_file = self._opened()
        try:
            _wait_for_lock(open_file, LOCK_SH, Deadline(_PATIENCE))
            return os.pread(open_file.fd, SIZE, 0)
        finally:
            open_file.give_back()

    def _decoded(self, data: bytes) -> Record | None:
        try:
            return decode(data)
        except NewerFormat as error:
            raise SidecarError(
                errno.EPROTO,
                f"cannot use the sidecar {self.path!r}: {error}. "
                "Hint: let all users of the resource run the same dogpile_fs, or delete the sidecar.",
            ) from error

    def _complain_of_damage(self, data: bytes) -> None:
        # A reader also finds an empty file between its making and its first record.
        self._complain(
            f"the sidecar {self.path!r} holds no sound record but {len(data)} other bytes: "
            "it counts as no creation yet, and the next creation writes it anew.",
            logging.WARNING if data else logging.INFO,
        )

    def _complain(self, text: str, level: int = logging.WARNING) -> None:
        if text != self._complaint:
            self._complaint = text
            log.log(level, text)


_MISSING = unverified(MISSING)
_DAMAGED = unverified(DAMAGED)


def contents(record: Record) -> bytes:
    """Return the whole contents of a sidecar that holds *record*."""
    return encode(record) + bytes(record.changes % _LENGTHS)


def _overwrite(fd: int, old: bytes, length: int, new: bytes, change: Change, crossings: int) -> bool:
    """Write *new* over the *old* bytes of a file that is *length* bytes long.

    :returns: False, and nothing was written, if this thread has made another change in the meantime.
    """
    size = len(new)
    # No signal handler runs between these comparisons and the calls.
    if change.crossings != crossings:
        return False
    written = os.pwrite(fd, new, 0)
    if written != size:  # a full disk or a limit
        os.pwrite(fd, old[:written], 0)
        os.ftruncate(fd, length)
        raise OSError(errno.ENOSPC, f"there was room for only {written} of {size} bytes")
    # Not before the write: a reader in between would take the old record for that of the new length.
    if length > size and change.crossings == crossings:  # else a signal handler has set the length
        os.ftruncate(fd, size)
    return True


def _wait_for_lock(open_file: OpenFile, kind: int, deadline: Deadline) -> bool:
    def attempt() -> bool:
        try:
            flock(open_file.fd, kind | LOCK_NB)
        except BlockingIOError:
            return False
        return True

    return wait_until(attempt, lambda: flock(open_file.fd, kind), deadline)
