"""What stands at a resource's path, and what it makes of the record.

A stamp describes what it was written for. If something else stands at the path now, a foreign hand has put it
there: nobody knows when it was created but by its own mtime. The same goes for what is there without a record,
because it was shipped in an image or copied by hand. And where nothing stands, there is nothing yet.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from stat import S_ISDIR

from .record import Record

__all__ = ["Standing", "corrected", "mark", "standing_at", "standing_of", "stands"]

#: Size, mtime in nanoseconds, inode. Of a directory: instead of the size, whether it bears a mark of ours, or that
#: this could not be told; and the mtime that it had when it got that.
Standing = tuple[int, int, int]

_UNMARKED, _MARKED, _UNTOLD = -1, -2, -3
_MARK = "user.dogpile_fs"
#: Of two numbers that have room in a record.
_LONGEST_MARK = 40

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
    return standing_of(st, path), st.st_mtime


def standing_of(st: os.stat_result, where: str | int | None = None) -> Standing:
    """What *st* tells of; *where*: its path or a descriptor, to look for a directory's :func:`mark`."""
    if not S_ISDIR(st.st_mode):
        return st.st_size, st.st_mtime_ns, st.st_ino
    kind, mtime = _UNTOLD, st.st_mtime_ns
    if where is not None:
        try:
            said = os.getxattr(where, _MARK)
        except AttributeError:  # macOS
            pass
        except OSError as error:
            # All else tells nothing: a directory that this user may not read, a file system without such marks.
            if error.errno == errno.ENODATA:
                kind = _UNMARKED
        else:
            kind = _UNMARKED
            marked = _read(said)
            if marked is not None and marked[1] == st.st_ino:
                kind, mtime = _MARKED, marked[0]
    return kind, mtime, st.st_ino


def mark(fd: int) -> None:
    """Have the directory *fd* stand for itself from now on, whatever is left in it, where marks can be made.

    Else its mtime tells, which grows when somebody leaves a file in it. And an inode is used again as soon as it
    is free: a directory that takes the place of one that was removed could not be told from it.
    """
    st = os.fstat(fd)
    with suppress(OSError, AttributeError):  # the latter: macOS
        os.setxattr(fd, _MARK, b"%d %d" % (st.st_mtime_ns, st.st_ino))


def _read(said: bytes) -> tuple[int, int] | None:
    """The mtime and the inode of a mark; None if it is none of ours."""
    with suppress(ValueError):
        mtime, inode = map(int, said[: _LONGEST_MARK + 1].split())
        if len(said) <= _LONGEST_MARK and mtime >= 0:
            return mtime, inode
    return None


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
    # See mark(). Where there are no marks, or they cannot be read, another directory with a used inode may pass
    # for the one that it replaced; then it is stale when that would have been.
    alike = version[0] == standing[0] == _UNMARKED
    untold = _UNTOLD in (version[0], standing[0]) and max(version[0], standing[0]) < 0
    return (alike or untold) and version[2] == standing[2] and version[1] <= standing[1]
