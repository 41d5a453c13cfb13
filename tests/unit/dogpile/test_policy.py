"""Policies: what a failure costs, how old a version may be, and what all processes agree on."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import (
    Backoff,
    CreationFailed,
    DataDirectory,
    Datafile,
    DatafileError,
    Dogpile,
    Outcome,
    Policy,
    SyncReaderDogpile,
    Target,
)
from dogpile_fs._dogpile import inputs as inputs_module
from dogpile_fs._sidecar.record import Record
from tests.support.processes import Processes, wait_for
from tests.support.processes import Record as Log

LATER = Backoff(initial=1000, maximum=1000, jitter=0)


class Away(Exception):
    """The source is away."""


class Flaky:
    """A creator that writes how often it has run, and raises while it is told to."""

    def __init__(self, *errors: BaseException | None) -> None:
        self.errors = list(errors)
        self.runs = 0

    def __call__(self, target: str) -> None:
        self.runs += 1
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        Path(target).write_text(str(self.runs))


def text(datafile: Datafile) -> str:
    with datafile.open("r") as file:
        return str(file.read())


def expire(datafile: Datafile | DataDirectory) -> None:
    datafile.invalidate()


# Failures.


@pytest.mark.parametrize("kind", [Datafile, DataDirectory])
@pytest.mark.parametrize("error", [ZeroDivisionError("away"), StopIteration(), TimeoutError()])
def test_a_reader_whose_creation_fails_gets_the_old_version(
    kind: Any, error: Exception, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    creator = Flaky()
    resource = kind(path, 3600, creator if kind is Datafile else os.mkdir)
    resource.refresh()
    expire(resource)

    def fail(target: str) -> None:
        creator.runs += 1
        raise error

    failing = kind(path, 3600, fail, backoff=LATER)
    creator.runs = 0
    for _ in range(3):
        with failing.acquire() if kind is Datafile else failing.open() as given:
            assert os.path.exists(given)
    assert creator.runs == 1
    status = failing.status()
    assert (status.state, status.failures, status.failed_type) == ("stale", 1, type(error).__name__)
    assert status.retry_at == pytest.approx((status.failed_at or 0) + 1000)
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1
    assert path in told[0].getMessage()
    assert told[0].exc_info is not None


def test_refresh_always_raises_and_the_next_one_backs_off(path: str) -> None:
    datafile = Datafile(path, 3600, Flaky(None, ZeroDivisionError()), backoff=LATER)
    assert datafile.refresh() == Outcome.created
    expire(datafile)
    with pytest.raises(ZeroDivisionError):
        datafile.refresh()
    assert datafile.refresh() == Outcome.backing_off
    assert not datafile.refresh()
    assert datafile.refresh(force=True) == Outcome.created
    status = datafile.status()
    assert (status.failures, status.failures_total, status.failed_at, status.retry_at) == (0, 1, None, None)


def test_refresh_says_that_another_creates_also_within_the_backoff(path: str) -> None:
    """A forced creation does not wait for the end of the backoff."""
    datafile = Datafile(path, 3600, Flaky(None, ZeroDivisionError()), backoff=LATER)
    datafile.refresh()
    expire(datafile)
    with pytest.raises(ZeroDivisionError):
        datafile.refresh()
    found: list[Outcome] = []

    def creator(target: str) -> None:
        found.append(datafile.refresh())
        Path(target).write_text("forced")

    assert Datafile(path, 3600, creator, backoff=LATER).refresh(force=True)
    assert found == [Outcome.creating]


def test_where_there_is_nothing_a_caller_gets_the_error_and_the_next_ones_creation_failed(path: str) -> None:
    error = ZeroDivisionError("away")
    creator = Flaky(error)
    datafile = Datafile(path, 3600, creator, backoff=LATER)
    with pytest.raises(ZeroDivisionError):
        text(datafile)
    uses: list[Callable[[], object]] = [
        lambda: text(datafile),
        lambda: datafile.load(lambda file: file.read()),
        datafile.path,
        lambda: datafile.acquire().__enter__(),
    ]
    for use in uses:
        with pytest.raises(CreationFailed, match=r"has failed once \(ZeroDivisionError\)") as caught:
            use()
        cause = caught.value.__cause__
        assert (type(cause), str(cause)) == (ZeroDivisionError, "away")
        assert cause is not None
        assert cause.__traceback__ is None, "it would keep the creator's frames alive"
        assert (caught.value.path, caught.value.failures) == (path, 1)
        assert caught.value.retry_at == datafile.status().retry_at
    assert creator.runs == 1
    other = Datafile(path, 3600, creator, backoff=LATER)
    with pytest.raises(CreationFailed) as caught:
        text(other)
    assert caught.value.__cause__ is None
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert datafile.refresh() == Outcome.backing_off


def test_the_backoff_grows_and_ends_by_time_or_by_success(path: str) -> None:
    datafile = Datafile(path, 3600, Flaky(*[Away() for _ in range(3)]), backoff=Backoff(0.01, 0.04, jitter=0))
    for failures, delay in ((1, 0.01), (2, 0.02), (3, 0.04)):
        wait_for(lambda: (datafile.status().retry_at or 0) <= time.time(), "the end of the backoff")
        with pytest.raises(Away):
            datafile.refresh()
        status = datafile.status()
        assert (status.failures, status.failures_total) == (failures, failures)
        assert (status.retry_at or 0) - (status.failed_at or 0) == pytest.approx(delay, abs=1e-4)
    wait_for(lambda: (datafile.status().retry_at or 0) <= time.time(), "the end of the backoff")
    assert datafile.refresh() == Outcome.created
    assert (datafile.status().failures, datafile.status().retry_at) == (0, None)


def test_a_failure_is_not_counted_where_the_path_leads_to_another_resource_by_now(tmp_path: Path) -> None:
    """A deployment flips a link while the creator runs: the new release's file has not failed."""
    for release in ("1", "2"):
        (tmp_path / release).mkdir()
    (tmp_path / "current").symlink_to("1")

    def deploy_and_fail(target: str) -> None:
        (tmp_path / "next").symlink_to("2")
        os.replace(tmp_path / "next", tmp_path / "current")
        raise Away

    with pytest.raises(Away):
        Datafile(tmp_path / "current" / "report", 3600, deploy_and_fail, backoff=LATER).refresh()
    assert Datafile(tmp_path / "2" / "report").status().failures_total == 0
    assert os.listdir(tmp_path / "2") == [], "not even a sidecar"
    assert Datafile(tmp_path / "current" / "report", 3600, Flaky(), backoff=LATER).refresh() == Outcome.created


def test_without_backoff_each_caller_tries_again(path: str) -> None:
    creator = Flaky(*[Away() for _ in range(3)])
    datafile = Datafile(path, 3600, creator, backoff=None)
    for _ in range(3):
        with pytest.raises(Away):
            text(datafile)
    assert text(datafile) == "4"
    assert datafile.status().failures_total == 3


def test_stale_if_error_false_gives_the_elected_reader_the_error_and_the_others_the_old_version(path: str) -> None:
    datafile = Datafile(path, 3600, Flaky(None, Away()), backoff=LATER, stale_if_error=False)
    datafile.refresh()
    expire(datafile)
    with pytest.raises(Away):
        text(datafile)
    assert text(datafile) == "1"


def test_stale_if_error_ends_so_many_seconds_past_expiry(path: str) -> None:
    datafile = Datafile(path, 10, Flaky(None, Away(), Away()), backoff=None, stale_if_error=60)
    datafile.refresh()
    datafile._dogpile.createdtime = time.time() - 20
    assert text(datafile) == "1"
    datafile._dogpile.createdtime = time.time() - 200
    with pytest.raises(Away):
        text(datafile)


def test_after_a_hard_invalidation_no_reader_gets_the_old_version(path: str) -> None:
    datafile = Datafile(path, 3600, Flaky(None, Away()), backoff=LATER)
    datafile.refresh()
    datafile.invalidate(hard=True)
    with pytest.raises(Away):
        text(datafile)
    with pytest.raises(CreationFailed):
        text(datafile)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_counts_nothing_and_an_exit_counts_as_a_death(path: str, error: type[BaseException]) -> None:
    datafile = Datafile(path, 3600, Flaky(error()), backoff=LATER)
    with pytest.raises(error):
        datafile.refresh()
    status = datafile.status()
    if error is SystemExit:
        assert (status.failures, status.failed_type, status.retry_at) == (1, "died", None)
    else:
        assert (status.failures, status.failed_type, status.failed_since) == (0, None, None)
    assert datafile.refresh() == Outcome.created


class _TimeLimit(Exception):
    pass


class _Limit:
    def __call__(self, number: int, frame: object) -> None:
        self.reach()

    def reach(self) -> None:
        raise _TimeLimit


@pytest.mark.parametrize("handler", [_Limit(), lambda number, frame: _Limit().reach()])
@pytest.mark.parametrize("where", ["creator", "validate"])
def test_what_a_signal_handler_raises_counts_nothing(path: str, handler: Any, where: str) -> None:
    def interrupt(target: str) -> None:
        signal.raise_signal(signal.SIGUSR2)

    creator = interrupt if where == "creator" else Flaky()
    before = signal.signal(signal.SIGUSR2, handler)
    try:
        with pytest.raises(_TimeLimit):
            Datafile(path, 3600, creator, validate=interrupt, backoff=LATER).refresh()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert (Datafile(path).status().failures, Datafile(path).status().failed_since) == (0, None)
    assert Datafile(path, 3600, Flaky(), backoff=LATER).refresh() == Outcome.created


def _die(path: str, log: Log) -> None:
    def die(target: str) -> None:
        log.write("runs")
        os._exit(9)

    try:
        text(Datafile(path, 3600, die, backoff=LATER))
    except CreationFailed:
        log.write("failed")


def test_of_six_readers_two_die_and_the_others_are_told(path: str, record: Log, processes: Processes) -> None:
    for _ in range(6):
        reader = processes.start(_die, path, record)
        reader.join()
    assert len(record.events("runs")) == 2
    assert len(record.events("failed")) == 4
    status = Datafile(path, 3600).status()
    assert (status.failures, status.failures_total, status.failed_type) == (2, 2, "died")


def test_the_count_is_shared_with_a_dogpile_and_its_own_policy(path: str) -> None:
    dogpile = Dogpile(3600, path, backoff=LATER)

    def fail() -> None:
        raise Away

    with pytest.raises(Away):
        dogpile.refresh(fail)
    with pytest.raises(CreationFailed):
        dogpile.acquire(fail).__enter__()
    assert Datafile(path, 3600, Flaky(), backoff=LATER).refresh() == Outcome.backing_off
    with pytest.raises(Away):
        Dogpile(3600, path).refresh(fail)  # the original's: at once
    assert dogpile.status().failures == 2


def test_a_dogpiles_stale_callers_pass_within_the_backoff(path: str) -> None:
    for dogpile in (Dogpile(3600, path, backoff=LATER), SyncReaderDogpile(3600, path + "2", backoff=LATER)):
        dogpile.refresh(lambda: None)
        dogpile.invalidate()
        runs: list[int] = []

        def fail(runs: list[int] = runs) -> None:
            runs.append(1)
            raise Away

        with pytest.raises(Away):
            dogpile.acquire(fail).__enter__()
        for _ in range(10):
            with dogpile.acquire(fail):
                pass
        assert len(runs) == 1


def test_a_clock_that_was_set_back_ends_the_backoff(path: str) -> None:
    datafile = Datafile(path, 3600, Flaky(), backoff=LATER)
    scope = datafile._dogpile._shared.scope
    scope.change(lambda last: last.failed(None, time.time() + 500, "OSError", 1000.0))
    assert datafile.refresh() == Outcome.created


# Staleness.


@pytest.mark.parametrize("kind", [Datafile, DataDirectory])
def test_beyond_max_stale_it_is_expired_and_created_before_a_reader_gets_it(kind: Any, path: str) -> None:
    creator = Flaky() if kind is Datafile else os.mkdir
    resource = kind(path, 10, creator, max_stale=60)
    resource.refresh()
    for age, state in ((9, "fresh"), (30, "stale"), (71, "expired")):
        resource._dogpile.createdtime = time.time() - age
        assert resource.status().state == state
        assert kind(path, 10).status().state == state, "the version's own max_stale counts for all"
    assert resource.refresh() == Outcome.created


def test_the_status_tells_the_sooner_max_stale_of_version_and_object(path: str) -> None:
    Datafile(path, 10, Flaky(), max_stale=60).refresh()
    tells = [Datafile(path, 10, max_stale=own).status().max_stale for own in (None, 90, 30)]
    assert tells == [60, 60, 30]
    assert Datafile(f"{path}2", 10, Flaky()).status().max_stale is None


def test_max_stale_counts_from_the_first_invalidation(path: str) -> None:
    datafile = Datafile(path, 3600, Flaky(), max_stale=0.05)
    datafile.refresh()
    datafile.invalidate()
    deadline = time.monotonic() + 60
    while datafile.status().state != "expired":
        datafile.invalidate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert text(datafile) == "2"


def test_a_reader_of_an_expired_version_without_a_creator_times_out(path: str) -> None:
    datafile = Datafile(path, 10, Flaky(), max_stale=60)
    datafile.refresh()
    datafile._dogpile.createdtime = time.time() - 100
    with pytest.raises(TimeoutError):
        Datafile(path, 10, timeout=0.01, max_stale=60).path()


def test_an_expired_version_is_not_given_when_its_creation_fails(path: str) -> None:
    datafile = Datafile(path, 10, Flaky(None, Away()), max_stale=60, backoff=LATER)
    datafile.refresh()
    datafile._dogpile.createdtime = time.time() - 100
    with pytest.raises(Away):
        text(datafile)
    with pytest.raises(CreationFailed):
        text(datafile)


def test_a_creation_begins_early_and_its_failure_raises_for_no_reader(path: str) -> None:
    creator = Flaky(None, Away())
    datafile = Datafile(path, 100, creator, refresh_early=0.5, backoff=None, stale_if_error=False)
    datafile.refresh()
    assert (text(datafile), creator.runs) == ("1", 1)
    datafile._dogpile.createdtime = time.time() - 60
    assert datafile.status().state == "fresh"
    assert (text(datafile), creator.runs) == ("1", 2)
    assert (text(datafile), creator.runs) == ("3", 3)


def test_jitter_shortens_the_lifetime_once_for_all_processes(path: str) -> None:
    lifetimes = set()
    for number in range(20):
        datafile = Datafile(f"{path}{number}", 100, Flaky(), jitter=0.2)
        datafile.refresh()
        status = datafile.status()
        assert status.createdtime is not None
        lifetimes.add(round((status.fresh_until or 0) - status.createdtime, 3))
        assert Datafile(f"{path}{number}", 100).status().fresh_until == status.fresh_until
        assert Datafile(f"{path}{number}", None).status().fresh_until == status.fresh_until
    assert len(lifetimes) > 10
    assert 80 <= min(lifetimes) <= max(lifetimes) <= 100
    datafile._dogpile.createdtime = time.time() - 99
    assert datafile.status().state == "fresh", "a touched version has the whole lifetime"


def test_durations_may_be_timedeltas(path: str) -> None:
    hour = timedelta(hours=1)
    datafile = Datafile(path, hour, Flaky(), max_stale=hour, backoff=Backoff(hour, hour), stale_if_error=hour)
    assert datafile._dogpile.expiretime == 3600
    assert datafile._dogpile._policy.max_stale == 3600
    assert datafile._dogpile._policy.backoff == Backoff(3600, 3600)


def test_one_policy_serves_many_datafiles(path: str) -> None:
    policy = Policy(backoff=LATER, max_stale=60)
    for datafile in (
        Datafile(path, 1, policy=policy),
        pickle.loads(pickle.dumps(Datafile(path, 1, policy=policy))),
    ):
        assert datafile._dogpile._policy == policy
    assert Datafile(path, 1)._dogpile._policy is Datafile(path, 2)._dogpile._policy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backoff": 5}, "backoff must be a Backoff or None"),
        ({"stale_if_error": 20, "max_stale": 10}, "stale_if_error=20 lets readers have what max_stale=10 forbids"),
        ({"refresh_early": 1.0}, "refresh_early must be between 0 and 1"),
        ({"refresh_early": 0}, "refresh_early must be between 0 and 1"),
        ({"jitter": 1}, "jitter must be 0 or between 0 and 1"),
        ({"jitter": True}, "jitter must be a fraction"),
        ({"max_stale": -1}, "max_stale must be 0 or more seconds"),
        ({"max_stale": "1"}, "max_stale must be a number of seconds"),
        ({"policy": 5}, "policy must be a Policy"),
        ({"policy": Policy(), "jitter": 0.5}, "policy= and jitter= contradict each other"),
        ({"depends_on": "input"}, "depends_on must be several paths or datafiles"),
        ({"depends_on": [5]}, "depends_on must be paths and datafiles"),
    ],
)
def test_an_incoherent_policy_is_refused_at_construction(path: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Datafile(path, 10, **options)


@pytest.mark.parametrize(
    "options",
    [{"initial": -1}, {"initial": 5, "maximum": 1}, {"maximum": float("inf")}, {"factor": 0.5}, {"jitter": 1}],
)
def test_an_incoherent_backoff_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Backoff(**options)


def test_the_delay_of_many_failures_does_not_overflow() -> None:
    assert Backoff(jitter=0).delay(10**9) == 60


# Inputs.


@pytest.fixture
def look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs_module, "LOOK_EVERY", -1.0)


def age_by(path: Path, seconds: float) -> None:
    st = path.stat()
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns - int(seconds * 1e9)))


def replace_with_equal(path: Path) -> None:
    st, other = path.stat(), path.with_suffix(".other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(st.st_atime_ns, st.st_mtime_ns))
    other.replace(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "longer": lambda path: path.write_text("longer"),
    "touched": lambda path: os.utime(path),
    "older": lambda path: age_by(path, 1000),
    "replaced by an equal one": replace_with_equal,
    "removed": lambda path: path.unlink(),
}


@pytest.mark.usefixtures("look_always")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("as_object", [False, True])
def test_a_changed_input_makes_it_stale(tmp_path: Path, change: str, as_object: bool) -> None:
    source = tmp_path / "input"
    source.write_text("input")
    age_by(source, 10)
    depends_on = [Datafile(source) if as_object else source, str(tmp_path / "missing")]
    datafile = Datafile(tmp_path / "output", 3600, Flaky(), depends_on=depends_on)
    assert [str(datafile.refresh()) for _ in range(2)] == ["created", "fresh"]
    CHANGES[change](source)
    assert datafile.status().state == "stale"
    assert Datafile(tmp_path / "output", 3600).status().state == "fresh", "a caller without inputs does not see it"
    assert text(datafile) == "2"
    assert [str(datafile.refresh()) for _ in range(2)] == ["fresh", "fresh"]
    (tmp_path / "missing").touch()
    assert text(datafile) == "3"


@pytest.mark.usefixtures("look_always")
def test_an_input_that_changes_while_the_creator_runs_makes_the_result_stale(tmp_path: Path) -> None:
    source = tmp_path / "input"

    def create(target: str) -> None:
        Path(target).touch()
        source.write_text("changed")

    datafile = Datafile(tmp_path / "output", 3600, create, depends_on=[source])
    datafile.refresh()
    assert datafile.status().state == "stale"


def test_a_changed_input_is_noticed_within_a_moment_and_makes_it_expired_by_max_stale(tmp_path: Path) -> None:
    source = tmp_path / "input"
    source.touch()
    datafile = Datafile(
        tmp_path / "output", 3600, Flaky(None, Away()), depends_on=[source], max_stale=0.05, backoff=LATER
    )
    datafile.refresh()
    source.write_text("changed")
    deadline = time.monotonic() + 60
    while datafile.status().state != "expired":
        assert time.monotonic() < deadline
        try:
            text(datafile)
        except (CreationFailed, Away):  # the latter: it has expired while the creator ran
            break
        time.sleep(0.005)


def test_an_input_that_cannot_be_looked_at_is_a_value(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    datafile = Datafile(tmp_path / "output", 3600, Flaky(), depends_on=[loop])
    assert [text(datafile), text(datafile)] == ["1", "1"]


@pytest.mark.usefixtures("look_always")
def test_a_datafile_as_an_input_counts_by_its_version(tmp_path: Path) -> None:
    source = Datafile(tmp_path / "input", 3600, Flaky(), skip_unchanged=True)
    source.refresh()
    datafile = Datafile(tmp_path / "output", 3600, Flaky(), depends_on=[source])
    datafile.refresh()
    source.touch()
    assert datafile.status().state == "fresh"
    source.refresh(force=True)
    assert datafile.status().state == "stale"


def test_the_device_of_an_input_is_no_part_of_its_contents(tmp_path: Path) -> None:
    """Its number differs between containers, and from mount to mount."""
    source = Datafile(tmp_path / "input", 3600, Flaky())
    source.refresh()
    record = source._dogpile._record
    contents, device, _ = inputs_module._version_of(source)
    assert device == os.stat(tmp_path / "input").st_dev
    assert contents == ["file", record.fingerprint and record.fingerprint.size, os.stat(source.path()).st_mtime_ns]


def test_views_of_an_input_by_unequal_inodes_converge() -> None:
    contents, others = "a" * 14, "b" * 14
    here, there = "1" * 6, "2" * 6
    one, two = "3" * 12, "4" * 12
    assert not inputs_module.have_changed(contents + here + one, contents + there + two)
    assert inputs_module.have_changed(contents + here + one, contents + here + two)
    assert inputs_module.have_changed(contents + here + one, others + there + one)


@pytest.mark.usefixtures("look_always")
def test_touch_records_the_inputs_of_now(tmp_path: Path) -> None:
    source = tmp_path / "input"
    source.touch()
    datafile = Datafile(tmp_path / "output", 3600, Flaky(), depends_on=[source])
    datafile.refresh()
    source.write_text("changed")
    datafile.touch()
    assert datafile.status().state == "fresh"


def test_a_resource_that_depends_on_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "output"
    with pytest.raises(ValueError, match="depends on itself"):
        Datafile(path, depends_on=[path])
    other = Datafile(tmp_path / "other", depends_on=[Datafile(path)])
    with pytest.raises(ValueError, match="depends on itself"):
        Datafile(path, depends_on=[other])


# The creator's target.


@pytest.mark.parametrize("kind", [Datafile, DataDirectory])
def test_the_target_knows_the_version_before_and_its_note(kind: Any, path: str) -> None:
    seen: list[tuple[str | None, str]] = []

    def create(target: Target) -> None:
        assert isinstance(str(target), str)
        seen.append((target.previous, target.note))
        os.mkdir(target) if kind is DataDirectory else Path(target).touch()
        if len(seen) == 1:
            target.note = "é" * 48

    resource = kind(path, 3600, create)
    for _ in range(3):
        resource.refresh(force=True)
    assert [note for _, note in seen] == ["", "é" * 48, ""], "a creation that sets no note leaves none"
    assert seen[0][0] is None
    assert all(previous is not None for previous, _ in seen[1:])


@pytest.mark.parametrize("kind", [Datafile, DataDirectory])
def test_unchanged_stamps_and_keeps_version_and_note(kind: Any, path: str) -> None:
    def create(target: Any) -> object:
        if target.previous:
            Path(target).write_text("thrown away")
            return target.unchanged()
        target.note = "tag"
        os.mkdir(target) if kind is DataDirectory else Path(target).touch()
        return None

    resource = kind(path, 3600, create, keep=1)
    resource.refresh()
    before, version = resource.status(), resource.version
    resource.invalidate()
    assert resource.refresh() == Outcome.unchanged
    assert resource.refresh() == Outcome.fresh
    assert resource.version == version
    assert resource._dogpile._record.note == "tag"
    assert resource.status().createdtime > before.createdtime


def test_unchanged_is_an_error_where_there_is_nothing(path: str) -> None:
    with pytest.raises(DatafileError, match="nothing is in place that could be unchanged"):
        Datafile(path, 3600, lambda target: target.unchanged()).refresh()


@pytest.mark.parametrize(("note", "error"), [("x" * 97, ValueError), ("é" * 49, ValueError), (b"x", TypeError)])
def test_a_note_that_has_no_room_is_refused(path: str, note: Any, error: type[Exception]) -> None:
    def create(target: Any) -> None:
        target.note = note

    with pytest.raises(error, match="note must"):
        Datafile(path, 3600, create).refresh()


def test_a_creator_may_shorten_the_lifetime_and_not_lengthen_it(path: str) -> None:
    def create(target: Any) -> None:
        Path(target).touch()
        target.expires_in(timedelta(seconds=lifetime))

    for expiretime, lifetime, expected in ((100, 10, 10), (10, 100, 10), (None, 10, 10)):
        datafile = Datafile(path, expiretime, create)
        datafile.refresh(force=True)
        status = datafile.status()
        assert status.remaining == pytest.approx(expected, abs=5)
        assert Datafile(path, None).status().remaining == (pytest.approx(10, abs=5) if lifetime == 10 else None)


def test_a_record_keeps_what_a_version_of_policies_needs() -> None:
    record = Record(createdtime=1000.0, lifetime=10.0, max_stale=5.0)
    assert [record.state(now, None) for now in (1009.0, 1012.0, 1016.0)] == ["fresh", "stale", "expired"]
    assert [record.state(now, 5.0, 1.0) for now in (1004.0, 1005.5, 1006.0)] == ["fresh", "stale", "expired"]
