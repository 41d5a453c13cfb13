"""Datafiles.prune: keys that are old, or take too much room, go with all that is kept of them."""

from __future__ import annotations

import errno
import os
import signal
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import Datafile, Datafiles, Outcome
from dogpile_fs._datafile import pruning
from dogpile_fs._datafile.hidden_directory import hidden_beside
from dogpile_fs._sidecar.key_records import KeyRecords
from tests.support.processes import PATIENCE, Processes, Record, ended_well, in_child, wait_for


def write(key: str, target: str) -> None:
    Path(target).write_text("x" * 100)


@pytest.fixture
def files(tmp_path: Path) -> Datafiles:
    return Datafiles(tmp_path / "{key}.txt", 3600, write, keep=2, durable=False)


def created_at(files: Datafiles, key: str, at: float) -> None:
    files[key].refresh()
    files[key]._dogpile.createdtime = at


def left(directory: Path) -> list[str]:
    """Return the names of everything below *directory*, but for the coordination files."""
    found = [str(each.relative_to(directory)) for each in directory.rglob("*")]
    return sorted(each for each in found if not each.startswith(".dogpile"))


def test_older_keys_go_fresh_or_not_with_all_that_is_kept_of_them(files: Datafiles, tmp_path: Path) -> None:
    for number in range(5):
        files[f"old {number}"].refresh()
        files[f"old {number}"].refresh(force=True)
        created_at(files, f"old {number}", 1000)
    files["new"].refresh()
    assert files.prune(older_than=1800) == 5
    assert files["old 1"].status().state == "missing"
    assert files["old 1"].status().generation == 0
    assert files["new"].refresh() == Outcome.fresh
    assert files.prune(older_than=timedelta(seconds=1800)) == 0
    assert files.prune(older_than=0) == 1
    assert left(tmp_path) == [], "the shards are gone, too"


def test_the_room_of_records_is_given_back(files: Datafiles, tmp_path: Path) -> None:
    for number in range(20):
        files[f"{number}"].refresh()
    assert files.prune(older_than=0) == 20
    os.sync()
    (records,) = tmp_path.glob(".dogpile/*.records")
    assert records.stat().st_blocks == 0


def test_the_oldest_go_until_the_rest_has_at_most_so_many_bytes(files: Datafiles, tmp_path: Path) -> None:
    for number in range(6):
        created_at(files, f"{number}", 1000 + number)
    assert files.prune(max_bytes=600) == 0
    assert files.prune(max_bytes=301) == 3
    assert [files[f"{number}"].status().state for number in range(6)] == ["missing"] * 3 + ["stale"] * 3
    assert files.prune(max_bytes=0) == 3
    assert left(tmp_path) == []


def test_earlier_versions_count(files: Datafiles) -> None:
    files["a"].refresh()
    files["a"].refresh(force=True)
    assert files.prune(max_bytes=199) == 1


def test_both_bounds_count(files: Datafiles) -> None:
    for number in range(4):
        created_at(files, f"{number}", 1000 + number)
    files["new"].refresh()
    assert files.prune(older_than=1800, max_bytes=100) == 4
    assert files["new"].refresh() == Outcome.fresh


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, TypeError),
        ({"older_than": -1}, ValueError),
        ({"older_than": "1h"}, TypeError),
        ({"max_bytes": -1}, ValueError),
        ({"max_bytes": 1.5}, TypeError),
    ],
)
def test_wrong_arguments_are_refused(files: Datafiles, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        files.prune(**options)


def test_where_there_is_nothing_nothing_goes(tmp_path: Path) -> None:
    files = Datafiles(tmp_path / "missing" / "{key}.txt", 3600, write)
    assert files.prune(older_than=0, max_bytes=0) == 0
    assert not (tmp_path / "missing").exists()


def test_other_files_in_the_directory_stay(files: Datafiles, tmp_path: Path) -> None:
    files["a"].refresh()
    shard = Path(files["a"].path()).parent
    for each in (shard / "notes.txt", tmp_path / "notes.txt", tmp_path / "ff"):
        each.write_text("notes")
    plain = Datafile(tmp_path / "all.txt", 3600, lambda target: write("", target), keep=1)
    plain.refresh()
    plain.refresh(force=True)
    assert files.prune(older_than=0) == 1
    others = {"all.txt", "ff", "notes.txt", shard.name, f"{shard.name}/notes.txt"}
    assert {each for each in left(tmp_path) if ".dogpile" not in each} == others
    plain.rollback()


def test_a_key_that_is_being_created_stays(files: Datafiles, tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(key: str, target: str) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        write(key, target)

    files["a"].refresh()
    other = Datafiles(tmp_path / "{key}.txt", 3600, slow)
    thread = threading.Thread(target=lambda: [other["a"].refresh(force=True), other["b"].refresh()])
    thread.start()
    assert begun.wait(PATIENCE)
    assert files.prune(older_than=0) == 0
    assert ended_well(in_child(lambda: files.prune(older_than=0)))
    go_on.set()
    thread.join()
    assert files["a"].status().generation == 2
    assert files["b"].refresh() == Outcome.fresh
    assert files.prune(older_than=0) == 2


def test_a_creator_that_prunes_keeps_its_own_key(files: Datafiles, tmp_path: Path) -> None:
    gone: list[int] = []

    def creator(key: str, target: str) -> None:
        gone.append(files.prune(older_than=0))
        write(key, target)

    files["a"].refresh()
    Datafiles(tmp_path / "{key}.txt", 3600, creator)["b"].refresh()
    assert gone == [1]
    assert files["b"].refresh() == Outcome.fresh


def test_a_key_that_another_host_has_just_created_stays(files: Datafiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """On NFS, a system may show its callers the old record and the old file until one of them opens both."""
    created_at(files, "a", 1000)
    (found,) = pruning._Pruning(files._keys).look()
    asked: list[str] = []

    def look_anew(file: str, *directories: str) -> None:
        asked.extend((file, *directories))
        monkeypatch.undo()

    files["a"].refresh(force=True)
    monkeypatch.setattr(pruning._Pruning, "look", lambda self: [found])
    monkeypatch.setattr(pruning._Pruning, "_found", lambda self, name, record: found)
    monkeypatch.setattr(pruning, "look_anew", look_anew)
    assert files.prune(older_than=1800) == 0
    shard = os.path.dirname(files["a"].path())
    assert asked == [files._keys.pattern.records_path, os.path.dirname(shard), shard]
    assert files["a"].refresh() == Outcome.fresh


def test_a_directory_that_another_host_has_removed_is_no_error(
    files: Datafiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*arguments: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    created_at(files, "a", 1000)
    with monkeypatch.context() as patch:
        patch.setattr("dogpile_fs._datafile.hidden_directory.open_directory", stale)
        assert files.prune(older_than=3600) == 1
    created_at(files, "b", 1000)
    with monkeypatch.context() as patch:
        patch.setattr("dogpile_fs._datafile.names.os.listdir", stale)
        assert files.prune(older_than=3600) == 1


def test_a_reader_keeps_what_it_has_opened(files: Datafiles) -> None:
    with files["a"].open() as file:
        assert files.prune(older_than=0) == 1
        assert file.read() == b"x" * 100
    with files["a"].open() as file:
        assert file.read() == b"x" * 100


def _killed(key: str, target: str) -> None:
    write(key, target)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_killed_creators_left_goes_with_and_without_records(files: Datafiles, tmp_path: Path) -> None:
    for key in ("a", "b"):
        pid = os.fork()
        if not pid:
            Datafiles(tmp_path / "{key}.txt", 3600, _killed)[key].refresh()
        os.waitpid(pid, 0)
        if key == "a":
            assert files.prune(older_than=3600) == 0
            assert files.prune(older_than=0) == 1
            assert left(tmp_path) == []
    assert len(left(tmp_path)) == 3
    (records,) = tmp_path.glob(".dogpile/*.records")
    records.unlink()
    files._keys.records._look_at = 0.0
    assert files.prune(older_than=0) == 1
    assert left(tmp_path) == []


def test_a_prune_that_is_killed_after_the_file_forgets_no_invalidation(
    files: Datafiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object) -> bool:
        os._exit(0)

    files["a"].refresh()
    files["a"].invalidate(hard=True)
    with monkeypatch.context() as patch:
        patch.setattr(KeyRecords, "erase", killed)
        assert ended_well(in_child(lambda: files.prune(older_than=0)))
    assert files["a"].status().state == "missing"
    assert files.prune(older_than=0) == 1


def test_a_file_that_cannot_be_removed_is_a_line_in_the_log(
    files: Datafiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    files["a"].refresh()
    monkeypatch.setattr("dogpile_fs._datafile.pruning.os.unlink", refuse)
    assert files.prune(older_than=0) == 0
    assert "cannot be removed" in caplog.text
    assert files["a"].refresh() == Outcome.fresh


def test_a_shard_that_another_prune_removes_at_that_moment_is_no_error(
    files: Datafiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, others = hidden_beside, []

    def look_after_another_prune(path: str) -> str:
        monkeypatch.setattr(pruning, "hidden_beside", look)
        others.append(files.prune(older_than=0))
        assert left(tmp_path) == []
        return look(path)

    files["a"].refresh()
    monkeypatch.setattr(pruning, "hidden_beside", look_after_another_prune)
    assert files.prune(older_than=0) == 0
    assert others == [1]


def _create_for_ever(pattern: str, record: Record, number: int) -> None:
    def creator(key: str, target: str) -> None:
        Path(target).write_text(key)

    files = Datafiles(pattern, 3600, creator, durable=False)
    turn = 0
    while not record.directory.with_name("stop").exists():
        key = f"{(number + turn) % 7}"
        with files[key].open("r") as file:
            assert file.read() == key
        turn += 1
        if turn % 50 == 0:
            record.write("turned")


def test_creators_readers_and_prunes_at_the_same_time_harm_nothing(
    tmp_path: Path, record: Record, processes: Processes
) -> None:
    pattern = str(tmp_path / "keys" / "{key}.txt")
    os.mkdir(tmp_path / "keys")
    workers = [processes.start(_create_for_ever, pattern, record, number) for number in range(3)]
    files, gone = Datafiles(pattern, 3600, write), 0
    wait_for(lambda: record.events("turned"), "the first files")
    for _ in range(40):
        gone += files.prune(older_than=0)
        assert ended_well(in_child(lambda: files.prune(max_bytes=3)))
    record.directory.with_name("stop").touch()
    processes.join(*workers)
    assert gone > 20
    files.prune(older_than=0)
    assert left(tmp_path / "keys") == []
