"""The sidecar file, under changes by other processes, torn writes, foreign hands and full disks."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import resource
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_SH, flock
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import LockTimeout, SidecarError
from dogpile_fs._sidecar.decoding import decode
from dogpile_fs._sidecar.encoding import encode
from dogpile_fs._sidecar.file import _LENGTHS, Sidecar, contents
from dogpile_fs._sidecar.record import DAMAGED, MISSING, SIZE, Attempt, Record
from tests.support.processes import PATIENCE, Processes, in_child, wait_for
from tests.support.processes import Record as Diary

OLD = Record(createdtime=1000.0, generation=1, cost=0.5, host="here", pid=7)
NEW = Record(createdtime=2000.0, generation=2, cost=0.25, host="there", pid=8, invalidated="soft", invalidations=3)


@pytest.fixture
def sidecar(path: str) -> Sidecar:
    return Sidecar(path + ".dogpile")


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "dogpile_fs")
    return caplog


def to(record: Record) -> Callable[[Record], Record]:
    return lambda _: record


def counted(record: Record) -> Record:
    return record.replace(generation=record.generation + 1)


def holds(path: str, record: Record) -> bool:
    """Whether the file at *path* holds *record*, and is as long as its count of writes says."""
    data = Path(path).read_bytes()
    back = decode(data[:SIZE])
    return back == record and back is not None and data == contents(back)


def put(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


def newer() -> bytes:
    """An undamaged record of a format that is not known yet."""
    body = b'{"dogpile_fs": 2, "created": "yesterday"}'.ljust(SIZE - 9)
    return body + b"%08x\n" % zlib.crc32(body)


def promptly(action: Callable[[], Any]) -> Any:
    """What *action* returns or raises; the test fails, and does not hang, if *action* hangs."""
    ends: list[Callable[[], Any]] = []

    def run() -> None:
        try:
            value = action()
            ends.append(lambda: value)
        except BaseException as error:
            caught = error

            def again() -> Any:
                raise caught

            ends.append(again)

    threading.Thread(target=run, daemon=True).start()
    return wait_for(lambda: ends, f"the end of {action}", 20)[0]()


def descriptors_of(path: str) -> int:
    """How many descriptors this process has open on the file at *path*."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{fd}") == path
    return count


# What is written is what is read.


def test_a_missing_sidecar_means_missing_and_reading_does_not_make_it(sidecar: Sidecar) -> None:
    assert sidecar.peek().record == sidecar.read().record == MISSING
    assert not os.path.exists(sidecar.path)


def test_a_change_gets_the_current_record_and_its_result_is_read(sidecar: Sidecar) -> None:
    given: list[Record] = []

    def make(record: Record) -> Record:
        given.append(record)
        return (OLD, NEW)[len(given) - 1]

    for made in (OLD, NEW):
        sidecar.change(make)
        assert sidecar.peek().record == sidecar.read().record == Sidecar(sidecar.path).peek().record == made
    assert given == [MISSING, OLD]
    assert holds(sidecar.path, NEW)


def test_a_change_that_makes_nothing_new_writes_nothing(sidecar: Sidecar) -> None:
    sidecar.change(to(OLD))
    before = Path(sidecar.path).read_bytes()
    sidecar.change(lambda record: record)
    assert Path(sidecar.path).read_bytes() == before


def test_each_write_changes_the_length_and_damage_does_not_begin_it_anew(sidecar: Sidecar) -> None:
    lengths = []
    for number in range(6):
        sidecar.change(lambda record: record.begun(Attempt("here", 7, 1.0), None))
        lengths.append(os.path.getsize(sidecar.path))
        if number == 2:
            put(sidecar.path, b"x" * lengths[-1])
    assert lengths == [SIZE + number for number in range(1, 7)]


@pytest.mark.parametrize("changes", [5, _LENGTHS - 1, _LENGTHS, 2 * _LENGTHS - 1])
@pytest.mark.parametrize("longer", [0, 3000])
def test_a_reader_in_the_middle_of_a_change_sees_the_new_record_at_once_afterwards(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch, changes: int, longer: int
) -> None:
    monkeypatch.setattr("dogpile_fs._sidecar.file.LOOK_EVERY", 3600.0)
    put(sidecar.path, contents(OLD.replace(changes=changes)) + bytes(longer))
    readers = [Sidecar(sidecar.path)]
    readers[0].peek()

    def with_reader(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            readers.append(Sidecar(sidecar.path))
            assert readers[-1].peek().record in (OLD, NEW)
            return call(*arguments)

        return called

    with monkeypatch.context() as patched:
        for name in ("pwrite", "ftruncate"):
            patched.setattr(os, name, with_reader(getattr(os, name)))
        sidecar.change(to(NEW))
    assert len(readers) > 1
    assert [reader.peek().record for reader in readers] == [NEW] * len(readers)
    assert holds(sidecar.path, NEW)


def test_a_change_that_raises_leaves_the_old_record_and_no_lock(sidecar: Sidecar) -> None:
    sidecar.change(to(OLD))

    def fail(record: Record) -> Record:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sidecar.change(fail)
    assert sidecar.peek().record == OLD
    promptly(lambda: sidecar.change(to(NEW)))
    assert sidecar.peek().record == NEW


def _change_to_each(path: str, records: list[Record], diary: Diary) -> None:
    sidecar = Sidecar(path)
    for number, record in enumerate(records):
        diary.wait("next", number + 1)
        sidecar.change(to(record))
        diary.write("changed")


def test_a_change_by_another_process_is_seen_at_once(
    sidecar: Sidecar, record: Diary, processes: Processes
) -> None:
    sidecar.change(to(OLD))
    records = [NEW.replace(generation=number) for number in range(20)]
    processes.start(_change_to_each, sidecar.path, records, record)
    for number, expected in enumerate(records):
        sidecar.peek()  # what was read a moment ago is known
        record.write("next")
        record.wait("changed", number + 1)
        assert sidecar.peek().record == expected
        assert sidecar.read().record == expected
    processes.join()


@pytest.mark.parametrize(
    ("mode", "umask", "expected"), [(0o640, 0o077, 0o640), (None, 0o027, 0o640), (0o666, 0o022, 0o666)]
)
def test_a_new_sidecar_has_the_given_permissions_or_what_the_umask_leaves(
    path: str, mode: int | None, umask: int, expected: int
) -> None:
    before = os.umask(umask)
    try:
        Sidecar(path, mode).change(to(OLD))
    finally:
        os.umask(before)
    assert f"{os.stat(path).st_mode & 0o7777:04o}" == f"{expected:04o}"


def test_the_permissions_of_a_sidecar_that_is_there_are_left_alone(path: str) -> None:
    Sidecar(path, 0o640).change(to(OLD))
    Sidecar(path, 0o666).change(to(NEW))
    assert f"{os.stat(path).st_mode & 0o7777:04o}" == "0640"


# Deleted or replaced.


def _delete(path: str) -> Record:
    os.unlink(path)
    return MISSING


def _replace(path: str) -> Record:
    put(path + ".new", encode(NEW))
    os.replace(path + ".new", path)
    return NEW


@pytest.mark.parametrize("foul", [_delete, _replace])
def test_a_sidecar_that_was_deleted_or_replaced_is_noticed_by_a_read_at_once(
    sidecar: Sidecar, foul: Callable[[str], Record]
) -> None:
    for _ in range(20):
        sidecar.change(to(OLD))
        assert sidecar.peek().record == OLD
        expected = foul(sidecar.path)
        assert sidecar.read().record == expected
        assert sidecar.peek().record == expected


@pytest.mark.parametrize("foul", [_delete, _replace])
def test_a_sidecar_that_was_deleted_or_replaced_is_noticed_by_peeks_soon(
    sidecar: Sidecar, foul: Callable[[str], Record]
) -> None:
    sidecar.change(to(OLD))
    assert sidecar.peek().record == OLD
    expected = foul(sidecar.path)
    # 10 ms are promised; a busy machine may take longer to get round to it.
    wait_for(lambda: sidecar.peek().record == expected, f"{expected}; still {sidecar.peek().record}", 5)
    assert sidecar.peek().record == expected


def test_reads_that_never_pause_notice_as_well_that_it_was_deleted(sidecar: Sidecar) -> None:
    sidecar.change(to(OLD))
    sidecar.peek()
    os.unlink(sidecar.path)
    end = time.monotonic() + 5
    while sidecar.peek().record != MISSING:
        assert time.monotonic() < end, "5 s of reads believed a file that is gone"


def test_a_change_of_a_sidecar_that_was_deleted_begins_anew(sidecar: Sidecar) -> None:
    sidecar.change(to(OLD))
    sidecar.peek()
    os.unlink(sidecar.path)
    sidecar.change(counted)
    assert sidecar.read().record == MISSING.replace(generation=1)


def test_a_change_is_seen_at_once_by_its_object_even_if_the_sidecar_was_deleted_just_before(
    sidecar: Sidecar,
) -> None:
    sidecar.change(to(OLD))
    assert sidecar.peek().record == OLD
    os.unlink(sidecar.path)
    sidecar.change(to(NEW))
    assert sidecar.peek().record == NEW


def test_a_change_that_waited_for_a_sidecar_that_is_deleted_meanwhile_is_not_lost(sidecar: Sidecar) -> None:
    sidecar.change(to(OLD))
    fd = os.open(sidecar.path, os.O_RDWR)
    flock(fd, LOCK_EX)
    before = descriptors_of(sidecar.path)
    changing = threading.Thread(target=sidecar.change, args=(to(NEW),))
    changing.start()
    wait_for(lambda: descriptors_of(sidecar.path) > before, "the change to open the file")
    os.unlink(sidecar.path)
    os.close(fd)
    changing.join(PATIENCE)
    assert sidecar.read().record == NEW


# Half a record.


@contextmanager
def half_written(sidecar: Sidecar, diary: Diary, processes: Processes, *, locked: bool = True) -> Iterator[None]:
    """Another process has written half of NEW over what stands, and writes the rest at the end of the block."""

    def write_in_two_halves() -> None:
        data = encode(NEW)
        fd = os.open(sidecar.path, os.O_RDWR)
        if locked:
            flock(fd, LOCK_EX)
        os.pwrite(fd, data[: SIZE // 2], 0)
        diary.write("half")
        diary.wait("go on")
        os.pwrite(fd, data[SIZE // 2 :], SIZE // 2)
        os.close(fd)

    writer = processes.start(write_in_two_halves)
    diary.wait("half")
    yield
    diary.write("go on")
    processes.join(writer)


def test_a_torn_record_is_read_again_when_its_writer_is_ready(
    sidecar: Sidecar,
    record: Diary,
    processes: Processes,
    logged: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dogpile_fs._sidecar.file._PATIENCE", PATIENCE)
    sidecar.change(to(OLD))
    sidecar.peek()
    seen: list[Record] = []
    with half_written(sidecar, record, processes):
        assert decode(Path(sidecar.path).read_bytes()[:SIZE]) is None
        reader = threading.Thread(target=lambda: seen.append(sidecar.read().record))
        reader.start()
        wait_for(lambda: descriptors_of(sidecar.path) == 2 or seen, "the reader to wait for the writer")
        assert seen == []
    reader.join(PATIENCE)
    assert seen == [NEW]
    assert logged.messages == []


def test_a_writer_that_stops_halfway_does_not_stop_readers(
    sidecar: Sidecar,
    record: Diary,
    processes: Processes,
    logged: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dogpile_fs._sidecar.file._PATIENCE", 0.05)
    sidecar.change(to(OLD))
    with half_written(sidecar, record, processes):
        assert promptly(sidecar.peek).record == DAMAGED
        assert promptly(sidecar.read).record == DAMAGED
    assert len(logged.messages) == 1
    assert sidecar.peek().record == NEW


def test_a_record_torn_by_a_writers_death_is_damage_at_once(
    sidecar: Sidecar, record: Diary, processes: Processes
) -> None:
    sidecar.change(to(OLD))
    assert sidecar.peek().record == OLD
    with half_written(sidecar, record, processes, locked=False):
        assert sidecar.read().record == DAMAGED


@pytest.mark.parametrize("kind", [LOCK_SH, LOCK_EX], ids=["shared", "exclusive"])
def test_another_programs_lock_holds_up_a_change_no_longer_than_its_timeout(path: str, kind: int) -> None:
    sidecar = Sidecar(path, timeout=0.02)
    sidecar.change(to(OLD))
    fd = os.open(path, os.O_RDONLY)
    flock(fd, kind)
    for _ in range(2):
        with pytest.raises(LockTimeout) as caught:
            promptly(lambda: sidecar.change(to(NEW)))
        for part in (repr(path), "locked for 0.02 s", "Hint: find it"):
            assert part in str(caught.value)
    assert sidecar.read().record == OLD
    os.close(fd)
    sidecar.change(to(NEW))
    assert sidecar.peek().record == NEW


def test_another_programs_shared_lock_does_not_stop_readers(sidecar: Sidecar) -> None:
    put(sidecar.path, b"scribble")
    fd = os.open(sidecar.path, os.O_RDONLY)
    flock(fd, LOCK_SH)
    assert promptly(sidecar.peek).record == DAMAGED
    os.close(fd)


def test_reading_leaves_no_lock_that_stops_a_change(sidecar: Sidecar) -> None:
    put(sidecar.path, b"scribble")
    assert sidecar.peek().record == DAMAGED  # with a look under the lock
    promptly(lambda: Sidecar(sidecar.path).change(to(NEW)))
    assert sidecar.peek().record == NEW


def _count(path: str, times: int) -> None:
    sidecar = Sidecar(path)
    for _ in range(times):
        sidecar.change(counted)


def test_readers_see_nothing_but_whole_records_in_their_order_while_another_process_writes(
    sidecar: Sidecar, processes: Processes, logged: pytest.LogCaptureFixture
) -> None:
    sidecar.change(to(OLD))
    writer = processes.start(_count, sidecar.path, 1500)
    seen: list[list[int]] = [[], [], []]

    def read(generations: list[int]) -> None:
        while not generations or generations[-1] != 1501:
            generation = sidecar.peek().record.generation
            if not generations or generation != generations[-1]:
                generations.append(generation)

    readers = [threading.Thread(target=read, args=(generations,), daemon=True) for generations in seen]
    for reader in readers:
        reader.start()
    processes.join(writer)
    for reader in readers:
        reader.join(PATIENCE)
        assert not reader.is_alive(), [generations[-3:] for generations in seen]
    for generations in seen:
        assert generations == sorted(generations)
        assert generations[0] > 0
    assert logged.messages == []


# Changes from many sides.


def test_changes_by_threads_of_many_processes_lose_none(sidecar: Sidecar, processes: Processes) -> None:
    sidecar.change(to(OLD))

    def count_in_threads() -> None:
        shared = Sidecar(sidecar.path)

        def count_with_the_others() -> None:
            for _ in range(50):
                shared.change(counted)

        threads = [threading.Thread(target=_count, args=(sidecar.path, 50)) for _ in range(2)]
        threads += [threading.Thread(target=count_with_the_others) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    processes.start_many(4, count_in_threads)
    count_in_threads()
    processes.join()
    assert sidecar.read().record.generation == 1 + 5 * 200


def test_first_changes_by_many_processes_lose_none(path: str, processes: Processes, record: Diary) -> None:
    def be_among_the_first() -> None:
        record.write("ready")
        record.wait("go")
        for number in range(10):
            Sidecar(f"{path}.{number}").change(counted)

    processes.start_many(6, be_among_the_first)
    record.wait("ready", 6)
    record.write("go")
    processes.join()
    assert [Sidecar(f"{path}.{number}").read().record.generation for number in range(10)] == [6] * 10


def test_a_writer_killed_at_any_moment_leaves_a_sound_record(sidecar: Sidecar) -> None:
    sidecar.change(to(OLD))
    chance = random.Random(11)
    for _ in range(80):
        enough = sidecar.read().record.generation + chance.randrange(1, 30)
        writer = in_child(lambda: _count(sidecar.path, 10**9))
        try:
            wait_for(lambda enough=enough: sidecar.peek().record.generation >= enough, "changes")  # type: ignore[misc]
        finally:
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
        data = Path(sidecar.path).read_bytes()[:SIZE]
        left = decode(data)
        assert left is not None, data
        assert left.generation >= enough
    # And none of them left a lock.
    promptly(lambda: sidecar.change(to(NEW)))


def test_a_forked_child_reads_and_changes_through_descriptors_of_its_own(
    sidecar: Sidecar, processes: Processes
) -> None:
    sidecar.change(to(OLD))
    sidecar.peek()

    def in_the_child() -> None:
        assert descriptors_of(sidecar.path) == 0
        assert sidecar.peek().record == OLD
        sidecar.change(to(NEW))
        assert sidecar.peek().record == NEW

    processes.start(in_the_child)
    processes.join()
    assert sidecar.peek().record == NEW
    assert descriptors_of(sidecar.path) == 1


# Damage.

DAMAGES = {
    "empty": b"",
    "one byte": b"{",
    "truncated": encode(OLD)[:100],
    "truncated by one byte": encode(OLD)[:-1],
    "zeros": bytes(SIZE),
    "random": random.Random(11).randbytes(SIZE),
    "text": b"hands off!\n",
    "another program's": json.dumps({"createdtime": 1000.0}).encode(),
    "checksum gone": encode(OLD)[:-9] + b"00000000\n",
    "beginning gone": b"\0" + encode(OLD)[1:],
    "too long and random": random.Random(12).randbytes(3 * SIZE),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_gives_one_log_line_and_is_healed_by_the_next_change(
    damage: str, sidecar: Sidecar, logged: pytest.LogCaptureFixture
) -> None:
    sidecar.change(to(OLD))
    assert sidecar.peek().record == OLD
    put(sidecar.path, DAMAGES[damage])
    for _ in range(50):
        assert sidecar.peek().record == DAMAGED
        assert sidecar.read().record == DAMAGED
    sidecar.change(counted)
    # An empty file is also what a change makes where there is none.
    healed = (DAMAGED if DAMAGES[damage] else MISSING).replace(generation=1)
    assert sidecar.peek().record == sidecar.read().record == healed
    assert len(logged.messages) == 1, logged.messages
    assert repr(sidecar.path) in logged.messages[0]
    assert f"{len(DAMAGES[damage][:SIZE])} other bytes" in logged.messages[0]
    assert holds(sidecar.path, healed)


def test_damage_that_was_there_before_the_first_read_is_logged_once(
    sidecar: Sidecar, logged: pytest.LogCaptureFixture
) -> None:
    put(sidecar.path, b"scribble")
    for _ in range(20):
        assert sidecar.peek().record == DAMAGED
    assert len(logged.messages) == 1, logged.messages


def test_the_same_damage_after_it_was_healed_is_logged_again(
    sidecar: Sidecar, logged: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        sidecar.change(to(OLD))
        assert sidecar.peek().record == OLD
        put(sidecar.path, b"scribble")
        assert sidecar.peek().record == DAMAGED
    assert len(logged.messages) == 2, logged.messages


def test_an_oversized_sidecar_is_read_by_its_record_and_cut_by_the_next_change(sidecar: Sidecar) -> None:
    put(sidecar.path, encode(OLD) + b"and more" * 1000)
    assert sidecar.peek().record == OLD
    sidecar.change(counted)
    assert holds(sidecar.path, counted(OLD))


def test_a_newer_format_is_an_error_with_a_hint_and_stays(
    sidecar: Sidecar, logged: pytest.LogCaptureFixture
) -> None:
    sidecar.change(to(OLD))
    sidecar.peek()
    put(sidecar.path, newer())
    for use in (sidecar.peek, sidecar.read, lambda: sidecar.change(to(NEW))):
        for _ in range(2):
            with pytest.raises(SidecarError) as caught:
                use()
            assert repr(sidecar.path) in str(caught.value)
            assert "sidecar format 2" in str(caught.value)
            assert "Hint: let all users of the resource run the same dogpile_fs" in str(caught.value)
    assert Path(sidecar.path).read_bytes() == newer()
    assert logged.messages == []
    # The cure that it names.
    os.unlink(sidecar.path)
    assert sidecar.read().record == MISSING
    sidecar.change(to(NEW))
    assert sidecar.read().record == NEW


# Something else in its place.


def _fifo(path: str) -> None:
    os.mkfifo(path)


def _socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        # The name of a socket may be 107 bytes long, which a test's directory may exceed.
        here = os.open(".", os.O_RDONLY)
        os.chdir(os.path.dirname(path))
        try:
            server.bind(os.path.basename(path))
        finally:
            os.fchdir(here)
            os.close(here)


def _dangling_link(path: str) -> None:
    os.symlink("nowhere", path)


def _link_to_itself(path: str) -> None:
    os.symlink(path, path)


def _link_to_a_file(path: str) -> None:
    os.symlink(path + ".victim", path)


def _link_to_a_directory(path: str) -> None:
    os.symlink(os.path.dirname(path), path)


FOREIGN = [_fifo, _socket, _dangling_link, _link_to_itself, _link_to_a_file, _link_to_a_directory]


@pytest.mark.parametrize("first", ["peek", "read", "change"])
@pytest.mark.parametrize("foreign", FOREIGN)
def test_a_fifo_socket_or_link_is_removed_and_never_written_through(
    foreign: Callable[[str], None], first: str, sidecar: Sidecar, logged: pytest.LogCaptureFixture
) -> None:
    victim = Path(sidecar.path + ".victim")
    victim.write_bytes(encode(OLD))
    sidecar.change(to(NEW))
    sidecar.peek()
    os.unlink(sidecar.path)
    foreign(sidecar.path)
    if first == "change":
        promptly(lambda: sidecar.change(counted))
        assert sidecar.read().record == MISSING.replace(generation=1)
    else:
        # A read may believe what it has open for 10 ms more.
        promptly(lambda: wait_for(lambda: getattr(sidecar, first)().record == MISSING, "it to be noticed"))
        assert not os.path.lexists(sidecar.path)
        sidecar.change(counted)
        assert sidecar.peek().record == MISSING.replace(generation=1)
    assert Path(sidecar.path).is_file()
    assert not Path(sidecar.path).is_symlink()
    assert victim.read_bytes() == encode(OLD)
    assert not os.path.lexists(os.path.join(os.path.dirname(sidecar.path), "nowhere"))
    assert [message for message in logged.messages if repr(sidecar.path) in message], logged.messages
    assert len(logged.messages) == 1, logged.messages


def test_a_fifo_with_a_reader_and_a_writer_does_not_hang_either(sidecar: Sidecar) -> None:
    os.mkfifo(sidecar.path)
    fd = os.open(sidecar.path, os.O_RDWR)
    try:
        assert promptly(sidecar.peek).record == MISSING
        os.mkfifo(sidecar.path)
        promptly(lambda: sidecar.change(to(NEW)))
        assert sidecar.peek().record == NEW
    finally:
        os.close(fd)


def test_a_directory_in_its_place_is_an_error_with_a_hint(sidecar: Sidecar) -> None:
    os.mkdir(sidecar.path)
    for use in (sidecar.peek, sidecar.read, lambda: sidecar.change(to(NEW))):
        with pytest.raises(SidecarError) as caught:
            use()
        assert caught.value.errno == errno.EISDIR
        assert repr(sidecar.path) in str(caught.value)
        assert "Hint: move the directory away" in str(caught.value)
    os.rmdir(sidecar.path)
    sidecar.change(to(NEW))
    assert sidecar.peek().record == NEW


def test_a_removed_directory_reads_as_missing_and_a_change_there_is_an_error_with_a_hint(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    sidecar = Sidecar(str(home / "resource.dogpile"))
    sidecar.change(to(OLD))
    sidecar.peek()
    home.rename(tmp_path / "away")
    assert sidecar.read().record == MISSING
    with pytest.raises(SidecarError) as caught:
        sidecar.change(to(NEW))
    assert repr(sidecar.path) in str(caught.value)
    assert "Hint: make the directory first" in str(caught.value)


# No room.


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """This process may write no file beyond *size* bytes: how a full disk looks to it, without one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [0, 1, 100, 511, 2047])
@pytest.mark.parametrize("before", [OLD, MISSING])
def test_where_there_is_no_room_for_the_record_the_old_one_stays(
    size: int, before: Record, sidecar: Sidecar, processes: Processes
) -> None:
    if before is OLD:
        sidecar.change(to(OLD))

    def change_in_vain() -> None:
        with files_no_longer_than(size), pytest.raises(SidecarError) as caught:
            sidecar.change(to(NEW))
        assert repr(sidecar.path) in str(caught.value)
        assert "Hint: " in str(caught.value), str(caught.value)

    try:
        processes.start(change_in_vain)
        processes.join()
    finally:
        assert Path(sidecar.path).read_bytes() == b"" if before is MISSING else holds(sidecar.path, before)
        assert sidecar.read().record == (DAMAGED if before is MISSING else before)
        assert Sidecar(sidecar.path).peek().record == (DAMAGED if before is MISSING else before)
    sidecar.change(to(NEW))
    assert sidecar.peek().record == NEW


def test_a_record_that_cannot_be_encoded_leaves_the_old_one(sidecar: Sidecar) -> None:
    sidecar.change(to(OLD))
    with pytest.raises(ValueError, match="no sidecar record has room"):
        sidecar.change(lambda record: record.replace(generation=10**2000))
    assert sidecar.peek().record == OLD
    promptly(lambda: sidecar.change(to(NEW)))
