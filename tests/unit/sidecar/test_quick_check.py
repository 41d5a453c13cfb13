"""The cheap question agrees with the whole of dogpile_fs, and is cheap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogpile_fs import Datafile, Dogpile, DogpileError
from dogpile_fs._dogpile.resource_path import checked_base
from dogpile_fs._os import directory_mark
from dogpile_fs._sidecar.encoding import encode
from dogpile_fs._sidecar.fingerprint import Fingerprint, fingerprint_of
from dogpile_fs._sidecar.quick_check import is_fresh
from dogpile_fs._sidecar.record import SIZE, Attempt, Record
from tests.hostile.test_broken_environments import Unprivileged, promptly, unprivileged
from tests.support.places import writing

__all__ = ["unprivileged"]  # fixtures


def asked_of_all(path: str, expiretime: float | None, directory: str | None = None) -> bool:
    """What the whole machinery says; nobody can use what it cannot tell of."""
    try:
        return Datafile(path, expiretime, directory=directory).status().state == "fresh"
    except DogpileError:
        return False


def created(path: str, **options: Any) -> Datafile:
    datafile = Datafile(path, 3600, writing("x"), durable=False, **options)
    datafile.refresh()
    return datafile


# What it says.


def test_it_is_fresh_from_its_creation_until_anything_happens_to_it(path: str) -> None:
    assert not is_fresh(path, 3600)
    datafile = created(path)
    assert is_fresh(path, 3600)
    assert is_fresh(path, None)
    assert not is_fresh(path, 0)
    datafile.invalidate()
    assert not is_fresh(path, 3600)
    assert not is_fresh(path, None)
    datafile.touch()
    assert is_fresh(path, 3600)
    datafile._dogpile.createdtime = time.time() - 7200
    assert not is_fresh(path, 3600)
    datafile._dogpile.createdtime = time.time() + 7200
    assert not is_fresh(path, 3600)
    datafile.touch()
    os.unlink(path)
    assert not is_fresh(path, 3600)
    Path(path).touch()
    assert is_fresh(path, 3600)
    os.utime(path, (1000, 1000))
    assert not is_fresh(path, 3600)
    assert is_fresh(path, None)


def test_a_file_without_a_sidecar_is_as_old_as_its_mtime_says(path: str) -> None:
    Path(path).touch()
    assert is_fresh(path, 3600)
    assert is_fresh(path, None)
    assert not is_fresh(path, 0)
    os.utime(path, (time.time() - 7200,) * 2)
    assert not is_fresh(path, 3600)
    assert is_fresh(path, 10000)
    os.utime(path, (time.time() + 7200,) * 2)
    assert not is_fresh(path, 3600)
    os.utime(path, (0, 0))
    assert is_fresh(path, None)
    assert not is_fresh(path, 3600)


def test_a_name_too_long_for_a_sidecar_is_not_fresh(tmp_path: Path) -> None:
    for length in range(238, 256):
        path = str(tmp_path / ("x" * length))
        Path(path).touch()
        assert is_fresh(path, 3600) == asked_of_all(path, 3600) == (length <= 239)


def test_nothing_is_fresh_where_there_is_no_directory_for_its_sidecar(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    Path(path).touch()
    assert is_fresh(path, 3600, str(tmp_path))
    assert not is_fresh(path, 3600, str(tmp_path / "missing"))
    assert not is_fresh(path, 3600, path)


def test_coordination_files_elsewhere_are_found(tmp_path: Path) -> None:
    elsewhere, home = tmp_path / "elsewhere", tmp_path / "home"
    elsewhere.mkdir()
    home.mkdir()
    path = str(home / "file")
    created(path, directory=elsewhere)
    assert is_fresh(path, 3600, str(elsewhere))
    Datafile(path, 3600, directory=elsewhere).invalidate()
    assert not is_fresh(path, 3600, str(elsewhere))
    assert is_fresh(path, 3600)  # the sidecar beside it would be another
    Datafile(path, 3600, directory=elsewhere).touch()
    (tmp_path / "link").symlink_to("home")
    assert is_fresh(str(tmp_path / "link" / "file"), 3600, str(elsewhere))
    assert not is_fresh(path, 3600, str(tmp_path / "missing"))


def test_a_relative_path_is_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    created("file")
    assert is_fresh("file", 3600)
    (tmp_path / "elsewhere").mkdir()
    created("other", directory="elsewhere")
    assert is_fresh("other", 3600, "elsewhere")


@pytest.mark.parametrize("given", ["", "\0", "a\0b", "\ud800", "/", "missing/file", "x" * 300])
@pytest.mark.parametrize("directory", [None, "/tmp", "\0", "/missing"])
def test_an_impossible_path_is_not_fresh_and_no_error(given: str, directory: str | None) -> None:
    assert not is_fresh(given, 3600, directory)


def _newer() -> bytes:
    body = b'{"dogpile_fs": 2}'.ljust(SIZE - 9)
    return body + b"%08x\n" % zlib.crc32(body)


SIDECARS = {"empty": b"", "scribble": b"x" * SIZE, "short": b"{", "newer": _newer(), "old": encode(Record())}


@pytest.mark.parametrize("sidecar", SIDECARS)
def test_an_empty_sidecar_is_not_fresh(path: str, sidecar: str) -> None:
    created(path)
    Path(path + ".dogpile").write_bytes(SIDECARS[sidecar])
    expected = sidecar == "old"  # the record before the first creation: what is there is adopted
    assert is_fresh(path, 3600) == asked_of_all(path, 3600) == expected


@pytest.mark.parametrize("make", ["fifo", "directory", "link", "dangling", "loop"])
def test_a_fifo_or_link_in_place_of_the_sidecar_is_neither_read_nor_removed(path: str, make: str) -> None:
    created(path)
    sidecar = path + ".dogpile"
    os.rename(sidecar, sidecar + ".away")
    if make == "fifo":
        os.mkfifo(sidecar)
    elif make == "directory":
        os.mkdir(sidecar)
    else:
        os.symlink({"link": sidecar + ".away", "dangling": "nowhere", "loop": sidecar}[make], sidecar)
    assert promptly(lambda: is_fresh(path, 3600)) is False
    assert os.path.lexists(sidecar)


@pytest.mark.parametrize("make", ["directory", "fifo", "loop"])
def test_a_directory_or_fifo_is_not_a_fresh_file(path: str, make: str) -> None:
    created(path)
    os.unlink(path)
    if make == "directory":
        os.mkdir(path)
    elif make == "fifo":
        os.mkfifo(path)
    else:
        os.symlink(path, path)
    assert promptly(lambda: is_fresh(path, 3600)) is False


def test_an_unreadable_sidecar_is_not_fresh(unprivileged: Unprivileged) -> None:
    unprivileged.writable()
    created(unprivileged.path)
    os.chmod(unprivileged.path + ".dogpile", 0)
    unprivileged.run(lambda: _must_not_be_fresh(unprivileged.path))
    os.chmod(unprivileged.path + ".dogpile", 0o644)
    unprivileged.run(lambda: _must_be_fresh(unprivileged.path))
    unprivileged.directory.chmod(0)
    unprivileged.run(lambda: _must_not_be_fresh(unprivileged.path))


def _must_be_fresh(path: str) -> None:
    assert is_fresh(path, 3600)


def _must_not_be_fresh(path: str) -> None:
    if os.access(path + ".dogpile", os.R_OK, effective_ids=True):
        pytest.skip("this user may read anything")
    assert not is_fresh(path, 3600)


# It agrees.

ages = st.sampled_from([-5000.0, -2.0, -0.5, 0.0, 1.0, 59.0, 61.0, 5000.0])


@st.composite
def situations(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "file": draw(st.sampled_from(["none", "described", "another", "directory", "dangling link", "link"])),
        "age": draw(ages),
        "sidecar": draw(st.sampled_from(["sound", "sound", "sound", "none", "torn", "longer"])),
        "created": draw(st.none() | ages),
        "described": draw(st.booleans()),
        "invalidated": draw(st.sampled_from([None, None, "soft", "hard"])),
        "attempt": draw(st.booleans()),
        "expiretime": draw(st.sampled_from([None, 0.0, 1.5, 60.0, 1e9])),
        "elsewhere": draw(st.booleans()),
    }


def _set_up(home: str, situation: dict[str, Any], now: float) -> tuple[str, str | None]:
    """Make it so; the path, and where the coordination files are."""
    path, directory = os.path.join(home, "file"), os.path.join(home, "elsewhere")
    os.mkdir(directory)
    if situation["file"] == "directory":
        os.mkdir(path)
    elif situation["file"] == "dangling link":
        os.symlink("nowhere", path)
    elif situation["file"] != "none":
        if situation["file"] == "link":
            os.symlink("real", path)
        Path(path).write_text("x")
        os.utime(path, (now - situation["age"], now - situation["age"]))
    described = None
    if situation["described"]:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            described = Fingerprint("file", 2, 3, 4)
        else:
            inode = found.st_ino + (situation["file"] == "another")
            described = fingerprint_of(found)._replace(inode=inode)
    record = Record(
        createdtime=-1.0 if situation["created"] is None else now - situation["created"],
        generation=1,
        invalidated=situation["invalidated"],
        invalidations=0 if situation["invalidated"] is None else 1,
        fingerprint=described,
        attempt=Attempt("host", 7, now) if situation["attempt"] else None,
    )
    base = path
    if situation["elsewhere"]:
        directory_mark.mark(os.path.dirname(path))
        base = checked_base(path, directory)
    data = {"torn": encode(record)[:-20], "longer": encode(record) + b"more"}.get(
        situation["sidecar"], encode(record)
    )
    if situation["sidecar"] != "none":
        Path(base + ".dogpile").write_bytes(data)
    return path, directory if situation["elsewhere"] else None


@given(situations())
@settings(max_examples=400, deadline=None)
def test_the_quick_check_and_a_datafile_agree_on_every_situation(
    situation: dict[str, Any],
) -> None:
    with tempfile.TemporaryDirectory() as home:
        path, directory = _set_up(home, situation, time.time())
        said, all_say = is_fresh(path, situation["expiretime"], directory), asked_of_all(
            path, situation["expiretime"], directory
        )  # fmt: skip
        assert said == all_say


def test_it_agrees_with_a_dogpile_that_looks(path: str) -> None:
    dogpile = Dogpile(60, path, resource="file")
    for step in (
        lambda: dogpile.refresh(Path(path).touch),
        dogpile.invalidate,
        lambda: dogpile.refresh(lambda: None),
        lambda: dogpile.invalidate(hard=True),
        lambda: os.utime(path, (1000, 1000)),
        lambda: dogpile.refresh(lambda: None),
        lambda: os.utime(path),
        lambda: os.unlink(path),
        lambda: Path(path).write_text("x"),
    ):
        step()
        assert is_fresh(path, 60) == (dogpile.status().state == "fresh"), step


# It is cheap.

HEAVY = {
    "logging",
    "typing",
    "dataclasses",
    "threading",
    "filelock",
    "portalocker",
    "tempfile",
    "subprocess",
    "ctypes",
}


@pytest.mark.parametrize("elsewhere", [False, True])
def test_it_imports_nothing_heavy(tmp_path: Path, elsewhere: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    directory = str(tmp_path / "elsewhere") if elsewhere else None
    path = str(tmp_path / "file")
    created(path, directory=directory)
    script = (
        "import sys, json; before = set(sys.modules); from dogpile_fs._sidecar.quick_check import is_fresh; "
        f"print(json.dumps([is_fresh({path!r}, 3600, {directory!r}), sorted(set(sys.modules) - before)]))"
    )
    root = str(Path(__file__).parents[3])
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {root!r}); {script}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said, modules = json.loads(run.stdout)
    assert said is True
    assert HEAVY & {module.split(".")[0] for module in modules} == set()
