"""The question that cron asks most: is the datafile fresh, so that nothing has to be done?

One ``stat`` and one read of the sidecar answer it, with few imports: a process that was started for this question
spends most of its time on importing. "No" only means that the whole of dogpile_fs has to find out.
"""

from __future__ import annotations

import os
import time
from stat import S_ISREG

from .._layout import LONGEST_SUFFIX, SIDECAR_SUFFIX, coordination_base
from .decoding import decode
from .fingerprint import fingerprint_of
from .record import MISSING, SIZE, Record

__all__ = ["is_fresh"]

#: Seconds after which an origin is asked at the latest: if it is longer, the clock went back.
_LONGEST_UNTIL_ASKED = 11.0


def is_fresh(
    path: str, expiretime: float | None, directory: str | None = None, *, has_origin: bool = False
) -> bool:
    """Return whether the datafile at *path* is fresh beyond doubt. Without a sidecar it is as old as its mtime
    says.

    :param expiretime: seconds after which it is stale; ``None``: never.
    :param directory: where the coordination files are, if not beside the datafile.
    :param has_origin: other hosts may have made another version.
    """
    try:
        if directory is None:
            base = path
        else:
            from .._os import directory_mark
            from .._os.paths import absolute

            directory, path = absolute(directory), absolute(path)
            os.stat(directory)
            parent = os.path.dirname(path)
            base = coordination_base(path, directory, directory_mark.known_as(parent, directory_mark.find(parent)))
        st = os.stat(path)
        record: Record | None = MISSING
        try:
            fd = os.open(base + SIDECAR_SUFFIX, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            if _is_too_long(base):
                return False  # the whole of dogpile_fs raises the error
            # The file was shipped or copied: its mtime counts.
        else:
            try:
                record = decode(os.pread(fd, SIZE, 0))
            finally:
                os.close(fd)
    except (OSError, ValueError):
        return False
    if record is None or not S_ISREG(st.st_mode):
        return False
    if (has_origin or record.ask_at is not None) and not _is_to_ask_later(record):
        return False
    return record.reconcile((fingerprint_of(st), st.st_mtime)).state(time.time(), expiretime) == "fresh"


def _is_to_ask_later(record: Record) -> bool:
    return record.ask_at is not None and time.time() < record.ask_at < time.time() + _LONGEST_UNTIL_ASKED


def _is_too_long(base: str) -> bool:
    """Return whether the name of a coordination file would be too long, beside a file that is there."""
    try:
        os.lstat(base + LONGEST_SUFFIX)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
