"""Readers that pass again and again: a writer that begins to wait tells them, or they find it soon."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from dogpile_fs import LockTimeout, ReadWriteFileLock, SyncReaderDogpile
from dogpile_fs._locks import reader_pool
from dogpile_fs._locks.rw_protocol import is_writer_pending
from dogpile_fs._os.openfile import OpenFile
from dogpile_fs._sidecar.file import Sidecar, contents
from dogpile_fs._sidecar.record import MISSING, SIZE, Record
from tests.support.processes import PATIENCE, Processes, ended_well, in_child, wait_for
from tests.support.processes import Record as Diary
from tests.support.tracing import NotTraceable, killed_before

#: Passes that come one after the other: enough to open all files, and to find all that is to be found.
WARM = 5


def never() -> None:
    raise AssertionError("it is fresh")


def warmed_up(path: str, timeout: float | None = None) -> SyncReaderDogpile:
    """Return a dogpile that has passed, so that it has an idle slot and a guard that the slot was entered with."""
    dogpile = SyncReaderDogpile(3600, path, timeout=timeout)
    for _ in range(WARM):
        read(dogpile)
    return dogpile


def read(dogpile: SyncReaderDogpile) -> None:
    with dogpile.acquire(never):
        pass


def is_kept_out(dogpile: SyncReaderDogpile) -> bool:
    try:
        read(dogpile)
    except LockTimeout:
        return True
    return False


def write(path: str) -> None:
    with SyncReaderDogpile(3600, path).acquire_write_lock():
        pass


def write_with_own_lock(path: str) -> None:
    with ReadWriteFileLock(path + ".dogpile.rwlock").write():
        pass


@contextlib.contextmanager
def waiting(path: str, how: Callable[[str], None] = write) -> Iterator[None]:
    """Have a thread write, which waits until the block ends for a reader that is inside in another thread."""
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with warmed_up(path).acquire(never):
            entered.set()
            leave.wait(PATIENCE)

    threads = [threading.Thread(target=stay), threading.Thread(target=how, args=(path,))]
    open_file = OpenFile.of_lock_file(path + ".dogpile.rwlock")
    try:
        threads[0].start()
        assert entered.wait(PATIENCE)
        threads[1].start()
        wait_for(lambda: is_writer_pending(open_file), "a writer that waits")
        yield
    finally:
        open_file.close()
        leave.set()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def created(path: str) -> None:
    assert SyncReaderDogpile(3600, path).refresh(lambda: None)


@pytest.fixture
def for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look is due: what readers find, a writer has told."""
    monkeypatch.setattr("dogpile_fs._sidecar.file._READ_EVERY", 3600.0)
    monkeypatch.setattr(reader_pool, "_LOOK_EVERY", 3600.0)


@pytest.mark.usefixtures("for_long")
def test_a_readers_pass_is_three_system_calls_while_nothing_changes(path: str) -> None:
    def passes(number: int) -> Callable[[], None]:
        def use() -> None:
            dogpile = warmed_up(path)
            for _ in range(number):
                read(dogpile)

        return use

    try:
        calls = [killed_before(0, passes(number)).calls for number in (0, 100)]
    except NotTraceable as error:
        pytest.skip(str(error))
    assert calls[1] - calls[0] == 300


@pytest.mark.usefixtures("for_long")
def test_the_next_reader_finds_a_writer_that_waits(path: str) -> None:
    other = warmed_up(path, timeout=0.02)
    for _ in range(3):
        with waiting(path):
            wait_for(lambda: is_kept_out(other), "a reader that is kept out")
            assert is_kept_out(other)
        for _ in range(WARM):
            read(other)


@pytest.mark.usefixtures("for_long")
def test_the_next_reader_of_another_process_finds_a_writer_that_waits(
    path: str, processes: Processes, record: Diary
) -> None:
    processes.start(_read_until_kept_out, path, record)
    record.wait("warm")
    with waiting(path):
        record.write("waits")
        processes.join()


def _read_until_kept_out(path: str, diary: Diary) -> None:
    other = warmed_up(path, timeout=0.02)
    diary.write("warm")
    diary.wait("waits")
    wait_for(lambda: is_kept_out(other), "a reader that is kept out")
    assert is_kept_out(other)


def test_a_writer_by_a_lock_of_its_own_is_found_soon(path: str) -> None:
    other = warmed_up(path, timeout=0.02)
    with waiting(path, write_with_own_lock):
        wait_for(lambda: is_kept_out(other), "a reader that is kept out", 5)


@pytest.mark.parametrize("own", [False, True])
def test_readers_that_overlap_do_not_starve_a_writer(path: str, own: bool) -> None:
    stop = threading.Event()

    def read_on() -> None:
        dogpile = warmed_up(path)
        while not stop.is_set():
            with dogpile.acquire(never):
                time.sleep(0.002)

    lock = ReadWriteFileLock(path + ".dogpile.rwlock") if own else SyncReaderDogpile(3600, path).readwritelock
    threads = [threading.Thread(target=read_on) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            with lock.write(timeout=30):
                pass
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)


def test_a_block_that_is_entered_later_than_it_was_made_waits_behind_a_writer(path: str) -> None:
    dogpile = warmed_up(path, timeout=0.02)
    made = dogpile.acquire(never)
    with waiting(path):
        time.sleep(0.02)  # the guard with which it was made is used for 10 ms
        with pytest.raises(LockTimeout):
            made.__enter__()


def test_a_writer_that_need_not_wait_writes_no_sidecar(path: str) -> None:
    before = Path(path + ".dogpile").read_bytes()
    write(path)
    with warmed_up(path).acquire(never):
        assert not SyncReaderDogpile(3600, path).readwritelock.acquire_write_lock(wait=False)
    assert Path(path + ".dogpile").read_bytes() == before


def test_a_writer_that_waits_changes_the_length_and_nothing_else(path: str) -> None:
    dogpile = warmed_up(path)
    before, length = dogpile._record, os.path.getsize(path + ".dogpile")
    with waiting(path):
        wait_for(lambda: os.path.getsize(path + ".dogpile") == length + 1, "another length")
    assert dogpile._record == before
    assert Path(path + ".dogpile").read_bytes() == contents(dogpile._record)


@pytest.mark.usefixtures("for_long")
def test_a_writer_that_dies_while_it_waits_leaves_readers_as_they_were(path: str) -> None:
    def write_in_vain() -> None:
        with contextlib.suppress(LockTimeout):
            SyncReaderDogpile(3600, path).readwritelock.acquire_write_lock(timeout=0.005)

    inside, other = warmed_up(path), warmed_up(path, timeout=PATIENCE)
    number = 0
    with inside.acquire(never):
        while True:
            number += 1
            try:
                ended = killed_before(number, write_in_vain).call is None
            except NotTraceable as error:
                pytest.skip(str(error))
            for _ in range(WARM):
                read(other)
            guard = other._shared.last_guard
            assert guard is not None
            assert other.readwritelock._idle[-1].checked_with is guard, "readers query no longer"  # type: ignore[attr-defined]
            assert other._record.createdtime > 0
            if ended:
                break
    assert number > 10
    write(path)
    assert SyncReaderDogpile(3600, path).status().state == "fresh"


# Sidecar.end_snapshots().


@pytest.fixture
def sidecar(path: str) -> Sidecar:
    made = Sidecar(path + ".dogpile.other")
    made.change(lambda _: Record(createdtime=1000.0, generation=7))
    return made


@pytest.mark.usefixtures("for_long")
def test_no_snapshot_is_current_afterwards_and_the_record_is_the_same(sidecar: Sidecar) -> None:
    other = Sidecar(sidecar.path)
    for _ in range(3):
        before = sidecar.peek()
        assert before.is_current()
        other.end_snapshots()
        assert not before.is_current()
        assert sidecar.peek().record == before.record
        assert Path(sidecar.path).read_bytes() == contents(sidecar.peek().record)


@pytest.mark.parametrize("found", [b"", b"x" * SIZE, b"x" * 5000, b'{"format": 999}'.ljust(SIZE)])
def test_what_is_no_sound_record_stays_as_it_is(sidecar: Sidecar, found: bytes) -> None:
    Path(sidecar.path).write_bytes(found)
    sidecar.end_snapshots()
    assert Path(sidecar.path).read_bytes() == found


def test_a_missing_sidecar_is_not_made(sidecar: Sidecar) -> None:
    os.unlink(sidecar.path)
    sidecar.end_snapshots()
    assert sidecar.read().record is MISSING
    assert not os.path.lexists(sidecar.path)


def test_another_programs_lock_holds_it_up_for_a_moment_only(sidecar: Sidecar) -> None:
    with open(sidecar.path) as locked:
        flock(locked, LOCK_EX)
        began = time.monotonic()
        sidecar.end_snapshots()
        assert time.monotonic() - began < 5
        before = sidecar.peek().record
    assert Sidecar(sidecar.path).read().record == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_process_that_may_only_read_the_sidecar_leaves_it(sidecar: Sidecar, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    os.chmod(sidecar.path, 0o644)
    before = Path(sidecar.path).read_bytes()

    def end() -> None:
        os.setresuid(65534, 65534, 65534)
        sidecar.end_snapshots()

    assert ended_well(in_child(end))
    assert Path(sidecar.path).read_bytes() == before


def test_a_length_that_another_program_has_set_is_corrected(sidecar: Sidecar) -> None:
    before = sidecar.peek().record
    os.truncate(sidecar.path, 100_000)
    sidecar.end_snapshots()
    now = Sidecar(sidecar.path).read().record
    assert now == before
    assert Path(sidecar.path).read_bytes() == contents(now)
