"""A new version that is not finished: a database whose log or journal has something in it; and such a log beside
the datafile, which would be applied to the version that takes its place."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from dogpile_fs import Datafile, DatafileError, atomic_write
from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.places import left_beside, ours_in

__all__ = ["bytecode", "cli"]  # fixtures

ROWS = 500


@pytest.fixture
def connections() -> Iterator[list[sqlite3.Connection]]:
    """Connections that a creator forgets to close, or keeps in a pool."""
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
    for part in ("whose wal has", "bytes", "Hint: close the connection"):
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
    assert ours_in(os.path.dirname(path)) == []


# Logs beside the datafile. What is there is made by SQLite itself, in a process that lives or was killed.

Log = Callable[[str, list[sqlite3.Connection]], str]

#: Changes the database at argv[1] by the statements that follow, and is killed in the middle of it.
KILLED = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
os.kill(os.getpid(), signal.SIGKILL)
"""
UPDATE = "UPDATE numbers SET number = hex(randomblob(2000))"


def killed(path: str, *statements: str) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, path, *statements])
    assert ended.returncode == -signal.SIGKILL


def wal_of_a_living_writer(path: str, connections: list[sqlite3.Connection]) -> str:
    connections.append(sqlite3.connect(path))
    connections[-1].execute("PRAGMA journal_mode = WAL")
    connections[-1].execute("DELETE FROM numbers")
    connections[-1].commit()
    return path + "-wal"


def wal_of_a_killed_writer(path: str, connections: list[sqlite3.Connection]) -> str:
    killed(path, "PRAGMA journal_mode = WAL", "DELETE FROM numbers")
    return path + "-wal"


def journal_of_a_living_writer(path: str, connections: list[sqlite3.Connection]) -> str:
    connections.append(sqlite3.connect(path))
    for statement in ("PRAGMA cache_size = 1", "PRAGMA cache_spill = 1", UPDATE):
        connections[-1].execute(statement)
    return path + "-journal"


def journal_of_a_killed_writer(path: str, connections: list[sqlite3.Connection]) -> str:
    killed(path, "PRAGMA cache_size = 1", "PRAGMA cache_spill = 1", "BEGIN", UPDATE)
    return path + "-journal"


def duckdbs_log(path: str, connections: list[sqlite3.Connection]) -> str:
    Path(path + ".wal").write_bytes(b"d\0be\0\2f\0\x10")
    return path + ".wal"


def log_that_cannot_be_read(path: str, connections: list[sqlite3.Connection]) -> str:
    # A lease would do for root as well; this is the plainer case.
    if os.geteuid() == 0:
        pytest.skip("root may read all files")
    wal = wal_of_a_killed_writer(path, connections)
    os.chmod(wal, 0)
    return wal


logs = pytest.mark.parametrize(
    "log",
    [
        wal_of_a_living_writer,
        wal_of_a_killed_writer,
        journal_of_a_living_writer,
        journal_of_a_killed_writer,
        duckdbs_log,
        log_that_cannot_be_read,
    ],
)


def closed_database(path: str) -> None:
    database(path, "DELETE").close()


def refused(call: Callable[[], object], log: str) -> None:
    with pytest.raises(DatafileError) as caught:
        call()
    for part in (repr(log), "bytes", "would be applied", "Hint: close the connections"):
        assert part in str(caught.value)


def unwanted(target: str) -> None:
    raise AssertionError(f"the creator was called with {target!r}")


@logs
def test_a_log_of_the_old_database_is_refused_before_the_creator_runs_and_is_not_touched(
    path: str, log: Log, connections: list[sqlite3.Connection]
) -> None:
    Datafile(path, 3600, closed_database).refresh()
    name = log(path, connections)
    before, listing = os.stat(name), sorted(os.listdir(os.path.dirname(path)))
    datafile = Datafile(path, 3600, unwanted, backoff=None, stale_if_error=False)
    refused(lambda: datafile.refresh(force=True), name)
    datafile.invalidate(hard=True)
    refused(datafile.path, name)
    after = os.stat(name)
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert sorted(os.listdir(os.path.dirname(path))) == listing


@logs
def test_a_log_that_comes_while_the_creator_runs_is_refused_right_before_the_swap(
    path: str, log: Log, connections: list[sqlite3.Connection]
) -> None:
    Datafile(path, 3600, closed_database).refresh()
    inode, found = os.stat(path).st_ino, []

    def creator(target: str) -> None:
        closed_database(target)
        found.append(log(path, connections))

    datafile = Datafile(path, 3600, creator, keep=1, backoff=None, stale_if_error=False)
    with pytest.raises(DatafileError, match="would be applied"):
        datafile.refresh(force=True)
    assert os.stat(path).st_ino == inode
    assert left_beside(path) == []
    assert os.stat(found[0]).st_size
    assert datafile.status().failed_pid == os.getpid()


@logs
def test_a_rollback_is_refused_beside_a_log_and_the_kept_version_stays(
    path: str, log: Log, connections: list[sqlite3.Connection]
) -> None:
    datafile = Datafile(path, 3600, closed_database, keep=1)
    datafile.refresh()
    datafile.refresh(force=True)
    inode, name = os.stat(path).st_ino, log(path, connections)
    refused(datafile.rollback, name)
    assert os.stat(path).st_ino == inode
    for connection in connections:
        connection.rollback()
        connection.close()
    with suppress(FileNotFoundError):
        os.unlink(name)
    datafile.rollback()
    assert rows(path) == ROWS


@logs
@pytest.mark.parametrize("meanwhile", [False, True])
def test_atomic_write_refuses_to_replace_a_database_with_a_log(
    path: str, log: Log, connections: list[sqlite3.Connection], meanwhile: bool
) -> None:
    closed_database(path)
    inode, entered = os.stat(path).st_ino, []
    if not meanwhile:
        log(path, connections)

    def write() -> None:
        with atomic_write(path) as file:
            entered.append(file)
            log(path, connections)

    with pytest.raises(DatafileError, match="would be applied"):
        write()
    assert bool(entered) is meanwhile
    assert os.stat(path).st_ino == inode
    assert left_beside(path) == []


@logs
def test_a_log_whose_database_was_removed_is_refused(
    path: str, log: Log, connections: list[sqlite3.Connection]
) -> None:
    closed_database(path)
    name = log(path, connections)
    os.unlink(path)
    refused(Datafile(path, 3600, unwanted, backoff=None).refresh, name)
    os.unlink(name)
    assert Datafile(path, 3600, closed_database, backoff=None).refresh()
    assert rows(path) == ROWS


def wal_of_a_reader(path: str, connections: list[sqlite3.Connection]) -> None:
    connections.append(sqlite3.connect(path))
    assert connections[-1].execute("PRAGMA journal_mode = WAL").fetchall() == [("wal",)]
    assert connections[-1].execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall() == [(0, 0, 0)]
    assert connections[-1].execute("SELECT count(*) FROM numbers").fetchone() == (ROWS,)
    assert os.stat(path + "-wal").st_size == 0


def journal_that_is_kept(path: str, connections: list[sqlite3.Connection]) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = PERSIST")
        connection.execute("UPDATE numbers SET number = 0")
    assert os.stat(path + "-journal").st_size


def journal_that_never_was_synced(path: str, connections: list[sqlite3.Connection]) -> None:
    killed(path, "BEGIN", "UPDATE numbers SET number = 0")
    assert Path(path + "-journal").read_bytes()[:8] == bytes(8)


def journal_of_another_program(path: str, connections: list[sqlite3.Connection]) -> None:
    Path(path + "-journal").write_text("a file of another program that has such a name")


def things_that_are_no_files(path: str, connections: list[sqlite3.Connection]) -> None:
    os.mkfifo(path + ".wal")
    os.mkdir(path + "-journal")


@pytest.mark.parametrize(
    "beside",
    [
        wal_of_a_reader,
        journal_that_is_kept,
        journal_that_never_was_synced,
        journal_of_another_program,
        things_that_are_no_files,
    ],
)
def test_what_no_program_would_apply_to_the_new_version_is_not_refused(
    path: str, beside: Callable[[str, list[sqlite3.Connection]], None], connections: list[sqlite3.Connection]
) -> None:
    Datafile(path, 3600, closed_database).refresh()
    beside(path, connections)

    def creator(target: str) -> None:
        with closing(database(target, "DELETE")) as connection, connection:
            connection.execute("INSERT INTO numbers VALUES (0)")

    datafile = Datafile(path, 3600, creator, keep=1, backoff=None, stale_if_error=False)
    assert datafile.refresh(force=True)
    if beside not in (journal_of_another_program, things_that_are_no_files):  # beside which SQLite opens none
        assert rows(path) == ROWS + 1
    datafile.rollback()
    with atomic_write(path) as file:
        file.write(b"no database")


def test_the_log_is_looked_for_where_a_link_leads_and_beside_the_link(
    tmp_path: Path, connections: list[sqlite3.Connection]
) -> None:
    (tmp_path / "data").mkdir()
    real, link = str(tmp_path / "data" / "real.db"), str(tmp_path / "link.db")
    closed_database(real)
    os.symlink(real, link)
    datafile = Datafile(link, 3600, unwanted, backoff=None, stale_if_error=False)
    refused(lambda: datafile.refresh(force=True), wal_of_a_living_writer(real, connections))
    connections.pop().close()
    refused(lambda: datafile.refresh(force=True), duckdbs_log(link, connections))


def test_a_name_that_no_log_could_have_is_not_refused(tmp_path: Path) -> None:
    path = str(tmp_path / ("n" * 250))
    (tmp_path / "locks").mkdir()
    assert Datafile(path, 3600, closed_database, directory=tmp_path / "locks").refresh()
    with atomic_write(path) as file:
        file.write(b"new")


def test_the_command_does_not_run_beside_a_log(cli: Cli, connections: list[sqlite3.Connection]) -> None:
    path = str(cli.directory / "file")
    closed_database(path)
    wal_of_a_living_writer(path, connections)
    made = cli.run("run", "--expire", "0", "--output", "file", "--", "touch", "ran", status=65)
    assert made.stderr.count("\n") == 1
    assert "file-wal' has" in made.stderr
    assert "Hint: close the connections" in made.stderr
    assert not (cli.directory / "ran").exists()


def test_a_real_duckdb_database_is_refused_while_its_log_has_something_in_it(path: str) -> None:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    open_ones = []

    def creator(target: str) -> None:
        open_ones.append(duckdb.connect(target))
        open_ones[-1].execute("CREATE TABLE numbers AS SELECT 1 AS number")

    with pytest.raises(DatafileError, match="whose wal has"):
        Datafile(path, 3600, creator).refresh()
    assert left_beside(path) == []
    open_ones.pop().close()

    def closing_creator(target: str) -> None:
        creator(target)
        open_ones.pop().close()

    datafile = Datafile(path, 3600, closing_creator)
    assert datafile.refresh()
    with closing(duckdb.connect(path)) as connection:
        connection.execute("INSERT INTO numbers VALUES (2)")
        refused(lambda: datafile.refresh(force=True), path + ".wal")
    assert datafile.refresh(force=True)
    with closing(duckdb.connect(path)) as connection:
        assert connection.execute("SELECT number FROM numbers").fetchall() == [(1,)]
