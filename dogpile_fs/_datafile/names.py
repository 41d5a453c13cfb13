"""The names of one kind of file of a resource, such as its earlier versions, and those that are in a directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import NamedTuple

from .._layout import temp_affixes
from ..errors import DatafileError, as_error
from .hidden_directory import hidden_beside

__all__ = ["Names", "names_in"]


class Names(NamedTuple):
    """Names in *directory* that begin and end alike; what stands between tells one file from another."""

    directory: str
    begin: str
    end: str

    @classmethod
    def beside(cls, kind: str, path: str, owner: str = "") -> Names:
        """Return the names of a *kind* beside *path*, as of :func:`.temp_affixes`."""
        return cls(os.path.dirname(path), *temp_affixes(kind, path, owner))

    @classmethod
    def hidden(cls, kind: str, path: str, owner: str = "", directory: str | None = None) -> Names:
        """Return the names of a *kind* in the sub-directory of :func:`.hidden_beside`.

        :param directory: that sub-directory, if it was checked a moment ago.
        """
        return cls(directory or hidden_beside(path), *temp_affixes(kind, path, owner))

    def path(self, middle: object) -> str:
        """Return the path of the file with *middle* between begin and end."""
        return os.path.join(self.directory, f"{self.begin}{middle}{self.end}")

    def middles(self, listing: Iterable[str]) -> list[str]:
        """Return what stands between begin and end in the names of this kind in *listing*."""
        return [
            name[len(self.begin) : -len(self.end)]
            for name in listing
            if name.startswith(self.begin) and name.endswith(self.end)
        ]


def names_in(directory: str, begin: str, *, needed: bool = False) -> list[str]:
    """Return the names in *directory* that begin with *begin* now; none if it is missing or may not be listed.

    :param needed: then that is an error.
    :raises DatafileError: if the system fails to list it.
    """
    try:
        return [name for name in os.listdir(directory) if name.startswith(begin)]
    except FileNotFoundError:
        return []
    except OSError as error:
        if error.errno == errno.ESTALE or (isinstance(error, PermissionError) and not needed):
            return []  # the former: another host has removed it
        raise as_error(DatafileError, directory, "look into", error, reading=True) from error
