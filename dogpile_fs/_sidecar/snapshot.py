"""A record as it was read at one moment, and how to find out whether it still is the same.

One system call tells for a hundredth of a second; then two more do, which ask whether the file is the same and is
at its path. So the record is read anew only when it has changed, and once a second.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from os import F_OK, access
from os.path import lexists
from time import time

from .._os.openfile import OpenFile
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["LOOK_EVERY", "Snapshot", "unverified"]

#: Seconds for which a snapshot is believed without more than the check of the length. It bounds how long a sidecar
#: that another program has replaced goes unnoticed.
LOOK_EVERY = 0.010
#: Seconds after which the record is read again, also if the system says that the file was not changed.
_READ_EVERY = 1.0
#: Seconds for which the time of a file's last change does not tell it from a later one: file systems count in
#: steps, of up to two seconds.
_UNSETTLED = 3.0


class Snapshot:
    """A record as it was read. What it says never changes once it is made, only how long it is believed."""

    __slots__ = (
        "absent",
        "changed_ns",
        "checksum",
        "length",
        "open_file",
        "read_again_at",
        "record",
        "since",
        "until",
    )

    def __init__(
        self,
        record: Record,
        open_file: OpenFile | None,
        length: int,
        checksum: bytes,
        since: float,
        until: float,
        absent: str = "",
    ) -> None:
        self.record = record
        #: The sidecar that it was read from, and how many bytes long that was. The last user that drops it closes
        #: it.
        self.open_file = open_file
        self.length = length
        #: The record's last bytes.
        self.checksum = checksum
        #: Wall-clock times between which no more than the length needs to be checked. A clock set back is before
        #: them.
        self.since = since
        self.until = until
        #: The path at which there was no file, if *open_file* is ``None``.
        self.absent = absent
        #: When the file was changed last, in nanoseconds since the epoch, and the wall-clock time from which on
        #: that does not count: at once, unless :meth:`settle` was called.
        self.changed_ns = 0
        self.read_again_at = -math.inf

    def settle(self, found: os.stat_result) -> None:
        """Let :meth:`is_unchanged` compare with what was *found* at the path before the record was read."""
        changed = found.st_ctime_ns
        if changed < (self.since - _UNSETTLED) * 1e9:
            self.changed_ns, self.read_again_at = changed, self.since + _READ_EVERY

    def reconciled(self, record: Record, since: float, until: float) -> Self:
        """Return a snapshot of the same bytes, which mean *record*, for the time *since* then and *until* then."""
        return type(self)(record, self.open_file, self.length, self.checksum, since, until, self.absent)

    def is_current(self) -> bool:
        """Return whether the record is known to be the same: one system call, unless more has to be checked."""
        if not self.since <= time() < self.until:
            return False
        if self.open_file is None:
            return not _is_there(self.absent)
        try:
            return os.lseek(self.open_file.fd, 0, os.SEEK_END) == self.length
        except OSError:
            return False  # closed by a fork, or stale on a network

    def is_unchanged(self, path: str) -> bool:
        """Return whether the file at *path* is the one that was read, and was not changed since.

        If it is, the snapshot is believed for another while.
        """
        now = time()
        if not self.since <= now < self.read_again_at:
            return False
        open_file = self.open_file
        assert open_file is not None
        try:
            found = os.lstat(path)
            if found.st_ctime_ns != self.changed_ns or found.st_size != self.length:
                return False
            # Another part of the program may have closed the descriptor, and its number may be another file's.
            opened = os.fstat(open_file.fd)
        except (OSError, OverflowError):
            return False
        if found.st_ino != opened.st_ino or found.st_dev != opened.st_dev:
            return False
        # In this order: a thread that reads them in between finds it believed for less, and looks itself.
        self.since, self.until = now, now + LOOK_EVERY
        return True


def unverified(record: Record) -> Snapshot:
    """Return a snapshot of *record* that is never current, so that the sidecar is read again."""
    return Snapshot(record, None, 0, b"", math.inf, -math.inf)


def _is_there_by_access(path: str) -> bool:
    """Return whether there is anything at *path*, without the exception of ``stat``, which would cost more than
    the call.

    As ``open`` would find it: for the effective user, and not through a symbolic link that another user has
    planted.
    """
    return access(path, F_OK, effective_ids=True, follow_symlinks=False)


#: Some systems refuse those flags (musl on Linux before 5.8, a filter that does not know faccessat2), and would
#: report that nothing is anywhere.
_is_there: Callable[[str], bool] = lexists
if access in os.supports_effective_ids and access in os.supports_follow_symlinks and _is_there_by_access("/"):
    _is_there = _is_there_by_access
