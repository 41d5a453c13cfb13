"""KeyRecords: the records of many keys in one sparse file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from dogpile_fs import SidecarError
from dogpile_fs._os import linux
from dogpile_fs._sidecar import key_records
from dogpile_fs._sidecar.encoding import encode
from dogpile_fs._sidecar.key_records import KeyRecord, KeyRecords
from dogpile_fs._sidecar.record import DAMAGED, MISSING, Record
from tests.support.processes import Processes, ended_well, in_child

STEP = 4096


def records_at(path: str) -> KeyRecords:
    return KeyRecords(path, mode=None, timeout=30.0, make=lambda: None)


def created(at: float) -> Record:
    return Record(createdtime=at, generation=1)


def createdtimes(path: str, *keys: tuple[str, int]) -> list[float]:
    records = records_at(path)
    return [KeyRecord(records, name, home).read().record.createdtime for name, home in keys]


def allocated(path: str) -> int:
    os.sync()
    return os.stat(path).st_blocks * 512


def test_a_key_without_a_record_has_none_and_makes_no_file(path: str) -> None:
    assert KeyRecord(records_at(path), "a", 5).peek().record is MISSING
    assert not os.path.exists(path)


def test_a_change_is_read_by_every_object_and_process(path: str) -> None:
    key = KeyRecord(records_at(path), "a", 5)
    key.change(lambda record: created(1.5))
    assert key.peek().record.createdtime == 1.5
    assert createdtimes(path, ("a", 5)) == [1.5]
    assert ended_well(in_child(lambda: key.change(lambda record: record.replace(createdtime=2.5))))
    assert key.peek().record.createdtime == 2.5
    assert key.peek().record.changes == 2


def test_keys_with_one_home_have_slots_of_their_own(path: str) -> None:
    keys = [(f"key{number}", 7) for number in range(20)]
    for number, (name, home) in enumerate(keys, 1):
        made = created(float(number))
        KeyRecord(records_at(path), name, home).change(lambda record, made=made: made)  # type: ignore[misc]
    assert createdtimes(path, *keys) == [float(number) for number in range(1, 21)]
    assert dict(records_at(path).all()).keys() == {name for name, _ in keys}


def test_the_last_homes_have_room_behind_them(path: str) -> None:
    keys = [(f"key{number}", 2**24 - 1) for number in range(3)]
    for name, home in keys:
        KeyRecord(records_at(path), name, home).change(lambda record: created(1.0))
    assert createdtimes(path, *keys) == [1.0] * 3


def test_an_erased_slot_leaves_the_keys_behind_it_and_gives_its_room_back(path: str) -> None:
    keys = [(f"key{number}", 7) for number in range(20)]
    for name, home in keys:
        KeyRecord(records_at(path), name, home).change(lambda record: created(1.0))
    before = allocated(path)
    for name, home in keys[:-1]:
        assert records_at(path).erase(KeyRecord(records_at(path), name, home))
    assert not records_at(path).erase(KeyRecord(records_at(path), "key0", 7)), "it is gone"
    assert createdtimes(path, *keys) == [-1.0] * 19 + [1.0]
    assert allocated(path) < before
    KeyRecord(records_at(path), *keys[-1]).change(lambda record: record.replace(createdtime=2.0))
    assert list(dict(records_at(path).all())) == ["key19"], "not a second slot"


def test_where_no_hole_can_be_made_zeros_are_written(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(linux, "hole_puncher", refuse)
    key = KeyRecord(records_at(path), "a", 5)
    key.change(lambda record: created(1.0))
    assert key.records.erase(key)
    assert key.peek().record is MISSING
    assert list(dict(key.records.all())) == []
    KeyRecord(records_at(path), "b", 5).change(lambda record: created(2.0))
    assert os.stat(path).st_size <= 6 * STEP, "in the slot that was freed"


def test_erasing_where_there_is_nothing_makes_no_file(path: str) -> None:
    records = records_at(path)
    assert not records.erase(KeyRecord(records, "a", 5))
    assert not os.path.exists(path)


def test_a_change_that_changes_nothing_writes_nothing(path: str) -> None:
    key = KeyRecord(records_at(path), "a", 5)
    key.change(lambda record: created(1.0))
    before = Path(path).read_bytes()
    key.change(lambda record: record)
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("offset", [0, 100, 2040, 2050, 2170])
def test_a_damaged_slot_counts_as_no_creation_yet_is_logged_and_written_anew(
    path: str, caplog: pytest.LogCaptureFixture, offset: int
) -> None:
    key = KeyRecord(records_at(path), "a", 5)
    key.change(lambda record: created(1.0))
    with open(path, "r+b") as file:
        file.seek(5 * STEP + offset)
        file.write(b"scribble")
    assert key.peek().record is DAMAGED
    assert "no sound record" in caplog.text
    key.change(lambda record: created(2.0))
    assert createdtimes(path, ("a", 5)) == [2.0]
    assert list(dict(key.records.all())) == ["a"]


def test_a_file_that_was_deleted_truncated_or_replaced_is_noticed(path: str) -> None:
    key = KeyRecord(records_at(path), "a", 5)
    key.change(lambda record: created(1.0))
    os.truncate(path, 0)
    assert key.peek().record is MISSING
    key.change(lambda record: created(2.0))
    os.unlink(path)
    assert key.read().record.createdtime in (-1.0, 2.0)
    key.records._look_at = 0.0  # 10 ms later
    assert key.peek().record is MISSING
    key.change(lambda record: created(3.0))
    key.records._look_at = 0.0
    assert key.peek().record.createdtime == 3.0


def test_a_second_name_of_the_file_is_an_error(path: str) -> None:
    key = KeyRecord(records_at(path), "a", 5)
    key.change(lambda record: created(1.0))
    os.link(path, path + ".second")
    with pytest.raises(SidecarError, match="2 names"):
        key.change(lambda record: created(2.0))
    assert key.peek().record.createdtime == 1.0


def test_a_newer_format_is_an_error_that_names_the_file(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = KeyRecord(records_at(path), "a", 5)
    with monkeypatch.context() as patch:
        patch.setattr("dogpile_fs._sidecar.encoding.FORMAT", 2)
        key.change(lambda record: created(1.0))
    with pytest.raises(SidecarError, match=path):
        KeyRecord(records_at(path), "a", 5).read()


def test_a_full_window_is_an_error_and_harms_no_other_key(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_records, "_WINDOW", 3)
    for number in range(3):
        KeyRecord(records_at(path), f"key{number}", 7).change(lambda record: created(1.0))
    with pytest.raises(SidecarError, match=r"prune\(\)"):
        KeyRecord(records_at(path), "one more", 7).change(lambda record: created(1.0))
    assert createdtimes(path, *((f"key{number}", 7) for number in range(3))) == [1.0] * 3


def test_a_change_in_the_middle_of_a_change_by_the_same_thread_is_not_lost(path: str) -> None:
    one, other = KeyRecord(records_at(path), "one", 5), KeyRecord(records_at(path), "other", 6)
    calls: list[float] = []

    def outer(record: Record) -> Record:
        calls.append(record.createdtime)
        if len(calls) == 1:  # as a signal handler does
            one.change(lambda record: created(1.0))
            other.change(lambda record: created(2.0))
        return record.replace(createdtime=record.createdtime + 10, generation=1)

    one.change(outer)
    assert calls == [-1.0, 1.0]
    assert createdtimes(path, ("one", 5), ("other", 6)) == [11.0, 2.0]


def _count_up(path: str, number: int, rounds: int) -> None:
    keys = [KeyRecord(records_at(path), f"key{each}", 7 + each % 3) for each in range(6)]
    for _ in range(rounds):
        for key in keys[number % 6 :] + keys[: number % 6]:
            key.change(lambda record: record.replace(generation=record.generation + 1, createdtime=1.0))
            assert key.peek().record.generation


def test_changes_by_many_processes_and_threads_lose_nothing(path: str, processes: Processes) -> None:
    processes.start_many(6, _count_up, path, 0, 50)
    threads = [threading.Thread(target=_count_up, args=(path, number, 50)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    processes.join()
    records = records_at(path)
    assert sorted(dict(records.all())) == [f"key{each}" for each in range(6)], "each has one slot"
    assert [KeyRecord(records, f"key{each}", 7 + each % 3).read().record.generation for each in range(6)] == [
        500
    ] * 6


def test_a_record_with_all_that_fits_leaves_the_name_alone(path: str) -> None:
    name = "k" * 40 + "-" + "f" * 32
    key = KeyRecord(records_at(path), name, 5)
    key.change(lambda record: created(1.0).replace(note="n" * 96, host="h" * 64))
    assert list(dict(key.records.all())) == [name]
    assert len(encode(key.read().record)) == 2048
