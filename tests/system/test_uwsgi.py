"""Real uWSGI with its default settings: its master loads the application, and forks without Python's hooks."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import PATIENCE, wait_for

ROOT = Path(__file__).resolve().parents[2]
WORKERS, CLIENTS, SWAPS = 4, 8, 40

#: Each request is a reader's block that opens the file twice, and answers whether it found the same file.
APPLICATION = """
import os, time
from dogpile_fs import Datafile

def creator(target):
    with open("creators", "a") as log:
        log.write(f"+{os.getpid()}\\n")
    time.sleep(0.005)
    with open(target, "w") as file:
        file.write(str(time.monotonic_ns()))
    with open("creators", "a") as log:
        log.write(f"-{os.getpid()}\\n")

report = Datafile("report", 0.03, creator, readers=READERS, durable=False)
for _ in range(3):
    with report.acquire(), report.open():
        pass  # what the workers inherit is open, and has been locked
master = os.getpid()

def seen(path):
    with open(path) as file:
        return os.fstat(file.fileno()).st_ino, file.read()

def application(environ, start_response):
    with report.acquire() as path:
        first = seen(path)
        time.sleep(0.02)
        swapped = seen(path) != first
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {master} {'swapped' if swapped else 'same'} {first[1]}".encode()]
"""


def uwsgi() -> list[str]:
    """Return the command of a uWSGI that runs this Python, or skip the test."""
    places = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath)
    program = shutil.which("uwsgi", path=places)
    if program is None:
        pytest.skip("uWSGI is not installed")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for plugin in ([], ["--plugin", "python3"]):  # built in, or Debian's uwsgi-plugin-python3
        command = [program, *plugin]
        said = subprocess.run([*command, "--python-version"], capture_output=True, text=True, timeout=60)
        if any(line.startswith(f"{version}.") for line in said.stdout.splitlines()):
            return command
    return pytest.skip(f"{program} does not run Python {version}")


@contextmanager
def served(directory: Path, application: str, *more: str) -> Iterator[Path]:
    """Yield the socket of a running server. It is ended, and its log shown, at the end."""
    command = uwsgi()
    (directory / "app.py").write_text(application)
    paths = [str(ROOT), sysconfig.get_path("purelib")]
    options = ["--master", "--workers", str(WORKERS), "--http-socket", "socket", "--wsgi-file", "app.py"]
    with (directory / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, *options, *more, "--die-on-term"],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(lambda: is_listening(directory / "socket"), "the server's socket")
            yield directory / "socket"
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(PATIENCE)
            finally:
                server.kill()
                print((directory / "log").read_text())


def is_listening(address: Path) -> bool:
    """Return whether a server listens; its socket is there a moment before that."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(address.name)
        except OSError:
            return False
    return True


def ask(address: Path) -> list[str]:
    """Return the words of an answer: worker, master, whether the file was swapped under the reader, contents."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(address))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with client.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200"), head
    return body.decode().split()


def answers(address: Path) -> tuple[list[list[str]], list[Exception]]:
    """Return the answers of some clients until so many versions were seen, and their errors."""
    found: list[list[str]] = []
    errors: list[Exception] = []

    def versions() -> int:
        return len({answer[3] for answer in list(found)})

    def client() -> None:
        while versions() < SWAPS and not errors:
            try:
                found.append(ask(address))
            except Exception as error:
                errors.append(error)

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join(2 * PATIENCE)
        assert not each.is_alive()
    return found, errors


@pytest.mark.system
def test_workers_that_uwsgi_forks_from_its_master_never_swap_under_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # so that the socket's path is short
    with served(tmp_path, APPLICATION.replace("READERS", "True")) as address:
        first, errors = answers(Path(address.name))
        assert not errors
        # A worker that is killed inside a block, and another that the master forks in its place.
        os.kill(int(first[-1][0]), signal.SIGKILL)
        wait_for(lambda: ask_in_spite_of_the_kill(Path(address.name)), "an answer")
        later, errors = answers(Path(address.name))
    assert not errors
    workers = Counter(answer[0] for answer in first + later)
    assert len({answer[0] for answer in first}) == WORKERS, workers
    assert all(answer[0] != answer[1] for answer in first), "the master loaded the application, and others answer"
    assert {answer[2] for answer in first + later} == {"same"}
    # One creator at a time, in the master before the fork as in the workers.
    running: list[str] = []
    for line in (tmp_path / "creators").read_text().splitlines():
        if line[0] == "+":
            assert not running or running == [first[-1][0]], "two creators, and none of them was killed"
            running = [line[1:]]
        else:
            assert running == [line[1:]]
            running = []


def ask_in_spite_of_the_kill(address: Path) -> list[str] | None:
    try:
        return ask(address)
    except (AssertionError, OSError):
        return None  # the answer of the worker that was killed


@pytest.mark.system
def test_without_readers_they_do_so_that_the_test_above_can_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with served(tmp_path, APPLICATION.replace("READERS", "False")) as address:
        found, errors = answers(Path(address.name))
    assert not errors
    assert "swapped" in {answer[2] for answer in found}


BACKGROUND = """
import os, time
from dogpile_fs import Datafile
from creators import create

report = Datafile("report", 0.2, create, background="process", durable=False, timeout=30)

def application(environ, start_response):
    began = time.monotonic()
    with report.open("r") as file:
        text = file.read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} 0 {time.monotonic() - began} {text}".encode()]
"""


@pytest.mark.system
@pytest.mark.parametrize("threads", [False, True], ids=["without threads", "with threads"])
def test_a_worker_of_uwsgi_creates_in_another_process_and_leaves_no_zombie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "creators.py").write_text(
        "import os\ndef create(target):\n    open(target, 'w').write(str(os.getpid()))\n"
    )
    options = ["--enable-threads"] if threads else []
    with served(tmp_path, BACKGROUND, *options) as address:
        workers, creators = set[str](), set[str]()
        while len(creators) < 5:
            worker, _, _, creator = ask(Path(address.name))
            workers.add(worker)
            creators.add(creator)
        assert not workers & creators
        wait_for(lambda: not zombies(workers), "the end of all children")


def zombies(workers: set[str]) -> list[str]:
    """Return the children of *workers* that have ended and were not waited for."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] == "Z" and fields[1] in workers:
                found.append(name)
    return found


@pytest.mark.system
def test_threads_that_uwsgi_does_not_run_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "creators.py").write_text("def create(target):\n    open(target, 'w').write('1')\n")
    (tmp_path / "app.py").write_text(BACKGROUND.replace('"process"', '"thread"'))
    said = subprocess.run(
        [*uwsgi(), "--http-socket", "socket", "--wsgi-file", "app.py", "--need-app"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "background='thread' needs threads, which this uWSGI does not run" in said.stderr
