"""Which versions of a directory there are, and which of them leads back to which.

A version is called ``.dogpile-dir-<digest>-<number>-<before>.<name>``. *before* is the number of the version to
which ``rollback`` goes back, 0 if there is none: what the current one does not lead back to never was it, or is
dropped. So the names alone tell what is kept, whoever was killed when.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from .._layout import names_in, number_in
from .._os import replace as swap
from ..errors import DatafileError, explaining

__all__ = ["Lineage"]


class Lineage:
    """That of the directory at *place*.

    :param marked: how the names of a kind begin and end, as of :func:`.swap.marked`.
    """

    def __init__(self, place: str, marked: Callable[[str, str], tuple[str, str]]) -> None:
        self._place = place
        self._directory = os.path.dirname(place)
        self._begin, self._end = marked("dir", place)
        self._begin_of_dropped, _ = marked("old", place)

    def next_name(self, *, follows: bool) -> str:
        """What the next version is to be called.

        :param follows: whether it leads back to the current one; if that has no number, to the last that has.
        :raises DatafileError: if the directory cannot be listed.
        """
        versions = self._versions(needed=True)
        last = max(versions, default=0)
        before = (self._current(versions) or last) if follows else 0
        return os.path.join(self._directory, f"{self._begin}{last + 1}-{before}{self._end}")

    def old(self, *, needed: bool = False) -> tuple[list[str], list[str]]:
        """The versions before the current one, the last first; and those that never were it, or were dropped.

        :param needed: as of :func:`.names_in`.
        """
        versions = self._versions(needed=needed)
        current = self._current(versions)
        number = versions[current][1] if current else max(versions, default=0)
        others = {path for other, (path, _) in versions.items() if other != current}
        dropped = names_in(self._directory, self._begin_of_dropped)
        others.update(os.path.join(self._directory, name) for name in dropped)
        earlier = []
        while number in versions and versions[number][0] in others:
            path, number = versions[number]
            others.remove(path)
            earlier.append(path)
        return earlier, sorted(others)

    def to_go_back_to(self) -> list[str]:
        """The versions before the current one, the last first.

        If somebody has removed the one before it by hand: the last that is left of those made before that.

        :raises DatafileError: if the directory cannot be listed.
        """
        earlier, _ = self.old(needed=True)
        if earlier:
            return earlier
        versions = self._versions(needed=True)
        current = self._current(versions)
        missing = versions[current][1] if current else 0
        left = [number for number in versions if number < missing]
        return [versions[max(left)][0]] if left else []

    def _versions(self, *, needed: bool) -> dict[int, tuple[str, int]]:
        """All versions by their number: where each is, and the number of the one before it."""
        found = {}
        for name in names_in(self._directory, self._begin, needed=needed):
            numbers = name[len(self._begin) : -len(self._end)].partition("-")
            number, before = number_in(numbers[0]), number_in(numbers[2])
            if name.endswith(self._end) and number is not None and before is not None:
                found[number] = (os.path.join(self._directory, name), before)
        return found

    def _current(self, versions: dict[int, tuple[str, int]]) -> int:
        """The number of the current version; 0 if it has none."""
        with explaining(DatafileError, self._place, "look at"):
            current = swap.resolved(self._place)
            for number, (path, _) in versions.items():
                if swap.resolved(path) == current:
                    return number
        return 0
