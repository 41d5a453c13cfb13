"""What a creator has made where it has not made a file at the path that it was given: for the error."""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["made_instead", "signature"]


def signature(path: str) -> tuple[int, ...] | None:
    """Return what differs between two looks at *path* if it was written or replaced between; ``None``: nothing
    there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def made_instead(target: str, path: str, before: tuple[int, ...] | None) -> tuple[str, str] | None:
    """Return a clause that tells what was made instead of *target*, and a hint; ``None`` if that cannot be seen.

    :param path: the file or directory that *target* was to replace.
    :param before: its :func:`signature` before the creator ran.
    """
    directory, name = os.path.split(target)
    begin = os.path.splitext(name)[0]  # with a number of its own that no other creation has
    with suppress(OSError):
        for other in sorted(os.listdir(directory)):
            if other.startswith(begin) and other != name:
                return (
                    f"but {other!r} beside it",
                    "some functions give a name another suffix (numpy.save does): rename what they make, or let "
                    "them write to an open file",
                )
    if signature(path) not in (None, before):
        return (
            f"but {path!r} itself was written meanwhile",
            "only what is made at the path that the creator is given is put in place whole",
        )
    return None
