"""Real gunicorn with workers that live shorter than a creation takes, and creations in the background."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from moduleindex.server import Gunicorn

from dogpile_fs import Datafile
from tests.support.processes import PATIENCE, Record, wait_for

ROOT = Path(__file__).resolve().parents[2]
#: Whether ``tox -e endurance`` asks for many rounds.
_AT_LENGTH = int(os.environ.get("DOGPILE_FS_ROUNDS", "4")) >= 100
#: Seconds after which gunicorn kills a worker that does not answer; seconds that a creation takes.
TIMEOUT, SECONDS = (3, 6.0) if _AT_LENGTH else (2, 3.0)
VERSIONS = 6 if _AT_LENGTH else 2


@dataclass
class Answer:
    status: int
    body: bytes
    #: Seconds that the datafile took to open, in the worker.
    took: float
    pid: int


class Client(threading.Thread):
    """Asks again and again until it is told to stop, and keeps the answers; a worker that is killed gives none."""

    def __init__(self, port: int, over: threading.Event) -> None:
        super().__init__()
        self.port = port
        self.over = over
        self.answers: list[Answer] = []

    def run(self) -> None:
        while not self.over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                took, pid = float(answer.headers["X-Took"]), int(answer.headers["X-Pid"])
                self.answers.append(Answer(answer.status, answer.read(), took, pid))
            except (OSError, http.client.HTTPException):
                pass  # of a worker that was killed
            finally:
                connection.close()
            self.over.wait(0.02)


def served(tmp_path: Path, way: str, *, kills: bool) -> tuple[list[Answer], str]:
    """Serve until some versions were made; return the answers and gunicorn's log."""
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    (tmp_path / "configuration.py").touch()
    options = ["--workers", "3", "--worker-class", "sync", "--chdir", str(ROOT), "tests.support.background_app"]
    options += ["--max-requests", "20", "--timeout", str(TIMEOUT if way == "process" else 30)]
    options += ["--graceful-timeout", "30"]
    settings = {
        "BACKGROUND_APP": str(tmp_path),
        "BACKGROUND_APP_SECONDS": str(SECONDS),
        "BACKGROUND_APP_WAY": way,
    }
    record, over = Record(tmp_path / "record"), threading.Event()
    with Gunicorn(options, settings, tmp_path / "log", tmp_path / "configuration.py") as server:
        clients = [Client(server.port, over) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            while len(record.events("ended")) < VERSIONS:
                time.sleep(random.uniform(0.05, 0.5))  # the moments of the kills
                if kills and (answers := clients[0].answers[-1:]):
                    with suppress(ProcessLookupError):  # recycled meanwhile
                        os.kill(answers[0].pid, signal.SIGKILL)
        finally:
            over.set()
            for client in clients:
                client.join()
        log = server.log(10**9)
    wait_for(lambda: not Datafile(tmp_path / "report").status().creating, "the end of the last creation")
    return [answer for client in clients for answer in client.answers], log


def no_two_at_a_time(record: Record, path: Path) -> None:
    """Assert that creations did not overlap, and that each one that ended was stamped."""
    running = None
    for event in record.events("begun", "ended"):
        if event.what == "begun":
            assert running is None or not Path(f"/proc/{running}").exists(), "two creators"
            running = event.pid
        else:
            assert event.pid == running
            running = None
    assert Datafile(path).status().generation == len(record.events("ended"))


def only_those_before_the_first_version_wait(answers: list[Answer]) -> None:
    first = next(number for number, answer in enumerate(answers) if answer.status == 200)
    assert first < len(answers) - 10
    assert {answer.status for answer in answers[first:]} == {200}


@pytest.mark.system
def test_a_creator_that_takes_longer_than_the_workers_timeout_makes_its_file_though_workers_are_killed(
    tmp_path: Path,
) -> None:
    answers, log = served(tmp_path, "process", kills=True)
    record = Record(tmp_path / "record")
    assert "WORKER TIMEOUT" not in log
    assert len(record.events("begun")) == len(record.events("ended")), "a result is lost"
    no_two_at_a_time(record, tmp_path / "report")
    assert Datafile(tmp_path / "report").status().failures_total == 0
    slow = sorted(answer.took for answer in answers if answer.status == 200)
    print(f"{len(answers)} answers; slowest passes: {slow[-5:]}; {len(record.events('begun'))} creations")
    # The wait of a caller for a first creation is 0.2 s; to start the process takes milliseconds.
    assert slow[len(slow) // 2] < SECONDS / 4


@pytest.mark.system
def test_workers_that_are_recycled_wait_for_the_creation_in_their_thread(tmp_path: Path) -> None:
    answers, log = served(tmp_path, "thread", kills=False)
    record = Record(tmp_path / "record")
    assert "WORKER TIMEOUT" not in log
    assert len(record.events("begun")) - len(record.events("ended")) <= 1, "but for the one at the server's end"
    no_two_at_a_time(record, tmp_path / "report")
    only_those_before_the_first_version_wait(sorted(answers, key=lambda answer: answer.status == 200))


@pytest.mark.system
def test_a_killed_workers_creation_in_its_thread_counts_as_a_death_and_the_next_is_tried(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text("old")
    os.utime(path, (1000, 1000))
    record = Record(tmp_path / "record")
    environment = {**os.environ, "BACKGROUND_APP": str(tmp_path), "BACKGROUND_APP_WAY": "thread"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "BACKGROUND_APP_SECONDS": "0.5"}
    program = (
        "import time; from tests.support.background_app import report\nreport.open().__enter__(); time.sleep(99)"
    )
    for count in (1, 2):
        process = subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=ROOT)
        record.wait("begun", count)
        if count == 1:
            process.kill()
            process.wait()
            continue
        wait_for(lambda: Datafile(path).status().generation == 1, "the next attempt's stamp")
        process.kill()
        process.wait()
    assert Datafile(path).status().failures_total == 1


@pytest.mark.system
def test_what_the_creator_needs_stays_out_of_the_worker(tmp_path: Path) -> None:
    (tmp_path / "hungry.py").write_text(
        "def create(target):\n"
        "    rows = bytearray(200_000_000)\n"
        "    rows[::4096] = b'x' * len(rows[::4096])\n"
        "    open(target, 'w').write(str(len(rows)))\n"
    )
    # Not getrusage: a program begins with the largest size of the process that started it.
    program = """
import sys
from dogpile_fs import Datafile
from hungry import create
def largest():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
before = largest()
report = Datafile("rows", 3600, create, background=sys.argv[1] if sys.argv[1:] else None)
assert report.load(lambda file: file.read()) == b"200000000"
print(largest() - before)
"""
    grown = {}
    for way in ("process", "thread", ""):
        for old in tmp_path.glob("rows*"):
            old.unlink()
        said = subprocess.run(
            [sys.executable, "-c", program, *way.split()],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        grown[way] = int(said.stdout or said.stderr)
    print(f"KiB by which the caller has grown: {grown}")
    assert grown["process"] < 20_000
    assert grown[""] > 50_000
    assert grown["thread"] > 50_000


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a PID namespace")
def test_no_zombie_is_left_below_a_first_process_that_does_not_reap(tmp_path: Path) -> None:
    count = 100 if _AT_LENGTH else 10
    program = f"""
import os, subprocess, sys, time
def create(target):
    subprocess.Popen(["true"])  # an orphan, when this process ends
    open(target, "w").write("new")
if __name__ == "__main__":
    from dogpile_fs import Datafile
    if os.getpid() == 1:
        subprocess.run([sys.executable, __file__])
    else:
        report = Datafile("report", 0, create, background="process", durable=False, timeout=60)
        for number in range({count}):
            assert report.refresh()
        def others():
            found = []
            for name in os.listdir("/proc"):
                if name.isdecimal() and int(name) not in (1, os.getpid()):
                    try:
                        found.append(open(f"/proc/{{name}}/stat").read().rpartition(")")[2].split()[0])
                    except (FileNotFoundError, ProcessLookupError):
                        pass  # it was reaped meanwhile
            return found
        deadline = time.monotonic() + 60
        while others() and time.monotonic() < deadline:
            time.sleep(0.01)
        print(report.status().generation, others())
"""
    (tmp_path / "program.py").write_text(program)
    said = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
    )
    if "unshare failed" in said.stderr:
        pytest.skip(f"no PID namespace here: {said.stderr.strip()}")
    assert said.stdout == f"{count} []\n", said.stderr


#: For gunicorn and for uvicorn: each request opens a datafile that is stale at once.
SERVED = """
import os
from dogpile_fs import Datafile, LockTimeout

def create(target):
    open(target, "w").write(str(os.getpid()))

report = Datafile("report", 0, create, background="process", durable=False, timeout=60)

def answer():
    with report.open("r") as file:
        return f"{os.getpid()} {file.read()}".encode()

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [answer()]

async def asgi(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer()})
"""


def serving(server: str, listener: socket.socket) -> list[str]:
    words = [sys.executable, "-m", server]
    if server == "gunicorn":
        return [*words, "--bind", f"fd://{listener.fileno()}", "--workers", "2", "served:wsgi"]
    return [*words, "--fd", str(listener.fileno()), "--lifespan", "off", "served:asgi"]


@pytest.mark.system
@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_no_zombie_is_left_by_a_servers_workers(tmp_path: Path, server: str) -> None:
    pytest.importorskip(server, reason=f"{server} is not installed")
    (tmp_path / "served.py").write_text(SERVED)
    count = 100 if _AT_LENGTH else 5
    workers, creators = set[int](), set[int]()
    with socket.create_server(("127.0.0.1", 0)) as listener, (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            serving(server, listener),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
            pass_fds=[listener.fileno()],
            stdout=log,
            stderr=log,
        )
        try:
            port = listener.getsockname()[1]
            while len(creators) < count:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
                connection.request("GET", "/")
                worker, creator = map(int, connection.getresponse().read().split())
                workers.add(worker)
                creators.add(creator)
                connection.close()
            wait_for(lambda: not children_of(workers), f"the end of all children of {workers}")
            assert workers.isdisjoint(creators)
        finally:
            process.terminate()
            process.wait(PATIENCE)


def children_of(parents: set[int]) -> list[int]:
    """Return the children of *parents*, those that run and those that nothing has waited for."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):
                if int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1]) in parents:
                    found.append(int(name))
    return found
