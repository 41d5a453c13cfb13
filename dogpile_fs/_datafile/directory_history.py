"""The versions of a directory, and which of them leads back to which.

A version is called ``.dogpile-dir-<digest>-<number>-<predecessor>.<name>``. *predecessor* is the number of the
version to which ``rollback`` goes back, 0 if there is none. A version to which the current one does not lead back
never was the current one, or is dropped. So the names alone tell which versions are kept, whatever was killed
when.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from .._layout import number_in
from .._os import replace
from ..errors import DatafileError, os_errors_as
from .names import Names

__all__ = ["DirectoryHistory"]


class DirectoryHistory:
    """The versions of the directory at *destination*.

    :param names: the names of versions.
    :param dropped: the names of versions that are not kept any more.
    :param listing: the names in the directory.
    """

    def __init__(self, destination: str, names: Names, dropped: Names, listing: Iterable[str]) -> None:
        listing = list(listing)
        self._destination = destination
        self._names = names
        self._dropped = set(map(dropped.path, dropped.middles(listing)))
        #: By number: the path of each version, and the number of its predecessor.
        self._versions: dict[int, tuple[str, int]] = {}
        for middle in names.middles(listing):
            number, predecessor = map(number_in, middle.partition("-")[::2])
            if number is not None and predecessor is not None:
                self._versions[number] = (names.path(middle), predecessor)

    def next_path(self, *, follows: bool) -> str:
        """Return the path of the next version, which counts as a version from now on.

        :param follows: whether it leads back to the current one; if that has no number, to the last that has.
        """
        last = max(self._versions, default=0)
        predecessor = (self._current() or last) if follows else 0
        path = self._names.path(f"{last + 1}-{predecessor}")
        self._versions[last + 1] = (path, predecessor)
        return path

    def old(self) -> tuple[list[str], list[str]]:
        """Return the versions before the current one, the last first; and those that are not wanted any more."""
        current = self._current()
        number = self._versions[current][1] if current else max(self._versions, default=0)
        others = {path for other, (path, _) in self._versions.items() if other != current}
        earlier = []
        while number in self._versions and self._versions[number][0] in others:
            path, number = self._versions[number]
            others.remove(path)
            earlier.append(path)
        return earlier, sorted(others | self._dropped)

    def to_go_back_to(self) -> list[str]:
        """Return the versions before the current one, the last first.

        If the predecessor was removed by hand: the last version with a number below the predecessor's.
        """
        earlier, _ = self.old()
        if earlier:
            return earlier
        current = self._current()
        missing = self._versions[current][1] if current else 0
        below = [number for number in self._versions if number < missing]
        return [self._versions[max(below)][0]] if below else []

    def _current(self) -> int:
        """Return the number of the current version; 0 if it has none."""
        with os_errors_as(DatafileError, self._destination, "look at"):
            current = replace.resolved(self._destination)
            for number, (path, _) in self._versions.items():
                # A link is another program's, and may lead where no look is possible.
                if not os.path.islink(path) and replace.resolved(path) == current:
                    return number
        return 0
