"""The kinds of resources with their users' code; errors of that code differ from the package's."""

from __future__ import annotations

import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import dogpile_fs
from dogpile_fs import (
    DataDirectory,
    Datafile,
    DatafileExists,
    Dogpile,
    DogpileError,
    FileMutex,
    Outcome,
    Status,
    SyncReaderDogpile,
    atomic_write,
)
from dogpile_fs.cli import main

from .places import hidden, hidden_names
from .ptracing import BEGIN

__all__ = [
    "NEW",
    "OfAtomicWrite",
    "OfCommand",
    "OfDataDirectory",
    "OfDatafile",
    "OfDogpile",
    "Subject",
    "TheUsersOwn",
]

#: The contents that a creator makes by default.
NEW = b"new" * 3_000
HOUR = 3600.0
#: Seconds of each object's timeout: a caller that is locked out gets a LockTimeout. Less than ``failing.HANGS``.
AT_ONCE = 5.0


class TheUsersOwn(Exception):
    """A system call of the user's code failed, in the creator or in the block, and the error came out
    unchanged."""


@contextmanager
def users_own() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, DogpileError):
            raise
        raise TheUsersOwn(str(error)) from error


class Subject(ABC):
    """One kind of resource, in the directory of *path*."""

    #: Whether there is a sidecar.
    stamps = True
    #: Whether a creation replaces the file that is there.
    replaces = True
    #: Whether the file in place is looked at, and counts without a sidecar.
    observed = True
    #: The number of earlier versions that are kept.
    kept = 0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.thing: Any = None
        #: The contents that its creator makes.
        self.contents = NEW
        self._others_mutex: FileMutex | None = None

    @abstractmethod
    def made(self) -> Any:
        """Return a new object of the user."""

    @abstractmethod
    def passed(self) -> bytes:
        """Enter a block, and return the contents read inside."""

    def user(self) -> Any:
        if self.thing is None:
            self.thing = self.made()
        return self.thing

    def drop(self) -> None:
        self.thing = None
        if self._others_mutex is not None:
            self._others_mutex.release()
            self._others_mutex = None

    def create(self) -> None:
        """Create, however fresh the resource is."""
        assert self.user().refresh(force=True)

    def stamp_as_stale(self) -> None:
        self._dogpile().createdtime = time.time() - 2 * HOUR

    def status(self) -> Status:
        status: Status = self.user().status()
        return status

    def invalidate(self, hard: bool) -> None:
        self.user().invalidate(hard)

    def another_creates(self) -> None:
        mutex = self._others_mutex = FileMutex(f"{self.path}.dogpile.lock")
        another = threading.Thread(target=lambda: mutex.acquire(wait=False))
        another.start()
        another.join()
        assert mutex.held

    def _dogpile(self) -> Any:
        return getattr(self.user(), "_dogpile", self.user())

    def found(self) -> bytes | None:
        """Return the contents in place, read without dogpile_fs; None if there are none."""
        return self.path.read_bytes() if self.path.exists() else None

    def kept_versions(self) -> list[bytes]:
        """Return the contents of the kept versions."""
        return []

    def mtime(self) -> float:
        return os.stat(self.path).st_mtime

    def left(self) -> list[str]:
        """Return the names of leftovers in the directory."""
        return sorted(
            name
            for name in [*os.listdir(self.path.parent), *hidden_names(self.path)]
            if name.removeprefix(self.path.name)
            not in ("", ".dogpile", ".dogpile.journal", ".dogpile.lock", ".dogpile.rwlock", ".new")
        )


class OfDogpile(Subject):
    """A file that the user's own code replaces."""

    observed = False

    def __init__(self, path: Path, kind: type[Dogpile] = Dogpile) -> None:
        super().__init__(path)
        self.kind = kind

    def made(self) -> Dogpile:
        return self.kind(HOUR, self.path, timeout=AT_ONCE)

    def creator(self) -> None:
        new = f"{self.path}.new"
        with users_own():
            Path(new).write_bytes(self.contents)
        user = self.user()
        alone = user.acquire_write_lock() if isinstance(user, SyncReaderDogpile) else nullcontext()
        with alone, users_own():
            os.replace(new, self.path)

    def create(self) -> None:
        user = self.user()
        outcome = user.refresh(self.creator, force=True)
        if outcome == Outcome.fenced:  # a server has given the lock to others: again, as a Datafile does
            outcome = user.refresh(self.creator, force=True)
        assert outcome, outcome

    def passed(self) -> bytes:
        with self.user().acquire(self.creator), users_own():
            return self.path.read_bytes()


class OfDatafile(Subject):
    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path)
        self.options = options
        self.kept = options.get("keep", 0)

    def made(self) -> Datafile:
        return Datafile(self.path, HOUR, self.creator, timeout=AT_ONCE, backoff=None, **self.options)

    def creator(self, target: str) -> None:
        with users_own():
            Path(target).write_bytes(self.contents)

    def passed(self) -> bytes:
        with self.user().open() as file, users_own():
            return file.read()  # type: ignore[no-any-return]

    def loaded(self) -> bytes:
        return self.user().load(_read)  # type: ignore[no-any-return]

    def rolled_back(self) -> None:
        self.user().rollback()

    def kept_versions(self) -> list[bytes]:
        return [
            Path(hidden(self.path), name).read_bytes()
            for name in hidden_names(self.path)
            if name.startswith(".dogpile-kept-")
        ]

    def left(self) -> list[str]:
        kept = [name for name in super().left() if name.startswith(".dogpile-kept-")]
        return sorted({*super().left()} - {*kept[: self.kept]})


def _read(file: Any) -> bytes:
    with users_own():
        return file.read()  # type: ignore[no-any-return]


class OfDataDirectory(Subject):
    def __init__(self, path: Path, *, plain: bool = False, **options: Any) -> None:
        """*plain*: another program has put a directory in the place of the symbolic link."""
        super().__init__(path)
        self.options = options
        self.kept = options.get("keep", 0)
        if plain:
            _make_directory(str(path), NEW)

    def made(self) -> DataDirectory:
        return DataDirectory(self.path, HOUR, self.creator, timeout=AT_ONCE, backoff=None, **self.options)

    def creator(self, target: str) -> None:
        with users_own():
            _make_directory(target, self.contents)

    def passed(self) -> bytes:
        with self.user().open() as version, users_own():
            return _contents_of(version)

    def loaded(self) -> bytes:
        return self.user().load(_contents_of)  # type: ignore[no-any-return]

    def rolled_back(self) -> None:
        self.user().rollback()

    def found(self) -> bytes | None:
        return _contents_of(str(self.path)) if os.path.lexists(self.path) else None

    def kept_versions(self) -> list[bytes]:
        current = os.path.basename(os.path.realpath(self.path))
        return [
            _contents_of(str(self.path.parent / name))
            for name in os.listdir(self.path.parent)
            if name.startswith(".dogpile-dir-") and name != current
        ]

    def left(self) -> list[str]:
        current = os.path.basename(os.path.realpath(self.path))
        names = [name for name in super().left() if name != current]
        kept = [name for name in names if name.startswith(".dogpile-dir-")]
        return sorted({*names} - {*kept[: self.kept]})


def _make_directory(target: str, contents: bytes) -> None:
    os.mkdir(target)
    for name in ("one", "two"):
        Path(target, name).write_bytes(contents)


def _contents_of(directory: str) -> bytes:
    with users_own():
        names = sorted(os.listdir(directory))
        assert names == ["one", "two"], f"a part of a version: {names}"
        one, two = (Path(directory, name).read_bytes() for name in names)
    assert one == two, "parts of two versions"
    return one


class OfAtomicWrite(Subject):
    stamps = False

    def __init__(self, path: Path, *, overwrite: bool = True) -> None:
        super().__init__(path)
        self.replaces = overwrite

    def made(self) -> None:
        return None

    def create(self) -> None:
        try:
            with atomic_write(self.path, overwrite=self.replaces) as file, users_own():
                file.write(self.contents)
        except DatafileExists:
            if self.replaces:
                raise

    def passed(self) -> bytes:
        return self.path.read_bytes()

    def stamp_as_stale(self) -> None:
        pass


class OfCommand(OfDatafile):
    """``dogpile-fs`` with *words*."""

    # Counted from after the imports, which take some thousand calls that touch no file of ours.
    _CODE = (
        "import dogpile_fs._sidecar.quick_check, sys; from dogpile_fs.cli import main, options; "
        f"{BEGIN}; sys.exit(main())"
    )

    def __init__(self, path: Path, *words: str) -> None:
        super().__init__(path)
        #: Its exit status.
        self.ended: int | None = None
        # Outside the directory that is searched for leftovers.
        source = path.parent.with_suffix(".source")
        source.write_bytes(NEW)
        self.words = [word.replace("FILE", str(path)).replace("SOURCE", str(source)) for word in words]
        self.out = path.parent.with_suffix(".out")
        self.err = path.parent.with_suffix(".err")

    def get_ready(self) -> None:
        """Redirect its output into files."""
        for stream, name in ((1, self.out), (2, self.err)):
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(fd, stream)
            os.close(fd)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115

    def call(self) -> None:
        """Run it in this process, which has imported its modules."""
        self.ended = main(self.words)

    def execute(self) -> None:
        """Become the command, a program of its own."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        environment = {**own, "PYTHONPATH": str(Path(dogpile_fs.__file__).parent.parent)}
        os.execve(sys.executable, [sys.executable, "-c", self._CODE, *self.words], environment)
