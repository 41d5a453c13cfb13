"""The record of a resource that is looked at: what the sidecar says, reconciled with the file at the path."""

from __future__ import annotations

import logging
from time import time

from ..errors import PathError, as_error
from .file import Sidecar
from .fingerprint import Fingerprint, fingerprint_at
from .record import MISSING, Record
from .snapshot import Snapshot, unverified

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .fingerprint import Found
    from .key_records import KeyRecord

__all__ = ["ReconciledRecord"]

log = logging.getLogger("dogpile_fs")

#: Seconds for which the path is not looked at again. A look costs as much as a whole pass; this spares it to loops
#: that pass more often, and to no request of a server.
_LOOK_EVERY = 0.0001

_NOTHING: tuple[Record | None, Found | None, Snapshot] = (None, None, unverified(MISSING))


class ReconciledRecord:
    """The record in *sidecar*, reconciled with the file at *path*. Any thread may call its methods."""

    __slots__ = ("_last", "_reported", "_sidecar", "path")

    def __init__(self, sidecar: Sidecar | KeyRecord, path: str) -> None:
        self.path = path
        self._sidecar = sidecar
        # The record in the sidecar, what was found at the path, and the snapshot that they make: one tuple, so
        # that a thread reads all of it or none.
        self._last = _NOTHING
        #: The fingerprint of the stamped file that was last reported as changed.
        self._reported: Fingerprint | None = None

    def peek(self) -> Snapshot:
        """Return the record as :meth:`.Sidecar.peek` does. A replaced file is noticed within 0.1 ms."""
        last = self._last[2]
        return last if last.is_current() else self._reconcile(self._sidecar.peek())

    def read(self) -> Snapshot:
        """Return the record as :meth:`.Sidecar.read` does.

        :raises PathError: if the path cannot be looked at.
        """
        return self._reconcile(self._sidecar.read())

    def let_go(self) -> None:
        """Keep nothing open, as :meth:`.Sidecar.let_go`."""
        self._last = _NOTHING
        self._sidecar.let_go()

    def fingerprint(self) -> Fingerprint | None:
        """Return the fingerprint of the file at the path now, for the stamp.

        :raises PathError: if the path cannot be looked at.
        """
        found = self._found()
        return None if found is None else found[0]

    def _reconcile(self, snapshot: Snapshot) -> Snapshot:
        now = time()
        found = self._found()
        known, before, last = self._last
        record = snapshot.record
        if record is known and before == found:
            found = before  # the same object: there may be thousands of datafiles
            reconciled = last.record
        else:
            while (reconciled := record.reconcile(found and found[:2])) is not record:
                # The file was not stamped. Or it was swapped in and stamped since the sidecar was read.
                later = self._sidecar.read()
                if later.record is record:
                    break
                snapshot, record, found = later, later.record, self._found()
            device = 0 if found is None else found[2]
            if reconciled.device != device:
                reconciled = reconciled.replace(device=device)
            reconciled = self._noted(reconciled)
        until = min(now + _LOOK_EVERY, snapshot.until)
        since = max(now, snapshot.since)
        last = snapshot.reconciled(reconciled, since, until)
        if found is not None and record.is_changed_in_place(found[0]):
            self._report_change(record)
        self._last = (record, found, last)
        return last

    def _noted(self, record: Record) -> Record:
        """Return *record*, which is another one than before, as callers shall see it."""
        return record

    def _report_change(self, record: Record) -> None:
        if record.fingerprint != self._reported:
            self._reported = record.fingerprint
            log.warning(
                "%r was changed after it was stamped and counts as stale: its creator (%s:%d) may have left a "
                "process running that writes to it. Hint: find the process with fuser(1).",
                self.path,
                record.host,
                record.pid,
            )

    def _found(self) -> Found | None:
        try:
            return fingerprint_at(self.path)
        except OSError as error:
            raise as_error(PathError, self.path, "look at", error, reading=True) from error
