"""The head of an origin: which version is current, and which host creates the next one.

Pure: no I/O, and no clock of its own. It is a :class:`.Record` by the engine's clock, so that creations,
failures and invalidations mean the same for hosts as for processes, with what hosts need in addition. It is one
JSON object; with a key, a line with its HMAC-SHA256 follows.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from dataclasses import asdict, dataclass, replace
from typing import Any

from .._sidecar.decoding import decoded_fields
from .._sidecar.encoding import grouped_fields
from .._sidecar.record import FIELDS, GROUPS, Attempt, Record

__all__ = ["EMPTY", "Blob", "Head", "HeadDamaged", "decode_head", "encode_head", "new_nonce"]

FORMAT = 1
#: Publications whose nonces and blobs a head remembers: a lost answer is found out by them, and a host that
#: pulls an earlier version still finds its blob.
REMEMBERED = 8
#: Bytes of a head that is read. Larger ones are none.
MOST_BYTES = 64 * 1024
_NAME = re.compile(r"[0-9a-f]{64}\Z")
_NONCE = re.compile(r"[0-9a-f]{16}\Z")


class HeadDamaged(ValueError):
    """What an origin has is no head, or is not signed with this key."""


def new_nonce() -> str:
    """Return a random name, which no other one is like."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Blob:
    """What a version is stored as. *name*: the SHA-256 of its bytes in hexadecimal digits; *size*: how many.
    *is_tree*: whether it is the manifest of a directory.
    """

    name: str
    size: int
    is_tree: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """The head, never changed once it is made.

    *record*: of the current version, and of the attempt, by the engine's clock. *lineage*: a random name, which
    an origin that has lost its past has anew. *blob*: the current version's; ``None`` if it has none. *attempt*:
    the nonce of the attempt on record, "" without one; *beat*: how often its host has confirmed it; *ttl*: seconds
    after which another host may take it over. *published*: the nonces of the last publications and invalidations,
    and *blobs*: those of the last versions, both the latest first.
    """

    record: Record
    lineage: str
    blob: Blob | None = None
    attempt: str = ""
    beat: int = 0
    ttl: float = 0.0
    published: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()

    @property
    def is_attempted(self) -> bool:
        """Whether a host creates, or did when it died."""
        return bool(self.attempt)

    def begun(self, attempt: Attempt, nonce: str, ttl: float, expiretime: float | None) -> Head:
        """Return the head after the begin of an *attempt*; one that is on record has died, and counts so."""
        return replace(self, record=self.record.begun(attempt, expiretime), attempt=nonce, beat=0, ttl=ttl)

    def confirmed(self) -> Head:
        """Return the head after the attempt's host has said that it is alive."""
        return replace(self, beat=self.beat + 1)

    def ended(self) -> Head:
        """Return the head after its attempt has ended without a result, and without a failure."""
        return replace(self, record=self.record.replace(attempt=None), attempt="", beat=0, ttl=0.0)

    def failed(self, now: float, failed_type: str, retry_after: float) -> Head:
        """Return the head after its attempt has failed at *now* by the engine's clock; as of
        :meth:`.Record.failed`."""
        record = self.record.failed(self.record.attempt, now, failed_type, retry_after)
        return replace(self.ended(), record=record.replace(attempt=None))

    def created(self, seen: Head, nonce: str, blob: Blob | None, createdtime: float, **version: Any) -> Head:
        """Return the head after a creation that began with *seen*; as of :meth:`.Record.created`."""
        record = self.record.replace(generation=max(self.record.generation, version.pop("least_generation", 0)))
        record = record.created(seen.record, createdtime, **version)
        names = () if blob is None else (blob.name,)
        return Head(
            record=record.replace(content=None if blob is None else blob.name),
            lineage=self.lineage,
            blob=blob,
            published=(nonce, *self.published)[:REMEMBERED],
            blobs=(*names, *(name for name in self.blobs if name not in names))[:REMEMBERED],
        )

    def invalidated(self, nonce: str, *, hard: bool, now: float) -> Head:
        """Return the head after an invalidation at *now* by the engine's clock."""
        published = (nonce, *self.published)[:REMEMBERED]
        return replace(self, record=self.record.invalidate(hard=hard, now=now), published=published)

    def touched(self, nonce: str, now: float) -> Head:
        """Return the head after its version was declared to be of *now*, by the engine's clock."""
        told = self.record
        record = told.created(
            told,
            now,
            cost=told.cost,
            host=told.host,
            pid=told.pid,
            expiretime=told.expiretime,
            max_stale=told.max_stale,
            note=told.note,
            content=told.content,
        )
        published = (nonce, *self.published)[:REMEMBERED]
        return replace(self, record=record.replace(attempt=told.attempt), published=published)


#: The head of an origin that has none, but for its lineage.
EMPTY = Head(Record(), "")


def encode_head(head: Head, nonce: str, key: bytes | None = None) -> bytes:
    """Return *head* as bytes, signed with *key* if there is one.

    :param nonce: makes the bytes differ from those of each other write: some engines' tags are made of them alone.
    """
    value = {
        "dogpile_fs_origin": FORMAT,
        "nonce": nonce,
        "lineage": head.lineage,
        "blob": None if head.blob is None else asdict(head.blob),
        "attempt": {"nonce": head.attempt, "beat": head.beat, "ttl": head.ttl},
        "published": head.published,
        "blobs": head.blobs,
        "record": grouped_fields(head.record, {}),
    }
    data = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    return data if key is None else data + _signature(data, key)


def _signature(data: bytes, key: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).hexdigest().encode() + b"\n"


def decode_head(data: bytes, key: bytes | None = None) -> Head:
    """Return the head that *data* holds.

    :raises HeadDamaged: if it holds none, one of a later format, or one that is not signed with *key*.
    """
    body, newline, signature = data.partition(b"\n")
    if len(data) > MOST_BYTES or not newline:
        raise HeadDamaged("it is no head of dogpile_fs")
    if key is not None and not hmac.compare_digest(signature, _signature(body + newline, key)):
        raise HeadDamaged("it is not signed with this key")
    try:
        value = json.loads(body.decode())
        if value["dogpile_fs_origin"] != FORMAT:
            raise HeadDamaged(
                f"it has the format {value['dogpile_fs_origin']!r}, and this dogpile_fs knows {FORMAT}"
            )
        record = decoded_fields({group: value["record"].get(group, {}) for group in GROUPS})
        attempt, blob = value["attempt"], value["blob"]
        head = Head(
            record=record if record is not None else EMPTY.record,
            lineage=value["lineage"],
            blob=None if blob is None else Blob(blob["name"], blob["size"], blob["is_tree"]),
            attempt=attempt["nonce"],
            beat=attempt["beat"],
            ttl=attempt["ttl"],
            published=tuple(value["published"]),
            blobs=tuple(value["blobs"]),
        )
    except HeadDamaged:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise HeadDamaged("it is no head of dogpile_fs") from None
    if record is None or not _is_sound(head):
        raise HeadDamaged("its fields are damaged")
    return head


def _is_sound(head: Head) -> bool:
    names = [*head.blobs, *([] if head.blob is None else [head.blob.name])]
    nonces = [head.lineage, *head.published, *([head.attempt] if head.attempt else [])]
    return (
        all(type(name) is str and _NAME.match(name) is not None for name in names)
        and all(type(nonce) is str and _NONCE.match(nonce) is not None for nonce in nonces)
        and (
            head.blob is None
            or (FIELDS["generation"].is_sound(head.blob.size) and type(head.blob.is_tree) is bool)
        )
        and FIELDS["generation"].is_sound(head.beat)
        and FIELDS["retry_after"].is_sound(head.ttl)
        and bool(head.attempt) == (head.record.attempt is not None)
    )
