"""KeyPattern: which file a key has, and whether a file is a key's."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogpile_fs import PathError
from dogpile_fs._dogpile.key_pattern import KeyPattern, patterns_in, refuse_path_of_key
from tests.campaign.programs import few_descriptors

#: Any text, lone surrogates and NUL among it.
ANY = st.text(st.characters(exclude_categories=()))
PATTERN = KeyPattern("/srv/reports/{key}.json")


@given(ANY)
def test_any_key_has_a_short_name_of_lower_case_ascii_below_the_fixed_part(key: str) -> None:
    path = PATTERN.path_of(PATTERN.name_of(key))
    assert re.fullmatch(r"/srv/reports/([0-9a-f]{2})/([a-z0-9-]{1,40}-)?\1[0-9a-f]{30}\.json", path)
    assert os.path.normpath(path) == path


@given(ANY, ANY)
def test_two_keys_never_have_names_that_differ_in_case_only(one: str, other: str) -> None:
    assert (PATTERN.name_of(one).lower() == PATTERN.name_of(other).lower()) == (one == other)


@pytest.mark.parametrize(
    "key",
    ["", "..", "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "x" * 100_000, "CON", "-rf", " ", "ß", "K"],
)
def test_odd_keys_stay_below_the_fixed_part(key: str) -> None:
    path = PATTERN.path_of(PATTERN.name_of(key))
    assert path.startswith("/srv/reports/")
    assert path.count("/") == 4
    assert len(os.path.basename(path)) < 100
    assert PATTERN.has(path.split("/")[3:])


def test_keys_that_differ_in_what_their_names_leave_out_have_different_names() -> None:
    keys = ["a", "A", "a ", "a/", "a-", "é", "e\u0301"]
    assert len({PATTERN.name_of(key) for key in keys}) == len(keys)


def test_a_key_of_another_pattern_with_the_same_fixed_part_has_another_name() -> None:
    assert KeyPattern("/srv/reports/{key}.txt").name_of("a") != PATTERN.name_of("a")
    assert KeyPattern("/srv/others/{key}.json").name_of("a") == PATTERN.name_of("a"), "wherever it is mounted"


def test_the_key_may_be_in_any_component() -> None:
    pattern = KeyPattern("/srv/of-{key}-day/report.json")
    name = pattern.name_of("May")
    assert pattern.path_of(name) == f"/srv/{name[4:6]}/of-{name}-day/report.json"
    assert pattern.has(pattern.path_of(name).split("/")[2:])
    assert not pattern.has([name[4:6], f"of-{name}-day", "other.json"])
    assert not pattern.has(["00", f"of-{name}-day", "report.json"])


@pytest.mark.parametrize(
    "pattern", ["/srv/report.json", "/srv/{key}/{key}.json", "/srv/{Key}.json", "/srv/{}.json"]
)
def test_a_pattern_without_exactly_one_key_is_refused_and_told_what_to_write(pattern: str) -> None:
    with pytest.raises(ValueError, match=re.escape("such as in 'var/reports/{key}.json'")):
        KeyPattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["", "/srv/{key}/", "/srv/{key}/../x", "/srv/{key}/.dogpile/x", "/srv/{key}" + "x" * 250, "/a\0/{key}"],
)
def test_a_pattern_that_can_be_no_files_is_refused(pattern: str) -> None:
    with pytest.raises((PathError, ValueError)):
        KeyPattern(pattern)


def test_a_pattern_that_is_no_path_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        KeyPattern(5)  # type: ignore[arg-type]


def marked(pattern: KeyPattern) -> KeyPattern:
    os.makedirs(pattern.directory, exist_ok=True)
    Path(pattern.marker).write_text(pattern.marker_text)
    return pattern


def test_a_path_of_a_key_is_known_by_the_marker_alone(tmp_path: Path) -> None:
    pattern = KeyPattern(tmp_path / "{key}.json")
    path = pattern.path_of(pattern.name_of("May"))
    refuse_path_of_key(path)
    marked(pattern)
    with pytest.raises(PathError, match=re.escape(f"Datafiles({str(pattern)!r})")):
        refuse_path_of_key(path)
    refuse_path_of_key(path.replace(".json", ".txt"))
    refuse_path_of_key(str(tmp_path / "report.json"))


def test_it_is_known_by_whichever_way_it_is_reached(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    pattern = marked(KeyPattern(tmp_path / "real" / "{key}.json"))
    shard, name = pattern.path_of(pattern.name_of("May")).rsplit("/", 2)[1:]
    (tmp_path / "real" / shard).mkdir()
    (tmp_path / "shard").symlink_to(tmp_path / "real" / shard)
    for path in (
        f"link/{shard}/{name}",
        f"real/./{shard}//{name}",
        f"shard/{name}",
        f"real/{shard}/../{shard}/{name}",
    ):
        with pytest.raises(PathError):
            refuse_path_of_key(f"{tmp_path}/{path}")


def test_a_marker_that_is_a_fifo_or_a_link_tells_nothing_and_hangs_nothing(tmp_path: Path) -> None:
    pattern = marked(KeyPattern(tmp_path / "{key}.json"))
    os.rename(pattern.marker, tmp_path / "elsewhere")
    os.mkfifo(pattern.marker)
    assert list(patterns_in(str(tmp_path))) == []
    os.unlink(pattern.marker)
    os.symlink(tmp_path / "elsewhere", pattern.marker)
    assert list(patterns_in(str(tmp_path))) == []


def test_a_process_without_a_descriptor_to_look_with_gets_an_error(tmp_path: Path) -> None:
    pattern = marked(KeyPattern(tmp_path / "{key}.json"))
    path = pattern.path_of(pattern.name_of("May"))
    with few_descriptors(0), pytest.raises(PathError, match="ulimit") as caught:
        refuse_path_of_key(path)
    assert caught.value.errno == errno.EMFILE
    assert path in str(caught.value)
    with few_descriptors(1), pytest.raises(PathError, match="is the file of a key"):
        refuse_path_of_key(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pattern": 5}', '{"pattern": "{key}.other"}', "\udcff"])
def test_a_marker_that_was_harmed_tells_nothing(tmp_path: Path, text: str) -> None:
    pattern = marked(KeyPattern(tmp_path / "{key}.json"))
    Path(pattern.marker).write_bytes(os.fsencode(text))
    assert list(patterns_in(str(tmp_path))) == []
