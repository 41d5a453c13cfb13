"""Datafiles: a datafile for each of many keys."""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import (
    Backoff,
    CreationFailed,
    DataDirectory,
    Datafile,
    Datafiles,
    Dogpile,
    Event,
    LockFileError,
    Outcome,
    PathError,
    Policy,
    WouldDeadlock,
)
from dogpile_fs._dogpile import key_scope
from dogpile_fs._dogpile.key_pattern import KeyPattern
from dogpile_fs._os import kept_open
from tests.support.places import descriptors
from tests.support.processes import PATIENCE, Processes, Record, ended_well, in_child, wait_for, waiters_for


def write_key(key: str, target: str) -> None:
    Path(target).write_text(f"the report of {key!r}", errors="surrogatepass")


def contents(files: Datafiles, key: str) -> str:
    with files[key].open() as file:
        return file.read().decode(errors="surrogatepass")


@pytest.fixture
def pattern(tmp_path: Path) -> str:
    (tmp_path / "reports").mkdir()
    return str(tmp_path / "reports" / "{key}.txt")


def path_of(files: Datafiles, key: str) -> str:
    return files[key].path()


def test_each_key_has_a_file_of_its_own_that_is_created_when_it_is_asked_for(pattern: str) -> None:
    files = Datafiles(pattern, 3600, write_key)
    assert contents(files, "May") == "the report of 'May'"
    assert contents(files, "June") == "the report of 'June'"
    assert contents(Datafiles(pattern, 3600), "May") == "the report of 'May'", "for those that only read as well"
    assert files["May"].status().generation == 1
    assert files["July"].status().state == "missing"
    directory = os.path.dirname(pattern)
    path = os.path.relpath(path_of(files, "May"), directory)
    assert re.fullmatch(r"([0-9a-f]{2})/may-\1[0-9a-f]{30}\.txt", path)
    names = sorted(os.listdir(os.path.join(directory, ".dogpile")))
    assert [re.sub("-[0-9a-f]{16}", "", name) for name in names] == ["keys.pattern", "keys.records", "keys.lock"]
    assert not list(Path(directory).rglob("*.dogpile.*")), "nothing is beside a key's file"


@pytest.mark.parametrize("key", ["", "..", "../../x", "a\0b", "\ud800", "x" * 10_000, "May/June", "ÄÖ", "\n"])
def test_any_text_is_a_key(pattern: str, key: str) -> None:
    files = Datafiles(pattern, 3600, write_key)
    assert contents(files, key) == f"the report of {key!r}"
    assert Path(path_of(files, key)).is_relative_to(os.path.dirname(pattern))


@pytest.mark.parametrize("key", [b"May", 5, None, ("May",), ["May"]])
def test_a_key_that_is_no_text_is_a_type_error(pattern: str, key: Any) -> None:
    with pytest.raises(TypeError, match="a key must be a str"):
        Datafiles(pattern, 3600, write_key)[key]


def test_every_method_of_a_datafile_is_there_for_each_key(pattern: str) -> None:
    made: list[str] = []

    def creator(key: str, target: str) -> None:
        made.append(key)
        Path(target).write_text(json.dumps([key, len(made)]))

    files = Datafiles(pattern, 3600, creator, keep=1)
    assert files["a"].load(json.load) == ["a", 1]
    assert files["a"].load(json.load) is files["a"].load(json.load)
    assert files["a"].refresh() == Outcome.fresh
    assert files["a"].refresh(force=True) == Outcome.created
    assert files["a"].load(json.load) == ["a", 2]
    files["a"].rollback()
    assert files["a"].load(json.load) == ["a", 1]
    files["a"].invalidate()
    assert files["a"].status().state == "stale"
    assert files["b"].status().state == "missing"
    files["a"].touch()
    assert files["a"].status().state == "fresh"
    files["a"].invalidate(hard=True)
    assert files["a"].status().state == "missing"
    with files["a"].acquire() as path:
        assert json.loads(Path(path).read_text()) == ["a", 3]
    assert files["a"].version != files["b"].version


def test_every_option_of_a_datafile_is_one_of_the_keys(pattern: str) -> None:
    events: list[Event] = []

    def validate(target: str) -> bool:
        return "refused" not in Path(target).read_text()

    files = Datafiles(
        pattern,
        timedelta(hours=1),
        write_key,
        validate=validate,
        keep=2,
        skip_unchanged=True,
        durable=False,
        timeout=5,
        mode=0o640,
        backoff=Backoff(initial=60),
        max_stale=60,
        refresh_early=0.5,
        jitter=0.1,
        on_event=events.append,
    )
    files["a"].refresh()
    assert [each.kind for each in events] == ["creating", "swapped", "created"]
    assert files["a"].refresh(force=True) == Outcome.created
    with pytest.raises(Exception, match="validate refused"):
        files["refused"].refresh()
    with pytest.raises(CreationFailed):
        contents(files, "refused")
    assert contents(files, "a") == "the report of 'a'", "the backoff is that of one key"
    lock = os.path.join(os.path.dirname(pattern), ".dogpile", "keys.lock")
    assert os.stat(lock).st_mode & 0o777 == 0o640
    with pytest.raises(TypeError, match="contradict"):
        Datafiles(pattern, 1, write_key, policy=Policy(jitter=0.5), jitter=0.1)


def test_it_depends_on_inputs_of_all_keys(pattern: str, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("1")
    files = Datafiles(pattern, None, write_key, depends_on=[tmp_path / "source"])
    files["a"].refresh()
    assert files["a"].status().state == "fresh"
    (tmp_path / "source").write_text("22")
    wait_for(lambda: files["a"].status().state == "stale", "the input's change to be seen")
    assert Datafile(tmp_path / "sum", None, Path.touch, depends_on=[files["a"]]).refresh()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"readers": True}, "readers=True is not for keys"),
        ({"directory": "/tmp"}, "directory= is not for keys"),
        ({"origin": "/tmp/origin"}, "origin= is not for keys"),
        ({"background": "process"}, "background='process' is not for keys"),
        ({"policy": Policy(background="process")}, "background='process' is not for keys"),
    ],
)
def test_what_is_not_for_keys_is_refused(pattern: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Datafiles(pattern, 3600, write_key, **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"keep": -1}, ValueError),
        ({"timeout": "5"}, TypeError),
        ({"mode": -1}, ValueError),
        ({"validate": 5}, TypeError),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    pattern: str, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Datafiles(pattern, 3600, write_key, **options)


async def coroutine(key: str, target: str) -> None:
    pass


def test_wrong_creators_and_expiretimes_are_refused_at_once(pattern: str) -> None:
    with pytest.raises(TypeError, match="coroutine"):
        Datafiles(pattern, 3600, coroutine)
    with pytest.raises(TypeError):
        Datafiles(pattern, 3600, "creator")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expiretime"):
        Datafiles(pattern, -1, write_key)
    with pytest.raises(ValueError, match=re.escape("{key}")):
        Datafiles(pattern.replace("{key}", "key"), 3600, write_key)


def test_a_missing_directory_is_made_by_the_first_creation_if_that_is_asked_for(tmp_path: Path) -> None:
    pattern = tmp_path / "not" / "there" / "{key}.txt"
    with pytest.raises(PathError, match="parents=True"):
        Datafiles(pattern, 3600)
    files = Datafiles(pattern, 3600, write_key)
    assert files["a"].status().state == "missing"
    with pytest.raises(PathError, match="parents=True"):
        contents(files, "a")
    files = Datafiles(pattern, 3600, write_key, parents=True)
    assert not pattern.parent.exists()
    assert contents(files, "a") == "the report of 'a'"


def test_a_key_in_a_directorys_name_has_a_directory_of_its_own(tmp_path: Path) -> None:
    files = Datafiles(tmp_path / "{key}" / "report.txt", 3600, write_key, keep=1)
    files["a"].refresh()
    files["a"].refresh(force=True)
    assert contents(files, "a") == "the report of 'a'"
    assert os.path.basename(path_of(files, "a")) == "report.txt"
    assert files.prune(older_than=0) == 1
    assert os.listdir(tmp_path) == [".dogpile"]


def test_two_patterns_in_one_directory_do_not_share_keys(tmp_path: Path) -> None:
    one, other = (Datafiles(tmp_path / f"{{key}}.{suffix}", 3600, write_key) for suffix in "ab")
    one["x"].refresh()
    assert other["x"].status().state == "missing"
    other["x"].refresh()
    assert one.prune(older_than=0) == 1
    assert other["x"].status().generation == 1


def test_a_datafile_beside_the_keys_shares_the_hidden_sub_directory_with_them(tmp_path: Path) -> None:
    plain = Datafile(tmp_path / "all.txt", 3600, lambda target: write_key("all", target))
    files = Datafiles(tmp_path / "{key}.txt", 3600, write_key)
    plain.refresh()
    files["a"].refresh()
    plain.refresh(force=True)
    assert "keys.lock" in os.listdir(tmp_path / ".dogpile")
    assert files["a"].refresh() == Outcome.fresh


def test_the_creator_of_one_key_may_open_others(pattern: str) -> None:
    def creator(key: str, target: str) -> None:
        below = contents(files, key[1:]) if key else ""
        Path(target).write_text(f"{key}<{below}>")

    files = Datafiles(pattern, 3600, creator)
    assert contents(files, "abc") == "abc<bc<c<<>>>>"


def test_a_creator_that_opens_its_own_key_would_wait_for_itself(pattern: str) -> None:
    files = Datafiles(pattern, 3600, lambda key, target: contents(files, key))
    with pytest.raises(WouldDeadlock):
        contents(files, "a")


def test_nested_creations_of_colliding_keys_do_not_wait_for_themselves(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_scope, "lock_bits", lambda name: 5)
    monkeypatch.setattr(key_scope, "home", lambda name: 5)

    def creator(key: str, target: str) -> None:
        below = contents(files, key[1:]) if key else ""
        Path(target).write_text(f"{key}<{below}>")

    files = Datafiles(pattern, 3600, creator, timeout=PATIENCE)
    assert contents(files, "abc") == "abc<bc<c<<>>>>"
    assert [files[key].status().generation for key in ("abc", "bc", "c", "")] == [1] * 4
    assert files["bc"].refresh(force=True)
    assert ended_well(in_child(lambda: files["c"].refresh(force=True)))


def test_a_hit_is_one_look_at_the_record_and_one_at_the_file(pattern: str) -> None:
    files = Datafiles(pattern, 3600, write_key)
    assert files["a"] is files["a"]
    path_of(files, "a")
    calls = traced(lambda: files["a"].load(len_of), 50)
    # Now and then a hit looks at more: whether the file of records is still at its path, after some milliseconds.
    assert {name for name, count in calls.items() if count > 10} <= {"pread64", "newfstatat", "stat"}, calls
    assert sum(calls.values()) <= 2 * 50 + 10, calls


def len_of(file: Any) -> int:
    return len(file.read())


def traced(action: Callable[[], object], times: int) -> dict[str, int]:
    """Return how often *action* calls the system, from Python's own audit of a few functions of ``os``."""
    counts: dict[str, int] = {}
    real = {"pread64": os.pread, "stat": os.stat, "lseek": os.lseek, "open": os.open, "fstat": os.fstat}
    names = {"pread64": "pread", "stat": "stat", "lseek": "lseek", "open": "open", "fstat": "fstat"}
    action()
    with pytest.MonkeyPatch.context() as patch:
        for name, function in real.items():

            def counted(*arguments: Any, name: str = name, function: Any = function, **more: Any) -> Any:
                counts[name] = counts.get(name, 0) + 1
                return function(*arguments, **more)

            patch.setattr(os, names[name], counted)
        for _ in range(times):
            action()
    return counts


def test_it_keeps_the_objects_that_were_used_last_and_one_descriptor(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dogpile_fs._datafile.datafiles._MOST_KEPT", 10)
    files = Datafiles(pattern, 3600, write_key, durable=False)
    for _ in range(2):
        contents(files, "first")
    gc.collect()
    before = len(descriptors())
    first, held = files["first"], files["held"]
    for number in range(100):
        contents(files, f"key {number}")
        assert files["first"] is first, "it is used again and again"
    assert len(files._kept) == 10
    assert files["held"] is held, "a key has one object while it is in use"
    del held
    gc.collect()
    assert len(descriptors()) == before
    assert len(files._living) <= 11


def test_it_is_pickled_and_so_are_its_keys_datafiles(pattern: str) -> None:
    files = Datafiles(pattern, timedelta(hours=1), write_key, keep=1, timeout=5, policy=Policy(jitter=0.5))
    files["a"].refresh()
    copy = pickle.loads(pickle.dumps(files))
    assert copy["a"].refresh() == Outcome.fresh
    assert repr(copy) == repr(files)
    assert (copy["a"]._keep, copy["a"]._dogpile._policy) == (1, Policy(jitter=0.5))
    one = pickle.loads(pickle.dumps(files["a"]))
    assert one.status().generation == 1
    assert repr(one) == repr(files["a"]) == f"Datafiles({pattern!r}, 1:00:00)['a']"
    with pytest.raises(TypeError, match="Datafiles"):
        pickle.dumps(files["a"]._dogpile)


def test_it_may_be_made_before_a_fork_and_used_after_it(pattern: str) -> None:
    files = Datafiles(pattern, 3600, write_key)
    contents(files, "a")

    def use() -> None:
        assert contents(files, "a") == "the report of 'a'"
        assert contents(files, "b") == "the report of 'b'"
        files["a"].invalidate()

    assert ended_well(in_child(use))
    assert files["b"].refresh() == Outcome.fresh
    assert files["a"].status().invalidated == "soft"


def test_in_the_background_readers_get_the_old_version(pattern: str) -> None:
    go_on, threads = threading.Event(), set()

    def creator(key: str, target: str) -> None:
        threads.add(threading.current_thread())
        if os.path.exists(os.path.join(os.path.dirname(pattern), "second")):
            assert go_on.wait(PATIENCE)
        write_key(key, target)

    files = Datafiles(pattern, 3600, creator, background="thread")
    files["a"].refresh()
    (Path(pattern).parent / "second").touch()
    files["a"].invalidate()
    assert contents(files, "a") == "the report of 'a'"
    wait_for(lambda: len(threads) == 2, "the creation in a thread")
    assert files["a"].status().creating
    go_on.set()
    wait_for(lambda: files["a"].status().generation == 2, "its end")
    wait_for(lambda: not files["a"].status().creating, "the mutex")


def test_another_programs_version_of_a_keys_file_counts_as_of_its_mtime(pattern: str) -> None:
    files = Datafiles(pattern, 3600, write_key)
    path = path_of(files, "a")
    Path(path + ".new").write_text("another program's")
    os.replace(path + ".new", path)
    assert contents(files, "a") == "another program's"
    os.utime(path, (1, 1))
    assert contents(files, "a") == "the report of 'a'"
    os.unlink(path)
    assert contents(files, "a") == "the report of 'a'"


def test_removed_coordination_files_cost_no_error(pattern: str, caplog: pytest.LogCaptureFixture) -> None:
    files = Datafiles(pattern, 3600, write_key)
    contents(files, "a")
    shutil.rmtree(os.path.join(os.path.dirname(pattern), ".dogpile"))
    assert contents(files, "a") == "the report of 'a'", "its mtime counts"
    assert files["a"].refresh(force=True)
    assert files["b"].refresh()
    assert contents(files, "b") == "the report of 'b'"


def scribble(marker: Path) -> None:
    with marker.open("ab") as file:
        file.write(b"scribble")


def link_to_itself(marker: Path) -> None:
    marker.unlink()
    marker.symlink_to(marker.name)


def link_to_another_file(marker: Path) -> None:
    marker.rename(marker.with_suffix(".moved"))
    marker.symlink_to(marker.with_suffix(".moved"))


def make_a_fifo(marker: Path) -> None:
    marker.unlink()
    os.mkfifo(marker)


@pytest.mark.parametrize("harm", [scribble, link_to_itself, link_to_another_file, make_a_fifo])
def test_a_marker_that_was_harmed_is_made_anew_by_the_next_creation(
    harm: Callable[[Path], None], pattern: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = Datafiles(pattern, 3600, write_key)
    files["a"].refresh()
    marker = Path(KeyPattern(pattern).marker)
    told = marker.read_text()
    harm(marker)
    assert Datafiles(pattern, 3600, write_key)["b"].refresh() == Outcome.created
    assert not marker.is_symlink()
    assert marker.is_file()
    assert marker.read_text() == told
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(marker) in caplog.text
    with pytest.raises(PathError):
        Datafile(path_of(files, "a"))


def test_a_marker_that_cannot_be_removed_keeps_no_caller_from_creating(pattern: str) -> None:
    files = Datafiles(pattern, 3600, write_key)
    files["a"].refresh()
    marker = Path(KeyPattern(pattern).marker)
    marker.unlink()
    marker.mkdir()
    assert files["b"].refresh() == Outcome.created


def test_a_lock_file_that_is_removed_meanwhile_fences_the_creation(pattern: str) -> None:
    builds: list[str] = []

    def creator(key: str, target: str) -> None:
        builds.append(key)
        if len(builds) == 1:
            os.unlink(os.path.join(os.path.dirname(pattern), ".dogpile", "keys.lock"))
        write_key(key, target)

    files = Datafiles(pattern, 3600, creator)
    assert files["a"].refresh() == Outcome.created
    assert len(builds) == 2, "the first is not swapped in"
    assert files["a"].status().generation == 1


def test_it_calls_back_after_a_new_version_of_the_key(pattern: str) -> None:
    files = Datafiles(pattern, 3600, write_key)
    told: list[Datafile] = []
    files["a"].refresh()
    with files["a"].on_new_version(told.append):
        files["b"].refresh()
        assert ended_well(in_child(lambda: files["a"].refresh(force=True)))
        wait_for(lambda: told, "the callback")
    assert told == [files["a"]]


def test_a_caller_without_a_creator_waits_for_one_that_has(pattern: str, processes: Processes) -> None:
    files = Datafiles(pattern, 3600, write_key)
    process = processes.start(lambda: contents(Datafiles(pattern, 3600), "a"))
    wait_for(lambda: "anon_inode:inotify" in _open_in(process.pid), "the waiter to sleep")
    assert not os.path.exists(os.path.join(os.path.dirname(pattern), ".dogpile")), "it only reads"
    files["a"].refresh()
    processes.join(process)


def _open_in(pid: int | None) -> list[str]:
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(each))
    return found


# The classes for one path, and the command.


def refusing(pattern: str) -> Any:
    return pytest.raises(PathError, match=re.escape(f"Datafiles({pattern!r})"))


def test_the_classes_for_one_path_refuse_a_keys_file(pattern: str) -> None:
    path = path_of(Datafiles(pattern, 3600, write_key), "a")
    for make in (
        lambda: Datafile(path, 1, Path.touch),  # type: ignore[arg-type]
        lambda: Datafile(path),
        lambda: Dogpile(1, path),
        lambda: DataDirectory(path + "/", 1, os.mkdir),
    ):
        with refusing(pattern):
            make()


def test_a_datafile_that_was_made_before_the_pattern_was_used_refuses_to_create(pattern: str) -> None:
    files = Datafiles(pattern, 3600, write_key)
    path = files["a"]._path
    os.makedirs(os.path.dirname(path))
    plain = Datafile(path, 3600, lambda target: write_key("plain", target), backoff=None)
    files["b"].refresh()
    with refusing(pattern):
        plain.refresh()
    assert not os.path.exists(path)


def test_a_datafile_whose_path_is_a_link_to_a_keys_file_refuses_to_create(pattern: str, tmp_path: Path) -> None:
    files = Datafiles(pattern, 3600, write_key)
    (tmp_path / "link").symlink_to(path_of(files, "a"))
    with refusing(pattern):
        Datafile(tmp_path / "link", 3600, lambda target: write_key("plain", target)).refresh(force=True)
    assert contents(files, "a") == "the report of 'a'"


def test_the_command_refuses_a_keys_file(pattern: str) -> None:
    path = path_of(Datafiles(pattern, 3600, write_key), "a")
    for words in (
        ["run", "--expire", "0", "--output", path, "--", "touch", "{}"],
        ["status", path],
        ["invalidate", path],
        ["touch", path],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "dogpile_fs", *words], capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode, words
        assert f"Datafiles({pattern!r})" in done.stderr
    assert Path(path).read_text() == "the report of 'a'"


# Users without permissions.


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write any directory")
def test_a_process_that_may_only_read_passes_what_is_stale(pattern: str, caplog: pytest.LogCaptureFixture) -> None:
    files = Datafiles(pattern, 3600, write_key)
    contents(files, "a")
    files["a"].invalidate()
    directory = os.path.join(os.path.dirname(pattern), ".dogpile")
    for name in os.listdir(directory):
        os.chmod(os.path.join(directory, name), 0o400)
    os.chmod(directory, 0o500)
    try:
        assert contents(files, "a") == "the report of 'a'"
        with pytest.raises(LockFileError):
            contents(files, "b")
    finally:
        os.chmod(directory, 0o700)


def test_directories_of_keys_have_the_permissions_of_the_patterns(pattern: str) -> None:
    directory = os.path.dirname(pattern)
    os.chmod(directory, 0o2770)
    files = Datafiles(pattern, 3600, write_key)
    shard = os.path.dirname(path_of(files, "a"))
    for each in (shard, os.path.join(directory, ".dogpile")):
        assert os.stat(each).st_mode & 0o7777 == 0o2770


# Many processes.


class _Telling:
    """A creator that tells which key it creates, until it is told to go on."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def __call__(self, key: str, target: str) -> None:
        self.record.write("begun", key=key)
        wait_for(
            self.record.directory.with_name("go").exists if "slow" in key else lambda: True, "the word to go on"
        )
        write_key(key, target)
        self.record.write("ended", key=key)


def test_when_creators_are_killed_others_create_and_all_go_on(
    pattern: str, record: Record, processes: Processes
) -> None:
    files = Datafiles(pattern, 3600, _Telling(record))
    victim = processes.start(lambda: contents(files, "slow"))
    record.wait("begun")
    readers = processes.start_many(5, lambda: contents(files, "slow"))
    lock = os.path.join(os.path.dirname(pattern), ".dogpile", "keys.lock")
    wait_for(lambda: waiters_for(lock) == 5, "five waiters")
    assert contents(files, "another") == "the report of 'another'"
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    record.wait("begun", 3)
    record.directory.with_name("go").touch()
    processes.join(*readers)
    assert [each.more["key"] for each in record.events("begun")] == ["slow", "another", "slow"]
    assert files["slow"].status().generation == 1
    shard = os.path.dirname(files["slow"]._path)
    assert not os.path.exists(os.path.join(shard, ".dogpile")), "what the killed one built is gone"


def test_a_limit_on_descriptors_holds_for_many_keys(pattern: str) -> None:
    gc.collect()  # what other tests have left in circles
    files, before = Datafiles(pattern, 3600, write_key, durable=False), kept_open._count()
    for number in range(50):
        contents(files, f"{number}")
    assert kept_open._count() - before < 20
