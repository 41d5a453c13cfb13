"""The record that some bytes hold: what :mod:`.encoding` has made, or nothing.

``dogpile-fs run`` imports this to find a fresh file fresh. So it does without the json module, whose import of
``re`` takes more than half as long as a bare interpreter, and uses the scanner behind ``json.loads`` by itself.
"""

from __future__ import annotations

import sys
import zlib

from .fingerprint import Fingerprint
from .record import CHECKSUM_AT, FIELDS, FORMAT, GROUPS, SIZE, Attempt, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["NewerFormat", "decode", "decoded_fields", "is_whole"]


class _Settings:
    """What the scanner asks for: all as ``json.loads`` has it by default."""

    strict, object_hook, object_pairs_hook = True, None, None
    parse_float, parse_int, parse_constant = float, int, float


def _scanner() -> Callable[[str], Any]:
    """Return a function that does what ``json.loads`` does."""
    try:
        from _json import make_scanner
    except ImportError:  # no CPython
        from json import loads

        return loads
    scanned = make_scanner(_Settings)  # type: ignore[arg-type]

    def value_of(text: str) -> Any:
        text = text.strip(" \t\n\r")
        try:
            value, end = scanned(text, 0)
        except StopIteration:
            raise ValueError("no JSON") from None
        if end < len(text):
            raise ValueError("more than one value")
        return value

    return value_of


_value_of = _scanner()


class NewerFormat(ValueError):
    """An undamaged record of a format *version* that this code does not know."""

    def __init__(self, version: int) -> None:
        super().__init__(f"sidecar format {version}, this dogpile_fs knows up to {FORMAT}")
        self.version = version


def is_whole(data: bytes) -> bool:
    """Return whether *data* is all of one record, as far as its checksum tells."""
    return len(data) == SIZE and data[CHECKSUM_AT:] == b"%08x\n" % zlib.crc32(data[:CHECKSUM_AT])


def decode(data: bytes) -> Record | None:
    """Return the record that *data* holds; ``None`` for bytes that no :func:`encode` has made.

    :raises NewerFormat: for an undamaged record of a later format.

    >>> from dogpile_fs._sidecar.encoding import encode
    >>> decode(encode(Record(createdtime=1.5, generation=1))).createdtime
    1.5
    >>> decode(b"scribble") is None
    True
    """
    if not is_whole(data):
        return None
    try:
        groups = _value_of(data[:CHECKSUM_AT].decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(groups, dict):
        return None
    version = groups.get("dogpile_fs")
    if type(version) is not int or version < 1:
        return None
    if version > FORMAT:
        raise NewerFormat(version)
    return decoded_fields({group: groups.get(group, {}) for group in GROUPS})


def decoded_fields(groups: dict[str, Any]) -> Record | None:
    """Return the record that has the fields in *groups*, as of
    :func:`~.encoding.grouped_fields`; ``None`` if one is not
    sound."""
    values: dict[str, Any] = {}
    unknown: dict[str, dict[str, Any]] = {}
    for group, keys in groups.items():
        if type(keys) is not dict:
            return None
        for name, value in keys.items():
            if name not in FIELDS or FIELDS[name].group != group:
                unknown.setdefault(group, {})[name] = value
            else:
                values[name] = value
    if type(values.get("fingerprint")) is list and len(values["fingerprint"]) == len(Fingerprint._fields):
        values["fingerprint"] = Fingerprint(*values["fingerprint"])
    if type(values.get("attempt")) is dict:
        told = {"host": None, "pid": None, "since": None, **values["attempt"]}
        values["attempt"] = Attempt(**{name: told.pop(name) for name in Attempt._fields if name in told})
        if told:
            unknown["attempt"] = told
    if not all(FIELDS[name].is_sound(value) for name, value in values.items()):
        return None
    if "host" in values:
        values["host"] = sys.intern(values["host"])  # one for all records that are kept
    return Record(unknown, **values)
