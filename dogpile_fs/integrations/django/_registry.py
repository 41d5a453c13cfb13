"""The datafiles of a project, under the names by which people call them."""

from __future__ import annotations

import threading
from typing import TypeVar

from ... import DataDirectory, Datafile, Datafiles

__all__ = ["Registered", "register", "registered"]

#: What can be registered.
Registered = Datafile | DataDirectory | Datafiles
_R = TypeVar("_R", Datafile, DataDirectory, Datafiles)

_lock = threading.Lock()
#: Changed under the lock.
_by_name: dict[str, Registered] = {}


def register(name: str, datafile: _R) -> _R:
    """Make *datafile* known to ``manage.py datafiles`` and to Django's checks, and return it.

    :param name: what the command calls it; each name has one.
    :param datafile: a :class:`.Datafile`, :class:`.DataDirectory` or :class:`.Datafiles`.
    :raises TypeError: for an argument of another type.
    :raises ValueError: for an empty *name*, and for one that another object has.

    Each installed application may have a module ``datafiles``, which is imported when Django starts:

    >>> from dogpile_fs import Datafile
    >>> prices = register("prices", Datafile("/srv/shop/prices.json", 3600, print))
    >>> registered()["prices"] is prices
    True
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {name!r}")
    if not isinstance(datafile, Datafile | DataDirectory | Datafiles):
        raise TypeError(
            f"a Datafile, DataDirectory or Datafiles can be registered, not {datafile!r}. Hint: of dogpile_fs, "
            "and not of dogpile_fs.aio; both may be made with the same path."
        )
    if not name:
        raise ValueError("name must not be empty: the command calls the datafile by it")
    with _lock:
        other = _by_name.setdefault(name, datafile)
    if other is not datafile:
        raise ValueError(f"the name {name!r} is that of {other!r} already. Hint: give {datafile!r} another one.")
    return datafile


def registered() -> dict[str, Registered]:
    """Return all that are registered, by their names, in the order of the names.

    >>> registered() == dict(sorted(registered().items()))
    True
    """
    with _lock:
        return dict(sorted(_by_name.items()))
