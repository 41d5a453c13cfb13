"""``wait``: until there is a version, or until it is fresh."""

from __future__ import annotations

import json

from ... import Status
from ..._dogpile.status import creator_in
from ..._os.waiting import Deadline
from ...errors import LockTimeout
from ..arguments import Arguments
from ..durations import format_seconds
from ..exits import OK
from .changes import Changes
from .lookup import dogpile_at
from .status import as_object, is_expiry_known

__all__ = ["main"]


def main(arguments: Arguments) -> int:
    """Wait until a creator or another program has put a version there; print what is known of it, with ``--json``.

    :raises LockTimeout: if that took longer than ``--timeout``.
    """
    deadline = Deadline(arguments.timeout)
    changes = Changes([arguments.path], arguments.directory)

    def status() -> Status:
        # A new Dogpile each time: the creator's expiretime, and whether there is a file, are known only then.
        return dogpile_at(arguments.path, arguments).status()

    seen = status()

    def is_there() -> bool:
        nonlocal seen
        seen = status()
        return seen.state == "fresh" or (seen.state == "stale" and not arguments.fresh)

    def tell() -> None:
        if arguments.json:
            known = "expire" in arguments or is_expiry_known(seen)
            print(json.dumps(as_object(arguments.path, seen, known), indent=2))

    while not is_there():
        if not deadline.left:
            tell()
            what = "fresh" if arguments.fresh else "there"
            within = format_seconds(deadline.timeout or 0)
            raise LockTimeout(f"{arguments.path!r} was not {what} within {within}: {creator_in(seen)}")
        changes.wait(deadline.left, is_there)
    tell()
    return OK
