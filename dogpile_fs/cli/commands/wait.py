"""``wait``: until there is a version, or until it is fresh."""

from __future__ import annotations

from ... import Status
from ..._dogpile.status import creator_in
from ..._os.waiting import Deadline
from ...errors import LockTimeout
from ..arguments import Arguments
from ..durations import format_seconds
from ..exits import OK
from .changes import Changes
from .lookup import dogpile_at

__all__ = ["main"]


def main(arguments: Arguments) -> int:
    """Wait until a creator or another program has put a version there.

    :raises LockTimeout: if that took longer than ``--timeout``.
    """
    deadline = Deadline(arguments.timeout)
    changes = Changes([arguments.path], arguments.directory)

    def status() -> Status:
        # A new Dogpile each time: the creator's expiretime, and whether there is a file, are known only then.
        return dogpile_at(arguments.path, arguments).status()

    def is_there() -> bool:
        state = status().state
        return state == "fresh" or (state == "stale" and not arguments.fresh)

    while not is_there():
        if not deadline.left:
            what = "fresh" if arguments.fresh else "there"
            within = format_seconds(deadline.timeout or 0)
            raise LockTimeout(f"{arguments.path!r} was not {what} within {within}: {creator_in(status())}")
        changes.wait(deadline.left, is_there)
    return OK
