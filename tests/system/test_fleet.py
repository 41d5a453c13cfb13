"""The fleet example: its verdict finds each kind of fault, and a short run over Redis is good."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from fleet.picture import svg
from fleet.record import Answer, Creation, Disturbance, History, Record
from fleet.servers import missing
from fleet.verdict import Settings, Story, faults

DEMO = Path(__file__).resolve().parents[2] / "examples" / "fleet" / "demo.py"
#: Stale after 5 s, created in 1 s.
SETTINGS = Settings(expire=5.0, creation=1.0, ttl=2.0, check=0.5, max_stale=30.0)
#: Seconds after its begin at which a creation is built, and has ended.
BUILT, ENDED = 1.0, 1.2


def created(generation: int, host: str, begin: float, outcome: str = "created") -> Creation:
    token = f"{host}-{generation}"
    return Creation(host, 1, token, generation, begin, begin + BUILT, begin + ENDED, outcome)


def answers(host: str, generation: int, maker: str, created_at: float, first: float, last: float) -> list[Answer]:
    """One answer each half second from *first* to *last*."""
    times = [first + number / 2 for number in range(int((last - first) * 2) + 1)]
    token = f"{maker}-{generation}"
    return [Answer(at, 0.01, 200, host, 1, token, generation, at - created_at) for at in times]


#: b is cut off while a creates generation 2; a is stopped in the middle of generation 3, which b creates.
CREATIONS = [
    created(1, "a", 0.0),
    created(2, "a", 7.0),
    Creation("a", 1, "a-3", 3, 14.0, 19.0, 19.1, "fenced"),
    created(3, "b", 16.5),
    created(4, "b", 24.0),
]
CUT, PAUSE = Disturbance("cut", "b", 4.0, 10.0), Disturbance("pause", "a", 14.2, 18.5, 1, "a-3")
ANSWERS = [
    *answers("a", 1, "a", 1.0, 1.5, 8.0),
    *answers("a", 2, "a", 8.0, 8.5, 17.5),
    *answers("a", 3, "b", 17.5, 18.0, 25.0),
    *answers("a", 4, "b", 25.0, 25.5, 26.0),
    *answers("b", 1, "a", 1.0, 2.0, 10.0),
    *answers("b", 2, "a", 8.0, 10.5, 17.5),
    *answers("b", 3, "b", 17.5, 18.0, 25.0),
    *answers("b", 4, "b", 25.0, 25.5, 26.0),
]


def story(
    creations: list[Creation] = CREATIONS,
    answers: list[Answer] = ANSWERS,
    disturbances: list[Disturbance] = [CUT, PAUSE],  # noqa: B006 it is not changed
) -> Story:
    return Story(creations, answers, disturbances, SETTINGS)


def changed_answers(change: Callable[[Answer], Answer]) -> Story:
    return story(answers=[change(answer) for answer in ANSWERS])


def with_creation(token: str, host: str, **changes: object) -> Story:
    return story([replace(c, **changes) if (c.token, c.host) == (token, host) else c for c in CREATIONS])  # type: ignore[arg-type]


def test_a_good_record_has_no_faults() -> None:
    assert faults(story()) == []


BROKEN: dict[str, tuple[Story, str]] = {
    "a version of two creations": (story([*CREATIONS, created(2, "b", 9.0)]), "generation 2 was created 2 times"),
    "a number left out": (story([c for c in CREATIONS if c.generation != 2]), "generation 2 was created 0 times"),
    "created while fresh": (with_creation("b-4", "b", begin=20.0), "began when the one before was 2.50 s old"),
    "two creators at a time": (
        story([*CREATIONS, replace(created(2, "b", 7.5, "fenced"), token="b-2")]),
        "began 0.50 s after the creation of generation 2 by worker 1 of a",
    ),
    "no answer": (story(answers=[]), "there is no answer on record"),
    "an error": (
        changed_answers(lambda a: replace(a, status=502, token="", host="") if a.time == 12.0 else a),
        "an answer of no host had status 502 and no data",
    ),
    "too old": (
        changed_answers(lambda a: replace(a, age=31.0) if a.time == 8.0 else a),
        "was 31.0 s old, 30 s allowed",
    ),
    "a host that does not follow": (
        story(answers=[*ANSWERS, *answers("b", 2, "a", 8.0, 24.5, 24.5)]),
        "b answered from generation 2 6.8 s after the next one was published",
    ),
    "a generation that went back": (
        story(answers=[*ANSWERS, *answers("a", 2, "a", 8.0, 19.2, 19.2)]),
        "a answered from generation 2 after generation 3",
    ),
    "a fenced version that was seen": (
        changed_answers(lambda a: replace(a, token="a-3") if (a.host, a.time) == ("a", 20.0) else a),
        "a answered from the creation of generation 3 by worker 1 of a, which fenced",
    ),
    "two versions of one number": (
        changed_answers(lambda a: replace(a, token="a-2") if (a.host, a.time) == ("a", 20.0) else a),
        "there were 2 different versions with the number 3",
    ),
    "a version of nobody": (
        changed_answers(lambda a: replace(a, token="?") if (a.host, a.time) == ("a", 20.0) else a),
        "a answered from a version of which no creation is on record",
    ),
    "a creator that failed": (
        with_creation("b-4", "b", outcome="failed"),
        "failed, and its host was not cut off",
    ),
    "no progress while a host is cut off": (
        story(disturbances=[replace(CUT, end=6.0), PAUSE]),
        "no other host has published while b was cut off",
    ),
    "silence of the host that is cut off": (
        story(answers=[a for a in ANSWERS if a.host != "b" or not 8.2 < a.time < 10.0]),
        "b did not answer while it was cut off",
    ),
    "a host that is not cut off": (
        story(answers=[*ANSWERS, *answers("b", 2, "a", 8.0, 9.5, 9.5)]),
        "b was not cut off: it answered from generation 2",
    ),
    "a host that never comes back": (
        story(answers=[a for a in ANSWERS if a.host != "b" or a.generation == 1]),
        "b has not caught up with generation 2",
    ),
    "a stopped creator that is not fenced": (
        with_creation("a-3", "a", outcome="failed"),
        "ended failed, not fenced",
    ),
    "a pause that is too short": (
        story(disturbances=[CUT, replace(PAUSE, end=16.0)]),
        "which is not beyond the ttl",
    ),
    "a pause without a takeover": (
        story([replace(c, host="a") if c.token == "b-3" else c for c in CREATIONS]),
        "no other host has taken the creation of generation 3 by worker 1 of a over",
    ),
    "a pause of nothing": (
        story(disturbances=[CUT, replace(PAUSE, token="?")]),
        "its creation is not on record",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_has_a_fault(name: str) -> None:
    broken, expected = BROKEN[name]
    assert any(expected in fault for fault in faults(broken)), faults(broken)


def test_the_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = Record(tmp_path, "a")
    for step in ("begin", "built", "created"):
        record.write(step, "t", generation=3)
    record.write("begin", "u", generation=4)
    (tmp_path / "answers.jsonl").write_text(
        '{"time":"10.5","took":"0.2","status":"200","host":"a","pid":"7","token":"t","generation":"3","age":"1.5"}\n'
        '{"time":"11.0","took":"0.1","status":"502","host":"-","pid":"","token":"","generation":"","age":""}\n'
        '{"time":"11.5","to'
    )
    history = History(tmp_path)
    history.update()
    history.update()
    first, second = history.creations
    assert (first.generation, first.outcome, first.pid, second.outcome) == (3, "created", os.getpid(), "")
    assert first.begin <= (first.built or 0) <= (first.end or 0)
    assert history.answers == [
        Answer(10.5, 0.2, 200, "a", 7, "t", 3, 1.5),
        Answer(11.0, 0.1, 502, "", 0, "", 0, 0.0),
    ]


def test_the_picture_is_well_formed_and_tells_what_was_done() -> None:
    text = svg("Fleet", "Two hosts", [("Redis", story())], "Good.")
    root = ElementTree.fromstring(text)
    told = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Redis", "a", "b", "cut off from the origin", "fenced", "generation 2", "Good."} <= told


@pytest.mark.system
def test_a_short_run_over_redis_is_good(tmp_path: Path) -> None:
    if lacks := missing(["redis"]):
        pytest.skip("; ".join(lacks))
    picture = tmp_path / "fleet.svg"
    command = [sys.executable, str(DEMO), "--origin", "redis", "--short"]
    with subprocess.Popen(
        [*command, "--svg", str(picture)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        try:
            output, _ = demo.communicate(timeout=300)
        finally:
            if demo.poll() is None:
                demo.send_signal(signal.SIGTERM)
    assert demo.returncode == 0, output
    assert "VERDICT: good" in output
    assert "its own result: fenced" in output
    ElementTree.fromstring(picture.read_text())
