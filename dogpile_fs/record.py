"""What a sidecar record is: its bytes, its states, and what a creation or an invalidation makes of it.

Pure: no I/O and no clock of its own. A record is 512 bytes, small enough for one ``pwrite``, and one
line that a person can read with ``cat``::

    {"dogpile_fs": 1, "createdtime": 1732217000.25, "generation": 3, ...}         1f0c83aa

that is JSON, padding, the CRC-32 of all that stands before it in eight hexadecimal digits, and a newline.
This envelope is the same in every format version, so that an older reader can tell "written by a newer
dogpile_fs" from "damaged". The checksum finds torn writes and foreign bytes; it is no defence against
somebody who means to deceive.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

__all__ = ["FORMAT", "NOTHING", "SIZE", "NewerFormat", "Record", "State", "decode", "encode", "lifetime"]

FORMAT: Final = 1
SIZE: Final = 512
_TAIL: Final = 9  # eight digits and the newline

#: ``fresh`` and ``stale`` pass through (stale while another creates); ``nothing`` waits for a creation.
State = Literal["fresh", "stale", "nothing"]

#: How far in the future a createdtime may lie before it means that the clock went back (seconds).
#: Covers the ways in which two processors' or hosts' idea of "now" differ, and no real jump.
CLOCK_TOLERANCE: Final = 1.0


class NewerFormat(ValueError):
    """An undamaged record of a format *version* that this code does not know."""

    def __init__(self, version: int) -> None:
        super().__init__(f"sidecar format {version}, this dogpile_fs knows up to {FORMAT}")
        self.version = version


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of the last creation.

    *createdtime*: wall-clock epoch seconds, -1 before the first. *generation*: creations so far. *cost*:
    seconds that the creator ran. *host*, *pid*: who ran it. *invalidated*: ``"soft"`` (stale from now on),
    ``"hard"`` (nothing until created anew) or ``None``. *invalidations*: how often so far, by which a
    creation notices that it was invalidated while it ran.
    """

    createdtime: float = -1.0
    generation: int = 0
    cost: float = 0.0
    host: str = ""
    pid: int = 0
    invalidated: Literal["soft", "hard"] | None = None
    invalidations: int = 0
    #: createdtime, or minus infinity where the record cannot be fresh: the hot path's one comparison.
    basis: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        live = self.has_value and self.invalidated is None
        object.__setattr__(self, "basis", self.createdtime if live else -math.inf)

    @property
    def has_value(self) -> bool:
        """Whether callers may pass through at all: created at least once, and not hard-invalidated."""
        return self.createdtime > 0 and self.invalidated != "hard"

    @property
    def is_known(self) -> bool:
        """Whether anything has been put on record: a creation or an invalidation."""
        return self.createdtime > 0 or self.invalidations > 0

    def state(self, now: float, expiretime: float | None) -> State:
        """The state at wall-clock time *now* of a resource that expires after *expiretime* seconds.

        A createdtime more than a second ahead of *now* is stale: the clock went back, and a resource must
        not stay fresh until it has caught up. Without an expiretime no clock matters.
        """
        if not self.has_value:
            return "nothing"
        if self.invalidated is not None:
            return "stale"
        if expiretime is None or -CLOCK_TOLERANCE <= now - self.createdtime < lifetime(expiretime):
            return "fresh"
        return "stale"

    def created(self, seen: Record, createdtime: float, *, cost: float, host: str, pid: int) -> Record:
        """The record after a creation that *seen* was elected on, where ``self`` is what stands now.

        An invalidation since then stays in force: the creator may have read its input before it.
        """
        return replace(
            self,
            createdtime=createdtime,
            generation=self.generation + 1,
            cost=max(0.0, cost),
            host=host,
            pid=pid,
            invalidated=self.invalidated if self.invalidations != seen.invalidations else None,
        )

    def invalidate(self, *, hard: bool) -> Record:
        """The record after an invalidation; a soft one does not weaken a hard one."""
        return replace(
            self,
            invalidated="hard" if hard or self.invalidated == "hard" else "soft",
            invalidations=self.invalidations + 1,
        )


def lifetime(expiretime: float | None) -> float:
    """The age below which a resource is fresh: infinite for ``None``, and nothing is below that of 0.

    The age may be a little below 0 itself, where the clock of who asks is behind the creator's.
    """
    if expiretime is None:
        return math.inf
    return expiretime if expiretime > 0 else -math.inf


#: What stands where no creation has been yet.
NOTHING: Final = Record()


def encode(record: Record) -> bytes:
    """The 512 bytes of *record*. A host name too long for them is cut."""
    fields: dict[str, Any] = {"dogpile_fs": FORMAT, **asdict(record)}
    del fields["basis"]
    text = json.dumps(fields).encode("ascii")
    while len(text) > SIZE - _TAIL - 1:
        if not fields["host"]:
            raise ValueError(f"no sidecar record has room for {record!r}")
        fields["host"] = fields["host"][:-8]
        text = json.dumps(fields).encode("ascii")
    body = text.ljust(SIZE - _TAIL)
    return body + b"%08x\n" % zlib.crc32(body)


def decode(data: bytes) -> Record | None:
    """The record that *data* holds; ``None`` for anything that :func:`encode` did not make.

    :raises NewerFormat: for an undamaged record of a later format.

    >>> decode(encode(Record(createdtime=1.5, generation=1))).createdtime
    1.5
    >>> decode(b"scribble") is None
    True
    """
    body = data[:-_TAIL]
    if len(data) != SIZE or data[-_TAIL:] != b"%08x\n" % zlib.crc32(body):
        return None
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    version = fields.pop("dogpile_fs", None)
    if type(version) is not int or version < 1:
        return None
    if version > FORMAT:
        raise NewerFormat(version)
    try:
        record = Record(**fields)
    except TypeError:
        return None
    return record if _is_sound(record) else None


def _is_sound(record: Record) -> bool:
    counts = (record.generation, record.pid, record.invalidations)
    seconds = (record.createdtime, record.cost)
    return (
        all(type(count) is int and count >= 0 for count in counts)
        and all(type(value) is float and math.isfinite(value) for value in seconds)
        and type(record.host) is str
        and record.invalidated in (None, "soft", "hard")
    )
