"""The names of versions: which there are beside a resource, and what their numbers are."""

from __future__ import annotations

import os

from .errors import DatafileError, explained

__all__ = ["names_in", "number_in"]

#: More of them no version's number has: a foreign one that leaves no room for the next in a name is none.
_DIGITS = 18


def names_in(directory: str, begin: str, *, needed: bool = False) -> list[str]:
    """The names in *directory* that begin with *begin* now; none if it may not be listed.

    :param needed: then that is an error.
    :raises DatafileError: if the system fails to list it.
    """
    try:
        return [name for name in os.listdir(directory) if name.startswith(begin)]
    except OSError as error:
        if isinstance(error, PermissionError) and not needed:
            return []
        raise explained(DatafileError, directory, "look into", error, reading=True) from error


def number_in(text: str) -> int | None:
    """The number that *text* is in the name of a version; None if we do not write it so."""
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
        return None
    number = int(text)
    return number if str(number) == text and len(str(number + 1)) <= _DIGITS else None
