"""``wait``: until there is something, or until it is fresh."""

from __future__ import annotations

from ..._os.waiting import Deadline
from ...errors import LockTimeout
from ..arguments import Arguments
from ..durations import format_seconds
from ..exits import OK
from .changes import Changes
from .lookup import dogpile_at

__all__ = ["main"]


def main(arguments: Arguments) -> int:
    """Wait, for whoever puts it there: a creator, or a foreign hand.

    :raises LockTimeout: if it took too long.
    """
    deadline = Deadline(arguments.timeout)
    changes = Changes([arguments.path], arguments.directory)

    def is_there() -> bool:
        # Looked for anew: what stands there, and how long its creator says that it lives, shows once it is there.
        dogpile = dogpile_at(arguments.path, arguments.directory)
        if "expire" in arguments:
            dogpile.expiretime = arguments.expire
        state = dogpile.status().state
        return state == "fresh" or (state == "stale" and not arguments.fresh)

    while not is_there():
        if not deadline.left:
            what = "fresh" if arguments.fresh else "there"
            raise LockTimeout(f"{arguments.path!r} was not {what} within {format_seconds(deadline.timeout or 0)}")
        changes.wait(deadline.left, is_there)
    return OK
