"""Numbers that were measured, on the pages: each is in the committed results of the benchmarks."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@cache
def scenario(number: int) -> dict[str, Any]:
    results = json.loads((ROOT / "benchmarks" / "results" / "benchmarks.json").read_text())
    (found,) = (each for each in results["scenarios"] if each["number"] == number)
    return dict(found)


def bar(number: int, text: str) -> float:
    """Return the measured median of the bar that begins with *text*."""
    (found,) = (each for each in scenario(number)["bars"] if each["text"].startswith(text))
    return float(found["measured"]["median"])


def figure(number: int, contender: str, what: str, at: int | None = None) -> float:
    (found,) = (
        each
        for each in scenario(number)["figures"]
        if (each["contender"], each["what"], each["at"]) == (contender, what, at)
    )
    return float(found["spread"]["median"])


def written(value: float) -> str:
    """Return *value* with two digits that count."""
    return f"{float(f'{value:.1e}'):g}"


def in_ms(seconds: float) -> str:
    return f"{written(seconds * 1000)} ms"


def test_numbers_are_written_with_two_digits_that_count() -> None:
    assert [written(each) for each in (0.969, 3.434, 13.78, 164.5, 2.0)] == ["0.97", "3.4", "14", "160", "2"]


def test_the_readme_has_the_results() -> None:
    text = " ".join((ROOT / "README.rst").read_text().split())
    swap = "1 MB, durable: Datafile against bare write, fsync, rename, fsync of the directory"
    last = "to the last return"
    for sentence in (
        f"A pass, fresh or stale: {written(bar(1, 'Dogpile against dogpile.Lock'))} times dogpile.cache's",
        f"one creation, and all are through {in_ms(figure(5, 'Dogpile', last, 50))} after its end",
        f"with ``Lock`` over filelock it takes {in_ms(figure(5, 'dogpile.Lock over filelock', last, 50))}",
        f"a durable swap of 1 MB: {written(bar(9, swap))} times the bare write, fsyncs and rename",
    ):
        assert sentence in text


@pytest.mark.parametrize(
    ("page", "sentence", "least", "measured", "most"),
    [
        (
            "background.rst",
            "goes on with the old version after some milliseconds",
            0.001,
            lambda: figure(14, "Datafile, in a process", "handing over"),
            0.01,
        ),
        (
            "many_keys.rst",
            "one to two hundred times as much",
            100,
            lambda: (
                figure(15, "Datafiles", "a key's first hit in a process", 100_000)
                / figure(15, "Datafiles", "a hit of one key", 100_000)
            ),
            200,
        ),
        (
            "many_keys.rst",
            "about 0.3 ms",
            0.00025,
            lambda: figure(15, "Datafiles", "a key's first hit in a process", 100_000),
            0.00035,
        ),
        (
            "cli.rst",
            "at most three times the processor time of a bare interpreter's start",
            1,
            lambda: (
                figure(11, "dogpile-fs run, fresh", "processor time")
                / figure(11, "bare interpreter", "processor time")
            ),
            3,
        ),
    ],
)
def test_what_a_guide_says_of_a_cost_is_what_was_measured(
    page: str, sentence: str, least: float, measured: Any, most: float
) -> None:
    text = " ".join((ROOT / "docs" / page).read_text().split())
    assert sentence in text
    assert least <= measured() <= most


def test_the_power_cuts_of_the_guide_are_those_of_the_campaign() -> None:
    results = json.loads((ROOT / "tests" / "campaign" / "results" / "power.json").read_text())
    text = (ROOT / "docs" / "datafile.rst").read_text()
    for name, result in results.items():
        if not isinstance(result, dict):
            continue
        system, durable = name.split(", durable=")
        outcomes = result["outcomes"]["report.bin"]
        kinds = ("last", "newer", "none yet", "older", "empty", "zeros")
        row = [system, f"``{durable}``", *(str(outcomes.get(kind, 0)) for kind in kinds)]
        assert row in [line.split() for line in text.splitlines()]
        assert result["cuts"] == sum(outcomes.values()) == 200
    torn = [results[f"{system}, durable=False"]["outcomes"]["index"]["torn"] for system in ("ext4", "xfs")]
    assert "was not after {} of the 200 on ext4, and after {} on xfs".format(*torn) in " ".join(text.split())
    assert results["violations"] == []
