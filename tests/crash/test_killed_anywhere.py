"""SIGKILL before each system call of a swap: the file is the old one or the new one, and the next run works."""

from __future__ import annotations

import os
import pickle
import random
import signal
import stat
import subprocess
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest

import dogpile_fs
from dogpile_fs import DataDirectory, Datafile, DatafileExists, Datafiles, Status, atomic_write
from dogpile_fs._sidecar.quick_check import is_fresh
from tests.support.places import hidden, hidden_names
from tests.support.processes import PATIENCE
from tests.support.tracing import BEGIN, NotTraceable, Traced, killed_before

T = TypeVar("T")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ptrace(2) as Linux has it")

#: From 100 on each call of each subject is tried, below only every so many. ``tox -e endurance`` sets 100.
ROUNDS = int(os.environ.get("DOGPILE_FS_ROUNDS", "4"))
STRIDE = max(1, 100 // ROUNDS)
#: Kills in a row without a run in between.
KILLS = 3 * ROUNDS
#: Decides before which calls processes are killed. Printed, so that a failing test can be repeated.
SEED = int(os.environ.get("DOGPILE_FS_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)

#: Seconds that the next run may take on a loaded machine. A process that is locked out would wait for ever.
AT_ONCE = 20.0
HOUR = 3600.0
LONG_AGO = 2 * HOUR
#: Seconds by which an mtime may be earlier than a reading of the clock before it: it is that of the kernel's last
#: tick.
TICK = 0.02

OLDER, OLD, NEW, NEXT = (word * 20_000 for word in (b"older", b"old", b"new", b"next"))
MODE = 0o750

#: The state before: no version; a stale one, and the new one is fresh by its mtime; a fresh one, and the new one
#: is stale by its mtime.
Before = Literal["missing", "stale", "fresh"]


def in_fresh_process(action: Callable[[], T]) -> T:
    """What *action* returns in a child; what it raises is an AssertionError here."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            try:
                answer = pickle.dumps((True, action()))
            except BaseException:
                answer = pickle.dumps((False, traceback.format_exc()))
            with open(write, "wb") as pipe:
                pipe.write(answer)
        finally:
            # Not by _exit: of these thousands of processes, coverage is to make no thousands of files.
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(write)
    with open(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    assert answer, "a fresh process died"
    returned, result = pickle.loads(answer)
    assert returned, f"in a fresh process: {result}"
    return result  # type: ignore[no-any-return]


class Subject(ABC):
    """A swap whose process is killed, in a directory of its own."""

    #: Whether there is a sidecar.
    stamps = True
    #: Whether ``dogpile-fs run`` may make it.
    is_looked_at_by_run = True
    #: Whether the killed process executes another program.
    executes = False

    def __init__(
        self, path: Path, before: Before, *, durable: bool = True, keep: int = 0, back: bool = False
    ) -> None:
        """*back*: it is killed in the middle of a rollback."""
        self.path = path
        self.before = before
        self.durable = durable
        self.keep = keep
        self.back = back
        self.old = None if before == "missing" else OLD
        self.new = OLDER if back else NEW

    # What it does; all of it in processes of their own.

    @abstractmethod
    def swap(self, contents: bytes) -> None:
        """Put *contents* in place."""

    def to_be_killed(self) -> None:
        if self.back:
            self.rollback()
        else:
            self.swap(NEW)

    def rollback(self) -> None:
        raise NotImplementedError

    def set_the_stage(self) -> None:
        """Have the old version in place, as if it had been there for long."""
        if self.before == "missing":
            return
        self.durable = False
        self.swap(OLDER)
        os.chmod(self.path, MODE)
        self.swap(OLD)

    def status(self) -> Status:
        raise NotImplementedError

    # What a reader finds.

    @abstractmethod
    def found(self) -> bytes | None:
        """The contents; None if nothing is there."""

    def mode(self) -> int:
        return stat.S_IMODE(os.stat(self.path).st_mode)

    def files(self) -> Iterator[str]:
        """Relative paths of all that is in the directory, but for what all users of dogpile_fs leave there."""
        for name in sorted([*os.listdir(self.path.parent), *hidden_names(self.path)]):
            ours = ("", ".dogpile", ".dogpile.journal", ".dogpile.lock", ".dogpile.rwlock")
            if name.removeprefix(self.path.name) not in ours:
                yield name

    @abstractmethod
    def kept(self) -> list[bytes]:
        """The contents of all earlier versions that are kept, which are all that is left beside the current one.

        :raises AssertionError: if there is more.
        """


class AtomicWrite(Subject):
    stamps = False

    def __init__(
        self, path: Path, before: Before, *, overwrite: bool = True, durable: bool = True, linked: bool = False
    ) -> None:
        super().__init__(path, before, durable=durable)
        self.overwrite = overwrite
        self.linked = linked

    def set_the_stage(self) -> None:
        if self.linked:
            os.symlink("real", self.path)
        super().set_the_stage()

    def swap(self, contents: bytes) -> None:
        try:
            with atomic_write(self.path, durable=self.durable, overwrite=self.overwrite) as file:
                file.write(contents[:100])
                file.flush()
                file.write(contents[100:])
        except DatafileExists:
            assert not self.overwrite

    def found(self) -> bytes | None:
        assert os.path.islink(self.path) == self.linked
        return self.path.read_bytes() if self.path.exists() else None

    def kept(self) -> list[bytes]:
        assert [name for name in self.files() if not (self.linked and name == "real")] == []
        return []


class OfDatafile(Subject):
    def __init__(self, path: Path, before: Before, *, readers: bool = False, **options: Any) -> None:
        super().__init__(path, before, **options)
        self.readers = readers

    def datafile(self, contents: bytes | None = None) -> Datafile:
        """One that makes *contents*, or that only reads."""
        if contents is None:
            return self.made_with(None, keep=self.keep, timeout=AT_ONCE)

        def creator(target: str) -> None:
            with open(target, "wb") as file:
                file.write(contents)
            if self.before == "fresh" and contents == NEW:
                os.utime(target, (time.time() - LONG_AGO,) * 2)

        def validate(target: str) -> None:
            assert Path(target).read_bytes() == contents

        return self.made_with(creator, validate=validate, keep=self.keep, durable=self.durable, timeout=AT_ONCE)

    def made_with(self, creator: Callable[[str], None] | None, **options: Any) -> Datafile:
        return Datafile(self.path, HOUR, creator, readers=self.readers, **options)

    def set_the_stage(self) -> None:
        super().set_the_stage()
        if self.before == "stale":
            self.datafile()._dogpile.createdtime = time.time() - LONG_AGO

    def swap(self, contents: bytes) -> None:
        assert self.datafile(contents).refresh(force=True)

    def rollback(self) -> None:
        self.datafile().rollback()

    def status(self) -> Status:
        return self.datafile().status()

    def found(self) -> bytes | None:
        if not self.path.exists():
            return None
        with self.datafile().open() as file:
            return file.read()

    def kept(self) -> list[bytes]:
        names = list(self.files())
        assert all(name.startswith(".dogpile-kept-") for name in names), names
        return [Path(hidden(self.path), name).read_bytes() for name in reversed(names)]


class OfKey(OfDatafile):
    """One of many keys."""

    is_looked_at_by_run = False

    def __init__(self, path: Path, before: Before, **options: Any) -> None:
        self.pattern = str(path.parent / "{key}.txt")
        super().__init__(Path(Datafiles(self.pattern)["data"]._path), before, **options)

    def made_with(self, creator: Callable[[str], None] | None, **options: Any) -> Datafile:
        made = None if creator is None else lambda key, target: creator(target)
        return Datafiles(self.pattern, HOUR, made, **options)["data"]

    def set_the_stage(self) -> None:
        os.makedirs(self.path.parent)
        super().set_the_stage()


class OfDataDirectory(Subject):
    def __init__(self, path: Path, before: Before, *, plain: bool = False, **options: Any) -> None:
        """*plain*: another program has put a directory in the place of the symbolic link."""
        super().__init__(path, before, **options)
        self.plain = plain

    def datadir(self, contents: bytes | None = None) -> DataDirectory:
        """One that makes *contents*, or that only reads."""
        if contents is None:
            return DataDirectory(self.path, HOUR, keep=self.keep, timeout=AT_ONCE)

        def creator(target: str) -> None:
            _make_directory(target, contents)
            if self.before == "fresh" and contents == NEW:
                os.utime(target, (time.time() - LONG_AGO,) * 2)

        def validate(target: str) -> None:
            assert _contents_of(target) == contents

        return DataDirectory(
            self.path,
            HOUR,
            creator,
            validate=validate,
            keep=self.keep,
            durable=self.durable,
            timeout=AT_ONCE,
        )

    def set_the_stage(self) -> None:
        if self.plain:
            _make_directory(str(self.path), OLDER)
        super().set_the_stage()
        if self.before == "stale":
            self.datadir()._dogpile.createdtime = time.time() - LONG_AGO

    def swap(self, contents: bytes) -> None:
        assert self.datadir(contents).refresh(force=True)

    def rollback(self) -> None:
        self.datadir().rollback()

    def status(self) -> Status:
        return self.datadir().status()

    def found(self) -> bytes | None:
        if not os.path.lexists(self.path):
            return None
        assert os.path.islink(self.path) != self.plain
        with self.datadir().open() as version:
            return _contents_of(version)

    def kept(self) -> list[bytes]:
        current = os.path.basename(os.path.realpath(self.path))
        names = [name for name in self.files() if name != current]
        assert all(name.startswith(".dogpile-dir-") for name in names), names
        return [_contents_of(str(self.path.parent / name)) for name in reversed(names)]


def _make_directory(target: str, contents: bytes) -> None:
    os.mkdir(target)
    for name in ("one", "two"):
        Path(target, name).write_bytes(contents)


def _contents_of(directory: str) -> bytes:
    names = sorted(os.listdir(directory))
    assert names == ["one", "two"], f"a part of a version: {names}"
    one, two = (Path(directory, name).read_bytes() for name in names)
    assert one == two, "parts of two versions"
    return one


class OfRun(OfDatafile):
    """``dogpile-fs run``, as programs of their own."""

    executes = True
    # Without what only it imports, which takes some thousand calls in which nothing of ours is touched.
    _CODE = (
        "import sys; import dogpile_fs.cli.arguments, dogpile_fs.cli.commands.run, dogpile_fs.cli.dispatch; "
        f"from dogpile_fs.cli import main; {BEGIN}; sys.exit(main())"
    )

    def words(self, contents: bytes) -> list[str]:
        source = self.path.parent.parent / f"{contents[:4].decode()}.source"
        if not source.exists():
            source.write_bytes(contents)
        return [
            *(
                "run",
                "--expire",
                "1h",
                "--output",
                str(self.path),
                "--stdout",
                "--keep",
                str(self.keep),
                "--force",
            ),
            *("--wait", f"{AT_ONCE}s", "--", "cat", str(source)),
        ]

    def environment(self) -> dict[str, str]:
        # Nor is coverage to be killed while it writes one.
        own = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        return {**own, "PYTHONPATH": str(Path(dogpile_fs.__file__).parent.parent)}

    def swap(self, contents: bytes) -> None:
        if contents in (OLDER, OLD):  # whichever process made them
            super().swap(contents)
            return
        subprocess.run(
            [sys.executable, "-m", "dogpile_fs", *self.words(contents)],
            stdin=subprocess.DEVNULL,
            env=self.environment(),
            check=True,
            timeout=PATIENCE,
        )

    def to_be_killed(self) -> None:
        words = [sys.executable, "-c", self._CODE, *self.words(NEW)]
        os.execve(sys.executable, words, self.environment())


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "atomic_write": lambda path: AtomicWrite(path, "stale"),
    "atomic_write, not durable": lambda path: AtomicWrite(path, "stale", durable=False),
    "atomic_write through a link": lambda path: AtomicWrite(path, "stale", linked=True),
    "atomic_write, first": lambda path: AtomicWrite(path, "missing"),
    "atomic_write, not to overwrite": lambda path: AtomicWrite(path, "missing", overwrite=False),
    "datafile, first": lambda path: OfDatafile(path, "missing", keep=1),
    "datafile, stale": lambda path: OfDatafile(path, "stale"),
    "datafile, fresh, keep=1": lambda path: OfDatafile(path, "fresh", keep=1),
    "datafile, readers": lambda path: OfDatafile(path, "stale", readers=True),
    "datafile, rolled back": lambda path: OfDatafile(path, "stale", keep=1, back=True),
    "key, first": lambda path: OfKey(path, "missing", keep=1),
    "key, stale": lambda path: OfKey(path, "stale"),
    "key, fresh, keep=1": lambda path: OfKey(path, "fresh", keep=1),
    "key, rolled back": lambda path: OfKey(path, "stale", keep=1, back=True),
    "directory, first": lambda path: OfDataDirectory(path, "missing"),
    "directory, stale": lambda path: OfDataDirectory(path, "stale"),
    "directory, fresh, keep=1": lambda path: OfDataDirectory(path, "fresh", keep=1),
    "directory, rolled back": lambda path: OfDataDirectory(path, "stale", keep=1, back=True),
    "plain directory, stale": lambda path: OfDataDirectory(path, "stale", plain=True),
    "plain directory, fresh, keep=1": lambda path: OfDataDirectory(path, "fresh", plain=True, keep=1),
    "plain directory, rolled back": lambda path: OfDataDirectory(path, "stale", plain=True, keep=1, back=True),
    "run, first": lambda path: OfRun(path, "missing"),
    "run, stale, --keep 1": lambda path: OfRun(path, "stale", keep=1),
}


def kill(subject: Subject, number: int) -> Traced:
    """Kill *subject* before its call *number*, if it does not come to its end before."""
    try:
        return killed_before(number, subject.to_be_killed, executes=subject.executes)
    except NotTraceable as error:
        pytest.skip(str(error))


def look(subject: Subject, began: float, what_was: Status | None) -> str:
    """What a fresh process finds after the kill: see that it is right, and call it by a name."""
    found = subject.found()
    assert found in (subject.old, subject.new), (
        f"neither the old nor the new version, but {found and found[:40]!r}"
    )
    if found is not None and subject.before != "missing":
        assert subject.mode() == MODE, f"the permission bits are {subject.mode():o}"
    name = "missing" if found is None else "the new" if found == subject.new else "the old"
    if not subject.stamps:
        return name
    status = subject.status()
    assert not status.creating, status
    if subject.is_looked_at_by_run:
        assert status.state == "fresh" or not is_fresh(str(subject.path), HOUR), status
    if found is None:
        assert status.state == "missing", status
        return name
    assert status.createdtime is not None
    if found == subject.old:
        assert what_was is not None
        # Neither the attempt nor what it left makes the old version any younger, nor older.
        assert (status.state, status.createdtime) == (subject.before, what_was.createdtime), status
        return name
    generation = 1 if what_was is None else what_was.generation + 1
    if status.generation == generation:
        assert status.state == "fresh", status
        assert began - TICK <= status.createdtime <= time.time(), status
        return "the new, stamped"
    # The stamp on record was not written for it: its own mtime counts.
    assert status.generation == generation - 1, status
    assert status.createdtime == os.stat(subject.path).st_mtime, status
    assert status.state == ("stale" if subject.before == "fresh" else "fresh"), status
    return name


def go_on(subject: Subject) -> None:
    """The next run, and then the tidy directory."""
    found = subject.found()
    began = time.monotonic()
    in_fresh_process(lambda: subject.swap(NEXT))
    took = time.monotonic() - began
    assert took < AT_ONCE, f"the next run took {took:.1f} s"
    in_fresh_process(lambda: look_around(subject, found))


def look_around(subject: Subject, found: bytes | None) -> None:
    """Check the files after the next run; *found* was there before it."""
    if isinstance(subject, AtomicWrite) and not subject.overwrite and found is not None:
        assert subject.found() == found
    else:
        assert subject.found() == NEXT
    kept = subject.kept()
    assert len(kept) <= subject.keep
    assert all(version in (OLDER, OLD, NEW) for version in kept)
    if subject.stamps:
        assert subject.status().state == "fresh"
    if subject.before != "missing":
        assert subject.mode() == MODE
    if subject.keep and found is not None:
        subject.rollback()
        assert subject.found() == found, "the kept version is not the one that was in place"
        assert subject.kept() == []


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[[str], Subject]]:
    """Sets the stage for a subject, in a new directory each time."""
    number = 0

    def set_stage(name: str) -> Subject:
        nonlocal number
        number += 1
        directory = tmp_path / str(number)
        directory.mkdir()
        subject = SUBJECTS[name](directory / "data.txt")
        in_fresh_process(subject.set_the_stage)
        return subject

    umask = os.umask(0o022)
    yield set_stage
    os.umask(umask)


def stride(subject: Subject) -> int:
    # A program of its own takes some twenty times as long.
    return STRIDE * 3 if subject.executes and STRIDE > 1 else STRIDE


@pytest.mark.permissions
@pytest.mark.parametrize("name", SUBJECTS)
def test_a_process_killed_at_any_call_leaves_the_old_or_the_new_version_and_the_next_run_works(
    name: str, stage: Callable[[str], Subject]
) -> None:
    print(f"DOGPILE_FS_SEED={SEED}")
    number = 0
    outcomes: Counter[str] = Counter()
    while True:
        subject = stage(name)
        number += stride(subject) if number else 1 + SEED % stride(subject)
        what_was = subject.status() if subject.stamps and subject.before != "missing" else None
        began = time.time()
        traced = kill(subject, number)
        try:
            outcome = in_fresh_process(lambda: look(subject, began, what_was))  # noqa: B023
            go_on(subject)
        except AssertionError as error:
            error.add_note(f"killed before call {number}: {traced}; {os.listdir(subject.path.parent)}")
            raise
        if traced.call is None:
            break
        outcomes[outcome] += 1
    print(f"{name}: killed before {outcomes.total()} of {traced.calls} calls: {dict(outcomes)}")
    assert outcome.startswith("the new"), "left alone, it swaps"
    assert len(outcomes) > 1 or STRIDE > 1


@pytest.mark.permissions
@pytest.mark.parametrize("name", [name for name in SUBJECTS if "rolled back" not in name])
def test_after_many_kills_without_a_run_in_between_the_next_run_works(
    name: str, stage: Callable[[str], Subject]
) -> None:
    print(f"DOGPILE_FS_SEED={SEED}")
    calls = kill(stage(name), sys.maxsize).calls
    subject = stage(name)
    allowed = [subject.old, subject.new]
    chance = random.Random(SEED)
    most = 0
    for _ in range(KILLS // 3 if subject.executes else KILLS):
        number = chance.randint(1, calls)
        traced = kill(subject, number)
        found = subject.found()
        assert found in allowed, f"killed before call {number}: {traced}: {found and found[:40]!r}"
        if found == subject.new:
            allowed = [found]
        if subject.stamps:
            status = in_fresh_process(subject.status)
            assert (status.state == "missing") == (found is None), f"killed before call {number}: {status}"
        most = max(most, len([*os.listdir(subject.path.parent), *hidden_names(subject.path)]))
    print(f"{name}: {most} files at most")
    go_on(subject)


def test_a_prune_killed_at_any_call_leaves_the_version_or_nothing_and_the_next_prune_works(
    stage: Callable[[str], Subject],
) -> None:
    print(f"DOGPILE_FS_SEED={SEED}")
    number = 1 + SEED % 5
    while True:
        subject = stage("key, fresh, keep=1")
        assert isinstance(subject, OfKey)
        subject.datafile().invalidate(hard=True)
        pattern = subject.pattern

        def prune(pattern: str = pattern) -> int:
            return Datafiles(pattern, HOUR).prune(older_than=0)

        traced = killed_before(number, prune)
        assert subject.status().state == "missing", f"killed before call {number}: {traced}: {subject.status()}"
        assert in_fresh_process(prune) <= 1
        left = sorted(os.listdir(os.path.dirname(pattern)))
        assert left == [".dogpile"], f"killed before call {number}: {traced}: {left}"
        if traced.call is None:
            break
        number += 5
    in_fresh_process(lambda: subject.swap(NEXT))
    assert subject.found() == NEXT
