"""Waiting until something may have happened to resources that other processes create."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from ..._os.paths import absolute
from ..._os.waiting import Deadline
from ..._os.watch import wait_for_change

__all__ = ["Changes"]

#: Seconds between two looks where the files are in several directories, which one watch does not cover: short
#: enough for a person to see a change at once.
_LOOK_EVERY = 0.1


class Changes:
    """What happens to the coordination files of the resources at *paths*, or in *directory* if that is given."""

    def __init__(self, paths: Iterable[str], directory: str | None) -> None:
        files = (os.path.join(directory, "any") if directory else path for path in paths)
        directories = {os.path.dirname(os.path.abspath(absolute(file))) for file in files}
        self._watched = os.path.join(min(directories), "any") if len(directories) == 1 else None

    def wait(self, seconds: float, happened: Callable[[], bool]) -> None:
        """Wait until something may have happened, for at most *seconds*; return at least once a second.

        :param happened: returns whether it has already.
        """
        if self._watched is None:
            time.sleep(min(seconds, _LOOK_EVERY))
        else:
            wait_for_change(self._watched, happened, Deadline(seconds))
