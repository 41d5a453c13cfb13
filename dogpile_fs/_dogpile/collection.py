"""The blobs of an origin that no version needs any more."""

from __future__ import annotations

import io

from .engine import Engine, Gone
from .head import Head
from .manifest import LONGEST_MANIFEST, ManifestDamaged, decode_manifest, is_manifest

__all__ = ["collected"]


def collected(engine: Engine, head: Head, older_than: float) -> int:
    """Remove the blobs that no version needs which *head* remembers, and return how many.

    :param older_than: seconds that a blob must be old: a creation of now has stored its own before it is in a
        head.
    :raises Down: if the engine does not answer.
    """
    needed = set(head.blobs)
    if head.blob is not None and head.blob.is_tree:
        for name in head.blobs:
            needed |= _named_in(engine, name)
    count = 0
    for name, age in list(engine.blobs()):
        if name not in needed and age > older_than:
            engine.remove(name)
            count += 1
    return count


def _named_in(engine: Engine, name: str) -> set[str]:
    data = io.BytesIO()
    try:
        engine.get(name, data, LONGEST_MANIFEST)
        if not is_manifest(data.getvalue()):
            return set()  # of a file, which this directory was before
        return {entry.blob for entry in decode_manifest(data.getvalue()) if entry.blob}
    except (Gone, ManifestDamaged):
        return set()
