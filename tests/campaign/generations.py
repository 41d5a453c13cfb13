"""Contents that say which generation they are, and whether they are whole."""

from __future__ import annotations

import random
from hashlib import blake2b
from pathlib import Path

__all__ = ["contents", "fill_directory", "generation_in", "generation_of"]

_DIGEST = 16
_LEAST, _MOST = 10, 18.5  # powers of two: 1 KB to 370 KB
_FILES = ("words", "ranks", "sub/postings")


def contents(number: int, what: str = "") -> bytes:
    """Generation *number* of *what*, in a size of its own; no two have a part in common."""
    chance = random.Random(f"{what} {number}")
    body = b"%012d " % number + chance.randbytes(int(2 ** chance.uniform(_LEAST, _MOST)))
    return body + _digest(body, what)


def generation_of(data: bytes, what: str = "") -> int | None:
    """Which generation *data* is; ``None`` if it is not the whole of one."""
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    return int(body[:12]) if digest == _digest(body, what) and body else None


def fill_directory(directory: Path, number: int) -> None:
    """Make generation *number* of a directory of files."""
    (directory / "sub").mkdir(parents=True)
    for name in _FILES:
        (directory / name).write_bytes(contents(number, name))


def generation_in(directory: Path) -> int | None:
    """Which generation *directory* is; ``None`` if anything in it is missing, not whole or of another one."""
    found = set()
    for name in _FILES:
        path = directory / name
        found.add(generation_of(path.read_bytes(), name) if path.is_file() else None)
    return found.pop() if len(found) == 1 else None


def _digest(body: bytes, what: str) -> bytes:
    return blake2b(body, digest_size=_DIGEST, key=what.encode()).digest()
