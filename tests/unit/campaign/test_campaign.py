"""The checker of the campaign's histories: it reports each promise that is broken on purpose, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from tests.campaign import hand_overs
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
    """Return an operation that ended without an error; its events are named by their keywords."""
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


def test_a_second_creation_within_one_expiry_is_reported_unless_it_was_requested() -> None:
    first = creation("w1#1", 1, 2, version=100)
    assert broken(first, creation("w2#1", 5, 6, version=200)) == {"1"}
    assert broken(first, creation("w2#1", 5, 6, version=200, do="force")) == set()
    assert broken(first, creation("w2#1", 5, 6, version=200), whole("w3#1", "soft", 3, 3.1)) == set()
    assert broken(first, creation("w2#1", 5, 6, version=200), tampering("sidecar", 3, 3.1)) == set()
    assert broken(first, creation("w2#1", 5, 6, version=200), clocks=True) == set()
    assert broken(first, creation("w2#1", 12, 13, version=200)) == set()


def test_a_wait_for_another_callers_creator_while_there_is_a_version_is_reported() -> None:
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


def test_a_writer_that_waits_for_readers_that_came_after_it_is_reported() -> None:
    writer = whole("w1#1", "write", 1, 9, line("w1#1", "writing", 8), line("w1#1", "written", 8.5))
    overlapping = [reading(f"w2#{n}", n * 0.9, n * 0.9 + 1, version=0) for n in range(1, 8)]
    assert broken(writer, *overlapping, synced=True) == {"4"}
    before_him = reading("w2#1", 0.5, 7.9, version=0)
    assert broken(writer, before_him, synced=True) == set()
    dead = [line("w2#1", "began", 0.5, do="pass"), line("w2#1", "entered", 0.6)]
    reaped = [line("n#1", "began", 7.8, do="death"), line("n#1", "reaped", 7.9, process="w2")]
    assert broken(writer, dead, reaped, synced=True) == set()


def test_a_torn_read_is_reported_though_other_harm_was_done() -> None:
    torn = reading("w2#1", 3, 4, version=100, sound=False)
    assert broken(*GOOD[:1], torn, tampering("directory", 0, 9)) == {"whole"}


def test_a_read_of_a_version_that_was_replaced_before_it_began_is_reported() -> None:
    assert broken(*GOOD, reading("w3#1", 22, 23, version=100)) == {"current"}
    assert broken(*GOOD, reading("w3#1", 22, 23, version=0)) == {"current"}
    assert broken(*GOOD, reading("w3#1", 21.01, 23, version=100)) == set()  # it may not have been stamped yet


def test_a_file_beside_that_is_older_than_the_last_write_is_reported() -> None:
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


def test_a_pass_to_a_version_begun_before_a_hard_invalidation_is_reported() -> None:
    hard = whole("w3#1", "hard", 5, 5.1)
    assert broken(GOOD[0], hard, reading("w2#1", 6, 7, version=100)) == {"hard"}
    assert broken(GOOD[0], hard, reading("w2#1", 6, 7, version=100), tampering("sidecar", 5.5, 5.6)) == set()
    assert broken(GOOD[0], hard, reading("w2#1", 5.05, 7, version=100)) == set()
    # For 10 ms a pass may trust the sidecar that another program has replaced.
    replaced = tampering("sidecar", 4.97, 4.99)
    assert broken(GOOD[0], hard, reading("w2#1", 6, 7, version=100), replaced) == {"hard"}
    at_once = whole("w3#1", "hard", 5, 5.001)
    assert broken(GOOD[0], at_once, reading("w2#1", 5.002, 7, version=100)) == {"hard"}
    assert broken(GOOD[0], at_once, reading("w2#1", 5.002, 7, version=100), replaced) == set()


def reported(at: float, createdtime: float, version: int, state: str = "stale") -> list[Line]:
    return whole(
        "w3#1",
        "status",
        at,
        at + 1,
        line("w3#1", "reported", at + 0.1, state=state, createdtime=1e9 + createdtime, version=1),
        line("w3#1", "found", at + 0.2, version=version, whole=True),
    )


def test_a_createdtime_that_is_that_of_no_creation_is_reported() -> None:
    assert broken(*GOOD, reported(50, 21.05, 200)) == set()
    assert broken(*GOOD, reported(50, 48, 200)) == {"5"}
    failed = [line("w4#1", "began", 47, do="refresh"), line("w4#1", "creating", 47.5, version=300)]
    assert broken(*GOOD, failed, reported(50, 48, 200)) == {"5"}
    returned = [*failed, line("w4#1", "created", 47.9)]
    assert broken(*GOOD, returned, reported(50, 48, 300)) == set()


def twice(name: str, since: float) -> list[Line]:
    """Return a pass that creates version 300, which is gone before it is opened, and then version 400."""
    return whole(
        name,
        "pass",
        since,
        since + 4,
        line(name, "creating", since + 0.5, version=300),
        line(name, "created", since + 1),
        line(name, "creating", since + 3, version=400),
        line(name, "created", since + 3.5),
        line(name, "entered", since + 3.6),
        line(name, "read", since + 3.7, version=400, whole=True),
    )


def test_each_of_two_creations_of_one_operation_counts() -> None:
    pruned = prune(48, 48.5, older_than=0)
    assert broken(*GOOD, twice("w4#1", 46), pruned, reported(47.5, 47.1, 300)) == set()
    assert broken(*GOOD, twice("w4#1", 46), pruned, reported(50, 49.55, 400)) == set()
    assert broken(*GOOD, twice("w4#1", 46), reported(47.5, 46.2, 300)) == {"5"}
    assert broken(*GOOD, twice("w4#1", 46), creation("w2#9", 46.7, 46.8, 350, do="force")) == {"1"}


def test_a_stamp_of_a_version_that_is_not_in_place_is_reported() -> None:
    swapping = [
        line("w4#1", "began", 47, do="refresh"),
        line("w4#1", "creating", 47.5, version=300),
        line("w4#1", "created", 47.9),
    ]
    assert broken(*GOOD, swapping, reported(50, 48, 200)) == {"6"}


def test_a_fresh_state_after_an_expiry_or_an_invalidation_is_reported() -> None:
    assert broken(*GOOD, reported(25, 21.05, 200, "fresh")) == set()
    assert broken(*GOOD, reported(50, 21.05, 200, "fresh")) == {"7"}
    assert broken(*GOOD, reported(25, 21.05, 200, "fresh"), whole("w4#1", "soft", 24, 24.1)) == {"7"}
    assert broken(*GOOD, reported(25, 21.05, 200, "fresh"), whole("w4#1", "soft", 20.5, 20.6)) == set()


def change(name: str, at: float, state: str) -> list[Line]:
    """Of the input, for a tenth of a second."""
    return whole(name, "input", at, at + 0.1, state=state)


def test_a_fresh_state_whose_input_has_changed_is_reported() -> None:
    fresh = reported(25, 21.05, 200, "fresh")
    assert broken(*GOOD, fresh, change("n#1", 19, "state 1")) == set()
    assert broken(*GOOD, fresh, change("n#1", 22, "state 1")) == {"inputs"}
    assert broken(*GOOD, reported(25, 21.05, 200), change("n#1", 22, "state 1")) == set()
    # While the creator ran: its version may be made of the input before.
    assert broken(*GOOD, fresh, change("n#1", 20.5, "state 1")) == {"inputs"}
    # It may have been looked at before or after the change, at its beginning or 10 ms before.
    assert broken(*GOOD, fresh, change("n#1", 19.95, "state 1")) == set()
    assert broken(*GOOD, fresh, change("n#1", 25.05, "state 1")) == set()
    assert broken(*GOOD, fresh, change("n#1", 24.895, "state 1")) == set()
    assert broken(*GOOD, fresh, change("n#1", 24.88, "state 1")) == {"inputs"}
    # It is again what it was.
    gone, back, gone_again = (
        change(f"n#{n}", at, s) for n, at, s in [(1, 18, "missing"), (2, 22, "s"), (3, 23, "missing")]
    )
    assert broken(*GOOD, fresh, gone, back) == {"inputs"}
    assert broken(*GOOD, fresh, gone, back, gone_again) == set()
    assert broken(*GOOD, fresh, change("n#1", 22, "state 1"), tampering("sidecar", 3, 3.1)) == set()


def test_a_refresh_that_calls_a_version_fresh_whose_input_has_changed_is_reported() -> None:
    refresh = whole("w3#1", "refresh", 25, 26, line("w3#1", "refreshed", 25.9, created=False, outcome="fresh"))
    assert broken(*GOOD, refresh) == set()
    assert broken(*GOOD, refresh, change("n#1", 22, "state 1")) == {"inputs"}


def test_a_second_creation_within_one_expiry_is_right_if_the_input_has_changed() -> None:
    two = [creation("w1#1", 1, 2, version=100), creation("w2#1", 5, 6, version=200)]
    assert broken(*two, change("n#1", 3, "state 1")) == set()
    assert broken(*two, change("n#1", 7, "state 1")) == {"1"}


def failure(name: str, at: float, do: str = "refresh") -> list[Line]:
    """A creation that raises, and is counted."""
    return [
        line(name, "began", at - 0.1, do=do),
        line(name, "creating", at - 0.05, version=int(at * 100)),
        line(name, "raising", at),
        line(name, "ended", at + 0.1, error="Refused"),
    ]


def death(name: str, at: float) -> list[Line]:
    """A creator whose process ends at that moment."""
    process = name.partition("#")[0]
    return [
        line(name, "began", at - 0.1, do="refresh"),
        line(name, "creating", at - 0.05, version=int(at * 100)),
        line("n#7", "began", at, do="death"),
        line("n#7", "reaped", at, process=process),
    ]


def test_an_attempt_within_the_backoff_is_reported_unless_it_was_forced() -> None:
    first, again = failure("w1#1", 1), failure("w2#1", 2)
    assert broken(first, again, backoff=2.0) == {"backoff"}
    assert broken(first, again) == broken(first, again, backoff=1.0) == set()
    assert broken(first, failure("w2#1", 2, do="force"), backoff=2.0) == set()
    assert broken(first, again, tampering("sidecar", 1.5, 1.6), backoff=2.0) == set()
    assert broken(first, again, backoff=2.0, clocks=True) == set()
    # The second delay is twice as long.
    assert broken(first, failure("w2#1", 3.5), failure("w1#2", 6), backoff=2.0) == {"backoff"}
    assert broken(first, failure("w2#1", 3.5), failure("w1#2", 8), backoff=2.0) == set()


def test_an_attempt_that_follows_a_first_death_at_once_is_not_reported() -> None:
    assert broken(failure("w1#1", 1), death("w2#1", 3.5), failure("w3#1", 3.6), backoff=2.0) == set()


def test_a_version_that_is_read_after_max_stale_is_reported() -> None:
    read = reading("w2#1", 16, 17, version=100)
    assert broken(GOOD[0], read, max_stale=3.0) == {"max_stale"}
    assert broken(GOOD[0], read, max_stale=6.0) == broken(GOOD[0], read) == set()
    assert broken(GOOD[0], read, max_stale=3.0, clocks=True) == set()


def test_failures_and_deaths_that_the_status_does_not_tell_are_reported() -> None:
    def told(at: float, failures: int, total: int) -> list[Line]:
        more = {"state": "missing", "createdtime": None, "failures": failures, "failures_total": total}
        return whole("w9#1", "status", at, at + 0.1, line("w9#1", "reported", at + 0.05, **more))

    both = [failure("w1#1", 1), death("w2#1", 3)]
    assert broken(*both, told(5, 2, 2), failures_at_last=2) == set()
    assert broken(*both, told(5, 1, 1)) == {"failures"}
    assert broken(*both, failures_at_last=1) == broken(*both, failures_at_last=4) == {"failures"}
    # What a process that died had begun may have been counted or not.
    assert broken(*both, failures_at_last=3) == set()


def test_an_error_within_the_backoff_is_reported_if_there_is_a_version_or_nothing_has_failed() -> None:
    refused = [
        line("w5#1", "began", 4, do="pass"),
        line("w5#1", "ended", 4.1, error="CreationFailed", ours=True, message=""),
    ]
    failed = failure("w1#9", 3)
    assert broken(failed, refused, backoff=2.0) == set()
    assert broken(failed, refused) == broken(refused, backoff=2.0) == {"error"}
    forced = failure("w1#9", 3, do="force")
    assert broken(creation("w2#1", 1, 2, version=100), forced, refused, backoff=2.0) == {"error"}


def test_a_refresh_that_does_not_do_what_it_says_is_reported() -> None:
    def refresh(do: str, created: bool) -> set[str]:
        return broken(whole("w1#1", do, 1, 2, line("w1#1", "refreshed", 1.9, created=created)))

    assert refresh("refresh", False) == set()
    assert refresh("refresh", True) == refresh("force", True) == refresh("force", False) == {"refresh"}


def test_a_block_in_which_one_created_and_is_given_the_old_version_is_reported() -> None:
    created = [line("w3#1", "creating", 40.1, version=300), line("w3#1", "created", 40.2)]
    assert broken(*GOOD, [*reading("w3#1", 40.3, 41, version=200), *created]) == {"current"}


def test_a_caller_that_gets_the_old_version_because_its_swap_timed_out_is_not_reported() -> None:
    def created(**more: Any) -> list[Line]:
        inside = [line("w3#1", "creating", 40.1, version=300), line("w3#1", "created", 40.2)]
        inside += [line("w3#1", "entered", 40.3), line("w3#1", "read", 40.4, version=200, whole=True)]
        return whole("w3#1", "pass", 40, 41, *inside, **more)

    assert broken(*GOOD, created(timeout=0.0), tolerant=True) == set()
    assert broken(*GOOD, created(timeout=0.0)) == broken(*GOOD, created(), tolerant=True) == {"current"}


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
    away = whole("n", "tamper", 1.2, 1.3, file="lock", how="away")
    assert broken(failing("DatafileError"), tampering("lock", 1.2, 1.3)) == {"error"}
    assert broken(failing("DatafileError"), away) == set()
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


def cancelled(name: str, do: str, since: float, until: float, *inside: Line, **more: Any) -> list[Line]:
    """An operation whose task was cancelled after a second."""
    return [line(name, "began", since, do=do, patience=1.0, **more), *inside, line(name, "cancelled", until)]


def test_a_cancelled_task_that_stays_is_reported() -> None:
    assert broken(cancelled("w1#1", "pass", 1, 2.1)) == set()
    assert broken(cancelled("w1#1", "pass", 1, 6)) == {"cancelled"}
    assert broken(whole("w1#1", "pass", 1, 6, patience=1.0)) == {"cancelled"}
    stopped = [
        line("n#1", "began", 2, do="stop"),
        line("n#1", "stopped", 2.5, process="w1"),
        line("n#1", "continued", 5.5, process="w1"),
    ]
    assert broken(cancelled("w1#1", "pass", 1, 6), stopped) == set()


def left_alone(*end: Line) -> list[Line]:
    """A creation that ends after its task was cancelled, and a process that ends well after that."""
    creating = [line("w1#2", "creating", 1.5, version=100), line("w1#2", "created", 4)]
    life = whole("w1#1", "life", 0, 9)
    return [*life, *cancelled("w1#2", "pass", 1, 2.1), *creating, *end]


def test_a_creation_that_is_lost_with_its_task_is_reported() -> None:
    assert broken(left_alone()) == {"cancelled"}
    assert broken(left_alone(line("w1#2", "stamped", 4.1))) == set()
    assert broken(left_alone(line("w1#2", "counted-as-failure", 4.1))) == set()
    assert broken(left_alone(), tampering("lock", 2, 3)) == set()


def test_a_creation_goes_on_after_its_task_was_cancelled() -> None:
    stamped = left_alone(line("w1#2", "stamped", 4.1))
    assert broken(stamped, creation("w2#1", 3, 3.5, 200, do="force")) == {"1"}
    assert broken(stamped, creation("w2#1", 5, 6, 200)) == {"1"}  # it is fresh
    assert broken(stamped, reading("w2#1", 4.2, 5, 0)) == {"current"}
    assert broken(stamped, reading("w2#1", 3, 5, 0)) == set()


def prune(since: float, until: float, gone: int = 1, **bounds: Any) -> list[Line]:
    inside = line("w8#1", "pruning", since, **bounds), line("w8#1", "pruned", until - 0.1, gone=gone)
    return whole("w8#1", "prune", since, until, *inside)


def test_a_key_that_was_pruned_is_created_again_and_missing_until_then() -> None:
    two = [creation("w1#1", 1, 2, 100), creation("w2#1", 5, 6, 200)]
    assert broken(*two) == {"1"}
    assert broken(*two, prune(3, 4, older_than=0)) == broken(*two, prune(3, 4, max_bytes=9)) == set()
    # It was too young, or none went.
    assert broken(*two, prune(3, 4, older_than=3)) == broken(*two, prune(3, 4, gone=0, older_than=0)) == {"1"}
    missed = reading("w3#1", 4.5, 4.6, 0)
    assert broken(two[0], missed) == {"current"}
    assert broken(two[0], missed, prune(3, 4, older_than=0)) == set()
    # Without its stamp it is as old as the file, which was written a little before.
    almost = [two[0], missed, prune(3, 4, older_than=2.5)]
    assert broken(*almost) == {"current"}
    assert broken(*almost, tampering("sidecar", 2.5, 2.8)) == set()


def test_a_version_that_comes_back_after_it_was_gone_is_reported() -> None:
    pruned = [creation("w1#1", 1, 2, 100), prune(3, 4, older_than=0)]
    looked, back = reading("w3#1", 5, 6, 0), reading("w3#2", 7, 8, 100)
    assert broken(*pruned, looked) == broken(*pruned, back) == set()
    assert broken(*pruned, looked, back) == {"gone"}
    assert broken(*pruned, looked, reading("w4#1", 4.9, 8, 100)) == set()  # it had opened the file before
    assert broken(*pruned, looked, creation("w2#1", 6, 6.5, 200), reading("w3#2", 7, 8, 200)) == set()
    # All keys went.
    assert broken(*pruned, back, keys=1) == {"gone"}
    assert broken(*pruned, back, keys=2) == set()


def test_an_open_file_that_changes_is_reported() -> None:
    def read(again: int, whole: bool = True) -> set[str]:
        return broken(
            *GOOD, [*reading("w3#1", 22, 24, 200), line("w3#1", "again", 23, version=again, whole=whole)]
        )

    assert read(200) == set()
    assert read(300) == read(200, whole=False) == {"open"}


def test_a_path_of_a_key_that_is_not_refused_is_reported() -> None:
    def by_path(at: float, refused: bool) -> set[str]:
        named = line("w3#1", "named", at, refused=refused)
        return broken(*GOOD, whole("w3#1", "by-path", at, at + 0.1, named))

    assert by_path(0.5, False) == by_path(5, True) == set()
    assert by_path(5, False) == {"path"}


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


def test_the_contents_show_their_version_and_whether_they_are_whole() -> None:
    contents = contents_of(7, 1000)
    assert parsed(contents) == Found(7)
    assert not parsed(contents[:-1]).whole
    assert not parsed(contents.replace(b"7 ", b"8 ", 1)).whole
    assert parsed(b"") == Found(-1, False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_round_ends_without_a_violation(kind: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    # A process with threads, one with tasks of asyncio, and one with tasks of trio.
    plan = Plan(1, kind, frozenset({"kills", "forks"}), workers=3, seconds=1.5, tasks=2)
    assert Round(plan, tmp_path).run() == []


@pytest.mark.parametrize("way", ["process", "thread"])
def test_a_short_round_of_hand_overs_ends_without_a_violation(
    way: Literal["process", "thread"], tmp_path: Path
) -> None:
    plan = hand_overs.Plan(1, way, 3, expiretime=0.0, seconds=2.0, readers=False, backoff=0.0, harm=True)
    assert hand_overs.Round(plan, tmp_path).run() == []


@pytest.mark.parametrize(
    ("kind", "mutant", "prefix"),
    [
        ("keys", "tasks-lock-another-byte", "1: two creators"),
        ("datafile", "loses-the-cancelled", "cancelled: a creation was lost"),
    ],
)
def test_a_mutant_of_tasks_is_caught(kind: str, mutant: str, prefix: str, tmp_path: Path) -> None:
    for number in range(5):  # in most runs the first round does
        place = tmp_path / str(number)
        place.mkdir()
        plan = Plan(number, kind, frozenset(), workers=4, expiretime=0.05, seconds=2.0, mutant=mutant, tasks=2)
        if any(violation.startswith(prefix) for violation in Round(plan, place).run()):
            return
    pytest.fail(f"{mutant} was not caught")


def test_a_seed_decides_on_the_plan() -> None:
    assert Plan.by(7) == Plan.by(7)
    assert len({str(Plan.by(seed)) for seed in range(50)}) > 40


def test_four_rounds_have_keys_and_tasks_whatever_the_seed() -> None:
    """As many as the two minutes of ``.ci/run`` have at least."""
    for seed in range(1, 50):
        plans = [Plan.by(seed + number) for number in range(4)]
        assert any(plan.kind == "keys" and plan.tasks for plan in plans)


def test_a_mutant_is_caught(tmp_path: Path) -> None:
    """All of them are, in the campaign; here one, to see that they can be."""
    tmp_path.chmod(0o755)
    plan = Plan(1, "datafile", frozenset(), workers=3, expiretime=0.02, seconds=2.0, mutant="swaps-in-place")
    assert any(violation.startswith("whole: a torn read") for violation in Round(plan, tmp_path).run())


@pytest.mark.parametrize("mutant", ["", "never-looks-at-inputs", "digests-afterwards"])
def test_a_round_whose_input_changes_finds_a_mutant_that_does_not_notice_and_nothing_else(
    mutant: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    plan = Plan(1, "datafile", frozenset({"inputs"}), workers=3, expiretime=0.5, seconds=4.0, mutant=mutant)
    violated = Round(plan, tmp_path).run()
    assert any(violation.startswith("inputs: called fresh") for violation in violated) == bool(mutant)
    assert mutant or violated == []
