"""From a plain path to the Dogpile that coordinates what is there; it expires as its last creator has recorded."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from .._dogpile.dogpile import Dogpile
from .._layout import KIND_DIRECTORY, TEMP_PREFIX, temp_affixes
from ..errors import PathError, as_error
from .names import names_in

__all__ = ["dogpile_at", "exists", "has_versions", "is_directory", "size_at"]


def dogpile_at(path: str, directory: str | os.PathLike[str] | None = None) -> Dogpile:
    """Return the Dogpile of the resource at *path*, be it a file, a directory or a name that stands for one.

    What it is, and when it expires, are as of now: ask anew when the status is wanted again.

    :param directory: where the coordination files are, if not beside *path*.
    """
    if is_directory(path):
        dogpile = Dogpile(None, path, directory=directory, resource="directory")
    else:
        dogpile = Dogpile(None, path, directory=directory)
        # Without a file there, path names a resource that is no file, or a datafile that was removed.
        if exists(path) or dogpile.status().resource is not None:
            dogpile = Dogpile(None, path, directory=directory, resource="file")
    dogpile.expiretime = dogpile.status().expiretime
    return dogpile


def exists(path: str) -> bool:
    """Return whether there is anything, a link that leads nowhere included.

    :raises PathError: if the system does not say; "no" would be a wrong answer.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise as_error(PathError, path, "look at", error, reading=True) from error
    return True


def is_directory(path: str) -> bool:
    """Return whether *path* is that of a directory, also of one whose version was removed."""
    if os.path.isdir(path):
        return True
    if os.path.islink(path):
        # Its version was removed.
        return os.path.basename(os.readlink(path)).startswith(f"{TEMP_PREFIX}{KIND_DIRECTORY}-")
    return not exists(path) and has_versions(path)


def has_versions(path: str) -> bool:
    """Return whether there are versions of a directory at *path*."""
    begin, _ = temp_affixes(KIND_DIRECTORY, path)
    with suppress(OSError):
        return bool(names_in(os.path.dirname(path) or os.curdir, begin))
    return False


def size_at(path: str) -> int | None:
    """Return the bytes of the regular file at *path*; ``None`` if there is none, or it cannot be looked at."""
    try:
        st = os.stat(path)
    except OSError:
        return None
    return st.st_size if stat.S_ISREG(st.st_mode) else None
