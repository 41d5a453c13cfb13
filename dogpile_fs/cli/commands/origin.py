"""``origin``: whether an origin is fit, what it has, and what it needs no longer."""

from __future__ import annotations

import json
import time
from typing import Any

from ... import Origin
from ..._dogpile.collection import collected
from ..._dogpile.conformance import refuse_unfit
from ..._dogpile.engine import Down, Engine
from ..._dogpile.head import Head, HeadDamaged, decode_head
from ...errors import OriginError

# By plain imports, so that PyInstaller puts them into a program; by name, they are found later.
from ...origin import object_storage, redis_server, shared_directory  # noqa: F401
from ..arguments import Arguments
from ..durations import format_seconds
from ..exits import MISSING, OK, USAGE, Exit
from ..output import printable

__all__ = ["main"]

#: Seconds for which a blob that no version has is left alone: a creation of now may have stored it.
_GRACE = 3600.0
#: Questions of which the median is told.
_QUESTIONS = 5
#: Seconds by which the clocks may differ without a word.
_SKEW = 2.0


def main(arguments: Arguments) -> int:
    """Do what the command line asks for.

    :raises OriginError: if the origin does not answer, or is not fit.
    """
    try:
        origin = Origin(arguments.url)
    except ValueError as error:
        raise Exit(USAGE, str(error)) from error
    try:
        if arguments.action == "check":
            return _check(origin, as_json=arguments.json)
        if arguments.action == "status":
            return _status(origin, as_json=arguments.json)
        older_than = _GRACE if arguments.older_than is None else arguments.older_than
        return _prune(origin, older_than, as_json=arguments.json)
    except Down as error:
        raise OriginError(origin.url, f"the origin {origin.url!r} does not answer: {error}") from error


def _check(origin: Origin, *, as_json: bool) -> int:
    engine = origin._engine()
    engine.now()  # connects
    refuse_unfit(origin)
    times = []
    for _ in range(_QUESTIONS):
        began = time.monotonic()
        engine.read()
        times.append(time.monotonic() - began)
    question = sorted(times)[_QUESTIONS // 2]
    skew = engine.now() - time.time()
    if as_json:
        print(json.dumps({"fit": True, "question": question, "clock_ahead": skew}))
        return OK
    print("fit: conditional writes are kept, also of several clients at the same moment")
    print(f"a question takes {format_seconds(question)}")
    told = "no more than that" if abs(skew) < _SKEW else "ages go by the origin's clock"
    print(f"its clock is {format_seconds(abs(skew))} {'ahead of' if skew > 0 else 'behind'} this host's: {told}")
    return OK


def _head(engine: Engine, origin: Origin) -> Head | None:
    found = engine.read()
    if found is None or isinstance(found, str):
        return None
    try:
        return decode_head(found[0])
    except HeadDamaged as error:
        raise OriginError(origin.url, f"the head of the origin {origin.url!r} cannot be used: {error}") from error


def _status(origin: Origin, *, as_json: bool) -> int:
    engine = origin._engine()
    head = _head(engine, origin)
    if head is None:
        print("null" if as_json else f"{origin.url} is empty: no host has published yet")
        return MISSING
    facts = _facts(head, engine.now())
    if as_json:
        print(json.dumps(facts))
        return OK
    if facts["generation"]:
        print(
            f"generation {facts['generation']}, {facts['size']} bytes, {format_seconds(facts['age'])} old, "
            f"created in {format_seconds(facts['cost'])} by {printable(facts['host'])}:{facts['pid']}"
        )
    else:
        print("no version yet")
    if facts["invalidated"]:
        print(f"invalidated ({facts['invalidated']})")
    if facts["failures"]:
        print(f"failed {facts['failures']} times in a row: {printable(facts['failed_type'])}")
    if facts["creating_host"]:
        print(
            f"{printable(facts['creating_host'])}:{facts['creating_pid']} creates, since "
            f"{format_seconds(facts['creating_for'])}"
        )
    return OK


def _facts(head: Head, now: float) -> dict[str, Any]:
    record, attempt = head.record, head.record.attempt
    return {
        "generation": record.generation,
        "lineage": head.lineage,
        "age": max(0.0, now - record.createdtime) if record.createdtime > 0 else None,
        "size": None if head.blob is None else head.blob.size,
        "sha256": None if head.blob is None else head.blob.name,
        "cost": record.cost,
        "host": record.host,
        "pid": record.pid,
        "invalidated": record.invalidated,
        "failures": record.failures,
        "failed_type": record.failed_type or None,
        "creating_host": None if attempt is None else attempt.host,
        "creating_pid": None if attempt is None else attempt.pid,
        "creating_for": None if attempt is None else max(0.0, now - attempt.since),
    }


def _prune(origin: Origin, older_than: float, *, as_json: bool) -> int:
    engine = origin._engine()
    head = _head(engine, origin)
    if head is None:
        raise Exit(MISSING, f"{origin.url} has no head, so that it is not known which blobs are needed")
    count = collected(engine, head, older_than)
    print(json.dumps({"removed": count}) if as_json else f"{count} blob{'' if count == 1 else 's'} removed")
    return OK
