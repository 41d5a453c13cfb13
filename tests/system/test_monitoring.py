"""A real Prometheus: it scrapes the collector, and takes the rules and the queries of ``examples/monitoring``."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from dogpile_fs import Datafile
from dogpile_fs.metrics import _FAMILIES, Collector
from tests.support.places import writing
from tests.support.processes import PATIENCE, wait_for

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "monitoring"

CONFIGURATION = """\
global:
  scrape_interval: 1s
  evaluation_interval: 1s
rule_files: ["{rules}"]
scrape_configs:
  - job_name: test
    static_configs:
      - targets: {targets}
"""


def installed(program: str, package: str = "prometheus") -> str:
    """Return the path of *program*, or skip the test."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (Debian: {package})")
    return found


@contextmanager
def prometheus(directory: Path, *targets: str) -> Iterator[str]:
    """Run a Prometheus that scrapes *targets* each second, with the example's rules; yield the URL of its API."""
    program = installed("prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*free.getsockname())
    (directory / "prometheus.yml").write_text(
        CONFIGURATION.format(rules=EXAMPLE / "alerts.yml", targets=json.dumps(targets))
    )
    with open(directory / "prometheus.log", "wb") as output:
        process = subprocess.Popen(
            [
                program,
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                f"--web.listen-address={address}",
            ],
            cwd=directory,
            stdout=output,
            stderr=output,
        )
    api = f"http://{address}/api/v1"
    try:
        wait_for(lambda: _is_ready(f"http://{address}/-/ready", process), "Prometheus to be ready")
        yield api
    finally:
        process.kill()
        process.wait(PATIENCE)


def _is_ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "Prometheus has ended"
    try:
        with urlopen(url) as answer:
            return bool(answer.status == 200)
    except URLError:
        return False


def asked(url: str, **parameters: str) -> Any:
    """Return the data of an answer of Prometheus' API."""
    with urlopen(f"{url}?{urlencode(parameters)}" if parameters else url) as answer:
        found = json.load(answer)
    assert found["status"] == "success", found
    return found["data"]


def queried(api: str, query: str) -> list[tuple[dict[str, str], float]]:
    """Return the labels and values that *query* gives now."""
    return [(each["metric"], float(each["value"][1])) for each in asked(f"{api}/query", query=query)["result"]]


def series_of(api: str, path: str | Path) -> dict[str, float]:
    """Return the series of *path*, by name, and its states by theirs."""
    found = queried(api, f'{{__name__=~"dogpile_fs_.*", path={json.dumps(str(path))}}}')
    return {labels.get("state", labels["__name__"]): value for labels, value in found}


def alerts(api: str) -> set[tuple[str, str, str]]:
    """Return the path, the name and the state of each alert that is pending or firing."""
    return {
        (alert["labels"]["path"], alert["labels"]["alertname"], alert["state"])
        for alert in asked(f"{api}/alerts")["alerts"]
    }


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def serving(stack: ExitStack, collector: Collector) -> str:
    """Serve *collector* by prometheus_client on a port of its own; return its address."""
    registry = CollectorRegistry()
    registry.register(collector)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return f"127.0.0.1:{server.server_port}"


def broken(target: str) -> None:
    raise ValueError("no source")


def test_prometheus_scrapes_the_collector_and_sees_what_changes(tmp_path: Path, stack: ExitStack) -> None:
    path = tmp_path / 'the "daily"\nreport'
    report = Datafile(path, 3600, writing("report"))
    report.refresh()
    lost = tmp_path / "missing" / "report"
    api = stack.enter_context(prometheus(tmp_path, serving(stack, Collector([path, lost]))))
    found = wait_for(lambda: series_of(api, path), "the first scrape")
    status = report.status()
    assert found.pop("dogpile_fs_age_seconds") < PATIENCE
    assert found == {
        "dogpile_fs_up": 1,
        "fresh": 1,
        "stale": 0,
        "expired": 0,
        "missing": 0,
        "dogpile_fs_fresh_until_timestamp_seconds": pytest.approx(status.fresh_until, abs=0.01),
        "dogpile_fs_creations_total": 1,
        "dogpile_fs_failures_total": 0,
        "dogpile_fs_failures_in_a_row": 0,
        "dogpile_fs_creation_seconds": pytest.approx(status.cost),
        "dogpile_fs_size_bytes": 6,
    }
    assert series_of(api, lost) == {"dogpile_fs_up": 0}
    # prometheus_client answers in OpenMetrics, whose families have no suffix.
    kinds = {name.removesuffix("_total"): kind for name, (kind, *_) in _FAMILIES.items()}
    known = {name: about[0]["type"] for name, about in asked(f"{api}/metadata").items()}
    assert {name: kind for name, kind in known.items() if name.startswith("dogpile_fs_")} == kinds

    failing = Datafile(path, 3600, broken)
    for _ in range(3):
        with pytest.raises(ValueError, match="no source"):
            failing.refresh(force=True)
    report.invalidate()
    wait_for(lambda: series_of(api, path).get("stale") == 1, "the invalidation")
    found = series_of(api, path)
    assert (found["fresh"], found["dogpile_fs_failures_in_a_row"], found["dogpile_fs_failures_total"]) == (0, 3, 3)
    assert found["dogpile_fs_retry_at_timestamp_seconds"] == pytest.approx(failing.status().retry_at, abs=0.01)
    wait_for(lambda: (str(path), "DogpileFailing", "firing") in alerts(api), "the alert")
    report.refresh(force=True)
    wait_for(lambda: series_of(api, path).get("dogpile_fs_creations_total") == 2, "the creation")
    assert series_of(api, path)["dogpile_fs_failures_in_a_row"] == 0


class _Silent(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_the_application_of_the_example_is_scraped(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.setenv("SHOP_REPORT", str(tmp_path / "report.txt"))
    monkeypatch.delitem(sys.modules, "web", raising=False)  # of another example
    import web

    stack.callback(sys.modules.pop, "web")
    monkeypatch.setattr(web.REPORT, "_creator", writing("built quickly"))
    server = stack.enter_context(make_server("127.0.0.1", 0, web.application, handler_class=_Silent))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    stack.callback(thread.join)
    stack.callback(server.shutdown)
    address = f"127.0.0.1:{server.server_port}"
    with urlopen(f"http://{address}/") as answer:
        assert answer.read() == b"built quickly"
    api = stack.enter_context(prometheus(tmp_path, address))
    found = wait_for(lambda: series_of(api, tmp_path / "report.txt"), "the first scrape")
    assert found["dogpile_fs_creations_total"] == 1


def dashboard_queries() -> list[str]:
    """Return the queries of the dashboard, with what Grafana puts in the place of its variables."""
    dashboard = json.loads((EXAMPLE / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [query.replace("$path", ".*").replace("$__rate_interval", "1m") for query in queries]


def test_prometheus_answers_each_query_of_the_dashboard(tmp_path: Path, stack: ExitStack) -> None:
    paths = {}
    for name, expected in (("fresh", 0), ("stale", 1), ("missing", 3)):
        paths[str(tmp_path / name)] = expected
        Datafile(tmp_path / name, 3600, writing("report")).refresh()
    Datafile(tmp_path / "stale").invalidate()
    Datafile(tmp_path / "missing").invalidate(hard=True)
    api = stack.enter_context(prometheus(tmp_path, serving(stack, Collector(paths))))
    wait_for(lambda: series_of(api, tmp_path / "fresh"), "the first scrape")
    state, *others = dashboard_queries()
    assert {labels["path"]: value for labels, value in queried(api, state)} == paths
    for query in others:
        assert "$" not in query
        queried(api, query)


def test_the_rules_and_the_dashboard_name_metrics_that_there_are() -> None:
    for file in ("alerts.yml", "dashboard.json"):
        named = re.findall(r"\bdogpile_fs_\w+", (EXAMPLE / file).read_text())
        assert len(named) >= 5
        assert set(named) <= _FAMILIES.keys(), file


@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
        ("check", "config", "prometheus.yml"),
    ],
)
def test_promtool_accepts_the_rules_and_their_tests_pass(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [installed("promtool"), *words], cwd=EXAMPLE, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_text(tmp_path: Path) -> None:
    Datafile(tmp_path / 'the "daily"\nreport', 3600, writing("report")).refresh()
    text = Collector([tmp_path / 'the "daily"\nreport', tmp_path / "missing" / "report"]).text()
    done = subprocess.run(
        [installed("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_each_alert_has_a_test() -> None:
    alerts = re.findall(r"- alert: (\w+)", (EXAMPLE / "alerts.yml").read_text())
    tested = re.findall(r"alertname: (\w+)", (EXAMPLE / "alerts_test.yml").read_text())
    assert set(alerts) == set(tested)
