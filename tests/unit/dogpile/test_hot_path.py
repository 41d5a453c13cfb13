"""The hot path: one question for the sidecar, a pass for all who come after, a seat for each reader."""

from __future__ import annotations

import contextlib
import errno
import gc
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

import pytest

from dogpile_fs import (
    Datafile,
    Dogpile,
    FileMutex,
    NeedRegenerationException,
    ReadWriteFileLock,
    SyncReaderDogpile,
)
from dogpile_fs._locks import holds
from dogpile_fs._locks import reader_pool as seats
from dogpile_fs._os.waiting import FOREVER
from dogpile_fs._sidecar.file import Sidecar, contents
from dogpile_fs._sidecar.record import DAMAGED, MISSING, SIZE, Attempt, Record
from tests.support.processes import PATIENCE, Processes, ended_well, in_child, wait_for
from tests.support.processes import Record as Diary
from tests.support.tracing import NotTraceable, killed_before

BOTH = pytest.mark.parametrize("kind", [Dogpile, SyncReaderDogpile])


def never() -> None:
    raise AssertionError("it is fresh")


Kind = TypeVar("Kind", bound=Dogpile)


def warmed_up(dogpile: Kind) -> Kind:
    """With a pass left behind, and an idle seat if it has readers."""
    for _ in range(3):
        with dogpile.acquire(never):
            pass
    assert dogpile._shared.last_guard is not None
    return dogpile


def open_here(directory: str) -> list[str]:
    """What this process has open below *directory*."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if name.startswith(directory):
            found.append(name)
    return found


@pytest.fixture
def no_gc() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def often() -> Iterator[None]:
    """Threads take turns often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Clock:
    """The wall clock of the modules that pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shift = 0.0
        for module in (
            "_dogpile.dogpile",
            "_dogpile.election",
            "_sidecar.file",
            "_sidecar.snapshot",
            "_sidecar.reconciled",
        ):
            monkeypatch.setattr(f"dogpile_fs.{module}.time", self)

    def __call__(self) -> float:
        return time.time() + self.shift


class StoppedClock(Clock):
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        super().__init__(monkeypatch)

    def __call__(self) -> float:
        return self.now


# The length.


def test_every_change_by_another_object_is_seen_at_once_also_where_the_length_begins_again(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dogpile_fs._sidecar.file.LOOK_EVERY", 3600.0)
    reader, writer = Sidecar(path), Sidecar(path)
    Path(path).write_bytes(contents(Record(createdtime=1.0, changes=2045)))
    lengths = []
    for number in range(1, 7):
        reader.peek()
        writer.change(lambda record: record.replace(generation=record.generation + 1))
        lengths.append(os.path.getsize(path))
        assert Path(path).read_bytes() == contents(writer.read().record)
        assert reader.peek().record.generation == number
    assert lengths == [4094, 4095, SIZE, SIZE + 1, SIZE + 2, SIZE + 3]
    writer.change(lambda record: record.invalidate(now=1000.0, hard=False))
    assert reader.peek().record.invalidated == "soft"


@pytest.mark.parametrize("length", [0, 100, SIZE - 1, SIZE, SIZE + 1, 4095, 4096, 100_000])
def test_a_length_set_by_another_program_is_noticed_and_corrected_by_the_next_change(
    path: str, length: int
) -> None:
    sidecar, record = Sidecar(path), Record(createdtime=1.0, generation=7)
    sidecar.change(lambda _: record)
    sidecar.peek()
    os.truncate(path, length)
    assert sidecar.read().record == (record if length >= SIZE else DAMAGED)
    assert sidecar.peek().record == (record if length >= SIZE else DAMAGED)
    sidecar.change(lambda _: record.replace(generation=8))
    now = sidecar.read().record
    assert Path(path).read_bytes() == contents(now)
    assert sidecar.peek().record.generation == 8


def test_a_change_that_leaves_the_length_is_seen_soon(path: str) -> None:
    reader, writer = Sidecar(path), Sidecar(path)
    writer.change(lambda _: Record(createdtime=1.0, generation=1))
    reader.peek()
    writer.change(lambda record: record.begun(Attempt("host", 1, 1.0), None))
    assert reader.read().record.attempt == Attempt("host", 1, 1.0)
    writer.change(lambda record: record.begun(Attempt("host", 2, 1.0), None))
    wait_for(lambda: reader.peek().record.attempt == Attempt("host", 2, 1.0), "the attempt", 5)


def test_two_records_that_share_a_checksum_differ_by_the_length(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dogpile_fs._sidecar.decoding.zlib.crc32", lambda data: 7)
    reader, writer = Sidecar(path), Sidecar(path)
    writer.change(lambda _: Record(createdtime=1.0, generation=1))
    assert reader.peek().record.has_value
    writer.change(lambda record: record.invalidate(now=1000.0, hard=True))
    time.sleep(0.02)
    assert not reader.peek().record.has_value
    assert not reader.read().record.has_value
    reader.change(lambda record: record.replace(cost=1.0))  # must not undo it
    assert not writer.read().record.has_value


@pytest.mark.usefixtures("often")
def test_threads_that_pass_while_the_sidecar_is_deleted_meet_no_error(path: str) -> None:
    dogpile = Dogpile(3600, path, init=True)
    errors: list[BaseException] = []
    enough = threading.Event()

    def use() -> None:
        while not enough.is_set():
            try:
                with dogpile.acquire(lambda: None):
                    pass
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 1.5
    while time.monotonic() < end and not errors:
        time.sleep(0.003)
        Path(path + ".dogpile").unlink(missing_ok=True)
    enough.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert errors == []


def test_a_stale_handle_is_opened_anew(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sidecar = Sidecar(path)
    sidecar.change(lambda _: Record(createdtime=1.0, generation=1))
    open_file = sidecar.peek().open_file
    assert open_file is not None
    fstat, stale = os.fstat, open_file.fd

    def fails(fd: int) -> os.stat_result:
        if fd == stale and open_file.fd == stale:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return fstat(fd)

    monkeypatch.setattr("dogpile_fs._os.openfile.os.fstat", fails)
    assert sidecar.read().record.generation == 1


# Passing through on the strength of another's pass.


def _invalidate(path: str, diary: Diary, hard: bool) -> None:
    dogpile = Dogpile(3600, path)
    for number in range(1, 11):
        diary.wait("next", number)
        dogpile.invalidate(hard)
        diary.write("invalidated")


@BOTH
@pytest.mark.parametrize("hard", [False, True])
def test_an_invalidation_by_another_process_is_seen_at_once_by_the_next_pass(
    kind: type[Dogpile],
    hard: bool,
    path: str,
    processes: Processes,
    record: Diary,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dogpile_fs._sidecar.file.LOOK_EVERY", 3600.0)
    processes.start(_invalidate, path, record, hard)
    dogpile = kind(3600, path, init=True)
    created: list[int] = []
    for number in range(1, 11):
        warmed_up(dogpile)
        record.write("next")
        record.wait("invalidated", number)
        with dogpile.acquire(lambda: created.append(1)):
            assert len(created) == number
    processes.join()


@BOTH
def test_no_caller_reuses_a_guard_from_before_the_expiretime_was_set(kind: type[Dogpile], path: str) -> None:
    dogpile = warmed_up(kind(3600, path, init=True))
    dogpile.expiretime = 0
    created: list[int] = []
    for _ in range(3):
        with dogpile.acquire(lambda: created.append(1)):
            pass
    assert len(created) == 3


@BOTH
def test_a_guard_is_reused_no_longer_than_the_resource_is_fresh(
    kind: type[Dogpile], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = StoppedClock(monkeypatch)
    dogpile = kind(10, path, init=True)
    born = clock.now
    clock.now = born + 10 - 0.002
    warmed_up(dogpile)
    clock.now = born + 10
    created: list[int] = []
    with dogpile.acquire(lambda: created.append(1)):
        assert created


@BOTH
@pytest.mark.parametrize("shift", [-3600.0, -2.0, 3601.0])
def test_a_guard_is_not_reused_when_the_clock_was_set(
    kind: type[Dogpile], shift: float, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    dogpile = warmed_up(kind(3600, path, init=True))
    clock.shift = shift
    created: list[int] = []
    with dogpile.acquire(lambda: created.append(1)):
        assert created


@BOTH
def test_a_stale_guard_ends_when_the_next_election_may_begin(
    kind: type[Dogpile], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dogpile, other = kind(3600, path, init=True), Dogpile(3600, path)
    dogpile.invalidate()
    assert other.dogpilelock.acquire(wait=False)
    for _ in range(4):
        with dogpile.acquire(never):
            pass
    other.dogpilelock.release()
    time.sleep(0.02)
    created: list[int] = []
    with dogpile.acquire(lambda: created.append(1)):
        assert created


@BOTH
def test_a_child_passes_and_notices_what_changes(kind: type[Dogpile], path: str) -> None:
    dogpile = warmed_up(kind(3600, path, init=True))

    def use() -> None:
        assert dogpile._shared.last_guard is not None
        assert dogpile._shared.last_guard.open_file.fd < 0
        warmed_up(dogpile)
        Dogpile(3600, path).invalidate(hard=True)
        created: list[int] = []
        with dogpile.acquire(lambda: created.append(1)):
            assert created

    assert ended_well(in_child(use))
    with dogpile.acquire(never):
        pass


@BOTH
def test_a_sidecar_that_was_deleted_is_noticed_by_passes_soon(kind: type[Dogpile], path: str) -> None:
    dogpile = warmed_up(kind(3600, path, init=True))
    os.unlink(path + ".dogpile")
    created: list[int] = []

    def passes() -> list[int]:
        with dogpile.acquire(lambda: created.append(1)):
            return created

    wait_for(passes, "somebody to notice", 5)


@BOTH
def test_a_caller_that_misses_a_value_with_a_reused_guard_invalidates_it(kind: type[Dogpile], path: str) -> None:
    dogpile = warmed_up(kind(3600, path, init=True))
    with pytest.raises(NeedRegenerationException), dogpile.acquire(never):
        raise NeedRegenerationException
    assert not dogpile.has_value
    if isinstance(dogpile, SyncReaderDogpile):
        assert not dogpile.readwritelock._inside()


def test_a_caller_that_misses_a_value_in_a_datafile_invalidates_it(path: str) -> None:
    datafile = Datafile(path, 3600, lambda target: Path(target).touch())
    for _ in range(3):
        with datafile.open():
            pass
    with pytest.raises(NeedRegenerationException), datafile.open():
        raise NeedRegenerationException
    assert not datafile._dogpile.has_value


def test_a_file_that_was_removed_is_noticed_by_passes_soon(path: str) -> None:
    dogpile = Dogpile(3600, path, resource="file")
    with dogpile.acquire(Path(path).touch):
        pass
    warmed_up(dogpile)
    os.unlink(path)
    time.sleep(0.001)
    with dogpile.acquire(Path(path).touch):
        assert os.path.exists(path)


# Without a sidecar: what was there before anybody created it.


def adopted(path: str, text: str = "shipped") -> str:
    """A file at *path* that nobody has created, a minute old."""
    Path(path).write_text(text)
    os.utime(path, (time.time() - 60, time.time() - 60))
    return path


def contents_of(file: IO[bytes]) -> str:
    return file.read().decode()


def passes(dogpile: Dogpile, creator: Callable[[], None]) -> None:
    with dogpile.acquire(creator):
        pass


@pytest.fixture
def for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look is due: what is noticed, one system call has told."""
    monkeypatch.setattr("dogpile_fs._sidecar.file.LOOK_EVERY", 3600.0)
    monkeypatch.setattr("dogpile_fs._sidecar.reconciled._LOOK_EVERY", 3600.0)


@pytest.fixture(params=["access", "lexists"])
def both_questions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the system refuses the cheaper one."""
    if request.param == "lexists":
        monkeypatch.setattr("dogpile_fs._sidecar.snapshot._is_there", os.path.lexists)


def system_calls_of(action: Callable[[], object]) -> int:
    try:
        return killed_before(0, action).calls
    except NotTraceable as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("for_long", "no_gc")
@pytest.mark.parametrize("is_created", [False, True])
@pytest.mark.parametrize("how", ["pass", "load"])
def test_a_pass_with_or_without_a_sidecar_is_one_system_call_when_nothing_is_new(
    path: str, how: str, is_created: bool
) -> None:
    datafile = Datafile(adopted(path))
    if is_created:
        datafile.touch()
    assert os.path.exists(path + ".dogpile") == is_created

    def times(number: int) -> Callable[[], None]:
        def use() -> None:
            for _ in range(number):
                if how == "pass":
                    passes(datafile._dogpile, never)
                else:
                    datafile.load(contents_of)

        return use

    times(10)()
    # A child has to open the sidecar anew, hence not from 0 on.
    assert system_calls_of(times(110)) - system_calls_of(times(10)) == 100


def _invalidate_each(path: str, diary: Diary, hard: bool) -> None:
    for number in range(1, 11):
        diary.wait("next", number)
        Dogpile(3600, f"{path}.{number}").invalidate(hard)
        diary.write("invalidated")


@BOTH
@pytest.mark.usefixtures("for_long")
@pytest.mark.parametrize("hard", [False, True])
def test_an_adopted_files_invalidation_by_another_process_is_seen_at_once_by_the_next_pass(
    kind: type[Dogpile], hard: bool, path: str, processes: Processes, record: Diary
) -> None:
    processes.start(_invalidate_each, path, record, hard)
    created: list[int] = []
    for number in range(1, 11):
        dogpile = kind(3600, adopted(f"{path}.{number}"), resource="file")
        for _ in range(3):
            passes(dogpile, never)
        record.write("next")
        record.wait("invalidated", number)
        passes(dogpile, lambda: created.append(1))
        assert len(created) == number
    processes.join()


def _create_each(path: str, diary: Diary) -> None:
    for number in range(1, 11):
        diary.wait("next", number)
        Datafile(f"{path}.{number}", 3600, lambda target: Path(target).write_text("created")).refresh(force=True)
        diary.write("created")


@pytest.mark.usefixtures("for_long")
def test_an_adopted_files_first_creation_by_another_process_is_loaded_at_once(
    path: str, processes: Processes, record: Diary
) -> None:
    processes.start(_create_each, path, record)
    for number in range(1, 11):
        datafile = Datafile(adopted(f"{path}.{number}"), 3600)
        for _ in range(3):
            assert datafile.load(contents_of) == "shipped"
        record.write("next")
        record.wait("created", number)
        assert datafile.load(contents_of) == "created"
    processes.join()


def test_a_replaced_adopted_file_is_loaded_a_moment_later_and_a_removed_one_is_created(
    path: str,
) -> None:
    datafile = Datafile(adopted(path), 3600, lambda target: Path(target).write_text("created"))
    for number in range(5):
        os.replace(adopted(path + ".other", f"other {number}"), path)
        time.sleep(0.001)
        for _ in range(3):
            assert datafile.load(contents_of) == f"other {number}"
    assert not os.path.exists(path + ".dogpile")
    os.unlink(path)
    time.sleep(0.001)
    assert datafile.load(contents_of) == "created"


@pytest.mark.usefixtures("for_long")
def test_an_adopted_file_is_fresh_for_no_longer_than_it_would_be_with_a_sidecar(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = StoppedClock(monkeypatch)
    dogpile = Dogpile(3600, adopted(path), resource="file")
    born = os.stat(path).st_mtime
    clock.now = born + 3600 - 0.002
    for _ in range(3):
        passes(dogpile, never)
    clock.now = born + 3600
    created: list[int] = []
    passes(dogpile, lambda: created.append(1))
    assert created


def test_that_there_is_no_sidecar_is_believed_for_as_long_as_a_sidecar_and_not_when_the_clock_was_set(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = StoppedClock(monkeypatch)
    sidecar = Sidecar(path)
    for step in (0.011, -0.001, -3600.0, 7200.0):
        before = sidecar.peek()
        assert sidecar.peek() is before
        clock.now += step
        after = sidecar.peek()
        assert after is not before
        assert after.record is MISSING


@pytest.mark.usefixtures("for_long", "both_questions")
def test_the_first_sidecar_is_seen_at_once_and_so_is_whatever_else_is_put_there(path: str) -> None:
    reader, writer = Sidecar(path), Sidecar(path)
    Path(path + ".elsewhere").touch()
    for target in ("nowhere", path + ".elsewhere"):
        assert reader.peek().record is MISSING
        os.symlink(target, path)
        assert reader.peek().record is MISSING
        assert not os.path.lexists(path), "it was not looked at"
    writer.change(lambda _: Record(createdtime=1.0, generation=1))
    assert reader.peek().record.generation == 1


@pytest.mark.usefixtures("for_long", "both_questions")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_the_first_sidecar_is_seen_at_once_by_a_process_that_may_enter_its_directory_only_as_its_effective_user(
    path: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)

    def use() -> None:
        os.setresuid(65534, 0, 0)
        reader = Sidecar(path)
        assert reader.peek().record is MISSING
        Sidecar(path).change(lambda _: Record(createdtime=1.0, generation=1))
        assert reader.peek().record.generation == 1

    assert ended_well(in_child(use))


@BOTH
@pytest.mark.usefixtures("for_long")
def test_a_child_that_inherits_an_adopted_file_sees_its_first_sidecar_at_once_and_so_does_the_parent(
    kind: type[Dogpile], path: str
) -> None:
    dogpile = kind(3600, adopted(path), resource="file")
    passes(dogpile, never)

    def use() -> None:
        passes(dogpile, never)
        Dogpile(3600, path).invalidate(hard=True)
        created: list[int] = []
        passes(dogpile, lambda: created.append(1))
        assert created

    assert ended_well(in_child(use))
    passes(dogpile, never)
    assert dogpile.status().generation == 1
    assert dogpile._shared.last_guard is not None, "it passes by the sidecar now"


# Seats.


@pytest.mark.usefixtures("often")
def test_each_thread_inside_has_a_slot_of_its_own_and_few_are_kept(path: str) -> None:
    lock, other = ReadWriteFileLock(path), ReadWriteFileLock(path)

    def read(entered: threading.Barrier, leave: threading.Event) -> None:
        with lock.read():
            entered.wait(PATIENCE)
            leave.wait(PATIENCE)

    for _ in range(3):  # the first time all make a seat, later some find one
        entered = threading.Barrier(9)
        leave = [threading.Event() for _ in range(8)]
        threads = [threading.Thread(target=read, args=(entered, event)) for event in leave]
        for thread in threads:
            thread.start()
        entered.wait(PATIENCE)
        taken = list(holds.living(seats.ReaderSlot, lock.path))
        assert len({id(seat) for seat in taken}) == len({seat.fd for seat in taken}) == 8
        assert not {id(seat) for seat in taken} & {id(seat) for seat in lock._idle}
        for event, thread in zip(leave, threads, strict=True):
            assert not other.acquire_write_lock(wait=False)
            event.set()
            thread.join(PATIENCE)
        assert 1 <= len(lock._idle) <= 4
        assert len(open_here(path)) == len(lock._idle)
        assert other.acquire_write_lock(wait=False), "idle seats lock nothing"
        other.release_write_lock()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, GeneratorExit])
def test_a_block_that_raises_gives_its_lock_back(path: str, error: type[BaseException]) -> None:
    dogpile = SyncReaderDogpile(3600, path, init=True)
    for _ in range(4):
        with pytest.raises(error), dogpile.acquire(never), dogpile.acquire(never):  # noqa: PT012
            assert dogpile.readwritelock._inside() == "reader"
            raise error
        assert dogpile.readwritelock._inside() == ""
        assert ReadWriteFileLock(path + ".dogpile.rwlock").acquire_write_lock(wait=False)


def test_blocks_that_end_in_another_order_keep_writers_out_until_the_last(path: str) -> None:
    dogpile, other = (
        warmed_up(SyncReaderDogpile(3600, path, init=True)),
        ReadWriteFileLock(path + ".dogpile.rwlock"),
    )
    first, second, third = (dogpile.acquire(never) for _ in range(3))
    for block in (first, second, third):
        block.__enter__()
    for block in (first, third, second):
        assert not other.acquire_write_lock(wait=False)
        block.__exit__(None, None, None)
    assert other.acquire_write_lock(wait=False)


def test_a_block_in_a_generator_may_end_in_another_thread(path: str) -> None:
    dogpile = warmed_up(SyncReaderDogpile(3600, path, init=True))

    def reading() -> Iterator[None]:
        with dogpile.acquire(never):
            yield

    generator = reading()
    next(generator)
    thread = threading.Thread(target=generator.close)  # type: ignore[attr-defined]
    thread.start()
    thread.join(PATIENCE)
    assert dogpile.readwritelock._inside() == ""
    with dogpile.acquire(never):
        assert not ReadWriteFileLock(path + ".dogpile.rwlock").acquire_write_lock(wait=False)
    assert ReadWriteFileLock(path + ".dogpile.rwlock").acquire_write_lock(wait=False)


def test_a_slot_that_is_never_entered_is_no_reader(path: str) -> None:
    dogpile = warmed_up(SyncReaderDogpile(3600, path, init=True))
    dogpile.acquire(never)
    unused = dogpile.acquire(never)
    with dogpile.acquire_write_lock(timeout=1):
        pass
    del unused
    assert len(open_here(path + ".dogpile.rwlock")) <= 1


def test_a_used_context_manager_does_not_share_its_slot_with_the_next_reader(path: str) -> None:
    dogpile = warmed_up(SyncReaderDogpile(3600, path, init=True))
    used = dogpile.acquire(never)
    with used:
        pass
    entered = False
    try:
        used.__enter__()
        entered = True
    except Exception:  # to refuse is right
        pass
    with dogpile.acquire(never):
        if entered:
            with contextlib.suppress(Exception):
                used.__exit__(None, None, None)
        free = ReadWriteFileLock(path + ".dogpile.rwlock").acquire_write_lock(wait=False)
    left = list(holds.living(seats.ReaderSlot, path + ".dogpile.rwlock"))
    assert not free
    assert left == []


def test_a_reader_that_was_interrupted_while_entering_is_outside_at_once(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dogpile = warmed_up(SyncReaderDogpile(3600, path, init=True))

    def interrupted() -> float:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(seats, "monotonic", interrupted)
    dogpile.readwritelock._idle[0].checked_at = math.inf  # type: ignore[attr-defined]  # it looks at the path again
    try:
        with dogpile.acquire(never):
            raise AssertionError("not interrupted")
    except KeyboardInterrupt:  # the traceback keeps the seat
        assert dogpile.readwritelock.acquire_write_lock(wait=False)


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("kind", [FileMutex, ReadWriteFileLock])
def test_looking_for_a_callers_own_holds_is_not_disturbed_by_other_threads(kind: type, path: str) -> None:
    errors: list[BaseException] = []
    enough = threading.Event()

    def until_enough(action: Callable[[], object]) -> None:
        while not enough.is_set():
            try:
                action()
            except BaseException as error:
                errors.append(error)
                enough.set()

    def lock_all(locks: list[FileMutex]) -> None:
        for lock in locks:
            lock.acquire()
        for lock in locks:
            lock.release()

    asked = kind(path)
    ask = partial(asked._refuse_to_wait_for_oneself, FOREVER) if isinstance(asked, FileMutex) else asked._inside
    threads = [
        threading.Thread(target=until_enough, args=(lambda many=many: lock_all(many),))
        for many in ([kind(f"{path}.{number}.{each}") for each in range(4)] for number in range(3))
    ]
    threads.append(threading.Thread(target=until_enough, args=(ask,)))
    for thread in threads:
        thread.start()
    enough.wait(1.0)
    enough.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert errors == []


def test_a_child_has_no_slot_of_its_parents(path: str) -> None:
    dogpile = warmed_up(SyncReaderDogpile(3600, path, init=True))
    lock = path + ".dogpile.rwlock"
    entered, leave = threading.Event(), threading.Event()

    def read() -> None:
        with dogpile.acquire(never):
            entered.set()
            leave.wait(PATIENCE)

    thread = threading.Thread(target=read)
    thread.start()
    entered.wait(PATIENCE)
    parent = os.getpid()
    with dogpile.acquire(never):
        pid = os.fork()
        if pid == 0:
            inherited = open_here(lock)
            reused = [os.open(path + ".dogpile", os.O_RDWR) for _ in range(6)]  # the numbers, used again
    if os.getpid() != parent:
        try:
            assert inherited == []
            for fd in reused:
                os.fstat(fd)
            warmed_up(dogpile)
            assert dogpile.readwritelock._inside() == ""
            assert not ReadWriteFileLock(lock).acquire_write_lock(wait=False), "the parent's thread is inside"
            os._exit(0)
        finally:
            os._exit(1)
    assert ended_well(pid)
    assert not ReadWriteFileLock(lock).acquire_write_lock(wait=False)
    leave.set()
    thread.join(PATIENCE)
    assert ReadWriteFileLock(lock).acquire_write_lock(wait=False)


# What is dropped is closed at once.


@pytest.mark.usefixtures("no_gc")
def test_a_dropped_object_leaves_no_descriptor(path: str) -> None:
    def create(target: str) -> None:
        Path(target).write_text("data")

    for kind in (Dogpile, SyncReaderDogpile):
        dogpile = warmed_up(kind(3600, path, init=True))
        with dogpile.acquire(never), dogpile.acquire(never):
            pass
        with pytest.raises(ZeroDivisionError), dogpile.acquire(never):
            raise ZeroDivisionError
        dogpile.refresh(lambda: None, force=True)
        del dogpile
        assert open_here(path) == []
    for readers in (False, True):
        datafile = Datafile(f"{path}.{readers}", 3600, create, readers=readers)
        for _ in range(3):
            with datafile.open() as file:
                file.read()
            with datafile.acquire():
                pass
            datafile.load(lambda file: file.read())
        datafile.refresh(force=True)
        with datafile.open() as file:
            del file
        del datafile
        assert open_here(path) == []


@pytest.mark.usefixtures("no_gc")
def test_an_object_dropped_by_a_child_forked_inside_leaves_no_descriptor(path: str) -> None:
    dogpile = warmed_up(SyncReaderDogpile(3600, path, init=True))
    parent = os.getpid()
    with dogpile.acquire(never):
        pid = os.fork()
    if os.getpid() != parent:
        status = 99
        try:
            warmed_up(dogpile)
            del dogpile
            status = len(open_here(path))
        finally:
            os._exit(status)
    assert ended_well(pid)
