"""Hints by Redis: a host that has published says so at once, and the others ask the origin without a delay.

A hint may be lost, or come twice. Nothing depends on it but how soon a host asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from .._dogpile.engine import Down
from .redis_server import RedisServer

__all__ = ["RedisHints", "hints_of"]

#: Seconds that telling a hint may take.
_QUICK = 0.5
#: Seconds after which a silent connection is tried, and after which it is given up then.
_SILENCE = 20.0


def hints_of(url: str) -> RedisHints:
    """Return the hints at *url*, ``redis://host:port/db/name``.

    :raises OriginError: if redis is not installed.
    """
    return RedisHints(url)


class RedisHints:
    """One channel of a Redis server. It connects at the first use."""

    def __init__(self, url: str) -> None:
        self._server = RedisServer(url)

    def tell(self, tag: str) -> None:
        self._server.ask(_QUICK, lambda redis: redis.publish(self._server.key, tag))

    def heard(self) -> Iterator[str]:
        ask = self._server.ask
        pubsub: Any = ask(_SILENCE, lambda redis: redis.pubsub())
        is_tried = False
        try:
            ask(_SILENCE, lambda redis: pubsub.subscribe(self._server.key))
            while True:
                message = ask(_SILENCE, lambda redis: pubsub.get_message(timeout=_SILENCE))
                if message is not None:
                    is_tried = False
                    if message["type"] in ("subscribe", "message"):
                        yield message["data"].decode("ascii", "replace") if message["type"] == "message" else ""
                elif is_tried:
                    raise Down(f"nothing was heard for {2 * _SILENCE:.0f} s")
                else:
                    is_tried = True
                    ask(_SILENCE, lambda redis: pubsub.ping())
        finally:
            with suppress(Down):
                ask(_SILENCE, lambda redis: pubsub.close())
