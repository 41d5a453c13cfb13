"""Checks of arguments: paths and permission bits."""

from __future__ import annotations

import errno
import os

from ..errors import PathError

__all__ = ["absolute", "checked_mode", "checked_name", "names_no_file", "nearest", "realpath"]

#: Times that a path is looked at again because a link on it was replaced between two looks.
_MOST_LOOKS = 100


def absolute(path: str | os.PathLike[str]) -> str:
    """Return *path* as an absolute path. ``..`` is left to the system.

    :raises TypeError: if it is no path.
    :raises PathError: if it can be no file's name.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a string or an os.PathLike, not {path!r}")
    given = os.fspath(path)
    if not isinstance(given, str):
        raise TypeError(f"path must be text, not {given!r}: decode it with os.fsdecode()")
    try:
        names_nothing = not given or b"\0" in os.fsencode(given)
    except UnicodeEncodeError:
        names_nothing = True
    if names_nothing:
        raise names_no_file(given)
    try:
        return given if os.path.isabs(given) else os.path.join(os.getcwd(), given)
    except FileNotFoundError as error:
        raise PathError(
            errno.ENOENT,
            f"{given!r} is relative to the current directory, which was deleted. Hint: give an absolute path.",
        ) from error


def checked_name(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of a file.

    :raises TypeError: if it is no path.
    :raises PathError: if it can be no file's, such as one that ends with a slash.
    """
    given = absolute(path)
    if os.path.basename(given) in ("", os.curdir, os.pardir):
        raise names_no_file(os.fspath(path))
    return given


def names_no_file(given: str | os.PathLike[str]) -> PathError:
    """Return the error for a path that no file can have."""
    return PathError(errno.EINVAL, f"{given!r} names no file. Hint: give the path of the resource.")


def nearest(directory: str) -> str:
    """Return *directory*, an absolute path, or the nearest one above it if it is missing."""
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    return directory


def checked_mode(mode: int | None) -> int | None:
    """Return *mode*, which is permission bits or ``None``.

    :raises TypeError, ValueError: if *mode* is neither.
    """
    if mode is not None:
        if type(mode) is not int:
            raise TypeError(f"mode must be permission bits, such as 0o660, not {mode!r}")
        if not 0 <= mode <= 0o7777:
            raise ValueError(f"mode must be permission bits, such as 0o660, not {mode:#o}")
    return mode


def realpath(path: str | os.PathLike[str], *, strict: bool = False) -> str:
    """Return what :func:`os.path.realpath` does, also while another program replaces a link on the way.

    Python 3.11 sees a link, and raises if it is gone, or a file, when it is read a moment later.

    :raises OSError: if it is *strict*, and there is nothing, or nothing that can be looked at.
    """
    for _ in range(_MOST_LOOKS):
        try:
            return os.path.realpath(path, strict=strict)
        except OSError as error:
            if error.errno != errno.EINVAL and (strict or error.errno != errno.ENOENT):
                raise
    return os.path.realpath(path, strict=strict)
