"""Sidecars and lock files with any contents, at rest and while another program overwrites them.

What must hold: an error is a ``SidecarError``, and only of a newer format; nothing hangs; only a version that a
creation of ours made is fresh; and the next creation repairs the file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Literal

from dogpile_fs import Dogpile, SidecarError, SyncReaderDogpile
from dogpile_fs._sidecar.decoding import NewerFormat, decode
from dogpile_fs._sidecar.file import contents
from dogpile_fs._sidecar.quick_check import is_fresh
from dogpile_fs._sidecar.record import SIZE, Record

from .hostile_place import EXPIRETIME, HostilePlace, no_hang, sure
from .mutated_records import MutatedRecords

__all__ = ["HostileFiles"]


class HostileFiles(HostilePlace):
    """The files that are read."""

    def __init__(self, directory: str, random: Random) -> None:
        super().__init__(directory, random)
        self._records = MutatedRecords(random)

    def read(self, seconds: float) -> tuple[dict[str, int], list[str]]:
        """Read sidecars with any contents, at rest and while another program overwrites them, and lock any lock
        files."""
        counts = {"sidecars_read": 0, "sidecars_scribbled": 0, "lock_files_filled": 0}
        with no_hang():
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for _ in range(20):
                    self.attempt(self._read_a_sidecar)
                    counts["sidecars_read"] += 1
                self.attempt(self._fill_the_lock_files)
                counts["lock_files_filled"] += 1
                if counts["lock_files_filled"] % 20 == 1:
                    counts["sidecars_scribbled"] += self._read_while_another_program_writes(min(0.5, seconds / 4))
        return counts, self.violations

    def _read_a_sidecar(self) -> None:
        place = self.fresh_place()
        path = str(place / "data")
        data = self._fill(Path(path + ".dogpile"))
        try:
            expected = decode(data[:SIZE])
        except NewerFormat:
            self._refuses_newer(path)
            return
        Path(path).write_text("old")
        os.utime(path, (1000, 1000))
        resource: Literal["file"] | None = self.random.choice([None, "file"])
        dogpile = Dogpile(EXPIRETIME, path, resource=resource, timeout=10)
        looks: list[Callable[[], object]] = [
            dogpile.status,
            lambda: dogpile.has_value,
            lambda: dogpile.is_expired,
            lambda: dogpile.createdtime,
            lambda: dogpile.version,
            dogpile.fresh_version,
        ]
        self.random.shuffle(looks)
        for look in looks:
            look()
        sure(dogpile.status().state != "fresh", "another program's record is fresh")
        sure(not is_fresh(path, EXPIRETIME), "another program's record is fresh in the quick check")
        if resource is None:
            known = None if expected is None or not expected.has_value else expected.createdtime
            sure(dogpile.createdtime == (-1 if known is None else known), f"createdtime is {dogpile.createdtime}")
        if self.random.random() < 0.3:
            dogpile.invalidate(hard=self.random.random() < 0.5)
        sure(bool(dogpile.refresh(lambda: None)), "nothing was created")
        sure(dogpile.status().state == "fresh", "not fresh after a creation")
        _check_repair(path)

    def _refuses_newer(self, path: str) -> None:
        dogpile = Dogpile(EXPIRETIME, path)
        for action in (dogpile.status, lambda: dogpile.refresh(lambda: None)):
            with suppress(SidecarError):
                action()
                sure(False, "a newer format was taken")
        sure(not is_fresh(path, EXPIRETIME), "a newer format is fresh in the quick check")

    def _fill(self, sidecar: Path) -> bytes:
        """Write something to *sidecar*, and return its beginning."""
        data = self._records.next()
        match self.random.randrange(8):
            case 0:
                data += bytes(self.random.randrange(4096))
            case 1:
                data = data[: self.random.randrange(len(data) + 1)]
            case 2:
                data = self.random.randbytes(self.random.randrange(2000))
            case _:
                pass
        sidecar.write_bytes(data)
        if self.random.random() < 0.05:
            os.truncate(sidecar, self.random.choice([2**31, 2**40, len(data) + 1, SIZE, 4096, 4097]))
        with open(sidecar, "rb") as file:
            return file.read(SIZE)

    def _fill_the_lock_files(self) -> None:
        path = str(self.fresh_place() / "data")
        filled = {}
        for suffix in (".dogpile.lock", ".dogpile.rwlock"):
            filled[suffix] = self.random.choice([self._records.next(), self.random.randbytes(5000), b""])
            Path(path + suffix).write_bytes(filled[suffix])
        dogpile = SyncReaderDogpile(EXPIRETIME, path, timeout=10)

        def creator() -> None:
            with dogpile.acquire_write_lock():
                Path(path).write_text("new")

        with dogpile.acquire(creator):
            sure(Path(path).read_text() == "new", "nothing was created")
        for suffix, data in filled.items():
            sure(Path(path + suffix).read_bytes() == data, f"{suffix} has been written")

    def _read_while_another_program_writes(self, seconds: float) -> int:
        """Return how often the sidecar was read meanwhile."""
        path = str(self.fresh_place() / "data")
        Path(path).write_text("old")
        os.utime(path, (1000, 1000))
        Path(path + ".dogpile").write_bytes(b"")
        scribbler = get_context("fork").Process(target=self._scribble, args=(path + ".dogpile",), daemon=True)
        scribbler.start()
        count = 0
        try:
            dogpile = Dogpile(EXPIRETIME, path)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                self.attempt(lambda: self._read_once(dogpile, path))
                count += 1
        finally:
            scribbler.kill()
            scribbler.join()
        self.attempt(lambda: _check_repair(path))
        return count

    def _read_once(self, dogpile: Dogpile, path: str) -> None:
        with suppress(SidecarError):  # a newer format
            sure(dogpile.status().state != "fresh", "another program's record is fresh")
            sure(dogpile.fresh_version() is None, "another program's record has a fresh version")
        sure(not is_fresh(path, EXPIRETIME), "another program's record is fresh in the quick check")

    def _scribble(self, sidecar: str) -> None:
        fd = os.open(sidecar, os.O_RDWR)
        while True:
            os.pwrite(fd, self._records.next(), 0)
            if self.random.random() < 0.5:
                os.ftruncate(fd, self.random.randrange(5000))


def _check_repair(path: str) -> None:
    """Check that a creation repairs the sidecar; two, if a count was at its end."""
    try:
        for _ in range(2):
            Dogpile(EXPIRETIME, path).refresh(lambda: None)
    except SidecarError as error:
        sure(isinstance(error.__cause__, NewerFormat), f"{error!r}")
        return
    sure(_holds_one_record(path + ".dogpile"), "a creation did not repair it")


def _holds_one_record(sidecar: str) -> bool:
    data = Path(sidecar).read_bytes()
    record: Record | None = decode(data[:SIZE])
    return record is not None and data == contents(record)
