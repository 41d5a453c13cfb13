"""What stands at a resource's path, and what it makes of the record.

A stamp describes what it was written for. If something else stands at the path now, a foreign hand has put it
there: nobody knows when it was created but by its own mtime. The same goes for what is there without a record,
because it was shipped in an image or copied by hand. And where nothing stands, there is nothing yet.
"""

from __future__ import annotations

import os
from stat import S_ISDIR

from .record import Record

__all__ = ["Standing", "corrected", "standing_at", "standing_of", "stands"]

#: Size (-1: of a directory), mtime in nanoseconds, inode.
Standing = tuple[int, int, int]

#: The mtime of what claims to be from before 1970, or is from a reproducible build that says 0.
_EARLIEST = 1.0


def standing_at(path: str) -> tuple[Standing, float] | None:
    """What stands at *path*, with its mtime in epoch seconds; None if nothing does.

    Symbolic links are followed.

    :raises OSError: if that cannot be told.
    """
    try:
        st = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return standing_of(st), st.st_mtime


def standing_of(st: os.stat_result) -> Standing:
    return (-1 if S_ISDIR(st.st_mode) else st.st_size, st.st_mtime_ns, st.st_ino)


def corrected(record: Record, found: tuple[Standing, float] | None) -> Record:
    """*record* as it is to be read where *found* is what stands at the path.

    An invalidation stays in force: whether the foreign hand knew of it, nobody can tell.
    """
    if found is None:
        return record.replace(createdtime=-1.0, about=None) if record.has_value else record
    standing, mtime = found
    if record.about is not None and stands(record.about, standing):
        return record
    if record.about is None and record.createdtime > 0:
        return record  # stamped by somebody who did not look
    return record.replace(
        createdtime=max(mtime, _EARLIEST), host="", pid=0, about=(*standing, -1 - record.generation)
    )


def stands(version: tuple[int, ...], standing: Standing) -> bool:
    """Whether *standing* is what a stamp that describes *version* was written for."""
    if version[:3] == standing:
        return True
    # A directory's mtime grows when a reader leaves a file in it. Another one with a used inode can look like that
    # too; then it is stale when the one before would have been.
    return version[0] == standing[0] == -1 and version[2] == standing[2] and version[1] <= standing[1]
