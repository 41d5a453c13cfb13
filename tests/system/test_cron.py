"""The cron example, as its README has it installed: its own crontab line, and gunicorn serving all the while.

Only the virtual environment is a stand-in: two scripts that run this interpreter.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from wsgiref.util import setup_testing_defaults

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from moduleindex.crowd import ask
from moduleindex.server import Gunicorn

from dogpile_fs import Datafile
from tests.hostile.test_broken_environments import NOBODY, Unprivileged, foreign, unprivileged
from tests.support.places import ours_in
from tests.support.processes import PATIENCE, wait_for

__all__ = ["foreign", "unprivileged"]  # fixtures

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "cron"

BROKEN = """\
import sys
print('{"root": "half a report, ')
sys.exit("usage.py: out of order")
"""

(COMMAND,) = (
    line.split(maxsplit=5)[5]
    for line in (EXAMPLE / "crontab").read_text().splitlines()
    if line and not line.startswith("#")
)


class Home:
    """The home directory of a user who has followed the README."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.usage = directory / "usage"
        shutil.copytree(EXAMPLE, self.usage, ignore=shutil.ignore_patterns("__pycache__"))
        (self.usage / "venv" / "bin").mkdir(parents=True)
        self._command("python", "")
        self._command("dogpile-fs", "-m dogpile_fs")
        # No more than cron gives, and what this interpreter needs to find the package.
        self.environment = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
        self.environment |= {
            "HOME": str(directory),
            "PATH": "/usr/bin:/bin",
            "SHELL": "/bin/sh",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }

    def _command(self, name: str, options: str) -> None:
        command = self.usage / "venv" / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {options} "$@"\n')
        command.chmod(0o755)

    def start(self, line: str = COMMAND) -> subprocess.Popen[str]:
        """Start *line* as cron does."""
        return subprocess.Popen(
            ["/bin/sh", "-c", line],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, line: str = COMMAND, times: int = 1) -> list[tuple[int, str]]:
        """Run *line* so many times at once: the exit status of each, and what cron would mail."""
        jobs = [self.start(line) for _ in range(times)]
        mails = [job.communicate(timeout=PATIENCE)[0] for job in jobs]
        return [(job.returncode, mail) for job, mail in zip(jobs, mails, strict=True)]

    def status(self) -> tuple[int, Any]:
        """Return the exit status and the output of ``dogpile-fs status``."""
        ((exit_status, told),) = self.run('cd "$HOME/usage" && venv/bin/dogpile-fs status --json report.json')
        return exit_status, json.loads(told)[0]

    def invalidate(self) -> None:
        assert self.run('cd "$HOME/usage" && venv/bin/dogpile-fs invalidate report.json') == [(0, "")]

    def left_behind(self) -> list[str]:
        return ours_in(self.usage)


class Visitors:
    """Threads that ask for the report, read for a moment, and ask again, until the ``with`` block ends."""

    def __init__(self, port: int, count: int = 4) -> None:
        self.faults: list[str] = []
        self.seen: list[set[str]] = [set() for _ in range(count)]
        self.requests = 0
        self._port = port
        self._home = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(seen,), daemon=True) for seen in self.seen]

    def _ask(self, seen: set[str]) -> None:
        while not self._home.is_set():
            self.requests += 1
            try:
                status, text = ask(self._port, "/report.json", "report")
                report = json.loads(text)
                if status != 200 or sum(d["bytes"] for d in report["directories"]) != report["bytes"]:
                    self.faults.append(f"{status}: {text}")
                seen.update(directory["name"] for directory in report["directories"])
                status, page = ask(self._port, "/", "page")
                if status != 200 or "Disk usage of" not in page:
                    self.faults.append(f"{status}: {page}")
            except (OSError, ValueError, KeyError) as error:
                self.faults.append(repr(error))
            self._home.wait(0.02)

    def have_all_seen(self, name: str) -> bool:
        """Return whether each of them got a report that lists the directory *name*."""
        return all(name in seen for seen in self.seen)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._home.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def application(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example's module ``app``, imported as gunicorn does."""
    monkeypatch.syspath_prepend(str(home.usage))
    monkeypatch.delitem(sys.modules, "app", raising=False)
    import app

    yield app
    monkeypatch.delitem(sys.modules, "app")


def called(application: Any, path: str = "/") -> tuple[str, dict[str, str], str]:
    """What *application* answers: status, headers and body."""
    environ: dict[str, Any] = {"PATH_INFO": path}
    setup_testing_defaults(environ)
    told: list[Any] = []

    def start_response(status: str, headers: Sequence[tuple[str, str]]) -> None:
        told.extend([status, dict(headers)])

    body = b"".join(application(environ, start_response))
    assert int(told[1]["Content-Length"]) == len(body)
    return told[0], told[1], body.decode()


# The line, and what comes of it


def test_the_readme_shows_the_crontabs_very_command() -> None:
    assert COMMAND in [line.strip() for line in (EXAMPLE / "README.rst").read_text().splitlines()]


def test_twenty_jobs_at_once_make_one_report_and_print_nothing(home: Home) -> None:
    assert home.run(times=20) == [(0, "")] * 20
    report = json.loads((home.usage / "report.json").read_text())
    assert report["root"] == str(home.directory)
    assert {directory["name"] for directory in report["directories"]} == {"usage", "."}
    exit_status, status = home.status()
    assert (exit_status, status["state"], status["generation"]) == (0, "fresh", 1)
    assert home.left_behind() == []


def test_a_fresh_report_stays_as_it_is(home: Home) -> None:
    home.run()
    before = os.stat(home.usage / "report.json")
    assert home.run() == [(0, "")]
    after = os.stat(home.usage / "report.json")
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_script_that_fails_leaves_the_report_and_cron_has_something_to_mail(home: Home) -> None:
    home.run()
    before = (home.usage / "report.json").read_text()
    (home.usage / "usage.py").write_text(BROKEN)
    home.invalidate()

    ((exit_status, mail),) = home.run()

    line = "dogpile-fs: report.json is not replaced: COMMAND (venv/bin/python) ended with status 1"
    assert (exit_status, mail.splitlines()) == (1, ["usage.py: out of order", line])
    assert line in (EXAMPLE / "README.rst").read_text()
    assert (home.usage / "report.json").read_text() == before
    exit_status, status = home.status()
    assert (exit_status, status["state"], status["generation"]) == (1, "stale", 1)
    assert status["failed_since"] is not None
    assert home.left_behind() == []


def test_the_readmes_validation_refuses_other_text_than_json_and_prints_nothing_for_json(home: Home) -> None:
    (option,) = re.findall(r"``(--validate .*)``", (EXAMPLE / "README.rst").read_text())
    line = COMMAND.replace(" -- ", f" {option} -- ")
    assert home.run(line) == [(0, "")]
    (home.usage / "usage.py").write_text("print('{')")
    home.invalidate()
    ((exit_status, mail),) = home.run(line)
    assert exit_status == 65
    assert "report.json is not replaced: --validate refused" in mail


def test_a_script_that_hangs_is_ended(home: Home) -> None:
    (home.usage / "usage.py").write_text("import time\ntime.sleep(600)")
    ((exit_status, mail),) = home.run(COMMAND.replace("--timeout 1h", "--timeout 1s"))
    assert (exit_status, mail) == (
        124,
        "dogpile-fs: report.json is not replaced: COMMAND did not end within 1s and was ended\n",
    )


def test_the_leftovers_of_a_killed_job_are_removed_by_the_next(home: Home) -> None:
    usage = (home.usage / "usage.py").read_text()
    (home.usage / "usage.py").write_text("import time\nprint(1, flush=True)\ntime.sleep(600)")
    job = home.start(COMMAND.replace("venv/bin/dogpile-fs", "exec venv/bin/dogpile-fs"))
    wait_for(home.left_behind, "a new report beside the old one")
    job.kill()
    job.communicate(timeout=PATIENCE)
    assert home.left_behind()
    (home.usage / "usage.py").write_text(usage)
    ((exit_status, mail),) = home.run()
    assert exit_status == 0
    assert mail.endswith(" has ended without a result: it died\n")
    assert home.left_behind() == []


def test_usage_that_cannot_be_measured_is_reported_in_one_line(home: Home) -> None:
    ((exit_status, mail),) = home.run('"$HOME/usage/venv/bin/python" "$HOME/usage/usage.py" "$HOME/nowhere"')
    assert (exit_status, mail) == (1, f"usage.py: {home.directory}/nowhere: No such file or directory\n")


def test_a_file_of_several_names_counts_once(home: Home) -> None:
    (home.directory / "films").mkdir()
    (home.directory / "films" / "film").write_bytes(b"x" * 100_000)
    os.link(home.directory / "films" / "film", home.directory / "again")
    (home.directory / "link").symlink_to("films")
    home.run()
    report = json.loads((home.usage / "report.json").read_text())
    found = {directory["name"]: directory for directory in report["directories"]}
    assert found.keys() == {"films", "usage", "."}
    assert found["films"]["bytes"] >= 100_000
    assert found["."]["bytes"] < 100_000
    assert found["films"]["files"] == 1


@pytest.mark.parametrize(("umask", "mode"), [("022", 0o755), ("027", 0o2750)])
def test_another_user_reads_what_the_line_makes_and_may_not_do_more(
    umask: str, mode: int, home: Home, foreign: Unprivileged
) -> None:
    os.chown(foreign.directory, -1, NOBODY)
    foreign.directory.chmod(mode)
    report = foreign.directory / "report.json"
    line = COMMAND.replace("report.json", str(report)).replace("umask 022", f"umask {umask}")

    def read() -> None:
        assert Datafile(report, timeout=2).load(json.load)["root"] == str(home.directory)
        with pytest.raises(PermissionError):
            report.with_name("new").write_text("")

    assert home.run(line) == [(0, "")]
    foreign.run(read)
    # The next version has the permissions of this one.
    before = os.stat(report)
    assert home.run(line.replace("--expire 15m", "--expire 0")) == [(0, "")]
    after = os.stat(report)
    assert before.st_ino != after.st_ino
    assert (before.st_mode, before.st_gid) == (after.st_mode, after.st_gid)
    foreign.run(read)


# The application


def test_the_application_says_that_there_is_no_report_yet_and_shows_it_when_there_is(
    home: Home, application: Any
) -> None:
    status, headers, body = called(application.application)
    assert (status, headers["Retry-After"]) == ("503 Service Unavailable", "60")
    assert body == "There is no report yet.\n"
    home.run()
    status, headers, body = called(application.application)
    assert (status, headers["Content-Type"]) == ("200 OK", "text/html; charset=utf-8")
    assert f"Disk usage of {home.directory}" in body
    status, headers, body = called(application.application, "/report.json")
    assert (status, headers["Content-Type"]) == ("200 OK", "application/json")
    assert body == (home.usage / "report.json").read_text()
    assert called(application.application, "/else")[0] == "404 Not Found"


def test_names_of_directories_are_text_and_not_markup(home: Home, application: Any) -> None:
    (home.directory / "<b>").mkdir()
    home.run()
    assert "<th>&lt;b&gt;</th>" in called(application.application)[2]


@pytest.mark.system
@pytest.mark.parametrize("worker", [["--workers", "3"], ["--worker-class", "gthread", "--threads", "3"]])
def test_reports_come_and_jobs_fail_and_no_visitor_notices(worker: list[str], home: Home, tmp_path: Path) -> None:
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    configuration = tmp_path / "gunicorn_conf.py"
    configuration.write_text("control_socket_disable = True\n")  # two servers would quarrel about it
    options = ["--chdir", str(home.usage), *worker, "app:application"]
    usage = (home.usage / "usage.py").read_text()
    assert home.run(times=4) == [(0, "")] * 4

    with (
        Gunicorn(options, home.environment, tmp_path / "log", configuration) as server,
        Visitors(server.port) as visitors,
    ):
        wait_for(lambda: visitors.have_all_seen("usage"), "the first report")
        for number in range(1, 6):
            (home.directory / f"project-{number}").mkdir()
            home.invalidate()
            if number == 3:
                (home.usage / "usage.py").write_text(BROKEN)
                ended = home.run(times=4)
                assert {exit_status for exit_status, _ in ended} <= {0, 1}
                assert any("usage.py: out of order" in mail for _, mail in ended)
                assert home.status()[1]["failed_since"] is not None
                (home.usage / "usage.py").write_text(usage)
            # Where there is an old report, a job that comes too early after a failure ends well and leaves it.
            wait_for(
                lambda: home.run(times=4) == [(0, "")] * 4 and home.status()[1]["state"] == "fresh", "a report"
            )
            wait_for(lambda n=number: visitors.have_all_seen(f"project-{n}"), "the new report")  # type: ignore[misc]
        log = server.log()

    assert visitors.faults == [], log
    assert home.status()[1]["generation"] == 6
    assert home.left_behind() == []
