"""``invalidate``: make files stale, or as if there were nothing yet."""

from __future__ import annotations

import os

from ...errors import DogpileError
from ..arguments import Arguments
from ..exits import NOINPUT, OK, Exit, status_of, told
from ..output import say
from .lookup import dogpile_at

__all__ = ["main"]


def main(arguments: Arguments) -> int:
    """Invalidate each path; one that fails does not keep the others from it."""
    worst = OK
    for path in arguments.paths:
        try:
            _invalidate(path, arguments)
        except (DogpileError, OSError, Exit) as error:
            say(told(error))
            worst = max(worst, status_of(error))
    return worst


def _invalidate(path: str, arguments: Arguments) -> None:
    dogpile = dogpile_at(path, arguments.directory)
    status = dogpile.status()
    if status.state == "nothing" and not (status.creating or status.generation or os.path.lexists(path)):
        raise Exit(NOINPUT, f"there is nothing at {path!r}")  # a slip of the pen: it shall not leave files behind
    dogpile.invalidate(hard=arguments.hard, durable=True)
