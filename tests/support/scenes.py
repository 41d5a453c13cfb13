"""Scenes: what a user's process does while a system call fails, and which version was there before."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from dogpile_fs import SyncReaderDogpile

from .processes import wait_for
from .subjects import NEW, OfAtomicWrite, OfCommand, OfDataDirectory, OfDatafile, OfDogpile, Subject

__all__ = ["NEW", "OLD", "OLDER", "SCENES", "Scene"]

# Imported here although the package does so lazily: calls of ours are to fail, not those of an import.
for _name in (
    "_sidecar.quick_check",
    "_locks.readwrite",
    "cli.dispatch",
    "cli.commands.run",
    "cli.commands.status",
):
    import_module(f"dogpile_fs.{_name}")

Before = Literal["missing", "stale", "fresh"]

OLDER, OLD = (word * 3_000 for word in (b"older", b"old"))
#: Seconds for which a pass trusts its last look at a file, as in dogpile_fs: ``_LOOK_EVERY``.
BELIEVED = 0.010


@dataclass(frozen=True)
class Scene:
    """An *act* on a *subject*, and the state *before* it."""

    subject: Callable[[Path], Subject]
    before: Before
    act: Callable[[Any], bytes | None]
    #: The user's object was used before, and so long ago that it looks at its files again.
    warm: bool = False
    #: Another thread holds the creation mutex.
    another_creates: bool = False
    #: The contents after the act.
    new: bytes = NEW

    def stage(self, path: Path) -> Subject:
        """Return a subject in the state before the act."""
        subject = self.subject(path)
        if self.before != "missing":
            subject.contents = OLDER
            subject.create()
            subject.contents = OLD
            subject.create() if subject.stamps else path.write_bytes(OLD)
            if self.before == "stale":
                subject.stamp_as_stale()
            subject.drop()
        subject.contents = self.new
        return subject

    def get_ready(self, subject: Subject) -> None:
        """Prepare the process that acts."""
        if self.warm:
            subject.contents = OLD
            subject.passed()
            if isinstance(subject, (OfDatafile, OfDataDirectory)):
                subject.loaded()
            subject.contents = self.new
            made = time.monotonic()
            wait_for(lambda: time.monotonic() > made + BELIEVED, "the last look to be too old to be trusted")
        if self.another_creates:
            subject.another_creates()
        if isinstance(subject, OfCommand):
            subject.get_ready()

    @property
    def executes(self) -> bool:
        return self.act is executed


def first_pass(subject: Subject) -> bytes:
    return subject.passed()


def two_passes(subject: Subject) -> bytes:
    """Pass twice: the second pass reuses the guard of the first."""
    first = subject.passed()
    assert subject.passed() == first
    return first


def two_loads(subject: OfDatafile | OfDataDirectory) -> bytes:
    first = subject.loaded()
    assert subject.loaded() == first
    return first


def forced(subject: Subject) -> None:
    subject.create()


def not_forced(subject: OfDatafile) -> None:
    subject.user().refresh()


def invalidated(subject: Subject) -> None:
    subject.invalidate(hard=False)


def invalidated_hard(subject: Subject) -> None:
    subject.invalidate(hard=True)


def asked_for_status(subject: Subject) -> None:
    assert subject.status().state


def rolled_back(subject: OfDatafile | OfDataDirectory) -> None:
    subject.rolled_back()


def called(subject: OfCommand) -> None:
    subject.call()


def executed(subject: OfCommand) -> None:
    subject.get_ready()
    subject.execute()


def _sync(path: Path) -> Subject:
    return OfDogpile(path, SyncReaderDogpile)


def _keeping(path: Path) -> Subject:
    return OfDatafile(path, keep=1)


def _with_readers(path: Path) -> Subject:
    return OfDatafile(path, readers=True)


def _skipping(path: Path) -> Subject:
    return OfDatafile(path, skip_unchanged=True)


def _directory_keeping(path: Path) -> Subject:
    return OfDataDirectory(path, keep=1)


def _plain_directory(path: Path) -> Subject:
    return OfDataDirectory(path, plain=True)


def _plain_directory_keeping(path: Path) -> Subject:
    return OfDataDirectory(path, plain=True, keep=1)


def _not_to_overwrite(path: Path) -> Subject:
    return OfAtomicWrite(path, overwrite=False)


def _run(path: Path) -> Subject:
    return OfCommand(path, "run", "--expire", "1h", "--output", "FILE", "--stdout", "--", "cat", "SOURCE")


def _run_with_all(path: Path) -> Subject:
    options = ("--readers", "--validate", "test -s {}", "--then", "true", "--skip-unchanged")
    return OfCommand(path, "run", "--expire", "1h", "--output", "FILE", *options, "--", "cp", "SOURCE", "{}")


def _status(path: Path) -> Subject:
    return OfCommand(path, "status", "FILE")


SCENES: dict[str, Scene] = {
    "pass, first, Dogpile": Scene(OfDogpile, "fresh", first_pass),
    "pass, warm, Dogpile": Scene(OfDogpile, "fresh", two_passes, warm=True),
    "pass, stale, another creates, Dogpile": Scene(OfDogpile, "stale", two_passes, another_creates=True),
    "pass, first, SyncReaderDogpile": Scene(_sync, "fresh", first_pass),
    "pass, warm, SyncReaderDogpile": Scene(_sync, "fresh", two_passes, warm=True),
    "pass, stale, another creates, SyncReaderDogpile": Scene(_sync, "stale", two_passes, another_creates=True),
    "open, first, Datafile": Scene(OfDatafile, "fresh", first_pass),
    "open, warm, Datafile": Scene(OfDatafile, "fresh", two_passes, warm=True),
    "open, first, Datafile with readers": Scene(_with_readers, "fresh", first_pass),
    "open, warm, Datafile with readers": Scene(_with_readers, "fresh", two_passes, warm=True),
    "load, first, Datafile": Scene(OfDatafile, "fresh", two_loads),
    "load, warm, Datafile": Scene(OfDatafile, "fresh", two_loads, warm=True),
    "open, first, DataDirectory": Scene(OfDataDirectory, "fresh", first_pass),
    "open, first, plain DataDirectory": Scene(_plain_directory, "fresh", first_pass),
    "open, warm, DataDirectory": Scene(OfDataDirectory, "fresh", two_passes, warm=True),
    "load, first, DataDirectory": Scene(OfDataDirectory, "fresh", two_loads),
    "create, nothing yet, Dogpile": Scene(OfDogpile, "missing", first_pass),
    "create, stale, Dogpile": Scene(OfDogpile, "stale", first_pass),
    "create, forced, Dogpile": Scene(OfDogpile, "fresh", forced),
    "create, nothing yet, SyncReaderDogpile": Scene(_sync, "missing", first_pass),
    "create, stale, SyncReaderDogpile": Scene(_sync, "stale", first_pass),
    "create, nothing yet, Datafile": Scene(_keeping, "missing", first_pass),
    "create, stale, Datafile": Scene(OfDatafile, "stale", first_pass),
    "create, stale, Datafile, keep=1": Scene(_keeping, "stale", first_pass),
    "create, stale, Datafile with readers": Scene(_with_readers, "stale", first_pass),
    "create, stale, Datafile, skip_unchanged": Scene(_skipping, "stale", first_pass, new=OLD),
    "create, forced, Datafile": Scene(OfDatafile, "fresh", forced),
    "refresh, stale, Datafile": Scene(OfDatafile, "stale", not_forced),
    "load, nothing yet, Datafile": Scene(OfDatafile, "missing", two_loads),
    "roll back, Datafile": Scene(_keeping, "stale", rolled_back, new=OLDER),
    "create, nothing yet, DataDirectory": Scene(OfDataDirectory, "missing", first_pass),
    "create, stale, DataDirectory": Scene(OfDataDirectory, "stale", first_pass),
    "create, stale, DataDirectory, keep=1": Scene(_directory_keeping, "stale", first_pass),
    "create, stale, plain DataDirectory": Scene(_plain_directory, "stale", first_pass),
    "create, stale, plain DataDirectory, keep=1": Scene(_plain_directory_keeping, "stale", first_pass),
    "roll back, DataDirectory": Scene(_directory_keeping, "stale", rolled_back, new=OLDER),
    "roll back, plain DataDirectory": Scene(_plain_directory_keeping, "stale", rolled_back, new=OLDER),
    "invalidate, Dogpile": Scene(OfDogpile, "fresh", invalidated),
    "invalidate, warm, Dogpile": Scene(OfDogpile, "fresh", invalidated, warm=True),
    "invalidate hard, Datafile": Scene(OfDatafile, "fresh", invalidated_hard),
    "status, Datafile": Scene(OfDatafile, "stale", asked_for_status),
    "atomic_write, first": Scene(OfAtomicWrite, "missing", forced),
    "atomic_write, over another": Scene(OfAtomicWrite, "stale", forced),
    "atomic_write, not to overwrite": Scene(_not_to_overwrite, "missing", forced),
    "atomic_write, not to overwrite, though there is one": Scene(_not_to_overwrite, "stale", forced),
    "dogpile-fs run, nothing yet": Scene(_run, "missing", called),
    "dogpile-fs run, stale": Scene(_run, "stale", called),
    "dogpile-fs run, fresh": Scene(_run, "fresh", called),
    "dogpile-fs run, fresh, as a program": Scene(_run, "fresh", executed),
    "dogpile-fs run, stale, with all options": Scene(_run_with_all, "stale", called),
    "dogpile-fs status": Scene(_status, "stale", called),
}
