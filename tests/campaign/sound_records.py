"""The checks that every record must pass that the decoder returns for any bytes, and every value computed from
it."""

from __future__ import annotations

import math
import zlib

from dogpile_fs import Policy
from dogpile_fs._dogpile.policy import ORIGINAL
from dogpile_fs._dogpile.shared_state import NOTHING, SharedState
from dogpile_fs._dogpile.status import Status
from dogpile_fs._dogpile.thread_scope import ThreadScope
from dogpile_fs._sidecar.decoding import NewerFormat, decode, is_whole
from dogpile_fs._sidecar.encoding import encode
from dogpile_fs._sidecar.file import contents
from dogpile_fs._sidecar.fingerprint import Fingerprint
from dogpile_fs._sidecar.record import FORMAT, SIZE, Attempt, Record, sooner
from dogpile_fs.cli.durations import format_seconds

__all__ = ["Broken", "check"]

_MOMENTS = (0.0, 1.0, 999.0, 1001.0, 1732217000.0, 4e9, 1e300, -1e300, math.inf, -math.inf, math.nan)
_EXPIRETIMES = (None, 0.0, 0.5, 10.0, 3600.0, 1e300, math.inf)
_POLICIES = (
    ORIGINAL,
    Policy(),
    Policy(max_stale=0),
    Policy(refresh_early=0.5, jitter=0.5),
    Policy(max_stale=1e300, refresh_early=0.999),
)
#: Nothing is coordinated here.
_SCOPE = ThreadScope(lock=None, timeout=None)
#: Seconds and nanoseconds beyond every clock: sums of larger numbers are no time.
_YEAR_30_MILLION = 1e15
_FOUND = (
    None,
    (Fingerprint("file", 1, 2, 3), 5.5),
    (Fingerprint("untagged", 0, 1732217000250000000, 12), 1732217000.25),
    (Fingerprint("unknown", 0, -1, 2**64), -1e9),
)


class Broken(AssertionError):
    """A promise of the decoder does not hold for some bytes."""


def check(data: bytes) -> str:
    """Check *data*.

    :returns: the kind that the decoder took it for: ``"record"``, ``"newer"`` or ``"nothing"``.
    :raises Broken: if a check fails.
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
        _sure(again == record, "written again, it is {!r}", again)
        # The bytes decide which of them, so that the same bytes get the same checks.
        at = zlib.crc32(data)
        now = _MOMENTS[at % len(_MOMENTS)]
        if at & 0x100000:
            now = record.createdtime + (-1.5, -0.5, 0.0, 5.0)[at % 4]
        expiretime = _EXPIRETIMES[(at >> 8) % len(_EXPIRETIMES)]
        if at & 1:  # as it is read where the resource is looked at
            record = record.reconcile(_FOUND[(at >> 1) % len(_FOUND)])
        shared = SharedState(_SCOPE, None, _POLICIES[(at >> 11) % len(_POLICIES)])
        shared.expire_after(expiretime)
        _check_times(record, now, shared, creating=bool(at & 2))
        _check_backoff(record, now, shared)
        _check_changes(record, at >> 2)
    except Broken as broken:
        raise Broken(f"{broken}: {record!r}") from None
    except Exception as error:
        raise Broken(f"{error!r}: {record!r}") from error
    return "record"


def _sure(holds: bool, otherwise: str, *more: object) -> None:
    if not holds:  # the text is made only then: there are millions of checks
        raise Broken(otherwise.format(*more))


def _is_sane(record: Record) -> bool:
    counts = [record.generation, record.pid, record.invalidations, record.hard_invalidations, record.changes]
    counts += [record.failures, record.failures_total, record.failed_pid]
    optional = [record.expiretime, record.lifetime, record.max_stale]
    durations = [record.retry_after, *(each for each in optional if each is not None)]
    moments = [record.first_failed_at, record.failed_at, record.invalidated_at, record.stale_since]
    seconds = [record.createdtime, record.cost, *durations, *(each for each in moments if each is not None)]
    if record.attempt is not None:
        host, pid, since = record.attempt[:3]
        counts, seconds = [*counts, pid], [*seconds, since]
        if type(record.attempt) is not Attempt or type(host) is not str:
            return False
    return (
        all(type(count) is int and 0 <= count <= 2**53 for count in counts)
        and all(type(each) is float and math.isfinite(each) for each in seconds)
        and all(each >= 0 for each in durations)
        and type(record.host) is str
        and type(record.failed_type) is str
        and record.invalidated in (None, "soft", "hard")
        and (record.fingerprint is None or type(record.fingerprint) is Fingerprint)
        and all(type(number) is int for number in record.version)
        and not math.isnan(record.fresh_from)
        and hash(record) == hash(record.replace())
    )


def _check_times(record: Record, now: float, shared: SharedState, *, creating: bool) -> None:
    expiretime = shared.expiretime
    lifetime = sooner(expiretime, record.lifetime)
    judgement = shared.judge(record, now)
    state = "fresh" if judgement == "early" else judgement
    _sure(state in ("fresh", "stale", "expired", "missing"), "its state is {!r}", state)
    _sure((state == "missing") != record.has_value, "{} at {}", state, now)
    quickly = -1.0 <= now - record.fresh_from < shared.max_age
    if state == "fresh":
        _sure(record.createdtime > 0 and record.invalidated is None, "fresh, at {}", now)
        if lifetime is not None:  # else no clock matters
            age = now - record.createdtime
            _sure(-1.0 <= age < lifetime, "fresh at the age of {}, with {}", age, lifetime)
            is_plain = record.lifetime is None and shared.policy.refresh_early is None
            _sure(quickly or not is_plain, "fresh at {} with {}, but not at the first look", now, lifetime)
    if abs(now) < _YEAR_30_MILLION:  # a fraction of a lifetime is nothing beside larger numbers
        _sure(not quickly or judgement == "fresh", "{} at {}, but fresh at the first look", judgement, now)
    _sure(judgement != "early" or shared.policy.refresh_early is not None, "early at {}", now)
    if state in ("stale", "expired") and math.isfinite(now):
        over = now >= record.expires_at(expiretime, shared.max_stale)
        _sure(over == (state == "expired"), "{} at {} with {}", state, now, shared.policy)
        is_bounded = sooner(shared.max_stale, record.max_stale) is not None
        _sure(state == "stale" or is_bounded, "expired, and nothing bounds it")
    status = Status._of(record, now, shared, creating=creating)
    remaining = status.remaining
    _sure(status.state == state and (remaining is None or remaining >= 0), "status returns {}", status)
    if abs(now) < _YEAR_30_MILLION and expiretime != math.inf:
        _sure(remaining is None or remaining < math.inf, "status returns {}", status)
        _sure(status.age is None or math.isfinite(status.age), "status returns {}", status)
        format_seconds(max(0.0, status.age or 0.0, remaining or 0.0, status.cost or 0.0))
    dead = record.attempt is not None and not creating
    _sure(status.failures == record.failures + dead, "status tells {} failures", status.failures)
    _sure(status.failures_total == record.failures_total + dead, "status tells {} in all", status.failures_total)


def _check_backoff(record: Record, now: float, shared: SharedState) -> None:
    left = record.backoff_left(now)
    _sure(0.0 <= left <= record.retry_after, "{} s left, of {}", left, record.retry_after)
    if record.failed_at is None or now < record.failed_at - 1.0:
        _sure(left == 0.0, "{} s left, at {}", left, now)
    until = shared.passes_until(record, now)
    if shared.judge(record, now) in NOTHING:
        _sure(not until > now, "passes until {}, with nothing at {}", until, now)
    elif record.state(now, shared.expiretime, shared.max_stale) == "stale":
        bound = record.expires_at(shared.expiretime, shared.max_stale)
        _sure(not until > bound, "passes until {}, and is expired at {}", until, bound)


def _check_changes(record: Record, at: int) -> None:
    """Check that the next record, of any process, fits and has the values that it was to have."""
    match at % 4:
        case 3:
            attempt = Attempt("here", 1, 999.5)
            after = record.begun(attempt, 10.0).failed(attempt, 1000.0, "Kind" * (1 + at % 30), 5.0)
            _sure(after.backoff_left(1002.0) == 3.0 and after.backoff_left(1005.0) == 0.0, "no such backoff")
            _sure(after.failures == record.failures + 1 and after.attempt is None, "not counted")
            _sure(after.state(1000.0, 10.0) == record.state(1000.0, 10.0), "a failure has changed its state")
        case 0:
            after = record.begun(Attempt("here", 1, 1001.5), 10.0)
        case 1:
            after = record.invalidate(now=1000.0, hard=bool(at & 8))
            _sure(after.state(record.createdtime, None) != "fresh", "fresh when it had been invalidated")
        case _:
            found = Fingerprint("file", 10, 20, 30) if at & 8 else None
            after = record.created(record, 2000.0, cost=1.0, host="here", pid=1, fingerprint=found)
            _sure(after.state(2000.0, 10.0) == "fresh", "not fresh when it had been created")
            _sure(after.failures == 0 and after.backoff_left(2000.0) == 0.0, "it still backs off")
            _sure(after.failures_total == record.failures_total, "its failures are forgotten")
    whole = contents(after)
    _sure(SIZE <= len(whole) <= 4096 and not any(whole[SIZE:]), "{} bytes to write", len(whole))
    _sure(is_whole(whole[:SIZE]), "not whole when it was written")
