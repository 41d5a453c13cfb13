"""The record of this host with what the head of an origin says of the version of all hosts."""

from __future__ import annotations

import math
from time import time
from typing import Any

from .._sidecar.record import Record
from .head import Head
from .stamp import Stamp

__all__ = ["adopted", "in_time", "mirrored"]


def in_time(moment: float) -> float:
    """Return *moment* as a record can hold it, and not sooner."""
    return round(math.ceil(moment * 100) / 100, 2)


def mirrored(record: Record, *, head: Head, shift: float) -> Record:
    """Return the *record* of this host with what *head* says of the version that both have."""
    told = head.record
    changes: dict[str, Any] = {}
    if told.invalidated is not None and record.invalidated != "hard":
        changes.update(invalidated=told.invalidated, invalidated_at=record.invalidated_at or time())
    if told.failures and told.failures_total != record.failures_total:
        changes.update(_failures(told, shift))
    return record.replace(**changes) if changes else record


def _failures(told: Record, shift: float) -> dict[str, Any]:
    def here(moment: float | None) -> float | None:
        return None if moment is None else moment - shift

    return {
        "failures": told.failures,
        "failures_total": told.failures_total,
        "first_failed_at": here(told.first_failed_at),
        "failed_at": here(told.failed_at),
        "retry_after": told.retry_after,
        "failed_type": told.failed_type,
        "failed_pid": told.failed_pid,
    }


def adopted(record: Record, *, head: Head, shift: float, stamp: Stamp, is_own: bool = False) -> Record:
    """Return the record of this host with the version of *head*, which *stamp* describes.

    :param shift: seconds by which the engine's clock is ahead of this host's.
    :param is_own: the attempt on record has made it.
    """
    told, fingerprint = head.record, stamp.fingerprint
    createdtime = told.createdtime - shift
    return Record(
        record.unknown,
        createdtime=createdtime if math.isfinite(createdtime) else time(),
        cost=told.cost,
        host=told.host,
        pid=told.pid,
        expiretime=told.expiretime,
        fingerprint=fingerprint,
        fingerprint_generation=told.generation if stamp.is_new else record.fingerprint_generation,
        content=told.content,
        lifetime=told.lifetime,
        max_stale=told.max_stale,
        note=told.note,
        is_unfinished=stamp.is_unfinished,
        generation=told.generation,
        invalidated=told.invalidated,
        invalidated_at=None if told.invalidated is None else time(),
        invalidations=record.invalidations,
        hard_invalidations=record.hard_invalidations,
        attempt=None if is_own else record.attempt,
        changes=record.changes,
        **(_failures(told, shift) if told.failures else {"failures_total": told.failures_total}),
    )
