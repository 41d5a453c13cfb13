"""A little of the campaign's fuzzing at each run of the tests: random input breaks nothing.

``python -m tests.campaign.fuzz`` does the same at length.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dogpile_fs._sidecar.record import Record
from tests.campaign import sound_records
from tests.campaign.hostile_files import HostileFiles
from tests.campaign.hostile_names import HostileNames
from tests.campaign.hostile_words import HostileWords
from tests.campaign.mutated_records import MutatedRecords, sealed
from tests.campaign.sound_records import Broken, check

#: The same at every run: what a run of the tests finds, the next one finds too.
few = settings(derandomize=True, deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _untold(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "dogpile_fs")  # each damage is logged, and there are thousands


def test_thousands_of_altered_records_are_decoded_or_refused() -> None:
    records = MutatedRecords(Random(1))
    taken = [check(records.next()) for _ in range(12_000)]
    assert min(taken.count(kind) for kind in ("record", "newer", "nothing")) > 50
    assert len(records.kinds) == 9, records.kinds


@few
@given(st.randoms(use_true_random=False))
def test_an_altered_record_is_decoded_or_refused(random: Random) -> None:
    records = MutatedRecords(random)
    check(records.altered(records.next()))


@few
@given(st.binary(max_size=2039))
def test_any_bytes_under_a_correct_checksum_are_decoded_or_refused(body: bytes) -> None:
    check(sealed(body))


@pytest.mark.parametrize(
    "wrong",
    [
        Record(createdtime=math.nan),
        Record(createdtime=1),
        Record(createdtime=1.0, generation=True),
        Record(createdtime=1.0, generation=-1),
        Record(createdtime=1.0, pid=10**400),
        Record(createdtime=1.0, cost=math.inf),
        Record(createdtime=1.0, invalidated="firm"),
        Record(createdtime=1.0, expiretime=-1.0),
    ],
    ids=repr,
)
def test_a_decoder_that_accepts_unsound_records_is_caught(wrong: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound_records, "decode", lambda data: wrong)
    with pytest.raises(Broken):
        check(MutatedRecords(Random(1)).with_other_values())


def test_any_sidecar_is_read_or_refused_and_repaired_by_the_next_creation(tmp_path: Path) -> None:
    counts, violations = HostileFiles(str(tmp_path), Random(1)).read(0.8)
    assert violations == []
    assert min(counts.values()) > 0, counts


def test_names_like_ours_and_links_that_lead_anywhere_do_no_harm(tmp_path: Path) -> None:
    counts, violations = HostileNames(str(tmp_path), Random(1)).meet(0.8)
    assert violations == []
    assert min(counts.values()) > 0, counts


@few
@given(st.randoms(use_true_random=False))
def test_any_duration_is_read_or_refused(random: Random) -> None:
    for _ in range(5):
        HostileWords(random).read_a_duration()


def test_any_command_line_is_parsed_or_refused_in_one_line() -> None:
    words = HostileWords(Random(1))
    for number in range(200):
        words.parse_a_line()
        if not number % 5:
            words.refuse_a_value()


def test_a_few_command_lines_run_as_processes_end_as_documented() -> None:
    counts, violations = HostileWords(Random(1)).run(0.8)
    assert violations == []
    assert counts["command_lines_run"] > 0
