"""The judge of the trial of NFS reports each broken promise."""

from __future__ import annotations

from typing import Any

import pytest

from tests.campaign.nfs.judge import judge, pruned_too_early, seconds_late, writers_beside_readers

A, B = {"host": "a", "pid": 2, "by": "open"}, {"host": "b", "pid": 3, "by": "open"}
SOUND = [
    {**A, "what": "begin", "version": "1", "time": 1.0},
    {**A, "what": "end", "version": "1", "time": 2.0},
    {**B, "what": "read", "version": "1", "time": 2.5},
    {**B, "what": "begin", "version": "2", "time": 4.0},
    {**B, "what": "end", "version": "2", "time": 5.0},
    {**A, "what": "read", "version": "2", "time": 5.5},
]


def test_it_reports_nothing_where_nothing_is_wrong() -> None:
    assert list(judge(SOUND, expires=2.0)) == []
    assert seconds_late(SOUND, "b", "open") == [0.5, None]


@pytest.mark.parametrize(
    ("more", "expires", "reported"),
    [
        ([], 3.0, "a creation began 2.000 s after the end of the one before"),
        (
            [
                {**A, "what": "begin", "version": "3", "time": 4.5},
                {**A, "what": "end", "version": "3", "time": 6.0},
            ],
            2.0,
            "overlap",
        ),
        ([{**A, "what": "read", "version": "1", "time": 6.0}], 2.0, "after a newer one"),
        ([{**A, "what": "read", "version": "torn", "time": 6.0}], 2.0, "has read no version"),
        ([{**A, "what": "error", "error": "ESTALE", "time": 6.0}], 2.0, "an error reached a caller"),
        ([{**A, "what": "ended", "name": "one", "status": 1, "time": 6.0}], 2.0, "has ended with 1"),
    ],
)
def test_it_reports_what_is_wrong(more: list[dict[str, Any]], expires: float, reported: str) -> None:
    assert reported in "".join(judge([*SOUND, *more], expires=expires))


def test_it_reports_a_prune_that_removes_what_was_created_a_moment_ago() -> None:
    prune = {**A, "what": "pruned", "began": 8.5, "time": 9.0, "gone": 1}
    assert list(pruned_too_early([SOUND, []], [prune], 3.0)) == []
    assert "when 0 were old enough" in "".join(pruned_too_early([SOUND, []], [prune], 4.0))
    assert "when 1 were old enough" in "".join(pruned_too_early([SOUND, []], [{**prune, "gone": 2}], 3.0))


def test_it_reports_a_writer_beside_a_reader_or_another_writer() -> None:
    writer = {**A, "what": "wrote", "came": 1.0, "time": 2.0}
    apart = [writer, {**B, "what": "inside", "came": 2.0, "time": 3.0}]
    assert list(writers_beside_readers([*apart, {**B, "what": "inside", "came": 2.5, "time": 3.5}])) == []
    for what in ("wrote", "inside"):
        (found,) = writers_beside_readers([*apart, {**B, "what": what, "came": 0.5, "time": 1.5}])
        assert "inside together for 0.500 s" in found
