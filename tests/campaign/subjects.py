"""What a round is about: one resource of some kind, how it is made, and how it is read.

Each version names itself: a number that grows from one creation to the next, and a checksum of all the rest. So
whoever reads one can tell which it is, and whether it is whole.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dogpile_fs import DataDirectory, Datafile, Dogpile, SyncReaderDogpile

__all__ = ["KINDS", "Found", "Subject", "contents_of", "parsed"]

#: What a creator is: it is given the path to build at.
Builder = Callable[[str], None]
_PARTS = ("one", "two", "three")


@dataclass(frozen=True, slots=True)
class Found:
    """What a reader has found: which version, and whether it was whole. *version* 0: nothing was there."""

    version: int
    whole: bool = True


def contents_of(version: int, size: int) -> bytes:
    """A file of about *size* bytes."""
    body = (b"%d " % version) * (size // 20 + 1)
    return json.dumps({"version": version, "checksum": zlib.crc32(body)}).encode() + b"\n" + body


def parsed(contents: bytes) -> Found:
    """Which version *contents* are."""
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
    #: Whether it swaps in what a creator has made, and can be loaded; else the creator swaps.
    swaps = False
    dogpile: Dogpile

    def __init__(self, path: str, expiretime: float, *, keep: int = 0) -> None:
        self.path = path
        self.expiretime = expiretime

    @abstractmethod
    def block(self, build: Builder | None, timeout: float | None) -> AbstractContextManager[Any]:
        """A reader's block; created first if need be, by *build*."""

    @abstractmethod
    def refresh(self, build: Builder, force: bool, timeout: float | None) -> bool: ...

    def load(self, build: Builder, timeout: float | None) -> Found:
        """What this process has loaded of the current version."""
        raise NotImplementedError

    def make(self, target: str, version: int, size: int) -> None:
        """Build *version* at *target*."""
        with open(target, "wb") as file:
            file.write(contents_of(version, size))

    def read(self, given: Any = None) -> Found:
        """What is there; *given*: what the block was entered with."""
        try:
            with open(self.path, "rb") as file:
                return parsed(file.read())
        except FileNotFoundError:
            return Found(0)


class Bare(Subject):
    """A :class:`Dogpile`, whose creator replaces the file by hand."""

    def __init__(self, path: str, expiretime: float, *, keep: int = 0) -> None:
        super().__init__(path, expiretime)
        self.dogpile = Dogpile(expiretime, path)

    def block(self, build: Builder | None, timeout: float | None) -> AbstractContextManager[Any]:
        return self.dogpile.acquire(self._creator(build), timeout=timeout)

    def refresh(self, build: Builder, force: bool, timeout: float | None) -> bool:
        return self.dogpile.refresh(self._creator(build), force, timeout=timeout)

    def _creator(self, build: Builder | None) -> Any:
        # It tells of its swap itself, as it makes it itself.
        return None if build is None else lambda: build(f"{self.path}.new.{os.getpid()}")


class Synced(Bare):
    """A :class:`SyncReaderDogpile`, whose creator replaces the file inside ``acquire_write_lock()``."""

    synced = True
    dogpile: SyncReaderDogpile

    def __init__(self, path: str, expiretime: float, *, keep: int = 0) -> None:
        Subject.__init__(self, path, expiretime)
        self.dogpile = SyncReaderDogpile(expiretime, path)


class _Versioned(Subject):
    """What builds beside and swaps by itself."""

    swaps = True
    #: With a creator, and without.
    maker: Datafile | DataDirectory
    reader: Datafile | DataDirectory

    def _prepare(self) -> None:
        self.dogpile = self.maker.dogpile
        # The threads of a process share the object, and each has its own creator.
        self._builds = threading.local()

    def _build(self, target: str) -> None:
        self._builds.build(target)

    def block(self, build: Builder | None, timeout: float | None) -> AbstractContextManager[Any]:
        self._builds.build = build
        return (self.reader if build is None else self.maker).open(timeout=timeout)

    def refresh(self, build: Builder, force: bool, timeout: float | None) -> bool:
        self._builds.build = build
        return self.maker.refresh(force, timeout=timeout)

    def load(self, build: Builder, timeout: float | None) -> Found:
        self._builds.build = build
        return self.maker.load(self.read, timeout=timeout)


class OfDatafile(_Versioned):
    """A :class:`Datafile`."""

    by_command = True

    def __init__(self, path: str, expiretime: float, *, keep: int = 0) -> None:
        super().__init__(path, expiretime)
        self.maker = Datafile(path, expiretime, self._build, keep=keep, durable=False, readers=self.synced)
        self.reader = Datafile(path, expiretime, durable=False, readers=self.synced)
        self._prepare()

    def read(self, given: Any = None) -> Found:
        return super().read() if given is None else parsed(given.read())


class OfReaders(OfDatafile):
    """A :class:`Datafile` with ``readers=True``."""

    synced = True


class OfDirectory(_Versioned):
    """A :class:`DataDirectory` of three files."""

    def __init__(self, path: str, expiretime: float, *, keep: int = 0) -> None:
        super().__init__(path, expiretime)
        self.maker = DataDirectory(path, expiretime, self._build, keep=keep, durable=False)
        self.reader = DataDirectory(path, expiretime, durable=False)
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
                # Outside a block, nobody keeps a version from being removed when the next one is in place.
                if given is not None or os.path.realpath(self.path) == place:
                    return Found(0)
        versions = {part.version for part in parts}
        return Found(min(versions), len(versions) == 1 and all(part.whole for part in parts))


KINDS: dict[str, type[Subject]] = {
    "bare": Bare,
    "synced": Synced,
    "datafile": OfDatafile,
    "readers": OfReaders,
    "directory": OfDirectory,
}
