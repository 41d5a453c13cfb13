"""The earlier versions of a datafile that are kept for a rollback.

A version is kept before the next one is swapped in, as another name of the same file (a hard link) or, where the
file system has none, as a copy. So the path leads to a whole version at any time. A swap that fails, or a creator
that is killed in between, leaves one kept version that is the current one: it is no earlier version, is not
counted, and goes with the next creation or rollback.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress

from .._layout import number_in
from .._os import permissions, replace
from ..errors import DatafileError, os_errors_as
from .names import Names
from .version_file import complete, open_itself

__all__ = ["FileHistory", "same_contents"]

#: Bytes that are read and compared or copied at a time: few enough to stay in the processor's cache.
_PIECE = 1 << 20


class FileHistory:
    """The kept versions of the datafile at *destination*.

    :param names: the names of kept versions.
    :param copy: a name of a new version, under which one is made before it has its number.
    :param listing: the names in the directory.
    """

    def __init__(self, destination: str, names: Names, copy: str, listing: Iterable[str]) -> None:
        self._destination = destination
        self._names = names
        self._copy = copy
        numbers = map(number_in, names.middles(listing))
        self._numbers = sorted((number for number in numbers if number is not None), reverse=True)

    def last_first(self) -> list[str]:
        """Return the paths of the kept versions that are still there, the last one first."""
        return [path for path in map(self._names.path, self._numbers) if _is_regular(path)]

    def add_current(self) -> None:
        """Keep the current version.

        :raises DatafileError: if the system refuses.
        """
        with suppress(OSError):
            self.remove_current()  # of a creator that was killed before its swap
        number = max(self._numbers, default=0) + 1
        replace.remove(self._copy)
        try:
            replace.link(self._destination, self._copy)
        except DatafileError as error:
            if error.errno not in replace.NO_LINKS:
                raise
            with os_errors_as(DatafileError, self._destination, "keep the old version of"):
                _copy(self._destination, self._copy)
        replace.rename(self._copy, self._names.path(number))
        self._numbers.insert(0, number)

    def remove_current(self) -> None:
        """Remove each kept version that is the current one.

        :raises OSError: if one cannot be removed.
        """
        for kept in filter(self._is_current, self.last_first()):
            os.unlink(kept)

    def remove_all_but(self, number: int) -> None:
        """Keep the last *number* earlier versions. One that cannot be removed stays for the next creation."""
        with suppress(OSError):
            self.remove_current()
        with suppress(DatafileError):
            for kept in self.last_first()[number:]:
                with suppress(OSError):
                    os.unlink(kept)

    def _is_current(self, kept: str) -> bool:
        """Return whether *kept* is the current version, or a copy of it: one with its contents, and no older."""
        found, current = replace.lstat(kept), replace.lstat(self._destination)
        if found is None or current is None:
            return False
        return os.path.samestat(found, current) or (
            found.st_mtime_ns >= current.st_mtime_ns and same_contents(kept, self._destination)
        )


def same_contents(one: str, other: str) -> bool:
    """Return whether two regular files have the same contents; False also if one cannot be read."""
    with suppress(OSError), open(one, "rb", opener=open_itself) as a, open(other, "rb", opener=open_itself) as b:
        found = os.fstat(b.fileno())
        if not stat.S_ISREG(found.st_mode) or os.fstat(a.fileno()).st_size != found.st_size:
            return False
        while piece := a.read(_PIECE):
            if piece != b.read(_PIECE):
                return False
        return True
    return False


def _copy(path: str, name: str) -> None:
    """Copy the file at *path*, with permissions and times, to *name*, which must not exist, not even as a link."""
    with open(path, "rb", opener=open_itself) as source, open(name, "xb", opener=open_itself) as copy:
        found = os.fstat(source.fileno())
        shutil.copyfileobj(source, copy, _PIECE)
        copy.flush()
        os.utime(copy.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))
        complete(copy.fileno(), permissions.of(found, source.fileno()), durable=True)


def _is_regular(path: str) -> bool:
    found = replace.lstat(path)
    return found is not None and stat.S_ISREG(found.st_mode)
