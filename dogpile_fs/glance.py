"""The question that cron asks most: is the datafile fresh, so that nothing has to be done?

Answered with one ``stat`` and one read of the sidecar, and few imports: a process that has just been started for
this question spends most of its time on importing. "No" only means that the whole of dogpile_fs has to be asked.
"""

from __future__ import annotations

import os
import time
from stat import S_ISREG

from .record import SIZE, decode
from .standing import corrected, standing_of

__all__ = ["is_fresh"]


def is_fresh(path: str, expiretime: float | None, directory: str | None = None) -> bool:
    """Whether the datafile at *path* is fresh beyond doubt.

    :param expiretime: seconds after which it is stale; ``None``: never.
    :param directory: where the coordination files are, if not beside it.
    """
    try:
        if directory is None:
            sidecar = path + ".dogpile"
        else:
            from .paths import absolute, coordination_base

            sidecar = coordination_base(absolute(path), directory) + ".dogpile"
        st = os.stat(path)
        fd = os.open(sidecar, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            record = decode(os.pread(fd, SIZE, 0))
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return False
    if record is None or not S_ISREG(st.st_mode):
        return False
    return corrected(record, (standing_of(st), st.st_mtime)).state(time.time(), expiretime) == "fresh"
