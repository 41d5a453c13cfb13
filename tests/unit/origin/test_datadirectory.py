"""Directories of several hosts: only what has changed travels."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dogpile_fs import DataDirectory, DatafileError, Origin, Outcome
from dogpile_fs._dogpile.manifest import Entry, ManifestDamaged, decode_manifest, encode_manifest
from tests.support.processes import wait_for

HOUR = 3600


class Host:
    def __init__(self, root: Path, name: str, url: str, keep: int = 0) -> None:
        self.path = root / name / "index"
        self.path.parent.mkdir()
        self.make: Callable[[Path], object] = lambda target: (target / "a").write_text(name)
        origin = Origin(url, check=0.1)
        self.index = DataDirectory(self.path, HOUR, self.create, origin=origin, timeout=60, keep=keep)

    def create(self, target: str) -> None:
        os.mkdir(target)
        self.make(Path(target))

    def read(self) -> dict[str, str]:
        with self.index.open() as version:
            root = Path(version)
            return {str(each.relative_to(root)): each.read_text() for each in root.rglob("*") if each.is_file()}

    def inodes(self) -> dict[str, int]:
        with self.index.open() as version:
            return {str(each.relative_to(version)): each.stat().st_ino for each in Path(version).rglob("*")}


@pytest.fixture
def pair(tmp_path: Path, url: str) -> tuple[Host, Host]:
    return Host(tmp_path, "one", url, keep=1), Host(tmp_path, "other", url)


def test_a_directory_comes_to_other_hosts_as_it_was_made(pair: tuple[Host, Host]) -> None:
    one, other = pair

    def make(target: Path) -> None:
        (target / "empty").mkdir()
        (target / "deep" / "er").mkdir(parents=True)
        (target / "deep" / "er" / "program").write_text("#!/bin/sh\n")
        (target / "deep" / "er" / "program").chmod(0o755)
        (target / "secret").write_text("x")
        (target / "secret").chmod(0o600)
        (target / "link").symlink_to("deep/er/program")
        (target / os.fsdecode(b"name-\xff")).write_text("no text")
        (target / "deep").chmod(0o555)

    one.make = make
    assert one.read() == other.read()
    with other.index.open() as version:
        root = Path(version)
        assert (root / "empty").is_dir()
        assert os.readlink(root / "link") == "deep/er/program"
        assert stat.S_IMODE((root / "deep" / "er" / "program").stat().st_mode) == 0o755
        assert stat.S_IMODE((root / "secret").stat().st_mode) == 0o600
        assert stat.S_IMODE((root / "deep").stat().st_mode) == 0o555
        assert (root / os.fsdecode(b"name-\xff")).read_text() == "no text"


def test_only_what_has_changed_travels_and_the_rest_is_linked(
    pair: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair
    names = [f"file-{number}" for number in range(10)]

    def make(changed: str) -> Callable[[Path], object]:
        def made(target: Path) -> None:
            for name in names:
                (target / name).write_text(name + changed * (name == names[3]))

        return made

    one.make = make("")
    assert one.read() == other.read()
    before = other.inodes()
    one.make = make("!")
    puts: list[str] = []
    engine = one.index._dogpile._shared.host.scope.engine  # type: ignore[union-attr]
    put = engine.put

    def counted(name: str, path: str) -> None:
        puts.append(name)
        put(name, path)

    monkeypatch.setattr(engine, "put", counted)
    assert one.index.refresh(force=True) == Outcome.created
    assert len(puts) == 2  # the file, and the manifest
    wait_for(lambda: other.read()[names[3]] == names[3] + "!", "the new version")
    after = other.inodes()
    assert {name for name in names if before[name] != after[name]} == {names[3]}
    assert one.read() == other.read()


def test_a_file_that_was_changed_in_place_is_not_linked_if_that_shows(pair: tuple[Host, Host]) -> None:
    one, other = pair
    one.make = lambda target: [(target / name).write_text(name) for name in "ab"]
    assert one.read() == other.read()
    with other.index.open() as version:
        Path(version, "a").write_text("longer than before")
    one.make = lambda target: [(target / name).write_text(name) for name in "abc"]
    one.index.refresh(force=True)
    wait_for(lambda: "c" in other.read(), "the new version")
    assert other.read() == {"a": "a", "b": "b", "c": "c"}


def test_a_rollback_of_a_directory_reaches_all_hosts(pair: tuple[Host, Host]) -> None:
    one, other = pair
    one.read()
    one.make = lambda target: (target / "a").write_text("second")
    one.index.refresh(force=True)
    wait_for(lambda: other.read() == {"a": "second"}, "the second version")
    one.index.rollback()
    assert one.read() == {"a": "one"}
    wait_for(lambda: other.read() == {"a": "one"}, "the first version")


def test_what_cannot_travel_is_refused_before_anything_is_published(pair: tuple[Host, Host]) -> None:
    one, other = pair
    one.make = lambda target: os.mkfifo(target / "pipe")
    with pytest.raises(DatafileError, match="neither a file, a directory nor a symbolic link"):
        one.index.refresh()
    assert not one.path.exists()
    assert other.index.refresh() == Outcome.backing_off
    assert other.index.refresh(force=True) == Outcome.created


def test_blobs_that_a_remembered_directory_needs_are_not_collected(pair: tuple[Host, Host]) -> None:
    from dogpile_fs._dogpile.collection import collected
    from dogpile_fs._dogpile.head import decode_head

    one, other = pair
    for number in range(3):
        one.make = lambda target, number=number: (
            [  # type: ignore[misc]
                (target / str(each)).write_text(str(each)) for each in range(number, number + 3)
            ]
        )
        one.index.refresh(force=True)
    engine = one.index._dogpile._shared.host.scope.engine  # type: ignore[union-attr]
    found = engine.read()
    assert isinstance(found, tuple)
    assert collected(engine, decode_head(found[0]), -10) == 0
    assert len(list(engine.blobs())) == 3 + 5
    assert other.read() == {"2": "2", "3": "3", "4": "4"}


ENTRIES = [
    Entry("a", "directory", 0o755),
    Entry("a/b", "file", 0o644, "f" * 64, 3),
    Entry("l", "link", leads_to="a/b"),
]


def test_a_manifest_comes_back_as_it_was_and_is_the_same_in_any_order() -> None:
    assert decode_manifest(encode_manifest(ENTRIES)) == ENTRIES
    assert encode_manifest(ENTRIES[::-1]) == encode_manifest(ENTRIES)


@pytest.mark.parametrize(
    "told",
    [
        ["../x", "file", 0o644, "f" * 64, 1],
        ["/x", "file", 0o644, "f" * 64, 1],
        ["x/../y", "file", 0o644, "f" * 64, 1],
        ["l/x", "file", 0o644, "f" * 64, 1],
        ["missing/x", "file", 0o644, "f" * 64, 1],
        ["x", "file", 0o644, "../../../etc/passwd", 1],
        ["x", "file", -1, "f" * 64, 1],
        ["x", "file", 0o644, "f" * 64, -1],
        ["x", "device", 1],
        ["a\0b", "directory", 0o755],
        ["", "directory", 0o755],
        [".", "directory", 0o755],
        ["x", "link", ""],
        [1, "directory", 0o755],
        ["a", "directory", 0o755],
    ],
)
def test_a_manifest_that_leads_out_of_its_directory_or_is_damaged_is_refused(told: list[object]) -> None:
    value = json.loads(encode_manifest(ENTRIES))
    value["entries"].append(told)
    with pytest.raises(ManifestDamaged):
        decode_manifest(json.dumps(value).encode())


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"dogpile_fs_manifest": 2, "entries": []}', b"\xff", b"[" * 9999]
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestDamaged):
        decode_manifest(data)
