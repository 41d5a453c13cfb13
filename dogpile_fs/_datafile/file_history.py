"""The earlier versions of a datafile that are kept for a rollback: which there are, and how one becomes one.

A version is kept before the next one is swapped in, as another name of the same file (a hard link) or, where
there are none, as a copy. So the path leads to a whole version at any time, and who is killed in between leaves
one kept version that is the current one, which counts for none.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress

from .._layout import names_in, number_in
from .._os import fsync as durability
from .._os import permissions
from .._os import replace as swap
from .._os.openfile import above_standard
from ..errors import DatafileError, explained

__all__ = ["KeptVersions", "same_contents"]

_PIECE = 1 << 20
#: What a file system says that has no hard links, or has no more, or not of what belongs to others
#: (sysctl fs.protected_hardlinks).
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)


class KeptVersions:
    """Those of the datafile at *place*.

    :param marked: how the names of a kind begin and end, as of :func:`.swap.marked`.
    """

    def __init__(self, place: str, marked: Callable[[str, str], tuple[str, str]]) -> None:
        self._place = place
        self._directory = os.path.dirname(place)
        self._begin, self._end = marked("kept", place)
        begin, end = marked("new", place)
        self._copy = os.path.join(self._directory, f"{begin}kept{end}")

    def last_first(self, *, needed: bool = False) -> list[tuple[int, str]]:
        """Their numbers and paths.

        :param needed: as of :func:`.names_in`.
        """
        found = [
            (number_in(name[len(self._begin) : -len(self._end)]), os.path.join(self._directory, name))
            for name in names_in(self._directory, self._begin, needed=needed)
            if name.endswith(self._end)
        ]
        return sorted(
            ((number, path) for number, path in found if number is not None and _is_regular(path)), reverse=True
        )

    def add_current(self) -> None:
        """Keep what is in place now.

        :raises DatafileError: if the system refuses.
        """
        kept = self.last_first(needed=True)
        if kept and os.path.samefile(kept[0][1], self._place):
            return  # by one who was killed before he swapped
        number = kept[0][0] + 1 if kept else 1
        swap.remove(self._copy)
        try:
            swap.link(self._place, self._copy)
        except DatafileError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:
                _copy(self._place, self._copy)
            except OSError as failure:
                raise explained(DatafileError, self._place, "keep the old version of", failure) from failure
        swap.rename(self._copy, os.path.join(self._directory, f"{self._begin}{number}{self._end}"))

    def remove_all_but(self, number: int) -> None:
        """Keep the last *number* of them; what cannot be removed stays."""
        with suppress(DatafileError):
            for _, kept in self.last_first()[number:]:
                with suppress(OSError):
                    os.unlink(kept)


def same_contents(one: str, other: str) -> bool:
    """Whether two regular files have them; False also if one cannot be read."""
    try:
        with open(one, "rb", opener=_itself) as a, open(other, "rb", opener=_itself) as b:
            found = os.fstat(b.fileno())
            if not stat.S_ISREG(found.st_mode) or os.fstat(a.fileno()).st_size != found.st_size:
                return False
            while piece := a.read(_PIECE):
                if piece != b.read(_PIECE):
                    return False
            return True
    except OSError:
        return False


def _copy(path: str, name: str) -> None:
    """Copy the file at *path*, with permissions and times, to *name*, where nothing is, nor a link elsewhere."""
    with (
        open(path, "rb", opener=_itself) as source,
        open(name, "xb", opener=_itself) as copy,
    ):
        found = os.fstat(source.fileno())
        shutil.copyfileobj(source, copy, _PIECE)
        copy.flush()
        os.utime(copy.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
        permissions.inherit(copy.fileno(), permissions.of(found, source.fileno()))
        durability.sync(copy.fileno())


def _itself(path: str, flags: int) -> int:
    return above_standard(os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600))


def _is_regular(path: str) -> bool:
    found = swap.lstat(path)
    return found is not None and stat.S_ISREG(found.st_mode)
