"""``rollback``: put the version before the last one back in place."""

from __future__ import annotations

from ..arguments import Arguments
from ..exits import OK
from .lookup import data_at

__all__ = ["main"]


def main(arguments: Arguments) -> int:
    """Roll the path back."""
    data_at(arguments.path, arguments.directory, readers=arguments.readers).rollback()
    return OK
