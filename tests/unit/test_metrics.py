"""What Prometheus is told of resources: the same by the text format and by prometheus_client."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dogpile_fs import Backoff, DataDirectory, Datafile, Dogpile, SyncReaderDogpile
from dogpile_fs.errors import PathError
from dogpile_fs.metrics import CONTENT_TYPE, Collector
from tests.support.places import writing

STATES = ("fresh", "stale", "expired", "missing")
ALWAYS = {
    "dogpile_fs_up",
    "dogpile_fs_state",
    "dogpile_fs_creations_total",
    "dogpile_fs_failures_total",
    "dogpile_fs_failures_in_a_row",
}


def series(text: str) -> dict[tuple[str, ...], float]:
    """Return the values in *text* by the name and the values of the labels, as prometheus_client reads them."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(collector: Collector, path: str | Path) -> dict[str, float]:
    """Return the values of the series of *path*, without the states, by name."""
    return {
        key[0]: value
        for key, value in series(collector.text()).items()
        if key[1:] == (str(path),) and key[0] != "dogpile_fs_state"
    }


def state(collector: Collector, path: str | Path) -> str:
    """Return the state whose series is 1; those of the others are 0."""
    values = series(collector.text())
    found = {name: values["dogpile_fs_state", str(path), name] for name in STATES}
    assert sorted(found.values()) == [0, 0, 0, 1]
    return max(found, key=found.__getitem__)


@pytest.fixture
def report(tmp_path: Path) -> Datafile:
    """A report of six bytes that is fresh for an hour."""
    report = Datafile(tmp_path / "report", 3600, writing("report"))
    report.refresh()
    return report


def test_a_fresh_file_has_all_that_is_known_and_nothing_else(report: Datafile, tmp_path: Path) -> None:
    path = tmp_path / "report"
    now = time.time()
    values = of(Collector([path]), path)
    status = report.status()
    assert 0 <= values.pop("dogpile_fs_age_seconds") <= time.time() - now + 60
    assert values == {
        "dogpile_fs_up": 1,
        "dogpile_fs_fresh_until_timestamp_seconds": status.fresh_until,
        "dogpile_fs_creations_total": 1,
        "dogpile_fs_failures_total": 0,
        "dogpile_fs_failures_in_a_row": 0,
        "dogpile_fs_creation_seconds": status.cost,
        "dogpile_fs_size_bytes": 6,
    }
    assert state(Collector([path]), path) == "fresh"


def test_what_is_missing_has_counts_and_no_moments(tmp_path: Path) -> None:
    path = tmp_path / "report"
    collector = Collector([path])
    assert {*of(collector, path)} | {"dogpile_fs_state"} == ALWAYS
    assert state(collector, path) == "missing"
    assert os.listdir(tmp_path) == []


def test_the_states_follow_the_version(report: Datafile, tmp_path: Path) -> None:
    path = tmp_path / "report"
    collector = Collector([path])
    report.invalidate()
    assert state(collector, path) == "stale"
    report.invalidate(hard=True)
    assert state(collector, path) == "missing"
    report.refresh()
    assert state(collector, path) == "fresh"
    old = Datafile(tmp_path / "old", 0, writing("old"), max_stale=0)
    old.refresh()
    assert state(Collector([tmp_path / "old"]), tmp_path / "old") == "expired"


def test_failures_are_counted_in_all_and_in_a_row_and_the_next_attempt_has_a_time(tmp_path: Path) -> None:
    path = tmp_path / "report"
    failing = [True, True]

    def creator(target: str) -> None:
        if failing and failing.pop():
            raise ValueError("no source")
        Path(target).write_text("report")

    report = Datafile(path, 3600, creator, backoff=Backoff(initial=60, jitter=0))
    collector = Collector([path])
    for failures in (1, 2):
        with pytest.raises(ValueError, match="no source"):
            report.refresh(force=True)
        values = of(collector, path)
        assert values["dogpile_fs_failures_in_a_row"] == values["dogpile_fs_failures_total"] == failures
        assert values["dogpile_fs_retry_at_timestamp_seconds"] == report.status().retry_at
    report.refresh(force=True)
    values = of(collector, path)
    assert (values["dogpile_fs_failures_in_a_row"], values["dogpile_fs_failures_total"]) == (0, 2)
    assert "dogpile_fs_retry_at_timestamp_seconds" not in values


def test_a_creation_that_runs_has_the_time_of_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "report"
    runs, may_end = threading.Event(), threading.Event()

    def creator(target: str) -> None:
        runs.set()
        may_end.wait()
        Path(target).write_text("report")

    report = Datafile(path, 3600, creator)
    thread = threading.Thread(target=report.refresh)
    before = time.time()
    thread.start()
    runs.wait()
    values = of(Collector([path]), path)
    may_end.set()
    thread.join()
    assert before <= values["dogpile_fs_creating_since_timestamp_seconds"] <= time.time()
    assert "dogpile_fs_creating_since_timestamp_seconds" not in of(Collector([path]), path)


def test_processes_that_did_nothing_give_the_counts_of_those_that_have_ended(tmp_path: Path) -> None:
    script = (
        "import sys; from dogpile_fs import Datafile; "
        "report = Datafile('report', 3600, lambda path: open(path, 'w').close()); report.refresh(force=True); "
        "from dogpile_fs.metrics import Collector; print(Collector([report]).text())"
    )
    for creations in (1, 2, 3):
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        )
        key = ("dogpile_fs_creations_total", str(tmp_path / "report"))
        assert series(done.stdout)[key] == creations == series(Collector([key[1]]).text())[key]


def test_a_path_expires_as_its_last_creator_said_and_an_object_as_it_says_itself(
    report: Datafile, tmp_path: Path
) -> None:
    path = tmp_path / "report"
    of_path = of(Collector([path]), path)
    of_object = of(Collector([Datafile(path, 60)]), path)
    name = "dogpile_fs_fresh_until_timestamp_seconds"
    assert of_path[name] - of_object[name] == pytest.approx(3540)
    assert name not in of(Collector([Datafile(path, None)]), path)


def test_each_kind_of_resource_is_known_by_its_path(tmp_path: Path) -> None:
    def folder(target: str) -> None:
        Path(target).mkdir()
        (Path(target) / "part").write_text("text")

    directory = DataDirectory(tmp_path / "directory", 3600, folder)
    directory.refresh()
    lock = Dogpile(3600, tmp_path / "lock")
    lock.refresh(lambda: None)
    readers = SyncReaderDogpile(3600, tmp_path / "readers")
    unmade = Datafile(tmp_path / "unmade" / "report", 3600, writing("report"))
    for collector in (
        Collector([directory, lock, readers, unmade]),
        Collector([tmp_path / "directory", os.fspath(tmp_path / "lock"), readers, unmade]),
    ):
        for name, creations in (("directory", 1), ("lock", 1), ("readers", 0), ("unmade/report", 0)):
            values = of(collector, tmp_path / name)
            assert values["dogpile_fs_creations_total"] == creations
            assert "dogpile_fs_size_bytes" not in values
    assert not (tmp_path / "unmade").exists()


def test_plain_paths_may_have_their_coordination_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    path = tmp_path / "report"
    Datafile(path, 3600, writing("report"), directory=tmp_path / "locks").refresh()
    assert of(Collector([path], directory=tmp_path / "locks"), path)["dogpile_fs_creations_total"] == 1
    assert of(Collector([path]), path)["dogpile_fs_creations_total"] == 0


def test_a_path_that_is_given_twice_has_one_series(report: Datafile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(report.path()).parent)
    text = Collector(["report", report, report.path()]).text()
    assert text.count("dogpile_fs_up{") == 1


def test_a_path_that_cannot_be_looked_at_does_not_lose_the_others_and_is_logged_once_per_reason(
    report: Datafile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = tmp_path / "missing" / "report"
    collector = Collector([lost, report])
    for _ in range(3):
        assert of(collector, lost) == {"dogpile_fs_up": 0}
        assert of(collector, tmp_path / "report")["dogpile_fs_up"] == 1
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"there are no metrics of {str(lost)!r}: the directory ")
    lost.parent.mkdir()
    assert of(collector, lost)["dogpile_fs_up"] == 1
    lost.parent.rmdir()
    of(collector, lost)
    assert len(caplog.records) == 2


NAMES = ('quo"te', "back\\slash", "new\nline", "a\\nb", "undecodable\udcff", "{le=1} 2 # é", "\r\x1b[31m")


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_escaped_so_that_it_is_read_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Datafile(path, 3600, writing("report")).refresh()
    text = Collector([path]).text()
    assert set(map(len, map(str.split, re.findall(r"^# TYPE .*$", text, re.MULTILINE)))) == {4}
    values = of(Collector([path]), f"{tmp_path}/{name}".replace("\udcff", "\\udcff"))
    assert values["dogpile_fs_creations_total"] == 1
    assert text.encode().decode() == text


def test_prometheus_client_gives_the_same_series_as_the_text(report: Datafile, tmp_path: Path) -> None:
    made: list[Datafile | Path] = [
        report,
        tmp_path / "missing",
        tmp_path / "no" / "directory",
        *(tmp_path / name for name in NAMES),
    ]
    collector = Collector(made)
    registry = CollectorRegistry()
    registry.register(collector)

    def without_ages(text: str) -> dict[tuple[str, ...], float]:
        return {key: value for key, value in series(text).items() if key[0] != "dogpile_fs_age_seconds"}

    theirs = generate_latest(registry).decode()
    assert without_ages(theirs) == without_ages(collector.text())
    about = re.compile(r"^# .*$", re.MULTILINE)
    assert about.findall(theirs) == about.findall(collector.text())


def test_nothing_is_looked_at_when_it_is_registered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry(auto_describe=True)
    collector = Collector([tmp_path / "no" / "directory"])
    registry.register(collector)
    assert caplog.records == []
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(Collector([tmp_path / "another"]))
    registry.unregister(collector)


def test_the_text_is_what_its_content_type_says(report: Datafile) -> None:
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
    text = Collector([report]).text()
    assert text.endswith("\n")
    helped, typed = (re.findall(rf"^# {word} (\S+) ", text, re.MULTILINE) for word in ("HELP", "TYPE"))
    assert helped == typed
    assert len(set(helped)) == len(helped) == 11
    assert {*helped} > ALWAYS


def test_the_text_needs_no_prometheus_client(tmp_path: Path) -> None:
    script = (
        "import sys; from dogpile_fs.metrics import Collector; Collector(['report']).text(); "
        "print('prometheus_client' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("resources", "error", "hint"),
    [
        ("report", TypeError, "put it in a list"),
        (Path("report"), TypeError, "put it in a list"),
        ([3], TypeError, "path must be a string"),
        ([Dogpile(60)], TypeError, "without a path"),
        ([""], PathError, "names no file"),
    ],
)
def test_what_is_no_resource_is_refused_at_construction(
    resources: object, error: type[Exception], hint: str
) -> None:
    with pytest.raises(error, match=hint):
        Collector(resources)  # type: ignore[arg-type]


def test_threads_may_look_at_the_same_time(report: Datafile) -> None:
    collector = Collector([report, Path(report.path()).parent / "no" / "directory"])
    texts: list[str] = []

    def look() -> None:
        texts.extend(collector.text() for _ in range(20))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {re.sub(r"(age_seconds{.*}) .*", r"\1", text) for text in texts} == {
        re.sub(r"(age_seconds{.*}) .*", r"\1", collector.text())
    }
