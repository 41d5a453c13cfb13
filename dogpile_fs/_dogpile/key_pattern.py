"""Patterns of paths with a key, such as ``reports/{key}.json``: which file a key has, and whether a file is a
key's.

The part of a pattern above the component with ``{key}`` is *fixed*, the rest is its *tail*. A key's file is named
after a digest of the key, and for people after a few of its characters::

    reports/3f/orders-of-may-3f0c...9a.json

So any text is a key, of any length; its file is always below the fixed part, also where a file system takes upper
and lower case for the same. The first two digits of the digest are a directory, the *shard*, because many programs
are slow in directories of 100,000 files.

A file in the coordination directory tells the pattern. By it the classes for one path find out that theirs is a
key's: it is coordinated by other files than theirs, and two callers would create at the same time.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .._layout import (
    HIDDEN_DIRECTORY,
    KEYS_LOCK,
    KEYS_PATTERN_SUFFIX,
    KEYS_PREFIX,
    KEYS_RECORDS_SUFFIX,
    is_hidden_directory,
)
from .._os.paths import checked_name, realpath
from ..errors import PathError, os_errors_as

__all__ = ["KeyPattern", "digest_in", "patterns_in", "refuse_path_of_key", "shard_of"]

_PLACEHOLDER = "{key}"
_HINT = "Hint: write it once, such as in 'var/reports/{key}.json'."
#: Characters of a key that are kept in the name of its file: enough to know it by, and short enough for a
#: component with text of its own around it.
_MOST_KEPT = 40
#: Hexadecimal digits of a key's digest (128 bits), and of those by which patterns are told apart.
_DIGITS, _DIGITS_OF_PATTERN = 32, 16
#: Bytes of a component: NAME_MAX of Linux.
_LONGEST_COMPONENT = 255
#: Bytes of a marker that are read.
_LONGEST_MARKER = 65536

#: Error codes that say nothing of a file but that this process may open no more of them.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_NOT_KEPT = re.compile(r"[^a-z0-9]+")
_NAME = rf"(?:[a-z0-9][a-z0-9-]{{0,{_MOST_KEPT - 1}}}-)?([0-9a-f]{{{_DIGITS}}})"
_HAS_DIGEST = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")


class KeyPattern:
    """A pattern: the directory *fixed*, and the *tail* below it, which has the key in its first component.

    :raises TypeError: for a *pattern* that is no path.
    :raises ValueError: if it has not exactly one ``{key}``.
    :raises PathError: if it can be no file's path.
    """

    __slots__ = ("_in_component", "_salt", "fixed", "tail")

    def __init__(self, pattern: str | os.PathLike[str]) -> None:
        whole = checked_name(pattern)
        count = whole.count(_PLACEHOLDER)
        if count != 1:
            raise ValueError(f"the pattern {whole!r} has {_PLACEHOLDER} {count} times, and not once. {_HINT}")
        before, _, after = whole.partition(_PLACEHOLDER)
        fixed, begin = os.path.split(before)
        self._set(fixed, f"{begin}{_PLACEHOLDER}{after}")
        first, *rest = self.tail.split(os.sep)
        if any(each in ("", os.curdir, os.pardir) or is_hidden_directory(each) for each in rest):
            raise PathError(
                errno.EINVAL,
                f"the pattern {whole!r} leads elsewhere after its key. Hint: let only plain names follow it.",
            )
        longest = first.replace(_PLACEHOLDER, "-" * (_MOST_KEPT + 1 + _DIGITS))
        if len(os.fsencode(longest)) > _LONGEST_COMPONENT:
            raise PathError(
                errno.ENAMETOOLONG, f"the pattern {whole!r} has too long a name around its key. Hint: shorten it."
            )

    @classmethod
    def _of(cls, fixed: str, tail: str) -> KeyPattern:
        pattern = cls.__new__(cls)
        pattern._set(fixed, tail)
        return pattern

    def _set(self, fixed: str, tail: str) -> None:
        self.fixed = fixed
        self.tail = tail
        self._salt = _digest(tail.encode("utf-8", "surrogatepass"))
        begin, end = (re.escape(part) for part in tail.split(os.sep)[0].split(_PLACEHOLDER))
        self._in_component = re.compile(f"{begin}({_NAME}){end}")

    def __str__(self) -> str:
        return os.path.join(self.fixed, self.tail)

    @property
    def directory(self) -> str:
        """The directory of the coordination files."""
        return os.path.join(self.fixed, HIDDEN_DIRECTORY)

    @property
    def lock_path(self) -> str:
        """The file with the lock bytes of all keys, also those of other patterns with the same fixed part."""
        return os.path.join(self.directory, KEYS_LOCK)

    @property
    def records_path(self) -> str:
        """The file with the records of the pattern's keys."""
        return self._own(KEYS_RECORDS_SUFFIX)

    @property
    def marker(self) -> str:
        """The file that tells the pattern."""
        return self._own(KEYS_PATTERN_SUFFIX)

    def _own(self, suffix: str) -> str:
        return os.path.join(self.directory, f"{KEYS_PREFIX}{self._salt[:_DIGITS_OF_PATTERN]}{suffix}")

    @property
    def marker_text(self) -> str:
        """What is in that file."""
        return json.dumps({"dogpile_fs": 1, "pattern": self.tail}) + "\n"

    def name_of(self, key: str) -> str:
        """Return the name of *key*, which differs from that of every other key; also of other patterns with the
        same fixed part.
        """
        digest = _digest(key.encode("utf-8", "surrogatepass"), self._salt)
        kept = _NOT_KEPT.sub("-", key[: 2 * _MOST_KEPT].lower())[:_MOST_KEPT].strip("-")
        return f"{kept}-{digest}" if kept else digest

    def path_of(self, name: str) -> str:
        """Return the path of the file of the key with this *name*."""
        return os.path.join(self.fixed, shard_of(name), self.tail.replace(_PLACEHOLDER, name))

    def directories_to(self, path: str) -> list[str]:
        """Return the directories that lead to the file of a key at *path*, from the fixed part on."""
        directories = [self.fixed]
        for part in os.path.relpath(os.path.dirname(path), self.fixed).split(os.sep):
            directories.append(os.path.join(directories[-1], part))
        return directories

    def name_in(self, component: str) -> str | None:
        """Return the name of the key in the first *component* below a shard; ``None`` if it is no key's."""
        found = self._in_component.fullmatch(component)
        return None if found is None else found[1]

    def has(self, below: list[str]) -> bool:
        """Return whether a key has the file at a path of these components *below* the fixed part."""
        shard, first, *rest = below
        name = self.name_in(first)
        return name is not None and shard == shard_of(name) and rest == self.tail.split(os.sep)[1:]


def digest_in(name: str) -> str:
    """Return the digest in the *name* of a key."""
    return name[-_DIGITS:]


def shard_of(name: str) -> str:
    """Return the name of the directory below the fixed part that has the files of the key with this *name*."""
    return digest_in(name)[:2]


def patterns_in(fixed: str) -> Iterator[KeyPattern]:
    """Yield the patterns whose fixed part is this directory, as their markers tell.

    :raises OSError: if this process may open no more files.
    """
    directory = os.path.join(fixed, HIDDEN_DIRECTORY)
    names: list[str] = []
    with _errors_that_tell_nothing():
        names = os.listdir(directory)
    for name in names:
        if name.startswith(KEYS_PREFIX) and name.endswith(KEYS_PATTERN_SUFFIX):
            with _errors_that_tell_nothing(), suppress(ValueError, TypeError, KeyError):
                pattern = KeyPattern._of(fixed, str(json.loads(_read(os.path.join(directory, name)))["pattern"]))
                if pattern.marker.endswith(name):
                    yield pattern


@contextmanager
def _errors_that_tell_nothing() -> Iterator[None]:
    """Suppress errors of a file that is missing or was harmed, but not of a process that cannot look."""
    try:
        yield
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise


def _read(path: str) -> str:
    """Return what the file at *path* tells, without waiting for another program if it is a FIFO."""
    with open(path, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)) as file:
        return file.read(_LONGEST_MARKER)


def refuse_path_of_key(path: str) -> None:
    """:raises PathError: if a key has the file at the absolute *path*, or that cannot be found out.

    A path without a digest in it costs no system call.
    """
    if not _HAS_DIGEST.search(path):
        return
    directory, last = os.path.split(path)
    parts = os.path.join(realpath(directory), last).split(os.sep)
    for number in range(1, len(parts) - 1):
        if _HAS_DIGEST.search(parts[number + 1]):
            with os_errors_as(PathError, path, "look for patterns of keys around", reading=True):
                patterns = list(patterns_in(os.sep.join(parts[:number]) or os.sep))
            for pattern in patterns:
                if pattern.has(parts[number:]):
                    raise PathError(
                        errno.EINVAL,
                        f"{path!r} is the file of a key of Datafiles({str(pattern)!r}), which is coordinated with "
                        "all its keys. Hint: use files[key] of such an object.",
                    )


def _digest(data: bytes, salt: str = "") -> str:
    import hashlib  # here: it takes long to import

    return hashlib.blake2b(data, digest_size=_DIGITS // 2, key=salt.encode()).hexdigest()
