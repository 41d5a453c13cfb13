"""A new version that is not finished: a database whose log or journal has something in it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dogpile_fs import Datafile, DatafileError
from tests.support.places import left_beside

ROWS = 500


@pytest.fixture
def connections() -> Iterator[list[sqlite3.Connection]]:
    """Connections that somebody forgets to close, or keeps in a pool."""
    pool: list[sqlite3.Connection] = []
    yield pool
    for connection in pool:
        connection.close()


def database(path: str, journal: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.execute("CREATE TABLE numbers (number)")
    connection.executemany("INSERT INTO numbers VALUES (?)", [(number,) for number in range(ROWS)])
    connection.commit()
    return connection


def rows(path: str) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        count: int = connection.execute("SELECT count(*) FROM numbers").fetchone()[0]
        return count


def test_a_database_whose_rows_are_in_its_log_is_refused_and_the_old_one_stays(
    path: str, connections: list[sqlite3.Connection]
) -> None:
    Path(path).write_text("old")
    datafile = Datafile(path, 3600, lambda target: connections.append(database(target, "WAL")))
    with pytest.raises(DatafileError) as caught:
        datafile.refresh(force=True)
    for part in ("whose wal has", "bytes", "Cure: close the connection"):
        assert part in str(caught.value)
    assert Path(path).read_text() == "old"
    assert left_beside(path) == []


def test_a_database_in_the_middle_of_a_transaction_is_refused(
    path: str, connections: list[sqlite3.Connection]
) -> None:
    def creator(target: str) -> None:
        connection = database(target, "DELETE")
        connections.append(connection)
        connection.execute("PRAGMA cache_spill = 1")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("UPDATE numbers SET number = hex(randomblob(2000))")

    with pytest.raises(DatafileError, match="journal has"):
        Datafile(path, 3600, creator).refresh()
    assert left_beside(path) == []


@pytest.mark.parametrize("journal", ["DELETE", "WAL", "TRUNCATE", "PERSIST", "MEMORY", "OFF"])
def test_a_database_that_was_closed_is_whole_and_nothing_is_left_beside_it(path: str, journal: str) -> None:
    def creator(target: str) -> None:
        with closing(database(target, journal)):
            pass

    datafile = Datafile(path, 3600, creator, validate=lambda target: rows(target) == ROWS)
    assert datafile.refresh()
    assert rows(path) == ROWS
    assert [name for name in os.listdir(os.path.dirname(path)) if name.startswith(".dogpile-")] == []
