"""Every wait ends: when an attempt succeeds, or at its deadline."""

from __future__ import annotations

import _thread
import math
import threading
import time
from fractions import Fraction
from typing import Any

import pytest

from dogpile_fs._os.waiting import (
    FOREVER,
    INHERIT,
    NOW,
    Deadline,
    checked_timeout,
    cooperative,
    deadline_of,
    wait_until,
)
from tests.support.processes import PATIENCE, wait_for


def never() -> bool:
    return False


def unwanted() -> None:
    raise AssertionError("blocked in the kernel")


class Attempts:
    """Fails until the *successful* one, and remembers when it was called."""

    def __init__(self, successful: float = math.inf) -> None:
        self.successful = successful
        self.at: list[float] = []

    def __call__(self) -> bool:
        assert len(self.at) < 300, "attempts without end"
        self.at.append(time.monotonic())
        return len(self.at) >= self.successful


# Deadlines.


def test_a_deadline_is_its_timeout_from_now() -> None:
    before = time.monotonic()
    deadline = Deadline(5)
    assert before + 5 <= deadline.at <= time.monotonic() + 5
    assert 0 < deadline.left <= 5
    assert deadline.timeout == 5


def test_the_time_left_is_never_negative() -> None:
    assert Deadline(0).left == 0
    assert NOW.left == 0
    deadline = Deadline(0.001)
    wait_for(lambda: time.monotonic() > deadline.at, "the deadline")
    assert deadline.left == 0


def test_without_a_timeout_there_is_no_deadline() -> None:
    for deadline in (Deadline(None), FOREVER):
        assert deadline.left == math.inf
        assert deadline.timeout is None


def test_a_call_has_its_own_timeout_or_the_objects() -> None:
    assert deadline_of(INHERIT, 7).timeout == 7
    assert deadline_of(..., 7).timeout == 7
    assert deadline_of(3, 7).timeout == 3
    assert deadline_of(0, 7).timeout == 0
    assert deadline_of(INHERIT, 0).timeout == 0
    assert deadline_of(None, 7).left == math.inf
    assert deadline_of(math.inf, 7).left == math.inf
    assert deadline_of(INHERIT, None).left == math.inf


@pytest.mark.parametrize("timeout", [-1, math.nan, "5", True])
def test_a_calls_timeout_is_checked_as_well(timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"timeout must be .*, not "):
        deadline_of(timeout, None)


# Timeouts.


@pytest.mark.parametrize(
    ("timeout", "expected"),
    [(None, None), (0, 0.0), (0.0, 0.0), (5, 5.0), (2.5, 2.5), (math.inf, None), (1e300, 1e300)],
)
def test_a_timeout_is_a_number_of_seconds_or_none(timeout: float | None, expected: float | None) -> None:
    checked = checked_timeout(timeout)
    assert checked == expected
    assert checked is None or type(checked) is float


@pytest.mark.parametrize("timeout", ["5", "", b"5", [], {}, True, False, 1j, ...])
def test_a_timeout_that_is_no_number_is_a_type_error(timeout: Any) -> None:
    with pytest.raises(TypeError) as caught:
        checked_timeout(timeout)
    assert "timeout must be" in str(caught.value)
    assert f"not {timeout!r}" in str(caught.value)


@pytest.mark.parametrize("timeout", [-1, -0.001, -math.inf, math.nan])
def test_a_timeout_below_0_or_nan_is_a_value_error(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be 0 or more seconds") as caught:
        checked_timeout(timeout)
    assert f"not {timeout!r}" in str(caught.value)


def test_a_timeout_too_large_for_a_clock_is_refused_or_no_bound() -> None:
    try:
        checked = checked_timeout(10**400)
    except ValueError as error:
        message = str(error)
    else:
        assert checked is None
        return
    assert "timeout must be" in message


def test_a_fraction_of_a_second_is_a_number_of_seconds() -> None:
    assert checked_timeout(Fraction(1, 2)) == 0.5  # type: ignore[arg-type]


# Waits.


@pytest.mark.parametrize("deadline", [NOW, Deadline(0.0), Deadline(60), FOREVER])
def test_a_free_lock_is_taken_without_a_wait(deadline: Deadline) -> None:
    attempts = Attempts(successful=1)
    assert wait_until(attempts, unwanted, deadline)
    assert len(attempts.at) == 1


def test_a_wait_without_a_deadline_blocks_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts()
    blocked: list[str] = []
    monkeypatch.setattr(time, "sleep", lambda pause: pytest.fail("slept"))
    assert wait_until(attempts, lambda: blocked.append("once"), FOREVER)
    assert blocked == ["once"]
    assert len(attempts.at) == 1


def test_a_wait_of_0_seconds_is_one_attempt_and_no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda pause: pytest.fail("slept"))
    for deadline in (NOW, Deadline(0.0)):
        attempts = Attempts()
        assert not wait_until(attempts, unwanted, deadline)
        assert len(attempts.at) == 1


@pytest.mark.parametrize("timeout", [0.001, 0.03, 0.2])
def test_a_wait_ends_at_its_deadline(timeout: float) -> None:
    deadline = Deadline(timeout)
    attempts = Attempts()
    assert not wait_until(attempts, unwanted, deadline)
    ended = time.monotonic()
    assert ended >= deadline.at
    assert ended < deadline.at + 1, "20 ms are wanted; a busy machine may take longer, but not so much"
    assert attempts.at[-1] >= deadline.at, "the last attempt came before the deadline"


def test_a_wait_ends_when_an_attempt_succeeds() -> None:
    attempts = Attempts(successful=4)
    assert wait_until(attempts, unwanted, Deadline(PATIENCE))
    assert len(attempts.at) == 4


def test_pauses_grow_from_half_a_millisecond_to_10_and_stop_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    pauses: list[float] = []

    def sleep(pause: float) -> None:
        nonlocal now
        pauses.append(pause)
        now += pause

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    assert not wait_until(never, unwanted, Deadline(0.050))
    assert pauses[:6] == [0.0005, 0.001, 0.002, 0.004, 0.008, 0.010]
    assert max(pauses) == 0.010
    assert sum(pauses) == pytest.approx(0.050)


def test_one_deadline_bounds_several_waits_together() -> None:
    deadline = Deadline(0.05)
    assert not wait_until(never, unwanted, deadline)
    attempts = Attempts()
    assert not wait_until(attempts, unwanted, deadline)
    assert len(attempts.at) == 1


def test_an_error_of_an_attempt_or_of_the_kernel_reaches_the_caller() -> None:
    def fail() -> bool:
        raise PermissionError

    for deadline in (NOW, FOREVER):
        with pytest.raises(PermissionError):
            wait_until(fail, unwanted, deadline)
    with pytest.raises(PermissionError):
        wait_until(Attempts(), fail, FOREVER)


def test_a_wait_lets_other_threads_run() -> None:
    free = threading.Event()
    threading.Timer(0.01, free.set).start()
    assert wait_until(free.is_set, unwanted, Deadline(PATIENCE))


# Schedulers.


def test_threads_are_no_greenlets_where_nothing_is_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not cooperative()
    monkeypatch.setattr(time, "sleep", lambda pause: None)
    assert not cooperative()


def test_where_threads_are_greenlets_a_wait_without_a_deadline_does_not_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_thread, "start_new_thread", lambda *args: pytest.fail("not called"))
    assert cooperative()
    attempts = Attempts(successful=5)
    assert wait_until(attempts, unwanted, FOREVER)
    assert len(attempts.at) == 5
