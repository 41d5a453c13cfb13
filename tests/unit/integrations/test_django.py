"""The cache of Django: as Django's own backend for files, and what that has not."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django")

from django.core.cache.backends.filebased import FileBasedCache

from dogpile_fs.integrations.django import DatafileCache
from tests.support.processes import PATIENCE, Processes, Record, wait_for


@pytest.fixture(autouse=True)
def _settings() -> None:
    from django.conf import settings

    if not settings.configured:
        settings.configure()


def cache_in(directory: Path | str, **options: Any) -> Any:
    return DatafileCache(str(directory), {"TIMEOUT": 300, "OPTIONS": options})


@pytest.mark.parametrize("kind", [DatafileCache, FileBasedCache])
def test_it_does_what_djangos_own_backend_does(kind: Any, tmp_path: Path) -> None:
    cache: Any = kind(str(tmp_path / "cache"), {"TIMEOUT": 300, "KEY_PREFIX": "mine"})
    assert cache.get("a") is None
    assert cache.get("a", 7) == 7
    assert not cache.has_key("a")
    assert "a" not in cache
    assert cache.add("a", {"rows": [1, None]})
    assert not cache.add("a", 2)
    assert cache.get("a") == {"rows": [1, None]}
    assert "a" in cache
    cache.set("none", None)
    assert cache.get("none", 7) is None
    cache.set("number", 5)
    assert cache.incr("number") == 6
    assert cache.decr("number", 10) == -4
    for method in (cache.incr, cache.decr, cache.incr_version):
        with pytest.raises(ValueError, match="not found"):
            method("b")
    assert cache.delete("number")
    assert not cache.delete("number")
    cache.set("v", 1, version=2)
    assert cache.get("v") is None
    assert cache.get("v", version=2) == 1
    assert cache.incr_version("v", version=2) == 3
    assert cache.get("v", version=3) == 1
    assert cache.set_many({"x": 1, "y": 2}) == []
    assert cache.get_many(["x", "y", "z"]) == {"x": 1, "y": 2}
    cache.delete_many(["x", "y"])
    assert cache.get_many(["x", "y"]) == {}
    cache.set("gone", 1, timeout=0)
    cache.set("gone_too", 1, timeout=-1)
    assert cache.get("gone") is cache.get("gone_too") is None
    cache.set("lasting", 1, timeout=None)
    assert cache.touch("lasting", 0)
    assert cache.get("lasting") is None
    assert not cache.touch("lasting")
    assert cache.get_or_set("made", lambda: 1) == cache.get_or_set("made", 2) == 1
    assert cache.get_or_set("plain", 3) == 3
    assert cache.get_or_set("nothing", lambda: None) is None
    cache.clear()
    assert cache.get("made") is None


def test_a_value_is_gone_when_its_time_is_over_and_incr_and_add_heed_that(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    cache.set("a", 1, timeout=0.2)
    until = time.time() + 0.2
    cache.incr("a")
    wait_for(lambda: cache.get("a") is None, "its end")
    assert time.time() >= until - 0.05
    assert cache.add("a", 3)


def test_names_are_no_part_of_paths_and_files_are_private(tmp_path: Path) -> None:
    cache = cache_in(tmp_path / "cache")
    for key in ("../escaped", "/etc/passwd", "x" * 200, "caf\u00e9"):
        cache.set(key, key)
        assert cache.get(key) == key
    assert os.listdir(tmp_path) == ["cache"]
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o077 for each in (tmp_path / "cache").iterdir()} == {0}


@pytest.mark.parametrize(("frequency", "left"), [(2, 6), (0, 1)])
def test_it_is_culled_at_its_limit(tmp_path: Path, frequency: int, left: int) -> None:
    cache = cache_in(tmp_path, MAX_ENTRIES=10, CULL_FREQUENCY=frequency)
    for number in range(11):
        cache.set(f"key{number}", number)
    assert len(cache.get_many([f"key{number}" for number in range(11)])) == left
    assert cache.get("key10") == 10


def test_a_large_cache_is_not_listed_at_each_set_and_is_culled_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_in(tmp_path, MAX_ENTRIES=500, CULL_FREQUENCY=2)
    listed, list_directory = [], os.listdir

    def counted(path: Any) -> list[str]:
        listed.append(path)
        return list_directory(path)

    monkeypatch.setattr(os, "listdir", counted)
    for number in range(1000):
        cache.set(f"key{number}", number)
    # A count is drawn with the probability of one fifth. Bounds that chance misses once in 10**11 runs:
    assert 110 < len(listed) < 310
    assert len(list(tmp_path.glob("*.value"))) < 500 + 125


def test_of_a_value_that_cannot_be_pickled_the_old_one_stays(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    cache.set("a", 1)
    with pytest.raises(Exception, match="pickle"):
        cache.set("a", lambda: None)
    assert cache.get("a") == 1


def test_a_file_that_a_crash_of_the_machine_has_harmed_is_no_value(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    for key in "ab":
        cache.set(key, [1, 2, 3], timeout=None)
    for file in tmp_path.glob("*.value"):
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert cache.get("a") is None
    assert not cache.has_key("a")
    assert not cache.delete("b")
    made: list[int] = []
    for _ in range(2):
        assert cache.get_or_set("a", lambda: made.append(1) or 7) == 7  # type: ignore[func-returns-value]
    assert made == [1]


def test_what_killed_writers_have_left_goes_with_the_next_clearing_and_culling(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, MAX_ENTRIES=1)
    for remove in (cache.clear, lambda: cache.set("b", 1)):
        cache.set("a", 1)
        [value] = tmp_path.glob("*.value")
        left = value.with_name(f"{value.name}.{'a' * 16}.new")
        left.touch()
        os.utime(left, (1, 1))
        remove()
        assert not left.exists()


def _get_or_set(directory: Path, record: Record) -> None:
    def create() -> int:
        record.write("created")
        return os.getpid()

    record.write("got", value=cache_in(directory).get_or_set("a", create))


def test_get_or_set_calls_its_function_once_in_all_processes(
    tmp_path: Path, record: Record, processes: Processes
) -> None:
    processes.start_many(8, _get_or_set, tmp_path / "cache", record)
    processes.join()
    assert len(record.events("created")) == 1
    assert len(record.events("got")) == 8


def _get_or_set_beside_others(directory: Path, number: int, record: Record, together: int) -> None:
    def create() -> int:
        record.write("create")
        record.wait("create", together)
        return number

    assert cache_in(directory).get_or_set(f"key{number}", create) == number


def test_functions_of_different_keys_run_at_the_same_time_in_processes(
    tmp_path: Path, record: Record, processes: Processes
) -> None:
    for number in range(20):
        processes.start(_get_or_set_beside_others, tmp_path / "cache", number, record, 20)
    processes.join()
    assert len(record.events("create")) == 20


def test_functions_of_different_keys_run_at_the_same_time_in_threads(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)
    inside = threading.Barrier(20, timeout=PATIENCE)

    def create(number: int) -> int:
        inside.wait()
        return number

    with ThreadPoolExecutor(20) as pool:
        made = pool.map(lambda n: cache.get_or_set(f"key{n}", lambda: create(n)), range(20))
    assert list(made) == list(range(20))


def test_after_an_error_the_next_caller_creates(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)

    def refuse() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.get_or_set("a", refuse)
    assert cache.get_or_set("a", lambda: 1) == 1


def _count(directory: Path, record: Record, number: int) -> None:
    cache = cache_in(directory)
    for _ in range(50):
        cache.incr("visits")
    if cache.add("first", number):
        record.write("first")


def test_incr_and_add_are_atomic_between_processes(tmp_path: Path, record: Record, processes: Processes) -> None:
    cache = cache_in(tmp_path / "cache")
    cache.set("visits", 0)
    for number in range(4):
        processes.start(_count, tmp_path / "cache", record, number)
    processes.join()
    assert cache.get("visits") == 200
    assert len(record.events("first")) == 1


def test_the_methods_for_tasks_are_the_same(tmp_path: Path) -> None:
    cache = cache_in(tmp_path)

    async def main() -> list[Any]:
        await cache.aset("n", 1)
        made = await asyncio.gather(*(cache.aget_or_set("a", time.monotonic) for _ in range(5)))
        await asyncio.gather(*(cache.aincr("n") for _ in range(5)))
        return [len(set(made)), await cache.aget("n")]

    assert asyncio.run(main()) == [1, 6]
