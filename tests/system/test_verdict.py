"""The verdict can find fault: each rule with a history that breaks it, and with one that does not.

Times are seconds since the story's beginning; a datafile is stale after 5 of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from moduleindex.crowd import Answer
from moduleindex.record import Event, Kind
from moduleindex.server import Kill
from moduleindex.verdict import Story, client_faults, faults

EXPIRE = 5.0


def at(seconds: float) -> int:
    return round(seconds * 1e9)


def event(kind: Kind, request: str, pid: int, seconds: float) -> Event:
    return Event(kind=kind, request=request, pid=pid, monotonic=at(seconds), time=1000 + seconds)


def passes(request: str, pid: int, asked: float, entered: float, left: float, version: int) -> list[Event]:
    """A request that passes through."""
    return [
        event("request", request, pid, asked),
        event("acquire", request, pid, asked),
        event("enter", request, pid, entered),
        replace(event("leave", request, pid, left), version=version, last=version),
        replace(event("answer", request, pid, left), version=version, status=200),
    ]


def creates(request: str, pid: int, begin: float, version: int) -> list[Event]:
    """A request that is elected: it builds for 1 s, is inside after 0.3 s more, and is answered soon after."""
    created: list[tuple[Kind, float]] = [("creation-begin", 0.0), ("built", 1.0), ("creation-end", 1.3)]
    steps = [replace(event(kind, request, pid, begin + after), version=version) for kind, after in created]
    ends = passes(request, pid, begin, begin + 1.4, begin + 1.5, version)
    return [replace(step, elected=True) for step in [*ends, *steps]]


def until(events: Iterable[Event], last: Kind) -> list[Event]:
    """Return the log of a process that dies right after the event *last*."""
    told = sorted(events, key=lambda event: event.monotonic)
    kinds = [event.kind for event in told]
    return told[: kinds.index(last) + 1]


FIRST = creates("first", 11, 1.0, version=1)  # ends at 2.3
SECOND = creates("second", 12, 8.0, version=2)  # swapped in between 9.0 and 9.3
BESIDE = passes("beside", 13, 8.2, 8.3, 8.4, version=1)
GOOD = [*FIRST, *passes("early", 12, 1.1, 2.4, 2.5, version=1), *SECOND, *BESIDE]

KILLED = Kill(pid=12, asked=at(8.5), gone=at(8.6))


def found(events: Iterable[Event], *kills: Kill) -> str:
    return "\n".join(faults(Story.of(events, kills), EXPIRE))


# One creation per expiry


def test_a_good_history_has_no_fault() -> None:
    assert found(GOOD) == ""
    assert Story.of(GOOD).passes_beside_a_creation == 1


def test_a_creation_while_the_version_is_fresh_is_a_fault() -> None:
    assert "fresh for 5 s" in found([*FIRST, *creates("soon", 12, 6.9, version=2)])


def test_the_createdtime_that_requests_saw_counts_when_it_is_later_than_the_creators_end() -> None:
    late = passes("late", 13, 3.0, 3.1, 3.2, version=1)
    late = [replace(event, createdtime=1003.05) for event in late]
    assert "fresh for 5 s" in found([*FIRST, *late, *creates("soon", 12, 8.0, version=2)])


def test_two_creations_at_once_are_a_fault() -> None:
    assert "began while 12 was creating" in found([*GOOD, *creates("too", 13, 8.5, version=2)])


def test_a_short_creation_within_a_long_one_does_not_hide_a_third_one_from_it() -> None:
    long = [
        replace(event, monotonic=event.monotonic + (at(5) if event.kind != "creation-begin" else 0))
        for event in SECOND
    ]
    third = creates("third", 14, 12.0, version=2)
    assert "by 14 began while 12 was creating" in found([*FIRST, *long, *BESIDE, *third])


def test_a_lost_version_is_a_fault() -> None:
    assert "came after version 1" in found([*FIRST, *creates("second", 12, 8.0, version=3)])


def test_a_version_that_is_made_twice_is_a_fault() -> None:
    assert "came after version 1" in found([*FIRST, *creates("second", 12, 8.0, version=1)])


def test_a_creation_that_never_finished_is_a_fault_unless_its_process_was_killed() -> None:
    killed = until(SECOND, "creation-begin")
    assert "did not finish, and was not killed" in found([*FIRST, *killed])
    assert found([*FIRST, *killed], KILLED) == ""


def test_after_a_kill_the_next_creation_may_begin_at_once_but_not_before_it() -> None:
    killed = until(SECOND, "creation-begin")
    assert found([*FIRST, *killed, *creates("next", 13, 8.55, version=2)], KILLED) == ""
    early = creates("next", 13, 8.45, version=2)
    assert "began while 12 was creating" in found([*FIRST, *killed, *early], KILLED)


def test_a_request_that_creates_twice_is_a_fault() -> None:
    again = event("creation-begin", "second", 12, 8.1)
    assert "did creation-begin twice" in found([*GOOD, again])


# No request fails


def test_a_request_that_was_answered_with_500_is_a_fault() -> None:
    bad = [replace(event, status=500) if event.status else event for event in BESIDE]
    assert "request beside was answered with 500" in found([*FIRST, *SECOND, *bad])


def test_a_request_that_was_never_answered_is_a_fault_unless_its_worker_was_killed() -> None:
    unanswered = passes("lost", 13, 8.2, 8.3, 8.4, version=1)[:-1]
    assert "request lost to worker 13 was never answered" in found([*FIRST, *SECOND, *unanswered])
    killed = Kill(pid=13, asked=at(8.5), gone=at(8.6))
    assert found([*FIRST, *SECOND, *unanswered], killed) == ""


# No request waits


def test_a_request_that_is_let_in_only_when_the_build_is_over_has_waited() -> None:
    waiting = passes("waiting", 13, 8.4, 9.3, 9.4, version=2)
    assert "request waiting waited 0.900 s" in found([*FIRST, *SECOND, *waiting])


def test_a_request_that_comes_late_in_a_build_and_waits_for_its_swap_has_not_waited_for_the_build() -> None:
    assert found([*FIRST, *SECOND, *passes("held", 13, 8.95, 9.3, 9.4, version=2)]) == ""


def test_the_first_creation_may_be_waited_for_even_when_one_was_killed_before_it() -> None:
    killed = until(creates("killed", 12, 0.0, version=1), "creation-begin")
    waiting = passes("waiting", 13, 0.1, 2.4, 2.5, version=1)
    early = Kill(pid=12, asked=at(0.5), gone=at(0.6))
    assert found([*killed, *FIRST, *waiting], early) == ""


# No request is inside during a swap


def test_a_request_that_finds_two_versions_in_its_block_is_a_fault() -> None:
    inside = passes("inside", 13, 8.2, 8.3, 9.2, version=1)
    inside = [replace(event, last=2) if event.kind == "leave" else event for event in inside]
    assert "inside was inside its block while version 1 became version 2" in found([*GOOD, *inside])


def test_a_request_that_was_inside_from_before_a_swap_until_after_it_is_a_fault() -> None:
    inside = passes("inside", 13, 8.2, 8.3, 9.35, version=1)
    assert "request inside was inside its block while 12 swapped" in found([*GOOD, *inside])


def test_a_version_that_a_request_has_read_was_swapped_in_before_whatever_its_creator_logs() -> None:
    inside = passes("inside", 13, 8.2, 8.3, 9.25, version=1)
    assert found([*GOOD, *inside]) == ""
    reads = passes("reads", 14, 9.1, 9.15, 9.2, version=2)
    assert "request inside was inside its block while 12 swapped" in found([*GOOD, *inside, *reads])


def test_a_killed_reader_was_inside_until_it_was_killed() -> None:
    inside = passes("inside", 13, 8.2, 8.3, 8.4, version=1)[:-2]
    after = Kill(pid=13, asked=at(9.35), gone=at(9.4))
    before = Kill(pid=13, asked=at(9.25), gone=at(9.4))
    assert "inside its block while 12 swapped" in found([*GOOD, *inside], after)
    assert found([*GOOD, *inside], before) == ""


# No request reads a torn datafile


def test_a_torn_datafile_is_a_fault() -> None:
    torn = [replace(event, fault="3 rows instead of 4") if event.kind == "leave" else event for event in BESIDE]
    assert "found the datafile torn: 3 rows" in found([*FIRST, *SECOND, *torn])


def test_an_old_version_that_is_read_after_the_swap_is_a_fault() -> None:
    old = passes("old", 13, 9.5, 9.6, 9.7, version=1)
    assert "read version 1 when version 2 was in place" in found([*GOOD, *old])


def test_a_new_version_that_is_read_before_the_swap_is_a_fault() -> None:
    new = passes("new", 13, 8.5, 8.6, 8.7, version=2)
    assert "read version 2 when version 1 was in place" in found([*GOOD, *new])


def test_around_a_swap_either_version_may_be_read() -> None:
    for version in (1, 2):
        assert found([*GOOD, *passes("around", 13, 8.95, 8.96, 9.1, version=version)]) == ""


def test_a_kill_in_the_swap_leaves_either_version_but_no_other() -> None:
    killed = [*FIRST, *until(SECOND, "built")]
    kill = Kill(pid=12, asked=at(9.15), gone=at(9.2))
    for version in (1, 2):
        later = passes("later", 13, 9.5, 9.6, 9.7, version=version)
        following = creates("next", 13, 9.8, version=version + 1)
        assert found([*killed, *later, *following], kill) == ""
    other = passes("other", 13, 9.5, 9.6, 9.7, version=3)
    assert "read version 3 when version 1 or 2 was in place" in found([*killed, *other], kill)


# What the clients saw

FAILED = Answer("lost", sent=at(8.4), ended=at(8.55), status=0, failure="reset")


def complaints(answer: Answer, *events: Event) -> str:
    return "\n".join(client_faults(Story.of([*GOOD, *events], [KILLED]), [answer]))


def test_a_clients_failure_is_laid_to_the_kill_when_only_the_killed_worker_knows_of_it() -> None:
    assert complaints(FAILED, event("request", "lost", 12, 8.45)) == ""
    assert complaints(FAILED) == ""


def test_a_clients_failure_is_not_laid_to_the_kill_when_another_worker_had_the_request() -> None:
    said = complaints(FAILED, event("request", "lost", 13, 8.45))
    assert "lost failed, and no kill explains it: reset" in said


def test_a_clients_failure_before_the_kill_or_begun_after_it_is_a_fault() -> None:
    assert "no kill explains it" in complaints(replace(FAILED, ended=at(8.45)))
    assert "no kill explains it" in complaints(replace(FAILED, sent=at(8.7), ended=at(8.8)))


def test_an_error_page_is_a_fault() -> None:
    assert "beside got 500: torn" in complaints(replace(FAILED, request="beside", status=500, failure="torn"))


def test_an_answer_that_no_worker_has_on_record_is_a_fault() -> None:
    assert "on no worker's record" in complaints(replace(FAILED, status=200, failure=""))
    good = replace(FAILED, request="beside", status=200, failure="")
    assert complaints(good) == ""
