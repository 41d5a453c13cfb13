"""The journal's file: its slots, what is torn or foreign in it, and what keeps it from being written."""

from __future__ import annotations

import json
import logging
import os
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import SidecarError
from dogpile_fs._sidecar.journal import SIZE, SLOT, SLOTS, Entry, Journal, decode, encode
from dogpile_fs._sidecar.record import cleaned_host
from tests.support.places import descriptors, files_no_longer_than

ENTRY = Entry("web1", 4711, 1732217000.25, "created", 7, cost=1.5)
WORST = Entry(
    "h" * 64,
    2**32,
    -1.7976931348623157e308,
    "interrupted",
    2**53,
    "process",
    -1.7976931348623157e308,
    "x" * 48,
    2**31,
    64,
    "\0" * 4096,
    "f" * 120,
    10**18 - 1,
)


@pytest.fixture
def journal(path: str) -> Journal:
    return Journal(path + ".dogpile.journal", name=repr(path))


def numbers(journal: Journal) -> list[int]:
    return [entry.number for entry in journal.entries()]


def line_of(told: dict[str, Any]) -> bytes:
    body = json.dumps(told).encode().ljust(SLOT - 9)
    return body + b"%08x\n" % zlib.crc32(body)


def overwrite(journal: Journal, number: int, data: bytes) -> None:
    with open(journal.path, "r+b") as file:
        file.seek((number - 1) % SLOTS * SLOT)
        file.write(data)


def test_it_tells_what_was_appended_the_oldest_first(journal: Journal) -> None:
    assert journal.entries() == []
    entries = [
        ENTRY,
        ENTRY._replace(outcome="failed", error_type="ValueError", kind="command", exit_status=3),
        ENTRY._replace(outcome="died", cost=None, signal=9, changed_input="/büro/東京"),
    ]
    for entry in entries:
        journal.append(entry)
    assert journal.entries() == [entry._replace(number=number) for number, entry in enumerate(entries, 1)]
    lines = Path(journal.path).read_text().splitlines()
    assert [json.loads(line[:-8])["outcome"] for line in lines] == ["created", "failed", "died"]


def test_it_keeps_the_last_64_and_does_not_grow(journal: Journal) -> None:
    for _ in range(SLOTS + 10):
        journal.append(ENTRY)
    assert numbers(journal) == list(range(11, SLOTS + 11))
    assert os.path.getsize(journal.path) == SIZE
    assert Path(journal.path).read_text().count("\n") == SLOTS


def test_another_object_goes_on_with_the_numbers(journal: Journal) -> None:
    for _ in range(3):
        Journal(journal.path, name="x").append(ENTRY)
    assert numbers(journal) == [1, 2, 3]


@pytest.mark.parametrize(
    "torn", [b"", b"\0" * SLOT, b"x", encode(ENTRY._replace(number=2))[:-1] + b" ", b"\xff" * 100, b"{}\n"]
)
def test_a_torn_slot_loses_one_line(torn: bytes, journal: Journal) -> None:
    for _ in range(5):
        journal.append(ENTRY)
    if torn:
        overwrite(journal, 3, torn)
        assert numbers(journal) == [1, 2, 4, 5]
    else:
        os.truncate(journal.path, 4 * SLOT + 100)
        assert numbers(journal) == [1, 2, 3, 4]
    journal.append(ENTRY)
    assert numbers(journal) == ([1, 2, 4, 5, 6] if torn else [1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    "turns", [[0], [0, 1], [0, 0, 1], [0] * 63 + [1], [0] * 64 + [1] * 64, [0] * 3 + [1] * 65]
)
def test_objects_that_take_turns_number_all_attempts(turns: list[int], journal: Journal) -> None:
    objects = [journal, Journal(journal.path, name=journal.name)]
    for number in range(1, 2 * SLOTS + 70):
        objects[turns[number % len(turns)]].append(ENTRY)
        assert numbers(journal) == list(range(max(1, number - SLOTS + 1), number + 1))


@pytest.mark.parametrize("so_far", [1, 5, SLOTS - 1, SLOTS, SLOTS + 5, 2 * SLOTS])
@pytest.mark.parametrize("change", ["own line", "next line", "cut", "longer", "gone"])
def test_an_object_that_has_written_the_last_line_finds_what_has_become_of_the_others(
    so_far: int, change: str, journal: Journal
) -> None:
    for _ in range(so_far):
        journal.append(ENTRY)
    last = so_far
    if change == "own line":
        overwrite(journal, so_far, encode(ENTRY._replace(number=so_far + SLOTS)))
        last += SLOTS
    elif change == "next line":
        overwrite(journal, so_far + 1, encode(ENTRY._replace(number=so_far + 1)))
        last += 1
    elif change == "cut":
        os.truncate(journal.path, SLOT)
        last = numbers(journal)[-1]
    elif change == "longer":
        os.truncate(journal.path, SIZE + SLOT)
    else:
        os.unlink(journal.path)
        last = 0
    journal.append(ENTRY)
    assert numbers(journal)[-1] == last + 1
    assert os.path.getsize(journal.path) <= SIZE


@pytest.mark.parametrize("foreign", [b"x", b"\0" * 3000, b"a line\n" * 10_000, os.urandom(SIZE), b"\n" * SLOT])
def test_foreign_bytes_are_no_entries_and_the_next_attempt_begins_it_anew(
    foreign: bytes, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    Path(journal.path).write_bytes(foreign)
    assert journal.entries() == []
    journal.append(ENTRY)
    assert numbers(journal) == [1]
    assert os.path.getsize(journal.path) == SLOT
    assert [repr(journal.path) in message for message in caplog.messages] == [True]


def test_what_follows_the_slots_is_cut_off(journal: Journal) -> None:
    journal.append(ENTRY)
    os.truncate(journal.path, 1 << 40)
    assert numbers(journal) == [1]
    journal.append(ENTRY)
    assert numbers(journal) == [1, 2]
    assert os.path.getsize(journal.path) == SIZE


def test_unknown_keys_are_ignored_and_a_later_format_keeps_its_number(journal: Journal) -> None:
    journal.append(ENTRY)
    told = {"dogpile_fs": 1, "number": 2, **ENTRY._replace(number=2)._asdict(), "mood": "good"}
    told = {name: value for name, value in told.items() if value is not None}
    overwrite(journal, 2, line_of(told))
    overwrite(journal, 3, line_of({**told, "dogpile_fs": 2, "number": 3, "begun": "a while ago"}))
    assert journal.entries() == [ENTRY._replace(number=1), ENTRY._replace(number=2)]
    journal.append(ENTRY)
    assert numbers(journal) == [1, 2, 4]


@pytest.mark.parametrize(
    "wrong",
    [
        {"pid": "1"},
        {"pid": -1},
        {"pid": True},
        {"pid": 10**18},
        {"begun": None},
        {"begun": float("inf")},
        {"kind": "demon"},
        {"host": 1},
        {"outcome": None},
        {"error_type": 7},
        {"number": 0.5},
    ],
    ids=str,
)
def test_a_line_with_an_unsound_field_is_no_entry(wrong: dict[str, Any]) -> None:
    told = {name: value for name, value in ENTRY._asdict().items() if value is not None}
    assert decode(line_of({"dogpile_fs": 1, **told, "number": 1})) is not None
    assert decode(line_of({"dogpile_fs": 1, **told, "number": 1, **wrong})) is None


@pytest.mark.parametrize("told", [[], 1, None, {}, {"dogpile_fs": 1}, {"dogpile_fs": "1"}])
def test_other_json_is_no_entry(told: Any) -> None:
    assert decode(line_of(told)) is None


def test_each_field_at_its_worst_fits_and_inputs_have_what_room_is_left() -> None:
    assert decode(encode(WORST)) == WORST._replace(changed_input=None, input_signs=None)
    plain = WORST._replace(changed_input="/" + "x" * 200, input_signs=None, begun=1.5, cost=1.5)
    decoded = decode(encode(plain))
    assert decoded is not None
    assert decoded.changed_input == "..." + "x" * 120
    assert decode(encode(ENTRY._replace(number=1, input_signs="f" * 120, changed_input="x" * 100))) is not None


def test_names_are_kept_as_the_sidecar_keeps_them() -> None:
    decoded = decode(encode(ENTRY._replace(number=1, host="a\n\"b'" + "ü" * 64, error_type="T\0" + "y" * 100)))
    assert decoded is not None
    assert decoded.host == cleaned_host("a\n\"b'" + "ü" * 64)
    assert decoded.error_type == "T?" + "y" * 46


def test_it_has_the_mode_that_was_asked_for(path: str) -> None:
    Journal(path, 0o640, name="x").append(ENTRY)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640


def make_directory(path: str) -> None:
    os.mkdir(path)


def fill_up(path: str) -> None:
    pass


@pytest.mark.parametrize("obstacle", [make_directory, fill_up])
def test_where_it_cannot_be_written_that_is_one_warning_an_object(
    obstacle: Callable[[str], None], journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "dogpile_fs")
    obstacle(journal.path)
    before = descriptors()
    with files_no_longer_than(SLOT // 2 if obstacle is fill_up else SIZE):
        for _ in range(3):
            journal.append(ENTRY)
    assert descriptors() == before
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG", "DEBUG"]
    assert all(journal.name in message and journal.path in message for message in caplog.messages)
    if obstacle is fill_up:
        journal.append(ENTRY)
        assert numbers(journal) == [1]
    else:
        with pytest.raises(SidecarError, match="read the journal"):
            journal.entries()
        assert journal.input_signs(7) is None


def test_a_symbolic_link_is_not_followed_and_a_hard_link_not_written(
    path: str, tmp_path: Path, journal: Journal
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for link in (os.symlink, os.link):
        Path(journal.path).unlink(missing_ok=True)
        link(precious, journal.path)
        journal.append(ENTRY)
        assert precious.read_text() == "precious"
        assert numbers(journal) == [1]
        assert not os.path.samefile(precious, journal.path)


def test_nothing_is_written_where_the_path_has_come_to_lead_elsewhere(tmp_path: Path) -> None:
    for release in ("1", "2"):
        (tmp_path / release).mkdir()
    (tmp_path / "current").symlink_to("1")
    journal = Journal(str(tmp_path / "current" / "journal"), name="x")
    place = journal.place()
    journal.append(ENTRY, place)
    (tmp_path / "next").symlink_to("2")
    os.replace(tmp_path / "next", tmp_path / "current")
    journal.append(ENTRY, place)
    assert os.listdir(tmp_path / "2") == []
    assert numbers(Journal(str(tmp_path / "1" / "journal"), name="x")) == [1]


def test_the_signs_of_inputs_are_those_of_the_last_creation_of_that_generation(journal: Journal) -> None:
    assert journal.input_signs(7) is None
    journal.append(ENTRY._replace(input_signs="aa"))
    journal.append(ENTRY._replace(input_signs="bb"))
    journal.append(ENTRY._replace(outcome="failed"))
    journal.append(ENTRY._replace(generation=8, input_signs="cc"))
    assert [journal.input_signs(number) for number in (7, 8, 9)] == ["bb", "cc", None]
