"""The bytes of a record, for the sidecar.

A record is 2048 bytes, small enough for one ``pwrite``, and one line of JSON that a person can read with ``cat``::

    {"dogpile_fs": 1, "version": {"createdtime": 1732217000.25, ...}, "failures": {}, "resource": {...}}
    1f0c83aa

The JSON is UTF-8. Padding follows, then the CRC-32 of all that comes before it in eight hexadecimal digits, then a
newline. This envelope is the same in every format, so that an older dogpile_fs can tell "written by a newer
dogpile_fs" from "damaged". The checksum finds torn writes and bytes of other programs; it is no defence against a
forger.
"""

from __future__ import annotations

import zlib
from json import JSONEncoder
from typing import Any, Final

from .record import CHECKSUM_AT, FIELDS, FORMAT, GROUPS, Record

__all__ = ["encode", "grouped_fields"]

#: Bytes of JSON that unknown keys may take. They are dropped where there is no room.
_MOST_UNKNOWN: Final = 256
#: With blanks for people, and without where there is no room for them.
_SEPARATORS: Final = ((", ", ": "), (",", ":"))
_ENCODERS: Final = {each: JSONEncoder(ensure_ascii=False, separators=each).encode for each in _SEPARATORS}


def encode(record: Record) -> bytes:
    """Return the bytes of *record*. Unknown keys are left out if they take more than 256 bytes, or there is no
    room.

    :raises ValueError: if there is no room for the fields themselves, so that one of them is not sound.
    """
    for unknown in (record.unknown, {}):
        for separators in _SEPARATORS:
            text = _json(_grouped(record, unknown), separators)
            if len(text) < CHECKSUM_AT and (not unknown or len(_json(unknown, separators)) <= _MOST_UNKNOWN):
                body = text.ljust(CHECKSUM_AT)
                return body + b"%08x\n" % zlib.crc32(body)
    raise ValueError(f"no sidecar record has room for {record!r}")


def _json(value: object, separators: tuple[str, str]) -> bytes:
    # Unknown text may hold surrogates, which UTF-8 does not have.
    return _ENCODERS[separators](value).encode("utf-8", "replace")


def _grouped(record: Record, unknown: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"dogpile_fs": FORMAT, **grouped_fields(record, unknown)}


def grouped_fields(record: Record, unknown: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the fields of *record* that have not their defaults, by group, with *unknown* ones."""
    groups: dict[str, Any] = {group: {} for group in GROUPS}
    for name, value in record.fields().items():
        if value != FIELDS[name].default:
            groups[FIELDS[name].group][name] = value
    if record.attempt is not None:
        told = {name: value for name, value in record.attempt._asdict().items() if value is not None}
        groups["resource"]["attempt"] = {**unknown.get("attempt", {}), **told}
    return {group: {**unknown.get(group, {}), **groups[group]} for group in GROUPS}
