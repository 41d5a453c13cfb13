"""cached_file: what a function returns, in a file for each call's arguments."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogpile_fs import CreationFailed, Outcome, cached_file
from tests.support.processes import PATIENCE, Processes, Record, ended_well, in_child

Counted = Callable[..., Any]

#: Of the functions below.
calls: list[Any] = []


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


def double(x: Any, *rest: Any, y: Any = None, **more: Any) -> Any:
    """Return the arguments."""
    calls.append((x, rest, y, more))
    return [repr(x), repr(rest), repr(y), len(calls)]


def test_calls_with_the_same_arguments_call_the_function_once(tmp_path: Path) -> None:
    f = cached_file(tmp_path / "made" / "here", 3600)(double)
    first = f(1)
    assert first == ["1", "()", "None", 1]
    for again in (f(1), f(x=1), f(1, y=None)):
        assert again is first, "one object for all callers of this process"
    assert cached_file(tmp_path / "made" / "here", 3600)(double)(x=1) == first, "and the file for others"
    assert f(1, 2) != first
    assert f(1, z=2) != first
    assert len(calls) == 3
    (name,) = {each.parent.parent for each in (tmp_path / "made" / "here").rglob("*.json")}
    assert name == tmp_path / "made" / "here"


def test_it_is_the_function_in_all_other_respects(tmp_path: Path) -> None:
    f = cached_file(tmp_path, 3600)(double)
    assert f.__wrapped__ is double
    assert (f.__name__, f.__doc__, f.__module__) == ("double", "Return the arguments.", __name__)
    assert repr(f) == f"<cached_file of {__name__}.double>"
    with pytest.raises(TypeError, match=r"double\(\) missing a required argument: 'x'"):
        f()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ("1", 1),
        ("1", b"1"),
        ((1,), [1]),
        ((1, 2), ((1, 2),)),
        ([], {}),
        (set(), frozenset()),
        ({"a": 1}, [("a", 1)]),
        ({1: "a"}, {"1": "a"}),
        ("a, y=2", "a"),
        (None, "None"),
        (date(2024, 1, 1), datetime(2024, 1, 1)),
        (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1)),
        (
            datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")),
            datetime(2024, 1, 1, tzinfo=ZoneInfo("Europe/Paris")),
        ),
        (Decimal("1.0"), Decimal("1.00")),
        (Path("a"), "a"),
        (PurePosixPath("a"), Path("a")),
        ("\ud800", "\ud801"),
    ],
)
def test_arguments_that_differ_have_different_results(tmp_path: Path, one: Any, other: Any) -> None:
    f = cached_file(tmp_path, 3600)(double)
    assert f(one) is f(one)
    assert f(one) != f(other)
    assert len(calls) == 2


class Colour(Enum):
    RED = 1
    BLUE = 2


class Style(Flag):
    BOLD = 1
    WIDE = 2


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED,
        {"b": 1, "a": [Colour.BLUE, {1, 2}]},
        timedelta(1),
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        Fraction(1, 3),
        uuid.UUID(int=5),
        range(3),
        ...,
        1j,
        float("nan"),
        "x" * 10_000,
    ],
)
def test_arguments_of_many_types_are_known_again_in_another_process(tmp_path: Path, value: Any) -> None:
    f = cached_file(tmp_path, 3600)(double)
    f(value)

    def again() -> None:
        f(value)
        assert len(calls) == 1

    assert ended_well(in_child(again))


def test_dicts_and_sets_are_equal_in_any_order(tmp_path: Path) -> None:
    f = cached_file(tmp_path, 3600)(double)
    assert f({"a": 1, "b": 2}) is f({"b": 2, "a": 1})
    assert f({"x", "yy", "z"}) is f({"z", "yy", "x"})
    assert f(1, a=1, b=2) is f(1, b=2, a=1)


class Thing:
    pass


class OddText(str):
    pass


@pytest.mark.parametrize(
    "value", [Thing(), object(), [Thing()], {Thing(): 1}, OddText("a"), print, threading.Lock(), datetime]
)
def test_arguments_that_cannot_be_told_apart_are_a_type_error_that_names_the_function(
    tmp_path: Path, value: Any
) -> None:
    f = cached_file(tmp_path, 3600)(double)
    with pytest.raises(TypeError, match=re.escape(f"{__name__}.double() cannot be cached for x=")):
        f(value)
    assert calls == []


def test_arguments_that_contain_themselves_are_a_type_error(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TypeError, match=r"double\(\) cannot be cached for x: it is nested too deeply"):
        cached_file(tmp_path, 3600)(double)(endless)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(_VALUES, _VALUES)
def test_two_texts_of_arguments_are_equal_if_and_only_if_their_values_are(one: Any, other: Any) -> None:
    from inspect import signature

    from dogpile_fs._datafile.argument_key import argument_key

    texts = [argument_key("f", signature(double), (value,), {}) for value in (one, other)]
    # repr is the same for these types, but for the order of a dict.
    if repr(one) == repr(other):
        assert texts[0] == texts[1]
    if texts[0] == texts[1]:
        assert one == other or repr(one) == repr(other)


def test_a_caller_may_change_what_it_gave(tmp_path: Path) -> None:
    f = cached_file(tmp_path, 0)(double)
    mine = [1]
    assert f(mine)[0] == "[1]"
    mine.append(2)
    assert f([1])[0] == "[1]"
    assert f(mine)[0] == "[1, 2]"


def change(x: list[int]) -> int:
    x.append(1)
    return len(x)


def test_the_function_may_change_what_it_gets(tmp_path: Path) -> None:
    f = cached_file(tmp_path, 0)(change)
    assert [f([]), f([]), f.refresh([])] == [1, 1, 1]


def test_refresh_calls_the_function_in_any_case_and_invalidate_at_the_next_call(tmp_path: Path) -> None:
    f = cached_file(tmp_path, 3600)(double)
    assert f(1)[-1] == 1
    assert f.refresh(x=1)[-1] == 2
    assert f(1)[-1] == 2
    f.invalidate(1)
    assert f(1)[-1] == 3
    assert f(1)[-1] == 3


def fail(x: int) -> int:
    raise ZeroDivisionError(x)


def test_an_error_of_the_function_reaches_its_caller(tmp_path: Path) -> None:
    f = cached_file(tmp_path, 3600)(fail)
    with pytest.raises(ZeroDivisionError):
        f(1)
    with pytest.raises(CreationFailed, match="ZeroDivisionError"):
        f(1)
    with pytest.raises(ZeroDivisionError):
        f.refresh(1)
    without = cached_file(tmp_path, 3600, backoff=None)(fail)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            without(2)


@pytest.mark.parametrize("result", [object(), {1, 2}, b"bytes", 1j])
def test_a_result_that_cannot_be_written_is_a_type_error_that_names_the_function(
    tmp_path: Path, result: Any
) -> None:
    def give(x: int) -> Any:
        return result if x else None

    give.__qualname__ = "give"
    f = cached_file(tmp_path, 3600)(give)
    with pytest.raises(TypeError, match=re.escape(f"{__name__}.give() returned what json cannot write")):
        f(1)
    assert not list(tmp_path.rglob("*.json"))
    assert f(0) is None


def give_text(x: int) -> Any:
    return {"text": "äöü\r\n\ud800", "pair": (1, 2)}


def test_a_result_is_what_the_format_makes_of_it(tmp_path: Path) -> None:
    f = cached_file(tmp_path, 3600)(give_text)
    assert f(1) == {"text": "äöü\r\n\ud800", "pair": [1, 2]}


class Lines:
    """A format of text."""

    def dump(self, value: list[str], file: Any) -> None:
        file.writelines(each + "\r\n" for each in value)

    def load(self, file: Any) -> list[str]:
        return [line.removesuffix("\r\n") for line in file]


def lines(x: int) -> list[str]:
    return ["ä", "b"]


def pair(x: int) -> tuple[int, set[int]]:
    return (x, {x})


def local(x: int) -> Any:
    return lambda: x


def test_another_format_may_be_given(tmp_path: Path) -> None:
    assert cached_file(tmp_path, 3600, format=Lines())(lines)(1) == ["ä", "b"]
    assert (
        Path(cached_file(tmp_path, format=Lines())(lines)._file((1,), {}).path()).read_bytes()
        == "ä\r\nb\r\n".encode()
    )
    f = cached_file(tmp_path, 3600, format=pickle, binary=True)(pair)
    assert f(1) == (1, {1})
    assert list(tmp_path.rglob("*.pickle"))
    with pytest.raises(TypeError, match=r"local\(\) returned what pickle cannot write"):
        cached_file(tmp_path, 3600, format=pickle, binary=True)(local)(1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"format": "pickle"}, ValueError),
        ({"format": None}, TypeError),
        ({"format": os}, TypeError),
        ({"binary": True}, ValueError),
        ({"format": json, "binary": True}, ValueError),
        ({"readers": True}, ValueError),
        ({"expires": 5}, TypeError),
        ({"expiretime": -1}, ValueError),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        cached_file(tmp_path, **options)(double)


async def generator(x: int) -> AsyncIterator[int]:
    await asyncio.sleep(0)
    yield x


def test_functions_that_cannot_be_told_from_others_are_refused(tmp_path: Path) -> None:
    def inner(x: int) -> Any:
        return tmp_path

    def plain(x: int) -> int:
        return x

    decorate: Any = cached_file(tmp_path, 3600)
    for function, says in (
        (generator, "is a generator"),
        (lambda x: x, "other lambdas"),
        (inner, "variables of that"),
        (5, "has no name"),
    ):
        with pytest.raises(TypeError, match=says):
            decorate(function)
    assert decorate(plain)(1) == 1


class Named:
    @staticmethod
    def of(x: int) -> str:
        return "Named"


def of(x: int) -> str:
    return "module"


def test_functions_with_one_directory_do_not_share_results(tmp_path: Path) -> None:
    decorate: Any = cached_file(tmp_path, 3600)
    assert [decorate(of)(1), decorate(Named.of)(1)] == ["module", "Named"]
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(
            f"from dogpile_fs import cached_file\n\n@cached_file({str(tmp_path)!r}, 3600)\ndef f(x):\n"
            f"    return {name!r}\n\nprint(f(1))\n"
        )
    programs = [
        subprocess.run([sys.executable, f"{tmp_path}/{name}.py"], capture_output=True, text=True, timeout=PATIENCE)
        for name in ("one", "two")
    ]
    assert [each.stdout for each in programs] == ["one\n", "two\n"], programs


class Model:
    def __init__(self) -> None:
        self.rate = 2


def test_a_method_is_refused_for_its_object(tmp_path: Path) -> None:
    Model.of = cached_file(tmp_path, 3600)(double)  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="cannot be cached for x="):
        Model().of(1)  # type: ignore[attr-defined]


def test_its_files_can_be_pruned_and_know_no_arguments_themselves(tmp_path: Path) -> None:
    f = cached_file(tmp_path, 3600)(double)
    f(1)
    assert f.files.prune(older_than=0) == 1
    assert f(1)[-1] == 2
    with pytest.raises(TypeError, match="Hint: call it"):
        f.files["a"].refresh()


def test_a_decorated_function_is_pickled_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f = cached_file(tmp_path, 3600)(double)
    monkeypatch.setattr(sys.modules[__name__], "double", f)
    assert pickle.loads(pickle.dumps(f)) is f
    f(1)
    assert pickle.loads(pickle.dumps(f._file((1,), {}))).refresh() == Outcome.fresh


def slow(x: int) -> int:
    _record.write("called")
    return x


_record: Record


def test_many_processes_call_the_function_once(tmp_path: Path, record: Record, processes: Processes) -> None:
    global _record
    _record = record
    f = cached_file(tmp_path / "cache", 3600)(slow)
    processes.start_many(10, f, 1)
    processes.join()
    assert len(record.events("called")) == 1


def test_threads_share_what_one_has_loaded(tmp_path: Path) -> None:
    f = cached_file(tmp_path, 3600, durable=False)(double)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(f(1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert all(each is results[0] for each in results)
