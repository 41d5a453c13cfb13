"""The benchmarks compute rightly from hand-made records. Nothing is measured here, and no peer is needed."""

from __future__ import annotations

import doctest
import importlib
import os
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from benchmarks import run as suite
from benchmarks.contenders import backgrounds, many_keys, peers
from benchmarks.measuring import load
from benchmarks.measuring.harness import Crowd, RoleFailed, Track, meanwhile
from benchmarks.measuring.measures import Bar, Check, Figure, Plot, Ratio, Scenario, Spread
from benchmarks.report import page as report
from benchmarks.scenarios import row_05_cold_start as cold_start
from benchmarks.scenarios import row_06_writer_among_readers as writer_among_readers
from benchmarks.scenarios import row_07_expiry_under_load as expiry_under_load
from benchmarks.scenarios import row_08_web as web
from benchmarks.scenarios import row_09_swap as swap
from benchmarks.scenarios import row_10_many_paths as many_paths
from benchmarks.scenarios import row_12_scaling as scaling
from benchmarks.scenarios import row_13_slow_creator as slow_creator
from benchmarks.scenarios import row_14_handing_over as handing_over
from benchmarks.scenarios import row_15_many_keys as keys
from benchmarks.scenarios import row_17_serving as serving
from benchmarks.scenarios import row_18_directory_swap as directory_swap
from benchmarks.scenarios.rows_01_to_04_single_calls import calibrated, turns

MS = 1_000_000


def track(role: str = "", finished: bool = True, marks: dict[str, int] | None = None, **told: Any) -> Track:
    """What a process would have written down. Marks in milliseconds."""
    made = Track(role)
    made.finished = finished
    made.marks = [(what, at * MS) for what, at in (marks or {}).items()]
    made.reported = told
    return made


@pytest.mark.parametrize(
    "name",
    [
        "measuring.harness",
        "measuring.load",
        "measuring.machine",
        "measuring.measures",
        "report.page",
        "report.words",
        "scenarios.row_06_writer_among_readers",
        "scenarios.row_14_handing_over",
    ],
)
def test_the_examples_in_the_docstrings_hold(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    failed, tried = doctest.testmod(module)
    assert (failed, tried > 0) == (0, True)


def test_every_row_has_one_module() -> None:
    assert sorted(row for rows in suite.MODULES.values() for row in rows) == [*range(1, 19)]
    for module in suite.MODULES:
        assert callable(importlib.import_module(f"benchmarks.scenarios.{module}").measure)


# Figures and bars


def test_a_bar_is_met_by_the_median_and_close_if_it_lies_among_the_middle_half() -> None:
    measured = Spread.of([1.0, 1.1, 1.2, 1.5, 1.6])
    assert Bar("", 1.2, "at most", measured).verdict == "met, too close to tell"
    assert Bar("", 1.15, "at most", measured).verdict == "missed, too close to tell"
    assert Bar("", 1.55, "at most", measured).verdict == "met"
    assert Bar("", 1.0, "at least", measured).verdict == "met"
    assert Bar("", 3.0, "at least", measured).verdict == "missed"
    assert Bar("", 0.0, "at most", Spread.of([0, 0, 0])).verdict == "met"


def test_a_scenario_survives_its_way_through_json() -> None:
    spread = Spread.of([1, 2, 3])
    scenario = Scenario(
        number=5,
        title="Title",
        setting="Setting",
        ours=["ours"],
        figures=[Figure("ours", "time", "s", spread, at=10.0), Figure("theirs", "time", "s", None, said="never")],
        ratios=[Ratio("theirs", "ours", "time", spread, at=10.0)],
        bars=[Bar("bar", 2.0, "at most", spread)],
        checks=[Check("check", True, "1")],
        plots=[Plot("lines", "Plot", "time")],
    )
    assert Scenario.from_json(scenario.as_json()) == scenario


def test_contenders_take_turns_and_each_round_begins_with_another() -> None:
    now = 0.0
    order: list[str] = []

    def contender(name: str, cost: float) -> Any:
        def timed(loops: int) -> float:
            nonlocal now
            order.append(name)
            now += cost * loops
            return cost * loops

        return timed

    functions = {"slow": contender("slow", 0.002), "quick": contender("quick", 0.0005)}
    costs = turns(functions, 3, 0.008, clock=lambda: now)
    assert costs == {"slow": pytest.approx([0.002] * 3), "quick": pytest.approx([0.0005] * 3)}
    assert order[-6:] == ["slow", "quick", "quick", "slow", "slow", "quick"]


def test_what_the_first_call_costs_once_does_not_mislead_the_calibration() -> None:
    first = True

    def timed(loops: int) -> float:
        nonlocal first
        extra, first = (1.0 if first else 0.0), False
        return extra + loops * 0.001

    assert calibrated(timed, 0.016) == 16


# The harness


def test_a_crowd_begins_together_and_writes_down_what_happened(tmp_path: Path) -> None:
    def walker(own: Track, pause: float) -> None:
        time.sleep(pause)  # set up late
        own.reported["began"] = own.begin()
        own.mark("there")

    crowd = Crowd(tmp_path, patience=20)
    crowd.add("early", walker, 0.0)
    crowd.add("late", walker, 0.05)
    early, late = crowd.run()
    assert early.reported["began"] == late.reported["began"]
    for one in (early, late):
        there = one.at("there")
        assert there is not None
        assert there >= one.reported["began"]
        assert one.finished
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_does_not_end_is_interrupted_and_its_track_shows_how_far_it_got(tmp_path: Path) -> None:
    def starving(own: Track) -> None:
        own.begin()
        own.mark("waits")
        try:
            while True:
                time.sleep(10)
        except Exception:
            own.mark("took the interruption for an error of its own")

    crowd = Crowd(tmp_path, patience=0.1)
    crowd.add("starving", starving)
    (one,) = crowd.run()
    assert not one.finished
    assert [what for what, _ in one.marks] == ["waits"]


def test_a_role_that_raises_is_reported_with_its_traceback(tmp_path: Path) -> None:
    def clumsy(own: Track) -> None:
        raise LookupError("where is it?")

    crowd = Crowd(tmp_path, patience=5)
    crowd.add("clumsy", clumsy)
    with pytest.raises(RoleFailed, match=r"clumsy:(?s:.*)where is it"):
        crowd.run()


def test_a_role_that_was_killed_is_missed(tmp_path: Path) -> None:
    def killed(own: Track) -> None:
        own.begin()
        os.kill(os.getpid(), 9)

    crowd = Crowd(tmp_path, patience=5)
    crowd.add("killed", killed)
    with pytest.raises(RoleFailed, match="it was killed"):
        crowd.run()


def test_a_process_that_ends_early_leaves_the_processors_to_the_others(tmp_path: Path) -> None:
    def early(own: Track) -> None:
        own.begin()

    def late(own: Track) -> None:
        own.begin()
        time.sleep(0.1)
        own.reported["tracks"] = len(list(tmp_path.iterdir()))

    crowd = Crowd(tmp_path, patience=20)
    crowd.add("early", early, count=3)
    crowd.add("late", late)
    tracks = crowd.run()
    assert [one.finished for one in tracks] == [True] * 4
    assert tracks[-1].reported["tracks"] == 0


def test_an_interrupted_process_waits_for_the_others_too_and_is_not_interrupted_again(tmp_path: Path) -> None:
    def early(own: Track) -> None:
        own.begin()

    def starving(own: Track) -> None:
        own.begin()
        own.mark("waits")
        time.sleep(60)

    def stubborn(own: Track) -> None:
        """Is interrupted twice: what it has to put in order takes longer than the interrupt is repeated after."""
        own.begin()
        try:
            time.sleep(60)
        finally:
            time.sleep(5)
            own.mark("not reached")

    def swallowing(own: Track) -> None:
        """Comes to its end after the interrupt, which would be repeated."""
        own.begin()
        try:
            time.sleep(60)
        except BaseException:
            own.mark("goes on")

    crowd = Crowd(tmp_path, patience=0.1)
    roles = {"early": early, "starving": starving, "stubborn": stubborn, "swallowing": swallowing}
    for name, role in roles.items():
        crowd.add(name, role)
    found = {one.role: one for one in crowd.run()}
    assert {name: one.finished for name, one in found.items()} == {
        "early": True,
        "starving": False,
        "stubborn": False,
        "swallowing": True,
    }
    assert {name: [what for what, _ in one.marks] for name, one in found.items()} == {
        "early": [],
        "starving": ["waits"],
        "stubborn": [],
        "swallowing": ["goes on"],
    }


def test_no_process_waits_for_a_role_that_was_killed(tmp_path: Path) -> None:
    def killed(own: Track) -> None:
        own.begin()
        os.kill(os.getpid(), 9)

    def walker(own: Track) -> None:
        own.begin()

    crowd = Crowd(tmp_path, patience=600)
    crowd.add("walker", walker, count=2)
    crowd.add("killed", killed)
    crowd.add("walker", walker, count=2)
    started = time.monotonic()
    with pytest.raises(RoleFailed, match=r"killed:\nit left no track: it was killed"):
        crowd.run()
    assert time.monotonic() - started < 300


def test_no_process_waits_for_a_role_that_raised(tmp_path: Path) -> None:
    def clumsy(own: Track) -> None:
        own.begin()
        raise LookupError("where is it?")

    def walker(own: Track) -> None:
        own.begin()

    crowd = Crowd(tmp_path, patience=600)
    crowd.add("clumsy", clumsy)
    crowd.add("walker", walker)
    with pytest.raises(RoleFailed, match=r"clumsy:(?s:.*)where is it"):
        crowd.run()


def test_meanwhile_another_process_is_inside_the_action(tmp_path: Path) -> None:
    def action(block: Any) -> None:
        (tmp_path / "inside").write_text(str(os.getpid()))
        block()

    with meanwhile(action):
        pid = int((tmp_path / "inside").read_text())
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# Row 5


def test_a_cold_start_is_measured_from_the_end_of_the_creation() -> None:
    creator = track(marks={"creation begins": 0, "creation ends": 100, "through": 101})
    waiters = [track(marks={"through": at}) for at in (110, 120, 150)]
    assert cold_start.outcome([creator, *waiters]) == cold_start.Outcome(1, 0, 0.020, 0.050)


def test_a_cold_start_with_several_creations_is_measured_from_the_last() -> None:
    tracks = [track(marks={"creation ends": at, "through": at}) for at in (100, 200)]
    found = cold_start.outcome([*tracks, track(marks={"through": 110}), track(marks={"through": 230})])
    assert (found.creations, found.median, found.last) == (2, -0.090, 0.030)


def test_a_process_that_is_not_through_in_time_is_missing() -> None:
    creator = track(marks={"creation ends": 100, "through": 101})
    found = cold_start.outcome([creator, track(marks={"through": 110}), track(finished=False)])
    assert (found.creations, found.missing, found.last) == (1, 1, 0.010)


def test_the_row_of_cold_starts_judges_at_50_and_counts_creations() -> None:
    found = {
        (peers.DOGPILE, 50): [cold_start.Outcome(1, 0, 0.01, 0.02), cold_start.Outcome(1, 0, 0.01, 0.02)],
        (peers.OVER_FILELOCK, 50): [cold_start.Outcome(1, 0, 0.05, 0.03)] * 2,
        (peers.STAMPEDE, 50): [cold_start.Outcome(50, 0, float("nan"), float("nan"))] * 2,
        (peers.DBM, 50): [cold_start.Outcome(1, 3, 0.1, 0.2)] * 2,
    }
    row = cold_start.scenario(found, 0.3, 15.0)
    assert [bar.verdict for bar in row.bars] == ["met", "missed"]
    assert [check.passed for check in row.checks] == [True, True]
    said = {figure.contender: figure.said for figure in row.figures if figure.spread is None}
    assert said == {peers.STAMPEDE: "all created", peers.DBM: "3 not through in 15 s"}
    assert {ratio.contender for ratio in row.ratios} == {peers.OVER_FILELOCK}


def test_two_creations_or_a_missing_waiter_of_ours_fail_a_check() -> None:
    found = {
        (peers.DOGPILE, 50): [cold_start.Outcome(1, 0, 0.01, 0.02), cold_start.Outcome(2, 1, 0.01, 0.02)],
        (peers.OVER_FILELOCK, 50): [cold_start.Outcome(1, 0, 0.05, 0.03)] * 2,
    }
    row = cold_start.scenario(found, 0.3, 15.0)
    assert [(check.passed, check.seen) for check in row.checks] == [(False, "1, 2"), (False, "0, 1")]


# Row 6


def writer_and_readers(attempts: list[tuple[int, int, int]], blocks: list[tuple[int, int]]) -> Any:
    writer = track(attempts=[[at * MS for at in one] for one in attempts], begin=0, end=1000 * MS)
    reader = track(blocks=[[at * MS for at in one] for one in blocks])
    return writer_among_readers.outcome(writer, [reader])


def test_a_writer_that_gets_in_has_waited_from_its_request_to_its_entry() -> None:
    found = writer_and_readers([(10, 14, 15), (30, 32, 33)], [(0, 13), (16, 31), (34, 1001)])
    assert found.waits == pytest.approx([0.004, 0.002])
    assert (found.writes, found.fewest_reads, found.overlaps) == (2, 3, 0)
    assert found.reads_per_second == pytest.approx(2.0)  # what ended after the round is not of it


def test_a_writer_that_never_gets_in_has_waited_until_the_end() -> None:
    found = writer_and_readers([(10, 1005, 1006)], [(0, 1003)])
    assert found.waits == pytest.approx([0.990])
    assert found.writes == 0


def test_an_attempt_that_the_end_cut_short_says_nothing() -> None:
    found = writer_and_readers([(10, 30, 31), (995, 1005, 1006)], [(0, 20), (40, 60)])
    assert found.waits == pytest.approx([0.020])


def test_readers_inside_while_a_writer_is_are_counted() -> None:
    found = writer_and_readers([(10, 14, 20)], [(0, 13), (15, 16), (19, 30), (20, 25)])
    assert found.overlaps == 2


def test_a_writer_that_was_interrupted_in_its_first_attempt_has_waited_all_the_time() -> None:
    found = writer_and_readers([], [(0, 1003)])
    assert (found.waits, found.writes) == ([1.0], 0)


def test_starvation_is_said_in_words() -> None:
    gets_in = writer_and_readers([(10, 14, 15), (30, 34, 35), (50, 52, 53)], [(0, 13), (16, 29)])
    starves = writer_and_readers([(10, 1005, 1006)], [(0, 1003)])
    locks = (peers.READER, peers.FILELOCK_RW, peers.FLOCK)
    row = writer_among_readers.scenario(
        {(name, 1): [starves if name == peers.FLOCK else gets_in] for name in locks}, 1.0
    )
    said = {figure.said for figure in row.figures if figure.contender == peers.FLOCK and figure.said}
    assert said == {"did not get in within 1.0 s"}
    assert all(check.passed for check in row.checks)
    assert [bar.verdict for bar in row.bars] == ["met", "met"]  # 4 ms are two holds


# Row 7


def slices(*some: tuple[int, int, int, int]) -> list[list[int]]:
    """Begin, end (milliseconds), passes, slowest (milliseconds)."""
    return [[begin * MS, end * MS, passes, slowest * MS] for begin, end, passes, slowest in some]


def test_passes_are_counted_before_and_during_the_creation() -> None:
    creator = track(marks={"creation begins": 1000, "creation ends": 2000}, slices=slices((500, 900, 300, 4)))
    other = track(
        slices=slices(
            (0, 100, 7, 1),  # too long before
            (200, 700, 100, 5),
            (700, 1100, 1000, 8),  # the creation begins in it: of neither
            (1100, 1900, 320, 9),
            (1900, 2100, 50, 3),  # it ends in it
            (2100, 2200, 60, 99),  # after it
        )
    )
    found = expiry_under_load.outcome([creator, other], window=0.8)
    assert (found.creations, found.before, found.during) == (1, 400 / 0.8, 320)
    assert (found.slowest_before, found.slowest_during) == (0.005, 0.009)
    assert found.fewest_during == 320
    assert found.creation == (0.0, 1.0)


def test_creations_are_counted_until_the_new_version_expires_again() -> None:
    creator = track(marks={"creation begins": 1000, "creation ends": 2000})
    creator.reported["slices"] = slices((500, 900, 300, 4))

    def another(began: int) -> Track:
        return track(marks={"creation begins": began, "creation ends": began + 1000}, slices=[])

    def creations(*began: int) -> int:
        return expiry_under_load.outcome([creator, *map(another, began)], window=1.0).creations

    assert creations(1500) == 2
    assert creations(2500) == 2
    assert creations(3500) == 1  # its process was kept from running for 1.1 s


def test_a_process_that_never_passes_during_the_creation_shows() -> None:
    creator = track(marks={"creation begins": 1000, "creation ends": 2000}, slices=slices((500, 900, 300, 4)))
    held_up = track(slices=slices((200, 900, 100, 5), (900, 2001, 1, 1050)))
    found = expiry_under_load.outcome([creator, held_up], window=1.0)
    assert (found.fewest_during, found.slowest_during) == (0, 1.050)


# Row 8


def test_the_share_that_is_kept_is_computed_round_by_round() -> None:
    def rounds(*rates: int) -> list[web.Slice]:
        return [web.Slice(load.Load(rate, 1.0, failures=0), used=0.5) for rate in rates]

    found = {web.PLAIN: rounds(1000, 500)} | {name: rounds(980, 490) for name in web.OURS}
    row = web.scenario(found, "a driver")
    assert {bar.verdict for bar in row.bars} == {"met"}
    assert row.bars[0].measured.median == pytest.approx(98)
    assert row.checks[0].passed


# Row 17


def test_the_rate_of_a_file_of_each_size_is_compared_round_by_round() -> None:
    def rounds(*rates: int) -> list[serving.Slice]:
        return [serving.Slice(load.Load(rate, 1.0, failures=rate == 1), used=0.5) for rate in rates]

    found = {
        length: {
            serving.STARLETTE: rounds(1000, 500),
            serving.RESPONSE: rounds(950, 475),
            serving.APP: rounds(1, 2),
        }
        for length in serving.SIZES
    }
    row = serving.scenario(found, "a driver")
    assert [bar.verdict for bar in row.bars] == ["met"] * len(serving.SIZES)
    assert row.bars[0].measured.median == pytest.approx(0.95)
    assert not row.checks[0].passed


def test_the_own_driver_counts_whole_answers_and_others() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/good" else 500)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello" if self.path == "/good" else b"sorry")

        def log_message(self, *_: object) -> None:
            pass

    class Server(HTTPServer):
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        good = load.drive(server.server_port, "/good", 0.05)
        bad = load.drive(server.server_port, "/bad", 0.05)
        server.shutdown()
    assert good.requests >= load.CONNECTIONS
    assert good.failures == 0
    assert bad.failures == bad.requests > 0


# Rows 9, 10 and 12


def test_a_swap_is_compared_with_the_bare_calls_that_promise_the_same() -> None:
    seconds = {swap.DATAFILE: 0.021, swap.ATOMIC: 0.022, swap.BARE: 0.010, swap.BARE_WITH_DIRECTORY: 0.020}
    found = {(swap.DURABLE, name, swap.MB): [cost] * 3 for name, cost in seconds.items()}
    found |= {(swap.FAST, swap.DATAFILE, swap.MB): [0.012] * 3, (swap.FAST, swap.BARE_FAST, swap.MB): [0.010] * 3}
    row = swap.scenario(found, [])
    measured = [bar.measured.median for bar in row.bars]
    assert measured == pytest.approx([1.05, 2.1, 1.2])
    assert [bar.met for bar in row.bars] == [True, False, False]


def test_passes_of_many_objects_in_turn_are_compared_with_those_of_fewer() -> None:
    def holding(number: int, each: float) -> many_paths.Holding:
        return many_paths.Holding(number, 1000, 1, 1e-4, 1e-4, [2e-6] * 3, [2e-6] * 3, [each] * 3)

    holdings = [holding(1, 50e-6), holding(100, 10e-6), holding(10_000, 12e-6)]
    row = many_paths.scenario(dict.fromkeys(many_paths.OURS, holdings), [])
    in_turn = [bar for bar in row.bars if "in turn" in bar.text]
    assert [round(bar.measured.median, 3) for bar in in_turn] == [1.2] * 3
    assert all("against that with 100" in bar.text for bar in in_turn)


def test_throughput_is_the_sum_of_what_each_did_in_its_own_time() -> None:
    tracks = [
        track(passes=100, seconds=0.5, in_kernel=0.002),
        track(passes=300, seconds=1.0, in_kernel=0.002),
        track(finished=False),
    ]
    found = scaling.outcome(tracks)
    assert found == scaling.Outcome(passes_per_second=500, in_kernel=0.004 / 400, fewest_passes=0)


# Row 13


def asks(values: list[list[int]], *requests: tuple[int, int, str]) -> Track:
    """Values: when their creations began and ended. Requests: begin, end, error. All in milliseconds."""
    return track(
        values=[[at * MS for at in value] for value in values],
        requests=[[began * MS, ended * MS, error] for began, ended, error in requests],
    )


def test_requests_are_counted_from_the_expiry_until_the_new_value_is_there() -> None:
    one = asks(
        [[0, 100], [1105, 2000]],
        (1000, 1001, ""),  # before the expiry, which is at 1100
        (1099, 1101, ""),
        (1200, 1301, ""),  # 100 ms, and a usual one takes 1
        (1400, 1502, ""),
        (2001, 2500, ""),  # after
    )
    other = asks([[0, 100]], (1000, 1001, ""), (1200, 1201, "OSError"), (1300, 2100, ""))
    found = slow_creator.outcome([one, other], [0, 1105 * MS, 2500 * MS], expiretime=1.0)
    assert found == slow_creator.Outcome(1, requests=5, waited=2, failed=1, slowest=0.8, error="OSError")


def test_a_creation_that_begins_before_the_expiry_is_where_counting_begins() -> None:
    one = asks([[0, 100], [300, 800]], (110, 111, ""), (400, 401, ""), (700, 701, ""))
    found = slow_creator.outcome([one], [0, 300 * MS], expiretime=1.0)
    assert (found.creations, found.requests, found.waited) == (1, 2, 0)


def test_an_expiry_without_a_new_value_has_no_outcome() -> None:
    with pytest.raises(ValueError, match="another value"):
        slow_creator.outcome([asks([[0, 100]])], [0], expiretime=1.0)


def test_the_row_of_slow_creators_judges_ours_and_names_what_is_not_installed() -> None:
    good = slow_creator.Outcome(1, requests=900, waited=0, failed=0, slowest=0.01, error="")
    bad = slow_creator.Outcome(2, requests=900, waited=3, failed=1, slowest=1.0, error="OSError")
    row = slow_creator.scenario({peers.PROCESS: [good], peers.THREAD: [bad], peers.DBM: [bad]}, slow_creator.QUICK)
    assert [bar.met for bar in row.bars] == [True, True, False, False]
    assert [check.passed for check in row.checks] == [True, True, False, False]
    assert f"Not installed here: {peers.STAMPEDE}, {peers.CACHIER}." in row.notes
    assert f"{peers.DBM}: the requests that failed raised OSError." in row.notes


def test_a_contender_is_installed_if_its_packages_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "diskcache" else name)
    assert [name for name in backgrounds.BACKGROUNDS if not peers.is_installed(name)] == [peers.STAMPEDE]


def test_a_slow_creator_gives_its_moments_and_leaves_that_of_its_beginning(tmp_path: Path) -> None:
    creator = backgrounds.Creator(tmp_path / "begun", 0.01)
    values = [creator.create(), creator.create()]
    assert [int(line) for line in creator.begun.read_text().split()] == [began for began, _ in values]
    assert all(ended - began >= 10 * MS for began, ended in values)


# Row 14


def gap(refused: list[int], got: list[int]) -> handing_over.Watch:
    """A caller that is elected at 80 ms, whose pass ends at 100 ms, and whose creator ends at 200 ms."""
    caller = track(taken=80 * MS, passed=100 * MS, value=[110 * MS, 200 * MS])
    return handing_over.watched(caller, track(refused=[at * MS for at in refused], got=[at * MS for at in got]))


def test_a_competitor_is_watched_from_the_election_until_the_creator_has_ended() -> None:
    assert gap([70, 90, 150, 210], [60, 79, 220]) == handing_over.Watch(2, 0, is_from_before=True)
    assert gap([70, 150], [160, 220]) == handing_over.Watch(2, 1, is_from_before=False)
    assert gap([], []) == handing_over.Watch(0, 0, is_from_before=False)


def test_a_mutex_that_another_got_in_between_fails_a_check() -> None:
    times = [handing_over.HandOver(elected=0.003, stale=0.001, begins=0.1)] * 3
    good, bad = (handing_over.Watch(9, got, is_from_before=True) for got in (0, 1))
    row = handing_over.scenario(
        dict.fromkeys(handing_over.OURS, times),
        [0.001] * 3,
        {peers.PROCESS: [good] * 3, peers.THREAD: [good, bad]},
    )
    assert [bar.met for bar in row.bars] == [True, False]
    assert [(check.passed, check.seen) for check in row.checks] == [(True, "0 times"), (False, "1 times")]
    assert [ratio.spread.median for ratio in row.ratios] == [pytest.approx(2.0)] * 2


# Row 15


def comes(key: str, *, creates: int = 0, answered: int | None = None, is_right: bool = True) -> Track:
    """A process that begins at 100 ms. Times in milliseconds."""
    one = track(key=key, began=100 * MS)
    one.marks = [("creation begins", 101 * MS)] * creates
    if answered is not None:
        one.marks.append(("answered", answered * MS))
        one.reported["is_right"] = is_right
    return one


def test_creations_of_a_cold_start_are_counted_by_key() -> None:
    tracks = [
        comes("key-0", creates=1, answered=1100),
        comes("key-1", creates=2, answered=1200),
        comes("key-1", creates=1, answered=1300, is_right=False),
        comes("key-1"),
    ]
    assert keys.outcome(tracks, 3) == keys.ColdStart([1, 3, 0], missing=1, wrong=1, last=1.2)


def found_with(cold: keys.ColdStart, *, removed: int = 1_500) -> keys.Found:
    """What would have been measured: processes that wait for dbm files get no answer."""
    names = (*keys.OURS, peers.JOBLIB, peers.DBM)
    every = [(name, number) for name in names for number in keys.FULL.numbers]
    cost = {1: 1e-6, 1_000: 2e-6, 100_000: 3e-6}
    in_vain = keys.ColdStart([1] * 20, missing=3, wrong=0, last=25.0)
    return keys.Found(
        hits={each: [cost[each[1]]] * 3 for each in every},
        uses={
            each: [keys.Use(None if each[1] == 1 else cost[each[1]], 1e-3, missed=100, descriptors=2)] * 3
            for each in every
        },
        removals={
            each: keys.Removal(1e-4, None if each[1] == 100_000 else 1e-3, removed, keys=1_500) for each in every
        },
        room=dict.fromkeys(names, 8192.0),
        cold={name: [in_vain if name == peers.DBM else cold] * 3 for name in names},
        too_slow=[],
    )


def test_the_row_of_many_keys_judges_ours_and_names_what_is_not_installed() -> None:
    row = keys.scenario(found_with(keys.ColdStart([1] * 20, missing=0, wrong=0, last=1.1)), keys.FULL)
    assert [round(bar.measured.median, 3) for bar in row.bars] == [3, 1.5, 1, 1.1] * 2
    assert [bar.met for bar in row.bars] == [False, False, True, True] * 2
    assert all(check.passed for check in row.checks)
    said = {figure.contender: figure.said for figure in row.figures if figure.what == keys.LAST and figure.said}
    assert said == {peers.DBM: "3 without one after 25 s"}
    assert {ratio.contender for ratio in row.ratios if ratio.what == keys.LAST} == {
        peers.CACHED_FILE,
        peers.JOBLIB,
    }
    missing = ", ".join(name for name in many_keys.CACHES if name not in (*keys.OURS, peers.JOBLIB, peers.DBM))
    assert f"Not installed here: {missing}." in row.notes
    assert Scenario.from_json(row.as_json()) == row


@pytest.mark.parametrize(
    ("cold", "removed", "fails"),
    [
        (keys.ColdStart([1] * 19 + [2], missing=0, wrong=0, last=1.1), 1_500, ": exactly one creation per key"),
        (keys.ColdStart([1] * 20, missing=0, wrong=1, last=1.1), 1_500, ": every process has the right answer"),
        (keys.ColdStart([1] * 20, missing=0, wrong=0, last=1.1), 1_499, ", keys at first: 1,000: prune removes"),
    ],
)
def test_a_wrong_count_of_ours_fails_a_check(cold: keys.ColdStart, removed: int, fails: str) -> None:
    row = keys.scenario(found_with(cold, removed=removed), keys.FULL)
    failed = [check.text for check in row.checks if not check.passed]
    assert all(any(f"{name}{fails}" in text for text in failed) for name in keys.OURS)


@pytest.mark.parametrize(("name", "fails"), [(peers.JOBLIB, False), (peers.CACHED_FILE, True)])
def test_a_cache_that_could_not_be_filled_in_time_is_named_and_fails_a_check_if_it_is_ours(
    name: str, fails: bool
) -> None:
    found = found_with(keys.ColdStart([1] * 20, missing=0, wrong=0, last=1.1))
    found.too_slow.append((name, 100_000))
    del found.hits[name, 100_000], found.uses[name, 100_000], found.removals[name, 100_000], found.room[name]
    row = keys.scenario(found, keys.FULL)
    said = f"{name} with 100,000 keys"
    assert f"Not filled within 600 s, and so not measured: {said}." in row.notes
    assert [check.seen for check in row.checks if not check.passed] == [said] * fails


@pytest.mark.parametrize("name", keys.OURS)
def test_a_cache_of_ours_keeps_the_values_of_its_keys_until_they_are_removed(name: str, tmp_path: Path) -> None:
    created: list[str] = []

    def creator(key: str) -> many_keys.Value:
        created.append(key)
        return many_keys.value_of(key)

    for _ in range(2):  # the second one is another object, as another process has one
        cache = many_keys.opened(name, tmp_path, creator)
        assert [cache.get(key) for key in ("a", "b")] == [many_keys.value_of(key) for key in ("a", "b")]
    assert created == ["a", "b"]
    assert cache.prune is not None
    assert cache.clear is not None
    assert (cache.prune(3600), cache.clear()) == (0, 2)


# The run


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (False, 1)])
def test_a_run_fails_if_a_count_is_wrong_and_not_if_a_bar_is_missed(
    passed: bool, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def module(*_: object) -> tuple[dict[str, Any], list[Scenario]]:
        scenario = Scenario(number=9, title="Title", setting="Setting", ours=["ours"])
        scenario.bars.append(Bar("at most 1", 1.0, "at most", Spread.of([7.0])))
        scenario.checks.append(Check("exactly one creation", passed, "2"))
        return {"took": 0.0, "others": 0.0}, [scenario]

    monkeypatch.setattr(suite, "_in_process_of_its_own", module)
    monkeypatch.setattr(suite, "_written", lambda *_: tmp_path)
    assert suite.main(["--quick", "--only", "9", "--scratch", str(tmp_path)]) == status


# The page


def results(quick: bool = False, others: float = 1.0) -> dict[str, Any]:
    scenario = Scenario(
        number=1,
        title="Fresh pass",
        setting="One pass after the other.",
        ours=["ours"],
        figures=[Figure("ours", "cost", "s", Spread.of([2e-6])), Figure("theirs", "cost", "s", Spread.of([8e-6]))],
        ratios=[Ratio("theirs", "ours", "cost", Spread.of([4.0]))],
        bars=[Bar("theirs against ours: at least 3 times", 3.0, "at least", Spread.of([4.0]))],
        checks=[Check("exactly one creation", False, "2")],
        notes=["A note."],
    )
    return {
        "machine": {"kernel": "Linux 6", "packages": {"filelock": "4.0"}},
        "runs": {
            "single_calls": {
                "when": "2025-01-02T03:04:05",
                "quick": quick,
                "others": others,
                "stolen": 0.0,
                "took": 1,
            }
        },
        "scenarios": [scenario.as_json()],
    }


def test_the_page_has_figures_ratios_verdicts_and_what_failed() -> None:
    page = report.page(results(), {1: ["benchmarks/row-01.svg"]})
    lines = [line.split() for line in page.splitlines()]
    assert ["theirs", "8", "µs", "4"] in lines
    assert ["1", "theirs", "against", "ours:", "at", "least", "3", "times", "4", "met"] in lines
    assert ".. image:: benchmarks/row-01.svg" in page
    assert "exactly one creation: 2" in page
    assert ":packages: filelock 4.0" in page
    assert "busy" not in page
    assert "quick" not in page


def test_the_page_warns_of_a_busy_machine_and_of_a_quick_run() -> None:
    page = report.page(results(quick=True, others=50.0), {})
    assert "The machine was busy with something else during: single_calls (50 %)" in page
    assert "Its figures mean nothing" in page


def test_what_people_wrote_around_the_tables_stays() -> None:
    page = report.written_into(None, "first")
    page = page.replace(report.BEGIN, "Where the time goes.\n\n" + report.BEGIN) + "\nAnd more.\n"
    again = report.written_into(page, "second")
    assert "first" not in again
    assert [text in again for text in ("Where the time goes.", "second", "And more.")] == [True] * 3
    assert report.written_into(again, "second") == again


def test_a_page_without_marks_is_not_written_over() -> None:
    with pytest.raises(ValueError, match="marks"):
        report.written_into("A page without marks.", "tables")


def test_a_row_that_was_measured_on_another_machine_says_so() -> None:
    found = results()
    assert "elsewhere" not in report.page(found, {})
    now = {**found["machine"], "kernel": "Linux 7", "packages": {"filelock": "4.0", "cachier": "4.2.0"}}
    found["runs"]["single_calls"]["elsewhere"] = suite.elsewhere(found["machine"], now)
    said = "Measured elsewhere, on another kernel (Linux 7); packages (cachier 4.2.0): single_calls."
    assert said in report.page(found, {})


def test_a_row_that_was_measured_on_the_same_machine_does_not() -> None:
    found = results()
    found["runs"]["single_calls"]["elsewhere"] = suite.elsewhere(found["machine"], dict(found["machine"]))
    assert "elsewhere" not in report.page(found, {})


# Row 18


def test_a_swap_of_a_directory_is_compared_with_copy_and_sync_round_by_round() -> None:
    found = {directory_swap.COPY: [1.0, 2.0], "ours": [2.0, 4.0]}
    row = directory_swap.scenario(found, [], 2000)
    (ratio,) = row.ratios
    assert (ratio.contender, ratio.spread.least, ratio.spread.most) == ("ours", 2, 2)
    assert row.checks[0].passed
    assert not directory_swap.scenario(found, ["ours, round 1"], 2000).checks[0].passed
