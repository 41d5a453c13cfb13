"""The sidecar record: any bytes may come in, and each state holds exactly as long as it should."""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dogpile_fs._sidecar.decoding import NewerFormat, _value_of, decode
from dogpile_fs._sidecar.encoding import encode
from dogpile_fs._sidecar.fingerprint import KINDS, Fingerprint
from dogpile_fs._sidecar.record import (
    FIELDS,
    FORMAT,
    GROUPS,
    MISSING,
    SIZE,
    Attempt,
    Record,
    State,
    cleaned_host,
    max_age,
)

unhurried = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

seconds = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(min_value=0, max_value=2**53)
pids = st.integers(min_value=0, max_value=2**32)
fingerprints = st.builds(
    Fingerprint, st.sampled_from(KINDS), st.integers(0, 2**64), st.integers(-(2**96), 2**96), st.integers(0, 2**64)
)
# Not st.characters(), whose table takes seconds to make: what JSON escapes, what takes one to four bytes, and
# what os.uname() makes of undecodable bytes.
characters = st.sampled_from('aZ9-._ "\\/\0\n\r\t\x7f\u00fc\u6771\u2028\ufeff\U0001f512\udc80\udcff')
hosts = st.text(characters).map(cleaned_host)
invalidations = st.sampled_from([None, "soft", "hard"])
records = st.builds(
    Record,
    createdtime=seconds,
    generation=counts,
    cost=seconds,
    host=hosts,
    pid=pids,
    invalidated=invalidations,
    invalidations=counts,
    hard_invalidations=counts,
    expiretime=st.none() | st.floats(min_value=0, allow_nan=False, allow_infinity=False),
    fingerprint=st.none() | fingerprints,
    fingerprint_generation=counts,
    attempt=st.none() | st.builds(Attempt, hosts, pids, seconds),
    changes=counts,
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(characters, max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(characters, max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)

GOOD: dict[str, Any] = {
    "createdtime": 1000.0,
    "cost": 0.5,
    "host": "here",
    "pid": 7,
    "expiretime": 3600.0,
    "fingerprint": ["file", 1, 2, 3],
    "fingerprint_generation": 2,
    "generation": 3,
    "invalidated": None,
    "invalidations": 2,
    "hard_invalidations": 1,
    "attempt": {"host": "there", "pid": 8, "since": 1001.5},
    "changes": 9,
}


def grouped(**values: Any) -> dict[str, Any]:
    """*values*, each in its group."""
    groups: dict[str, Any] = {"dogpile_fs": FORMAT, **{group: {} for group in GROUPS}}
    for name, value in values.items():
        groups[FIELDS[name].group][name] = value
    return groups


def sealed(body: bytes) -> bytes:
    """*body*, cut or padded to its room, under a checksum that is right."""
    body = body[: SIZE - 9].ljust(SIZE - 9)
    return body + b"%08x\n" % zlib.crc32(body)


def decoded(data: bytes) -> Record | NewerFormat | None:
    """What :func:`decode` makes of *data*; any other exception than the promised one fails the test."""
    try:
        return decode(data)
    except NewerFormat as error:
        return error


def is_as_good_as_any(record: Record) -> bool:
    """Whether what came in can be used and written again like what was made here."""
    assert record.state(1000.0, 10) in ("fresh", "stale", "missing")
    return decode(encode(record)) == record


# What goes out comes back.


@unhurried
@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    back = decode(encode(record))
    assert back == record
    assert back is not None
    assert (back.changes, back.fresh_from, back.version) == (record.changes, record.fresh_from, record.version)


@unhurried
@given(records)
def test_a_record_is_one_printable_line_of_2048_bytes(record: Record) -> None:
    data = encode(record)
    assert len(data) == SIZE == 2048
    assert data.index(b"\n") == SIZE - 1
    assert data[:-1].decode().isprintable()


def test_a_person_can_read_a_record() -> None:
    text = encode(Record(createdtime=1732217000.25, generation=3, host="web1", pid=42)).decode()
    fields = json.loads(text[:-9])
    assert fields == {
        "dogpile_fs": 1,
        "version": {"createdtime": 1732217000.25, "host": "web1", "pid": 42},
        "failures": {},
        "resource": {"generation": 3},
    }


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("web1.example.org", "web1.example.org"),
        ("x" * 64, "x" * 64),
        ("x" * 5000, "x" * 64),
        ("büro-東京", "büro-東京"),
        ("東" * 253, "東" * 21),
        ("\U0001f512" * 17, "\U0001f512" * 16),
        ('"\\\n\0\x1b[31m', "?????[31m"),
        ("\udcff\udc80", "??"),
    ],
    ids=range(8),
)
def test_a_host_name_is_cut_to_64_bytes_and_holds_nothing_that_json_would_escape(name: str, cleaned: str) -> None:
    assert cleaned_host(name) == cleaned
    assert len(json.dumps(cleaned, ensure_ascii=False).encode()) <= 66
    record = Record(createdtime=1.5, host=cleaned)
    assert decode(encode(record)) == record


def test_numbers_for_which_there_is_no_room_are_refused_and_not_cut() -> None:
    with pytest.raises(ValueError, match="no sidecar record has room"):
        encode(Record(generation=10**2000, host="here"))


# The worst case.


def worst() -> Record:
    return Record(**{name: field.worst for name, field in FIELDS.items()})


def test_each_worst_case_is_sound_and_comes_back() -> None:
    for name, field in FIELDS.items():
        assert field.is_sound(field.worst), name
        assert field.is_sound(field.default), name
    assert decode(encode(worst())) == worst()


# Keys of other versions of this package.


def with_unknown(**unknown: dict[str, Any]) -> Record:
    record = Record(unknown, createdtime=1000.0, generation=1, attempt=Attempt("there", 8, 1001.5))
    back = decode(encode(record))
    assert back is not None
    assert back.unknown == unknown
    return back


ALL_UNKNOWN: dict[str, dict[str, Any]] = {
    "version": {"flavour": "v"},
    "failures": {"more": [1, {"a": None}]},
    "resource": {"owner": "r"},
    "attempt": {"later": 5.5},
}


def test_unknown_keys_live_and_die_with_their_group() -> None:
    record = with_unknown(**ALL_UNKNOWN)
    assert record.invalidate(now=1000.0, hard=True).unknown == ALL_UNKNOWN
    begun = record.begun(Attempt("here", 7, 1002.5), None).unknown
    assert begun == {group: ALL_UNKNOWN[group] for group in GROUPS}
    assert created(record, record).unknown == {"resource": {"owner": "r"}}


def test_unknown_keys_of_256_bytes_are_kept_and_larger_ones_dropped() -> None:
    room = 256 - len('{"version": {"more": ""}}')
    with_unknown(version={"more": "x" * room})
    back = decode(encode(Record({"version": {"more": "x" * (room + 13)}}, createdtime=1000.0)))
    assert back == Record(createdtime=1000.0)
    assert back is not None
    assert back.unknown == {}


def test_unknown_keys_are_dropped_first_where_there_is_no_room() -> None:
    values = {name: field.worst for name, field in FIELDS.items()}
    assert decode(encode(Record({"failures": {"more": "x" * 200}}, **values))) == worst()


def test_a_key_in_another_group_than_its_own_is_an_unknown_one() -> None:
    back = decode(sealed(b'{"dogpile_fs": 1, "resource": {"createdtime": 1000.0}}'))
    assert back == MISSING
    assert back is not None
    assert back.unknown == {"resource": {"createdtime": 1000.0}}


@pytest.mark.parametrize("missing", list(GOOD))
def test_a_missing_field_has_its_default(missing: str) -> None:
    values = {name: value for name, value in GOOD.items() if name != missing}
    back = decode(sealed(json.dumps(grouped(**values)).encode()))
    assert back is not None
    assert getattr(back, missing) == FIELDS[missing].default


def test_records_are_compared_without_the_count_of_their_writes() -> None:
    assert Record(generation=1, changes=5) == Record(generation=1, changes=6)
    assert hash(Record(generation=1, changes=5)) == hash(Record(generation=1, changes=6))
    assert Record(generation=1) != Record(generation=2)


# Anything else that comes in is None, or a newer format.


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('a\\"\n\u1234\ud800', max_size=5),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text("ab\\", max_size=2), each, max_size=3),
    max_leaves=6,
)


@unhurried
@given(json_values, st.integers(0, 200), st.sampled_from([*' {}]1"x-\x00', "", "\t\r\n", "NaN"]))
def test_json_is_read_as_the_json_module_reads_it(value: Any, at: int, put: str) -> None:
    text = json.dumps(value, ensure_ascii=False)
    at %= len(text) + 1
    for harmed in (text, text[:at] + put + text[at:], text[:at] + put):
        assert _read(_value_of, harmed) == _read(json.loads, harmed)


def _read(read: Callable[[str], Any], text: str) -> str:
    try:
        return repr(read(text))
    except ValueError:
        return "no JSON"


def test_json_that_is_nested_too_deeply_is_refused_as_the_json_module_refuses_it() -> None:
    for read in (json.loads, _value_of):
        with pytest.raises(RecursionError):
            read("[" * 100_000)


@unhurried
@given(st.binary(max_size=2 * SIZE) | st.binary(min_size=SIZE, max_size=SIZE))
def test_random_bytes_are_no_record(data: bytes) -> None:
    assert decode(data) is None


@unhurried
@given(records, st.integers(0, SIZE - 1))
def test_a_truncated_record_is_none(record: Record, length: int) -> None:
    assert decode(encode(record)[:length]) is None


@unhurried
@given(records, st.binary(min_size=1, max_size=SIZE))
def test_an_extended_record_is_none(record: Record, more: bytes) -> None:
    assert decode(encode(record) + more) is None
    assert decode(more + encode(record)) is None


@pytest.mark.parametrize("room", [512 - 9, SIZE - 10, SIZE - 8, 2 * SIZE])
def test_a_record_of_another_size_is_none_even_under_a_right_checksum(room: int) -> None:
    body = json.dumps(grouped(**GOOD)).encode().ljust(room)
    assert decode(body + b"%08x\n" % zlib.crc32(body)) is None


def test_a_record_with_any_one_bit_flipped_is_none() -> None:
    data = encode(Record(createdtime=1000.25, generation=3, cost=0.5, host="büro", pid=7, invalidated="soft"))
    for bit in range(8 * SIZE):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert decode(bytes(flipped)) is None, f"bit {bit}"


@unhurried
@given(records, records, st.integers(0, SIZE))
def test_a_torn_record_is_none_or_one_of_the_two(old: Record, new: Record, torn_at: int) -> None:
    data = encode(new)[:torn_at] + encode(old)[torn_at:]
    assert decode(data) in (None, decode(encode(old)), decode(encode(new)))


@unhurried
@given(st.binary(max_size=SIZE))
def test_any_bytes_under_a_right_checksum_raise_nothing(body: bytes) -> None:
    decoded(sealed(body))


@unhurried
@given(values)
def test_any_json_under_a_right_checksum_raises_nothing(value: Any) -> None:
    decoded(sealed(json.dumps(value).encode()))


@unhurried
@given(
    st.fixed_dictionaries(
        {"dogpile_fs": st.just(FORMAT) | values},
        optional={
            group: values
            | st.fixed_dictionaries(
                {},
                optional={
                    name: st.just(good) | values for name, good in GOOD.items() if FIELDS[name].group == group
                }
                | {"fresh_from": values, "self": values, "unknown": values},
            )
            for group in GROUPS
        },
    )
)
def test_any_decoded_record_can_be_used_like_one_made_here(fields: dict[str, Any]) -> None:
    result = decoded(sealed(json.dumps(fields).encode()))
    if isinstance(result, NewerFormat):
        assert result.version == fields["dogpile_fs"] > FORMAT
    elif result is not None:
        assert is_as_good_as_any(result)


def test_what_these_tests_seal_is_what_the_package_writes() -> None:
    values = {**GOOD, "fingerprint": Fingerprint("file", 1, 2, 3), "attempt": Attempt("there", 8, 1001.5)}
    assert decode(sealed(json.dumps(grouped(**GOOD)).encode())) == Record(**values)


HUGE = "9" * 1000

BAD_VALUES = {
    "createdtime": ["NaN", "Infinity", "-Infinity", "1e999", "5", "true", "null", '"5"', "[]", "{}", HUGE],
    "cost": ["NaN", "Infinity", "-Infinity", "1e999", "0", "true", "null", '"5"', "[]", HUGE],
    "generation": ["-1", "1.0", "true", "null", '"1"', "[]", "NaN", "-" + HUGE],
    "pid": ["-1", "1.0", "true", "null", '"1"', "[]"],
    "invalidations": ["-1", "1.0", "true", "null", '"1"', "[]"],
    "hard_invalidations": ["-1", "1.0", "true", "null", '"1"', "[]"],
    "host": ["5", "null", "[]", "true", '"\\n"', '"\\""', '"\\ud800"', f'"{"x" * 65}"'],
    "fingerprint": ["5", "[]", '["file", 1, 2]', '["file", -1, 2, 3]', '["pipe", 1, 2, 3]', '["file", 1, 2.0, 3]'],
    "fingerprint_generation": ["-1", "null"],
    "attempt": ["5", "[]", "{}", '{"host": "there", "pid": 8}', '{"host": "there", "pid": 8, "since": 5}'],
    "content": ["5", '"not alnum"', f'"{"f" * 65}"'],
    "changes": ["-1", "1.0", "null"],
    "invalidated": ['"softly"', "5", "true", "false", "[]", "{}", '""'],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD_VALUES for value in BAD_VALUES[name]])
def test_a_field_of_the_wrong_kind_makes_it_no_record(name: str, value: str) -> None:
    text = json.dumps(grouped(**{**GOOD, name: "VALUE"})).replace('"VALUE"', value)
    assert decode(sealed(text.encode())) is None


@pytest.mark.parametrize(
    "version", ["0", "-1", "1.0", "2.0", "true", "null", '"1"', '"2"', "[]", "NaN", "Infinity"]
)
def test_a_version_that_is_no_positive_whole_number_makes_it_no_record(version: str) -> None:
    assert decode(sealed(f'{{"dogpile_fs": {version}}}'.encode())) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"5",
        b"null",
        b'"dogpile_fs"',
        b"{}",
        b'{"version": {"createdtime": 1.0}}',
        b"\0",
        b'{"dogpile_fs": 1, "version": null}',
        b'{"dogpile_fs": 1, "failures": []}',
        b'{"dogpile_fs": 1, "resource": "x"}',
    ],
)
def test_json_that_is_no_versioned_object_is_no_record(body: bytes) -> None:
    assert decode(sealed(body)) is None


@pytest.mark.parametrize("body", [b"[" * 2039, b'{"a":' * 400, b"[" * 1019 + b"]" * 1019])
def test_deep_nesting_is_no_record_even_where_the_stack_is_nearly_used_up(body: bytes) -> None:
    assert decode(sealed(body)) is None
    limit = sys.getrecursionlimit()
    depth, frame = 0, sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        depth += 1
    sys.setrecursionlimit(depth + 80)
    try:
        result = decode(sealed(body))
    finally:
        sys.setrecursionlimit(limit)
    assert result is None


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "latin-1"])
def test_another_encoding_raises_nothing(encoding: str) -> None:
    decoded(sealed('{"dogpile_fs": 1, "host": "bü"}'.encode(encoding)))
    decoded(sealed(b"\xff\xfe" + b"\x00\xd8" * 200))


# The format of the future.


@pytest.mark.parametrize("version", [FORMAT + 1, 99, int(HUGE)])
def test_an_undamaged_record_of_a_newer_format_raises_newer_format(version: int) -> None:
    body = b'{"dogpile_fs": %d, "created": {"when": "yesterday"}}' % version
    with pytest.raises(NewerFormat) as caught:
        decode(sealed(body))
    assert caught.value.version == version
    assert str(version) in str(caught.value)
    assert f"up to {FORMAT}" in str(caught.value)


def test_a_damaged_record_of_a_newer_version_is_damage() -> None:
    data = bytearray(sealed(b'{"dogpile_fs": 2}'))
    data[100] ^= 1
    assert decode(bytes(data)) is None


# Fresh, stale or nothing.

CREATED = 1000.0


@pytest.mark.parametrize(
    ("now", "expiretime", "state"),
    [
        (1000.0, 10, "fresh"),
        (1009.999, 10, "fresh"),
        (1010.0, 10, "stale"),
        (1010.001, 10, "stale"),
        (1e9, 10, "stale"),
        (1000.0, 0, "stale"),
        (1000.001, 0, "stale"),
        (1000.0, 0.001, "fresh"),
        # The clock went back, but no further than two idea of "now" may differ.
        (999.999, 10, "fresh"),
        (999.0, 10, "fresh"),
        (998.999, 10, "stale"),
        (0.0, 10, "stale"),
        (998.0, math.inf, "stale"),
        # Never stale by time: no clock matters.
        (1000.0, None, "fresh"),
        (1e12, None, "fresh"),
        (0.0, None, "fresh"),
    ],
)
def test_the_state_of_a_created_resource(now: float, expiretime: float | None, state: State) -> None:
    assert Record(createdtime=CREATED, generation=1).state(now, expiretime) == state


@pytest.mark.parametrize("ahead", [0.0, 0.001, 0.5, 0.999, 1.0])
def test_an_expiretime_of_zero_is_never_fresh_not_even_to_a_clock_that_is_a_little_behind(ahead: float) -> None:
    assert Record(createdtime=CREATED, generation=1).state(CREATED - ahead, 0) == "stale"


@pytest.mark.parametrize("expiretime", [0, 10, math.inf, None])
@pytest.mark.parametrize("now", [0.0, CREATED, CREATED + 5, 1e12])
def test_before_the_first_creation_and_after_a_hard_invalidation_it_is_missing(
    now: float, expiretime: float | None
) -> None:
    assert MISSING.state(now, expiretime) == "missing"
    assert MISSING.invalidate(now=1000.0, hard=False).state(now, expiretime) == "missing"
    assert Record(createdtime=CREATED, generation=1, invalidated="hard").state(now, expiretime) == "missing"
    assert Record(createdtime=0.0, generation=1).state(now, expiretime) == "missing"


@pytest.mark.parametrize("expiretime", [0, 10, math.inf, None])
@pytest.mark.parametrize("now", [0.0, CREATED, CREATED + 5, 1e12])
def test_after_a_soft_invalidation_it_is_stale(now: float, expiretime: float | None) -> None:
    assert Record(createdtime=CREATED, generation=1, invalidated="soft").state(now, expiretime) == "stale"


moments = st.sampled_from([-1.0, 0.0, 998.0, 999.0, 999.5, 1000.0, 1000.5, 1010.0, 2000.0])


@unhurried
@given(
    st.builds(Record, createdtime=moments | seconds, invalidated=invalidations),
    moments | seconds,
    st.sampled_from([None, 0, 0.5, 10, math.inf]) | st.floats(min_value=0, allow_nan=False),
)
def test_fresh_from_and_max_age_agree_with_the_state(record: Record, now: float, expiretime: float | None) -> None:
    # The hot path's one comparison. Without an expiretime it may miss what no clock matters to, but no more.
    told_fresh = -1.0 <= now - record.fresh_from < max_age(expiretime)
    is_fresh = record.state(now, expiretime) == "fresh"
    assert told_fresh == is_fresh or (expiretime is None and is_fresh)


# What is read can be written again.


def test_a_record_of_the_largest_numbers_that_are_taken_has_room_for_whatever_comes_next() -> None:
    moment, back = -1.7976931348623157e308, worst()
    for after in (back.begun(Attempt("h" * 64, 2**32, moment), moment), back.invalidate(now=1000.0, hard=True)):
        assert len(encode(after)) == SIZE


@pytest.mark.parametrize(
    "numbers",
    [
        {"generation": 10**230},
        {"pid": 2**32 + 1},
        {"invalidations": 2**53 + 1},
        {"fingerprint": ["file", 1, 2, 10**230]},
        {"fingerprint": ["file", 2**64 + 1, 2, 3]},
    ],
    ids=range(5),
)
def test_numbers_that_leave_no_room_for_the_next_creation_are_no_record(numbers: dict[str, Any]) -> None:
    assert decode(sealed(json.dumps(grouped(**{**GOOD, **numbers})).encode())) is None


def test_a_count_at_its_end_begins_again() -> None:
    last = decode(encode(Record(createdtime=1000.0, generation=2**53)))
    assert last is not None
    assert decode(encode(created(last, last))) is None


def test_two_halves_of_a_character_that_would_be_one_when_they_are_written_again_are_no_record() -> None:
    body = (
        json.dumps(grouped(**{**GOOD, "host": "HALVES"})).encode().replace(b"HALVES", b"\xed\xa0\xbd\xed\xb8\x80")
    )
    assert decode(sealed(body)) is None


def test_a_record_in_another_encoding_than_ours_is_none() -> None:
    body = json.dumps(grouped(**GOOD), separators=(",", ":"))
    for encoding in ("utf-16", "utf-16-le", "utf-8-sig"):
        assert decode(sealed(body.encode(encoding)[:2039])) is None


# Creations and invalidations.


def created(record: Record, seen: Record, createdtime: float = 2000.0) -> Record:
    return record.created(seen, createdtime, cost=0.25, host="there", pid=8)


@unhurried
@given(records)
def test_a_creation_records_time_cost_and_author_and_counts(record: Record) -> None:
    after = created(record, record)
    assert after == Record(
        createdtime=2000.0,
        generation=record.generation + 1,
        cost=0.25,
        host="there",
        pid=8,
        fingerprint_generation=record.generation + 1,
        invalidations=record.invalidations,
        hard_invalidations=record.hard_invalidations,
    )
    assert after.attempt is None
    assert after.state(2000.0, 10) == "fresh"


@unhurried
@given(records)
def test_an_attempt_records_its_author_and_first_expiretime_and_changes_nothing_else(record: Record) -> None:
    me = Attempt("there", 8, 2000.0)
    nothing = record.replace(createdtime=-1.0)
    assert nothing.begun(me, 60.0) == nothing.replace(attempt=me, expiretime=60.0)
    assert nothing.begun(me, math.inf) == nothing.begun(me, None) == nothing.replace(attempt=me, expiretime=None)
    there = record.replace(createdtime=1000.0)
    assert there.begun(me, 60.0) == there.replace(attempt=me), "what is there was made for another time"


@pytest.mark.parametrize("hard", [False, True])
def test_a_creation_clears_an_invalidation_that_came_before_it(hard: bool) -> None:
    seen = created(MISSING, MISSING, 1000.0).invalidate(now=1000.0, hard=hard)
    assert created(seen, seen).state(2000.0, 10) == "fresh"


@pytest.mark.parametrize(("hard", "state"), [(False, "stale"), (True, "missing")])
@pytest.mark.parametrize("first", [MISSING, created(MISSING, MISSING, 1000.0)])
def test_a_creation_keeps_an_invalidation_that_came_while_it_ran(first: Record, hard: bool, state: State) -> None:
    after = created(first.invalidate(now=1000.0, hard=hard), first)
    assert after.state(2000.0, 10) == state
    assert after.createdtime == 2000.0
    # And the next one, elected on that, clears it.
    assert created(after, after).state(2000.0, 10) == "fresh"


@pytest.mark.parametrize("hard", [False, True])
def test_an_invalidation_of_another_sidecar_that_has_counted_as_many_is_kept(hard: bool) -> None:
    seen = (
        created(MISSING, MISSING, 1000.0).invalidate(now=1000.0, hard=hard).begun(Attempt("here", 7, 1001.0), None)
    )
    another = MISSING.invalidate(now=1000.0, hard=hard)
    assert another.invalidations == seen.invalidations
    assert created(another, seen).invalidated == another.invalidated


def test_a_soft_invalidation_while_it_is_created_does_not_bring_back_the_hard_one_before_it() -> None:
    seen = created(MISSING, MISSING, 1000.0).invalidate(now=1000.0, hard=True)
    after = created(seen.invalidate(now=1000.0, hard=False), seen)
    assert after.state(2000.0, 10) == "stale"
    assert (
        created(seen.invalidate(now=1000.0, hard=False).invalidate(now=1000.0, hard=True), seen).state(2000.0, 10)
        == "missing"
    )


def test_a_second_invalidation_while_a_creator_runs_is_kept_as_well() -> None:
    seen = created(MISSING, MISSING, 1000.0).invalidate(now=1000.0, hard=False)
    assert created(seen.invalidate(now=1000.0, hard=False), seen).state(2000.0, 10) == "stale"


def test_an_invalidation_of_a_sidecar_that_was_deleted_while_it_was_created_is_kept() -> None:
    seen = created(MISSING, MISSING, 1000.0)
    assert created(MISSING.invalidate(now=1000.0, hard=True), seen).state(2000.0, 10) == "missing"


def test_a_soft_invalidation_does_not_weaken_a_hard_one() -> None:
    record = created(MISSING, MISSING, 1000.0).invalidate(now=1000.0, hard=True).invalidate(now=1000.0, hard=False)
    assert record.invalidated == "hard"
    assert record.state(1000.0, None) == "missing"


def test_a_hard_invalidation_strengthens_a_soft_one() -> None:
    record = created(MISSING, MISSING, 1000.0).invalidate(now=1000.0, hard=False).invalidate(now=1000.0, hard=True)
    assert record.state(1000.0, None) == "missing"


@unhurried
@given(records, st.booleans())
def test_an_invalidation_changes_nothing_else(record: Record, hard: bool) -> None:
    after = record.invalidate(now=1000.0, hard=hard)
    assert after.invalidations == record.invalidations + 1
    assert (after.createdtime, after.generation, after.cost, after.host, after.pid) == (
        record.createdtime,
        record.generation,
        record.cost,
        record.host,
        record.pid,
    )


def test_a_clock_that_went_back_while_the_creator_ran_gives_no_negative_cost() -> None:
    assert MISSING.created(MISSING, 2000.0, cost=-3.0, host="there", pid=8).cost == 0.0


def test_a_creation_that_has_swapped_makes_a_new_version_whatever_the_fingerprint() -> None:
    fingerprint = Fingerprint("file", 1, 2, 3)
    options: dict[str, Any] = {"cost": 0.0, "host": "host", "pid": 1, "fingerprint": fingerprint}
    first = MISSING.created(MISSING, 1.0, **options)
    assert first.created(first, 2.0, **options).version == first.version
    assert first.created(first, 2.0, swapped=True, **options).version != first.version


def test_a_version_on_another_device_is_another_and_no_sidecar_holds_the_device() -> None:
    record = MISSING.created(MISSING, 1.0, cost=0.0, host="h", pid=1, fingerprint=Fingerprint("file", 1, 2, 3))
    one, other = record.replace(device=5), record.replace(device=6)
    assert one.version != other.version
    assert one == other == record
    assert encode(one) == encode(other) == encode(record)


@pytest.mark.parametrize("note", ["\ud800", "a\udfffb", "n" * 97, "\u00fc" * 49])
def test_a_note_that_could_not_be_written_as_it_was_read_is_not_sound(note: str) -> None:
    assert not FIELDS["note"].is_sound(note)
    assert FIELDS["note"].is_sound("\u00fc" * 48)
