"""``invalidate``: make files stale, or as if there were none yet."""

from __future__ import annotations

import os

from ...errors import DogpileError
from ..arguments import Arguments
from ..exits import NOINPUT, OK, Exit, message_of, status_of
from ..output import say
from .lookup import dogpile_at

__all__ = ["main"]


def main(arguments: Arguments) -> int:
    """Invalidate each path, also after another one has failed; return the greatest exit status."""
    worst = OK
    for path in arguments.paths:
        try:
            _invalidate(path, arguments)
        except (DogpileError, OSError, Exit) as error:
            say(message_of(error))
            worst = max(worst, status_of(error))
    return worst


def _invalidate(path: str, arguments: Arguments) -> None:
    dogpile = dogpile_at(path, arguments)
    status = dogpile.status()
    if status.state == "missing" and not (status.creating or status.generation or os.path.lexists(path)):
        raise Exit(NOINPUT, f"there is nothing at {path!r}")  # a mistyped path must not get coordination files
    dogpile.invalidate(hard=arguments.hard, durable=True)
