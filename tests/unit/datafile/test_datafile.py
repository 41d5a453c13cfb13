"""Datafile: what its creators may do, what other programs do to it, and that no reader sees half of it."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_UN, flock
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dogpile_fs import (
    Datafile,
    DatafileError,
    Dogpile,
    DogpileError,
    FileMutex,
    LockTimeout,
    PathError,
    Policy,
    SyncReaderDogpile,
    WouldDeadlock,
)
from dogpile_fs._layout import temp_affixes
from tests.hostile.test_broken_environments import (
    Unprivileged,
    foreign,
    may_mount,
    mounted,
    promptly,
    tells,
    unprivileged,
)
from tests.support.places import (
    descriptors,
    files_in,
    files_no_longer_than,
    hidden,
    left_beside,
    ours_in,
    survives_few_descriptors,
    umask,
    writing,
)
from tests.support.processes import PATIENCE, Processes, Record, ended_well, in_child, wait_for, waiters_for
from tests.unit.locks.test_readwrite import in_thread

__all__ = ["foreign", "may_mount", "mounted", "unprivileged"]  # fixtures

COORDINATION = {"resource.dogpile", "resource.dogpile.journal", "resource.dogpile.lock"}


def text(path: str) -> str:
    return Path(path).read_text()


def beside(path: str) -> set[str]:
    """The names of files in the directory of *path*, hidden ones included, but for the coordination files."""
    directory = os.path.dirname(path)
    names = [name for name in os.listdir(directory) if not re.fullmatch(r"\.dogpile-\d+", name)]
    names += ours_in(directory)
    ours = (".dogpile", ".dogpile.journal", ".dogpile.lock", ".dogpile.rwlock")
    return {name for name in names if not name.endswith(ours)}


def place_to_keep(path: str, number: object) -> str:
    """Where version *number* of *path* is kept."""
    begin, end = temp_affixes("kept", path)
    os.makedirs(hidden(path), exist_ok=True)
    return os.path.join(hidden(path), f"{begin}{number}{end}")


def kept(path: str) -> list[str]:
    """What each version says that is kept, the oldest first."""
    begin, end = temp_affixes("kept", path)
    names = [name for name in ours_in(os.path.dirname(path)) if name.startswith(begin)]
    numbers = [int(name[len(begin) : -len(end)]) for name in names]
    return [text(place_to_keep(path, number)) for number in sorted(numbers)]


def unwanted(target: str) -> None:
    raise AssertionError("the creator was called")


class Numbered:
    """A creator that writes "1", then "2", ..."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, target: str) -> None:
        self.calls += 1
        Path(target).write_text(str(self.calls))


def versions(path: str, count: int, **options: Any) -> Datafile:
    """A datafile that was created *count* times."""
    datafile = Datafile(path, 3600, Numbered(), durable=False, **options)
    for _ in range(count):
        assert datafile.refresh(force=True)
    return datafile


def opened(datafile: Datafile) -> str:
    with datafile.open("r") as file:
        return file.read()


def readlines(file: BinaryIO) -> list[bytes]:
    return file.readlines()


def acquired(datafile: Datafile) -> str:
    with datafile.acquire() as path:
        return text(path)


def by_path(datafile: Datafile) -> str:
    return text(datafile.path())


def loaded(datafile: Datafile) -> str:
    read: str = datafile.load(lambda file: file.read().decode())
    return read


WAYS: list[Callable[[Datafile], str]] = [opened, acquired, by_path, loaded]
every_way = pytest.mark.parametrize("way", WAYS)


# What it is for.


@every_way
def test_it_is_created_when_it_is_missing_and_when_it_is_stale(path: str, way: Callable[[Datafile], str]) -> None:
    creator = Numbered()
    datafile = Datafile(path, 3600, creator)
    assert [way(datafile), way(datafile)] == ["1", "1"]
    datafile.invalidate()
    assert datafile.status().state == "stale"
    assert [way(datafile), way(datafile)] == ["2", "2"]
    assert creator.calls == datafile.status().generation == 2
    assert beside(path) == {"resource"}


def test_expiry_makes_it_stale(path: str) -> None:
    creator = Numbered()
    datafile = Datafile(path, 0.05, creator)
    opened(datafile)
    wait_for(lambda: datafile.status().state == "stale", "expiry")
    assert opened(datafile) == "2"
    assert not Datafile(path, None, creator).refresh()
    assert Datafile(path, 0, creator).refresh()


def test_refresh_creates_if_it_must_or_is_told_to(path: str) -> None:
    datafile = Datafile(path, 3600, Numbered())
    assert [datafile.refresh(), datafile.refresh(), datafile.refresh(force=True)] == [
        "created",
        "fresh",
        "created",
    ]
    datafile.invalidate()
    assert [datafile.refresh(), datafile.refresh()] == ["created", "fresh"]
    datafile.invalidate(hard=True)
    assert [datafile.refresh(), datafile.refresh()] == ["created", "fresh"]
    assert text(path) == "4"


@pytest.mark.parametrize(("mode", "kind"), [("rb", bytes), ("r", str), ("rt", str)])
def test_it_is_opened_for_reading(path: str, mode: Any, kind: type) -> None:
    with Datafile(path, 3600, writing("x")).open(mode) as file:
        assert isinstance(file.read(), kind)
        assert not file.writable()
        assert file.name == path
    assert file.closed


@pytest.mark.parametrize("readers", [False, True])
@pytest.mark.parametrize("mode", ["rb", "r"])
def test_the_open_file_is_one_that_the_built_in_open_would_return(path: str, mode: Any, readers: bool) -> None:
    with (
        Datafile(path, 3600, writing("x"), readers=readers).open(mode) as file,
        open(path, mode, encoding=None if mode == "rb" else "utf-8") as other,
    ):
        assert (type(file), file.name, file.mode, file.seekable()) == (type(other), path, mode, True)
        assert not os.get_inheritable(file.fileno())
        assert file.read() == other.read()


@pytest.mark.parametrize("mode", ["w", "wb", "a", "r+", "rb+", "x", "", "br", "U"])
def test_it_is_not_opened_for_anything_else(path: str, mode: Any) -> None:
    with pytest.raises(ValueError, match="a datafile is written by its creator"):
        Datafile(path, 3600, unwanted).open(mode)


def test_text_is_read_as_asked_for(path: str) -> None:
    def creator(target: str) -> None:
        Path(target).write_bytes("ä\r\nx".encode("latin-1"))

    datafile = Datafile(path, 3600, creator)
    with datafile.open("r", encoding="latin-1", newline="") as file:
        assert file.read() == "ä\r\nx"
    with datafile.open("r", encoding="ascii", errors="replace") as file:
        assert file.read() == "\ufffd\nx"


def test_what_was_opened_stays_what_it_was(path: str) -> None:
    datafile = versions(path, 1)
    with datafile.open("r") as file:
        datafile.refresh(force=True)
        assert (file.read(), opened(datafile)) == ("1", "2")


def test_blocks_may_be_left_by_an_error_and_by_closing_the_file(path: str) -> None:
    datafile = versions(path, 1)
    opened(datafile)
    before = descriptors()
    for block in (datafile.open(), datafile.acquire()):
        with pytest.raises(ZeroDivisionError), block:
            raise ZeroDivisionError
    with datafile.open() as file:
        file.close()
    assert descriptors() == before
    assert datafile.status().state == "fresh"


@pytest.mark.parametrize("options", [{}, {"readers": True}, {"keep": 2}, {"skip_unchanged": True}])
def test_a_bare_creation_leaves_no_descriptor(path: str, options: Any) -> None:
    datafile = versions(path, 2, **options)
    opened(datafile)
    loaded(datafile)
    before = descriptors()
    for _ in range(3):
        datafile.refresh(force=True)
        opened(datafile)
        loaded(datafile)
        datafile.status()
    assert descriptors() == before


# Arguments.


def test_arguments_of_no_use_are_refused(path: str) -> None:
    make: Any = Datafile
    for wrong, error in (
        ({"creator": "command"}, TypeError),
        ({"validate": 3}, TypeError),
        ({"keep": -1}, ValueError),
        ({"keep": 1.5}, TypeError),
        ({"keep": None}, TypeError),
        ({"expiretime": -1}, ValueError),
        ({"expiretime": "1h"}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"mode": "rw"}, TypeError),
        ({"mode": True}, TypeError),
        ({"mode": 0o666666}, ValueError),
    ):
        with pytest.raises(error):
            make(path, **wrong)
    with pytest.raises(TypeError):
        make(b"bytes")
    assert os.listdir(os.path.dirname(path)) == []


def test_a_directory_at_the_path_or_a_trailing_slash_is_a_path_error(tmp_path: Path) -> None:
    for given in (tmp_path, f"{tmp_path}/missing/", ""):
        with pytest.raises(PathError):
            Datafile(given, 3600, unwanted)


def test_without_a_creator_refresh_says_so(path: str) -> None:
    with pytest.raises(TypeError, match="without a creator"):
        Datafile(path, 3600).refresh()


@pytest.mark.parametrize(
    "name", ["-rf", ".hidden", "new\nline", "'\"", "\udcff\udcfe", "ä" * 110, "n" * 235, "%s"]
)
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    datafile = versions(path, 3, keep=1)
    assert opened(datafile) == "3"
    datafile.rollback()
    assert opened(datafile) == "2"
    assert loaded(datafile) == "2"
    repr(datafile)


@pytest.mark.parametrize("length", [238, 239])
def test_a_name_that_can_be_coordinated_can_be_kept_however_often(tmp_path: Path, length: int) -> None:
    datafile = versions(str(tmp_path / ("n" * length)), 12, keep=1)
    datafile.rollback()
    assert opened(datafile) == "11"


def test_a_long_name_that_has_its_coordination_files_elsewhere_can_be_kept_too(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    datafile = versions(str(tmp_path / ("n" * 255)), 2, keep=1, directory=elsewhere)
    datafile.rollback()
    assert opened(datafile) == "1"


def test_the_coordination_files_go_elsewhere_if_told_so(tmp_path: Path) -> None:
    elsewhere, home = tmp_path / "elsewhere", tmp_path / "home"
    elsewhere.mkdir()
    home.mkdir()
    datafile = Datafile(home / "file", 3600, writing("x"), directory=elsewhere, mode=0o640)
    opened(datafile)
    assert files_in(home) == ["file"]
    assert {f"{stat.S_IMODE(file.stat().st_mode):04o}" for file in elsewhere.iterdir()} == {"0640"}


# What a creator may do.


def test_the_creator_gets_a_path_in_the_hidden_directory_where_nothing_is_yet_and_with_the_same_suffix(
    tmp_path: Path,
) -> None:
    targets: list[str] = []

    def creator(target: str) -> None:
        assert not os.path.lexists(target)
        targets.append(target)
        Path(target).touch()

    path = tmp_path / "report.csv.gz"
    for _ in range(3):
        Datafile(path, 3600, creator).refresh(force=True)
    assert len(set(targets)) == 3
    for target in targets:
        directory, name = os.path.split(target)
        assert directory == str(tmp_path / ".dogpile")
        assert name.startswith(".dogpile-new-")
        assert name.endswith(".report.csv.gz")


@every_way
def test_a_creators_error_reaches_its_caller_and_the_old_one_stays(
    path: str, way: Callable[[Datafile], str]
) -> None:
    mine = ZeroDivisionError("mine")

    def creator(target: str) -> None:
        Path(target).write_text("half")
        Path(target + "-journal").write_text("half")
        raise mine

    datafile = Datafile(path, 3600, creator, backoff=None, stale_if_error=False)
    for before in (None, "old"):
        if before is not None:
            Datafile(path, 3600, writing("old")).refresh()
            datafile.invalidate()
        with pytest.raises(ZeroDivisionError) as caught:
            way(datafile)
        assert caught.value is mine
        assert (text(path) if before else None) == before
        assert beside(path) == ({"resource"} if before else set())
        assert not datafile._dogpile.dogpilelock.locked()
    assert datafile.status().generation == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_no_end_of_a_creator_leaves_anything(path: str, error: type[BaseException]) -> None:
    def creator(target: str) -> None:
        Path(target).write_text("half")
        raise error

    with pytest.raises(error):
        Datafile(path, 3600, creator).refresh()
    assert beside(path) == set()


def _makes_nothing(target: str) -> None:
    pass


def _makes_a_directory(target: str) -> None:
    os.mkdir(target)
    Path(target, "file").touch()


def _makes_a_symlink(target: str) -> None:
    Path(target + ".real").write_text("x")
    os.symlink(target + ".real", target)


def _makes_a_dangling_symlink(target: str) -> None:
    os.symlink("nowhere", target)


def _makes_a_fifo(target: str) -> None:
    os.mkfifo(target)


NO_FILE = [_makes_nothing, _makes_a_directory, _makes_a_symlink, _makes_a_dangling_symlink, _makes_a_fifo]


@pytest.mark.parametrize("creator", NO_FILE)
@pytest.mark.parametrize("options", [{}, {"keep": 1}, {"skip_unchanged": True}, {"readers": True}])
def test_what_is_no_regular_file_is_refused_and_removed(
    path: str, creator: Callable[[str], None], options: dict[str, Any]
) -> None:
    Path(path).write_text("old")
    datafile = Datafile(path, 3600, creator, validate=lambda target: pytest.fail("validated"), **options)
    with pytest.raises(DatafileError) as caught:
        promptly(lambda: datafile.refresh(force=True))
    tells(caught.value, ".dogpile-new-", "Hint: ")
    assert text(path) == "old"
    assert beside(path) == {"resource"}
    assert datafile.status().generation == 0


@pytest.mark.parametrize("creator", NO_FILE)
def test_the_error_for_a_new_version_that_is_no_regular_file_names_the_creator(
    path: str, creator: Callable[[str], None]
) -> None:
    with pytest.raises(DatafileError) as caught:
        Datafile(path, 3600, creator).refresh()
    tells(caught.value, "the creator made", repr(path))


def test_a_file_that_its_own_user_may_not_read_is_refused(unprivileged: Unprivileged) -> None:
    unprivileged.writable()

    def create_in_vain() -> None:
        def creator(target: str) -> None:
            Path(target).touch(mode=0o200)

        datafile = Datafile(unprivileged.path, 3600, creator)
        with pytest.raises(DatafileError) as caught:
            datafile.refresh()
        assert caught.value.errno == errno.EACCES
        tells(caught.value, "open the new version", "Hint: let this user read it")
        assert beside(unprivileged.path) == set()

    unprivileged.run(create_in_vain)


def test_what_its_program_left_beside_the_target_is_removed(path: str) -> None:
    connections: list[sqlite3.Connection] = []

    def creator(target: str) -> None:
        connection = sqlite3.connect(target, isolation_level=None)
        connection.execute("create table t (n)")
        connection.execute("pragma journal_mode=persist")
        connection.execute("insert into t values (1)")
        connection.close()
        assert os.path.exists(target + "-journal")
        Path(target + ".tmp").mkdir()
        connections.append(connection)

    datafile = Datafile(path, 3600, creator)
    connection = sqlite3.connect(datafile.path())
    assert connection.execute("select n from t").fetchall() == [(1,)]
    connection.close()
    assert [name for name in left_beside(path) if not name.endswith(".tmp")] == []
    datafile.refresh(force=True)
    assert len(left_beside(path)) == 1  # of this creation
    Datafile(path, 3600, writing("x")).refresh(force=True)
    assert beside(path) == {"resource"}


def test_a_creator_that_writes_the_path_itself_is_told_and_nothing_is_lost(path: str) -> None:
    def creator(target: str) -> None:
        Path(path).write_text("in place")

    with pytest.raises(DatafileError):
        Datafile(path, 3600, creator).refresh()
    assert text(path) == "in place"


def test_a_first_version_has_what_its_creator_gave_it_and_later_ones_what_was_there(path: str) -> None:
    datafile = Datafile(path, 3600, writing("x"))
    with umask(0o026):
        datafile.refresh()
    assert f"{stat.S_IMODE(os.stat(path).st_mode):04o}" == "0640"
    os.chmod(path, 0o604)
    datafile.refresh(force=True)
    assert f"{stat.S_IMODE(os.stat(path).st_mode):04o}" == "0604"


def test_the_owner_of_what_was_there_is_kept_where_that_is_allowed(foreign: Unprivileged) -> None:
    Path(foreign.path).touch()
    os.chown(foreign.path, 1234, 5678)
    Datafile(foreign.path, 3600, writing("x")).refresh(force=True)
    assert (os.stat(foreign.path).st_uid, os.stat(foreign.path).st_gid) == (1234, 5678)


def test_a_creator_that_exits_the_process_changes_nothing(path: str) -> None:
    Datafile(path, 3600, writing("old")).refresh()

    def creator(target: str) -> None:
        Path(target).write_text("half")
        sys.exit(0)

    def exit_in_the_creator() -> None:
        with suppress(SystemExit):
            Datafile(path, 3600, creator).refresh(force=True)
        assert beside(path) == {"resource"}

    assert ended_well(in_child(exit_in_the_creator))

    def vanish(target: str) -> None:
        Path(target).write_text("half")
        os._exit(0)

    assert ended_well(in_child(lambda: Datafile(path, 3600, vanish).refresh(force=True)))
    assert len(left_beside(path)) == 1
    assert text(path) == "old"
    Datafile(path, 3600, writing("new")).refresh(force=True)
    assert beside(path) == {"resource"}


@pytest.mark.parametrize("end", [lambda: None, lambda: os._exit(0), lambda: sys.exit(0), lambda: 1 / 0])
def test_a_child_forked_inside_the_creator_puts_nothing_in_place_and_removes_nothing(
    path: str, end: Callable[[], object]
) -> None:
    me = os.getpid()

    def creator(target: str) -> None:
        Path(target).write_text("parent's")
        pid = os.fork()
        if pid == 0:
            end()
            return
        ended_well(pid)
        assert not os.path.exists(path)
        assert text(target) == "parent's"

    datafile = Datafile(path, 3600, creator)
    try:
        created = datafile.refresh()
    finally:
        if os.getpid() != me:
            os._exit(0)
    assert created
    assert text(path) == "parent's"
    assert datafile.status().generation == 1


def test_a_creator_may_read_the_old_one(path: str) -> None:
    def creator(target: str) -> None:
        Path(target).write_text(text(path) + "+" if os.path.exists(path) else "1")

    for options in ({}, {"readers": True}):
        datafile = Datafile(path, 3600, creator, **options)  # type: ignore[arg-type]
        datafile.refresh(force=True)
    assert text(path) == "1+"


@every_way
@pytest.mark.parametrize("readers", [True, False])
def test_asking_for_it_inside_its_first_creator_would_deadlock(
    path: str, way: Callable[[Datafile], str], readers: bool
) -> None:
    def creator(target: str) -> None:
        way(datafile)

    datafile = Datafile(path, 3600, creator, readers=readers)
    with pytest.raises(WouldDeadlock):
        promptly(datafile.refresh)
    datafile._creator = writing("x")
    assert way(datafile) == "x"


# validate.


def _refuses_by_raising(target: str) -> None:
    raise ZeroDivisionError("mine")


@pytest.mark.parametrize(
    ("validate", "error"), [(_refuses_by_raising, ZeroDivisionError), (lambda target: False, DatafileError)]
)
@pytest.mark.parametrize("options", [{}, {"keep": 1}, {"skip_unchanged": True}, {"readers": True}])
def test_what_validate_refuses_is_not_put_in_place(
    path: str, validate: Any, error: type[Exception], options: dict[str, Any]
) -> None:
    versions(path, 1)
    before = os.stat(path)
    policy = Policy(backoff=None, stale_if_error=False)
    datafile = Datafile(path, 3600, writing("new"), validate=validate, policy=policy, **options)
    created = datafile.status()
    datafile.invalidate()
    uses: tuple[Callable[[], object], ...] = (
        datafile.refresh,
        lambda: opened(datafile),
        lambda: loaded(datafile),
    )
    for refused in uses:
        with pytest.raises(error):
            refused()
    assert os.stat(path) == before
    assert beside(path) == {"resource"}
    assert datafile.status().createdtime == created.createdtime
    assert datafile.status().state == "stale"
    assert datafile.status().failed_pid == os.getpid()


class bool_:
    """As numpy's, which is no ``bool``."""

    def __init__(self, value: bool) -> None:
        self.value = value

    def __bool__(self) -> bool:
        return self.value


def test_anothers_false_is_a_refusal_as_well(path: str) -> None:
    with pytest.raises(DatafileError, match="validate refused"):
        Datafile(path, 3600, writing("x"), validate=lambda target: bool_(False)).refresh()
    assert beside(path) == set()


class _OfNoTruth:
    """As an array's."""

    def __bool__(self) -> bool:
        raise ValueError("the truth of many is ambiguous")

    __eq__ = __bool__  # type: ignore[assignment]
    __hash__ = object.__hash__


@pytest.mark.parametrize("verdict", [None, True, bool_(True), 0, 0.0, "", [], "no", _OfNoTruth()])
def test_what_validate_returns_is_no_refusal_unless_it_is_false(path: str, verdict: Any) -> None:
    seen: list[str] = []

    def validate(target: str) -> Any:
        seen.append(text(target))
        assert not os.path.exists(path)
        return verdict

    assert Datafile(path, 3600, writing("x"), validate=validate).refresh()
    assert seen == ["x"]


@pytest.mark.parametrize("use", [opened, loaded, Datafile.path, Datafile.refresh])
def test_a_creators_end_of_an_iteration_is_its_error_as_any_other(
    path: str, use: Callable[[Datafile], Any]
) -> None:
    with pytest.raises(StopIteration):
        use(Datafile(path, 3600, lambda target: next(iter([]))))


def test_a_block_that_was_dropped_is_left(path: str) -> None:
    datafile = versions(path, 1, readers=True)
    for make in (datafile.open, datafile.acquire):
        block: Any = make()
        block.__enter__()
        del block
        gc.collect()
        datafile.refresh(force=True, timeout=PATIENCE)


def test_a_block_is_entered_by_one_at_a_time(path: str) -> None:
    for block in (versions(path, 1).open(), versions(path, 1).acquire()):
        with block, pytest.raises(RuntimeError, match="entered already"):
            block.__enter__()
        with pytest.raises(RuntimeError, match="left already"):
            block.__exit__(None, None, None)


def test_a_mount_point_is_told_with_a_cure(path: str, mounted: Callable[..., None]) -> None:
    Path(path).write_text("old")
    Path(path + ".mounted").write_text("mounted")

    def swap_there() -> None:
        subprocess.run(["mount", "--bind", path + ".mounted", path], check=True)
        with pytest.raises(DatafileError) as caught:
            Datafile(path, 3600, writing("x")).refresh(force=True)
        assert caught.value.errno == errno.EBUSY
        tells(caught.value, repr(path), "Hint: nothing can take the place of a mount point")

    mounted(Path(path + ".tmpfs"), "size=1m", swap_there)


def test_what_validate_removes_is_not_there_to_be_put_in_place(path: str) -> None:
    Path(path).write_text("old")
    with pytest.raises(DatafileError):
        Datafile(path, 3600, writing("x"), validate=os.unlink).refresh(force=True)
    assert text(path) == "old"
    assert beside(path) == {"resource"}


# Between processes.


def _create_when_told(path: str, record: Record, what: str, **options: Any) -> None:
    def creator(target: str) -> None:
        record.write("creating")
        record.wait("go on")
        Path(target).write_text(what)

    if Datafile(path, 3600, creator, **options).refresh(force=True):
        record.write("created")


@every_way
@pytest.mark.parametrize("with_creator", [True, False])
def test_a_stale_one_passes_while_another_process_creates(
    path: str, record: Record, processes: Processes, way: Callable[[Datafile], str], with_creator: bool
) -> None:
    datafile = Datafile(path, 3600, unwanted if with_creator else None)
    Datafile(path, 3600, writing("old")).refresh()
    datafile.invalidate()
    creating = processes.start(_create_when_told, path, record, "new")
    record.wait("creating")
    for _ in range(20):
        assert promptly(lambda: way(datafile)) == "old"
    if with_creator:
        assert not datafile.refresh()
    record.write("go on")
    processes.join(creating)
    assert way(datafile) == "new"


@every_way
@pytest.mark.parametrize("with_creator", [True, False])
def test_while_there_is_nothing_yet_all_wait_for_who_creates(
    path: str, record: Record, processes: Processes, way: Callable[[Datafile], str], with_creator: bool
) -> None:
    creating = processes.start(_create_when_told, path, record, "new")
    record.wait("creating")

    def use() -> None:
        assert way(Datafile(path, 3600, unwanted if with_creator else None)) == "new"
        assert record.events("go on")

    users = processes.start_many(4, use)
    wait_for(lambda: waiters_for(path + ".dogpile.lock") == 4, "four waiters")
    record.write("go on")
    processes.join(creating, *users)


@every_way
def test_a_wait_ends_at_its_timeout(
    path: str, record: Record, processes: Processes, way: Callable[[Datafile], str]
) -> None:
    processes.start(_create_when_told, path, record, "new")
    record.wait("creating")
    for creator in (unwanted, None):
        with pytest.raises(LockTimeout):
            promptly(lambda: way(Datafile(path, 3600, creator, timeout=0.02)))  # noqa: B023
    datafile = Datafile(path, 3600, unwanted)
    for use in (
        lambda: datafile.open(timeout=0.02).__enter__(),
        lambda: datafile.acquire(timeout=0.02).__enter__(),
        lambda: datafile.path(timeout=0.02),
        lambda: datafile.load(BinaryIO.read, timeout=0.02),
        lambda: datafile.refresh(timeout=0.02),
        lambda: datafile.refresh(force=True, timeout=0.02),
        lambda: datafile.rollback(timeout=0.02),
    ):
        with pytest.raises(LockTimeout):
            promptly(use)


def test_refresh_waits_while_there_is_nothing_yet_and_then_has_not_created(
    path: str, record: Record, processes: Processes
) -> None:
    creating = processes.start(_create_when_told, path, record, "new")
    record.wait("creating")

    def refresh() -> None:
        assert not Datafile(path, 3600, unwanted).refresh()
        assert text(path) == "new"

    refreshing = processes.start(refresh)
    wait_for(lambda: waiters_for(path + ".dogpile.lock") == 1, "the waiter")
    record.write("go on")
    processes.join(creating, refreshing)


def _open_cold(path: str, record: Record, barrier: Any) -> None:
    def creator(target: str) -> None:
        record.write("create")
        Path(target).write_text("x" * 100_000)

    datafile = Datafile(path, 3600, creator)
    barrier.wait()
    assert len(opened(datafile)) == 100_000
    assert len(loaded(datafile)) == 100_000


def test_of_twenty_that_start_cold_one_creates_and_all_have_it(
    path: str, record: Record, processes: Processes
) -> None:
    barrier = multiprocessing.Barrier(20)
    processes.start_many(20, _open_cold, path, record, barrier)
    processes.join()
    assert len(record.events("create")) == 1
    assert beside(path) == {"resource", "record"}


def test_a_creator_that_is_killed_is_replaced_and_leaves_nothing(
    path: str, record: Record, processes: Processes
) -> None:
    def create_with_leftovers() -> None:
        def creator(target: str) -> None:
            Path(target).write_text("half")
            Path(target + "-journal").touch()
            os.mkdir(target + ".work")
            Path(target + ".work", "file").touch()
            record.write("creating")
            time.sleep(3600)

        Datafile(path, 3600, creator, backoff=None).refresh()

    for number in range(3):
        victim = processes.start(create_with_leftovers)
        record.wait("creating", number + 1)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        assert len(left_beside(path)) == 3  # it has removed the last one's
    assert opened(Datafile(path, 3600, writing("new"), backoff=None)) == "new"
    assert beside(path) == {"resource", "record"}


def test_one_name_that_begins_like_another_shares_nothing_with_it(tmp_path: Path) -> None:
    names = ["file", "file.", "file.txt", ".file", "le", "file.1"]
    inside = threading.Barrier(len(names))
    datafiles: dict[str, Datafile] = {}

    def create(name: str) -> None:
        def creator(target: str) -> None:
            Path(target).write_text(name)
            inside.wait()
            assert text(target) == name
            inside.wait()

        datafile = datafiles[name] = Datafile(tmp_path / name, 3600, creator, keep=1)
        for _ in range(2):
            datafile.refresh(force=True)

    threads = [threading.Thread(target=create, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [opened(datafiles[name]) for name in names] == names
    for name in names:
        datafiles[name].rollback()
        with pytest.raises(DatafileError):
            datafiles[name].rollback()
        assert opened(datafiles[name]) == name


# Symbolic links.


@pytest.mark.parametrize("relative", [True, False])
def test_a_link_stays_one_and_what_it_points_to_is_replaced(tmp_path: Path, relative: bool) -> None:
    there, link = tmp_path / "there", tmp_path / "link"
    there.mkdir()
    (there / "file").write_text("old")
    link.symlink_to("there/file" if relative else there / "file")
    targets: list[str] = []

    def creator(target: str) -> None:
        targets.append(os.path.dirname(target))
        Path(target).write_text(str(len(targets)))

    datafile = Datafile(link, 3600, creator, keep=1)
    for _ in range(2):
        datafile.refresh(force=True)
    assert targets == [str(there / ".dogpile")] * 2
    assert link.is_symlink()
    assert (opened(datafile), datafile.path(), text(str(there / "file"))) == ("2", str(link), "2")
    datafile.rollback()
    assert (opened(datafile), link.is_symlink()) == ("1", True)
    assert files_in(there) == ["file"]


def test_a_link_that_was_pointed_elsewhere_is_another_version(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"v{number}").write_text(str(number))
    link = tmp_path / "link"
    link.symlink_to("v1")
    datafile = Datafile(link, 3600, unwanted)
    assert (opened(datafile), loaded(datafile)) == ("1", "1")
    (tmp_path / "next").symlink_to("v2")
    os.replace(tmp_path / "next", link)
    time.sleep(0.001)
    assert (opened(datafile), loaded(datafile)) == ("2", "2")


def test_callers_that_reach_a_file_by_different_links_leave_each_others_files_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")

    def by_the_link(target: str) -> None:
        Path(target).write_text("by the link")
        assert Datafile(tmp_path / "file", 3600, writing("by itself")).refresh(force=True)
        assert text(target) == "by the link"

    datafile = Datafile(tmp_path / "link", 3600, by_the_link)
    datafile.refresh(force=True)
    assert text(str(tmp_path / "file")) == "by the link"


def test_what_a_link_leads_to_may_be_removed_and_is_created_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    datafile = Datafile(tmp_path / "link", 3600, writing("new"))
    assert opened(datafile) == "old"
    (tmp_path / "file").unlink()
    time.sleep(0.001)
    assert datafile.status().state == "missing"
    assert opened(datafile) == "new"
    assert (tmp_path / "link").is_symlink()


def test_what_a_link_leads_to_is_created_there_by_an_object_that_never_saw_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    datafile = Datafile(tmp_path / "link", 3600, writing("new"))
    assert datafile.status().state == "missing"
    assert opened(datafile) == "new"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_a_link_that_leads_nowhere_or_to_itself_is_a_path_error(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere/file")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("dangling", "loop"):
        with pytest.raises(PathError):
            Datafile(tmp_path / name, 3600, unwanted).refresh()


def test_a_path_that_becomes_a_link_to_itself_is_an_error(path: str) -> None:
    datafile = versions(path, 1)
    os.unlink(path)
    os.symlink(path, path)
    time.sleep(0.001)
    for use in (datafile.refresh, lambda: datafile.refresh(force=True), lambda: opened(datafile)):
        with pytest.raises(DogpileError) as caught:
            promptly(use)
        tells(caught.value, repr(path))


# Something else at the path.


def _replaced_by(path: str, make: Callable[[str], object]) -> Datafile:
    datafile = versions(path, 1)
    os.unlink(path)
    make(path)
    time.sleep(0.001)
    return datafile


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_path_that_is_no_regular_file_is_never_replaced_and_never_hangs(
    path: str, make: Callable[[str], object]
) -> None:
    datafile = _replaced_by(path, make)
    before = os.lstat(path)
    with pytest.raises(DogpileError) as caught:
        promptly(lambda: datafile.refresh(force=True))
    tells(caught.value, repr(path), "Hint: ")
    assert (os.lstat(path).st_mode, os.lstat(path).st_ino) == (before.st_mode, before.st_ino)
    assert left_beside(path) == []


@every_way
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_path_that_is_no_regular_file_is_not_read_either(
    path: str, make: Callable[[str], object], way: Callable[[Datafile], str]
) -> None:
    if way in (acquired, by_path):
        pytest.skip("the caller opens it")
    datafile = _replaced_by(path, make)
    with pytest.raises(DogpileError) as caught:
        promptly_or_unstuck(lambda: way(datafile), path)
    tells(caught.value, repr(path))


def promptly_or_unstuck(action: Callable[[], Any], fifo: str) -> Any:
    """As promptly, but a thread that hangs at the *fifo* is released, so that the tests can end."""
    end = threading.Event()

    def close_quietly() -> None:
        if not end.wait(0.5) and stat.S_ISFIFO(os.stat(fifo).st_mode):
            os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))

    watching = threading.Thread(target=close_quietly)
    watching.start()
    try:
        return action()
    finally:
        end.set()
        watching.join()


# keep and rollback.


@pytest.mark.parametrize("keep", [0, 1, 2, 5])
def test_as_many_earlier_versions_are_kept_as_asked_for(path: str, keep: int) -> None:
    datafile = versions(path, 4, keep=keep)
    assert kept(path) == ["1", "2", "3"][max(0, 3 - keep) :]
    for expected in ["3", "2", "1"][:keep]:
        datafile.rollback()
        assert opened(datafile) == loaded(datafile) == expected
        assert datafile.status().state == "fresh"
    with pytest.raises(DatafileError) as caught:
        datafile.rollback()
    assert caught.value.errno == errno.ENOENT
    tells(caught.value, repr(path), "no earlier version", "Hint: ")
    assert beside(path) == {"resource"}


def test_the_number_to_keep_may_change(path: str) -> None:
    versions(path, 5, keep=4)
    versions(path, 1, keep=2)
    assert kept(path) == ["4", "5"]
    versions(path, 1)
    assert beside(path) == {"resource"}


def test_after_a_rollback_creations_go_on_keeping(path: str) -> None:
    datafile = versions(path, 3, keep=2)
    datafile.rollback()
    datafile.refresh(force=True)
    assert opened(datafile) == "4"
    for expected in ("2", "1"):
        datafile.rollback()
        assert opened(datafile) == expected


def test_a_rollback_is_stamped_and_counts_as_created_now(path: str) -> None:
    datafile = versions(path, 2, keep=1)
    datafile.invalidate()
    before = time.time()
    datafile.rollback()
    status = datafile.status()
    assert status.state == "fresh"
    assert status.createdtime is not None
    assert before <= status.createdtime <= time.time()
    assert status.invalidated is None


def test_a_rollback_costs_nothing_and_so_is_no_estimate_of_what_a_creation_costs(path: str) -> None:
    def creator(target: str) -> None:
        time.sleep(0.1)
        Path(target).touch()

    datafile = Datafile(path, 3600, creator, keep=1)
    for _ in range(2):
        datafile.refresh(force=True)
    datafile.rollback()
    cost = datafile.status().cost
    assert cost is not None
    assert cost >= 0.1


def test_a_rollback_for_which_nothing_was_kept_is_no_failed_creation(path: str) -> None:
    datafile = versions(path, 1)
    before = datafile.status()
    with pytest.raises(DatafileError):
        datafile.rollback()
    after = datafile.status()
    assert (after.createdtime, after.generation) == (before.createdtime, before.generation)
    assert after.failed_since is None


def test_a_rollback_puts_back_what_was_there_even_if_the_file_is_missing(path: str) -> None:
    datafile = versions(path, 3, keep=1)
    os.unlink(path)
    datafile.rollback()
    assert opened(datafile) == "2"


def test_a_rollback_needs_no_creator(path: str) -> None:
    versions(path, 2, keep=1)
    datafile = Datafile(path, 3600)
    datafile.rollback()
    assert opened(datafile) == "1"


def test_a_rollback_waits_for_who_creates(path: str, record: Record, processes: Processes) -> None:
    versions(path, 1)
    creating = processes.start(_create_with_keep, path, record)
    record.wait("creating")

    def roll_back() -> None:
        Datafile(path, 3600).rollback()
        record.write("rolled back")

    rolling = processes.start(roll_back)
    wait_for(lambda: waiters_for(path + ".dogpile.lock") == 1, "the rollback to wait")
    record.write("go on")
    processes.join(creating, rolling)
    assert [e.what for e in record.events("created", "rolled back")] in (
        ["created", "rolled back"],
        ["rolled back", "created"],  # written down by two processes
    )
    assert text(path) == "1"


def _create_with_keep(path: str, record: Record) -> None:
    _create_when_told(path, record, "new", keep=1)


def test_the_version_before_is_kept_as_itself(path: str) -> None:
    datafile = versions(path, 1, keep=1)
    os.chmod(path, 0o640)
    before = os.stat(path)
    datafile.refresh(force=True)
    datafile.rollback()
    after = os.stat(path)
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)


def test_a_creator_that_was_killed_between_keeping_and_swapping_confuses_no_later_one(path: str) -> None:
    datafile = versions(path, 3, keep=3)
    os.link(path, place_to_keep(path, 3))  # what it had done
    for _ in range(2):
        datafile.rollback()
    assert opened(datafile) == "1"
    with pytest.raises(DatafileError):
        datafile.rollback()

    datafile = versions(path, 2, keep=3)
    os.link(path, place_to_keep(path, 9))
    datafile.refresh(force=True)
    datafile.rollback()
    assert opened(datafile) == "2"
    datafile.rollback()
    assert opened(datafile) == "1"


def test_the_next_creator_prunes_after_one_that_was_killed_between_swapping_and_pruning(path: str) -> None:
    datafile = versions(path, 3, keep=1)
    for number in (7, 8, 9):
        Path(place_to_keep(path, number)).write_text(str(number))
    datafile.refresh(force=True)
    assert kept(path) == ["3"]


def test_foreign_things_among_the_kept_hinder_no_creation(path: str) -> None:
    datafile = versions(path, 2, keep=1)
    os.symlink("nowhere", place_to_keep(path, 90))
    os.mkdir(place_to_keep(path, 91))
    for odd in ("", "x", "-1", "1_0", " 7"):
        Path(place_to_keep(path, odd)).touch()
    datafile.refresh(force=True)
    assert opened(datafile) == "3"
    datafile.refresh(force=True)
    datafile.rollback()
    assert opened(datafile) == "3"


def test_a_file_that_cannot_be_linked_is_kept_as_a_copy(foreign: Unprivileged) -> None:
    with open("/proc/sys/fs/protected_hardlinks") as setting:
        if setting.read().strip() != "1":
            pytest.skip("here anybody may link to anything (sysctl fs.protected_hardlinks)")
    foreign.writable()
    Path(foreign.path).write_text("root's")
    os.chmod(foreign.path, 0o644)

    def keep_what_is_roots() -> None:
        datafile = Datafile(foreign.path, 3600, writing("nobody's"), keep=1)
        datafile.refresh(force=True)
        assert opened(datafile) == "nobody's"
        datafile.rollback()
        assert opened(datafile) == "root's"
        assert beside(foreign.path) == {"resource"}

    foreign.run(keep_what_is_roots)


# No hard links.


def refused_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse hard links to this process, as exFAT and the shared folders of virtual machines do."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)


def refused_swaps(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Refuse to put anything at *path*."""
    rename = os.replace

    def refuse(new: str, name: str, **options: Any) -> None:
        if name == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(new, name, **options)

    monkeypatch.setattr(os, "replace", refuse)


def rolled_back(datafile: Datafile) -> list[str]:
    """Return what the current version says, and the one after each rollback."""
    seen = [opened(datafile)]
    with suppress(DatafileError):
        while True:
            datafile.rollback()
            seen.append(opened(datafile))
    return seen


@pytest.mark.parametrize("links", [True, False])
def test_swaps_that_fail_change_nothing_of_what_is_kept(
    path: str, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        refused_links(monkeypatch)
    datafile = versions(path, 4, keep=2)
    with monkeypatch.context() as patch:
        refused_swaps(patch, path)
        for _ in range(3):
            with pytest.raises(DatafileError):
                datafile.refresh(force=True)
            assert kept(path) == ["2", "3"]
    assert datafile.refresh(force=True)
    assert kept(path) == ["3", "4"]
    assert rolled_back(datafile) == ["8", "4", "3"]


def test_swaps_that_time_out_leave_no_copies_where_a_file_cannot_be_linked(
    path: str, record: Record, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused_links(monkeypatch)
    datafile = versions(path, 3, keep=2, readers=True, timeout=0.05)
    reader = processes.start(_read_until_told, path, record, "open")
    record.wait("inside")
    for _ in range(3):
        with pytest.raises(LockTimeout):
            promptly(lambda: datafile.refresh(force=True))
        assert kept(path) == ["1", "2"]
    record.write("leave")
    processes.join(reader)
    assert rolled_back(datafile) == ["3", "2", "1"]


@pytest.mark.parametrize("copies", [1, 3])
def test_the_copy_of_a_creator_that_was_killed_before_its_swap_is_no_earlier_version(
    path: str, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused_links(monkeypatch)
    datafile = versions(path, 3, keep=2)
    for number in range(3, 3 + copies):
        shutil.copy2(path, place_to_keep(path, number))
    assert rolled_back(datafile) == ["3", "2", "1"]

    datafile = versions(path, 3, keep=2)
    for number in range(10, 10 + copies):
        shutil.copy2(path, place_to_keep(path, number))
    datafile.refresh(force=True)
    assert kept(path) == ["2", "3"]
    assert rolled_back(datafile) == ["4", "3", "2"]


def test_an_earlier_version_with_the_same_contents_is_kept(path: str) -> None:
    datafile = Datafile(path, 3600, writing("the same"), keep=2, durable=False)
    for age in (30, 20, 10):
        datafile.refresh(force=True)
        os.utime(path, ns=(0, time.time_ns() - age * 10**9))
    assert kept(path) == ["the same", "the same"]
    assert rolled_back(datafile) == ["the same"] * 3


def test_failed_swaps_of_a_user_that_may_not_link_the_file_leave_no_copies(foreign: Unprivileged) -> None:
    with open("/proc/sys/fs/protected_hardlinks") as setting:
        if setting.read().strip() != "1":
            pytest.skip("here anybody may link to anything (sysctl fs.protected_hardlinks)")
    foreign.writable()
    versions(foreign.path, 1)
    for name in os.listdir(foreign.directory):
        (foreign.directory / name).chmod(0o666 if ".dogpile" in name else 0o644)

    def fail_to_replace_what_is_roots() -> None:
        datafile = Datafile(foreign.path, 3600, Numbered(), keep=2, readers=True, timeout=0.05)
        with Datafile(foreign.path, 3600, readers=True).open():
            for _ in range(3):
                failed = threading.Thread(target=_expect_timeout, args=(datafile,))
                failed.start()
                failed.join()
                assert kept(foreign.path) == []
        datafile.refresh(force=True)
        assert kept(foreign.path) == ["1"]

    foreign.run(fail_to_replace_what_is_roots)


def _expect_timeout(datafile: Datafile) -> None:
    with suppress(LockTimeout):
        datafile.refresh(force=True)


# skip_unchanged.


def test_equal_contents_are_stamped_but_not_swapped(path: str) -> None:
    what = ["one"]
    datafile = Datafile(path, 3600, lambda target: writing(what[0])(target), skip_unchanged=True, keep=1)
    datafile.refresh()
    before, version, created = os.stat(path), datafile._dogpile.fresh_version(), datafile.status()
    objects: list[str] = []

    def loader(file: BinaryIO) -> str:
        objects.append(file.read().decode())
        return objects[-1]

    with open(path) as file:
        datafile.load(loader)
        datafile.invalidate()
        assert datafile.refresh()
        assert os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    assert os.stat(path) == before or os.stat(path).st_mtime_ns == before.st_mtime_ns
    assert datafile._dogpile.fresh_version() == version
    datafile.load(loader)
    assert objects == ["one"]
    after = datafile.status()
    assert after.createdtime is not None
    assert created.createdtime is not None
    assert after.createdtime > created.createdtime
    assert (after.generation, after.state) == (2, "fresh")
    assert beside(path) == {"resource"}
    what[0] = "two"  # of the same size
    datafile.refresh(force=True)
    assert datafile.load(loader) == "two"
    assert os.stat(path).st_ino != before.st_ino
    assert kept(path) == ["one"]
    assert len(beside(path)) == 2


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_equal_means_equal_to_the_last_byte(path: str, size: int) -> None:
    contents = [b"x" * size]
    datafile = Datafile(
        path,
        3600,
        lambda target: Path(target).write_bytes(contents[0]) and None,
        skip_unchanged=True,
        durable=False,
    )
    datafile.refresh()
    inode = os.stat(path).st_ino
    datafile.refresh(force=True)
    assert os.stat(path).st_ino == inode
    for other in (b"x" * size + b"y", b"x" * (size - 1) + b"y", b"y" + b"x" * (size - 1)):
        if other == contents[0]:
            continue
        contents[0] = other
        datafile.refresh(force=True)
        assert Path(path).read_bytes() == other


def test_a_file_that_was_removed_is_no_unchanged_one(path: str) -> None:
    datafile = Datafile(path, 3600, writing("x"), skip_unchanged=True)
    datafile.refresh()
    os.unlink(path)
    assert datafile.refresh(force=True)
    assert text(path) == "x"


def test_an_adopted_one_that_is_unchanged_stays(path: str) -> None:
    Path(path).write_text("x")
    inode = os.stat(path).st_ino
    datafile = Datafile(path, 0, writing("x"), skip_unchanged=True)
    objects = [datafile.load(lambda file: [file.read()]) for _ in range(3)]
    assert os.stat(path).st_ino == inode
    assert objects[0] is objects[1] is objects[2]


# readers=True.


def _read_until_told(path: str, record: Record, how: str) -> None:
    datafile = Datafile(path, 3600, readers=True)

    def stay(*given: Any) -> None:
        first = text(path)
        record.write("inside", text=first)
        record.wait("leave")
        assert text(path) == first
        record.write("left")

    if how == "open":
        with datafile.open():
            stay()
    elif how == "acquire":
        with datafile.acquire():
            stay()
    else:
        datafile.load(stay)


@pytest.mark.parametrize("how", ["open", "acquire", "load"])
def test_with_readers_a_swap_waits_for_who_is_inside_in_another_process(
    path: str, record: Record, processes: Processes, how: str
) -> None:
    datafile = versions(path, 1, readers=True)
    assert isinstance(datafile._dogpile, SyncReaderDogpile)
    reader = processes.start(_read_until_told, path, record, how)
    record.wait("inside")

    def create() -> None:
        def creator(target: str) -> None:
            record.write("creating")
            Path(target).write_text("new")

        Datafile(path, 3600, creator, readers=True).refresh(force=True)
        record.write("swapped")

    creating = processes.start(create)
    record.wait("creating")
    wait_for(lambda: waiters_for(path + ".dogpile.rwlock") == 1, "the writer to wait")
    assert text(path) == "1"
    record.write("leave")
    processes.join(reader, creating)
    assert text(path) == "new"
    assert record.events("left")[0].at < record.events("swapped")[0].at


def test_with_readers_a_killed_one_does_not_hinder_a_swap(path: str, record: Record, processes: Processes) -> None:
    datafile = versions(path, 1, readers=True)
    reader = processes.start(_read_until_told, path, record, "open")
    record.wait("inside")
    assert reader.pid is not None
    os.kill(reader.pid, signal.SIGKILL)
    promptly(lambda: datafile.refresh(force=True))
    assert text(path) == "2"


def test_with_readers_a_swap_gives_up_at_its_timeout_and_leaves_all_as_it_was(
    path: str, record: Record, processes: Processes
) -> None:
    datafile = versions(path, 1, readers=True, timeout=0.05, keep=1)
    reader = processes.start(_read_until_told, path, record, "open")
    record.wait("inside")
    with pytest.raises(LockTimeout):
        promptly(lambda: datafile.refresh(force=True))
    assert text(path) == "1"
    assert left_beside(path) == []
    record.write("leave")
    processes.join(reader)
    promptly(lambda: datafile.refresh(force=True))
    datafile.rollback()
    assert text(path) == "1"


def test_with_readers_a_rollback_waits_for_them_too(path: str, record: Record, processes: Processes) -> None:
    versions(path, 2, readers=True, keep=1)
    reader = processes.start(_read_until_told, path, record, "open")
    record.wait("inside")
    rolling = processes.start(lambda: Datafile(path, 3600, readers=True).rollback())
    wait_for(lambda: waiters_for(path + ".dogpile.rwlock") == 1, "the rollback to wait")
    assert text(path) == "2"
    record.write("leave")
    processes.join(reader, rolling)
    assert text(path) == "1"


def test_with_readers_creating_inside_ones_own_block_would_deadlock_before_the_creator_runs(
    path: str,
) -> None:
    datafile = versions(path, 1, readers=True)
    datafile._creator = unwanted
    with datafile.open():
        with pytest.raises(WouldDeadlock):
            datafile.refresh(force=True)
        datafile.invalidate()
        with pytest.raises(WouldDeadlock):
            datafile.refresh()
        assert opened(datafile) == loaded(datafile) == "1"
    datafile._creator = writing("new")
    assert datafile.refresh(force=True)


# Removed or replaced by another program.


def _in_place(path: str) -> None:
    with open(path, "r+") as file:
        file.write("foreign and longer")


def _renamed(path: str) -> None:
    Path(path + ".foreign").write_text("foreign")
    os.replace(path + ".foreign", path)


def _of_the_same_size(path: str) -> None:
    Path(path + ".foreign").write_text("F")
    os.replace(path + ".foreign", path)


def _older(path: str) -> None:
    Path(path + ".foreign").write_text("foreign")
    os.utime(path + ".foreign", (1000, 1000))
    os.replace(path + ".foreign", path)


def _touched(path: str) -> None:
    os.utime(path, (time.time() - 100, time.time() - 100))


FOREIGN_HANDS: list[Callable[[str], None]] = [_in_place, _renamed, _of_the_same_size, _older, _touched]


def _do_when_told(path: str, record: Record, hand: Callable[[str], None]) -> None:
    record.wait("do it")
    hand(path)
    record.write("done")


@pytest.mark.parametrize("hand", FOREIGN_HANDS)
@pytest.mark.parametrize("elsewhere", [True, False])
def test_what_was_replaced_behind_our_back_counts_by_its_own_mtime(
    path: str, record: Record, processes: Processes, hand: Callable[[str], None], elsewhere: bool
) -> None:
    datafile = versions(path, 1)
    assert [way(datafile) for way in WAYS] == ["1"] * 4
    if elsewhere:
        other = processes.start(_do_when_told, path, record, hand)
        record.write("do it")
        processes.join(other)
    else:
        hand(path)
        time.sleep(0.0002)
    status, mtime = datafile.status(), os.stat(path).st_mtime
    assert status.createdtime == mtime
    assert status.state == ("stale" if mtime < time.time() - 3600 else "fresh")
    assert (status.host, status.pid) == (None, None)
    expected = "2" if status.state == "stale" else text(path)
    assert [way(datafile) for way in WAYS] == [expected] * 4
    assert not Datafile(path, 3600, unwanted).refresh()


@every_way
def test_what_was_removed_behind_our_back_is_nothing_yet(
    path: str, way: Callable[[Datafile], str], record: Record, processes: Processes
) -> None:
    datafile = versions(path, 1)
    for expected in ("2", "3"):
        way(datafile)
        other = processes.start(os.unlink, path)
        processes.join(other)
        assert datafile.status().state == "missing"
        assert datafile.status().createdtime is None
        assert not datafile._dogpile.has_value
        assert way(datafile) == expected
    os.unlink(path)
    assert in_thread(lambda: Datafile(path, 3600, timeout=0.02).path()).__class__ is LockTimeout


@pytest.mark.parametrize("way", [opened, acquired, by_path])
def test_a_file_that_was_removed_a_moment_ago_is_created_again_without_an_error(
    path: str, way: Callable[[Datafile], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # For as long as a look at the path is believed; a machine that is fast enough gets along with the 0.1 ms.
    monkeypatch.setattr("dogpile_fs._sidecar.reconciled._LOOK_EVERY", 0.5)
    datafile = versions(path, 1)
    way(datafile)
    os.unlink(path)
    assert promptly(lambda: way(datafile)) == "2"


def test_a_file_that_this_process_removed_is_noticed_by_the_next_pass_on_a_fast_file_system() -> None:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no memory file system")
    directory = Path("/dev/shm") / f"dogpile_fs-{os.getpid()}"
    directory.mkdir()
    path = str(directory / "resource")
    datafile = Datafile(path, 3600, writing("x"), durable=False)
    try:
        for _ in range(200):
            datafile.path()
            os.unlink(path)
            assert datafile.path() == path
    finally:
        shutil.rmtree(directory)


def test_a_file_that_vanishes_as_soon_as_it_is_there_is_an_error(path: str) -> None:
    # Removed after the swap: a creator and a validate are called before it.
    class Removing(Datafile):
        def _put_in_place(self, *arguments: Any) -> Any:
            put = super()._put_in_place(*arguments)
            os.unlink(path)
            return put

    with pytest.raises(DatafileError) as caught:
        promptly(lambda: opened(Removing(path, 3600, writing("x"))))
    tells(caught.value, repr(path), "Hint: ")


def test_a_file_that_was_put_back_by_hand_counts_by_its_mtime(path: str) -> None:
    datafile = versions(path, 1)
    os.rename(path, path + ".away")
    time.sleep(0.0002)
    assert datafile.status().state == "missing"
    os.rename(path + ".away", path)
    time.sleep(0.0002)
    # It is the very file that was stamped.
    assert datafile.status().state == "fresh"
    assert datafile.status().pid == os.getpid()


@pytest.mark.parametrize("hard", [True, False])
def test_a_file_that_replaced_an_invalidated_one_is_invalidated_as_well(path: str, hard: bool) -> None:
    datafile = versions(path, 1)
    datafile.invalidate(hard)
    _renamed(path)
    time.sleep(0.0002)
    assert datafile.status().state == ("missing" if hard else "stale")
    assert opened(datafile) == "2"


def test_a_file_that_replaced_it_during_a_creation_is_replaced_in_turn(
    path: str, record: Record, processes: Processes
) -> None:
    datafile = versions(path, 1)
    creating = processes.start(_create_when_told, path, record, "new")
    record.wait("creating")
    _renamed(path)
    assert opened(datafile) == "foreign"
    record.write("go on")
    processes.join(creating)
    assert opened(datafile) == "new"
    assert datafile.status().state == "fresh"


# Adoption.


@pytest.mark.parametrize(
    ("mtime", "state", "without_expiry"),
    [
        (-10, "fresh", "fresh"),
        (-7200, "stale", "fresh"),
        (None, "stale", "fresh"),
        (+3600, "stale", "fresh"),
        (+0.9, "fresh", "fresh"),
    ],
    ids=["now", "old", "0", "in the future", "in less than a second"],
)
def test_what_is_there_without_a_sidecar_is_adopted_with_its_mtime(
    path: str, mtime: float | None, state: str, without_expiry: str
) -> None:
    Path(path).write_text("shipped")
    when = 0 if mtime is None else time.time() + mtime
    os.utime(path, (when, when))
    assert Datafile(path, None).status().state == without_expiry
    datafile = Datafile(path, 3600, writing("new"))
    status = datafile.status()
    assert status.state == state
    assert status.createdtime == pytest.approx(max(when, 1))
    assert (status.generation, status.cost, status.host, status.pid) == (0, None, None, None)
    assert opened(datafile) == ("shipped" if state == "fresh" else "new")
    assert Datafile(path, None).path() == path


def test_what_was_adopted_needs_no_coordination_files_to_be_read(path: str) -> None:
    Path(path).write_text("shipped")
    datafile = Datafile(path, 3600, unwanted)
    assert [way(datafile) for way in WAYS] == ["shipped"] * 4
    assert os.listdir(os.path.dirname(path)) == ["resource"]


def test_a_stale_adopted_file_is_read_where_nothing_may_be_written(unprivileged: Unprivileged) -> None:
    unprivileged.writable()
    Path(unprivileged.path).write_text("shipped")
    os.chmod(unprivileged.path, 0o644)
    os.utime(unprivileged.path, (1000, 1000))
    unprivileged.read_only()

    def read() -> None:
        for readers in (False, True):
            datafile = Datafile(unprivileged.path, 3600, unwanted, readers=readers)
            if readers:
                with pytest.raises(DogpileError):  # whose lock file is missing
                    opened(datafile)
                continue
            assert [way(datafile) for way in WAYS] == ["shipped"] * 4
            with pytest.raises(DogpileError):
                datafile.refresh()

    unprivileged.run(read)


DAMAGES = {"empty": b"", "scribble": b"hands off!", "zeros": bytes(2048)}


@pytest.mark.parametrize("damage", DAMAGES)
def test_with_a_damaged_sidecar_it_is_stale_but_there(
    path: str, record: Record, processes: Processes, damage: str
) -> None:
    versions(path, 1)
    Path(path + ".dogpile").write_bytes(DAMAGES[damage])
    assert Datafile(path, 3600).status().state == "stale"
    creating = processes.start(_create_when_told, path, record, "new")
    record.wait("creating")
    assert promptly(lambda: opened(Datafile(path, 3600, unwanted))) == "1"
    record.write("go on")
    processes.join(creating)
    assert Datafile(path, 3600).status().state == "fresh"


def test_a_sidecar_without_a_file_is_missing(path: str) -> None:
    Dogpile(3600, path).refresh(lambda: None)
    assert opened(versions(path, 0)) == "1"


def test_a_file_that_a_bare_dogpile_stamped_is_as_old_as_its_stamp(path: str) -> None:
    Path(path).write_text("by hand")
    os.utime(path, (1000, 1000))
    Dogpile(3600, path).refresh(lambda: None)
    assert opened(Datafile(path, 3600, unwanted)) == "by hand"


# touch, invalidate.


@pytest.mark.parametrize("hard", [True, False, None])
def test_touch_stamps_what_is_there(path: str, hard: bool | None) -> None:
    datafile = versions(path, 1)
    version = datafile._dogpile.fresh_version()
    if hard is None:
        datafile._dogpile.createdtime = 1000.0
    else:
        datafile.invalidate(hard)
    assert datafile.status().state != "fresh"
    datafile.touch()
    assert datafile.status().state == "fresh"
    assert opened(datafile) == "1"
    assert datafile._dogpile.fresh_version() == version


def test_touch_does_not_make_a_loader_load_again(path: str) -> None:
    Path(path).write_text("adopted")
    datafile = Datafile(path, 3600, unwanted)
    objects = []
    for _ in range(3):
        objects.append(datafile.load(readlines))
        datafile.touch()
    assert objects[0] is objects[1] is objects[2]


def test_touch_tells_if_there_is_nothing(path: str) -> None:
    with pytest.raises(DatafileError) as caught:
        Datafile(path, 3600).touch()
    assert caught.value.errno == errno.ENOENT
    tells(caught.value, repr(path), "Hint: ")
    assert os.listdir(os.path.dirname(path)) == []


def test_touch_keeps_the_record_of_a_creation_that_runs(path: str, record: Record, processes: Processes) -> None:
    datafile = versions(path, 1)
    creating = processes.start(_create_when_told, path, record, "new")
    record.wait("creating")
    datafile.touch()
    status = datafile.status()
    assert (status.creating, status.creating_pid) == (True, creating.pid)
    record.write("go on")
    processes.join(creating)


# Which process creates now, and which creation failed.


def test_the_status_tells_who_creates_and_since_when(path: str, record: Record, processes: Processes) -> None:
    datafile = versions(path, 1)
    before = time.time()
    creating = processes.start(_create_when_told, path, record, "new")
    record.wait("creating")
    status = datafile.status()
    assert (status.creating, status.creating_host, status.creating_pid) == (
        True,
        os.uname().nodename,
        creating.pid,
    )
    assert status.creating_since is not None
    assert before <= status.creating_since <= time.time()
    assert (status.failures, status.failed_pid, status.failed_since) == (0, None, None)
    assert (status.state, status.pid) == ("fresh", os.getpid())
    record.write("go on")
    processes.join(creating)
    status = datafile.status()
    assert (status.creating, status.creating_host, status.creating_pid) == (False, None, None)
    assert status.creating_since is status.failed_since is None
    assert status.pid == creating.pid


def test_the_status_tells_whose_creation_ended_without_a_result(
    path: str, record: Record, processes: Processes
) -> None:
    datafile = versions(path, 1)
    victim = processes.start(_create_when_told, path, record, "new")
    record.wait("creating")
    since = datafile.status().creating_since
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    status = datafile.status()
    assert (status.failures, status.failed_type) == (1, "died")
    assert (status.failed_pid, status.failed_since) == (victim.pid, since)
    assert (status.creating, status.creating_pid, status.state) == (False, None, "fresh")
    with FileMutex(path + ".dogpile.lock"):  # the next creator, before it is on record
        status = datafile.status()
    assert (status.creating, status.creating_pid, status.creating_since) == (True, None, None)
    assert (status.failures, status.failures_total, status.failed_pid) == (1, 1, victim.pid)

    def fail(target: str) -> None:
        assert datafile.status().creating_pid == os.getpid()
        assert (datafile.status().failures, datafile.status().failed_type) == (1, "died")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Datafile(path, 3600, fail).refresh(force=True)
    status = datafile.status()
    assert (status.failures, status.failed_since) == (2, since)
    assert (status.failed_type, status.failed_pid) == ("ZeroDivisionError", os.getpid())
    datafile.refresh(force=True)
    status = datafile.status()
    assert (status.failures, status.failures_total, status.failed_since) == (0, 2, None)


def test_the_status_tells_what_the_stamp_describes_and_by_which_expiretime(path: str) -> None:
    datafile = versions(path, 2)
    st, status = os.stat(path), Datafile(path, None).status()
    assert status.version == (st.st_size, st.st_mtime_ns, st.st_ino, 2, st.st_dev)
    assert status.expiretime == 3600
    assert datafile.status().remaining == pytest.approx(3600, abs=60)


# Other processes and objects.


def _module_creator(target: str) -> None:
    Path(target).write_text("by a function of a module")


def _module_validate(target: str) -> bool:
    return text(target) != "refused"


def _use_pickled(data: bytes) -> None:
    datafile = pickle.loads(data)
    assert opened(datafile) == "by a function of a module"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_can_be_pickled_to_another_process(
    path: str, processes: Processes, method: str, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    datafile = Datafile(
        path, 60, _module_creator, validate=_module_validate, keep=2, skip_unchanged=True, durable=False,
        readers=True, timeout=9, directory=elsewhere, mode=0o600,
    )  # fmt: skip
    loaded(datafile)
    copy: Datafile = pickle.loads(pickle.dumps(datafile))
    for name in (
        "_creator",
        "_validate",
        "_keep",
        "_skip_unchanged",
        "_durable",
        "_directory",
        "_mode",
        "_path",
        "_timeout",
    ):
        assert getattr(copy, name) == getattr(datafile, name), name
    assert type(copy._dogpile) is SyncReaderDogpile
    assert copy._dogpile.expiretime == 60
    processes.start(_use_pickled, pickle.dumps(datafile), method=method)
    processes.join()
    assert len(os.listdir(elsewhere)) == 4


def test_an_attribute_that_was_changed_later_is_pickled_as_it_is(path: str) -> None:
    datafile = Datafile(path, 60, _module_creator)
    datafile._keep, datafile._durable, datafile._skip_unchanged = 3, False, True
    datafile._validate, datafile._dogpile.expiretime = _module_validate, 5
    copy: Datafile = pickle.loads(pickle.dumps(datafile))
    assert (copy._keep, copy._durable, copy._skip_unchanged) == (3, False, True)
    assert (copy._validate, copy._dogpile.expiretime) == (_module_validate, 5)


def test_it_may_be_made_and_used_before_fork(path: str) -> None:
    datafile = versions(path, 1)
    with datafile.open("r") as file:
        loaded(datafile)

        def in_the_child() -> None:
            assert file.read() == "1"
            assert [way(datafile) for way in WAYS] == ["1"] * 4
            datafile.refresh(force=True)
            assert [way(datafile) for way in WAYS] == ["2"] * 4

        assert ended_well(in_child(in_the_child))
    assert [way(datafile) for way in WAYS] == ["2"] * 4
    assert datafile.status().generation == 2


# No room, no permission.


def test_where_there_is_no_room_the_old_one_stays(path: str) -> None:
    versions(path, 1)

    def creator(target: str) -> None:
        Path(target).write_text("x" * 5000)

    def create_in_vain() -> None:
        with files_no_longer_than(4000), pytest.raises(OSError, match="too large"):
            Datafile(path, 3600, creator).refresh(force=True)

    assert ended_well(in_child(create_in_vain))
    assert text(path) == "1"
    assert beside(path) == {"resource"}
    assert Datafile(path, 3600).status().state == "fresh"


def test_a_full_disk_leaves_the_old_one(mounted: Callable[..., None], tmp_path: Path) -> None:
    place = tmp_path / "mount"

    def fill() -> None:
        path = str(place / "resource")
        datafile = versions(path, 2, keep=1)
        with suppress(OSError), open(place / "filler", "wb") as file:
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(OSError, match="No space left"):
            datafile.refresh(force=True)
        assert [way(datafile) for way in WAYS] == ["2"] * 4
        assert left_beside(path) == []
        os.unlink(place / "filler")
        assert datafile.refresh(force=True)
        assert datafile.status().state == "fresh"

    mounted(place, "size=64k", fill)


@pytest.mark.parametrize("options", [{}, {"keep": 1}, {"skip_unchanged": True}, {"readers": True}])
def test_a_directory_that_may_be_written_but_not_listed_will_do(unprivileged: Unprivileged, options: Any) -> None:
    unprivileged.directory.chmod(0o333)
    if options.get("keep"):
        pytest.skip("what is kept must be found")

    def create_twice() -> None:
        datafile = Datafile(unprivileged.path, 3600, Numbered(), **options)
        assert opened(datafile) == "1"
        datafile.refresh(force=True)
        assert opened(datafile) == "2"
        assert datafile.status().state == "fresh"

    unprivileged.run(create_twice)


def test_a_directory_that_was_removed_is_an_error(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    datafile = versions(str(home / "file"), 1)
    shutil.rmtree(home)
    for use in (
        datafile.refresh,
        lambda: opened(datafile),
        datafile.rollback,
        datafile.invalidate,
        datafile.touch,
    ):
        with pytest.raises(DogpileError) as caught:
            use()
        tells(caught.value, str(home), "Hint: ")
    assert datafile.status().state == "missing"


def test_a_creator_that_removed_the_directory_does_not_hide_its_own_error(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()

    def creator(target: str) -> None:
        shutil.rmtree(home)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Datafile(home / "file", 3600, creator).refresh()


@pytest.mark.parametrize("options", [{}, {"keep": 1}, {"skip_unchanged": True}, {"readers": True}])
def test_with_too_few_descriptors_it_says_so_and_leaves_nothing(path: str, options: Any) -> None:
    def creator(target: str) -> None:
        os.mknod(target)  # needs no descriptor

    datafile = Datafile(path, 3600, creator, durable=True, **options)
    survives_few_descriptors(lambda: datafile.refresh(force=True))
    assert left_beside(path) == []


def test_with_too_few_descriptors_a_reader_gets_an_error(path: str) -> None:
    versions(path, 1)
    survives_few_descriptors(lambda: opened(Datafile(path, 3600, unwanted)))
    survives_few_descriptors(lambda: loaded(Datafile(path, 3600, unwanted)))


# Between the swap and the stamp.


def _stopped_before_its_stamp(path: str, record: Record) -> None:
    """Swap, and be held up before the stamp: by a lock on the sidecar, taken once the creation has begun."""
    held: list[int] = []

    def validate(target: str) -> None:
        held.append(os.open(path + ".dogpile", os.O_RDWR))
        flock(held[0], LOCK_EX)

    def give_back() -> None:
        record.wait("stamp")
        flock(held[0], LOCK_UN)

    datafile = Datafile(path, 3600, writing("new"), validate=validate, durable=False)
    threading.Thread(target=give_back, daemon=True).start()
    datafile.refresh(force=True)


def test_a_caller_that_comes_between_swap_and_stamp_loads_the_version_once(
    path: str, record: Record, processes: Processes
) -> None:
    datafile = versions(path, 1)
    objects: list[str] = []

    def loader(file: BinaryIO) -> str:
        objects.append(file.read().decode())
        return objects[-1]

    datafile.load(loader)
    creating = processes.start(_stopped_before_its_stamp, path, record)
    wait_for(lambda: text(path) == "new", "the swap")
    time.sleep(0.001)
    assert datafile.load(loader) == "new"
    record.write("stamp")
    processes.join(creating)
    assert datafile.status().generation == 2
    assert datafile.load(loader) == "new"
    assert objects == ["1", "new"]


def test_one_who_was_killed_between_the_swap_and_the_stamp_costs_one_creation_at_most(
    path: str, record: Record, processes: Processes
) -> None:
    datafile = versions(path, 1)
    victim = processes.start(_stopped_before_its_stamp, path, record)
    wait_for(lambda: text(path) == "new", "the swap")
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    # It counts as a file of another program: as old as its mtime says.
    status = datafile.status()
    assert status.createdtime == os.stat(path).st_mtime
    assert (status.state, status.failed_pid) == ("fresh", victim.pid)
    assert opened(datafile) == "new"
    assert datafile.refresh(force=True)
    assert left_beside(path) == []
