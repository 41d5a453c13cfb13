"""``name`` and ``writes_to``: where a resource is, and what a creation writes, without a look into the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from dogpile_fs import DataDirectory, Datafile, Datafiles


@pytest.mark.parametrize("kind", [Datafile, DataDirectory])
def test_the_name_is_the_absolute_path_and_nothing_is_created(
    kind: type[Datafile] | type[DataDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kind("missing/report", 3600, lambda target: None).name == str(tmp_path / "missing" / "report")
    assert list(tmp_path.iterdir()) == []


def test_a_creation_writes_the_directory_of_the_file_and_that_of_the_coordination_files(tmp_path: Path) -> None:
    files, locks = tmp_path / "files", tmp_path / "locks"
    for directory in (files, locks):
        directory.mkdir()
    (tmp_path / "link").symlink_to(files / "report")
    for resource in (
        Datafile(files / "report", 3600, print, directory=locks),
        DataDirectory(files / "report", 3600, print, directory=locks),
    ):
        assert resource.writes_to == (str(files), str(locks))
    assert Datafile(files / "report", 3600, print).writes_to == (str(files),)
    # What the link points to is replaced, and the coordination files are beside the link.
    assert Datafile(tmp_path / "link", 3600, print).writes_to == (str(files), str(tmp_path))
    assert DataDirectory(tmp_path / "link", 3600, print).writes_to == (str(tmp_path),)
    assert Datafiles(files / "a-{key}.json", 3600, print).writes_to == (str(files),)


def test_an_object_without_a_creator_writes_nowhere(tmp_path: Path) -> None:
    for resource in (Datafile(tmp_path / "a"), DataDirectory(tmp_path / "b"), Datafiles(tmp_path / "{key}")):
        assert resource.writes_to == ()


@pytest.mark.parametrize("parents", [False, True])
def test_with_parents_a_missing_directory_stands_for_the_one_above_it(tmp_path: Path, parents: bool) -> None:
    missing = tmp_path / "one" / "two"
    expected = (str(tmp_path if parents else missing),)
    for resource in (
        Datafile(missing / "report", 3600, print, parents=parents),
        DataDirectory(missing / "report", 3600, print, parents=parents),
        Datafiles(missing / "{key}", 3600, print, parents=parents),
    ):
        assert resource.writes_to == expected
