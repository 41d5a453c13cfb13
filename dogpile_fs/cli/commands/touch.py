"""``touch``: declare that the version at a path was made now."""

from __future__ import annotations

from ..arguments import Arguments
from ..exits import OK
from .lookup import data_at

__all__ = ["main"]


def main(arguments: Arguments) -> int:
    """Touch the path."""
    data_at(arguments.path, arguments.directory).touch()
    return OK
