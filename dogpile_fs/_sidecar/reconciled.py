"""The record of a resource at whose path something stands that is looked at."""

from __future__ import annotations

from time import time

from ..errors import PathError, explained
from .file import Sidecar, Sighting, unseen
from .fingerprint import Standing, corrected, standing_at
from .record import NOTHING, Record

__all__ = ["ObservedRecord"]

#: A look at the path costs what a whole pass does. It is taken at every pass of a server, and only loops that
#: pass more often than this (seconds) are spared it.
_LOOK_EVERY = 0.0001


class ObservedRecord:
    """The record in *sidecar*, corrected by what stands at *path*; any thread may ask."""

    __slots__ = ("_seen", "_sidecar", "path")

    def __init__(self, sidecar: Sidecar, path: str) -> None:
        self.path = path
        self._sidecar = sidecar
        # What the sidecar said, what stood at the path, and what that makes. One tuple, so that a thread sees all
        # of it or none.
        self._seen: tuple[Record | None, Standing | None, Sighting] = (None, None, unseen(NOTHING))

    def sight(self) -> Sighting:
        """As :meth:`.sidecar.Sidecar.sight`. What was replaced less than 0.1 ms ago may still be believed."""
        seen = self._seen[2]
        return seen if seen.still_holds() else self._corrected(self._sidecar.sight())

    def look(self) -> Sighting:
        """As :meth:`.sidecar.Sidecar.look`.

        :raises PathError: if what stands at the path cannot be looked at.
        """
        return self._corrected(self._sidecar.look())

    def standing(self) -> Standing | None:
        """What stands at the path now, for the stamp.

        :raises PathError: if that cannot be looked at.
        """
        found = self._found()
        return None if found is None else found[0]

    def _corrected(self, sighting: Sighting) -> Sighting:
        now = time()
        found = self._found()
        known, before, seen = self._seen
        record = sighting.record
        if record is known and before == (None if found is None else found[0]):
            correct = seen.record
        else:
            while (correct := corrected(record, found)) is not record:
                # Not what was stamped. Or it was swapped in and stamped since the sidecar was read.
                later = self._sidecar.look()
                if later.record is record:
                    break
                sighting, record, found = later, later.record, self._found()
        until = min(now + _LOOK_EVERY, sighting.until)
        since = max(now, sighting.since)
        seen = Sighting(
            correct, sighting.description, sighting.length, sighting.checksum, since, until, sighting.absent
        )
        # The stamp's own numbers, if they are the same: many objects keep them.
        standing = correct.about[:3] if found is not None and correct.about is not None else None
        self._seen = (record, standing if found is None or standing == found[0] else found[0], seen)
        return seen

    def _found(self) -> tuple[Standing, float] | None:
        try:
            return standing_at(self.path)
        except OSError as error:
            raise explained(PathError, self.path, "look at", error, reading=True) from error
