"""What tells that a new version is not finished: SQLite's log or journal beside it, with something in it.

A database is the file and its log. Who has not closed his connection has committed rows that are in the log alone;
the file would be swapped in without them (https://sqlite.org/walformat.html, https://sqlite.org/fileformat2.html).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from .._os import replace as swap
from .._os.openfile import above_standard, let_go
from ..errors import DatafileError

__all__ = ["refuse"]

#: What a rollback journal begins with that is in use; one that is kept for the next time begins with zeros.
_HOT = bytes.fromhex("d9d505f920a163d7")


def refuse(target: str) -> None:
    """Look whether the new version *target* is finished.

    :raises DatafileError: if it is not.
    """
    for suffix in ("-wal", "-journal"):
        found = swap.lstat(target + suffix)
        if found is None or not stat.S_ISREG(found.st_mode) or not found.st_size:
            continue
        if suffix == "-wal" or _beginning(target + suffix) == _HOT:
            raise DatafileError(
                errno.ETXTBSY,
                f"the new version {target!r} is a database whose {suffix[1:]} has {found.st_size} bytes, and what "
                "is in there may be missing in it. Cure: close the connection before the creator returns (or "
                "PRAGMA wal_checkpoint(TRUNCATE)).",
            )


def _beginning(path: str) -> bytes:
    with suppress(OSError):
        fd = above_standard(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            return os.read(fd, len(_HOT))
        finally:
            let_go(fd)
    return b""
