"""A record as it was read at one moment, and how to find out with one system call whether it still is the same."""

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

__all__ = ["Snapshot", "unverified"]


class Snapshot:
    """A record as it was read. Never changed once it is made."""

    __slots__ = ("absent", "checksum", "length", "open_file", "record", "since", "until")

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
