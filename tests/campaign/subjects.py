"""The resource of a round, of some kind, with its creators and readers.

Each version has a number that grows from one creation to the next, and a checksum of all the rest. So a reader can
see which version it has read, and whether it is whole.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dogpile_fs import Backoff, DataDirectory, Datafile, Datafiles, Dogpile, Outcome, Policy, SyncReaderDogpile

__all__ = [
    "KEYS",
    "KINDS",
    "TRY_AGAIN",
    "Found",
    "Subject",
    "backoff_of",
    "contents_of",
    "parsed",
    "pattern_of",
    "subjects_of",
]

#: The policy of the first versions: each error reaches its caller, and the next one tries again.
TRY_AGAIN = Policy(backoff=None, stale_if_error=False)

#: A creator's work: it gets the path to build at.
Builder = Callable[[str], None]
_PARTS = ("one", "two", "three")


def backoff_of(initial: float) -> Backoff | None:
    """Return the backoff of a round with so many seconds after a first failure; none for 0."""
    return Backoff(initial, 8 * initial, factor=2, jitter=0.1) if initial else None


@dataclass(frozen=True, slots=True)
class Found:
    """The version that a reader has found, and whether it was whole. *version* 0: no file was there."""

    version: int
    whole: bool = True


def contents_of(version: int, size: int) -> bytes:
    """Return the contents of a file of about *size* bytes."""
    body = (b"%d " % version) * (size // 20 + 1)
    return json.dumps({"version": version, "checksum": zlib.crc32(body)}).encode() + b"\n" + body


def parsed(contents: bytes) -> Found:
    """Return the version of *contents*."""
    head, _, body = contents.partition(b"\n")
    try:
        fields = json.loads(head)
        return Found(fields["version"], fields["checksum"] == zlib.crc32(body))
    except (ValueError, KeyError, TypeError):
        return Found(-1, False)


class Subject(ABC):
    """A resource at *path*, as one process or thread uses it."""

    #: Whether readers and writers exclude each other.
    synced = False
    #: Whether the command line can create it too.
    by_command = False
    #: Whether it swaps a new version in by itself, and can be loaded; else the creator swaps.
    swaps = False
    is_directory = False
    dogpile: Dogpile
    #: The key that it is of, and the object of all keys.
    key = ""
    files: Datafiles

    def __init__(self, path: str, expiretime: float, *, keep: int = 0, policy: Policy = TRY_AGAIN) -> None:
        self.path = path
        self.expiretime = expiretime
        self.policy = policy

    @abstractmethod
    def block(self, build: Builder | None, timeout: float | None) -> AbstractContextManager[Any]:
        """Return a reader's block; *build* creates first if need be."""

    @abstractmethod
    def refresh(self, build: Builder, force: bool, timeout: float | None) -> Outcome: ...

    def load(self, build: Builder, timeout: float | None) -> Found:
        """Return the current version as this process has loaded it."""
        raise NotImplementedError

    def make(self, target: str, version: int, size: int) -> None:
        """Build *version* at *target*."""
        with open(target, "wb") as file:
            file.write(contents_of(version, size))

    def read(self, given: Any = None) -> Found:
        """Return the version that is there; *given* is the value of the block's ``as``."""
        try:
            with open(self.path, "rb") as file:
                return parsed(file.read())
        except FileNotFoundError:
            return Found(0)


class Bare(Subject):
    """A :class:`Dogpile`, whose creator replaces the file by hand."""

    def __init__(self, path: str, expiretime: float, *, keep: int = 0, policy: Policy = TRY_AGAIN) -> None:
        super().__init__(path, expiretime, policy=policy)
        self.dogpile = Dogpile(expiretime, path, policy=policy)

    def block(self, build: Builder | None, timeout: float | None) -> AbstractContextManager[Any]:
        return self.dogpile.acquire(self._creator(build), timeout=timeout)

    def refresh(self, build: Builder, force: bool, timeout: float | None) -> Outcome:
        return self.dogpile.refresh(self._creator(build), force, timeout=timeout)

    def _creator(self, build: Builder | None) -> Any:
        # The creator logs its swap itself, as it makes it itself.
        return None if build is None else lambda: build(f"{self.path}.new.{os.getpid()}")


class Synced(Bare):
    """A :class:`SyncReaderDogpile`, whose creator replaces the file inside ``acquire_write_lock()``."""

    synced = True
    dogpile: SyncReaderDogpile

    def __init__(self, path: str, expiretime: float, *, keep: int = 0, policy: Policy = TRY_AGAIN) -> None:
        Subject.__init__(self, path, expiretime, policy=policy)
        self.dogpile = SyncReaderDogpile(expiretime, path, policy=policy)


class _Versioned(Subject):
    """A resource that is built beside and swapped in by itself."""

    swaps = True
    #: With a creator, and without.
    maker: Datafile | DataDirectory
    reader: Datafile | DataDirectory

    def _prepare(self) -> None:
        self.dogpile = self.maker._dogpile
        # The threads of a process share the object, and each has its own creator.
        self._builds = threading.local()

    def _build(self, target: str) -> None:
        self._builds.build(target)

    def block(self, build: Builder | None, timeout: float | None) -> AbstractContextManager[Any]:
        self._builds.build = build
        return (self.reader if build is None else self.maker).open(timeout=timeout)

    def refresh(self, build: Builder, force: bool, timeout: float | None) -> Outcome:
        self._builds.build = build
        return self.maker.refresh(force, timeout=timeout)

    def load(self, build: Builder, timeout: float | None) -> Found:
        self._builds.build = build
        return self.maker.load(self.read, timeout=timeout)


class OfDatafile(_Versioned):
    """A :class:`Datafile`."""

    by_command = True

    def __init__(self, path: str, expiretime: float, *, keep: int = 0, policy: Policy = TRY_AGAIN) -> None:
        super().__init__(path, expiretime, policy=policy)
        self.maker = Datafile(
            path, expiretime, self._build, keep=keep, durable=False, readers=self.synced, policy=policy
        )
        self.reader = Datafile(path, expiretime, durable=False, readers=self.synced, policy=policy)
        self._prepare()

    def read(self, given: Any = None) -> Found:
        return super().read() if given is None else parsed(given.read())


class OfReaders(OfDatafile):
    """A :class:`Datafile` with ``readers=True``."""

    synced = True


class OfDirectory(_Versioned):
    """A :class:`DataDirectory` of three files."""

    is_directory = True

    def __init__(self, path: str, expiretime: float, *, keep: int = 0, policy: Policy = TRY_AGAIN) -> None:
        super().__init__(path, expiretime, policy=policy)
        self.maker = DataDirectory(path, expiretime, self._build, keep=keep, durable=False, policy=policy)
        self.reader = DataDirectory(path, expiretime, durable=False, policy=policy)
        self._prepare()

    def make(self, target: str, version: int, size: int) -> None:
        os.mkdir(target)
        for part in _PARTS:
            super().make(os.path.join(target, part), version, size)

    def read(self, given: Any = None) -> Found:
        while True:
            place = given or os.path.realpath(self.path)
            try:
                parts = [parsed((Path(place) / part).read_bytes()) for part in _PARTS]
                break
            except FileNotFoundError:
                # Outside a block, a version may be removed when the next one is in place.
                if given is not None or os.path.realpath(self.path) == place:
                    return Found(0)
        versions = {part.version for part in parts}
        return Found(min(versions), len(versions) == 1 and all(part.whole for part in parts))


class OfKey(_Versioned):
    """The :class:`Datafile` of one *key*, by an object that creates and by one that only reads."""

    maker: Datafile
    reader: Datafile

    def __init__(self, files: Datafiles, reading: Datafiles, key: str, expiretime: float, policy: Policy) -> None:
        self.maker, self.reader = files[key], reading[key]
        super().__init__(self.maker._path, expiretime, policy=policy)
        self.files = files
        self.key = key
        self._prepare()

    def create(self, target: str) -> None:
        self._builds.build(target)

    def read(self, given: Any = None) -> Found:
        return super().read() if given is None else parsed(given.read())


#: More than one, and so few that they are often pruned while they are used.
KEYS = ("one", "two", "three")


def pattern_of(path: str) -> str:
    return f"{path}-{{key}}.json"


def of_keys(path: str, expiretime: float, *, keep: int = 0, policy: Policy = TRY_AGAIN) -> list[OfKey]:
    """Return the keys of a pattern, all through the same two objects."""
    by_key: dict[str, OfKey] = {}
    files = Datafiles(
        pattern_of(path),
        expiretime,
        lambda key, target: by_key[key].create(target),
        keep=keep,
        durable=False,
        policy=policy,
    )
    reading = Datafiles(files.pattern, expiretime, durable=False, policy=policy)
    by_key |= {key: OfKey(files, reading, key, expiretime, policy) for key in KEYS}
    return list(by_key.values())


KINDS: dict[str, type[Subject]] = {
    "bare": Bare,
    "synced": Synced,
    "datafile": OfDatafile,
    "readers": OfReaders,
    "directory": OfDirectory,
    "keys": OfKey,
}


def subjects_of(
    kind: str, path: str, expiretime: float, *, keep: int = 0, policy: Policy = TRY_AGAIN
) -> Sequence[Subject]:
    """Return the resources of a round of this *kind*: one, or one for each key."""
    if kind == "keys":
        return of_keys(path, expiretime, keep=keep, policy=policy)
    return [KINDS[kind](path, expiretime, keep=keep, policy=policy)]
