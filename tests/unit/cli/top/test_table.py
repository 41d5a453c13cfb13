from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dogpile_fs import Dogpile, Status
from dogpile_fs.cli.top.survey import Finding

pytest.importorskip("rich")

from dogpile_fs.cli.top.table import Look, frame, listing

PLAIN = Look(False, "#", ".")
COLOURED = Look(True, "#", ".")


def status(state: str, **changes: Any) -> Status:
    """Return the status of a resource in *state*, created 30 s ago for a minute, with *changes*."""
    now = time.time()
    left = 30.0 if state == "fresh" else 0.0
    facts: dict[str, Any] = {"state": state, "age": 30.0, "remaining": left, "generation": 1}
    return replace(Dogpile(60).status(), **{**facts, "createdtime": now - 30, "fresh_until": now + 30, **changes})


def paths_in(lines: list[str]) -> list[str]:
    return [line.split()[-1] for line in lines[2:] if not line.startswith(" ")]


def test_what_needs_a_look_comes_first_and_then_what_expires_next() -> None:
    findings = [
        Finding("d/later", status("fresh", remaining=40.0)),
        Finding("d/never", status("fresh", remaining=None, fresh_until=None)),
        Finding("d/soon", status("fresh", remaining=10.0)),
        Finding("d/keys", keys=3),
        Finding("d/stale", status("stale")),
        Finding("d/creating", status("stale", creating=True)),
        Finding("d/missing", status("missing", age=None, fresh_until=None)),
        Finding("d/expired", status("expired")),
        Finding("d/unreadable", complaint="nonsense"),
        Finding("d/failing", status("fresh", failures=2, failed_type="OSError")),
    ]
    assert paths_in(listing(findings, "d", PLAIN, None)) == [
        *("failing", "unreadable", "expired", "missing", "creating", "stale", "keys", "soon", "later", "never")
    ]


def test_a_bar_shows_the_age_against_the_lifetime() -> None:
    (_, _, half) = listing([Finding("d/x", status("fresh"), 1500)], "d", PLAIN, None)
    assert re.fullmatch(r"fresh +########\.\.\.\.\.\.\.\. +30s of 60s +1\.5 kB +- +x", half)
    (_, _, over) = listing([Finding("d/x", status("stale", age=90.0))], "d", PLAIN, None)
    assert " ################ " in over
    (_, _, never) = listing([Finding("d/x", status("fresh", fresh_until=None))], "d", PLAIN, None)
    assert re.fullmatch(r"fresh +30s +- +- +x", never)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9949, "9.9 kB"),
        (9951, "10 kB"),
        (999_499, "999 kB"),
        (999_600, "1.0 MB"),
        (10**15, "1.0 PB"),
        (2**63, "9.2 EB"),
    ],
)
def test_a_size_has_at_most_six_characters(size: int, text: str) -> None:
    assert f" {text} " in listing([Finding("d/x", status("fresh"), size)], "d", PLAIN, None)[2]


def test_what_has_no_room_is_counted() -> None:
    findings = [Finding(f"d/{number:02}", status("fresh", remaining=float(number))) for number in range(30)]
    findings[3] = Finding("d/03", status("stale", creating=True, creating_since=time.time(), creating_pid=1))
    lines = frame(findings, "d", PLAIN, 80, 12)
    assert len(lines) == 12
    assert paths_in(lines[:-1]) == ["03", *(f"{number:02}" for number in (0, 1, 2, 4, 5, 6, 7))]
    assert lines[-1] == "22 more: 22 fresh"
    assert len(frame(findings, "d", PLAIN, 80, 33)) == 33
    assert "more" not in frame(findings, "d", PLAIN, 80, 33)[-1]


text_of_any_kind = st.text(st.characters(), max_size=40)


@settings(deadline=None, max_examples=60)
@given(
    columns=st.integers(1, 130),
    height=st.integers(1, 12),
    names=st.lists(st.tuples(text_of_any_kind, text_of_any_kind, st.booleans()), max_size=12),
    look=st.sampled_from([PLAIN, COLOURED]),
)
def test_a_frame_fits_whatever_the_names_are(
    columns: int, height: int, names: list[tuple[str, str, bool]], look: Look
) -> None:
    from rich.cells import cell_len

    findings = [
        Finding(f"d/x{name}", complaint=text) if is_bad else Finding(f"d/x{name}", status("fresh"))
        for name, text, is_bad in names
    ]
    lines = frame(findings, "d", look, columns, height)
    assert len(lines) <= height
    assert all(cell_len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= columns for line in lines)
    shown = "".join(re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines)
    assert all(character.isprintable() or "\udca0" <= character <= "\udcff" for character in shown)
