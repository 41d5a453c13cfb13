"""The path that a creator is called with, and what the creator may say of the version that it makes there."""

from __future__ import annotations

import errno
from datetime import timedelta

from .._dogpile.outcome import Outcome
from .._dogpile.stamp import Stamp
from .._os.waiting import checked_seconds
from .._sidecar.record import LONGEST_NOTE
from ..errors import DatafileError

__all__ = ["Target"]


class Target(str):
    """The path at which a creator makes the new version: a ``str`` with more to it.

    *previous*: the path of the version that is in place; ``None`` if there is none.

    >>> import os, tempfile
    >>> from dogpile_fs import Datafile
    >>> def creator(target):
    ...     if target.previous and target.note == "etag-1":
    ...         return target.unchanged()
    ...     with open(target, "w") as file:
    ...         _ = file.write("the report")
    ...     target.note = "etag-1"
    >>> report = Datafile(os.path.join(tempfile.mkdtemp(), "report.txt"), 3600, creator)
    >>> [str(report.refresh(force=True)) for attempt in range(2)]
    ['created', 'unchanged']
    """

    __slots__ = ("_expires_in", "_is_unchanged", "_new_note", "_note", "previous")

    previous: str | None
    _note: str
    _new_note: str | None
    _expires_in: float | None
    _is_unchanged: bool

    def __new__(cls, path: str, previous: str | None, note: str) -> Target:
        target = str.__new__(cls, path)
        target.previous = previous
        target._note = note
        target._new_note = target._expires_in = None
        target._is_unchanged = False
        return target

    @property
    def note(self) -> str:
        """The note of the version in place, at most 96 bytes, such as an ETag or a cursor; empty without one.

        Set it to leave a note with the new version. A creation that sets none leaves none.

        :raises TypeError, ValueError: on setting, if it is no ``str``, or has more than 96 bytes in UTF-8.
        """
        return self._note if self._new_note is None else self._new_note

    @note.setter
    def note(self, note: str) -> None:
        if not isinstance(note, str):
            raise TypeError(f"a note must be a str, not {note!r}")
        size = len(note.encode())
        if size > LONGEST_NOTE:
            raise ValueError(f"a note must have at most {LONGEST_NOTE} bytes in UTF-8, not {size}: {note!r}")
        self._new_note = str(note)

    def expires_in(self, seconds: float | timedelta) -> None:
        """Let the new version be stale after so many *seconds*, for all processes, if that is sooner than
        expiretime.

        :param seconds: from the end of this creation; or a ``timedelta``.
        :raises TypeError, ValueError: if it is no number of seconds from 0 on.
        """
        self._expires_in = checked_seconds("expires_in", seconds)

    def unchanged(self) -> object:
        """Return what the creator returns if there is nothing new: the version in place is stamped, and stays.

        It keeps its note, unless another one is set.

        :raises DatafileError: if there is no version.
        """
        if self.previous is None:
            raise DatafileError(
                errno.ENOENT,
                f"nothing is in place that could be unchanged. Hint: make the first version, at {str(self)!r}.",
            )
        self._is_unchanged = True
        return self

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return str, (str(self),)  # another process has no say in what is stamped

    def _is_unchanged_by(self, answer: object) -> bool:
        """Return whether the creator, which has returned *answer*, says that there is nothing new."""
        return answer is self and self._is_unchanged

    def _complete(self, stamp: Stamp) -> Stamp:
        """Return *stamp* with what the creator has said of the version."""
        note = self.note if stamp.outcome == Outcome.unchanged else self._new_note or ""
        return stamp._replace(expires_in=self._expires_in, note=note)
