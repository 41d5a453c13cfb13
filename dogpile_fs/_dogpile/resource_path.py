"""Which paths can be coordinated, and where their coordination files are."""

from __future__ import annotations

import errno
import os
import stat

from .._layout import LONGEST_SUFFIX, coordination_base
from .._os import directory_mark
from .._os.paths import absolute, names_no_file, realpath
from ..errors import PathError, as_error, os_errors_as
from .key_pattern import refuse_path_of_key

__all__ = ["checked_base", "checked_resource"]


def checked_resource(path: str | os.PathLike[str], kind: str | None = None) -> str:
    """Return the absolute path of a resource that processes can coordinate; it need not exist.

    The target of a symbolic link need not exist either, because it may have been removed; but it can only be made
    where there is a directory for it.

    :param kind: ``"file"`` or ``"directory"``, if that is what it must be.
    :raises TypeError: if it is no path.
    :raises PathError: if something of another *kind* is there (without one: a directory), a symbolic link that
        leads to no directory or to itself, or a name that the system does not take; also if a key has the file.
    """
    directory = kind == "directory"
    try:
        resource = absolute(path)
    except TypeError as error:
        raise TypeError(f"{error} (expiretime and path are positional, init= and lock= are not)") from None
    if directory:
        resource = resource.rstrip(os.sep)
        if os.path.basename(resource) in ("", os.curdir, os.pardir):
            raise names_no_file(os.fspath(path))
    if resource.endswith(os.sep):
        raise names_no_file(os.fspath(path))
    refuse_path_of_key(resource)
    mode = 0
    try:
        mode = os.stat(resource).st_mode
    except FileNotFoundError as error:
        if os.path.islink(resource) and not directory:
            where = os.path.dirname(realpath(resource))
            if not os.path.isdir(where):
                with os_errors_as(PathError, resource, "look at"):
                    link = os.readlink(resource)
                raise PathError(
                    errno.ENOENT,
                    f"{resource!r} is a symbolic link to {link!r}, but there is no directory {where!r}. "
                    "Hint: make that, or remove the link.",
                ) from error
    except OSError as error:
        if not _is_known_later(error):
            raise as_error(PathError, resource, "coordinate", error) from error
    if directory:
        if mode and not stat.S_ISDIR(mode):
            raise PathError(
                errno.ENOTDIR, f"{resource!r} is no directory. Hint: give the path of one; it need not exist yet."
            )
    elif stat.S_ISDIR(mode):
        raise PathError(
            errno.EISDIR, f"{resource!r} is a directory. Hint: give the path of a file; it need not exist yet."
        )
    elif kind == "file" and mode and not stat.S_ISREG(mode):
        raise PathError(
            errno.ENXIO,
            f"{resource!r} is no regular file (mode {mode:o}). Hint: give the path of one; it need not exist yet.",
        )
    elif os.path.basename(resource) in (os.curdir, os.pardir):
        raise names_no_file(os.fspath(path))  # of a missing directory
    return resource


def checked_base(resource: str, directory: str | os.PathLike[str] | None) -> str:
    """Return :func:`.coordination_base` of *resource*.

    :raises PathError: if no coordination file can stand there.
    """
    if directory is None:
        base = resource
    else:
        parent = os.path.dirname(resource)
        place = directory_mark.known_as(parent, directory_mark.find(parent))
        base = coordination_base(resource, absolute(directory), place)
    try:
        os.lstat(base + LONGEST_SUFFIX)
    except FileNotFoundError:
        parent = os.path.dirname(base)
        try:
            os.stat(parent)
        except FileNotFoundError as error:
            raise PathError(
                errno.ENOENT, f"the directory {parent!r} does not exist. Hint: make it first."
            ) from error
        except OSError as error:
            if not _is_known_later(error):
                raise as_error(PathError, parent, "look at", error) from error
    except OSError as error:
        if not _is_known_later(error):
            raise as_error(PathError, base + LONGEST_SUFFIX, "coordinate through", error) from error
    return base


def _is_known_later(error: OSError) -> bool:
    """Return whether *error* says nothing yet: other users may open what this one may not, and on NFS another host
    may have replaced it just now (ESTALE). A coordination file that cannot be used is an error when it is opened.
    """
    return isinstance(error, PermissionError) or error.errno == errno.ESTALE
