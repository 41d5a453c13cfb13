"""The inputs of a resource: files and other resources that make it stale when they change.

One digest of all inputs is recorded with each version. A version is stale where the digest of the inputs as they
are now is another one. An older input counts as changed, too: times are compared for equality only.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import cache
from time import monotonic
from typing import Any, Protocol, runtime_checkable

from .._os.paths import absolute, realpath
from .._sidecar.fingerprint import fingerprint_of
from ..errors import DogpileError
from .shared_state import LOOK_EVERY

__all__ = ["Input", "Inputs", "have_changed"]

#: Inputs whose last look is remembered. More are looked at anew.
_MOST = 1024
#: Hexadecimal digits of a digest's parts: sizes and mtimes; where inodes mean the same; inodes.
_CONTENTS, _WHERE, _INODES = 14, 6, 12
#: Of how many inputs the journal tells which has changed, and by how many digits. The line of an attempt has room
#: for them.
_MOST_SIGNED = 16
_SIGN_OF_CONTENTS, _SIGN_OF_INODE = 4, 4

#: When an input was looked at last, and what was found, by path. Racing threads may write it.
_looks: dict[str, tuple[float, tuple[object, object, object]]] = {}


@runtime_checkable
class Resource(Protocol):
    """A resource of ours, which counts by its version."""

    @property
    def version(self) -> tuple[int, ...] | None: ...


Input = str | os.PathLike[str] | Resource


class Inputs:
    """What the resource at *path* is made from.

    :raises TypeError: for an input that is neither a path nor a resource.
    :raises ValueError: if the resource is among its own inputs, also by way of another resource.
    """

    __slots__ = ("_inputs",)

    def __init__(self, inputs: Iterable[Input], path: str | None) -> None:
        self._inputs = tuple(absolute(each) if isinstance(each, str | os.PathLike) else each for each in inputs)
        if path is not None and realpath(path) in map(realpath, _paths_of(self._inputs)):
            raise ValueError(f"{path!r} depends on itself: it would be stale as soon as it is created")

    def digest(self) -> str:
        """Return the digest of the inputs as they are now, at most 10 ms ago."""
        contents, where, inodes = hashlib.sha256(), hashlib.sha256(_boot()), hashlib.sha256()
        for each in self._inputs:
            found = _look(each) if isinstance(each, str) else _version_of(each)
            for part, value in zip((contents, where, inodes), found, strict=True):
                part.update(repr(value).encode())
        parts = ((contents, _CONTENTS), (where, _WHERE), (inodes, _INODES))
        return "".join(part.hexdigest()[:digits] for part, digits in parts)

    def signs(self) -> str:
        """Return a few digits of each input as it is now, by which :meth:`changed_since` tells which has changed.

        Of many inputs, only the first.
        """
        signs = []
        for each in self._inputs[:_MOST_SIGNED]:
            contents, _, inode = _look(each) if isinstance(each, str) else _version_of(each)
            for value, digits in ((contents, _SIGN_OF_CONTENTS), (inode, _SIGN_OF_INODE)):
                signs.append(hashlib.sha256(repr(value).encode()).hexdigest()[:digits])
        return "".join(signs)

    def changed_since(self, signs: str | None) -> str | None:
        """Return the path of the first input that is another than when :meth:`signs` returned *signs*.

        :returns: ``None`` if there is none among the first, or *signs* are not of as many.
        """
        now, size = self.signs(), _SIGN_OF_CONTENTS + _SIGN_OF_INODE
        if signs is None or len(signs) != len(now):
            return None
        for compared in (_SIGN_OF_CONTENTS, size):  # by their inodes only if all contents are the same
            for number, each in enumerate(self._inputs[:_MOST_SIGNED]):
                begin = number * size
                if signs[begin : begin + compared] != now[begin : begin + compared]:
                    dogpile: Any = getattr(each, "_dogpile", each)
                    return each if isinstance(each, str) else str(dogpile.path)
        return None

    def have_changed_since(self, digest: str | None) -> bool:
        """Return whether they are others than those of *digest*, or those are not known."""
        return digest is None or have_changed(digest, self.digest())


def have_changed(before: str, now: str) -> bool:
    """Return whether two digests are of different inputs.

    Inodes count only within one boot and one mount: two containers may see the same file by different inodes.
    """
    if before[:_CONTENTS] != now[:_CONTENTS]:
        return True
    where = slice(_CONTENTS, _CONTENTS + _WHERE)
    return before[where] == now[where] and before != now


def _look(path: str) -> tuple[object, object, object]:
    """Return size and mtime of the input at *path*, its device, and its inode.

    That it is missing, or cannot be looked at, is a value: no reader fails because of an input.
    """
    now = monotonic()
    last = _looks.get(path)
    if last is not None and now - last[0] < LOOK_EVERY:
        return last[1]
    found: tuple[object, object, object] = None, None, None
    try:
        st = os.stat(path)
        fingerprint = fingerprint_of(st, path)
        found = fingerprint[:-1], st.st_dev, fingerprint.inode
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        found = error.errno, None, None
    if len(_looks) >= _MOST:
        _looks.clear()
    _looks[path] = now, found
    return found


def _version_of(resource: Any) -> tuple[object, object, object]:
    """Return the same of the version of *resource* that is in place."""
    dogpile = getattr(resource, "_dogpile", resource)
    try:
        record = dogpile._record
    except DogpileError as error:
        return type(error).__name__, None, None
    if not record.has_value:
        return None, None, None
    if record.fingerprint is None:  # nothing but its sidecar is looked at
        return record.generation, None, None
    *contents, inode = record.fingerprint
    return contents, record.device, (inode, record.fingerprint_generation)


@cache
def _boot() -> bytes:
    """Return what tells this boot of the machine from others."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _paths_of(inputs: Iterable[Input]) -> Iterator[str]:
    """Yield the paths of all *inputs*, and those of the inputs' own inputs."""
    for each in inputs:
        if isinstance(each, str | os.PathLike):
            yield absolute(each)
            continue
        dogpile: Any = getattr(each, "_dogpile", each)
        if not isinstance(each, Resource) or not hasattr(dogpile, "_policy"):
            raise TypeError(f"depends_on must be paths and datafiles, not {each!r}")
        if dogpile.path is not None:
            yield dogpile.path
        yield from _paths_of(dogpile._policy.depends_on)
