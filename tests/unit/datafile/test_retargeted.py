"""The path comes to lead elsewhere while a new version is made: a release is deployed, a link is retargeted.

Nothing is put in the old place, and nothing that the path leads to then is called fresh unless it was created.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import DataDirectory, Datafile, DatafileError, Dogpile, SyncReaderDogpile, atomic_write
from dogpile_fs._dogpile.process_scope import ProcessScope
from dogpile_fs._sidecar.file import Sidecar

LONG_AGO = time.time() - 36000
HOUR = 3600

Creator = Callable[[str], None]


class Releases:
    """Two releases, each with a report that is ten hours old, and the link ``current`` to the first."""

    def __init__(self, root: Path, kind: type[Datafile | DataDirectory], where: str = "beside") -> None:
        self.root, self.kind = root, kind
        self.options: dict[str, Any] = {}
        if where == "elsewhere":
            (root / "locks").mkdir()
            self.options = {"directory": root / "locks"}
        for number in "12":
            self.ship(number)
        (root / "current").symlink_to("releases/1")
        self.path = str(root / "current" / "var" / "report")

    def ship(self, number: str) -> None:
        report = self.of(number)
        report.parent.mkdir(parents=True)
        self.make(str(report), f"shipped {number}")
        os.utime(report, (LONG_AGO, LONG_AGO))

    def of(self, number: str) -> Path:
        return self.root / "releases" / number / "var" / "report"

    def make(self, target: str, text: str) -> None:
        if self.kind is DataDirectory:
            os.mkdir(target)
            target += "/text"
        Path(target).write_text(text)

    def text(self, path: str | Path | None = None) -> str:
        found = Path(path or self.path)
        return (found / "text" if found.is_dir() else found).read_text()

    def deploy(self, number: str = "2") -> None:
        (self.root / "next").symlink_to(f"releases/{number}")
        os.replace(self.root / "next", self.root / "current")

    def data(self, creator: Creator | None = None, **options: Any) -> Datafile | DataDirectory:
        creator = creator or (lambda target: self.make(target, "made"))
        return self.kind(self.path, HOUR, creator, **self.options, **options)


def right_after(subject: object, name: str, then: Callable[[], None]) -> None:
    """Have *then* called when the method *name* of *subject* has done its work."""
    plain = getattr(subject, name)

    def patched(*arguments: object) -> object:
        result = plain(*arguments)
        then()
        return result

    setattr(subject, name, patched)


@pytest.fixture(params=["beside", "elsewhere"])
def where(request: pytest.FixtureRequest) -> str:
    """Where the coordination files are."""
    return str(request.param)


@pytest.fixture(params=[Datafile, DataDirectory])
def releases(request: pytest.FixtureRequest, tmp_path: Path, where: str) -> Releases:
    return Releases(tmp_path, request.param, where)


@pytest.fixture
def files(tmp_path: Path, where: str) -> Releases:
    return Releases(tmp_path, Datafile, where)


@pytest.mark.parametrize("force", [False, True])
def test_a_refresh_during_which_a_release_is_deployed_creates_for_the_new_release(
    releases: Releases, force: bool, caplog: pytest.LogCaptureFixture
) -> None:
    targets: list[str] = []

    def creator(target: str) -> None:
        targets.append(target)
        releases.make(target, f"made {len(targets)}")
        if len(targets) == 1:
            releases.deploy()

    assert releases.data(creator).refresh(force)
    assert releases.text() == "made 2"
    assert releases.text(releases.of("1")) == "shipped 1"
    assert [Path(each).parent.parent for each in targets] == [releases.of(number).parent for number in "12"]
    assert f"nothing was put at {releases.path!r}: it led to {str(releases.of('1'))!r}" in caplog.text
    assert releases.data().status().state == "fresh"
    releases.deploy("1")
    assert releases.data().status().state == "stale"


def test_a_reader_whose_creation_met_a_deployment_has_what_the_new_release_ships(releases: Releases) -> None:
    def creator(target: str) -> None:
        releases.make(target, "made")
        releases.deploy()

    with releases.data(creator).open() as given:
        text = releases.text(given) if isinstance(given, str) else given.read().decode()
    assert text == "shipped 2"
    assert releases.data().status().state == "stale"


def test_a_reader_whose_creation_met_a_deployment_does_not_pass_with_what_was_hard_invalidated(
    releases: Releases,
) -> None:
    releases.deploy()
    releases.data().invalidate(hard=True)
    releases.deploy("1")
    made: list[str] = []

    def creator(target: str) -> None:
        made.append(target)
        releases.make(target, f"made {len(made)}")
        releases.deploy()

    with releases.data(creator).open() as given:
        text = releases.text(given) if isinstance(given, str) else given.read().decode()
    assert text == "made 2"


def test_a_refresh_whose_release_is_renamed_meanwhile_creates_where_the_path_leads_then(
    releases: Releases,
) -> None:
    made: list[str] = []

    def creator(target: str) -> None:
        made.append(target)
        releases.make(target, "made")
        if len(made) == 1:
            (releases.root / "releases" / "1").rename(releases.root / "releases" / "old")
            releases.ship("1")

    assert releases.data(creator).refresh()
    assert releases.text() == "made"
    assert releases.text(releases.of("old")) == "shipped 1"
    assert releases.data().status().state == "fresh"


def test_a_deployment_between_swap_and_stamp_makes_nothing_fresh_that_the_release_ships(
    releases: Releases,
) -> None:
    data = releases.data()
    right_after(data, "_put_in_place", releases.deploy)
    with data.open():  # a refresh looks again, and creates for the new release
        pass
    assert releases.text(releases.of("1")) == "made"
    assert releases.text() == "shipped 2"
    assert releases.data().status().state == "stale"


def test_what_another_program_puts_there_between_swap_and_stamp_counts_by_its_mtime(releases: Releases) -> None:
    def replaced() -> None:
        of = releases.of("1")
        of.rename(f"{of}.away")
        releases.make(str(of), "another's")
        os.utime(of, (LONG_AGO, LONG_AGO))

    data = releases.data()
    right_after(data, "_put_in_place", replaced)
    assert data.refresh()
    assert (releases.text(), releases.data().status().state) == ("another's", "stale")


def test_a_link_that_is_retargeted_during_a_creation_leads_to_what_was_created_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = tmp_path / "report"
    for name in ("one", "other"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (LONG_AGO, LONG_AGO))
    report.symlink_to("one")

    def retarget() -> None:
        (tmp_path / "next").symlink_to("other")
        os.replace(tmp_path / "next", report)

    def creator(target: str) -> None:
        Path(target).write_text("made")
        retarget()

    datafile = Datafile(report, HOUR, creator)
    with datafile.open("r") as file:
        assert file.read() == "other"
    assert ((tmp_path / "one").read_text(), (tmp_path / "other").read_text()) == ("one", "other")
    assert "Hint: try again" in caplog.text
    assert datafile.status().state == "stale"
    assert datafile.refresh()
    assert ((tmp_path / "one").read_text(), (tmp_path / "other").read_text()) == ("one", "made")
    assert datafile.status().state == "fresh"


def test_a_link_that_is_retargeted_between_swap_and_stamp_makes_nothing_fresh(tmp_path: Path) -> None:
    report, other = tmp_path / "report", tmp_path / "other"
    other.write_text("other")
    os.utime(other, (LONG_AGO, LONG_AGO))
    report.symlink_to("one")

    def retarget() -> None:
        report.unlink()
        report.symlink_to("other")

    datafile = Datafile(report, HOUR, lambda target: Path(target).write_text("made"))
    right_after(datafile, "_put_in_place", retarget)
    assert datafile.refresh()
    assert datafile.status().state == "stale"
    report.unlink()
    report.symlink_to("one")
    time.sleep(0.001)
    assert datafile.status().state == "fresh"


@pytest.mark.parametrize("keep", [1, 0])
def test_a_link_to_a_fresh_file_spares_the_second_creation(tmp_path: Path, keep: int) -> None:
    report = tmp_path / "report"
    report.symlink_to("one")
    (tmp_path / "other").write_text("other")
    made: list[str] = []

    def creator(target: str) -> None:
        made.append(target)
        Path(target).write_text("made")
        report.unlink()
        report.symlink_to("other")

    assert not Datafile(report, HOUR, creator, keep=keep).refresh()
    assert len(made) == 1
    assert report.read_text() == "other"
    assert sorted(os.listdir(tmp_path)) == [
        "other",
        "report",
        *(f"report.dogpile{each}" for each in ("", ".journal", ".lock")),
    ]


def test_a_rollback_that_waits_while_a_release_is_deployed_changes_neither_release(files: Releases) -> None:
    datafile = Datafile(
        files.path, HOUR, lambda target: files.make(target, "made"), keep=1, readers=True, **files.options
    )
    datafile.refresh()
    errors: list[BaseException] = []

    def roll_back() -> None:
        try:
            datafile.rollback()
        except DatafileError as error:
            errors.append(error)

    thread = threading.Thread(target=roll_back)
    with datafile.acquire():
        thread.start()
        while not datafile._dogpile.dogpilelock.held:
            time.sleep(0.001)
        files.deploy()
    thread.join(30)
    assert "Hint: " in str(errors[0])
    assert (files.text(), files.text(files.of("1"))) == ("shipped 2", "made")
    assert files.data().status().state == "stale"
    files.deploy("1")
    datafile.rollback()
    assert files.text() == "shipped 1"


def test_a_deployment_right_after_a_rollback_makes_nothing_fresh_that_the_release_ships(
    releases: Releases,
) -> None:
    data = releases.data(keep=1)
    right_after(data, "_roll_back", releases.deploy)
    data.refresh()
    data.rollback()
    assert (releases.text(), releases.text(releases.of("1"))) == ("shipped 2", "shipped 1")
    assert releases.data().status().state == "stale"


@pytest.mark.parametrize("overwrite", [True, False])
def test_atomic_write_puts_nothing_where_the_path_does_not_lead_any_more(files: Releases, overwrite: bool) -> None:
    path = files.path + ".new"
    writing = atomic_write(path, "w", overwrite=overwrite)
    writing.__enter__().write("written")
    files.deploy()
    with pytest.raises(DatafileError, match=r"nothing was put at .* it led to .*/1/.* leads to .*/2/"):
        writing.__exit__(None, None, None)
    assert [os.listdir(files.of(number).parent) for number in "12"] == [["report"], ["report"]]


def test_atomic_write_does_not_replace_what_a_retargeted_link_led_to(tmp_path: Path) -> None:
    link = tmp_path / "link"
    (tmp_path / "one").write_text("one")
    link.symlink_to("one")
    writing = atomic_write(link, "w")
    writing.__enter__().write("written")
    link.unlink()
    link.symlink_to("other")
    with pytest.raises(DatafileError, match="Hint: try again"):
        writing.__exit__(None, None, None)
    assert (tmp_path / "one").read_text() == "one"
    assert sorted(os.listdir(tmp_path)) == ["link", "one"]


@pytest.mark.parametrize("kind", [Dogpile, SyncReaderDogpile])
@pytest.mark.parametrize("resource", ["file", None])
def test_a_dogpile_whose_path_was_retargeted_stamps_nothing(
    files: Releases, kind: type[Dogpile], resource: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    dogpile = kind(HOUR, files.path, **{**files.options, "resource": resource})
    assert not dogpile.refresh(files.deploy, force=True)
    assert "or the path came to lead elsewhere" in caplog.text
    assert dogpile.status().state == ("stale" if resource else "missing")
    caplog.set_level(logging.ERROR)
    assert dogpile.refresh(lambda: None, force=True)
    assert dogpile.status().state == "fresh"


@pytest.mark.parametrize(
    ("owner", "name"), [(ProcessScope, "fingerprint"), (Sidecar, "change")], ids=["fingerprint", "change"]
)
@pytest.mark.parametrize("resource", ["file", None])
def test_a_deployment_in_the_middle_of_a_stamp_makes_nothing_fresh(
    files: Releases, owner: type, name: str, resource: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dogpile = Dogpile(HOUR, files.path, **{**files.options, "resource": resource})
    plain = getattr(owner, name)

    def creator() -> None:
        def deploying(*arguments: object) -> object:
            monkeypatch.undo()
            files.deploy()
            return plain(*arguments)

        monkeypatch.setattr(owner, name, deploying)

    dogpile.refresh(creator, force=True)
    assert Dogpile(HOUR, files.path, **{**files.options, "resource": resource}).status().state != "fresh"


def test_dogpile_with_value_functions_gives_its_creators_value_and_stamps_nothing(files: Releases) -> None:
    dogpile = Dogpile(HOUR, files.path, **files.options)

    def creator() -> str:
        files.deploy()
        return "made"

    with dogpile.acquire(creator, lambda: "read") as value:
        assert value == "made"
    assert not Dogpile(HOUR, files.path, **files.options).has_value


def test_a_touch_stamps_the_release_that_the_path_leads_to(releases: Releases) -> None:
    data = releases.data()
    data.refresh()
    releases.deploy()
    data.touch()
    assert releases.data().status().state == "fresh"
    assert releases.text() == "shipped 2"


def test_the_command_creates_for_the_release_that_was_deployed_meanwhile(files: Releases) -> None:
    switch = (
        "if test -e releases/switched; then echo made > $DOGPILE_FS_OUTPUT; else "
        "echo lost > $DOGPILE_FS_OUTPUT; touch releases/switched; ln -s releases/2 next; mv -T next current; fi"
    )
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "dogpile_fs",
            "run",
            "--expire=1h",
            "--output",
            files.path,
            "--",
            "sh",
            "-c",
            switch,
        ],
        cwd=files.root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, files.text()) == (0, "made\n"), ended.stderr
    assert "nothing was put at" in ended.stderr
    assert files.text(files.of("1")) == "shipped 1"
