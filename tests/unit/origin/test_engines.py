"""What every engine promises, by one and the same tests on real servers."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from dogpile_fs.origin import UNCHANGED, Engine, Gone, Lost, Origin


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = Origin(url)._engine()
    yield engine
    engine.close()


def other(url: str) -> Engine:
    return Origin(url)._engine()


def test_an_origin_is_empty_before_the_first_write(engine: Engine) -> None:
    assert engine.read() is None
    assert list(engine.blobs()) == []


def test_what_is_written_is_read_by_all_with_its_tag(engine: Engine, url: str) -> None:
    tag = engine.swap(b"one", None)
    assert engine.read() == other(url).read() == (b"one", tag)
    later = other(url).swap(b"two", tag)
    assert later != tag
    assert engine.read() == (b"two", later)


def test_a_conditional_read_says_whether_there_is_anything_new(engine: Engine) -> None:
    tag = engine.swap(b"one", None)
    assert engine.read(tag) == UNCHANGED
    later = engine.swap(b"two", tag)
    assert engine.read(tag) == (b"two", later)


def test_only_the_first_write_succeeds_without_a_tag(engine: Engine) -> None:
    tag = engine.swap(b"one", None)
    with pytest.raises(Lost):
        engine.swap(b"two", None)
    assert engine.read() == (b"one", tag)


def test_a_write_with_another_tag_changes_nothing(engine: Engine) -> None:
    first = engine.swap(b"one", None)
    second = engine.swap(b"two", first)
    with pytest.raises(Lost):
        engine.swap(b"three", first)
    assert engine.read() == (b"two", second)


def test_no_tag_comes_again_with_the_same_value(engine: Engine) -> None:
    tags = [engine.swap(b"0", None)]
    for number in range(30):
        tags.append(engine.swap(str(number + 1).encode(), tags[-1]))
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("is_first", [True, False])
def test_of_many_that_write_at_the_same_time_one_succeeds(engine: Engine, url: str, is_first: bool) -> None:
    tag = None if is_first else engine.swap(b"before", None)
    start, won, lost = threading.Barrier(8), list[int](), list[int]()

    def write(number: int) -> None:
        own = other(url)
        start.wait(60)
        try:
            own.swap(str(number).encode(), tag)
        except Lost:
            lost.append(number)
        else:
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    found = engine.read()
    assert found is not None
    assert found != UNCHANGED
    assert found[0] == str(won[0]).encode()


def test_the_clock_is_that_of_the_engine(engine: Engine) -> None:
    assert abs(engine.now() - time.time()) < 30
    assert list(engine.blobs()) == []


@pytest.mark.parametrize("size", [0, 1, 5 * 1024 * 1024, 20 * 1024 * 1024 + 7])
def test_a_blob_comes_back_as_it_was(engine: Engine, url: str, tmp_path: Path, size: int) -> None:
    contents = os.urandom(min(size, 1024 * 1024)) * (size // (1024 * 1024) + 1)
    (tmp_path / "blob").write_bytes(contents[:size])
    name = sha256(contents[:size]).hexdigest()
    engine.put(name, str(tmp_path / "blob"))
    engine.put(name, str(tmp_path / "blob"))
    got = io.BytesIO()
    other(url).get(name, got, size)
    assert got.getvalue() == contents[:size]


def test_no_more_is_fetched_than_was_asked_for_and_one_byte(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"x" * 1000)
    engine.put("f" * 64, str(tmp_path / "blob"))
    got = io.BytesIO()
    engine.get("f" * 64, got, 10)
    assert got.getvalue() == b"x" * 11


def test_blobs_are_listed_with_their_age_and_removed(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"contents")
    for letter in "abc":
        engine.put(letter * 64, str(tmp_path / "blob"))
    ages = dict(engine.blobs())
    assert sorted(ages) == ["a" * 64, "b" * 64, "c" * 64]
    assert all(-2 < age < 60 for age in ages.values())
    engine.remove("b" * 64)
    engine.remove("b" * 64)
    assert sorted(dict(engine.blobs())) == ["a" * 64, "c" * 64]
    with pytest.raises(Gone):
        engine.get("b" * 64, io.BytesIO(), 8)


def test_a_file_that_cannot_be_read_is_no_fault_of_the_engine(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        engine.put("f" * 64, str(tmp_path / "nothing"))
