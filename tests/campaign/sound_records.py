"""What must be true of whatever the decoder makes of any bytes, and of all that is reckoned from it."""

from __future__ import annotations

import math
import zlib

from dogpile_fs._dogpile.status import Status
from dogpile_fs._sidecar.file import contents
from dogpile_fs._sidecar.fingerprint import corrected
from dogpile_fs._sidecar.record import FORMAT, SIZE, NewerFormat, Record, decode, encode, is_whole, lifetime
from dogpile_fs.cli.durations import format_seconds

__all__ = ["Broken", "check"]

_MOMENTS = (0.0, 1.0, 999.0, 1001.0, 1732217000.0, 4e9, 1e300, -1e300, math.inf, -math.inf, math.nan)
_EXPIRETIMES = (None, 0.0, 0.5, 10.0, 3600.0, 1e300, math.inf)
#: No clock tells more, and what comes of sums of larger numbers is nobody's time.
_YEAR_30_MILLION = 1e15
_STANDINGS = (None, ((1, 2, 3), 5.5), ((-1, 1732217000250000000, 12), 1732217000.25), ((0, -1, 2**64), -1e9))


class Broken(AssertionError):
    """A promise of the decoder's does not hold for some bytes."""


def check(data: bytes) -> str:
    """See that all holds for *data*.

    :returns: what it was taken for: ``"record"``, ``"newer"`` or ``"nothing"``.
    :raises Broken: if something does not hold.
    """
    try:
        record = decode(data)
    except NewerFormat as newer:
        _sure(type(newer.version) is int and newer.version > FORMAT and is_whole(data), "newer: {!r}", newer)
        return "newer"
    except Exception as error:
        raise Broken(f"decode raised {error!r}") from error
    if record is None:
        return "nothing"
    try:
        _sure(is_whole(data) and len(data) == SIZE, "it was not whole")
        _sure(_is_sane(record), "it is not sane")
        again = decode(encode(record))
        _sure(again == record or _is_cut(again, record), "written again, it is {!r}", again)
        # Which of them is up to the bytes, so that the same bytes are always asked the same.
        at = zlib.crc32(data)
        now = _MOMENTS[at % len(_MOMENTS)]
        if at & 0x100000:
            now = record.createdtime + (-1.5, -0.5, 0.0, 5.0)[at % 4]
        expiretime = _EXPIRETIMES[(at >> 8) % len(_EXPIRETIMES)]
        if at & 1:  # as it is to be read where the resource is looked at
            record = corrected(record, _STANDINGS[(at >> 1) % len(_STANDINGS)])
        _check_times(record, now, expiretime, creating=bool(at & 2))
        _check_changes(record, at >> 2)
    except Broken as broken:
        raise Broken(f"{broken}: {record!r}") from None
    except Exception as error:
        raise Broken(f"{error!r}: {record!r}") from error
    return "record"


def _sure(holds: bool, otherwise: str, *more: object) -> None:
    if not holds:  # only then the text is made: this is asked millions of times
        raise Broken(otherwise.format(*more))


def _is_sane(record: Record) -> bool:
    counts = [record.generation, record.pid, record.invalidations, record.hard_invalidations]
    seconds = [record.createdtime, record.cost]
    if record.expiretime is not None:
        seconds.append(record.expiretime)
    if record.attempt is not None:
        host, pid, since = record.attempt
        counts, seconds = [*counts, pid], [*seconds, since]
        if type(record.attempt) is not tuple or type(host) is not str:
            return False
    return (
        all(type(count) is int and count >= 0 for count in counts)
        and all(type(each) is float and math.isfinite(each) for each in seconds)
        and (record.expiretime is None or record.expiretime >= 0)
        and type(record.host) is str
        and record.invalidated in (None, "soft", "hard")
        and (record.about is None or (type(record.about) is tuple and len(record.about) == 4))
        and all(type(number) is int for number in record.version)
        and not math.isnan(record.basis)
        and hash(record) == hash(record.replace())
    )


def _is_cut(again: Record | None, record: Record) -> bool:
    """Whether they differ only in the ends of host names, for which there was no room between more blanks."""
    if again is None or not record.host.startswith(again.host):
        return False
    attempt = record.attempt
    if attempt is not None and again.attempt is not None and attempt[0].startswith(again.attempt[0]):
        attempt = (again.attempt[0], *attempt[1:])
    return again == record.replace(host=again.host, attempt=attempt)


def _check_times(record: Record, now: float, expiretime: float | None, *, creating: bool) -> None:
    state = record.state(now, expiretime)
    _sure(state in ("fresh", "stale", "nothing"), "its state is {!r}", state)
    _sure(state != "nothing" or not record.has_value, "nothing, at {}", now)
    quickly = -1.0 <= now - record.basis < lifetime(expiretime)
    if state == "fresh":
        _sure(record.createdtime > 0 and record.invalidated is None, "fresh, at {}", now)
        if expiretime is not None:  # else no clock matters
            age = now - record.createdtime
            _sure(-1.0 <= age < expiretime, "fresh at the age of {}, with {}", age, expiretime)
            _sure(quickly, "fresh at {} with {}, but not at the first look", now, expiretime)
    else:
        _sure(not quickly, "{} at {} with {}, but fresh at the first look", state, now, expiretime)
    status = Status.of(record, now, expiretime, creating=creating)
    remaining = status.remaining
    _sure(status.state == state and (remaining is None or remaining >= 0), "status tells {}", status)
    if abs(now) < _YEAR_30_MILLION and expiretime != math.inf:
        _sure(remaining is None or remaining < math.inf, "status tells {}", status)
        _sure(status.age is None or math.isfinite(status.age), "status tells {}", status)
        format_seconds(max(0.0, status.age or 0.0, remaining or 0.0, status.cost or 0.0))


def _check_changes(record: Record, at: int) -> None:
    """What is written next, whoever writes it, has room, and is what was to be written."""
    match at % 3:
        case 0:
            after = record.begun(("here", 1, 1001.5), 10.0)
        case 1:
            after = record.invalidate(hard=bool(at & 8))
            _sure(after.state(record.createdtime, None) != "fresh", "fresh when it had been invalidated")
        case _:
            standing = (10, 20, 30) if at & 8 else None
            after = record.created(record, 2000.0, cost=1.0, host="here", pid=1, standing=standing)
            _sure(after.state(2000.0, 10.0) == "fresh", "not fresh when it had been created")
    whole = contents(after)
    _sure(SIZE <= len(whole) <= 4096 and not any(whole[SIZE:]), "{} bytes to write", len(whole))
    _sure(is_whole(whole[:SIZE]), "not whole when it was written")
