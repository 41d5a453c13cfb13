"""What stands at a PATH that the user names, as the object that knows about it."""

from __future__ import annotations

import os
from contextlib import suppress

from ... import Dogpile
from ..._os.replace import marked
from ...errors import PathError, explained
from ..exits import CANTCREAT, NOINPUT, Exit
from ..options import names_descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ... import DataDirectory, Datafile

__all__ = ["data_at", "dogpile_at", "refuse_descriptor"]


def refuse_descriptor(path: str) -> None:
    """:raises Exit: if *path* is ``/dev/stdout`` or the like, wherever that leads."""
    if names_descriptor(path):
        raise Exit(
            CANTCREAT,
            f"{path!r} is no name of a file, but of what this process has open. Cure: give the path of a file; "
            "with --stdout, what COMMAND prints is its contents.",
        )


def dogpile_at(path: str, directory: str | None) -> Dogpile:
    """The Dogpile of what is at *path*; it expires as its last creator said."""
    refuse_descriptor(path)
    if _is_directory(path):
        dogpile = Dogpile(None, path, directory=directory, resource="directory")
    elif _exists(path):
        dogpile = Dogpile(None, path, directory=directory, resource="file")
    else:
        # The name of something that is no file, or a datafile that somebody removed.
        dogpile = Dogpile(None, path, directory=directory)
        if dogpile.status().about is not None:
            dogpile = Dogpile(None, path, directory=directory, resource="file")
    dogpile.expiretime = dogpile.status().expiretime
    return dogpile


def data_at(path: str, directory: str | None, *, readers: bool = False) -> Datafile | DataDirectory:
    """The Datafile or DataDirectory at *path*, or what was there and of which earlier versions are kept.

    :raises Exit: with status 66, if there is neither.
    """
    refuse_descriptor(path)
    if not (_exists(path) or _has_versions(path, "dir") or _has_versions(path, "kept")):
        raise Exit(NOINPUT, f"there is nothing at {path!r}")
    if _is_directory(path):
        from ... import DataDirectory

        return DataDirectory(path, directory=directory)
    from ... import Datafile

    return Datafile(path, directory=directory, readers=readers)


def _exists(path: str) -> bool:
    """Whether there is anything, a link that leads nowhere included.

    :raises PathError: if that cannot be told; "no" would be an answer.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise explained(PathError, path, "look at", error, reading=True) from error
    return True


def _is_directory(path: str) -> bool:
    if os.path.isdir(path):
        return True
    if os.path.islink(path):
        return os.path.basename(os.readlink(path)).startswith(".dogpile-dir-")  # its version was removed
    return not _exists(path) and _has_versions(path, "dir")


def _has_versions(path: str, kind: str) -> bool:
    begin, _ = marked(kind, path)
    with suppress(OSError):
        return any(name.startswith(begin) for name in os.listdir(os.path.dirname(path) or os.curdir))
    return False
