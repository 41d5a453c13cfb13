"""The judge of the trial of NFS reports each broken promise."""

from __future__ import annotations

from typing import Any

import pytest

from tests.campaign.nfs.judge import judge, seconds_late

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
