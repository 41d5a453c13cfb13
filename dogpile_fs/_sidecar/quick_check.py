"""The question that cron asks most: is the datafile fresh, so that nothing has to be done?

Answered with one ``stat`` and one read of the sidecar (or a look that there is none), and few imports: a process
that has just been started for this question spends most of its time on importing. "No" only means that the whole
of dogpile_fs has to be asked.
"""

from __future__ import annotations

import os
import time
from stat import S_ISREG

from .fingerprint import corrected, standing_of
from .record import NOTHING, SIZE, Record, decode

__all__ = ["is_fresh"]


def is_fresh(path: str, expiretime: float | None, directory: str | None = None) -> bool:
    """Whether the datafile at *path* is fresh beyond doubt. Without a sidecar it is as old as its mtime says.

    :param expiretime: seconds after which it is stale; ``None``: never.
    :param directory: where the coordination files are, if not beside it.
    """
    try:
        if directory is None:
            base = path
        else:
            from .._os.paths import absolute, coordination_base

            base = coordination_base(absolute(path), directory)
        st = os.stat(path)
        record: Record | None = NOTHING
        try:
            fd = os.open(base + ".dogpile", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            if directory is None and _is_too_long(base):
                return False  # whoever cannot be coordinated shall be told
            # It comes from elsewhere: its mtime tells.
        else:
            try:
                record = decode(os.pread(fd, SIZE, 0))
            finally:
                os.close(fd)
    except (OSError, ValueError):
        return False
    if record is None or not S_ISREG(st.st_mode):
        return False
    return corrected(record, (standing_of(st), st.st_mtime)).state(time.time(), expiretime) == "fresh"


def _is_too_long(base: str) -> bool:
    """Whether not all coordination files can have their names, beside a file that is there."""
    try:
        os.lstat(base + ".dogpile.rwlock")
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
