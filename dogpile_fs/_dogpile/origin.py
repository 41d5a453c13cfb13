"""Origin: where hosts agree on the current version, as a user names it. Its engines are in ``origin/``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import urlsplit

from .._os.paths import absolute
from .._os.waiting import checked_seconds
from ..errors import OriginError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from .engine import Engine, Hints

__all__ = ["ENTRY_POINTS", "Origin"]

#: Modules of this package's own engines, by the scheme of the URL; "": a path.
_ENGINES = {
    "": "shared_directory",
    "s3": "object_storage",
    "az": "object_storage",
    "gs": "object_storage",
    "redis": "redis_server",
    "rediss": "redis_server",
}
#: The group of entry points by which other packages offer engines: the name is the scheme, the object a function
#: that is called with the :class:`Origin`, and returns an :class:`~.engine.Engine`.
ENTRY_POINTS = "dogpile_fs.origins"
#: Seconds between two questions at most, if the user says nothing.
_MOST_CHECK = 10.0
#: Parts of the lifetime that pass between two questions, if the user says nothing.
_CHECKS_PER_LIFETIME = 10
_LEAST_TTL, _LEAST_CHECK = 1.0, 0.1
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the hosts that share a resource agree on the current version, and fetch it from.

    :param url: ``s3://bucket/name``, ``az://container/name``, ``gs://bucket/name``, ``redis://host:port/db/name``,
        ``rediss://...``, or the path of a directory on a shared mount, whose parent must exist. Endpoints and
        credentials are read from the environment, as obstore does for object storage; for Redis from
        ``REDIS_USERNAME`` and ``REDIS_PASSWORD``.
    :param ttl: seconds after which another host may take over from one that creates and has not been heard of.
        From 1 on.
    :param check: seconds between two questions of a host whether there is another version. From 0.1 on. Default:
        a tenth of the expiretime, 10 at most.
    :param outage: while the origin cannot be reached, ``"stale"``: go on with the version of this host;
        ``"create"``: create for this host alone, until it can be reached again.
    :param hint: ``redis://host:port/db/name``: where a host that has published tells the others so, which then ask
        at once and not only after *check*. Each process that uses the resource has a thread that listens there.
        ``None``: no hints.
    :param key: a secret with which heads are signed. Hosts with another key are refused.
    :raises TypeError, ValueError: for what is none of these, and for a *url* with credentials in it.

    To make one touches neither network nor directory.

    >>> Origin("s3://bucket/report.db", ttl=60)
    Origin('s3://bucket/report.db', ttl=60.0)
    """

    url: str
    ttl: float
    check: float | None
    outage: Literal["stale", "create"]
    hint: str | None
    key: bytes | None

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        ttl: float | timedelta = 30.0,
        check: float | timedelta | None = None,
        outage: Literal["stale", "create"] = "stale",
        hint: str | None = None,
        key: bytes | str | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "url", _checked_url(url))
        put(self, "ttl", _at_least("ttl", ttl, _LEAST_TTL))
        put(self, "check", None if check is None else _at_least("check", check, _LEAST_CHECK))
        if outage not in ("stale", "create"):
            raise ValueError(f"outage must be 'stale' or 'create', not {outage!r}")
        put(self, "outage", outage)
        put(self, "hint", None if hint is None else _checked_hint(hint))
        if key is not None and not isinstance(key, bytes | str):
            raise TypeError(f"key must be bytes or a str, not {type(key).__name__}")
        if key is not None and not key:
            raise ValueError("key must not be empty")
        put(self, "key", key.encode() if isinstance(key, str) else key)

    @property
    def _scheme(self) -> str:
        """The scheme of the URL; empty for a path."""
        found = _SCHEME.match(self.url)
        return "" if found is None else found[1]

    def _check_after(self, expiretime: float | None) -> float:
        """Return the seconds between two questions for a resource with this *expiretime*."""
        if self.check is not None:
            return self.check
        if expiretime is None:
            return _MOST_CHECK
        return min(_MOST_CHECK, max(_LEAST_CHECK, expiretime / _CHECKS_PER_LIFETIME))

    def _engine(self) -> Engine:
        """Return the engine, which has connected to nothing yet.

        :raises OriginError: if what it needs is not installed, or no engine has this scheme.
        """
        scheme = self._scheme
        if scheme in _ENGINES:
            module = import_module(f"{__package__.partition('.')[0]}.origin.{_ENGINES[scheme]}")
            return cast("Engine", module.engine_of(self))
        from importlib.metadata import entry_points  # here: it takes long to import

        for entry_point in entry_points(group=ENTRY_POINTS, name=scheme):
            make = cast("Callable[[Origin], Engine]", entry_point.load())
            return make(self)
        known = ", ".join(f"{each}://" for each in _ENGINES if each)
        raise OriginError(
            self.url,
            f"no engine is known for the origin {self.url!r}. Hint: a path, {known}, or a package with an entry "
            f"point {scheme!r} in {ENTRY_POINTS!r}.",
        )

    def _hints(self) -> Hints:
        """Return the way to tell other hosts of a new head, where there is one; it has connected to nothing yet.

        :raises OriginError: if what it needs is not installed.
        """
        module = import_module(f"{__package__.partition('.')[0]}.origin.redis_hints")
        return cast("Hints", module.hints_of(self.hint))

    def __repr__(self) -> str:
        told = [repr(self.url), f"ttl={self.ttl!r}"]
        told += [f"check={self.check!r}"] if self.check is not None else []
        told += [f"outage={self.outage!r}"] if self.outage != "stale" else []
        told += [f"hint={self.hint!r}"] if self.hint is not None else []
        told += ["key=..."] if self.key is not None else []
        return f"Origin({', '.join(told)})"

    def __reduce__(self) -> tuple[object, ...]:
        return _made, (self.url, self.ttl, self.check, self.outage, self.hint, self.key)


def _made(
    url: str,
    ttl: float,
    check: float | None,
    outage: Literal["stale", "create"],
    hint: str | None,
    key: bytes | None,
) -> Origin:
    return Origin(url, ttl=ttl, check=check, outage=outage, hint=hint, key=key)


def _at_least(name: str, value: float | timedelta, least: float) -> float:
    seconds = checked_seconds(name, value)
    if seconds < least or seconds == float("inf"):
        raise ValueError(f"{name} must be a finite number of seconds from {least:g} on, not {value!r}")
    return seconds


def _checked_url(url: str | os.PathLike[str]) -> str:
    if not isinstance(url, str) or _SCHEME.match(url) is None:
        if isinstance(url, str | os.PathLike):
            return absolute(url)
        raise TypeError(f"an origin must be a URL, a path or an Origin, not {url!r}")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # an error if it is no number
    except ValueError as error:
        raise ValueError(f"the origin's URL {_without_userinfo(url)!r} cannot be read: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"the origin's URL {_without_userinfo(url)!r} has credentials in it, which would be logged. "
            "Hint: give them in the environment."
        )
    if parts.query or parts.fragment or not parts.netloc or not parts.path.strip("/"):
        raise ValueError(
            f"the origin's URL {url!r} must be a scheme, a bucket or server, and a name: s3://bucket/name"
        )
    if parts.scheme in ("redis", "rediss"):
        db, _, name = parts.path.strip("/").partition("/")
        if not db.isdecimal() or not name:
            raise ValueError(f"the origin's URL {url!r} must be redis://host:port/db/name, with a number for db")
    return url


def _checked_hint(hint: str) -> str:
    if not isinstance(hint, str):
        raise TypeError(f"hint must be a URL, not {hint!r}")
    if not hint.startswith(("redis://", "rediss://")):
        raise ValueError(
            f"hint must be redis://host:port/db/name or rediss://..., not {_without_userinfo(hint)!r}"
        )
    return _checked_url(hint)


def _without_userinfo(url: str) -> str:
    return re.sub(r"//[^/]*@", "//", url)
