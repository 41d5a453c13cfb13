from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dogpile_fs.cli import main
from dogpile_fs.cli.demo.frame import (
    ASCII,
    MONOCHROME,
    UNICODE,
    Line,
    frame,
    paint,
    palette,
    paragraph,
    picture,
    table,
)
from dogpile_fs.cli.demo.story import sentence
from dogpile_fs.cli.demo.svg import svg
from dogpile_fs.cli.demo.timeline import BACKGROUND, Event, Outcome, Span, Timeline, What, ticks
from dogpile_fs.cli.demo.verdict import faults, summary, totals
from dogpile_fs.cli.terminal import Display
from tests.support.cli_processes import Cli, bytecode, cli, logger_as_before
from tests.support.places import files_in
from tests.support.processes import PATIENCE, ended_well, in_child, wait_for
from tests.support.terminals import Terminal, stopped, widest, without_controls

__all__ = ["bytecode", "cli", "logger_as_before"]  # fixtures

unhurried = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


# A small story: worker 1 creates, the others wait; all read; worker 2 is killed while it creates version 2;
# worker 1 takes over; worker 3 reads on.

STORY = (
    Event(0.0, 1, "asks"),
    Event(0.0, 2, "asks"),
    Event(0.0, 3, "asks"),
    Event(0.0, 1, "creates", version=1),
    Event(1.0, 1, "swaps", version=1),
    Event(1.2, 1, "reads", version=1, outcome="created", waited=1.2),
    Event(1.2, 2, "reads", version=1, outcome="waited", waited=1.2),
    Event(1.2, 3, "reads", version=1, outcome="waited", waited=1.2),
    Event(2.0, 1, "leaves"),
    Event(2.0, 2, "leaves"),
    Event(2.0, 3, "leaves"),
    Event(3.5, 2, "asks"),
    Event(3.5, 2, "creates", version=2),
    Event(4.0, 2, "killed", version=2),
    Event(4.0, 3, "asks"),
    Event(4.0, 3, "reads", version=1, outcome="stale"),
    Event(4.2, 1, "asks"),
    Event(4.2, 1, "creates", version=2),
    Event(5.0, 3, "leaves"),
    Event(5.2, 1, "swaps", version=2),
    Event(5.5, 3, "asks"),
    Event(6.0, 1, "reads", version=2, outcome="created", waited=1.8),
    Event(6.0, 3, "reads", version=2, outcome="fresh", waited=0.5),
    Event(7.0, 1, "leaves"),
    Event(7.0, 3, "leaves"),
    Event(8.0, 1, "ends"),
    Event(8.0, 3, "ends"),
)

# Another one: worker 1 fails to create version 2, and worker 2 creates it after the backoff; version 3 is created
# in the background for worker 1, which reads on.

TROUBLE = (
    Event(0.0, 1, "asks"),
    Event(0.0, 2, "asks"),
    Event(0.0, 1, "creates", version=1),
    Event(1.0, 1, "swaps", version=1),
    Event(1.2, 1, "reads", version=1, outcome="created", waited=1.2),
    Event(1.2, 2, "reads", version=1, outcome="waited", waited=1.2),
    Event(3.0, 1, "leaves"),
    Event(3.0, 2, "leaves"),
    Event(3.5, 1, "asks"),
    Event(3.5, 1, "creates", version=2),
    Event(3.6, 2, "asks"),
    Event(3.6, 2, "reads", version=1, outcome="stale"),
    Event(4.4, 2, "leaves"),
    Event(4.5, 1, "raises", version=2, why="the source is down"),
    Event(4.6, 1, "reads", version=1, outcome="stale", waited=1.1),
    Event(5.2, 1, "leaves"),
    Event(5.6, 2, "asks"),
    Event(5.6, 2, "creates", version=2),
    Event(6.6, 2, "swaps", version=2),
    Event(6.8, 2, "reads", version=2, outcome="created", waited=1.2),
    Event(7.2, 2, "leaves"),
    Event(8.7, 1, "asks"),
    Event(8.7, 1, "reads", version=2, outcome="stale"),
    Event(9.0, BACKGROUND, "creates", version=3, elected=1),
    Event(9.3, 1, "leaves"),
    Event(10.0, BACKGROUND, "swaps", version=3),
    Event(10.2, BACKGROUND, "placed", version=3, age=0.2),
    Event(11.0, 2, "asks"),
    Event(11.0, 2, "reads", version=3, outcome="fresh"),
    Event(11.6, 2, "leaves"),
    Event(12.0, 1, "ends"),
    Event(12.0, 2, "ends"),
)


def changed(*events: Event, without: tuple[Event, ...] = (), workers: int = 3) -> Timeline:
    """Return the story without some events and with others added."""
    kept = [event for event in STORY if event not in without] + list(events)
    return Timeline(workers, 2.0, sorted(kept, key=lambda event: event.at))


def troubled(*events: Event, without: tuple[Event, ...] = ()) -> Timeline:
    """Return the other story, changed likewise."""
    kept = [event for event in TROUBLE if event not in without] + list(events)
    return Timeline(2, 2.0, sorted(kept, key=lambda event: event.at), backoff=1.0)


def event(at: float, worker: int, what: What) -> Event:
    """Return that event of one of the stories."""
    return next(e for e in STORY + TROUBLE if (e.at, e.worker, e.what) == (at, worker, what))


def text(lines: list[Line]) -> list[str]:
    return [paint(line, MONOCHROME) for line in lines]


@st.composite
def timelines(draw: st.DrawFn) -> tuple[Timeline, float]:
    """Draw any events of workers, and a time now."""
    workers = draw(st.integers(1, 4))
    timeline = Timeline(workers, draw(st.floats(0.1, 3)))
    for worker in range(1, workers + 1):
        at = 0.0
        version = 0
        for what in draw(st.lists(st.sampled_from(["pass", "create", "pause"]), max_size=12)):
            steps: list[Event] = [Event(0, worker, "asks")]
            version += what == "create"
            if what == "create":
                steps += [Event(0, worker, "creates", version), Event(0, worker, "swaps", version)]
            outcomes: list[Outcome] = ["created"] if what == "create" else ["fresh", "stale", "waited"]
            outcome = draw(st.sampled_from(outcomes))
            steps += [Event(0, worker, "reads", max(1, version), outcome), Event(0, worker, "leaves")]
            for step in steps:
                at += draw(st.sampled_from([0.0, 0.001, 0.2, 0.7]))
                timeline.add(Event(at, step.worker, step.what, step.version, step.outcome))
        endings: list[What | None] = ["ends", "killed", None]
        last = draw(st.sampled_from(endings))
        if last is not None:
            timeline.add(Event(at + 0.1, worker, last, version))
    return timeline, draw(st.floats(0, 12))


# The timeline.


@unhurried
@given(timelines())
def test_a_workers_spans_leave_no_gap_and_do_not_go_beyond_now(drawing: tuple[Timeline, float]) -> None:
    timeline, now = drawing
    for worker in range(1, timeline.workers + 1):
        spans = timeline.spans(worker, now)
        assert all(span.begin < span.end <= now for span in spans), spans
        assert all(one.end == other.begin for one, other in itertools.pairwise(spans)), spans


@unhurried
@given(timelines(), st.integers(1, 200))
def test_a_cell_shows_a_state_of_its_worker_at_that_time_or_none(
    drawing: tuple[Timeline, float], columns: int
) -> None:
    timeline, now = drawing
    end = 10.0
    for worker in range(1, timeline.workers + 1):
        cells = timeline.cells(worker, columns, end, now)
        assert len(cells) == columns
        spans = timeline.spans(worker, now)
        for number, state in enumerate(cells):
            begin, until = number * end / columns, (number + 1) * end / columns
            states = {
                slack: {span.state for span in spans if span.begin < until + slack and span.end > begin - slack}
                for slack in (1e-9, -1e-9)
            }
            if state is None:
                assert states[-1e-9] <= {"killed"}, (number, states)
            else:
                assert state in states[1e-9], (number, states)


def test_a_cell_shows_the_state_that_filled_most_of_it() -> None:
    timeline = Timeline(1, 2, [Event(0, 1, "asks"), Event(0.4, 1, "reads", 1, "fresh"), Event(1.3, 1, "leaves")])
    assert timeline.cells(1, 3, 3, 2) == ["fresh", "pause", None]


def test_a_short_swap_is_shown() -> None:
    timeline = Timeline(
        1,
        2,
        [
            Event(0, 1, "creates", 1),
            Event(2.001, 1, "swaps", 1),
            Event(2.002, 1, "reads", 1, "created"),
            Event(4, 1, "leaves"),
        ],
    )
    assert timeline.cells(1, 4, 4, 4) == ["create", "create", "swap", "fresh"]


def test_a_killed_worker_is_shown_in_one_cell_and_in_none_after_it() -> None:
    timeline = Timeline(1, 2, [Event(0, 1, "creates", 1), Event(1.9, 1, "killed", 1)])
    assert timeline.cells(1, 4, 4, 4) == ["create", "killed", None, None]


def test_the_datafiles_states_follow_from_the_swaps_and_the_age() -> None:
    timeline = Timeline(
        2,
        2.0,
        [
            Event(1, 1, "reads", 1, "created", age=0.5),
            Event(4, 2, "reads", 2, "created"),
            Event(4.5, 1, "reads", 2, "fresh"),
        ],
    )
    assert timeline.path_states(5) == [
        Span(0, 1, "missing"),
        Span(1, 2.5, "fresh", 1),
        Span(2.5, 4, "stale", 1),
        Span(4, 5, "fresh", 2),
    ]


def test_before_the_first_creation_the_datafile_is_missing() -> None:
    assert Timeline(1, 2.0).path_states(3) == [Span(0, 3, "missing")]
    assert Timeline(1, 2.0).path_states(0) == []


@given(st.floats(0.5, 25), st.integers(4, 30))
def test_an_axis_has_few_enough_ticks_and_none_beyond_its_end(end: float, most: int) -> None:
    named = ticks(end, most)
    assert named[0] == 0
    assert named[-1] <= end
    assert len(named) <= most


# As text.


def test_the_picture_of_the_story() -> None:
    assert text(picture(changed(), UNICODE, 53, 8.0, 8.0)) == [
        "datafile    none ·▏v1 ──────stale ╌╌╌╌╌╌╌╌▏v2 ──────",
        "worker 1    █████⇄━━━━───────────█████⇄⇄⇄⇄━━━━━─────",
        "worker 2    ░░░░░░━━━━───────███✗ killed while it wa",
        "worker 3    ░░░░░░━━━━──────────╍╍╍╍╍──░░░━━━━━─────",
        "            0 s       2         4         6        8",
    ]


def test_the_picture_of_a_creation_that_fails_and_one_in_the_background() -> None:
    assert text(picture(troubled(), UNICODE, 73, 12.0, 12.0)) == [
        "datafile    none ·▏v1 ──────stale ╌╌╌╌╌╌╌╌╌╌╌╌▏v2 ──────stale ╌▏v3 ─────",
        "worker 1    █████⇄━━━━━━━━━──█████!╍╍╍─────────────────╍╍╍╍─────────────",
        "worker 2    ░░░░░░━━━━━━━━━───╍╍╍╍─────█████⇄⇄━━───────────────────━━━──",
        "background                           started by worker 1 █████⇄",
        "            0 s       2         4         6         8         10      12",
    ]


def test_there_is_no_row_for_the_background_before_a_creation_there() -> None:
    timeline = Timeline(2, 2.0, (e for e in TROUBLE if e.at < 9))
    assert timeline.rows == [1, 2]
    timeline.add(event(9.0, BACKGROUND, "creates"))
    assert timeline.rows == [1, 2, BACKGROUND]


def test_the_picture_of_half_the_story_in_ascii() -> None:
    timeline = Timeline(3, 2.0, (e for e in STORY if e.at <= 4.0))
    assert text(picture(timeline, ASCII, 53, 8.0, 4.1)) == [
        "datafile    none .|v1 ------~~~~",
        "worker 1    #####%====-----------",
        "worker 2    ......====-------###X killed while it wa",
        "worker 3    ......====----------~",
        "            0 s       2         4         6        8",
    ]


@unhurried
@given(timelines(), st.integers(1, 200), st.integers(1, 40))
def test_a_frame_is_never_wider_or_higher_than_the_terminal(
    drawing: tuple[Timeline, float], width: int, height: int
) -> None:
    timeline, now = drawing
    shown = frame(timeline, UNICODE, width, height, 12.0, now, ("a title" * 9, "a subtitle" * 9), "totals" * 20)
    assert 1 <= len(shown) <= height
    for line in shown:
        assert len(paint(line, MONOCHROME, width)) <= width


def test_a_frame_for_a_low_terminal_keeps_the_workers_rather_than_the_legend() -> None:
    for height, titled, explained in (24, True, True), (10, True, True), (9, True, False), (6, False, False):
        shown = "\n".join(text(frame(changed(), UNICODE, 80, height, 8, 8, ("title", "subtitle"), "totals")))
        assert "worker 3" in shown
        assert "totals" in shown
        assert ("title" in shown) is titled, shown
        assert ("swaps, once" in shown) is explained, shown


def test_colours_are_added_to_the_same_text() -> None:
    lines = picture(changed(), UNICODE, 60, 8.0, 8.0)
    coloured = [paint(line, palette({"TERM": "xterm-256color"})) for line in lines]
    assert "\x1b[38;5;" in coloured[1]
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == text(lines)
    assert palette({"TERM": "xterm"}) not in (palette({"COLORTERM": "truecolor"}), MONOCHROME)


def test_totals_and_sentences_are_wrapped() -> None:
    lines = text(table([("reads", "one two three four five"), ("torn", "0")], 20))
    assert lines == ["reads  one two three", "       four five", "torn   0"]
    assert text(paragraph("one two three four five", "plain", 14)) == ["one two three", "four five"]


def told(story: tuple[Event, ...], timeline: Timeline) -> list[str]:
    """Add *story* to the empty *timeline*; return what a log has of it."""
    sentences = []
    for happened in story:
        timeline.add(happened)
        sentences.append(sentence(happened, timeline))
    return [said for said in sentences if said]


def test_a_log_has_a_sentence_for_each_important_event() -> None:
    assert told(STORY, Timeline(3, 2.0)) == [
        "worker 1 creates version 1; the others wait for it, this once",
        "worker 1 has built version 1, waits for readers to leave, and swaps",
        "version 1 is in place: 2 waited for it",
        "version 1 is stale: worker 2 creates version 2, the others read on",
        "worker 2 is killed (SIGKILL) in the middle of creating version 2",
        "worker 1 takes over: creates version 2",
        "worker 1 has built version 2, waits for readers to leave, and swaps",
        "version 2 is in place",
    ]


def test_a_log_tells_of_the_backoff_and_of_the_background() -> None:
    assert told(TROUBLE, Timeline(2, 2.0, backoff=1.0))[3:] == [
        "version 1 is stale: worker 1 creates version 2, the others read on",
        "worker 1 fails to create version 2 (the source is down): it reads version 1 like the others, and none "
        "tries again for 1 s",
        "the backoff of 1 s is over: worker 2 creates version 2",
        "worker 2 has built version 2, waits for readers to leave, and swaps",
        "version 2 is in place",
        "version 2 is stale: worker 1 has version 3 created in the background, by a process of its own, and reads "
        "on as the others do",
        "the background process has built version 3, waits for readers to leave, and swaps",
        "version 3 is in place",
    ]


def test_a_log_reports_torn_reads_and_failed_workers() -> None:
    timeline = Timeline(1, 2.0)
    assert "TORN" in str(sentence(Event(1, 1, "leaves", torn=True), timeline))
    assert "no space" in str(sentence(Event(1, 1, "fails", why="no space"), timeline))


# The verdict.


def test_the_totals_of_the_story() -> None:
    counts = totals(changed())
    assert counts.reads == "6: 1 fresh, 1 stale, 2 waited, 2 created"
    assert (counts.creations, counts.expiries, counts.killed, counts.torn) == (2, 1, 1, 0)
    assert counts.longest_wait_for_first == pytest.approx(1.2)
    assert counts.longest_wait == pytest.approx(0.5)
    assert counts.longest_for_swap == pytest.approx(0.5)
    assert counts.longest_for_creation == 0
    assert counts.takeover == pytest.approx(0.2)


def test_the_story_breaks_no_promise() -> None:
    assert faults(changed()) == []
    assert summary(changed()) == (
        "3 processes, 1 expiry, 2 creations: no process waited for a creation but for the first, and no read was "
        "torn. Worker 2 was killed in the middle of a creation, and worker 1 took over."
    )


def test_the_totals_of_the_other_story() -> None:
    counts = totals(troubled())
    assert counts.reads == "7: 1 fresh, 3 stale, 1 waited, 2 created"
    assert (counts.creations, counts.failed, counts.background, counts.killed) == (3, 1, 1, 0)
    assert counts.retry == pytest.approx(1.1)
    assert counts.longest_wait == 0, "the wait of the worker that ran the creator is its own"
    assert ("failed", "1 creation; the next attempt began 1.10 s later (backoff: 1 s)") in counts.lines()
    assert ("background", "1 creation, by a process of its own") in counts.lines()


def test_the_other_story_breaks_no_promise() -> None:
    assert faults(troubled()) == []
    assert summary(troubled()).endswith(
        "no read was torn. The creation by worker 1 failed; all read on, and the next attempt came after the "
        "backoff of 1 s. Version 3 was created by a process of its own in the background, while worker 1, which "
        "had started it, read on."
    )


DEATH = event(4.0, 2, "killed")
BROKEN = {
    "two creators at once": (
        changed(Event(4.3, 2, "killed", 2), without=(DEATH,)),
        "worker 1 began to create at 4.200 s, while worker 2",
    ),
    "a creator that never ended": (
        changed(without=(DEATH,)),
        "worker 1 began to create at 4.200 s, while worker 2",
    ),
    "one version created twice": (
        changed(
            Event(4.0, 2, "swaps", 2),
            Event(4.1, 2, "reads", 2, "created", waited=0.6),
            without=(DEATH,),
        ),
        "version 2 was created 2 times instead of once",
    ),
    "created while it was fresh": (
        changed(
            Event(2.1, 2, "asks"),
            Event(2.1, 2, "creates", 2),
            Event(2.5, 2, "killed", 2),
            Event(2.6, 1, "asks"),
            Event(2.6, 1, "creates", 2),
            Event(2.7, 1, "swaps", 2),
            Event(2.8, 1, "reads", 2, "created", waited=0.2),
            Event(2.9, 1, "leaves"),
            without=tuple(e for e in STORY if e.at > 3 and e.worker < 3),
        ),
        "version 2 was begun 1.600 s after version 1 was built",
    ),
    "waited for a later creation": (
        changed(
            Event(4.3, 3, "asks"),
            Event(5.6, 3, "reads", 2, "fresh", waited=1.3),
            without=tuple(e for e in STORY if 4 <= e.at < 6.5 and e.worker == 3),
        ),
        "worker 3 waited 0.900 s for worker 1's creation of version 2",
    ),
    "no version found after the first": (
        changed(
            Event(4.0, 3, "reads", 1, "waited"),
            without=(event(4.0, 3, "reads"),),
        ),
        "worker 3 found no version at 4.000 s",
    ),
    "a torn read": (
        changed(Event(5.0, 3, "leaves", torn=True), without=(event(5.0, 3, "leaves"),)),
        "worker 3 read a torn datafile",
    ),
    "a worker that failed": (
        changed(Event(8.0, 3, "fails", why="OSError: no space"), without=(event(8.0, 3, "ends"),)),
        "worker 3 failed at 8.00 s: OSError: no space",
    ),
    "no expiry": (
        changed(without=tuple(e for e in STORY if e.at > 3)),
        "no expiry was seen",
    ),
    "an attempt within the backoff": (
        troubled(
            Event(5.3, 2, "asks"),
            Event(5.3, 2, "creates", 2),
            without=(event(5.6, 2, "asks"), event(5.6, 2, "creates")),
        ),
        "worker 1 failed to create version 2, and the next attempt began 0.800 s later, within the backoff",
    ),
    "no attempt after the backoff": (
        troubled(without=tuple(e for e in TROUBLE if e.at > 5.5 and e.what != "ends")),
        "worker 1 failed to create version 2, and none tried again",
    ),
    "waited for a creation that failed": (
        troubled(
            Event(4.5, 2, "reads", 1, "stale", waited=0.9),
            without=(event(3.6, 2, "reads"), event(4.4, 2, "leaves")),
        ),
        "worker 2 waited 0.900 s for worker 1's creation of version 2",
    ),
    "two creators at once, one in the background": (
        troubled(Event(9.5, 2, "asks"), Event(9.5, 2, "creates", 3), Event(9.6, 2, "killed", 3)),
        "worker 2 began to create at 9.500 s, while the background process",
    ),
    "waited for its own creation in the background": (
        troubled(
            Event(10.3, 1, "reads", 3, "fresh", waited=1.6),
            Event(10.4, 1, "leaves"),
            without=(event(8.7, 1, "reads"), event(9.3, 1, "leaves")),
        ),
        "worker 1, which had version 3 created in the background, did not read before that was built",
    ),
    "a creation that failed and was not planned to": (
        troubled(
            Event(6.8, 2, "reads", 1, "stale", waited=1.2),
            without=(event(6.6, 2, "swaps"), event(6.8, 2, "reads")),
        ),
        "worker 2 began to create version 2, which was never in place",
    ),
    "a process in the background that died": (
        troubled(without=(event(10.0, BACKGROUND, "swaps"), event(10.2, BACKGROUND, "placed"))),
        "the background process began to create version 3, which was never in place",
    ),
    "a creation in the background that failed": (
        troubled(
            Event(10.2, BACKGROUND, "fails", why="version 3 is not in place"),
            without=(event(10.2, BACKGROUND, "placed"),),
        ),
        "the background process failed at 10.20 s: version 3 is not in place",
    ),
    "nothing at all": (Timeline(3, 2.0), "nothing was ever created"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_promise_is_a_fault(case: str) -> None:
    timeline, fault = BROKEN[case]
    assert any(said.startswith(fault) for said in faults(timeline)), faults(timeline)


# The SVG.

SVG = "{http://www.w3.org/2000/svg}"


def drawn(timeline: Timeline) -> ElementTree.Element:
    return ElementTree.fromstring(svg(timeline, "a <title>", "a & subtitle", [("reads", "6")], ["That is all."]))


def of_class(picture: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [element for element in picture.iter() if element.get("class") == kind]


def test_the_svg_has_a_bar_for_every_span_and_one_in_the_legend() -> None:
    for timeline in (changed(), troubled()):
        picture = drawn(timeline)
        spans = [span for row in timeline.rows for span in timeline.spans(row, timeline.end)]
        for state in ("fresh", "stale", "wait", "create", "raise", "swap"):
            assert len(of_class(picture, state)) == sum(span.state == state for span in spans) + 1, state
        assert len(of_class(picture, "killed")) == 1 + len(timeline.events("killed"))


def test_the_svg_says_which_worker_started_the_creation_in_the_background() -> None:
    texts = [element.text for element in drawn(troubled()).iter(SVG + "text")]
    assert {"background", "started by worker 1"} < {*texts}


@unhurried
@given(timelines())
def test_every_element_of_the_svg_lies_inside_it(drawing: tuple[Timeline, float]) -> None:
    picture = drawn(drawing[0])
    _, _, width, height = map(float, str(picture.get("viewBox")).split())
    for element in picture.iter():
        if element.tag in (SVG + "rect", SVG + "text"):
            x, y = float(element.get("x", "0")), float(element.get("y", "0"))
            assert 0 <= x <= x + float(element.get("width", "0")) <= width + 0.1, element.attrib
            assert 0 <= y <= y + float(element.get("height", "0")) <= height, element.attrib


def test_the_svg_is_self_contained_and_says_what_it_shows() -> None:
    source = svg(changed(), "a <title>", "a & subtitle", [("reads", "6")], ["That is all."])
    picture = ElementTree.fromstring(source)
    texts = [element.text for element in picture.iter(SVG + "text")]
    for said in ("a <title>", "a & subtitle", "reads", "6", "That is all.", "worker 3", "0 s", "8 s", "creates"):
        assert said in texts, texts
    assert picture.findtext(SVG + "title") == "a <title>"
    assert "prefers-color-scheme:dark" in source
    assert "href" not in source
    assert "url(" not in source


def test_the_svg_of_a_timeline_without_events_is_valid() -> None:
    assert drawn(Timeline(2, 2.0)).tag == SVG + "svg"


# Real processes.


@pytest.fixture
def own_tmpdir(cli: Cli, tmp_path: Path) -> Path:
    directory = tmp_path / "tmp"
    directory.mkdir()
    cli.environment.update(TMPDIR=str(directory), PYTHONUTF8="1")
    for variable in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        cli.environment.pop(variable, None)
    return directory


def processes_in(directory: Path) -> set[int]:
    """Return the running processes whose current directory that is: those that a test's demo started."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.readlink(f"/proc/{name}/cwd") == str(directory):
                    found.add(int(name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                pass  # the process has ended, or is another user's
    return found


def wait_for_workers(cli: Cli) -> set[int]:
    return wait_for(lambda: (len(found := processes_in(cli.directory)) == 9 and found) or None, "8 workers")


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/cwd"), reason="looks for processes in /proc")


def test_a_whole_demo_as_a_log_and_a_picture(cli: Cli, own_tmpdir: Path) -> None:
    cli.environment["FORCE_COLOR"] = "1"  # --plain comes first
    demo = cli.run("demo", "--plain", "--svg", "picture.svg", encoding="utf-8")
    log = demo.stdout
    assert demo.stderr == ""
    assert "\x1b" not in log
    counts = re.search(r"^reads +(\d+): (\d+) fresh, (\d+) stale, (\d+) waited, (\d+) created$", log, re.MULTILINE)
    assert counts, log
    reads, *kinds = map(int, counts.groups())
    assert reads == sum(kinds)
    assert min(kinds) > 0, log
    assert re.search(r"^torn reads +0$", log, re.MULTILINE), log
    creations = len(re.findall(r"^ +[0-9.]+ s  version \d+ is in place", log, re.MULTILINE))
    assert kinds[3] + 1 == creations >= 4
    assert re.search(
        rf"^creations +{creations}: the first, and 1 per expiry \({creations - 1}\)$", log, re.MULTILINE
    )
    flat = " ".join(log.split())
    assert (
        f"{creations} creations: no process waited for a creation but for the first, and no read was torn." in flat
    )
    victim = re.search(r"worker (\d) is killed \(SIGKILL\)", log)
    assert victim, log
    assert f"Worker {victim[1]} was killed in the middle of a creation" in flat
    failed = re.search(r"([0-9.]+) s  worker (\d) fails to create version (\d)", log)
    assert failed, log
    again = re.search(rf"([0-9.]+) s  the backoff of 0.6 s is over: worker \d creates version {failed[3]}", log)
    assert again, log
    assert float(again[1]) - float(failed[1]) > 0.5
    assert f"The creation by worker {failed[2]} failed; all read on" in flat
    starter = re.search(r"worker (\d) has version (\d) created in the background", log)
    assert starter, log
    assert (
        f"Version {starter[2]} was created by a process of its own in the background, while worker {starter[1]}"
        in flat
    )
    assert log.endswith("The picture is in picture.svg\n")
    picture = ElementTree.parse(cli.directory / "picture.svg").getroot()
    # One was killed, one failed, and one is the legend's.
    assert len(of_class(picture, "create")) == creations + 3
    assert len(of_class(picture, "raise")) == 2
    assert os.listdir(own_tmpdir) == []
    assert files_in(cli.directory) == ["gate", "picture.svg"]


APART = """
import sys, tempfile
from dogpile_fs.cli import main
from dogpile_fs.cli.demo import workers

class Apart(workers.Datafile):
    def __init__(self, *given, **options):
        super().__init__(*given, directory=tempfile.mkdtemp(), **options)

workers.Datafile = Apart
sys.exit(main(["demo", "--plain", "--seconds", "4"]))
"""


def test_workers_with_separate_locks_break_a_promise(cli: Cli, own_tmpdir: Path) -> None:
    demo = subprocess.run(
        [sys.executable, "-c", APART],
        cwd=cli.directory,
        env=cli.environment,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )
    assert demo.returncode == 1, demo
    flat = " ".join(demo.stdout.split())
    found = r"NOT AS PROMISED: worker \d began to create at [0-9.]+ s, while worker \d"
    assert re.search(found, flat), demo.stdout
    assert "no process waited" not in flat


def test_a_picture_that_cannot_be_made_is_refused_before_the_demo(cli: Cli) -> None:
    (cli.directory / "file").touch()
    for file, why, status in (
        ("missing/picture.svg", "does not exist", os.EX_CANTCREAT),
        ("missing/", "names no file", os.EX_USAGE),
        (".", "is a directory", os.EX_CANTCREAT),
        ("file/picture.svg", "is no directory", os.EX_CANTCREAT),
        ("", "names no file", os.EX_USAGE),
    ):
        refused = cli.run("demo", "--plain", "--svg", file, status=status)
        assert why in refused.stderr
        assert refused.stdout == "", "the demo ran before the path was checked"


def test_a_picture_without_permission_to_write_is_refused_before_the_demo(
    tmp_path: Path, logger_as_before: None, capfd: pytest.CaptureFixture[str]
) -> None:
    private = tmp_path / "private"
    (private / "folder").mkdir(parents=True)

    def nobody() -> None:
        os.chdir(tmp_path)
        private.chmod(0)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        for file in ("private/picture.svg", "private/folder/picture.svg"):
            assert main(["demo", "--plain", "--svg", file]) == os.EX_NOPERM

    tmp_path.chmod(0o755)
    assert ended_well(in_child(nobody)), capfd.readouterr().err
    private.chmod(0o700)
    printed = capfd.readouterr()
    assert printed.err.count("private") >= 2
    assert printed.out == "", "the demo ran before the path was checked"


def test_the_demo_runs_with_standard_output_closed(cli: Cli) -> None:
    words = cli.command("demo", "--plain", "--seconds", "6", "--workers", "2", "--svg", "picture.svg")
    demo = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *words],
        cwd=cli.directory,
        env=cli.environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    assert demo.stderr == ""
    assert demo.returncode in (0, 1)  # 1: on a loaded machine it has not shown all in so few seconds
    assert cli.text("picture.svg").endswith("</svg>\n")


@pytest.mark.parametrize(
    "option", ["--seconds=3", "--seconds=21", "--seconds=nan", "--seconds=x", "--workers=1", "--workers=x"]
)
def test_too_little_or_too_much_to_show_is_refused(cli: Cli, option: str) -> None:
    assert "is not from" in cli.run("demo", option, status=os.EX_USAGE).stderr


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_demo_and_all_its_workers(cli: Cli, own_tmpdir: Path, number: signal.Signals) -> None:
    demo = cli.start("demo", "--plain")
    wait_for_workers(cli)
    demo.send_signal(number)
    cli.end(demo, -number)
    assert processes_in(cli.directory) == set()
    assert os.listdir(own_tmpdir) == []


@needs_proc
@pytest.mark.parametrize("until", ["created in the background", "the background process has built"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_creation_in_the_background_ends_with_the_demo(
    cli: Cli, own_tmpdir: Path, number: signal.Signals, until: str
) -> None:
    demo = cli.start("demo", "--plain", "--seconds", "20", stdout=subprocess.PIPE)
    assert demo.stdout is not None
    for line in demo.stdout:
        if until in line:
            break
    demo.send_signal(number)
    assert cli.end(demo, -number).stderr == ""
    if number == signal.SIGKILL:  # nothing is left that could wait for them
        wait_for(lambda: not processes_in(cli.directory), "the end of all processes", patience=10)
    assert processes_in(cli.directory) == set()


@needs_proc
def test_workers_of_a_killed_demo_end_by_themselves(cli: Cli, own_tmpdir: Path) -> None:
    demo = cli.start("demo", "--plain", "--seconds", "20")
    wait_for_workers(cli)
    demo.kill()
    cli.end(demo, -signal.SIGKILL)
    wait_for(lambda: not processes_in(cli.directory), "the workers' end", patience=10)


# In a terminal.


@pytest.fixture
def terminals(cli: Cli, own_tmpdir: Path) -> Iterator[list[Terminal]]:
    terminals: list[Terminal] = []
    yield terminals
    for terminal in terminals:
        terminal.process.kill()
        os.close(terminal.master)


def test_in_a_terminal_the_demo_is_live_fits_and_restores_the_screen(cli: Cli, terminals: list[Terminal]) -> None:
    terminal = Terminal(cli, "demo", "--seconds", "6", columns=90)
    terminals.append(terminal)
    wide = terminal.read_until(r"1\.\d s   reads ")
    assert widest(wide) <= 90
    assert max(frame.count("\n") for frame in wide.split("\x1b[H")) < 24
    terminal.resize(40, 12)
    terminal.read_until("\x1b\\[2J")  # the next frame has the new size
    assert widest(terminal.read_until(r"3\.\d s   reads ")) <= 40
    left = terminal.end(0)
    assert terminal.is_restored
    assert "\x1b[?" not in left
    assert widest(left) <= 40
    flat = " ".join(without_controls(left).split())
    assert "8 processes share one datafile" in flat
    assert "torn reads 0" in flat
    assert "no process waited for a creation but for the first, and no read was torn." in flat


@needs_proc
def test_ctrl_c_ends_the_demo_and_restores_the_screen(
    cli: Cli, terminals: list[Terminal], own_tmpdir: Path
) -> None:
    terminal = Terminal(cli, "demo")
    terminals.append(terminal)
    terminal.read_until(r"0\.\d s   reads ")
    wait_for_workers(cli)
    terminal.type(b"\x03")
    assert "Traceback" not in terminal.end(-signal.SIGINT)
    assert terminal.is_restored
    assert processes_in(cli.directory) == set()
    assert os.listdir(own_tmpdir) == []


@needs_proc
def test_ctrl_z_restores_the_screen_until_the_demo_continues(cli: Cli, terminals: list[Terminal]) -> None:
    terminal = Terminal(cli, "demo", "--seconds", "20", job=True)
    terminals.append(terminal)
    pid = terminal.process.pid
    terminal.read_until(r"0\.\d s   reads ")
    os.killpg(pid, signal.SIGTSTP)
    wait_for(lambda: stopped(pid), "the demo to be stopped")
    terminal.read_until("\x1b\\[\\?1049l")
    assert terminal.is_restored
    os.killpg(pid, signal.SIGCONT)
    terminal.read_until("\x1b\\[\\?1049h.*reads")
    assert not terminal.is_restored
    os.kill(pid, signal.SIGINT)
    terminal.end(-signal.SIGINT)
    assert terminal.is_restored


def test_no_color_leaves_colours_out_of_the_live_demo(cli: Cli, terminals: list[Terminal]) -> None:
    cli.environment["NO_COLOR"] = "1"
    terminal = Terminal(cli, "demo")
    terminals.append(terminal)
    sent = terminal.read_until(r"0\.\d s   reads ")
    assert re.findall(r"\x1b\[[0-9;]*m", sent) == []
    terminal.type(b"\x03")
    terminal.end(-signal.SIGINT)


def test_a_dumb_terminal_is_sent_no_control_codes(cli: Cli, terminals: list[Terminal]) -> None:
    terminal = Terminal(cli, "demo", term="dumb")
    terminals.append(terminal)
    assert "\x1b" not in terminal.read_until("version 1 is in place")
    terminal.type(b"\x03")
    assert "\x1b" not in terminal.end(-signal.SIGINT)


def test_an_error_inside_the_display_restores_the_screen() -> None:
    master, slave = os.openpty()

    def fail(stream: TextIO) -> None:
        with Display(stream) as display:
            display.show(["a frame"])
            raise ZeroDivisionError

    with open(slave, "w") as stream, pytest.raises(ZeroDivisionError):
        fail(stream)
    sent = ""
    with suppress(OSError):  # EIO: all was read
        while received := os.read(master, 65536).decode():
            sent += received
    os.close(master)
    assert "a frame" in sent
    assert sent.endswith("\x1b[?25h\x1b[?1049l")
