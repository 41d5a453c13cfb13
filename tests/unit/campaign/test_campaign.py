"""The checker of the campaign's histories: it reports each promise that is broken on purpose, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.campaign.account import History
from tests.campaign.histories import Plan, Round
from tests.campaign.history import Event, Journal, Operation, operations_in
from tests.campaign.promises import violations
from tests.campaign.subjects import KINDS, Found, contents_of, parsed

EXPIRETIME = 10.0

#: (operation, what, when, more); an operation is named by its process and its number: "w1#1".
Line = tuple[str, str, float, dict[str, Any]]


def line(name: str, what: str, at: float, **more: Any) -> Line:
    return name, what, at, more


def whole(name: str, do: str, since: float, until: float, *inside: Line, **more: Any) -> list[Line]:
    """An operation that ended well; what happened inside is told without its name."""
    return [line(name, "began", since, do=do, **more), *inside, line(name, "ended", until)]


def creation(name: str, since: float, until: float, version: int, do: str = "refresh") -> list[Line]:
    """One that ended well, in the middle of an operation of its own."""
    return whole(
        name,
        do,
        since - 0.1,
        until + 0.1,
        line(name, "creating", since, version=version),
        line(name, "created", until),
        line(name, "refreshed", until + 0.05, created=True),
    )


def reading(name: str, since: float, until: float, version: int, do: str = "pass", **more: Any) -> list[Line]:
    """A block in which *version* is read."""
    return whole(
        name,
        do,
        since,
        until + 0.01,
        line(name, "entered", since + 0.01),
        line(name, "read", since + 0.02, version=version, whole=more.pop("sound", True)),
        line(name, "leaving", until),
        **more,
    )


def tampering(file: str, since: float, until: float) -> list[Line]:
    return whole("n", "tamper", since, until, file=file, how="delete")


def history(*parts: list[Line], **options: Any) -> History:
    operations: dict[str, Operation] = {}
    for name, what, at, more in sorted((line for part in parts for line in part), key=lambda line: line[2]):
        process, _, number = name.partition("#")
        operation = operations.setdefault(name, Operation(process, int(number or 0), []))
        operation.events.append(Event(process, operation.op, what, at, 1e9 + at, more))
    return History(sorted(operations.values(), key=lambda o: o.began.at), EXPIRETIME, **options)


def broken(*parts: list[Line], **options: Any) -> set[str]:
    """Which promises are, in the history that *parts* make."""
    return {violation.promise for violation in violations(history(*parts, **options))}


GOOD = [
    creation("w1#1", 1, 2, version=100),
    reading("w2#1", 3, 4, version=100),
    creation("w2#2", 20, 21, version=200),
    reading("w1#2", 20.5, 25, version=100),
    reading("w1#3", 22, 23, version=200),
]


def test_a_history_in_which_all_went_well_breaks_nothing() -> None:
    assert broken(*GOOD) == set()


def test_two_creators_at_a_time_are_reported_unless_the_lock_was_tampered_with() -> None:
    two = [creation("w1#1", 1, 3, version=100), creation("w2#1", 2, 4, version=200, do="force")]
    assert broken(*two) == {"1"}
    assert broken(*two, tampering("lock", 1.5, 1.6)) == set()
    assert broken(*two, tampering("sidecar", 1.5, 1.6)) == {"1"}


def test_a_creator_that_was_killed_counts_as_long_as_it_certainly_lived() -> None:
    dead = [line("w1#1", "began", 0, do="refresh"), line("w1#1", "creating", 1, version=100)]
    assert broken(dead, creation("w2#1", 2, 3, version=200)) == set()
    assert broken([*dead, line("w1#1", "created", 2.5)], creation("w2#1", 2, 3, version=200)) == {"1"}


def test_a_second_creation_within_one_expiry_is_reported_unless_something_asked_for_it() -> None:
    first = creation("w1#1", 1, 2, version=100)
    assert broken(first, creation("w2#1", 5, 6, version=200)) == {"1"}
    assert broken(first, creation("w2#1", 5, 6, version=200, do="force")) == set()
    assert broken(first, creation("w2#1", 5, 6, version=200), whole("w3#1", "soft", 3, 3.1)) == set()
    assert broken(first, creation("w2#1", 5, 6, version=200), tampering("sidecar", 3, 3.1)) == set()
    assert broken(first, creation("w2#1", 5, 6, version=200), clocks=True) == set()
    assert broken(first, creation("w2#1", 12, 13, version=200)) == set()


def test_who_waits_for_another_creator_although_there_is_something_is_reported() -> None:
    first = creation("w1#1", 1, 2, version=100)
    hanging = [line("w1#2", "began", 12.9, do="refresh"), line("w1#2", "creating", 13, version=200)]
    waiting = whole("w2#1", "pass", 14, 19, line("w2#1", "entered", 18.9))
    assert broken(first, hanging, waiting) == {"2"}
    assert broken(first, hanging, waiting, whole("w3#1", "hard", 12, 12.1)) == set()
    assert broken(hanging, waiting) == set()
    stopped = [
        line("n#1", "began", 14, do="stop"),
        line("n#1", "stopped", 14.1, process="w2"),
        line("n#1", "continued", 18.8, process="w2"),
    ]
    assert broken(first, hanging, waiting, stopped) == set()


def test_a_reader_beside_a_writer_is_reported_unless_their_lock_was_tampered_with() -> None:
    writer = whole("w1#1", "write", 1, 4, line("w1#1", "writing", 2), line("w1#1", "written", 3))
    reader = reading("w2#1", 2.1, 2.5, version=0)
    assert broken(writer, reader, synced=True) == {"3"}
    assert broken(writer, reader, tampering("rwlock", 1.5, 1.6), synced=True) == set()
    assert broken(writer, reading("w2#1", 3.1, 3.5, version=0), synced=True) == set()


def test_a_swap_under_a_readers_nose_is_reported() -> None:
    reader = reading("w2#1", 1, 3, version=100)
    assert broken([*reader, line("w2#1", "reread", 2.5, version=200, whole=True)], synced=True) == {"3"}


def test_a_writer_who_waits_for_readers_that_came_after_him_is_reported() -> None:
    writer = whole("w1#1", "write", 1, 9, line("w1#1", "writing", 8), line("w1#1", "written", 8.5))
    overlapping = [reading(f"w2#{n}", n * 0.9, n * 0.9 + 1, version=0) for n in range(1, 8)]
    assert broken(writer, *overlapping, synced=True) == {"4"}
    before_him = reading("w2#1", 0.5, 7.9, version=0)
    assert broken(writer, before_him, synced=True) == set()
    dead = [line("w2#1", "began", 0.5, do="pass"), line("w2#1", "entered", 0.6)]
    reaped = [line("n#1", "began", 7.8, do="death"), line("n#1", "reaped", 7.9, process="w2")]
    assert broken(writer, dead, reaped, synced=True) == set()


def test_a_torn_read_is_reported_whatever_else_happened() -> None:
    torn = reading("w2#1", 3, 4, version=100, sound=False)
    assert broken(*GOOD[:1], torn, tampering("directory", 0, 9)) == {"whole"}


def test_a_read_of_what_was_replaced_before_it_began_is_reported() -> None:
    assert broken(*GOOD, reading("w3#1", 22, 23, version=100)) == {"current"}
    assert broken(*GOOD, reading("w3#1", 22, 23, version=0)) == {"current"}
    assert broken(*GOOD, reading("w3#1", 21.01, 23, version=100)) == set()  # it may not have been stamped yet


def test_a_file_beside_that_is_older_than_what_was_written_last_is_reported() -> None:
    def write(name: str, since: float, until: float, version: int) -> list[Line]:
        return whole(name, "side-write", since, until, line(name, "writing-side", since + 0.01, version=version))

    def read(at: float, version: int, sound: bool = True) -> list[Line]:
        return whole(
            "w3#1", "side-read", at, at + 0.1, line("w3#1", "side", at + 0.05, version=version, whole=sound)
        )

    first, second = write("w1#1", 1, 2, 100), write("w2#1", 3, 4, 200)
    assert broken(first, second, read(5, 200)) == set()
    assert broken(first, second, read(3.5, 100)) == set()
    assert broken(first, second, read(5, 100)) == {"current"}
    assert broken(first, second, read(5, 0)) == {"current"}
    assert broken(first, second, read(5, 200, sound=False)) == {"whole"}
    assert broken(first, write("w2#1", 1.5, 4, 200), read(5, 100)) == set()


def test_a_pass_to_what_was_begun_before_a_hard_invalidation_is_reported() -> None:
    hard = whole("w3#1", "hard", 5, 5.1)
    assert broken(GOOD[0], hard, reading("w2#1", 6, 7, version=100)) == {"hard"}
    assert broken(GOOD[0], hard, reading("w2#1", 6, 7, version=100), tampering("sidecar", 5.5, 5.6)) == set()
    assert broken(GOOD[0], hard, reading("w2#1", 5.05, 7, version=100)) == set()
    # Who passes may believe for a moment in the sidecar that a foreign hand has replaced by another.
    replaced = tampering("sidecar", 4.97, 4.99)
    assert broken(GOOD[0], hard, reading("w2#1", 6, 7, version=100), replaced) == {"hard"}
    at_once = whole("w3#1", "hard", 5, 5.001)
    assert broken(GOOD[0], at_once, reading("w2#1", 5.002, 7, version=100)) == {"hard"}
    assert broken(GOOD[0], at_once, reading("w2#1", 5.002, 7, version=100), replaced) == set()


def told(at: float, createdtime: float, version: int, state: str = "stale") -> list[Line]:
    return whole(
        "w3#1",
        "status",
        at,
        at + 1,
        line("w3#1", "told", at + 0.1, state=state, createdtime=1e9 + createdtime, version=1),
        line("w3#1", "found", at + 0.2, version=version, whole=True),
    )


def test_a_createdtime_that_is_that_of_no_creation_is_reported() -> None:
    assert broken(*GOOD, told(50, 21.05, 200)) == set()
    assert broken(*GOOD, told(50, 48, 200)) == {"5"}
    failed = [line("w4#1", "began", 47, do="refresh"), line("w4#1", "creating", 47.5, version=300)]
    assert broken(*GOOD, failed, told(50, 48, 200)) == {"5"}
    returned = [*failed, line("w4#1", "created", 47.9)]
    assert broken(*GOOD, returned, told(50, 48, 300)) == set()


def test_a_stamp_of_what_is_not_in_place_is_reported() -> None:
    swapping = [
        line("w4#1", "began", 47, do="refresh"),
        line("w4#1", "creating", 47.5, version=300),
        line("w4#1", "created", 47.9),
    ]
    assert broken(*GOOD, swapping, told(50, 48, 200)) == {"6"}


def test_what_is_called_fresh_though_it_has_expired_or_was_invalidated_is_reported() -> None:
    assert broken(*GOOD, told(25, 21.05, 200, "fresh")) == set()
    assert broken(*GOOD, told(50, 21.05, 200, "fresh")) == {"7"}
    assert broken(*GOOD, told(25, 21.05, 200, "fresh"), whole("w4#1", "soft", 24, 24.1)) == {"7"}
    assert broken(*GOOD, told(25, 21.05, 200, "fresh"), whole("w4#1", "soft", 20.5, 20.6)) == set()


def test_a_refresh_that_does_not_do_what_it_says_is_reported() -> None:
    def refresh(do: str, created: bool) -> set[str]:
        return broken(whole("w1#1", do, 1, 2, line("w1#1", "refreshed", 1.9, created=created)))

    assert refresh("refresh", False) == set()
    assert refresh("refresh", True) == refresh("force", True) == refresh("force", False) == {"refresh"}


def test_a_block_in_which_one_created_and_is_given_the_old_version_is_reported() -> None:
    created = [line("w3#1", "creating", 40.1, version=300), line("w3#1", "created", 40.2)]
    assert broken(*GOOD, [*reading("w3#1", 40.3, 41, version=200), *created]) == {"current"}


def test_an_error_that_nothing_excuses_is_reported() -> None:
    def failing(error: str, ours: bool = True, **more: Any) -> list[Line]:
        return [
            line("w1#1", "began", 1, do="pass", **more),
            line("w1#1", "ended", 1.5, error=error, ours=ours, message=""),
        ]

    assert broken(failing("SidecarError")) == {"error"}
    assert broken(failing("AttributeError", ours=False, starved=True)) == {"error"}
    assert broken(failing("LockFileError", starved=True)) == set()
    assert broken(failing("LockFileError"), tampering("directory", 1.2, 1.3)) == set()
    assert broken(failing("LockFileError"), tampering("lock", 1.2, 1.3)) == {"error"}
    assert broken(failing("Refused", ours=False)) == set()
    assert broken(failing("LockTimeout", timeout=0.5)) == set()
    assert broken(failing("LockTimeout", timeout=None)) == {"error"}


def test_a_timeout_that_comes_far_too_late_is_reported() -> None:
    late = [
        line("w1#1", "began", 1, do="pass", timeout=0.5),
        line("w1#1", "ended", 9, error="LockTimeout", ours=True, message=""),
    ]
    assert broken(late) == {"timeout"}


def test_descriptors_that_are_left_open_are_reported() -> None:
    assert broken(whole("w1#1", "life", 1, 2, line("w1#1", "counted", 1.5, before=5, after=6))) == {"descriptors"}


def test_a_command_that_ends_with_a_traceback_is_reported() -> None:
    def run(status: int, said: str = "") -> set[str]:
        return broken(whole("w1#1", "command", 1, 2, line("w1#1", "exited", 1.9, status=status, said=said)))

    assert run(0) == run(3) == run(75) == set()
    assert run(1) == run(70) == run(0, "Traceback (most recent call last):") == {"error"}


def test_a_violation_shows_what_happened_from_its_first_event_to_its_last_and_nothing_else() -> None:
    first, second = creation("w1#1", 1, 3, version=100), creation("w2#1", 2, 4, version=200, do="force")
    (violation,) = violations(history(first, second, reading("w9#1", 2.5, 2.6, version=0)))
    shown = [(event.process, event.what) for event in violation.stretch]
    assert shown == [("w1", "creating"), ("w2", "began"), ("w2", "creating"), ("w1", "created")]
    assert "w2#1  creating  version=200" in str(violation)


def test_what_a_killed_process_had_written_is_read_and_half_a_line_is_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w1")
    op = journal.begin("pass", timeout=None)
    journal.note(op, "entered")
    journal.close()
    with (tmp_path / journal.process).open("a") as file:
        file.write('[1, "leav')
    (operation,) = operations_in(tmp_path)
    assert [event.what for event in operation.events] == ["began", "entered"]
    assert operation.ended is None
    assert operation.do == "pass"


def test_what_is_read_tells_its_version_and_whether_it_is_whole() -> None:
    contents = contents_of(7, 1000)
    assert parsed(contents) == Found(7)
    assert not parsed(contents[:-1]).whole
    assert not parsed(contents.replace(b"7 ", b"8 ", 1)).whole
    assert parsed(b"") == Found(-1, False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_round_ends_without_a_violation(kind: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    plan = Plan(1, kind, frozenset({"kills", "forks"}), workers=2, seconds=1.0)
    assert Round(plan, tmp_path).run() == []


def test_a_seed_stands_for_one_plan() -> None:
    assert Plan.by(7) == Plan.by(7)
    assert len({str(Plan.by(seed)) for seed in range(50)}) > 40


def test_a_mutant_is_caught(tmp_path: Path) -> None:
    """All of them are, in the campaign; here one, to see that they can be."""
    tmp_path.chmod(0o755)
    plan = Plan(1, "datafile", frozenset(), workers=3, expiretime=0.02, seconds=2.0, mutant="swaps-in-place")
    assert any(violation.startswith("whole: a torn read") for violation in Round(plan, tmp_path).run())
