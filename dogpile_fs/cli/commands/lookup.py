"""From a PATH on the command line to the object that coordinates what is there."""

from __future__ import annotations

import os
from contextlib import suppress

from ... import Dogpile
from ..._datafile import at_path
from ..._datafile.names import names_in
from ..._layout import KIND_KEPT
from ..arguments import Arguments
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
            f"{path!r} names an open descriptor of this process, and not a file. Hint: give the path of a file; "
            "with --stdout, what COMMAND prints is its contents.",
        )


def dogpile_at(path: str, arguments: Arguments) -> Dogpile:
    """Return the Dogpile of the resource at *path*. It expires as ``--expire`` or else its last creator says."""
    refuse_descriptor(path)
    dogpile = at_path.dogpile_at(path, arguments.directory)
    if "expire" in arguments:
        dogpile.expiretime = arguments.expire
    return dogpile


def data_at(path: str, directory: str | None, *, readers: bool = False) -> Datafile | DataDirectory:
    """Return the Datafile or DataDirectory at *path*; it may have been removed if earlier versions are kept.

    :raises Exit: with status 66, if there is neither.
    """
    refuse_descriptor(path)
    if not (at_path.exists(path) or at_path.has_versions(path) or _has_kept(path)):
        raise Exit(NOINPUT, f"there is nothing at {path!r}")
    from ... import DataDirectory, Datafile

    if at_path.is_directory(path):
        return DataDirectory(path, directory=directory)
    return Datafile(path, directory=directory, readers=readers)


def _has_kept(path: str) -> bool:
    """Return whether earlier versions of a file at *path* are kept."""
    from ..._datafile.names import Names

    with suppress(OSError):
        names = Names.hidden(KIND_KEPT, os.path.abspath(path))
        return bool(names_in(names.directory, names.begin))
    return False
