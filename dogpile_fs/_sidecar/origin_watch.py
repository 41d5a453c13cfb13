"""What the processes of a host have seen of an origin: kept in the file of the mutex by which they fetch.

Only the holder of that mutex writes it. It is one line of JSON and a checksum; what is damaged counts as nothing
seen, and then the origin is asked again. The head that was seen last follows, so that no process of the host has
to read it again.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .._os.process_identity import own_identity

__all__ = [
    "NOTHING_SEEN",
    "OriginWatch",
    "read_head",
    "read_watch",
    "seconds_since_boot",
    "with_head",
    "write_watch",
]

#: Bytes of the file that the line takes; the head is behind them.
_SIZE = 2048
#: Of a head that is not kept.
_NO_HEAD = -1
_LONGEST_TAG, _LONGEST_URL = 256, 1024


@dataclass(frozen=True, slots=True)
class OriginWatch:
    """*lineage*: of the version in place. *tag*: of the head that was seen last; *attempt*: its attempt's nonce.
    *ttl*: seconds after which that may be taken over. *first_seen*: when this tag was seen first, in seconds
    since the boot *boot*. *asked_at*: epoch seconds of the last answer. *down_since*: epoch seconds since when
    there is none; *misses*: questions since then. *is_fit*: whether the origin has been found to be fit. *url*:
    of the origin. *own*: the nonce of the publication for which a process of this host creates. *head_size*: bytes
    of the head that is kept, 0 if the origin was empty, and -1 if none is kept; *head_sum*: its checksum.
    """

    lineage: str = ""
    tag: str = ""
    attempt: str = ""
    ttl: float = 0.0
    first_seen: float = 0.0
    boot: str | None = None
    asked_at: float | None = None
    down_since: float | None = None
    misses: int = 0
    is_fit: bool = False
    url: str = ""
    own: str = ""
    head_size: int = _NO_HEAD
    head_sum: int = 0

    def seen_for(self) -> float:
        """Return for how many seconds this host has seen the head unchanged; 0 if it was booted since."""
        if self.boot != own_identity().boot:
            return 0.0
        return max(0.0, seconds_since_boot() - self.first_seen)


NOTHING_SEEN = OriginWatch()
_KINDS: dict[str, tuple[type, ...]] = {
    "lineage": (str,),
    "tag": (str,),
    "attempt": (str,),
    "ttl": (float, int),
    "first_seen": (float, int),
    "boot": (str, type(None)),
    "asked_at": (float, int, type(None)),
    "down_since": (float, int, type(None)),
    "misses": (int,),
    "is_fit": (bool,),
    "url": (str,),
    "own": (str,),
    "head_size": (int,),
    "head_sum": (int,),
}


def seconds_since_boot() -> float:
    """Return the seconds since the system's boot, in which it may have been suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_watch(fd: int) -> OriginWatch:
    """Return what the file *fd* holds."""
    try:
        line, _, checksum = os.pread(fd, _SIZE, 0).partition(b"\n")
        if checksum[:8] != b"%08x" % zlib.crc32(line):
            return NOTHING_SEEN
        values: Any = json.loads(line)
        known = {field.name for field in fields(OriginWatch)} & values.keys()
        if not all(isinstance(values[name], _KINDS[name]) for name in known):
            return NOTHING_SEEN
        return OriginWatch(**{name: values[name] for name in known})
    except (OSError, ValueError, AttributeError):
        return NOTHING_SEEN


def write_watch(fd: int, watch: OriginWatch) -> None:
    """Write *watch* to the file *fd*.

    :raises OSError: as ``pwrite``.
    """
    values = asdict(watch)
    if len(watch.tag) > _LONGEST_TAG:
        values["tag"] = ""  # then the origin is asked without one
    if len(watch.url) > _LONGEST_URL:
        values["url"] = ""
    line = json.dumps(values).encode()
    os.pwrite(fd, (line + b"\n%08x\n" % zlib.crc32(line)).ljust(_SIZE), 0)


def read_head(fd: int, watch: OriginWatch) -> bytes | None:
    """Return the head with the tag of *watch* that the file *fd* keeps; empty if the origin was, ``None`` if it
    keeps none."""
    if watch.head_size < 0:
        return None
    try:
        value = os.pread(fd, watch.head_size, _SIZE)
    except (OSError, OverflowError, MemoryError):
        return None
    return value if watch.head_sum == _sum(value, watch.tag) and len(value) == watch.head_size else None


def with_head(fd: int, watch: OriginWatch, value: bytes, tag: str) -> OriginWatch:
    """Have the file *fd* keep the head *value* with this *tag*, and return *watch* with it: to be written then.

    Where that cannot be done, no head is kept.
    """
    if os.fstat(fd).st_nlink == 1:  # else it is another file as well
        with suppress(OSError):
            os.pwrite(fd, value, _SIZE)
            return replace(watch, tag=tag, head_size=len(value), head_sum=_sum(value, tag))
    return replace(watch, tag=tag, head_size=_NO_HEAD)


def _sum(value: bytes, tag: str) -> int:
    return zlib.crc32(value, zlib.crc32(tag.encode()))
