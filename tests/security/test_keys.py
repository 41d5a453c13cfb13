"""Keys in a directory where other users may make files: what a neighbour has planted is not used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dogpile_fs import Datafiles
from tests.support.places import files_in

from .neighbours import NEIGHBOUR, OTHER, ROOT, Outside, acting_as, as_user, outcome


def write(key: str, target: str) -> None:
    Path(target).write_text("ours")


def create(directory: Path) -> bool:
    return bool(Datafiles(directory / "{key}.txt", 3600, write, backoff=None)["a"].refresh(force=True))


def shard(directory: Path) -> str:
    return os.path.dirname(Datafiles(directory / "{key}.txt", 3600, write)["a"]._path)


@pytest.mark.parametrize("uid", [ROOT, OTHER])
def test_a_planted_coordination_directory_is_refused(sticky: Path, uid: int) -> None:
    with acting_as(NEIGHBOUR):
        (sticky / ".dogpile").mkdir(mode=0o777)
    assert "may have been planted" in outcome(uid, lambda: create(sticky))
    assert files_in(sticky) == []


@pytest.mark.parametrize("uid", [ROOT, OTHER])
def test_so_it_is_with_the_pattern_in_it(sticky: Path, uid: int) -> None:
    with acting_as(NEIGHBOUR):
        create(sticky)
    assert "may have been planted" in outcome(uid, lambda: create(sticky))


@pytest.mark.parametrize("uid", [ROOT, OTHER])
def test_a_planted_shard_is_refused(sticky: Path, uid: int) -> None:
    with acting_as(NEIGHBOUR):
        os.mkdir(shard(sticky), mode=0o777)
    assert "may have been planted" in outcome(uid, lambda: create(sticky))


@pytest.mark.parametrize("uid", [ROOT, OTHER])
@pytest.mark.parametrize("name", [".dogpile", "shard"])
def test_a_planted_link_leads_nowhere(sticky: Path, uid: int, name: str, outside: Outside) -> None:
    with acting_as(NEIGHBOUR):
        os.symlink(outside.within, sticky / ".dogpile" if name == ".dogpile" else shard(sticky))
    assert "is no directory" in outcome(uid, lambda: create(sticky))


def test_users_that_may_all_write_share_the_keys(place: Path) -> None:
    directory = place / "shared"
    directory.mkdir()
    directory.chmod(0o2777)

    def files() -> Datafiles:
        return Datafiles(directory / "{key}.txt", 3600, write, mode=0o666)

    for uid in (NEIGHBOUR, OTHER, ROOT):
        assert outcome(uid, lambda: str(files()["a"].refresh(force=True))) == "'created'"
    with acting_as(OTHER):
        assert files()["a"].status().generation == 3
        assert files().prune(older_than=0) == 1


def test_a_prune_by_another_user_leaves_what_the_creators_user_has_kept(place: Path) -> None:
    directory = place / "shared"
    directory.mkdir()
    directory.chmod(0o777)
    files = Datafiles(directory / "{key}.txt", 3600, write, keep=1)

    def create_twice() -> None:
        files["a"].refresh(force=True)
        files["a"].refresh(force=True)

    as_user(NEIGHBOUR, create_twice)
    assert files.prune(older_than=0) == 1
    assert files["a"].status().state == "missing"
    (kept,) = (name for name in files_in(shard(directory)))
    assert kept.startswith(".dogpile-kept-")
    as_user(NEIGHBOUR, lambda: files.prune(older_than=0))
    assert not os.path.exists(shard(directory))
