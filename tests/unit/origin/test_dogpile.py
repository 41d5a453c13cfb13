"""A Dogpile of several hosts: the record travels, and the resource is where all of them reach it."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import Dogpile, NeedRegenerationException, Origin, Outcome, SyncReaderDogpile
from tests.support.processes import wait_for

HOUR = 3600
BOTH = pytest.mark.parametrize("kind", [Dogpile, SyncReaderDogpile])


def pair(kind: type[Dogpile], tmp_path: Path, url: str, expiretime: float = HOUR, **options: Any) -> list[Dogpile]:
    made = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        origin = Origin(url, check=0.1)
        made.append(kind(expiretime, tmp_path / name / "rows", origin=origin, timeout=60, **options))
    return made


def never() -> None:
    raise AssertionError("another host has created it")


@BOTH
def test_one_host_creates_and_the_others_pass(kind: type[Dogpile], tmp_path: Path, url: str) -> None:
    one, other = pair(kind, tmp_path, url)
    with one.acquire(lambda: "made") as made:
        assert made == "made"
    with other.acquire(never) as nothing:
        assert nothing is None
    with other.acquire(never, lambda: "found") as found:
        assert found == "found"
    assert one.status().generation == other.status().generation == 1
    assert other.refresh(never) == Outcome.fresh
    assert other.refresh(lambda: None, force=True) == Outcome.created
    wait_for(lambda: _passed(one) and one.status().generation == 2, "the second creation")


def _passed(dogpile: Dogpile) -> bool:
    with dogpile.acquire():
        return True


def test_a_caller_that_was_elected_too_late_has_the_value_of_its_value_function(tmp_path: Path, url: str) -> None:
    one, other = pair(Dogpile, tmp_path, url)
    values: list[str] = []

    def value_fn() -> str:
        if not values:
            raise NeedRegenerationException
        return values[-1]

    def create() -> str:
        values.append("made")
        return values[-1]

    for dogpile, creator in ((one, create), (other, never)):
        with dogpile.acquire(creator, value_fn) as value:
            assert value == "made"


def test_of_the_threads_of_two_hosts_one_creates(tmp_path: Path, url: str) -> None:
    created: list[int] = []
    start = threading.Barrier(8)

    def use(dogpile: Dogpile) -> None:
        start.wait(60)
        with dogpile.acquire(lambda: created.append(1)):
            assert created

    threads = [threading.Thread(target=use, args=(each,)) for each in pair(Dogpile, tmp_path, url) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 1


def test_an_error_of_the_creator_is_the_callers_and_the_next_one_creates(tmp_path: Path, url: str) -> None:
    one, other = pair(Dogpile, tmp_path, url)

    def fail() -> None:
        raise StopIteration("its own")

    with pytest.raises(StopIteration, match="its own"):
        one.refresh(fail)
    assert other.refresh(lambda: None) == Outcome.created
    assert one.refresh(never) == Outcome.fresh


def test_an_invalidation_reaches_the_other_host(tmp_path: Path, url: str) -> None:
    one, other = pair(Dogpile, tmp_path, url)
    one.refresh(lambda: None)
    other.refresh(never)
    one.invalidate(hard=True)
    created: list[int] = []

    def passed() -> bool:
        with other.acquire(lambda: created.append(1)):
            return bool(created)

    wait_for(passed, "the invalidation")


def test_a_createdtime_that_is_set_counts_for_all_hosts(tmp_path: Path, url: str) -> None:
    one, other = pair(Dogpile, tmp_path, url)
    began = time.time()
    one.createdtime = began - 60  # of an origin without a version
    assert other.refresh(never) == Outcome.fresh
    for dogpile in (one, other):
        assert dogpile.createdtime == pytest.approx(began - 60, abs=5)
    other.createdtime = began - 2 * HOUR
    assert other.status().state == "stale"
    wait_for(lambda: one.refresh(lambda: None), "the question of the first host")
    wait_for(lambda: other.status().generation == 3 or other.refresh(never), "that of the other host")


def test_it_can_be_pickled(tmp_path: Path) -> None:
    dogpile = Dogpile(HOUR, tmp_path / "rows", origin=tmp_path / "origin")
    copy = pickle.loads(pickle.dumps(dogpile))
    dogpile.refresh(lambda: None)
    assert copy.status().origin == str(tmp_path / "origin")
    assert copy.refresh(never) == Outcome.fresh


def test_options_that_do_not_go_with_an_origin_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="goes with a path"):
        Dogpile(HOUR, origin=tmp_path)
    for options in ({"resource": "file"}, {"init": True}, {"directory": tmp_path}, {"lock": threading.Lock()}):
        with pytest.raises(ValueError, match="do not go together"):
            Dogpile(HOUR, tmp_path / "rows", origin=tmp_path / "origin", **options)
