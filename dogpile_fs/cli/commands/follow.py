"""``follow``: one process per host that keeps copies of what an origin has up to date, so that no request asks."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress

from ... import Datafile, Origin
from ..._dogpile.host_scope import watch_at
from ..._os.paths import absolute
from ...errors import DogpileError
from ..arguments import Arguments
from ..child.signals import Signals
from ..exits import OK, USAGE, Exit, message_of
from ..output import Reporter, say
from .lookup import refuse_descriptor

__all__ = ["main"]

#: The part of the time between two questions by which this process is ahead of requests.
_AHEAD = 0.5
#: Seconds of the shortest sleep, and after an error.
_SHORTEST, _LONGER = 0.02, 1.0


def main(arguments: Arguments) -> int:
    """Fetch what is new, until SIGTERM, SIGINT or SIGHUP.

    :raises Exit: with status 64, if no origin is known for a path.
    """
    Reporter(0)
    copies = [_copy(path, arguments.origin, arguments.hint) for path in arguments.paths]
    is_ready = False
    with Signals() as signals:
        try:
            while not signals.received:
                for copy in copies:
                    _ask(copy)
                if not is_ready and all(copy.status().state != "missing" for copy in copies):
                    is_ready = True
                    _tell_ready(arguments.ready_file)
                _sleep(copies, signals)
        finally:
            _tell("STOPPING=1")
            if arguments.ready_file is not None:
                with suppress(FileNotFoundError):
                    os.unlink(arguments.ready_file)
    return OK


def _copy(path: str, url: str | None, hint: str | None) -> Datafile:
    refuse_descriptor(path)
    url = url or watch_at(absolute(path)).url
    if not url:
        raise Exit(
            USAGE,
            f"it is not known which origin {path!r} has: no process has used it here yet. Hint: give --origin.",
        )
    try:
        return Datafile(path, None, origin=Origin(url, hint=hint))
    except ValueError as error:
        raise Exit(USAGE, str(error)) from error


def _ask(copy: Datafile) -> None:
    dogpile = copy._dogpile
    host = dogpile._shared.host
    assert host is not None
    expiretime = dogpile._record.expiretime
    if dogpile.expiretime != expiretime:
        dogpile.expiretime = expiretime  # as the host says that has created
    try:
        host.ask(ahead=host.check * _AHEAD)
    except DogpileError as error:  # the record cannot be written, for now
        say(message_of(error))
        time.sleep(_LONGER)


def _sleep(copies: Sequence[Datafile], signals: Signals) -> None:
    """Sleep until the next question, or a signal."""
    now, due = time.time(), []
    for copy in copies:
        host = copy._dogpile._shared.host
        assert host is not None
        due.append(host.ask_at(copy._dogpile._record, now) - host.check * _AHEAD - now)
    signals.wait(max(_SHORTEST, min(due)))


def _tell_ready(ready_file: str | None) -> None:
    if ready_file is not None:
        with open(ready_file, "w", encoding="ascii"):
            pass
    _tell("READY=1")
    print("ready", flush=True)


def _tell(state: str) -> None:
    """Tell systemd, as sd_notify(3) says."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
        client.sendto(state.encode(), address)
