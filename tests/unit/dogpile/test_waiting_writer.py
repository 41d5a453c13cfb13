"""Readers that pass again and again: a writer that begins to wait tells them, or they find it soon."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dogpile_fs import LockTimeout, ReadWriteFileLock, SyncReaderDogpile
from dogpile_fs._locks import reader_pool
from dogpile_fs._locks.rw_protocol import is_writer_pending
from dogpile_fs._os.openfile import OpenFile
from tests.support.processes import PATIENCE, Processes, wait_for, waiters_for
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


@contextlib.contextmanager
def waiting(path: str) -> Iterator[None]:
    """Have a thread write, which waits until the block ends for a reader that is inside in another thread."""
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with warmed_up(path).acquire(never):
            entered.set()
            leave.wait(PATIENCE)

    threads = [threading.Thread(target=stay), threading.Thread(target=write, args=(path,))]
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
    monkeypatch.setattr("dogpile_fs._sidecar.file.LOOK_EVERY", 3600.0)
    monkeypatch.setattr(reader_pool, "_LOOK_EVERY", 3600.0)


@pytest.mark.usefixtures("for_long")
def test_a_readers_pass_is_four_system_calls_while_nothing_changes(path: str) -> None:
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
    assert calls[1] - calls[0] == 400


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


def test_a_writer_that_cannot_change_the_length_is_found_soon(path: str) -> None:
    lock_file = path + ".dogpile.rwlock"
    other = warmed_up(path, timeout=0.02)
    os.link(lock_file, path + ".link")
    before = os.path.getsize(lock_file)
    with waiting(path):
        wait_for(lambda: is_kept_out(other), "a reader that is kept out", 5)
        assert os.path.getsize(lock_file) == before, "the other name may be of a file whose bytes matter"


def test_a_writer_is_found_soon_though_another_program_undoes_its_change(path: str) -> None:
    lock_file = path + ".dogpile.rwlock"
    other = warmed_up(path, timeout=0.02)
    before = os.path.getsize(lock_file)
    with waiting(path):
        wait_for(lambda: os.path.getsize(lock_file) != before, "another length")
        os.truncate(lock_file, before)
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


def test_a_writer_that_need_not_wait_changes_no_length(path: str) -> None:
    write(path)
    before = os.path.getsize(path + ".dogpile.rwlock")
    for timeout in (0, None):
        with warmed_up(path).acquire(never):
            assert not SyncReaderDogpile(3600, path).readwritelock.acquire_write_lock(wait=False)
        with SyncReaderDogpile(3600, path).acquire_write_lock(timeout):
            pass
    assert os.path.getsize(path + ".dogpile.rwlock") == before


def test_a_writer_that_waits_makes_the_lock_file_a_byte_longer_which_takes_no_room(path: str) -> None:
    write(path)
    sidecar, before = Path(path + ".dogpile").read_bytes(), os.path.getsize(path + ".dogpile.rwlock")
    with waiting(path):
        wait_for(lambda: os.path.getsize(path + ".dogpile.rwlock") == before + 1, "another length")
    assert os.stat(path + ".dogpile.rwlock").st_blocks == 0
    assert Path(path + ".dogpile").read_bytes() == sidecar


def test_a_lock_file_that_a_program_names_itself_keeps_its_bytes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_text("its bytes matter")
    lock = ReadWriteFileLock(data)
    with lock.read():
        writer = threading.Thread(target=ReadWriteFileLock(data).acquire_write_lock)
        writer.start()
        wait_for(lambda: waiters_for(str(data)) == 1, "a writer that waits")
    writer.join(PATIENCE)
    assert data.read_text() == "its bytes matter"


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
            slot = other.readwritelock._idle[-1]  # type: ignore[attr-defined]
            assert slot.length == os.path.getsize(path + ".dogpile.rwlock"), "readers query no longer"
            assert other._record.createdtime > 0
            if ended:
                break
    assert number > 10
    write(path)
    assert SyncReaderDogpile(3600, path).status().state == "fresh"
