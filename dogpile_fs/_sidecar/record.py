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
import sys
import zlib

# What `dogpile-fs run` imports to find a fresh file fresh; typing and dataclasses would double its time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, Literal

    #: ``fresh`` and ``stale`` pass through (stale while another creates); ``nothing`` waits for a creation.
    State = Literal["fresh", "stale", "nothing"]
    Invalidated = Literal["soft", "hard"] | None
else:
    State = Invalidated = str

__all__ = [
    "CHECKSUM_AT",
    "DAMAGED",
    "FORMAT",
    "NOTHING",
    "SIZE",
    "About",
    "Attempt",
    "Invalidated",
    "NewerFormat",
    "Record",
    "State",
    "decode",
    "encode",
    "is_whole",
    "lifetime",
]

FORMAT: Final = 1
SIZE: Final = 512
#: Where in the record its checksum begins: eight digits and the newline.
CHECKSUM_AT: Final = SIZE - 9

#: What a stamp describes: size, mtime in nanoseconds, inode, and the generation that it came with. Negative, where
#: it is not stamped yet: the generation that it will have come with if it is stamped next.
About = tuple[int, int, int, int]
#: Who began to create, and when: host, pid, wall-clock epoch seconds.
Attempt = tuple[str, int, float]

#: How far in the future a createdtime may lie before it means that the clock went back (seconds).
#: Covers the ways in which two processors' or hosts' idea of "now" differ, and no real jump.
CLOCK_TOLERANCE: Final = 1.0


class NewerFormat(ValueError):
    """An undamaged record of a format *version* that this code does not know."""

    def __init__(self, version: int) -> None:
        super().__init__(f"sidecar format {version}, this dogpile_fs knows up to {FORMAT}")
        self.version = version


class Record:
    """What is known of the last creation, and of one that has begun since. Never changed once it is made.

    *createdtime*: wall-clock epoch seconds, -1 before the first. *generation*: creations so far. *cost*:
    seconds that the creator ran. *host*, *pid*: who ran it. *invalidated*: ``"soft"`` (stale from now on),
    ``"hard"`` (nothing until created anew) or ``None``. *invalidations*, *hard_invalidations*: how often so far,
    and how often of these hard, by which a creation notices what came while it ran. *expiretime*: what its
    creator went by, or who has begun a creation since; ``None`` for never or unknown. *about*: what stood at the
    resource's path when it was stamped, if that was looked at. *attempt*: who began a creation after it, and has
    not finished.
    """

    __slots__ = (
        "about",
        "attempt",
        "basis",
        "cost",
        "createdtime",
        "expiretime",
        "generation",
        "hard_invalidations",
        "host",
        "invalidated",
        "invalidations",
        "pid",
        "version",
    )

    #: Differs from that of every other version of the resource that was in place. A creation that left in place
    #: what was there makes no new version, if that is looked at; nor does it matter whether it is stamped yet.
    version: tuple[int, ...]
    #: createdtime, or minus infinity where the record cannot be fresh: the hot path's one comparison.
    basis: float

    def __init__(
        self,
        createdtime: float = -1.0,
        generation: int = 0,
        cost: float = 0.0,
        host: str = "",
        pid: int = 0,
        invalidated: Invalidated = None,
        invalidations: int = 0,
        hard_invalidations: int = 0,
        expiretime: float | None = None,
        about: About | None = None,
        attempt: Attempt | None = None,
    ) -> None:
        self.createdtime = createdtime
        self.generation = generation
        self.cost = cost
        self.host = host
        self.pid = pid
        self.invalidated = invalidated
        self.invalidations = invalidations
        self.hard_invalidations = hard_invalidations
        self.expiretime = expiretime
        self.about = about
        self.attempt = attempt
        self.version = (generation,) if about is None else about if about[3] >= 0 else (*about[:3], -about[3])
        self.basis = createdtime if self.has_value and invalidated is None else -math.inf

    def fields(self) -> dict[str, Any]:
        """What it was made of, in the order of the constructor."""
        return {
            "createdtime": self.createdtime,
            "generation": self.generation,
            "cost": self.cost,
            "host": self.host,
            "pid": self.pid,
            "invalidated": self.invalidated,
            "invalidations": self.invalidations,
            "hard_invalidations": self.hard_invalidations,
            "expiretime": self.expiretime,
            "about": self.about,
            "attempt": self.attempt,
        }

    def replace(self, **changes: Any) -> Record:
        """A record that differs in *changes*."""
        return Record(**{**self.fields(), **changes})

    def __eq__(self, other: object) -> bool:
        return self.fields() == other.fields() if isinstance(other, Record) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.fields().values()))

    def __repr__(self) -> str:
        return f"Record({', '.join(f'{name}={value!r}' for name, value in self.fields().items())})"

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

    def begun(self, attempt: Attempt, expiretime: float | None) -> Record:
        """The record while somebody creates who goes by *expiretime*.

        Where there was no creation yet, that counts from now on: else what was there before would be called fresh
        for ever, though each attempt finds it stale.
        """
        if self.createdtime > 0:
            return self.replace(attempt=attempt)
        return self.replace(attempt=attempt, expiretime=_on_record(expiretime))

    def created(
        self,
        seen: Record,
        createdtime: float,
        *,
        cost: float,
        host: str,
        pid: int,
        expiretime: float | None = None,
        standing: tuple[int, int, int] | None = None,
    ) -> Record:
        """The record after a creation that began with *seen*, where ``self`` is what stands now.

        An invalidation since then stays in force: the creator may have read its input before it. *standing* is
        what is at the path now, if anybody looked: unchanged, it keeps the generation that it came with. It can
        be no other file with a used inode, because the one on record was there until this moment.
        """
        generation = self.generation + 1
        about: About | None = None
        if standing is not None:
            kept = seen.about is not None and seen.about[:3] == standing
            about = (*standing, abs(seen.about[3]) if kept and seen.about else generation)
        return self.replace(
            createdtime=createdtime,
            generation=generation,
            cost=max(0.0, cost),
            host=host,
            pid=pid,
            invalidated=self._invalidated_since(seen),
            expiretime=_on_record(expiretime),
            about=about,
            attempt=None,
        )

    def _invalidated_since(self, seen: Record) -> Invalidated:
        if _moment_of(self.attempt) != _moment_of(seen.attempt):
            return self.invalidated  # another sidecar than the creation began with: its counts tell nothing
        if self.invalidated is None or self.invalidations == seen.invalidations:
            return None
        # "hard" may be from before, and what came since only soft.
        return "soft" if self.hard_invalidations == seen.hard_invalidations else self.invalidated

    def invalidate(self, *, hard: bool) -> Record:
        """The record after an invalidation; a soft one does not weaken a hard one."""
        return self.replace(
            invalidated="hard" if hard or self.invalidated == "hard" else "soft",
            invalidations=self.invalidations + 1,
            hard_invalidations=self.hard_invalidations + hard,
        )


def _moment_of(attempt: Attempt | None) -> tuple[int, float] | None:
    """What tells *attempt* from others; a host that is too long for the record is cut."""
    return None if attempt is None else attempt[1:]


def _on_record(expiretime: float | None) -> float | None:
    """*expiretime* as a number that JSON has."""
    return None if expiretime == math.inf else expiretime


def lifetime(expiretime: float | None) -> float:
    """The age below which a resource is fresh: infinite for ``None``, and nothing is below that of 0.

    The age may be a little below 0 itself, where the clock of who asks is behind the creator's.
    """
    if expiretime is None:
        return math.inf
    return expiretime if expiretime > 0 else -math.inf


#: What stands where no creation has been yet.
NOTHING: Final = Record()
#: The same where there may have been one, but the sidecar does not tell: what is at the path is not fresh.
DAMAGED: Final = Record(invalidated="soft")


def encode(record: Record) -> bytes:
    """The 512 bytes of *record*. Host names too long for them are cut."""
    fields = {"dogpile_fs": FORMAT, **record.fields()}
    text = json.dumps(fields).encode("ascii")
    while len(text) > CHECKSUM_AT - 1:
        attempt = fields["attempt"]
        if attempt is not None and len(attempt[0]) > len(fields["host"]):
            fields["attempt"] = (attempt[0][:-8], *attempt[1:])
        elif fields["host"]:
            fields["host"] = fields["host"][:-8]
        else:
            raise ValueError(f"no sidecar record has room for {record!r}")
        text = json.dumps(fields).encode("ascii")
    body = text.ljust(CHECKSUM_AT)
    return body + b"%08x\n" % zlib.crc32(body)


def is_whole(data: bytes) -> bool:
    """Whether *data* is all of one record, as far as its checksum can tell."""
    return len(data) == SIZE and data[CHECKSUM_AT:] == b"%08x\n" % zlib.crc32(data[:CHECKSUM_AT])


def decode(data: bytes) -> Record | None:
    """The record that *data* holds; ``None`` for anything that :func:`encode` did not make.

    :raises NewerFormat: for an undamaged record of a later format.

    >>> decode(encode(Record(createdtime=1.5, generation=1))).createdtime
    1.5
    >>> decode(b"scribble") is None
    True
    """
    if not is_whole(data):
        return None
    try:
        fields = json.loads(data[:CHECKSUM_AT].decode("ascii"))  # else surrogates could come in that pair up later
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    version = fields.pop("dogpile_fs", None)
    if type(version) is not int or version < 1:
        return None
    if version > FORMAT:
        raise NewerFormat(version)
    if fields.keys() != _NAMES or not _are_sound(**fields):
        return None
    for name in ("about", "attempt"):
        if fields[name] is not None:
            fields[name] = tuple(fields[name])
    fields["host"] = sys.intern(fields["host"])  # one for all records that are kept
    return Record(**fields)


_NAMES: Final = NOTHING.fields().keys()
# What is read must have room when it is written again. Far beyond what is counted, and what systems tell of files
# (of a time in nanoseconds, 94 bits): with all of them as long as this, a record still has room for its names.
_MOST: Final = 2**53
_LARGEST: Final = 2**96


def _are_sound(
    createdtime: Any,
    generation: Any,
    cost: Any,
    host: Any,
    pid: Any,
    invalidated: Any,
    invalidations: Any,
    hard_invalidations: Any,
    expiretime: Any,
    about: Any,
    attempt: Any,
) -> bool:
    return (
        _is_moment(createdtime)
        and _is_count(generation)
        and _is_moment(cost)
        and type(host) is str
        and _is_count(pid)
        and invalidated in (None, "soft", "hard")
        and _is_count(invalidations)
        and _is_count(hard_invalidations)
        and (expiretime is None or (_is_moment(expiretime) and expiretime >= 0))
        and (about is None or (type(about) is list and len(about) == 4 and all(map(_is_told, about))))
        and (attempt is None or (type(attempt) is list and len(attempt) == 3 and _is_attempt(*attempt)))
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _is_told(value: Any) -> bool:
    return type(value) is int and -_LARGEST <= value <= _LARGEST


def _is_moment(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


def _is_attempt(host: Any, pid: Any, since: Any) -> bool:
    return type(host) is str and _is_count(pid) and _is_moment(since)
