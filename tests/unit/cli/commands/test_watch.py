from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dogpile_fs import Status
from dogpile_fs.cli.commands.watch import Story
from tests.support.cli_processes import Cli, bytecode, cli

__all__ = ["bytecode", "cli"]  # fixtures


class Watching:
    """A ``watch`` and what it has printed, without dates, hosts and process ids."""

    def __init__(self, cli: Cli, *words: str) -> None:
        self.process = cli.start("watch", *words)

    def line(self) -> str:
        assert self.process.stdout is not None
        _date, _time, path, event = self.process.stdout.readline().rstrip("\n").split(" ", 3)
        return f"{path} {event}"


def test_watch_prints_events_as_they_happen(cli: Cli) -> None:
    watching = Watching(cli, "file")
    assert watching.line() == "file is missing"
    creator = cli.start_gated(expire="1h")
    assert watching.line().startswith("file creating: ")
    cli.open_gate()
    cli.end(creator)
    line = watching.line()
    assert line.startswith("file created in ")
    assert line.endswith(f":{creator.pid}")
    assert "generation 1" in line
    cli.run("invalidate", "file")
    assert watching.line() == "file invalidated (soft)"
    creator = cli.start_gated(expire="1h")
    assert watching.line().startswith("file creating: ")
    creator.send_signal(signal.SIGKILL)
    line = watching.line()
    assert re.fullmatch(rf"file failed once, .*s ago: died \(pid {creator.pid}\); next attempt due", line), line
    (cli.directory / "file").unlink()
    assert watching.line() == "file missing"
    watching.process.send_signal(signal.SIGINT)
    assert cli.end(watching.process, -signal.SIGINT).stderr == ""


def test_watch_prints_when_time_makes_a_file_stale(cli: Cli) -> None:
    cli.make()
    for seconds in ("1", "4", "16"):  # on a busy machine it may be stale before the first look
        cli.run("touch", "file")
        watching = Watching(cli, "--count", "2", "--expire", seconds, "file")
        if watching.line() == "file is fresh":
            break
    assert watching.line() == "file stale"
    cli.end(watching.process)


def test_watch_prints_each_failure_with_its_kind_and_when_the_next_attempt_is_due(cli: Cli) -> None:
    cli.make()
    watching = Watching(cli, "file")
    assert watching.line() == "file is fresh"
    fail = ("--force", "--backoff", "1h", "--", "sh", "-c", "exit 3")
    failing = ("run", "--expire", "never", "--output", "file", *fail)
    for failed in ("failed once, ", "failed 2 times, first "):
        cli.run(*failing, status=3)
        line = watching.line()
        if line.startswith("file creating: "):  # it was quick enough to see the attempt
            line = watching.line()
        pattern = rf"file {failed}\S+s ago: status 3 \(pid \d+\); next attempt in (1h|59m|54m|1h\d+m|5\dm)\S*"
        assert re.fullmatch(pattern, line), line
    creator = cli.start_gated("--force")
    assert watching.line() == f"file creating: {os.uname().nodename}:{creator.pid}"
    (first,) = cli.run("watch", "--count", "1", "file").stdout.splitlines()
    assert re.search(r" is fresh, failed 2 times, .*; next attempt in .*, creating: ", first), first
    creator.send_signal(signal.SIGTERM)
    cli.end(creator, -signal.SIGTERM)
    assert watching.line() == f"file ended without a result: {os.uname().nodename}:{creator.pid}"


def test_watch_prints_a_touch_and_a_rollback_as_stamps(cli: Cli) -> None:
    for word in ("one", "two"):
        cli.run("run", "--expire", "0", "--output", "file", "--keep", "1", "--stdout", "--", "echo", word)
    watching = Watching(cli, "--expire", "1h", "file")
    assert watching.line() == "file is fresh"
    for generation, command in enumerate(("touch", "rollback"), 3):
        cli.run(command, "file")
        assert watching.line().startswith(f"file stamped anew (touch or rollback): generation {generation}, by ")


def test_control_characters_of_a_name_are_not_printed(cli: Cli) -> None:
    name = "\x1b[31mred\n\x9b1m"
    cli.make(name)
    shown = "?[31mred??1m"
    assert f" {shown} is fresh\n" in cli.run("watch", "--count", "1", name).stdout
    assert cli.run("status", name).stdout.splitlines()[1].startswith(f"{shown}  fresh ")
    assert json.loads(cli.run("status", "--json", name).stdout)[0]["path"] == name
    for words, status in (
        (("run", "--force", "--expire", "1h", "-v", "--output", name, "--", "sh", "-c", "exit 3"), 3),
        (("run", "--force", "--expire", "1h", "--output", name, "--", name), 127),
        (("rollback", name), 66),
        (("status", name + "/" + name), 73),
        (("demo", "--svg", name + "/x"), 73),
    ):
        printed = cli.run(*words, status=status).stderr
        assert printed
        assert all(line.isprintable() for line in printed.splitlines()), printed


def test_watch_follows_files_in_several_directories(cli: Cli) -> None:
    (cli.directory / "folder").mkdir()
    watching = Watching(cli, "--count", "4", "file", "folder/file")
    assert watching.line() == "file is missing"
    assert watching.line() == "folder/file is missing"
    cli.make("folder/file")
    assert watching.line().startswith("folder/file c")
    cli.make("file")
    cli.end(watching.process)


def test_watch_ends_after_its_timeout(cli: Cli) -> None:
    assert cli.run("watch", "--timeout", "0.05s", "file").stdout.count("\n") == 1


MISSING = Status(
    state="missing",
    age=None,
    remaining=0.0,
    fresh_until=None,
    createdtime=None,
    generation=0,
    cost=None,
    host=None,
    pid=None,
    invalidated=None,
    creating=False,
    creating_host=None,
    creating_pid=None,
    creating_since=None,
    failures=0,
    failures_total=0,
    failed_since=None,
    failed_at=None,
    failed_type=None,
    failed_pid=None,
    retry_at=None,
    expiretime=None,
    version=None,
    resource=None,
)
CREATING = dataclasses.replace(MISSING, creating=True, creating_host="web", creating_pid=7, creating_since=10.0)
FAILED = dataclasses.replace(
    MISSING, failures=1, failures_total=1, failed_since=10.0, failed_at=10.0, failed_type="status 3", failed_pid=7
)
FAILED_ONCE = "failed once, 30s ago: status 3 (pid 7); next attempt due"
FAILED_AGAIN = dataclasses.replace(
    FAILED, failures=3, failures_total=3, failed_at=40.0, failed_type="died", failed_pid=8, retry_at=52.0
)
FAILED_OFTEN = "failed 3 times, first 30s ago: died (pid 8); next attempt in 12s"
FRESH = dataclasses.replace(
    MISSING,
    state="fresh",
    createdtime=20.0,
    generation=1,
    cost=10.0,
    host="web",
    pid=7,
    expiretime=60.0,
    version=(4, 5, 6, 1),
)
STALE = dataclasses.replace(FRESH, state="stale")
AGAIN = dataclasses.replace(FRESH, createdtime=90.0, generation=2, cost=11.0, version=(4, 5, 7, 2))
TOUCHED = dataclasses.replace(FRESH, createdtime=90.0, generation=2)
ROLLED_BACK = dataclasses.replace(TOUCHED, version=(4, 5, 7, 2))
UNSTAMPED = dataclasses.replace(MISSING, state="fresh", createdtime=5.0, version=(4, 5, 6, 1), resource="file")
TOUCHED_UNSTAMPED = dataclasses.replace(FRESH, cost=0.0)


def creating(since: float, pid: int, of: Status = MISSING) -> Status:
    return dataclasses.replace(of, creating=True, creating_host="web", creating_pid=pid, creating_since=since)


@pytest.mark.parametrize(
    ("before", "after", "events"),
    [
        (MISSING, MISSING, []),
        (FRESH, dataclasses.replace(FRESH, age=3.0, remaining=57.0), []),
        (MISSING, CREATING, ["creating: web:7"]),
        (CREATING, CREATING, []),
        (CREATING, FRESH, ["created in 10s: generation 1, by web:7"]),
        (MISSING, FRESH, ["created in 10s: generation 1, by web:7"]),
        (CREATING, FAILED, [FAILED_ONCE]),
        (MISSING, FAILED, [FAILED_ONCE]),
        (FAILED, FAILED, []),
        (FAILED, FAILED_AGAIN, [FAILED_OFTEN]),
        (MISSING, FAILED_AGAIN, [FAILED_OFTEN]),
        (FAILED, creating(11.0, 8, FAILED), ["creating: web:8"]),
        (CREATING, creating(11.0, 8, FAILED), [FAILED_ONCE.partition(";")[0], "creating: web:8"]),
        (CREATING, creating(11.0, 8), ["ended without a result: web:7", "creating: web:8"]),
        (CREATING, MISSING, ["ended without a result: web:7"]),
        (CREATING, dataclasses.replace(MISSING, creating=True), []),
        (
            CREATING,
            dataclasses.replace(FRESH, failures_total=1),
            ["failed", "created in 10s: generation 1, by web:7"],
        ),
        (
            CREATING,
            dataclasses.replace(STALE, failures=1, failures_total=2, failed_type="ValueError", failed_since=30.0),
            [
                "failed",
                "created in 10s: generation 1, by web:7",
                "failed once, 10s ago: ValueError; next attempt due",
                "stale",
            ],
        ),
        (FRESH, dataclasses.replace(STALE, state="expired"), ["expired"]),
        (CREATING, creating(21.0, 8, FRESH), ["created in 10s: generation 1, by web:7", "creating: web:8"]),
        (FRESH, STALE, ["stale"]),
        (STALE, AGAIN, ["created in 11s: generation 2, by web:7"]),
        (
            STALE,
            dataclasses.replace(AGAIN, version=STALE.version),
            ["stamped, not swapped: generation 2, by web:7"],
        ),
        (FRESH, TOUCHED, ["stamped anew (touch or rollback): generation 2, by web:7"]),
        (STALE, ROLLED_BACK, ["stamped anew (touch or rollback): generation 2, by web:7"]),
        (UNSTAMPED, TOUCHED_UNSTAMPED, ["stamped anew (touch or rollback): generation 1, by web:7"]),
        (UNSTAMPED, FRESH, ["stamped, not swapped: generation 1, by web:7"]),
        (UNSTAMPED, dataclasses.replace(FRESH, version=(4, 5, 7, 1)), ["created in 10s: generation 1, by web:7"]),
        (FRESH, dataclasses.replace(STALE, invalidated="soft"), ["invalidated (soft)"]),
        (FRESH, dataclasses.replace(FRESH, state="missing", invalidated="hard"), ["invalidated (hard)"]),
        (
            STALE,
            dataclasses.replace(AGAIN, state="stale", invalidated="soft"),
            ["created in 11s: generation 2, by web:7", "invalidated (soft)"],
        ),
        (FRESH, MISSING, ["missing"]),
        (FRESH, dataclasses.replace(FRESH, createdtime=30.0), ["replaced by another program"]),
    ],
)
def test_two_statuses_give_the_events_between_them(
    monkeypatch: pytest.MonkeyPatch, before: Status, after: Status, events: list[str]
) -> None:
    monkeypatch.setattr(time, "time", lambda: 40.0)
    assert [happening.text for happening in Story(before).events(after)] == events


def story(*statuses: Status) -> list[str]:
    first, *others = statuses
    followed = Story(first)
    return [happening.text for status in others for happening in followed.events(status)]


@pytest.mark.parametrize(
    ("before", "after", "event"),
    [
        (MISSING, CREATING, "creating"),
        (MISSING, FRESH, "created"),
        (STALE, dataclasses.replace(AGAIN, version=STALE.version), "unchanged"),
        (FRESH, TOUCHED, "stamped"),
        (CREATING, FAILED, "failed"),
        (FAILED, FAILED_AGAIN, "died"),
        (CREATING, MISSING, "ended"),
        (FRESH, dataclasses.replace(STALE, invalidated="soft"), "invalidated"),
        (FRESH, STALE, "stale"),
        (FRESH, dataclasses.replace(STALE, state="expired"), "expired"),
        (FRESH, MISSING, "missing"),
        (FRESH, dataclasses.replace(FRESH, createdtime=30.0), "replaced"),
    ],
)
def test_each_event_has_a_word_and_facts_with_the_names_of_status(
    before: Status, after: Status, event: str
) -> None:
    (happening,) = Story(before).events(after)
    assert happening.event == event
    assert happening.facts.keys() <= dataclasses.asdict(after).keys()
    assert happening.facts == {
        name: getattr(after if event != "ended" else before, name) for name in happening.facts
    }


def test_a_version_that_is_swapped_in_and_not_stamped_yet_is_not_taken_for_another_programs() -> None:
    swapped = dataclasses.replace(CREATING, state="fresh", createdtime=19.9, version=FRESH.version)
    stamped_but_locked = dataclasses.replace(FRESH, creating=True)
    assert story(MISSING, CREATING, swapped, stamped_but_locked, FRESH) == [
        "creating: web:7",
        "created in 10s: generation 1, by web:7",
    ]


def test_a_failed_attempt_is_printed_once_though_the_next_creator_is_not_on_record_yet() -> None:
    # A dead attempt is a failure; until the next holder of the mutex has counted it, it may look as if it ran.
    failed, *others = story(MISSING, CREATING, FAILED, CREATING, creating(11.0, 8, FAILED), FRESH)[1:]
    assert failed.startswith("failed once, ")
    assert others == [
        "creating: web:8",
        "created in 10s: generation 1, by web:7",
    ]


def test_a_lock_that_another_program_takes_is_no_creation() -> None:
    assert story(FRESH, dataclasses.replace(FRESH, creating=True), FRESH) == []


def watched_as_json(cli: Cli, *words: str) -> Iterator[dict[str, Any]]:
    """Yield the objects that ``watch --json`` prints."""
    process = cli.start("watch", "--json", *words)
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)
    cli.end(process)


def test_watch_prints_an_object_for_each_event_with_the_names_of_status(cli: Cli) -> None:
    began = time.time()
    watched = watched_as_json(cli, "--count", "7", "file")
    first = next(watched)
    assert (first["path"], first["event"], first["state"], first["generation"]) == (
        "file",
        "watching",
        "missing",
        0,
    )
    assert began <= first["time"] <= time.time()
    names = {*first} - {"time", "path", "event"}
    creator = cli.start_gated(expire="1h")
    creating = next(watched)
    assert (creating["event"], creating["creating_pid"]) == ("creating", creator.pid)
    assert creating["creating_host"] == os.uname().nodename
    assert began <= creating["creating_since"] <= creating["time"]
    cli.open_gate()
    cli.end(creator)
    created = next(watched)
    assert (created["event"], created["state"], created["generation"]) == ("created", "fresh", 1)
    assert created["pid"] == creator.pid
    assert created["cost"] > 0
    cli.run("touch", "file")
    assert next(watched)["event"] == "stamped"
    cli.run("invalidate", "--hard", "file")
    invalidated = next(watched)
    assert (invalidated["event"], invalidated["invalidated"], invalidated["state"]) == (
        "invalidated",
        "hard",
        "missing",
    )
    creator = cli.start_gated(expire="1h")
    assert next(watched)["event"] == "creating"
    creator.kill()
    died = next(watched)
    assert (died["event"], died["failed_pid"], died["failures"], died["retry_at"]) == (
        "died",
        creator.pid,
        1,
        None,
    )
    assert list(watched) == []
    (status,) = json.loads(cli.run("status", "--json", "file", status=2).stdout)
    assert names <= {*status}


def test_a_failure_is_an_event_with_its_kind_and_the_time_of_the_next_attempt(cli: Cli) -> None:
    cli.make()
    watched = watched_as_json(cli, "file")
    assert next(watched)["event"] == "watching"
    words = ("--force", "--backoff", "1h", "--expire", "1h", "--output", "file", "--", "sh", "-c", "exit 3")
    cli.run("run", *words, status=3)
    event = next(watched)
    if event["event"] == "creating":  # it was quick enough to see the attempt
        event = next(watched)
    assert (event["event"], event["failed_type"], event["failures_total"]) == ("failed", "status 3", 1)
    assert event["retry_at"] > event["failed_at"] >= event["failed_since"]
    assert event["state"] == "fresh"


def test_watch_tells_a_failure_that_was_there_before_it(cli: Cli) -> None:
    cli.make()
    creator = cli.start_gated()
    cli.wait_for_line("started")
    creator.kill()
    creator.wait()
    watching = Watching(cli, "file")
    line = watching.line()
    assert line.startswith("file is ")
    assert line.endswith(f": died (pid {creator.pid})")
