"""What stands at a PATH that the user names, as the object that knows about it."""

from __future__ import annotations

import os

from .. import Dogpile
from .exits import NOINPUT, Exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .. import DataDirectory, Datafile

__all__ = ["data_at", "dogpile_at"]


def dogpile_at(path: str, directory: str | None) -> Dogpile:
    """The Dogpile of what is at *path*; it expires as its last creator said."""
    if os.path.isdir(path):
        dogpile = Dogpile(None, path, directory=directory, resource="directory")
    elif os.path.lexists(path):
        dogpile = Dogpile(None, path, directory=directory, resource="file")
    else:
        # The name of something that is no file, or a datafile that somebody removed.
        dogpile = Dogpile(None, path, directory=directory)
        if dogpile.status().about is not None:
            dogpile = Dogpile(None, path, directory=directory, resource="file")
    dogpile.expiretime = dogpile.status().expiretime
    return dogpile


def data_at(path: str, directory: str | None, *, readers: bool = False) -> Datafile | DataDirectory:
    """The Datafile or DataDirectory at *path*; it expires as its last creator said.

    :raises Exit: with status 66, if nothing is there.
    """
    if not os.path.lexists(path):
        raise Exit(NOINPUT, f"there is nothing at {path!r}")
    data: Datafile | DataDirectory
    if os.path.isdir(path):
        from .. import DataDirectory

        data = DataDirectory(path, directory=directory)
    else:
        from .. import Datafile

        data = Datafile(path, directory=directory, readers=readers)
    data.dogpile.expiretime = data.status().expiretime  # it is stamped with what it goes by
    return data
