"""The manifest of a directory: what is in one of its versions, so that only changed files travel between hosts.

Pure. It is a blob itself, one JSON object, and the same for the same contents. Times of files are not in it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["LONGEST_MANIFEST", "Entry", "ManifestDamaged", "decode_manifest", "encode_manifest", "is_manifest"]

FORMAT = 1
#: Bytes of a manifest that are read; one of 100,000 files is a tenth.
LONGEST_MANIFEST = 256 * 1024 * 1024
_BEGIN = b'{"dogpile_fs_manifest":'
_NAME = re.compile(r"[0-9a-f]{64}\Z")
_PERMISSIONS = 0o7777


class ManifestDamaged(ValueError):
    """What an origin has given is no manifest, or one that leads out of its directory."""


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """What is at *path*, relative and with slashes.

    *mode*: permission bits. *blob*, *size*: of a file: the name of its blob, and its bytes. *leads_to*: of a link.
    """

    path: str
    kind: Literal["directory", "file", "link"]
    mode: int = 0
    blob: str = ""
    size: int = 0
    leads_to: str = ""


def encode_manifest(entries: list[Entry]) -> bytes:
    """Return *entries* as bytes. Names that are no text are kept as they are."""
    told = []
    for entry in sorted(entries):
        if entry.kind == "directory":
            told.append([entry.path, "directory", entry.mode])
        elif entry.kind == "file":
            told.append([entry.path, "file", entry.mode, entry.blob, entry.size])
        else:
            told.append([entry.path, "link", entry.leads_to])
    return json.dumps({"dogpile_fs_manifest": FORMAT, "entries": told}, separators=(",", ":")).encode("ascii")


def is_manifest(data: bytes) -> bool:
    """Return whether *data* begins as a manifest does."""
    return data.startswith(_BEGIN)


def decode_manifest(data: bytes) -> list[Entry]:
    """Return the entries, each after the directory that it is in.

    :raises ManifestDamaged: for anything else.
    """
    try:
        value = json.loads(data)
        if value["dogpile_fs_manifest"] != FORMAT:
            raise ManifestDamaged(f"its format is {value['dogpile_fs_manifest']!r}, and not {FORMAT}")
        entries = sorted(_entry(*told) for told in value["entries"])
    except ManifestDamaged:
        raise
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ManifestDamaged("it is no manifest") from None
    directories = {""}
    for entry in entries:
        parent, _, name = entry.path.rpartition("/")
        if entry.path.startswith("/") or parent not in directories or name in ("", ".", "..") or "\0" in name:
            raise ManifestDamaged(f"{entry.path!r} is in no directory of it")
        if entry.kind == "directory":
            directories.add(entry.path)
    if len({entry.path for entry in entries}) != len(entries):
        raise ManifestDamaged("a path is there twice")
    return entries


def _entry(path: str, kind: str, *more: str | int) -> Entry:
    match kind, more:
        case "directory", (int(mode),) if 0 <= mode <= _PERMISSIONS:
            entry = Entry(path, "directory", mode)
        case "file", (int(mode), str(blob), int(size)) if _NAME.match(blob) and size >= 0 <= mode <= _PERMISSIONS:
            entry = Entry(path, "file", mode, blob, size)
        case "link", (str(leads_to),) if leads_to and "\0" not in leads_to:
            entry = Entry(path, "link", leads_to=leads_to)
        case _:
            raise ManifestDamaged(f"what it says of {path!r} cannot be read")
    if type(path) is not str:
        raise ManifestDamaged("a path is no text")
    return entry
