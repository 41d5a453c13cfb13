"""The record that a sidecar holds: its fields, its states, and what creations and invalidations make of it.

Pure: no I/O, and no clock of its own. Its bytes are those of :mod:`.encoding` and :mod:`.decoding`.

Each field belongs to a group. A stamp empties ``version``, a successful creation empties ``failures``, and
``resource`` is kept. Keys that this dogpile_fs does not know are kept with their group, so that different versions
of the package can share a sidecar. The format number rises only when the meaning of a field changes.
"""

from __future__ import annotations

import math
from collections import namedtuple
from itertools import repeat
from operator import attrgetter

from .fingerprint import FILE, KINDS, UNTAGGED, Fingerprint

# `dogpile-fs run` imports this module to find a fresh file fresh; typing and dataclasses would double its time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Final, Literal, NamedTuple

    #: ``fresh`` and ``stale`` pass through (stale while another creates). ``expired``, too old for any reader, and
    #: ``missing`` wait for a creation.
    State = Literal["fresh", "stale", "expired", "missing"]
    Invalidated = Literal["soft", "hard"] | None

    class Attempt(NamedTuple):
        """A creation that has begun: on which host, in which process, at which epoch second.

        *boot*, *pid_ns*, *start*: which process that is, as :mod:`~._os.process_identity` says. *kind*: one of
        :data:`KINDS_OF_ATTEMPT`; ``None``: it runs in the caller that was elected. *deadline*: the epoch second at
        which it is ended.
        """

        host: str
        pid: int
        since: float
        boot: str | None = None
        pid_ns: int | None = None
        start: int | None = None
        kind: str | None = None
        deadline: float | None = None

else:
    State = Invalidated = str
    Attempt = namedtuple("Attempt", "host pid since boot pid_ns start kind deadline", defaults=(None,) * 5)

__all__ = [
    "CHECKSUM_AT",
    "CLOCK_TOLERANCE",
    "DAMAGED",
    "DIED",
    "FIELDS",
    "FORMAT",
    "GROUPS",
    "KINDS_OF_ATTEMPT",
    "LONGEST_NOTE",
    "MISSING",
    "SIZE",
    "Attempt",
    "Invalidated",
    "Record",
    "State",
    "cleaned_host",
    "cleaned_type_name",
    "max_age",
    "sooner",
]

FORMAT: Final = 1
#: Bytes of a record. :data:`FIELDS` at their worst, and those that are planned, must fit; half a page is one
#: ``pwrite``.
SIZE: Final = 2048
#: Where in the record its checksum begins: eight digits and the newline.
CHECKSUM_AT: Final = SIZE - 9
#: Bytes of a host name: HOST_NAME_MAX of Linux.
_LONGEST_HOST: Final = 64
#: Characters of a digest (SHA-256 in hexadecimal digits), and of the digest by which boots are told apart.
_LONGEST_DIGEST: Final = 64
_LONGEST_BOOT: Final = 16
#: Bytes of a note, of the name of an error's type, and of the digest of a resource's inputs.
LONGEST_NOTE: Final = 96
_LONGEST_TYPE: Final = 48
_LONGEST_INPUTS: Final = 32

#: What stands in the place of an error's type where a creation has died.
DIED: Final = "died"
#: Where a creation runs, if not in the caller that was elected: in a thread of that process, in a child that may
#: outlive it, or as the COMMAND of ``dogpile-fs run``.
KINDS_OF_ATTEMPT: Final = ("thread", "process", "command")

#: Seconds that a createdtime may lie in the future before it means that the clock went back. It covers how far the
#: clocks of two processors or hosts differ, and is shorter than any real jump.
CLOCK_TOLERANCE: Final = 1.0

#: An attempt is overdue after so many times the last one's cost.
_TOO_LONG: Final = 10.0

# A number that is read must have room when it is written again. These bounds lie beyond all that is counted, and
# that systems report: of counts; of processes and namespaces; of sizes and inodes; of mtimes in nanoseconds (94
# bits).
_MOST: Final = 2**53
_MOST_PID: Final = 2**32
_MOST_SIZE: Final = 2**64
_LATEST_NS: Final = 2**96
_LATEST_QUESTION: Final = 1e11


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _is_pid(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST_PID


def _is_moment(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


def _is_duration(value: Any) -> bool:
    return _is_moment(value) and bool(value >= 0)


def _is_optional_duration(value: Any) -> bool:
    return value is None or _is_duration(value)


def _is_note(value: Any) -> bool:
    return type(value) is str and _is_utf8(value, LONGEST_NOTE)


def _is_type_name(value: Any) -> bool:
    return type(value) is str and value == cleaned_type_name(value)


def _is_host(value: Any) -> bool:
    return type(value) is str and value == cleaned_host(value)


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_invalidated(value: Any) -> bool:
    return value in (None, "soft", "hard")


def _is_fingerprint(value: Any) -> bool:
    return value is None or (
        type(value) is Fingerprint
        and value.kind in KINDS
        and all(type(number) is int for number in value[1:])
        and 0 <= value.size <= _MOST_SIZE
        and 0 <= value.inode <= _MOST_SIZE
        and abs(value.mtime_ns) <= _LATEST_NS
    )


def _is_attempt(value: Any) -> bool:
    return value is None or (
        type(value) is Attempt
        and _is_host(value.host)
        and _is_pid(value.pid)
        and _is_moment(value.since)
        and _is_digest(value.boot)
        and _is_optional_pid(value.pid_ns)
        and (value.start is None or _is_count(value.start))
        and (value.kind is None or value.kind in KINDS_OF_ATTEMPT)
        and _is_optional_moment(value.deadline)
    )


def _is_optional_moment(value: Any) -> bool:
    return value is None or _is_moment(value)


def _is_time_to_ask(value: Any) -> bool:
    # Written with two decimals, so that there is room.
    return value is None or (
        _is_moment(value) and bool(0 <= value < _LATEST_QUESTION) and round(value, 2) == value
    )


def _is_optional_pid(value: Any) -> bool:
    return value is None or _is_pid(value)


def _is_digest(value: Any) -> bool:
    return value is None or (
        type(value) is str and len(value) <= _LONGEST_DIGEST and value.isalnum() and value.isascii()
    )


class _Field:
    __slots__ = ("default", "group", "is_sound", "worst")

    def __init__(self, group: str, default: Any, is_sound: Callable[[Any], bool], worst: Any) -> None:
        self.group = group
        self.default = default
        self.is_sound = is_sound
        self.worst = worst


_WORST_MOMENT: Final = -1.7976931348623157e308
_WORST_HOST: Final = "h" * _LONGEST_HOST

#: Each field of the record: its group, its value where it is not written, whether a value is sound, and a sound
#: value that takes as many bytes as any. An attempt is an object with the fields of :class:`Attempt`. Nothing
#: writes the reserved fields yet; they are kept with their group, whichever version of this package writes them.
FIELDS: Final = {
    "createdtime": _Field("version", -1.0, _is_moment, _WORST_MOMENT),
    "cost": _Field("version", 0.0, _is_moment, _WORST_MOMENT),
    "host": _Field("version", "", _is_host, _WORST_HOST),
    "pid": _Field("version", 0, _is_pid, _MOST_PID),
    "expiretime": _Field("version", None, _is_optional_duration, -_WORST_MOMENT),
    "fingerprint": _Field(
        "version", None, _is_fingerprint, Fingerprint(UNTAGGED, _MOST_SIZE, -_LATEST_NS, _MOST_SIZE)
    ),
    "fingerprint_generation": _Field("version", 0, _is_count, _MOST),
    "content": _Field("version", None, _is_digest, "f" * _LONGEST_DIGEST),
    "lifetime": _Field("version", None, _is_optional_duration, -_WORST_MOMENT),
    "max_stale": _Field("version", None, _is_optional_duration, -_WORST_MOMENT),
    "stale_since": _Field("version", None, _is_optional_moment, _WORST_MOMENT),
    "note": _Field("version", "", _is_note, "\0" * LONGEST_NOTE),
    "inputs": _Field("version", None, _is_digest, "f" * _LONGEST_INPUTS),
    "boot": _Field("version", None, _is_digest, "f" * _LONGEST_BOOT),  # reserved: in which boot *pid* ran
    "pid_ns": _Field("version", None, _is_optional_pid, _MOST_PID),  # reserved: where *pid* is its number
    "failures": _Field("failures", 0, _is_count, _MOST),
    "first_failed_at": _Field("failures", None, _is_optional_moment, _WORST_MOMENT),
    "failed_at": _Field("failures", None, _is_optional_moment, _WORST_MOMENT),
    "retry_after": _Field("failures", 0.0, _is_duration, -_WORST_MOMENT),
    "failed_type": _Field("failures", "", _is_type_name, "x" * _LONGEST_TYPE),
    "failed_pid": _Field("failures", 0, _is_pid, _MOST_PID),
    "failures_total": _Field("resource", 0, _is_count, _MOST),
    "generation": _Field("resource", 0, _is_count, _MOST),
    "invalidated": _Field("resource", None, _is_invalidated, "soft"),
    "invalidations": _Field("resource", 0, _is_count, _MOST),
    "hard_invalidations": _Field("resource", 0, _is_count, _MOST),
    "attempt": _Field(
        "resource",
        None,
        _is_attempt,
        Attempt(
            _WORST_HOST, _MOST_PID, _WORST_MOMENT, "f" * _LONGEST_BOOT, _MOST_PID, _MOST, "process", _WORST_MOMENT
        ),
    ),
    "is_unfinished": _Field("version", False, _is_flag, True),
    "invalidated_at": _Field("resource", None, _is_optional_moment, _WORST_MOMENT),  # reserved
    "ask_at": _Field("resource", None, _is_time_to_ask, 99999999999.99),
    "remote": _Field("resource", False, _is_flag, True),
    "changes": _Field("resource", 0, _is_count, _MOST),
}
GROUPS: Final = ("version", "failures", "resource")
_DEFAULTS: Final = tuple(field.default for field in FIELDS.values())
_REPLACEABLE: Final = {*FIELDS, "unknown", "device"}
#: Returns the values of all fields of a record, in order.
_values_of: Final[Callable[[Any], tuple[Any, ...]]] = attrgetter(*FIELDS)


def _set_fields(record: Record, values: Iterable[Any]) -> None:
    # A loop without bytecode, because a creation makes many records: setattr returns nothing, so that all are set.
    any(map(setattr, repeat(record), FIELDS, values))


class Record:
    """What is known of the last creation, and of one that has begun since. Never changed once it is made.

    *createdtime*: wall-clock epoch seconds at which the creator finished, -1 before the first. *cost*: seconds
    that it ran. *host*, *pid*: the process that ran it. *expiretime*: seconds after which that process called it
    stale; before the first creation, that of the process that has begun it; ``None`` for never or unknown.
    *fingerprint*: of the resource when it was stamped, if it was looked at. *fingerprint_generation*: the
    generation that put the file there (after a creation that left the file in place, an earlier one than
    *generation*).

    *lifetime*: seconds after which every process calls it stale, if that is sooner. *max_stale*: seconds past
    expiry after which it is ``expired``. *stale_since*: when an input was first seen to have changed. *note*: what
    the creator left for the next one. *inputs*: a digest of what it was made from.

    *failures*: creations in a row that have failed or died since the last one that succeeded. *first_failed_at*,
    *failed_at*: epoch seconds of the first and the last of them. *retry_after*: seconds after *failed_at* in which
    no process tries again. *failed_type*: the name of the last error's type, or ``"died"``. *failed_pid*: its
    process. *failures_total*: how many in all.

    *generation*: creations so far. *invalidated*: ``"soft"`` (stale from now on), ``"hard"`` (missing until
    created anew) or ``None``; *invalidated_at*: epoch seconds of the first since the last creation.
    *invalidations*, *hard_invalidations*: how many so far, and how many of them hard, by which a creation notices
    those that came while it ran. *attempt*: a creation that began after the last one and has not finished.
    *is_unfinished*: whether a process may still be writing to the file that was swapped in last, because the
    system did not say. *ask_at*: epoch seconds at which the origin is asked next; ``None`` without one. *remote*:
    whether another host was creating when it was asked last. *changes*: how often the sidecar was written; it
    counts for the file's length, and not when records are compared. *unknown*: keys of other versions of this
    package, by group, and those of the attempt.
    """

    __slots__ = (*FIELDS, "device", "fresh_from", "unknown", "version")

    createdtime: float
    cost: float
    host: str
    pid: int
    expiretime: float | None
    fingerprint: Fingerprint | None
    fingerprint_generation: int
    generation: int
    invalidated: Invalidated
    invalidations: int
    hard_invalidations: int
    attempt: Attempt | None
    is_unfinished: bool
    content: str | None
    lifetime: float | None
    max_stale: float | None
    stale_since: float | None
    note: str
    inputs: str | None
    failures: int
    first_failed_at: float | None
    failed_at: float | None
    retry_after: float
    failed_type: str
    failed_pid: int
    failures_total: int
    boot: str | None
    pid_ns: int | None
    invalidated_at: float | None
    ask_at: float | None
    remote: bool
    changes: int
    unknown: dict[str, dict[str, Any]]

    #: The device of the file that was found at the path, where one was; no sidecar holds it.
    device: int
    #: Differs from that of every other version of the resource. A creation that left the file in place makes no
    #: new version, if the file is looked at; nor does a stamp of the file that is there.
    version: tuple[int, ...]
    #: createdtime, or minus infinity where not only the caller's expiretime decides whether it is fresh: the hot
    #: path's one comparison.
    fresh_from: float

    def __init__(self, unknown: dict[str, dict[str, Any]] | None = None, device: int = 0, **values: Any) -> None:
        self.unknown = unknown or {}
        self.device = device
        if not values.keys() <= FIELDS.keys():
            raise TypeError(f"a record has no {', '.join(values.keys() - FIELDS.keys())}")
        _set_fields(self, map(values.get, FIELDS, _DEFAULTS))
        self._derive()

    def _derive(self) -> None:
        """Set what follows from the fields."""
        found, device = self.fingerprint, self.device
        self.version = (self.generation,) if found is None else (*found[1:], self.fingerprint_generation, device)
        is_plain = self.has_value and self.invalidated is None and self.lifetime is None
        self.fresh_from = self.createdtime if is_plain else -math.inf

    def fields(self) -> dict[str, Any]:
        """Return the values of all fields, by name."""
        return dict(zip(FIELDS, _values_of(self), strict=True))

    def replace(self, **changes: Any) -> Record:
        """Return a record that differs in *changes*."""
        made = Record.__new__(Record)
        made.unknown, made.device = self.unknown, self.device
        _set_fields(made, _values_of(self))
        for name, value in changes.items():
            if name not in _REPLACEABLE:
                raise TypeError(f"a record has no {name}")
            setattr(made, name, value)
        made._derive()
        return made

    def _key(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in FIELDS if name != "changes")

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Record) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        told = {name: value for name, value in self.fields().items() if value != FIELDS[name].default}
        return f"Record({', '.join(f'{name}={value!r}' for name, value in told.items())})"

    @property
    def has_value(self) -> bool:
        """Whether callers may pass through: created at least once, and not hard-invalidated since."""
        return self.createdtime > 0 and self.invalidated != "hard"

    @property
    def is_known(self) -> bool:
        """Whether a creation or an invalidation is on record."""
        return self.createdtime > 0 or self.invalidations > 0

    def state(self, now: float, expiretime: float | None, max_stale: float | None = None) -> State:
        """Return the state at wall-clock time *now* for a caller with this *expiretime* and *max_stale* (seconds).

        A createdtime more than :data:`CLOCK_TOLERANCE` ahead of *now* is stale: the clock went back, and a
        resource must not stay fresh until the clock has caught up. Without an expiretime no clock matters.
        """
        if not self.has_value:
            return "missing"
        lifetime = sooner(expiretime, self.lifetime)
        if self.invalidated is None and (
            lifetime is None or -CLOCK_TOLERANCE <= now - self.createdtime < max_age(lifetime)
        ):
            return "fresh"
        return "stale" if now < self.expires_at(expiretime, max_stale) else "expired"

    def fresh_until(self, expiretime: float | None) -> float:
        """Return the wall-clock time at which its age makes it stale; infinity for never."""
        lifetime = sooner(expiretime, self.lifetime)
        return math.inf if lifetime is None else self.createdtime + lifetime

    def stale_from(self, expiretime: float | None) -> float:
        """Return the wall-clock time since which it is stale: its expiry, or what has made it stale before."""
        moments = [self.fresh_until(expiretime)]
        if self.invalidated is not None and self.invalidated_at is not None:
            moments.append(self.invalidated_at)
        if self.stale_since is not None:
            moments.append(self.stale_since)
        return min(moments)

    def expires_at(self, expiretime: float | None, max_stale: float | None) -> float:
        """Return the wall-clock time after which no reader gets it; infinity for never."""
        bound = sooner(max_stale, self.max_stale)
        return math.inf if bound is None else self.stale_from(expiretime) + bound

    @property
    def retry_at(self) -> float | None:
        """The wall-clock time of the next attempt after failures; ``None`` if it need not wait."""
        return None if self.failed_at is None or not self.retry_after else self.failed_at + self.retry_after

    def backoff_left(self, now: float) -> float:
        """Return for how many seconds from *now* no process tries again; 0 if the clock went back since the
        failure."""
        if self.failed_at is None or now < self.failed_at - CLOCK_TOLERANCE:
            return 0.0
        return max(0.0, min(self.retry_after, self.failed_at + self.retry_after - now))

    def is_overdue(self, now: float) -> bool:
        """Return whether the attempt on record, which runs, takes too long at wall-clock time *now*."""
        if self.attempt is None:
            return False
        if self.attempt.deadline is not None and now > self.attempt.deadline:
            return True
        return self.cost > 0 and now - self.attempt.since > _TOO_LONG * self.cost

    def reconcile(self, found: tuple[Fingerprint, float] | None) -> Record:
        """Return this record as it must be read where *found* is at the path: a fingerprint and an mtime, or
        nothing.

        A file that was not stamped, because another program put it there or it was shipped without a sidecar,
        counts as created at its mtime. An invalidation stays in force: the other program may not have known of it.
        One that may have been unfinished when it was stamped, and was changed in place since, is stale.
        """
        if found is None:
            return self.replace(createdtime=-1.0, fingerprint=None) if self.has_value else self
        fingerprint, mtime = found
        # Without a fingerprint: stamped by a process that did not look at the file.
        if self.createdtime > 0 and (self.fingerprint is None or self.fingerprint.matches(fingerprint)):
            return self
        if self.is_changed_in_place(fingerprint):
            return self.replace(
                invalidated=self.invalidated or "soft",
                fingerprint=fingerprint,
                fingerprint_generation=self.generation + 1,
                content=None,
            )
        return self.replace(
            createdtime=max(mtime, _EARLIEST),
            host="",
            pid=0,
            fingerprint=fingerprint,
            fingerprint_generation=self.generation + 1,  # what its stamp will say
            content=None,
            lifetime=None,
            stale_since=None,
            note="",
            inputs=None,
        )

    def is_changed_in_place(self, found: Fingerprint) -> bool:
        """Return whether the stamped file, which may have been unfinished, has changed into what was *found*."""
        stamped = self.fingerprint
        return (
            self.is_unfinished
            and stamped is not None
            and stamped != found
            and stamped.kind == found.kind == FILE
            and stamped.inode == found.inode
        )

    def begun(self, attempt: Attempt, expiretime: float | None) -> Record:
        """Return the record while a process creates that goes by *expiretime* (seconds).

        Before the first creation that expiretime is recorded: otherwise a file without a sidecar would be called
        fresh for ever, although each attempt finds it stale.
        """
        first = {} if self.createdtime > 0 else {"expiretime": _finite(expiretime)}
        return self.replace(attempt=attempt, unknown=self._unknown_in("version", "failures", "resource"), **first)

    def ended(self, attempt: Attempt | None) -> Record:
        """Return the record after *attempt* has ended without a result and without a failure."""
        return self.replace(attempt=None) if self._is_that_of(attempt) else self

    def failed(self, attempt: Attempt | None, now: float, failed_type: str, retry_after: float) -> Record:
        """Return the record after *attempt* has failed at wall-clock time *now*.

        :param failed_type: the name of the error's type.
        :param retry_after: seconds in which no process tries again.
        """
        # When a death came is not known, only when it was noticed.
        began = attempt.since if attempt is not None and failed_type == DIED else now
        return self.ended(attempt).replace(
            failures=self.failures + 1,
            failures_total=self.failures_total + 1,
            first_failed_at=began if self.first_failed_at is None else self.first_failed_at,
            failed_at=now,
            retry_after=retry_after,
            failed_type=cleaned_type_name(failed_type),
            failed_pid=attempt.pid if attempt is not None else 0,
        )

    def _is_that_of(self, attempt: Attempt | None) -> bool:
        # Compared without the host, which is cleaned before it is written.
        return (self.attempt and self.attempt[1:]) == (attempt and attempt[1:])

    def created(
        self,
        seen: Record,
        createdtime: float,
        *,
        cost: float,
        host: str,
        pid: int,
        expiretime: float | None = None,
        fingerprint: Fingerprint | None = None,
        swapped: bool = False,
        **version: Any,
    ) -> Record:
        """Return the record after a creation that began with *seen*, where ``self`` is in the sidecar now.

        An invalidation since then stays in force: the creator may have read its input before it. *fingerprint* is
        that of the file at the path now, if it is looked at; an unchanged file keeps its generation. Another file
        may have the same inode if it is on another device, so a caller that has *swapped* says so. *version*: more
        fields of its group.
        """
        generation = self.generation + 1
        is_kept = not swapped and fingerprint is not None and seen.fingerprint == fingerprint
        kept = {name: getattr(self, name) for name, field in FIELDS.items() if field.group == "resource"}
        invalidated = self._invalidated_since(seen)
        return Record(
            **{
                **kept,
                **version,
                "unknown": self._unknown_in("resource"),
                "createdtime": createdtime,
                "cost": max(0.0, cost),
                "host": host,
                "pid": pid,
                "expiretime": _finite(expiretime),
                "fingerprint": fingerprint,
                "fingerprint_generation": seen.fingerprint_generation if is_kept else generation,
                "generation": generation,
                "invalidated": invalidated,
                "invalidated_at": createdtime if invalidated else None,  # it came while the creator ran
                "attempt": None,
            }
        )

    def _unknown_in(self, *groups: str) -> dict[str, dict[str, Any]]:
        return {group: self.unknown[group] for group in groups if group in self.unknown}

    def _invalidated_since(self, seen: Record) -> Invalidated:
        if not self._is_that_of(seen.attempt):
            return self.invalidated  # another sidecar than the creation began with: its counts say nothing
        if self.invalidated is None or self.invalidations == seen.invalidations:
            return None
        # "hard" may be from before, and only soft ones came since.
        return "soft" if self.hard_invalidations == seen.hard_invalidations else self.invalidated

    def invalidate(self, *, hard: bool, now: float) -> Record:
        """Return the record after an invalidation at wall-clock time *now*; a soft one does not weaken a hard
        one."""
        return self.replace(
            invalidated_at=now if self.invalidated_at is None else self.invalidated_at,
            invalidated="hard" if hard or self.invalidated == "hard" else "soft",
            invalidations=self.invalidations + 1,
            hard_invalidations=self.hard_invalidations + hard,
        )


#: The createdtime of a file whose mtime lies before 1970, or is 0 because a reproducible build has set it.
_EARLIEST: Final = 1.0


def cleaned_host(name: str) -> str:
    """Return *name* as a record can hold it: at most 64 bytes, without what JSON would escape."""
    return _cleaned(name, _LONGEST_HOST)


def cleaned_type_name(name: str) -> str:
    """Return the *name* of a type as a record can hold it: at most 48 bytes, without what JSON would escape."""
    return _cleaned(name, _LONGEST_TYPE)


def _cleaned(name: str, most: int) -> str:
    clean = "".join(each if each.isprintable() and each not in '"\\' else "?" for each in name)
    return clean.encode()[:most].decode(errors="ignore")


def _is_utf8(text: str, most: int) -> bool:
    """Return whether *text* takes so many bytes at *most*, and is written as it is: UTF-8 has no surrogates."""
    try:
        return len(text.encode()) <= most
    except UnicodeEncodeError:
        return False


def sooner(one: float | None, other: float | None) -> float | None:
    """Return the smaller of two durations, of which ``None`` is infinite."""
    return other if one is None else one if other is None else min(one, other)


def _finite(expiretime: float | None) -> float | None:
    """Return *expiretime* as a number that JSON has."""
    return None if expiretime == math.inf else expiretime


def max_age(expiretime: float | None) -> float:
    """Return the age in seconds below which a resource is fresh: infinite for ``None``, none for 0.

    An age may be a little below 0 where the caller's clock is behind the creator's.
    """
    if expiretime is None:
        return math.inf
    return expiretime if expiretime > 0 else -math.inf


#: The record where there has been no creation yet.
MISSING: Final = Record()
#: The same where there may have been one, but the sidecar is unreadable: a file at the path is not fresh.
DAMAGED: Final = Record(invalidated="soft")
