"""Which files coordinate a resource, and which paths are none."""

from __future__ import annotations

import errno
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import Datafiles, Dogpile, FileMutex, PathError, ReadWriteFileLock
from dogpile_fs._dogpile.process_scope import ProcessScope
from dogpile_fs._dogpile.resource_path import checked_resource
from dogpile_fs._dogpile.thread_scope import ThreadScope
from dogpile_fs._os.filesystem import look_anew
from dogpile_fs._os.waiting import Deadline
from dogpile_fs._sidecar.file import Sidecar
from dogpile_fs._sidecar.journal import Entry
from dogpile_fs._sidecar.record import MISSING, Record
from dogpile_fs._sidecar.snapshot import Snapshot
from tests.support.processes import Processes

MADE = Record(createdtime=1000.0, generation=1)


def process_scope(path: str, directory: str | None = None, **options: Any) -> ProcessScope:
    options = {"lock": None, "timeout": None, "mode": None} | options
    return ProcessScope(checked_resource(path), directory=directory, **options)


def use_all_of(scope: ProcessScope) -> None:
    """Use everything that has a file."""
    assert scope.mutex.acquire(wait=False)
    scope.mutex.release()
    scope.change(lambda record: MADE)
    lock = scope.read_write_lock()
    assert lock.acquire_write_lock(wait=False)
    lock.release_write_lock()
    scope.journal.append(Entry("host", 1, 1000.0, "created", 1))


def coordination_files(directory: str | Path) -> set[str]:
    return {name for name in os.listdir(directory) if ".dogpile" in name}


# The names of the files.


def test_the_four_files_stand_beside_the_resource_and_bear_its_name(path: str) -> None:
    use_all_of(process_scope(path))
    assert sorted(os.listdir(os.path.dirname(path))) == [
        "resource.dogpile",
        "resource.dogpile.journal",
        "resource.dogpile.lock",
        "resource.dogpile.rwlock",
    ]


def test_no_file_is_made_before_it_is_needed(path: str) -> None:
    scope = process_scope(path)
    scope.read_write_lock()
    assert scope.peek().record == scope.read() == MISSING
    assert not scope.mutex.locked()
    assert scope.mutex._wait_released(Deadline(0))
    assert os.listdir(os.path.dirname(path)) == []


def test_a_resource_in_the_current_directory_is_the_same_after_a_chdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scope = process_scope("resource")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    use_all_of(scope)
    assert len(coordination_files(tmp_path)) == 4
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    "name", [".hidden", "with space", "new\nline", "büro-東京", "\udcff\udc80", "-f", "*", "a.dogpile"]
)
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "locks").mkdir()
    for directory in (None, str(tmp_path / "locks")):
        scope = process_scope(str(tmp_path / name), directory)
        use_all_of(scope)
        assert scope.peek().record == MADE
    assert coordination_files(tmp_path) >= {
        name + suffix for suffix in (".dogpile", ".dogpile.journal", ".dogpile.lock", ".dogpile.rwlock")
    }


def test_the_longest_name_that_leaves_room_for_the_suffixes_needs_no_directory(tmp_path: Path) -> None:
    use_all_of(process_scope(str(tmp_path / ("x" * (255 - len(".dogpile.journal"))))))
    with pytest.raises(PathError) as caught:
        process_scope(str(tmp_path / ("x" * (256 - len(".dogpile.journal")))))
    assert caught.value.errno == errno.ENAMETOOLONG
    assert "Hint: shorten the name" in str(caught.value)
    assert "with directory= it shortens the name itself" in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "東" * 85, "\U0001f512" * 63, "\udcff" * 255], ids=len)
def test_with_a_directory_a_name_may_be_as_long_as_the_system_lets_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    (tmp_path / "locks").mkdir()
    scope = process_scope(str(tmp_path / name), str(tmp_path / "locks"))
    use_all_of(scope)
    assert len(coordination_files(tmp_path / "locks")) == 4
    other = process_scope(str(tmp_path / (name[:-1] + "y")), str(tmp_path / "locks"))
    assert other.read() == MISSING


# directory=


@pytest.fixture
def locks(tmp_path: Path) -> str:
    locks = tmp_path / "locks"
    locks.mkdir()
    return str(locks)


def test_with_a_directory_nothing_is_put_beside_the_resource(tmp_path: Path, locks: str) -> None:
    (tmp_path / "data").mkdir(mode=0o555)
    use_all_of(process_scope(str(tmp_path / "data" / "resource"), locks))
    assert os.listdir(tmp_path / "data") == []
    names = coordination_files(locks)
    assert len(names) == 4
    assert all(name.startswith("resource-") for name in names), "a person should recognize them"


def test_two_resources_with_the_same_last_name_are_kept_apart(tmp_path: Path, locks: str) -> None:
    one = process_scope(str(tmp_path / "one" / "resource"), locks)
    other = process_scope(str(tmp_path / "other" / "resource"), locks)
    one.change(lambda record: MADE)
    assert other.read() == MISSING
    assert one.mutex.acquire(wait=False)
    assert other.mutex.acquire(wait=False)
    reading, writing = one.read_write_lock(), other.read_write_lock()
    reading._enter(Deadline(0))
    assert writing.acquire_write_lock(wait=False)


def test_the_same_resource_through_a_symbolic_link_to_its_parent_is_kept_together(
    tmp_path: Path, locks: str
) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "deeper").symlink_to(Path("link") / "deep")
    names = [tmp_path / "data" / "deep", tmp_path / "link" / "deep", tmp_path / "deeper"]
    scopes = [process_scope(str(name / "resource"), locks) for name in names]
    scopes[0].change(lambda record: MADE)
    assert [scope.read() for scope in scopes] == [MADE] * 3
    assert scopes[0].mutex.acquire(wait=False)
    assert [scope.mutex.locked() for scope in scopes] == [True] * 3


def test_two_dots_after_a_symbolic_link_lead_where_the_system_says(tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(Path("data") / "deep")
    path = f"{tmp_path}/link/../resource"
    Path(path).touch()
    assert (tmp_path / "data" / "resource").exists()
    process_scope(str(tmp_path / "data" / "resource")).change(lambda record: MADE)
    assert process_scope(path).read() == MADE


def test_beside_the_resource_a_symbolic_link_to_its_parent_leads_to_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    one, other = (process_scope(str(tmp_path / name / "resource")) for name in ("data", "link"))
    one.change(lambda record: MADE)
    assert other.read() == MADE


def test_the_same_directory_through_a_symbolic_link_holds_the_same_files(
    path: str, tmp_path: Path, locks: str
) -> None:
    (tmp_path / "link").symlink_to(locks)
    process_scope(path, locks).change(lambda record: MADE)
    assert process_scope(path, str(tmp_path / "link")).read() == MADE


def test_beside_the_resource_and_in_a_directory_are_two_places(path: str, locks: str) -> None:
    process_scope(path, locks).change(lambda record: MADE)
    assert process_scope(path).read() == MISSING


def test_a_directory_given_relative_to_the_current_one_stays_where_it_was(
    path: str, locks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scope = process_scope(path, "locks")
    monkeypatch.chdir("/")
    use_all_of(scope)
    assert len(coordination_files(locks)) == 4


def test_a_directory_given_relative_to_the_current_one_is_the_same_after_a_pickle(
    path: str, locks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dogpile = Dogpile(3600, path, directory="locks", init=True)
    pickled = pickle.dumps(dogpile)
    (tmp_path / "elsewhere" / "locks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(pickled).status().generation == 1


def test_with_a_directory_that_of_the_resource_need_not_exist_yet(tmp_path: Path, locks: str) -> None:
    use_all_of(process_scope(str(tmp_path / "later" / "resource"), locks))


def test_a_missing_directory_for_the_files_is_an_error_with_a_hint(path: str, tmp_path: Path) -> None:
    with pytest.raises(PathError) as caught:
        process_scope(path, str(tmp_path / "missing"))
    assert caught.value.errno == errno.ENOENT
    assert repr(str(tmp_path / "missing")) in str(caught.value)
    assert "Hint: make it first" in str(caught.value)
    (tmp_path / "file").touch()
    with pytest.raises(PathError) as caught:
        process_scope(path, str(tmp_path / "file"))
    assert caught.value.errno == errno.ENOTDIR
    assert str(tmp_path / "file") in str(caught.value)
    assert "Hint: name a path whose parents are directories" in str(caught.value)


# What a process scope is made of.


def test_a_process_scope_locks_by_files_with_its_timeout_and_mode(path: str) -> None:
    scope = process_scope(path, timeout=5, mode=0o640)
    assert isinstance(scope.mutex, FileMutex)
    lock = scope.read_write_lock()
    assert isinstance(lock, ReadWriteFileLock)
    assert (scope.mutex.timeout, lock.timeout) == (5, 5)
    use_all_of(scope)
    for name in coordination_files(os.path.dirname(path)):
        assert os.stat(os.path.join(os.path.dirname(path), name)).st_mode & 0o777 == 0o640, name


def test_a_borrowed_lock_takes_the_place_of_the_mutex_file(path: str) -> None:
    lock = threading.Lock()
    scope = process_scope(path, lock=lock)
    assert scope.mutex.acquire(wait=False)
    assert lock.locked()
    scope.mutex.release()
    assert not lock.locked()
    assert os.listdir(os.path.dirname(path)) == []


def test_two_scopes_of_one_path_share_record_and_locks(path: str) -> None:
    one, other = process_scope(path), process_scope(path)
    one.change(lambda record: MADE)
    assert other.peek().record == MADE
    assert one.mutex.acquire(wait=False)
    assert not other.mutex.acquire(wait=False)
    reading = one.read_write_lock()
    hold = reading._enter(Deadline(0))
    assert not other.read_write_lock().acquire_write_lock(wait=False)
    reading._leave(hold)
    assert other.read_write_lock().acquire_write_lock(wait=False)


def test_a_thread_scope_touches_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope = ThreadScope(lock=None, timeout=None)
    assert scope.peek().record == scope.read() == MISSING
    scope.change(lambda record: MADE)
    assert scope.peek().record == scope.read() == MADE
    assert scope.mutex.acquire()
    scope.mutex.release()
    lock = scope.read_write_lock()
    assert lock.acquire_write_lock()
    lock.release_write_lock()
    assert os.listdir(tmp_path) == []


def test_two_thread_scopes_have_nothing_in_common() -> None:
    one, other = ThreadScope(lock=None, timeout=None), ThreadScope(lock=None, timeout=None)
    one.change(lambda record: MADE)
    assert other.peek().record == MISSING
    assert one.mutex.acquire(wait=False)
    assert other.mutex.acquire(wait=False)


def test_changes_by_many_threads_lose_none() -> None:
    scope = ThreadScope(lock=None, timeout=None)

    def count() -> None:
        for _ in range(500):
            scope.change(lambda record: record.replace(generation=record.generation + 1))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scope.peek().record.generation == 4000


def test_a_child_keeps_the_record_of_its_parents_thread_scope_and_can_change_its_own(
    processes: Processes,
) -> None:
    scope = ThreadScope(lock=None, timeout=None)
    scope.change(lambda record: MADE)

    def in_the_child() -> None:
        assert scope.peek().record == MADE
        scope.change(lambda record: MISSING)
        assert scope.peek().record == MISSING

    changing = threading.Event()
    enough = threading.Event()

    def change_slowly(record: Record) -> Record:
        changing.set()
        enough.wait()
        return record

    # Forked while another thread is in the middle of a change: its lock must not stay locked in the child.
    thread = threading.Thread(target=scope.change, args=(change_slowly,))
    thread.start()
    changing.wait()
    try:
        processes.start(in_the_child)
        processes.join()
    finally:
        enough.set()
        thread.join()
    assert scope.peek().record == MADE


# Paths.


@pytest.mark.parametrize("path", [3, 3.5, True, None, b"resource", ["resource"], ...], ids=repr)
def test_a_path_of_another_type_is_a_type_error_that_shows_it(path: Any) -> None:
    with pytest.raises(TypeError) as caught:
        checked_resource(path)
    assert "path must be" in str(caught.value)
    assert repr(path) in str(caught.value)


def test_a_path_of_bytes_is_an_error_with_a_hint() -> None:
    class Bytes(os.PathLike[bytes]):
        def __fspath__(self) -> bytes:
            return b"resource"

    with pytest.raises(TypeError, match=r"os\.fsdecode"):
        checked_resource(Bytes())  # type: ignore[arg-type]


def test_a_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = os.path.join(os.getcwd(), "resource")
    for path in (
        "resource",
        "./resource",
        "./x/../resource",
        Path("resource"),
        os.path.join(tmp_path, "resource"),
    ):
        assert os.path.normpath(checked_resource(path)) == expected


@pytest.mark.parametrize("path", ["", "a\0b", "resource/", "/", "\0"])
def test_a_path_without_a_file_name_is_an_error_with_a_hint(path: str) -> None:
    with pytest.raises(PathError) as caught:
        checked_resource(path)
    assert repr(path) in str(caught.value)
    assert "Hint: give the path of the resource" in str(caught.value)


@pytest.mark.parametrize("path", [".", ".."])
def test_a_directory_is_no_resource(path: str) -> None:
    with pytest.raises(PathError) as caught:
        checked_resource(path)
    assert caught.value.errno == errno.EISDIR
    assert repr(os.path.join(os.getcwd(), path)) in str(caught.value)
    assert "Hint: give the path of a file" in str(caught.value)


def test_a_link_to_a_directory_is_no_resource_either(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(PathError) as caught:
        checked_resource(tmp_path / "link")
    assert caught.value.errno == errno.EISDIR


def test_the_error_for_a_dangling_link_says_where_it_points(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere/resource")
    with pytest.raises(PathError) as caught:
        checked_resource(tmp_path / "link")
    assert caught.value.errno == errno.ENOENT
    where = str(tmp_path.resolve() / "nowhere")
    for part in (repr(str(tmp_path / "link")), "'nowhere/resource'", repr(where), "Hint: make that, or remove"):
        assert part in str(caught.value)


def test_the_target_of_a_link_need_not_exist(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("resource")
    assert checked_resource(tmp_path / "link") == str(tmp_path / "link")
    assert checked_resource(tmp_path / "link", "file") == str(tmp_path / "link")


@pytest.mark.parametrize("kind", [None, "file"])
def test_a_fifo_or_socket_is_an_error_where_a_regular_file_must_be(tmp_path: Path, kind: str | None) -> None:
    os.mkfifo(tmp_path / "fifo")
    if kind is None:
        assert checked_resource(tmp_path / "fifo") == str(tmp_path / "fifo")
        return
    for path in (tmp_path / "fifo", "/dev/null"):
        with pytest.raises(PathError) as caught:
            checked_resource(path, kind)
        assert repr(str(path)) in str(caught.value)
        assert "is no regular file" in str(caught.value)
        assert "Hint: give the path of one" in str(caught.value)


def test_a_link_to_a_file_will_do(tmp_path: Path) -> None:
    (tmp_path / "resource").touch()
    (tmp_path / "link").symlink_to("resource")
    assert checked_resource(tmp_path / "link") == str(tmp_path / "link")


@pytest.mark.parametrize("where", ["link", "link/resource"])
def test_a_link_to_itself_is_a_path_error(tmp_path: Path, where: str) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(PathError) as caught:
        checked_resource(tmp_path / where)
    assert caught.value.errno == errno.ELOOP
    assert repr(str(tmp_path / where)) in str(caught.value)
    assert "Hint: remove the symbolic link" in str(caught.value)


def test_a_path_under_a_file_is_a_path_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PathError) as caught:
        checked_resource(tmp_path / "file" / "resource")
    assert caught.value.errno == errno.ENOTDIR
    assert repr(str(tmp_path / "file" / "resource")) in str(caught.value)
    assert "Hint: name a path whose parents are directories" in str(caught.value)


def test_a_name_that_the_system_does_not_take_is_a_path_error(tmp_path: Path) -> None:
    with pytest.raises(PathError) as caught:
        checked_resource(tmp_path / ("x" * 256))
    assert caught.value.errno == errno.ENAMETOOLONG
    assert "Hint: shorten the name" in str(caught.value)


def test_text_that_cannot_be_a_file_name_is_a_path_error(tmp_path: Path) -> None:
    with pytest.raises(PathError) as caught:
        checked_resource(f"{tmp_path}/\ud800")
    assert "Hint: " in str(caught.value)


@pytest.mark.parametrize("suffix", ["", "/deeper"])
def test_the_error_for_a_missing_directory_names_it(tmp_path: Path, suffix: str) -> None:
    missing = str(tmp_path / "missing") + suffix
    with pytest.raises(PathError) as caught:
        process_scope(missing + "/resource")
    assert caught.value.errno == errno.ENOENT
    assert repr(missing) in str(caught.value)
    assert "Hint: make it first" in str(caught.value)


# Several hosts.


def test_a_caller_that_is_elected_asks_the_server_of_nfs_for_the_record(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it opens the sidecar, its system may show it what was there seconds ago."""
    here, there = Dogpile(3600, path), Dogpile(3600, path)
    here.refresh(lambda: None)
    here.invalidate()
    kept = [there._shared.scope.sidecar.read()]  # type: ignore[attr-defined]
    assert here.refresh(lambda: None)
    read, opened = Sidecar.read, os.open

    def from_what_is_kept(sidecar: Sidecar, again: bool = True) -> Snapshot:
        return kept[0] if kept else read(sidecar, again)

    def open_at_the_server(name: Any, *more: Any, **options: Any) -> int:
        if str(name).endswith(".dogpile"):
            kept.clear()
        return opened(name, *more, **options)

    monkeypatch.setattr(Sidecar, "read", from_what_is_kept)
    monkeypatch.setattr(Sidecar, "peek", from_what_is_kept)
    monkeypatch.setattr(os, "open", open_at_the_server)
    monkeypatch.setattr("dogpile_fs._os.filesystem.is_on_disk", lambda found: False)
    assert there.refresh(lambda: pytest.fail("created once more")) == "fresh"
    assert kept == []


def test_a_key_whose_directory_was_missing_is_looked_for_from_the_fixed_part_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NFS, a system goes on to say that a directory is missing until the one above it is opened."""
    asked: list[str] = []
    monkeypatch.setattr(
        "dogpile_fs._dogpile.process_scope.look_anew", lambda file, *directories: asked.extend(directories)
    )
    files = Datafiles(tmp_path / "{key}" / "of" / "file", 3600, lambda key, target: Path(target).touch())
    files["a"].refresh()
    path = Path(files["a"].path())
    assert asked == [str(each) for each in reversed(path.parents) if each.is_relative_to(tmp_path)]


def test_a_name_that_is_missing_is_asked_for_once_its_directory_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, is_open = list[str](), os.open
    monkeypatch.setattr("dogpile_fs._os.filesystem.is_on_disk", lambda found: False)

    def note(name: str, *more: int) -> int:
        opened.append(name)
        return is_open(name, *more)

    monkeypatch.setattr(os, "open", note)
    look_anew(f"{tmp_path}/file", f"{tmp_path}", f"{tmp_path}/below")
    assert opened == [f"{tmp_path}", f"{tmp_path}/below", f"{tmp_path}/file"]
