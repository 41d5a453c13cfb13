"""``docs/web.rst``: the files on the page, run by real uvicorn and gunicorn, and the page's crontab line."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support import servers
from tests.support.processes import PATIENCE, wait_for
from tests.unit.test_docs import blocks

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "web.rst"

FILES = {found[1]: block.text for block in blocks(PAGE) if (found := re.match(r"# (\S+)\n", block.text))}
(LINE,) = (block.text for block in blocks(PAGE) if block.language == "text")

SERVERS = {
    "api": ["uvicorn", "--log-level", "warning", "--workers", "2", "--port", "{}", "api:app"],
    "app": ["gunicorn", "--workers", "2", "-b", "127.0.0.1:{}", "app:app"],
    "service": ["uvicorn", "--log-level", "warning", "--workers", "2", "--port", "{}", "service:app"],
    "worker": ["gunicorn", "--workers", "2", "-b", "127.0.0.1:{}", "worker:app"],
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "orders.txt").write_text("50\n60\n10\n")
    return tmp_path


@contextmanager
def served(shop: Path, module: str) -> Iterator[int]:
    """Serve the page's *module*, and yield the port."""
    command = SERVERS[module]
    pytest.importorskip(command[0])
    pytest.importorskip("fastapi" if command[0] == "uvicorn" else "flask")
    port = servers.free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", *(word.format(port) for word in command)],
        cwd=shop,
        env={**os.environ, "PYTHONPATH": f"{shop}{os.pathsep}{ROOT}"},
        start_new_session=True,
    )
    try:
        wait_for(lambda: answers(port), "the server")
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)


def answers(port: int) -> bool:
    try:
        asked(port, "/nothing")
    except OSError:
        return False
    return True


def asked(port: int, path: str, **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read(), response.headers


def run_job(shop: Path, *options: str) -> int:
    """Run what the page's crontab line runs, with *options* besides."""
    command = LINE.split(maxsplit=5)[5].partition("venv/bin/dogpile-fs ")[2].replace("venv/bin/python", "python")
    run, *words = shlex.split(command)
    words[words.index("python")] = sys.executable
    done = subprocess.run(
        [sys.executable, "-m", "dogpile_fs", run, *options, *words],
        cwd=shop,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=PATIENCE,
    )
    return done.returncode


@pytest.mark.system
@pytest.mark.parametrize("module", ["api", "app"])
def test_workers_read_what_the_job_makes(module: str, shop: Path) -> None:
    with served(shop, module) as port:
        status, _, headers = asked(port, "/total")
        assert (status, headers["Retry-After"]) == (503, "60")
        assert asked(port, "/report")[0] == 503
        assert json.loads(asked(port, "/health")[1])["state"] == "missing"

        assert run_job(shop) == 0
        assert json.loads(asked(port, "/total")[1]) == {"total": 120}
        status, body, headers = asked(port, "/report")
        assert (status, json.loads(body)["orders"]) == (200, 3)
        assert asked(port, "/report", If_None_Match=headers["ETag"])[0] == 304

        (shop / "orders.txt").write_text("broken\n")
        assert run_job(shop, "--force") == 1
        assert json.loads(asked(port, "/total")[1]) == {"total": 120}
        assert json.loads(asked(port, "/health")[1])["failures"] == 1

        (shop / "orders.txt").write_text("7\n")
        assert run_job(shop, "--force") == 0
        assert json.loads(asked(port, "/total")[1]) == {"total": 7}


@pytest.mark.system
@pytest.mark.parametrize("module", ["worker", "service"])
def test_workers_create_in_the_background(module: str, shop: Path) -> None:
    with served(shop, module) as port:
        wait_for(lambda: asked(port, "/total")[0] == 200, "the first report")
        (shop / "orders.txt").write_text("7\n")
        subprocess.run([sys.executable, "-m", "dogpile_fs", "invalidate", "report.json"], cwd=shop, check=True)
        assert json.loads(asked(port, "/total")[1]) == {"total": 120}
        wait_for(lambda: json.loads(asked(port, "/total")[1]) == {"total": 7}, "the next report")
