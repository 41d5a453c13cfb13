"""Redis as an origin: a hash with a random tag, which a script compares and sets; blobs in pieces.

The tag is random and no counter of Redis: a failover may lose a write that was acknowledged, and a counter would
give its number twice. So a failover may lose a version, and never lets a host write over one that it has not seen.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any, TypeVar
from urllib.parse import urlsplit

from .._dogpile.engine import UNCHANGED, Down, Gone, Lost, Sink, Unchanged
from .._dogpile.origin import Origin
from ..errors import OriginError

__all__ = ["RedisServer", "engine_of"]

T = TypeVar("T")

_SWAP = """
local tag = redis.call('HGET', KEYS[1], 'tag')
if (tag or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'tag', ARGV[2], 'value', ARGV[3])
return 1
"""
#: Bytes of a piece of a blob.
_PIECE = 4 * 1024 * 1024
_PORT = 6379
#: Seconds to connect.
_CONNECT = 1.0
#: Seconds for one piece of a blob.
_TRANSFER = 60.0


def engine_of(origin: Origin) -> RedisServer:
    """Return the engine of an *origin* ``redis://host:port/db/name``.

    :raises OriginError: if redis is not installed.
    """
    return RedisServer(origin.url)


class RedisServer:
    """The engine. It connects at the first use."""

    def __init__(self, url: str) -> None:
        try:
            redis: Any = import_module("redis")
        except ImportError:
            raise OriginError(
                url, f"the origin {url!r} needs the package redis. Hint: pip install 'dogpile_fs[redis]'"
            ) from None
        parts = urlsplit(url)
        db, _, name = parts.path.strip("/").partition("/")
        self._errors: Any = (redis.RedisError, OSError)
        self._url = url
        self._options = {
            "host": parts.hostname,
            "port": parts.port or _PORT,
            "db": int(db),
            "ssl": parts.scheme == "rediss",
            "username": os.environ.get("REDIS_USERNAME"),
            "password": os.environ.get("REDIS_PASSWORD"),
            "socket_connect_timeout": _CONNECT,
            "retry": None,  # a write that is tried again must be told apart from another host's
        }
        self._client: Any = redis.Redis
        self._clients: dict[float, Any] = {}
        # The braces keep all of it on one server of a cluster.
        self.key: str = f"dogpile_fs:{{{name}}}"

    def read(self, known: str = "", *, seconds: float = 5.0) -> tuple[bytes, str] | Unchanged | None:
        redis = self._within(seconds)
        tag, value = self._answer(lambda: redis.hmget(self.key, "tag", "value"))
        if tag is None:
            return None
        return UNCHANGED if _text(tag) == known else (value, _text(tag))

    def swap(self, value: bytes, tag: str | None) -> str:
        new, redis = secrets.token_hex(8), self._within(5.0)
        if not self._answer(lambda: redis.eval(_SWAP, 1, self.key, tag or "", new, value)):
            raise Lost("the tag is another one")
        return new

    def discard(self) -> None:
        redis = self._within(5.0)
        self._answer(lambda: redis.delete(self.key))

    def now(self) -> float:
        redis = self._within(5.0)
        seconds, microseconds = self._answer(redis.time)
        return float(seconds) + float(microseconds) / 1e6

    def put(self, name: str, path: str) -> None:
        redis, now = self._within(_TRANSFER), self.now()
        with open(path, "rb") as file:
            count = 0
            while piece := file.read(_PIECE):
                self._answer(partial(redis.set, self._piece(name, count), piece))
                count += 1
        self._answer(lambda: redis.hset(self._blobs, name, f"{now} {count}"))

    def get(self, name: str, file: Sink, size: int) -> None:
        redis, left = self._within(_TRANSFER), size + 1
        entry = self._answer(lambda: redis.hget(self._blobs, name))
        if entry is None:
            raise Gone(f"there is no blob {name}")
        for number in range(int(_text(entry).split()[1])):
            piece = self._answer(partial(redis.get, self._piece(name, number)))
            if piece is None:
                raise Gone(f"piece {number} of the blob {name} is missing")
            file.write(piece[:left])
            left -= len(piece)
            if left <= 0:
                return

    def blobs(self) -> Iterator[tuple[str, float]]:
        redis, now = self._within(5.0), self.now()
        for name, entry in self._answer(lambda: redis.hgetall(self._blobs)).items():
            yield _text(name), now - float(_text(entry).split()[0])

    def remove(self, name: str) -> None:
        redis = self._within(5.0)
        entry = self._answer(lambda: redis.hget(self._blobs, name))
        if entry is not None:
            pieces = [self._piece(name, number) for number in range(int(_text(entry).split()[1]))]
            self._answer(lambda: redis.hdel(self._blobs, name))
            if pieces:
                self._answer(lambda: redis.delete(*pieces))

    def ask(self, seconds: float, what: Callable[[Any], T]) -> T:
        """Return what *what* returns, which is called with a client whose answers come within so many *seconds*.

        :raises Down: if the server does not answer.
        """
        redis = self._within(seconds)
        return self._answer(lambda: what(redis))

    def close(self) -> None:
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    @property
    def _blobs(self) -> str:
        return f"{self.key}:blobs"

    def _piece(self, name: str, number: int) -> str:
        return f"{self.key}:{name}:{number}"

    def _within(self, seconds: float) -> Any:
        """Return a client whose answers come within so many *seconds*."""
        client = self._clients.get(seconds)
        if client is None:
            connect = min(_CONNECT, seconds)
            options = {**self._options, "socket_timeout": seconds, "socket_connect_timeout": connect}
            client = self._clients[seconds] = self._client(**options)
        return client

    def _answer(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except self._errors as error:
            raise Down(f"{type(error).__name__}: {error}") from error


def _text(value: Any) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
