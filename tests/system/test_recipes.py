"""``docs/recipes.rst``: the files on the page, run by the programs that they are for."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import pytest

from dogpile_fs import Datafile
from tests.hostile.test_broken_environments import may_mount, mounted
from tests.support.processes import PATIENCE, wait_for
from tests.unit.test_docs import blocks

__all__ = ["may_mount", "mounted"]  # fixtures

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "recipes.rst"

#: The files on the page, by name.
FILES = {found[1]: block.text for block in blocks(PAGE) if (found := re.match(r"# (\S+)\n", block.text))}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return tmp_path


def written(name: str, **changes: str) -> Path:
    """Write the page's file *name* into the working directory, after *changes* of text by text."""
    text = FILES[name]
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = Path(name).absolute()
    path.write_text(text)
    return path


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_block_of_the_page_is_a_file_with_a_test() -> None:
    assert len(FILES) == len(list(blocks(PAGE)))
    text = Path(__file__).read_text()
    assert [name for name in FILES if f'"{name}"' not in text] == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_finds_no_fault_in_the_units(work: Path) -> None:
    for name in ("report.service", "report.timer"):
        # Only the user and the paths of the page are not those of this machine.
        text = FILES[name].replace("User=shop\n", "").replace("/srv/shop/venv/bin/dogpile-fs", sys.executable)
        (work / name).write_text(text.replace("/srv/shop", str(work)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(work / "report.timer"), str(work / "report.service")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    # It also looks at the units of the machine itself.
    assert [line for line in done.stderr.splitlines() if "report." in line] == []
    assert "Failed to" not in done.stderr


def test_the_command_of_the_service_makes_the_report(work: Path) -> None:
    (found,) = re.findall(r"^ExecStart=(.*)$", FILES["report.service"], re.MULTILINE)
    script = work / "report.sh"
    script.write_text("#!/bin/sh\necho '{\"orders\": 3}'\n")
    script.chmod(0o755)
    command = found.replace("/srv/shop/venv/bin/dogpile-fs", f"{sys.executable} -m dogpile_fs")
    for _ in range(2):
        subprocess.run(command.replace("/srv/shop", str(work)).split(), check=True, timeout=PATIENCE)
    assert json.loads((work / "report.json").read_text()) == {"orders": 3}
    assert Datafile("report.json").status().generation == 1


class ConfigMap:
    """A volume as the kubelet fills it: each file is a link, by way of ``..data``, which it replaces."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.versions = 0

    def update(self, **files: str) -> None:
        self.versions += 1
        version = self.directory / f"..version_{self.versions}"
        version.mkdir()
        before = os.path.realpath(self.directory / "..data")
        for name, text in files.items():
            (version / f"{name}.json").write_text(text)
            os.utime(version / f"{name}.json", (1_000_000_000, 1_000_000_000))  # the time tells nothing
        (self.directory / "..data_tmp").symlink_to(version.name)
        os.rename(self.directory / "..data_tmp", self.directory / "..data")
        for name in files:
            if not (self.directory / f"{name}.json").is_symlink():
                (self.directory / f"{name}.json").symlink_to(f"..data/{name}.json")
        if self.versions > 1:
            shutil.rmtree(before)


@pytest.fixture
def prices(work: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ConfigMap, Any]:
    monkeypatch.setenv("SETTINGS", str(work / "etc" / "settings.json"))
    monkeypatch.setenv("PRICES", str(work / "data" / "prices.json"))
    (work / "data").mkdir()
    settings = ConfigMap(work / "etc")
    settings.update(settings='{"tax": 19}')
    return settings, imported(written("prices.py"))


def test_a_new_configmap_has_the_report_made_anew(prices: tuple[ConfigMap, Any]) -> None:
    settings, module = prices
    assert module.gross() == 119
    assert module.gross() == 119
    assert module.prices.status().generation == 1
    settings.update(settings='{"tax": 7}')
    wait_for(lambda: module.gross() == 107, "the new price")
    assert module.prices.status().generation == 2


def test_containers_with_a_read_only_mount_read_each_new_version(
    mounted: Callable[..., None], prices: tuple[ConfigMap, Any], work: Path
) -> None:
    settings, module = prices
    module.gross()
    reader = written("reader.py")
    place = work / "elsewhere"
    answers = work / "answers"

    def read_only() -> None:
        """As a container that has the volume read-only sees it."""
        inside = place / "data"
        inside.mkdir()
        subprocess.run(["mount", "--bind", str(work / "data"), str(inside)], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(inside)], check=True)
        os.environ["PRICES"] = str(inside / "prices.json")
        with pytest.raises(OSError, match="Read-only"):
            (inside / "file").touch()
        module = imported(reader)
        told = threading.Event()
        subscription = module.prices.on_new_version(lambda prices: told.set())
        answers.write_text(f"{module.gross()}\n")
        assert told.wait(PATIENCE)
        subscription.cancel()
        with answers.open("a") as file:
            file.write(f"{module.gross()}\n")

    def update() -> None:
        wait_for(lambda: answers.exists() and answers.read_text(), "the first answer")
        settings.update(settings='{"tax": 7}')
        wait_for(lambda: module.gross() == 107, "the new price")

    thread = threading.Thread(target=update)
    thread.start()
    mounted(place, "size=1m", read_only)
    thread.join()
    assert answers.read_text().split() == ["119", "107"]


class Provider:
    """A server with one file, an ETag, and a list of the answers that it gave."""

    def __init__(self) -> None:
        self.text, self.tag = "", ""
        self.answers: list[int] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_known = self.headers["If-None-Match"] == provider.tag
                body = b"" if is_known else provider.text.encode()
                provider.answers.append(304 if is_known else 200)
                self.send_response(provider.answers[-1])
                self.send_header("ETag", provider.tag)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/geoip.csv"

    def publish(self, text: str, tag: str) -> None:
        self.text, self.tag = text, tag


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.server.shutdown()
    provider.server.server_close()


def test_the_table_of_a_provider_is_downloaded_only_if_it_is_new_and_parsed_at_once(
    work: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOIP_URL", provider.url)
    provider.publish("192.0.2.0,192.0.2.255,NL\n198.51.100.0,198.51.100.255,FR\n", '"one"')
    module: Any = imported(written("geoip.py"))
    parse, parsed = module.table, list[str]()

    def table(file: IO[bytes]) -> object:
        parsed.append("")
        return parse(file)

    module.table = table
    assert [module.country_of(each) for each in ("192.0.2.7", "198.51.100.9", "203.0.113.1", "10.0.0.1")] == [
        "NL",
        "FR",
        None,
        None,
    ]
    assert str(module.geoip.refresh(force=True)) == "unchanged"
    assert provider.answers == [200, 304]
    assert len(parsed) == 2  # to validate it, and to use it
    provider.publish("192.0.2.0,192.0.2.255,BE\n", '"two"')
    assert str(module.geoip.refresh(force=True)) == "created"
    wait_for(lambda: len(parsed) == 4, "the callback that parses the new version")
    assert module.country_of("192.0.2.7") == "BE"
    assert len(parsed) == 4
    provider.publish("", '"three"')
    with pytest.raises(Exception, match="validate"):
        module.geoip.refresh(force=True)
    assert module.country_of("192.0.2.7") == "BE"
    module.subscription.cancel()


def test_of_the_tasks_that_beat_sends_one_creates(work: Path) -> None:
    pytest.importorskip("celery")
    for directory in ("in", "done"):
        (work / directory).mkdir()
    tasks = written("tasks.py", **{"60.0": "0.2"})
    with tasks.open("a") as file:
        file.write(
            "\napp.conf.broker_transport_options = "
            "{'data_folder_in': 'in', 'data_folder_out': 'in', 'processed_folder': 'done'}\n"
        )
    with (work / "log").open("w") as log:
        worker = subprocess.Popen(
            [*(sys.executable, "-m", "celery", "-A", "tasks", "worker", "--beat", "-l", "info"), "-c", "2"],
            env={**os.environ, "BROKER": "filesystem://", "C_FORCE_ROOT": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: (work / "log").read_text().count("'fresh'") >= 4, "tasks that had nothing to do")
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    assert (work / "log").read_text().count("'created'") == 1
    assert Datafile("report.txt").status().generation == 1


def test_of_the_schedulers_in_four_processes_one_creates(work: Path) -> None:
    pytest.importorskip("apscheduler")
    written("scheduled.py", **{"minutes=1, jitter=10": "seconds=0.1"})
    program = (
        "import pathlib, sys, time, scheduled\n"
        "asked = 0\n"
        "def refresh_report():\n"
        "    global asked\n"
        "    with open(sys.argv[1], 'a') as file:\n"
        "        print(scheduled.report.refresh(), file=file)\n"
        "scheduled.refresh_report = refresh_report\n"
        "scheduler = scheduled.start()\n"
        "while not pathlib.Path('stop').exists():\n"
        "    time.sleep(0.01)\n"
        "scheduler.shutdown()\n"
    )
    logs = [work / f"log{number}" for number in range(4)]
    processes = [subprocess.Popen([sys.executable, "-c", program, str(log)]) for log in logs]
    try:
        wait_for(
            lambda: all(log.exists() and log.read_text().count("fresh") >= 2 for log in logs), "all schedulers"
        )
        (work / "stop").touch()
        assert [process.wait(PATIENCE) for process in processes] == [0] * 4
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert sum(log.read_text().count("created") for log in logs) == 1
    assert Datafile("report.txt").status().generation == 1
