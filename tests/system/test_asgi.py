"""Real uvicorn and hypercorn with two workers, whose tasks share a datafile with a creator of a second."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.aio_app import CREATES
from tests.support.processes import PATIENCE, Record, overlaps, wait_for

ROOT = Path(__file__).resolve().parents[2]
#: Whether ``tox -e endurance`` asks for much, on a machine that does nothing else.
_AT_LENGTH = int(os.environ.get("DOGPILE_FS_ROUNDS", "4")) >= 100
CLIENTS = 200 if _AT_LENGTH else 60
SECONDS = 10.0 if _AT_LENGTH else 4.0
#: Seconds by which 99 % of the event loop's gaps may be longer than under the same load without creations.
MORE = 0.05 if _AT_LENGTH else 0.5

SERVERS = {
    "uvicorn": ["uvicorn", "--workers", "2", "--loop", "asyncio", "--log-level", "warning"],
    "uvloop": ["uvicorn", "--workers", "2", "--loop", "uvloop", "--log-level", "warning"],
    "hypercorn": ["hypercorn", "-w", "2", "-k", "trio", "--log-level", "warning"],
}


@contextmanager
def serving(tmp_path: Path, server: str, **settings: str) -> Iterator[int]:
    """Serve the application; yields the port."""
    pytest.importorskip(SERVERS[server][0])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--port", str(port)] if server != "hypercorn" else ["-b", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [sys.executable, "-m", *SERVERS[server], *where, "tests.support.aio_app:application"],
        cwd=ROOT,
        env={**os.environ, "AIO_APP": str(tmp_path), "PYTHONPATH": str(ROOT), **settings},
        start_new_session=True,
    )
    try:
        wait_for(lambda: _answers(port) or process.poll() is not None, "the server")
        assert process.poll() is None
        yield port
    finally:
        process.terminate()
        try:
            assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


async def ask(port: int, path: str, seconds: float) -> list[bytes]:
    """Be many clients that ask again and again; returns the bodies. All answers are good."""
    bodies = []
    until = time.monotonic() + seconds

    async def client(number: int) -> None:
        await asyncio.sleep(number / CLIENTS * 0.3)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < until:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200"), head
            length = int(head.partition(b"content-length:")[2].split()[0])
            bodies.append(await reader.readexactly(length))
            await asyncio.sleep(0.3)
        writer.close()

    await asyncio.wait_for(asyncio.gather(*map(client, range(CLIENTS))), PATIENCE + seconds)
    return bodies


def late(gaps: Record, begun: float, ended: float) -> float:
    """Return how late 99 % of the ticks of all event loops came at most, in seconds, between two moments."""
    all_gaps = [
        gap for event in gaps.events("late") for at, gap in event.more["gaps"] if begun + 0.5 < at < ended - 0.5
    ]
    assert len(all_gaps) > 100
    return float(sorted(all_gaps)[int(0.99 * len(all_gaps))])


@pytest.mark.system
@pytest.mark.parametrize("server", SERVERS)
def test_workers_create_once_per_expiry_and_their_event_loops_run_on(tmp_path: Path, server: str) -> None:
    record, gaps = Record(tmp_path / "record"), Record(tmp_path / "gaps")
    with serving(tmp_path, server) as port:
        asyncio.run(ask(port, "/quiet", 0.5))
        begun = time.monotonic()
        asyncio.run(ask(port, "/quiet", SECONDS))
        between = time.monotonic()
        bodies = asyncio.run(ask(port, "/", SECONDS))
        ended = time.monotonic()
        wait_for(lambda: len(record.events("begun")) == len(record.events("ended")), "the last creation")
        wait_for(lambda: max(e.at for e in gaps.events()) > ended, "the last gaps")
    spans = record.spans("begun", "ended")
    assert overlaps(spans, spans) == []
    assert 2 <= len(set(bodies)) <= len(spans) <= 2 + (ended - between) / CREATES
    quiet, busy = late(gaps, begun, between), late(gaps, between, ended)
    print(f"{server}: {len(bodies)} answers, {len(spans)} creations; late: {quiet:.4f} s quiet, {busy:.4f} s busy")
    assert busy < quiet + MORE


@pytest.mark.system
@pytest.mark.parametrize("server", SERVERS)
def test_a_command_gets_its_swap_in_among_tasks_that_read(tmp_path: Path, server: str) -> None:
    waits = []

    async def main(port: int) -> list[bytes]:
        clients = asyncio.create_task(ask(port, "/", SECONDS))
        while not clients.done():
            await asyncio.sleep(0.5)
            began = time.monotonic()
            command = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "dogpile_fs", "run", "--expire", "never", "--force", "--readers", "--stdout",
                "--output", str(tmp_path / "report"), "--", "date", "+%N",
                cwd=ROOT,
            )  # fmt: skip
            assert await command.wait() == 0
            waits.append(time.monotonic() - began)
        return await clients

    with serving(tmp_path, server, AIO_APP_READERS="yes") as port:
        asyncio.run(ask(port, "/", 0.5))
        bodies = asyncio.run(main(port))
    print(f"{server}: {len(bodies)} answers, {len(waits)} swaps, the longest in {max(waits):.2f} s")
    assert waits
    assert len(set(bodies)) >= 2
    # Five times as long as a reader stays, and the start of a command.
    assert max(waits) < 5 * 0.3 + (1.0 if _AT_LENGTH else 10.0)
