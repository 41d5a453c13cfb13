"""The example's datafile and record: what the system tests take for granted."""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from moduleindex import index
from moduleindex.record import Event, History, Record, latest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory of modules, good and bad."""
    root = tmp_path / "root"
    package = root / "shop"
    for folder in (package / "__pycache__", root / "not-a-package", root / "site"):
        folder.mkdir(parents=True)
    (root / "till.py").write_text('"""Counts money.\n\nSlowly."""\n')
    (package / "__init__.py").write_text("'''Sells things.'''\n")
    (package / "stock.py").write_text("things = 3\n")
    (package / "__pycache__" / "stale.py").write_text("")
    (root / "not-a-package" / "template.py").write_text("")
    (root / "site" / "extra.py").write_text('"""Comes on top."""')
    (root / "broken.py").write_text('"""Says hello."""\nprint "hello"\n')
    (root / "latin.py").write_bytes(b'"""caf\xe9"""')
    (root / "null.py").write_bytes(b'"""Nothing."""\0')
    (root / "dangling.py").symlink_to("nowhere")
    return root


@pytest.fixture
def datafile(root: Path, tmp_path: Path) -> Path:
    datafile = tmp_path / "modules.db"
    index.build(datafile, [str(root)], version=7)
    return datafile


def names(root: Path, *others: Path) -> dict[str, str]:
    return {m.name: m.line for m in index.modules([str(root), *map(str, others)])}


def test_modules_have_dotted_names_and_the_first_line_of_their_docstrings(root: Path) -> None:
    assert names(root).items() >= {
        ("till", "Counts money."),
        ("shop", "Sells things."),
        ("shop.stock", ""),
    }


def test_a_module_that_does_not_parse_decode_or_open_is_listed_without_a_docstring(root: Path) -> None:
    assert names(root).items() >= {(name, "") for name in ("broken", "latin", "null", "dangling")}


def test_a_file_that_cannot_be_imported_is_not_listed(root: Path) -> None:
    assert not [name for name in names(root) if "stale" in name or "template" in name]


def test_a_root_within_a_root_is_listed_once_under_its_own_names(root: Path) -> None:
    assert "site.extra" in names(root)
    inner = names(root, root / "site")
    assert "extra" in inner
    assert "site.extra" not in inner


def test_a_root_that_is_a_package_keeps_its_name(root: Path) -> None:
    assert names(root / "shop").keys() == {"shop", "shop.stock"}


def test_a_search_finds_all_words_in_name_or_docstring(datafile: Path) -> None:
    with index.reading(datafile) as connection:
        assert [m.name for m in index.search(connection, "MONEY till")] == ["till"]
        assert index.search(connection, "money shop") == []
        assert len(index.search(connection, "", limit=3)) == 3


def test_a_whole_datafile_has_no_fault(datafile: Path) -> None:
    assert index.fault(datafile) == ""
    with index.reading(datafile) as connection:
        assert index.edition(connection)[:2] == (7, 8)


def test_an_index_of_nothing_has_a_fault(tmp_path: Path) -> None:
    index.build(tmp_path / "modules.db", [], version=1)
    assert index.fault(tmp_path / "modules.db") == "it has no modules"


def test_a_lost_row_is_found_by_each_request(datafile: Path) -> None:
    with closing(sqlite3.connect(datafile)) as connection, connection:
        connection.execute("DELETE FROM module WHERE name = 'till'")
    with index.reading(datafile) as connection, pytest.raises(index.TornDatafile, match="7 rows"):
        index.edition(connection)
    assert "7 rows instead of 8" in index.fault(datafile)


def test_a_changed_row_is_found_by_the_checksum(datafile: Path) -> None:
    with closing(sqlite3.connect(datafile)) as connection, connection:
        connection.execute("UPDATE module SET line = 'Counts sheep.' WHERE name = 'till'")
    assert "checksum" in index.fault(datafile)


@pytest.mark.parametrize("length", [0, 1, 4096, 6000])
def test_a_truncated_datafile_has_a_fault(datafile: Path, length: int) -> None:
    os.truncate(datafile, length)
    assert index.fault(datafile)


def test_a_half_built_datafile_has_a_fault(datafile: Path) -> None:
    with closing(sqlite3.connect(datafile)) as connection, connection:
        connection.execute("DELETE FROM edition")
    assert index.fault(datafile)


def test_a_forked_process_goes_on_in_a_record_of_its_own(tmp_path: Path) -> None:
    record = Record(tmp_path)
    parent = record.write("request", "before the fork")
    child = os.fork()
    if not child:
        record.write("request", "in the child", version=3)
        os._exit(0)
    os.waitpid(child, 0)
    record.write("answer", "after the fork", status=200)

    history = History(tmp_path)
    history.update()
    assert {(event.pid, event.request, event.version) for event in history.events} == {
        (parent.pid, "before the fork", 0),
        (child, "in the child", 3),
        (parent.pid, "after the fork", 0),
    }
    assert {path.name for path in tmp_path.iterdir()} == {f"{parent.pid}.jsonl", f"{child}.jsonl"}


def test_a_history_reads_on_and_leaves_a_half_written_line_for_later(tmp_path: Path) -> None:
    record, history = Record(tmp_path), History(tmp_path)
    first = record.write("request", "1")
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    history.update()
    assert history.events == [first]
    path.write_bytes(whole + whole)
    history.update()
    assert history.events == [first, first]


def test_the_latest_events_of_all_processes_are_listed_newest_first(tmp_path: Path) -> None:
    record = Record(tmp_path)
    told = [record.write("answer", f"{n:0100}", status=200) for n in range(200)]
    record.write("request", "of another kind")
    first = Event(kind="answer", request="x", pid=1, monotonic=1, time=1.0)
    (tmp_path / "1.jsonl").write_text(
        '{"kind": "answer", "request": "x", "pid": 1, "monotonic": 1, "time": 1.0}\n'
    )
    assert latest(tmp_path, "answer", 5) == told[:-6:-1]
    assert latest(tmp_path, "answer", 1000) == [*told[::-1], first]


def test_waiting_for_an_event_that_does_not_come_ends_and_names_it(tmp_path: Path) -> None:
    history = History(tmp_path)
    with pytest.raises(TimeoutError, match="Godot did not come within"):
        history.wait(lambda history: False, 0.05, "Godot")
