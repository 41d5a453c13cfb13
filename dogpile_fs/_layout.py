"""Every file name that the package gives: coordination files, files of one creation, earlier versions.

Imported for the check of ``dogpile-fs run``, so that nothing heavy is imported here.
"""

from __future__ import annotations

import os

__all__ = [
    "FETCH_SUFFIX",
    "HIDDEN_DIRECTORY",
    "JOURNAL_SUFFIX",
    "KEYS_LOCK",
    "KEYS_PATTERN_SUFFIX",
    "KEYS_PREFIX",
    "KEYS_RECORDS_SUFFIX",
    "KIND_DIRECTORY",
    "KIND_DROPPED",
    "KIND_FETCHED",
    "KIND_KEPT",
    "KIND_NEW",
    "KIND_TEMPORARY",
    "LOCK_SUFFIX",
    "LONGEST_SUFFIX",
    "RWLOCK_SUFFIX",
    "SIDECAR_SUFFIX",
    "TEMP_PREFIX",
    "coordination_base",
    "hidden_directory_name",
    "is_hidden_directory",
    "number_in",
    "temp_affixes",
]

#: What is appended to a resource's name, or to what stands for it in a shared directory.
SIDECAR_SUFFIX = ".dogpile"
LOCK_SUFFIX = SIDECAR_SUFFIX + ".lock"
RWLOCK_SUFFIX = SIDECAR_SUFFIX + ".rwlock"
#: The mutex of the caller that fetches from an origin; it holds what was seen there.
FETCH_SUFFIX = SIDECAR_SUFFIX + ".fetch"
#: Not ".log": a program that rotates logs would rename it.
JOURNAL_SUFFIX = SIDECAR_SUFFIX + ".journal"
#: A resource with a name too long for it (NAME_MAX: 255 bytes on Linux) cannot be coordinated.
LONGEST_SUFFIX = JOURNAL_SUFFIX

#: The sub-directory in which versions are built, written and kept; followed by a hyphen and a user's number where
#: each user has its own.
HIDDEN_DIRECTORY = ".dogpile"

#: In that sub-directory of the fixed part of patterns for keys: the lock bytes of all keys; and of each pattern,
#: with a digest in between, the file that tells the pattern, and the records of its keys.
KEYS_LOCK = "keys.lock"
KEYS_PREFIX, KEYS_PATTERN_SUFFIX, KEYS_RECORDS_SUFFIX = "keys-", ".pattern", ".records"

#: How all names begin that :func:`temp_affixes` makes; its kind follows.
TEMP_PREFIX = ".dogpile-"
#: A version that is being built, one that is being fetched from an origin; a file that ``atomic_write`` is
#: writing.
KIND_NEW, KIND_FETCHED, KIND_TEMPORARY = "new", "get", "tmp"
#: An earlier version of a file; a version of a directory; one that is not kept any more.
KIND_KEPT, KIND_DIRECTORY, KIND_DROPPED = "kept", "dir", "old"

#: Bytes of a resource's name that are kept in a name made from it; the digest beside it makes it unique. With
#: prefix, digest and number it stays below NAME_MAX.
_KEPT_BYTES = 100
#: Decimal digits of a version's number, and of the number after it. A file of another program with more of them is
#: no version.
_MOST_DIGITS = 18


def coordination_base(resource: str, directory: str | None, place: str = "") -> str:
    """Return what the names of the coordination files of *resource* begin with: beside it, or in *directory*.

    Two resources may share a directory of coordination files and a last name: a digest keeps them apart. It is of
    the name and of the resource's own directory, so that all processes agree.

    :param resource, directory: absolute paths.
    :param place: how the resource's own directory is known, as :func:`~._os.directory_mark.known_as` says.
    """
    if directory is None:
        return resource
    name = os.path.basename(resource)
    # The same bytes in every locale.
    kept = os.fsdecode(os.fsencode(name)[:_KEPT_BYTES].decode(errors="ignore").encode())
    return os.path.join(directory, f"{kept}-{_digest(os.path.join(place, name))}")


def temp_affixes(kind: str, path: str, owner: str = "") -> tuple[str, str]:
    """Return how the names of *kind* begin and end that are made for *path* and *owner* (default: its own name).

    They are hidden, differ from those of another owner, and end like *path*, so that programs which go by the
    suffix (pandas does) read both alike.
    """
    name = os.path.basename(path)
    digest = _digest(owner or name)
    while len(os.fsencode(name)) > _KEPT_BYTES:
        name = name[1:]
    return f"{TEMP_PREFIX}{kind}-{digest}-", "." + name


def hidden_directory_name(uid: int | None) -> str:
    """Return the name of the hidden sub-directory of the user *uid*; ``None``: where there is one for all."""
    return HIDDEN_DIRECTORY if uid is None else f"{HIDDEN_DIRECTORY}-{uid}"


def is_hidden_directory(path: str) -> bool:
    """Return whether a directory at *path* has the name of a hidden sub-directory."""
    name, hyphen, uid = os.path.basename(path).partition("-")
    return name == HIDDEN_DIRECTORY and (not hyphen or number_in(uid) is not None)


def number_in(text: str) -> int | None:
    """Return the number that *text* is in the name of a version; None if the package does not write it so."""
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        return None
    number = int(text)
    return number if str(number) == text and len(str(number + 1)) <= _MOST_DIGITS else None


def _digest(text: str) -> str:
    import hashlib  # only here: it takes longer than all other imports of a fresh `dogpile-fs run`

    return hashlib.blake2b(os.fsencode(text), digest_size=8).hexdigest()
