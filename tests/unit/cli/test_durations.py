from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogpile_fs.cli.durations import UNITS, format_seconds, parse, parse_or_never


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("1d", 86400),
        ("2w1d", 15 * 86400),
        ("1d1s", 86401),
        ("0.5s", 0.5),
        ("0.5", 0.5),
        (".5h", 1800),
        ("1m1.5s", 61.5),
        ("007s", 7),
    ],
)
def test_durations_that_people_write_are_parsed(text: str, seconds: float) -> None:
    assert parse(text) == parse_or_never(text) == seconds


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a number is missing"),
        ("s", "a number is missing"),
        (".", "a number is missing"),
        (".s", "a number is missing"),
        ("1hm", "a number is missing"),
        ("1h30", "its last number has no unit"),
        ("30m1h", "larger units stand first"),
        ("1h1h", "larger units stand first"),
        ("1.5h30m", "a fraction last"),
        ("1.2.3", "'.' is not a unit"),
        ("-1", "'-' is not a unit"),
        ("+1", "'+' is not a unit"),
        ("1 h", "' ' is not a unit"),
        ("1H", "'H' is not a unit"),
        ("5min", "'i' is not a unit"),
        ("1e3", "'e' is not a unit"),
        ("inf", "'i' is not a unit"),
        ("never", "'n' is not a unit"),
        ("²", "'²' is not a unit"),
        ("\u0661", "'\u0661' is not a unit"),
        ("9" * 400, "too long"),
        ("9" * 400 + "d", "too long"),
    ],
)
def test_other_text_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match="is not a duration") as raised:
        parse(text)
    assert reason in str(raised.value)


def test_never_is_no_number_of_seconds() -> None:
    assert parse_or_never("never") is None


@given(st.dictionaries(st.sampled_from(list(UNITS)), st.integers(0, 10**6), min_size=1))
def test_the_parts_add_up(parts: dict[str, int]) -> None:
    text = "".join(f"{parts[unit]}{unit}" for unit in UNITS if unit in parts)
    assert parse(text) == sum(number * UNITS[unit] for unit, number in parts.items())


@given(st.text(alphabet="0123456789.wdhms -+en", max_size=8))
def test_any_text_is_parsed_or_refused_with_value_error(text: str) -> None:
    try:
        seconds = parse(text)
    except ValueError as error:
        if "is not a duration" not in str(error):
            raise
    else:
        assert seconds >= 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-1, "0s"),
        (0.0000001, "0.001s"),
        (0.0314, "0.0314s"),
        (1.23456, "1.23s"),
        (9.999, "10s"),
        (42.4, "42s"),
        (99, "99s"),
        (100, "1m40s"),
        (3599.9, "1h"),
        (3600, "1h"),
        (5400, "1h30m"),
        (86400, "1d"),
        (90061, "1d1h"),
        (365 * 86400, "365d"),
    ],
)
def test_seconds_are_formatted_in_two_units_at_most(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@given(st.floats(0.001, 1e9))
def test_formatted_seconds_parse_to_nearly_the_same_number(seconds: float) -> None:
    assert parse(format_seconds(seconds)) == pytest.approx(seconds, rel=0.05)
