"""For how long a record that was read is believed, and which questions are asked before it is read again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dogpile_fs import Dogpile, SyncReaderDogpile
from dogpile_fs._layout import RWLOCK_SUFFIX
from dogpile_fs._sidecar.file import Sidecar
from dogpile_fs._sidecar.record import MISSING, Record

#: Seconds, as of the module; a little more than the bound.
LOOK, READ, UNSETTLED = 0.011, 1.0, 3.0


class Clock:
    """The wall clock of the package, so many seconds ahead of the system's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        for module in ("_dogpile.dogpile", "_dogpile.election", "_sidecar.file", "_sidecar.snapshot"):
            monkeypatch.setattr(f"dogpile_fs.{module}.time", self)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def _let_the_steady_clock_pass(seconds: float) -> None:
    """Wait: slots and directories are looked at again by the clock that is never set."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.001)


def never() -> None:
    raise AssertionError("it is fresh")


@pytest.fixture
def sidecar(path: str, clock: Clock) -> Sidecar:
    """One that was changed long ago, and was read twice: the first time opens it."""
    sidecar = Sidecar(path)
    Sidecar(path).change(lambda record: record.replace(generation=1))
    clock.now += 60.0
    sidecar.read()
    sidecar.read()
    return sidecar


def test_a_sidecar_that_was_changed_long_ago_is_read_once_a_second(sidecar: Sidecar, clock: Clock) -> None:
    begin, last = clock.now, sidecar.peek()
    reads = []
    for _ in range(300):
        clock.now += LOOK
        assert sidecar.peek().record.generation == 1
        if sidecar.peek() is not last:
            last = sidecar.peek()
            reads.append(clock.now - begin)
    assert reads == pytest.approx([READ, 2 * READ, 3 * READ], abs=3 * LOOK)


def test_a_sidecar_that_was_changed_a_moment_ago_is_read_every_10_ms(path: str, clock: Clock) -> None:
    """Its file system may give the next change the same time."""
    sidecar = Sidecar(path)
    Sidecar(path).change(lambda record: record.replace(generation=1))
    written = os.stat(path).st_ctime
    snapshots = [sidecar.read()]
    while clock.now < written + UNSETTLED - LOOK:
        clock.now += LOOK
        snapshots.append(sidecar.peek())
        assert snapshots[-1] is not snapshots[-2]
    assert len(snapshots) > 200


def _overwrite(path: str, record: Record) -> None:
    """As another program may: with the same number of bytes."""
    other = path + ".other"
    Sidecar(other).change(lambda _: record)
    data = Path(other).read_bytes()
    with open(path, "r+b") as file:
        assert file.seek(0, os.SEEK_END) == len(data)
        file.seek(0)
        file.write(data)


def _replace(path: str, record: Record) -> None:
    Sidecar(path + ".other").change(lambda _: record)
    os.replace(path + ".other", path)


def _delete(path: str, record: Record) -> None:
    os.unlink(path)


def _link_elsewhere(path: str, record: Record) -> None:
    os.rename(path, path + ".moved")
    os.symlink(path + ".moved", path)


@pytest.mark.parametrize("harm", [_overwrite, _replace])
def test_what_another_program_wrote_is_seen_within_10_ms(
    sidecar: Sidecar, clock: Clock, harm: Callable[[str, Record], None]
) -> None:
    clock.now += LOOK
    sidecar.peek()
    harm(sidecar.path, MISSING.replace(generation=7))
    clock.now += LOOK
    assert sidecar.peek().record.generation == 7


@pytest.mark.parametrize("harm", [_delete, _link_elsewhere])
def test_that_another_program_took_it_away_is_seen_within_10_ms(
    sidecar: Sidecar, clock: Clock, harm: Callable[[str, Record], None]
) -> None:
    clock.now += LOOK
    sidecar.peek()
    harm(sidecar.path, MISSING)
    clock.now += LOOK
    assert sidecar.peek().record == MISSING


def test_a_descriptor_that_became_another_files_is_noticed_within_10_ms(
    sidecar: Sidecar, clock: Clock, tmp_path: Path
) -> None:
    """A program that becomes a daemon closes all of them, and opens others."""
    open_file = sidecar.peek().open_file
    assert open_file is not None
    fd = open_file.fd
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    os.ftruncate(other, os.path.getsize(sidecar.path))
    os.dup2(other, fd, inheritable=False)
    os.close(other)
    try:
        clock.now += LOOK
        found = sidecar.peek()
        assert found.record.generation == 1
        assert found.open_file is not None
        assert found.open_file.fd != fd
        assert os.path.samestat(os.fstat(fd), os.stat(tmp_path / "other")), "it was not closed"
    finally:
        os.close(fd)


def test_a_clock_that_was_set_back_has_it_read(sidecar: Sidecar, clock: Clock) -> None:
    before = sidecar.peek()
    clock.now -= 30.0
    assert sidecar.peek() is not before
    assert sidecar.peek().record.generation == 1


@pytest.mark.parametrize("kind", [Dogpile, SyncReaderDogpile])
def test_callers_reuse_one_guard_for_as_long_as_nothing_changes_and_the_resource_is_fresh(
    kind: type[Dogpile], path: str, clock: Clock
) -> None:
    dogpile = kind(61.0, path, init=True)
    clock.now += 60.0
    for _ in range(3):
        clock.now += LOOK
        with dogpile.acquire(never):
            pass
    guard = dogpile._shared.last_guard
    for _ in range(50):
        clock.now += LOOK
        with dogpile.acquire(never):
            pass
        assert dogpile._shared.last_guard is guard
    clock.now += 1.0
    created = []
    with dogpile.acquire(lambda: created.append(clock.now)):
        pass
    assert created == [clock.now]


def test_a_caller_with_a_reused_guard_sees_an_invalidation_at_once(path: str, clock: Clock) -> None:
    dogpile = Dogpile(3600.0, path, init=True)
    clock.now += 60.0
    for _ in range(5):
        clock.now += LOOK
        with dogpile.acquire(never):
            pass
    Dogpile(3600.0, path).invalidate()
    created = []
    with dogpile.acquire(lambda: created.append(True)):
        pass
    assert created == [True]


def test_a_reader_finds_within_10_ms_that_its_lock_file_was_replaced_though_the_sidecar_was_not(
    path: str, clock: Clock
) -> None:
    dogpile = SyncReaderDogpile(3600.0, path, init=True)
    clock.now += 60.0
    for _ in range(5):
        clock.now += LOOK
        with dogpile.acquire(never):
            pass
    guard = dogpile._shared.last_guard
    Path(path + ".other").touch()
    os.replace(path + ".other", path + RWLOCK_SUFFIX)
    _let_the_steady_clock_pass(2 * LOOK)
    clock.now += LOOK
    with dogpile.acquire(never):
        assert dogpile._shared.last_guard is guard
        writer = SyncReaderDogpile(3600.0, path, timeout=0.0)
        with pytest.raises(TimeoutError), writer.acquire_write_lock():
            pass


def test_a_caller_with_a_directory_finds_within_10_ms_that_its_path_leads_elsewhere(
    tmp_path: Path, clock: Clock
) -> None:
    for name in ("a", "b", "coordination"):
        (tmp_path / name).mkdir()
    here = tmp_path / "here"
    here.symlink_to("a")
    dogpile = Dogpile(3600.0, here / "resource", directory=tmp_path / "coordination", init=True)
    clock.now += 60.0
    for _ in range(5):
        clock.now += LOOK
        with dogpile.acquire(never):
            pass
    here.unlink()
    here.symlink_to("b")
    _let_the_steady_clock_pass(2 * LOOK)
    clock.now += LOOK
    created = []
    with dogpile.acquire(lambda: created.append(True)):
        pass
    assert created == [True]
