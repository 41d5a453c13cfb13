"""The plugin for pytest, in real runs of pytest: with workers, without, interrupted and killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dogpile_fs.integrations._pytest_member import Member
from dogpile_fs.integrations._pytest_run import Run
from tests.support.plugin import python_path
from tests.support.processes import PATIENCE, ended_well, in_child, wait_for

#: The beginning of each ``conftest.py`` and test module of an inner run.
HEAD = """
import os
import signal
import time
from pathlib import Path

import pytest

def log(what, more=""):
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    fd = os.open(os.environ["THE_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{what} {worker} {os.getpid()} {more}\\n".encode())
    os.close(fd)

def logged(what):
    log = Path(os.environ["THE_LOG"])
    return [line for line in log.read_text().splitlines() if line.startswith(what + " ")] if log.exists() else []

def wait_for(what, count):
    while len(logged(what)) < count:
        time.sleep(0.005)

def create(directory):
    assert list(directory.iterdir()) == []
    (directory / "file").write_text("made")
    log("create", directory)
    return {"directory": str(directory), "pair": (1, 2)}

def drop(value):
    assert Path(value["directory"], "file").read_text() == "made"
    log("drop", value["directory"])
"""

#: The fixture that most inner runs use.
RESOURCE = """
@pytest.fixture(scope="session")
def resource(once_per_run):
    log("asked")
    return once_per_run("resource", create, teardown=drop)
"""


class Line(NamedTuple):
    """One line that an inner run has logged: what, in which worker ("main": none) and process, and more."""

    what: str
    worker: str
    pid: int
    more: str


class Suite:
    """Tests of a project of their own, and the runs of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "project"
        self.directory.mkdir()
        self.temporary = directory / "temporary"
        self.temporary.mkdir()
        self.log = directory / "log"
        self.started: list[subprocess.Popen[str]] = []
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_CORE"))
        }
        self._environment |= {
            "PYTEST_DEBUG_TEMPROOT": str(self.temporary),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # those of others cost a second for each process
            "PYTHONPATH": python_path(directory / "installed"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "THE_LOG": str(self.log),
        }

    def write(self, tests: str, *, conftest: str = RESOURCE) -> None:
        (self.directory / "conftest.py").write_text(HEAD + conftest)
        (self.directory / "test_it.py").write_text(f"from conftest import *\n{tests}")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "--tb=short"),
                *("-p", "no:cacheprovider", "-p", "xdist", "-p", "dogpile_fs", *arguments),
            ],
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, status: int = 0) -> str:
        return self.ended(self.start(*arguments), status)

    def ended(self, process: subprocess.Popen[str], status: int) -> str:
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == status, output
        return output

    def lines(self, what: str) -> list[Line]:
        text = self.log.read_text() if self.log.exists() else ""
        found = [line.split(" ", 3) for line in text.splitlines()]
        return [Line(name, worker, int(pid), more) for name, worker, pid, more in found if name == what]

    def was_made_and_torn_down_once(self) -> bool:
        created, dropped = self.lines("create"), self.lines("drop")
        assert [line.more for line in dropped] == [line.more for line in created]
        return len(created) == 1 and not self.left()

    def left(self) -> list[Path]:
        """Return the directories of runs that are left."""
        return list(self.temporary.glob("dogpile_fs-pytest-*/*"))

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    suite = Suite(tmp_path)
    yield suite
    suite.end()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_eight_workers_create_it_once_and_the_last_one_tears_it_down(suite: Suite) -> None:
    suite.write(
        """
@pytest.mark.parametrize("number", range(24))
def test_it(resource, number):
    assert resource["pair"] == [1, 2] and Path(resource["directory"], "file").exists()
    log("test")
""",
        # No worker gets it before all of them have asked.
        conftest=RESOURCE.replace("create,", "slowly,")
        + """
def slowly(directory):
    wait_for("asked", 8)
    return create(directory)
""",
    )
    suite.run("-n", "8")
    assert suite.was_made_and_torn_down_once()
    assert len({line.worker for line in suite.lines("test")}) == 8
    assert suite.lines("drop")[0].worker != "main"


@pytest.mark.parametrize("arguments", [(), ("-p", "no:xdist"), ("-n", "0")])
def test_without_workers_it_is_created_once_and_torn_down_after_the_last_fixture(
    suite: Suite, arguments: tuple[str, ...]
) -> None:
    suite.write(
        """
@pytest.fixture(scope="session")
def inner(resource):
    yield
    assert not logged("drop")
    log("finished")

def test_one(inner, resource):
    assert resource["pair"] == [1, 2]

def test_two(once_per_run, resource):
    assert once_per_run("resource", create) == resource
"""
    )
    suite.run(*arguments)
    assert suite.was_made_and_torn_down_once()
    assert suite.lines("finished")


def test_a_failing_creation_runs_once_and_every_worker_is_told_why(suite: Suite) -> None:
    suite.write(
        """
def fail(directory):
    log("fail")
    wait_for("asked", 2)
    raise LookupError("no such server")

def skip(directory):
    log("skip")
    pytest.skip("there is no server here")

@pytest.mark.parametrize("number", range(6))
def test_fails(once_per_run, number):
    log("asked")
    once_per_run("fails", fail, teardown=drop)

@pytest.mark.parametrize("number", range(6))
def test_skips(once_per_run, number):
    once_per_run("skips", skip, teardown=drop)

@pytest.mark.parametrize("number", range(6))
def test_set(once_per_run, number):
    once_per_run("set", lambda directory: log("set") or {1}, teardown=drop)
"""
    )
    output = suite.run("-n", "2", "-rs", status=1)
    assert "12 failed, 6 skipped" in output
    assert output.count("LookupError: no such server") >= 6
    assert re.search(r"the creation of 'fails' has failed in gw\d:", output)
    assert "there is no server here" in output
    assert "Object of type set is not JSON serializable" in output
    for what in ("fail", "skip", "set"):
        assert len(suite.lines(what)) == 1
    assert not suite.lines("drop")
    assert not suite.left()


def test_a_worker_that_replaces_a_killed_one_creates_nothing_anew(suite: Suite) -> None:
    suite.write(
        """
@pytest.mark.parametrize("number", range(12))
def test_it(resource, number):
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    wait_for("asked", 3)
"""
    )
    output = suite.run("-n", "2", status=1)
    assert "11 passed" in output
    assert "replacing crashed worker" in output
    assert suite.was_made_and_torn_down_once()
    assert suite.lines("drop")[0].worker != "main"
    assert len({line.pid for line in suite.lines("asked")}) == 3


#: A run whose only user of the resource is killed.
LAST_IS_KILLED = """
def test_uses(once_per_run):
    log("asked")
    once_per_run("resource", create, teardown={})
    os.kill(os.getpid(), signal.SIGKILL)

def test_does_not_use():
    pass

def here(value):
    drop(value)
"""


@pytest.mark.parametrize(("function", "workers"), [("drop", 2), ("here", 1)])
def test_the_controller_tears_down_if_no_user_is_left(suite: Suite, function: str, workers: int) -> None:
    suite.write(LAST_IS_KILLED.format(function))
    suite.run("-n", str(workers), "--max-worker-restart", "0", status=1)
    assert suite.was_made_and_torn_down_once()
    assert suite.lines("drop")[0].worker == "main"


def test_what_the_controller_cannot_import_is_torn_down_by_the_next_run(suite: Suite) -> None:
    suite.write(LAST_IS_KILLED.format("lambda value: drop(value)"))
    output = suite.run("-n", "1", "--max-worker-restart", "0", status=1)
    assert "'resource' is not torn down, the next run does it" in output
    assert len(suite.left()) == 1
    suite.write("def test_it(resource): assert len(logged('drop')) == 1")
    suite.run()
    assert sorted(line.more for line in suite.lines("drop")) == sorted(line.more for line in suite.lines("create"))
    assert len(suite.lines("drop")) == 2
    assert not suite.left()


#: A run that waits in each of two tests for its end.
WAITS = """
@pytest.mark.parametrize("number", range(2))
def test_it(resource, number):
    log("test")
    time.sleep(600)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_if_all_processes_were_killed_the_next_run_tears_down_before_it_creates(
    suite: Suite, workers: int
) -> None:
    suite.write(WAITS)
    run = suite.start("-n", str(workers))
    wait_for(lambda: len(suite.lines("test")) == (workers or 1), "each test")
    os.killpg(run.pid, signal.SIGKILL)
    for line in suite.lines("test"):
        wait_for(lambda pid=line.pid: is_gone(pid), "the workers' end")  # type: ignore[misc]
    assert not suite.lines("drop")
    # A run that does not use the resource leaves it.
    suite.write("def test_it(once_per_run): once_per_run('another', lambda directory: log('another'))")
    suite.run()
    assert not suite.lines("drop")
    suite.write("def test_it(resource): assert len(logged('drop')) == len(logged('create')) - 1 == 1")
    suite.run()
    assert [line.more for line in suite.lines("drop")] == [line.more for line in suite.lines("create")]
    assert not suite.left()


def test_workers_that_outlive_their_controller_tear_down_or_the_next_run_does(suite: Suite) -> None:
    suite.write(WAITS)
    run = suite.start("-n", "1")
    wait_for(lambda: suite.lines("test"), "the test")
    run.kill()
    wait_for(lambda: is_gone(suite.lines("test")[0].pid), "the worker's end")
    suite.write("def test_it(resource): assert len(logged('drop')) == 1")
    suite.run()
    assert [line.more for line in suite.lines("drop")] == [line.more for line in suite.lines("create")]
    assert not suite.left()


@pytest.mark.parametrize("workers", [0, 2])
def test_after_an_interrupt_it_is_torn_down_once(suite: Suite, workers: int) -> None:
    suite.write(WAITS)
    run = suite.start("-n", str(workers))
    wait_for(lambda: len(suite.lines("test")) == (workers or 1), "each test")
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    suite.ended(run, 2)
    assert suite.was_made_and_torn_down_once()


def test_an_interrupt_while_a_worker_tears_down_makes_the_controller_tear_down(suite: Suite) -> None:
    suite.write(
        """
def hang(value):
    log("down")
    if len(logged("down")) == 1:
        time.sleep(600)

@pytest.mark.parametrize("number", range(4))
def test_it(once_per_run, number):
    once_per_run("resource", create, teardown=hang)
"""
    )
    run = suite.start("-n", "1")
    wait_for(lambda: suite.lines("down"), "the teardown")
    os.killpg(run.pid, signal.SIGINT)
    suite.ended(run, 2)
    assert [line.worker == "main" for line in suite.lines("down")] == [False, True]
    assert not suite.left()


@pytest.mark.parametrize(
    "arguments", [("-x",), ("--maxfail=2",), ("-x", "-n", "2"), ("--maxfail=2", "-n", "2")], ids=" ".join
)
def test_after_a_stop_at_failures_it_is_torn_down_once(suite: Suite, arguments: tuple[str, ...]) -> None:
    suite.write(
        """
@pytest.mark.parametrize("number", range(40))
def test_it(resource, number):
    assert number < 2
"""
    )
    suite.run(*arguments, status=2 if "-n" in arguments else 1)
    assert suite.was_made_and_torn_down_once()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failing_teardown_fails_the_run_and_is_not_called_again(suite: Suite, workers: int) -> None:
    suite.write(
        """
def fail(value):
    drop(value)
    raise OSError("the server does not stop")

@pytest.mark.parametrize("number", range(4))
def test_it(once_per_run, number):
    once_per_run("resource", create, teardown=fail)
"""
    )
    output = suite.run("-n", str(workers), status=1)
    assert "4 passed" in output
    assert "the teardown of 'resource' has failed:" in output
    assert "OSError: the server does not stop" in output
    assert suite.was_made_and_torn_down_once()


def test_resources_are_torn_down_in_the_reverse_order(suite: Suite) -> None:
    suite.write(
        """
def test_it(once_per_run):
    def user(directory):
        return once_per_run("server", lambda directory: "server", teardown=lambda value: log("end", value))
    once_per_run("user", lambda directory: "user of " + user(directory), teardown=lambda value: log("end", value))
"""
    )
    suite.run()
    assert [line.more for line in suite.lines("end")] == ["user of server", "server"]


#: Logs what each process of a run has imported of this package.
IMPORTED = """
import sys

def pytest_unconfigure():
    log("imported", sorted(name for name in sys.modules if name.startswith(("dogpile_fs", "filelock"))))
"""


def test_a_run_that_does_not_use_it_makes_no_file_and_imports_four_small_modules(suite: Suite) -> None:
    suite.write("def test_it(): pass", conftest=IMPORTED)
    suite.run("-n", "0")
    plugin = "dogpile_fs.integrations.pytest"
    expected = ["dogpile_fs", "dogpile_fs.integrations", plugin, "dogpile_fs.version"]
    assert [line.more for line in suite.lines("imported")] == [str(expected)]
    assert not list(suite.temporary.iterdir())
    suite.run("-n", "1")
    imported = {line.worker: line.more for line in suite.lines("imported")}
    assert imported["gw0"] == str(expected)
    of_controller = [plugin.replace("pytest", name) for name in ("_pytest_member", "_pytest_run")]
    assert imported["main"] == str(sorted([*expected, *of_controller]))
    assert not suite.left()


def test_a_directory_that_others_may_enter_is_refused(suite: Suite) -> None:
    suite.write("def test_it(resource): pass\ndef test_another(): pass")
    root = suite.temporary / f"dogpile_fs-pytest-{os.geteuid()}"
    root.mkdir()
    root.chmod(0o755)
    output = suite.run("-n", "1", status=1)
    assert "1 passed, 1 error" in output
    assert "no other may enter, and it is drwxr-xr-x" in output
    assert not suite.lines("create")


def test_a_directory_of_another_user_and_a_link_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(tmp_path))
    root = tmp_path / f"dogpile_fs-pytest-{os.geteuid()}"
    root.symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="and it is lrwxrwxrwx of user"):
        Run.begin(tmp_path)
    root.unlink()
    run = Run.begin(tmp_path)
    assert root.stat().st_mode & 0o777 == 0o700
    run.release()
    if os.geteuid() == 0:
        os.chown(root, 12345, -1)
        with pytest.raises(PermissionError, match="and it is drwx------ of user 12345"):
            Run.begin(tmp_path)


def test_a_run_inside_a_test_has_resources_of_its_own(suite: Suite) -> None:
    suite.write(
        """
@pytest.mark.parametrize("number", range(2))
def test_it(resource, pytester, number, request):
    pytester.makeconftest((request.config.rootpath / "conftest.py").read_text())
    pytester.makepyfile(test_inside="def test_inside(resource): assert resource['pair'] == [1, 2]")
    dropped = len(logged("drop"))
    pytester.runpytest("-p", "no:cacheprovider", "-p", "dogpile_fs").assert_outcomes(passed=1)
    assert len(logged("drop")) > dropped
    assert Path(resource["directory"], "file").exists()
"""
    )
    suite.run("-n", "2", "-p", "pytester", "--runpytest", "inprocess")
    suite.run("-p", "pytester", "--runpytest", "subprocess", "-k", "0")
    created = [line.more for line in suite.lines("create")]
    assert len(created) == len(set(created)) == 5
    assert sorted(line.more for line in suite.lines("drop")) == sorted(created)
    assert not suite.left()


def test_runs_of_the_same_project_at_the_same_time_leave_each_other_alone(suite: Suite) -> None:
    suite.write(
        """
def test_it(resource):
    log("test")
    wait_for("test", 3)
    assert Path(resource["directory"], "file").exists()
"""
    )
    runs = [suite.start("-n", str(workers)) for workers in (0, 0, 1)]
    for run in runs:
        suite.ended(run, 0)
    assert len({line.more for line in suite.lines("create")}) == 3
    assert sorted(line.more for line in suite.lines("drop")) == sorted(line.more for line in suite.lines("create"))
    assert not suite.left()


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Member]:
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(tmp_path))
    owner = Member(Run.begin(tmp_path), is_worker=False)
    yield owner
    owner.end([])


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a\n", "a" * 65, "ä"])
def test_a_name_that_is_no_name_of_a_directory_is_refused(owner: Member, name: str) -> None:
    with pytest.raises(ValueError, match="name must be"):
        owner.value(name, str, None)


def test_a_worker_that_comes_after_the_end_creates_nothing(owner: Member) -> None:
    worker = Member(Run(owner.run.directory), is_worker=True)
    owner.announce_end()
    with pytest.raises(RuntimeError, match="the run of pytest has ended"):
        worker.value("resource", lambda directory: pytest.fail("created"), None)
    worker.leave()


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_creation_that_was_killed_is_tried_once_more_in_an_empty_directory(owner: Member, deaths: int) -> None:
    def kill(directory: Path) -> None:
        (directory / "half").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def create(directory: Path) -> list[str]:
        return os.listdir(directory)

    for _ in range(deaths):
        worker = Member(Run(owner.run.directory), is_worker=True)
        assert not ended_well(in_child(lambda worker=worker: worker.value("resource", kill, None)))  # type: ignore[misc]
    if deaths == 1:
        assert owner.value("resource", create, None) == []
    else:
        with pytest.raises(pytest.fail.Exception, match="each of two workers has died of it"):
            owner.value("resource", create, None)


def test_of_two_workers_the_last_one_tears_down_after_the_end_was_announced(owner: Member) -> None:
    torn_down: list[object] = []
    one, two = (Member(Run(owner.run.directory), is_worker=True) for _ in range(2))
    assert one.value("resource", lambda directory: "value", lambda value: torn_down.append(("one", value)))
    assert two.value("resource", lambda directory: "other", lambda value: torn_down.append(("two", value)))
    owner.run.announce_end()
    two.leave()
    assert torn_down == []
    one.leave()
    assert torn_down == [("one", "value")]
    owner.end([])
    assert torn_down == [("one", "value")]
    assert not owner.run.directory.exists()


def test_a_forked_child_that_ends_the_session_ends_nothing_and_keeps_no_lock(owner: Member) -> None:
    torn_down: list[object] = []
    owner.value("resource", lambda directory: 1, torn_down.append)

    def end() -> None:
        files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        assert not [file for file in files if file.startswith(str(owner.run.directory))]
        owner.announce_end()
        owner.end([])
        assert torn_down == []

    assert ended_well(in_child(end))
    assert owner.run.is_open
    owner.end([])
    assert torn_down == [1]


def test_an_interrupted_teardown_is_called_again(owner: Member) -> None:
    calls: list[object] = []

    def teardown(value: object) -> None:
        calls.append(value)
        if len(calls) == 1:
            raise KeyboardInterrupt

    owner.value("resource", lambda directory: 1, teardown)
    with pytest.raises(KeyboardInterrupt):
        owner.end([])
    assert owner.run.directory.exists()
    after = Member(Run.begin(owner.run.directory.parents[1]), is_worker=False)
    after.value("resource", lambda directory: 2, teardown)
    assert calls == [1, 1]
    after.end([])
    assert calls == [1, 1, 2]
    assert not owner.run.directory.exists()
