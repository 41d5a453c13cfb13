from __future__ import annotations

import dataclasses
import json
import signal

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


def test_it_tells_what_happens_while_it_happens(cli: Cli) -> None:
    watching = Watching(cli, "file")
    assert watching.line() == "file is not there yet"
    creator = cli.start_gated(expire="1h")
    assert watching.line().startswith("file creating: ")
    cli.let_go()
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
    assert watching.line().startswith("file failed: ")
    (cli.directory / "file").unlink()
    assert watching.line() == "file gone"
    watching.process.send_signal(signal.SIGINT)
    assert cli.end(watching.process, -signal.SIGINT).stderr == ""


def test_it_tells_when_time_makes_a_file_stale(cli: Cli) -> None:
    cli.make()
    for seconds in ("1", "4", "16"):  # on a busy machine it may be stale before anybody looks
        cli.run("touch", "file")
        watching = Watching(cli, "--count", "2", "--expire", seconds, "file")
        if watching.line() == "file is fresh":
            break
    assert watching.line() == "file stale"
    cli.end(watching.process)


def test_a_touch_and_a_rollback_are_no_creations_to_it(cli: Cli) -> None:
    for word in ("one", "two"):
        cli.run("run", "--expire", "0", "--output", "file", "--keep", "1", "--stdout", "--", "echo", word)
    watching = Watching(cli, "--expire", "1h", "file")
    assert watching.line() == "file is fresh"
    for generation, command in enumerate(("touch", "rollback"), 3):
        cli.run(command, "file")
        assert watching.line().startswith(f"file stamped anew (touch or rollback): generation {generation}, by ")


def test_what_a_name_would_do_to_a_terminal_it_does_not(cli: Cli) -> None:
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
        told = cli.run(*words, status=status).stderr
        assert told
        assert all(line.isprintable() for line in told.splitlines()), told


def test_it_follows_files_in_several_directories(cli: Cli) -> None:
    (cli.directory / "folder").mkdir()
    watching = Watching(cli, "--count", "4", "file", "folder/file")
    assert watching.line() == "file is not there yet"
    assert watching.line() == "folder/file is not there yet"
    cli.make("folder/file")
    assert watching.line().startswith("folder/file c")
    cli.make("file")
    cli.end(watching.process)


def test_it_ends_when_its_time_is_over(cli: Cli) -> None:
    assert cli.run("watch", "--timeout", "0.05s", "file").stdout.count("\n") == 1


NOTHING = Status(
    state="nothing",
    age=None,
    remaining=0.0,
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
    failed_host=None,
    failed_pid=None,
    failed_since=None,
    expiretime=None,
    about=None,
)
CREATING = dataclasses.replace(NOTHING, creating=True, creating_host="web", creating_pid=7, creating_since=10.0)
FAILED = dataclasses.replace(NOTHING, failed_host="web", failed_pid=7, failed_since=10.0)
FRESH = dataclasses.replace(
    NOTHING,
    state="fresh",
    createdtime=20.0,
    generation=1,
    cost=10.0,
    host="web",
    pid=7,
    expiretime=60.0,
    about=(4, 5, 6, 1),
)
STALE = dataclasses.replace(FRESH, state="stale")
AGAIN = dataclasses.replace(FRESH, createdtime=90.0, generation=2, cost=11.0, about=(4, 5, 7, 2))
TOUCHED = dataclasses.replace(FRESH, createdtime=90.0, generation=2)
ROLLED_BACK = dataclasses.replace(TOUCHED, about=(4, 5, 7, 2))
FOREIGN = dataclasses.replace(NOTHING, state="fresh", createdtime=5.0, about=(4, 5, 6, -1))
TOUCHED_FOREIGN = dataclasses.replace(FRESH, cost=0.0)


def creating(since: float, pid: int, of: Status = NOTHING) -> Status:
    return dataclasses.replace(of, creating=True, creating_host="web", creating_pid=pid, creating_since=since)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (NOTHING, NOTHING, []),
        (FRESH, dataclasses.replace(FRESH, age=3.0, remaining=57.0), []),
        (NOTHING, CREATING, ["creating: web:7"]),
        (CREATING, CREATING, []),
        (CREATING, FRESH, ["created in 10s: generation 1, by web:7"]),
        (NOTHING, FRESH, ["created in 10s: generation 1, by web:7"]),
        (CREATING, FAILED, ["failed: web:7 made nothing"]),
        (NOTHING, FAILED, ["failed: web:7 made nothing"]),
        (FAILED, FAILED, []),
        (FAILED, creating(11.0, 8), ["creating: web:8"]),
        (CREATING, creating(11.0, 8), ["failed: web:7 made nothing", "creating: web:8"]),
        (CREATING, creating(21.0, 8, FRESH), ["created in 10s: generation 1, by web:7", "creating: web:8"]),
        (FRESH, STALE, ["stale"]),
        (STALE, AGAIN, ["created in 11s: generation 2, by web:7"]),
        (STALE, dataclasses.replace(AGAIN, about=STALE.about), ["stamped, not swapped: generation 2, by web:7"]),
        (FRESH, TOUCHED, ["stamped anew (touch or rollback): generation 2, by web:7"]),
        (STALE, ROLLED_BACK, ["stamped anew (touch or rollback): generation 2, by web:7"]),
        (FOREIGN, TOUCHED_FOREIGN, ["stamped anew (touch or rollback): generation 1, by web:7"]),
        (FOREIGN, FRESH, ["created in 10s: generation 1, by web:7"]),
        (FRESH, dataclasses.replace(STALE, invalidated="soft"), ["invalidated (soft)"]),
        (FRESH, dataclasses.replace(FRESH, state="nothing", invalidated="hard"), ["invalidated (hard)"]),
        (
            STALE,
            dataclasses.replace(AGAIN, state="stale", invalidated="soft"),
            ["created in 11s: generation 2, by web:7", "invalidated (soft)"],
        ),
        (FRESH, NOTHING, ["gone"]),
        (FRESH, dataclasses.replace(FRESH, createdtime=30.0), ["replaced by a foreign hand"]),
    ],
)
def test_what_happened_is_told_by_what_was_and_what_is(before: Status, after: Status, told: list[str]) -> None:
    assert list(Story(before).events(after)) == told


def story(*statuses: Status) -> list[str]:
    first, *others = statuses
    told = Story(first)
    return [event for status in others for event in told.events(status)]


def test_what_is_swapped_in_but_not_stamped_yet_is_not_taken_for_a_foreign_hands() -> None:
    swapped = dataclasses.replace(CREATING, state="fresh", createdtime=19.9, host=None, pid=None)
    stamped_but_locked = dataclasses.replace(FRESH, creating=True)
    assert story(NOTHING, CREATING, swapped, stamped_but_locked, FRESH) == [
        "creating: web:7",
        "created in 10s: generation 1, by web:7",
    ]


def test_a_failed_attempt_is_not_told_again_when_the_next_creator_has_the_mutex_but_not_signed_yet() -> None:
    assert story(NOTHING, CREATING, FAILED, CREATING, creating(11.0, 8), FRESH) == [
        "creating: web:7",
        "failed: web:7 made nothing",
        "creating: web:8",
        "created in 10s: generation 1, by web:7",
    ]


def test_a_lock_that_a_foreign_hand_takes_is_no_creation() -> None:
    assert story(FRESH, dataclasses.replace(FRESH, creating=True), FRESH) == []
