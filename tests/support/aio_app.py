"""An ASGI application that shares a datafile among its tasks, and measures how its event loop runs: for real
servers."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import anyio

from dogpile_fs.aio import Datafile

from .processes import Record

__all__ = ["application"]

_PLACE = Path(os.environ.get("AIO_APP", "."))
_READERS = bool(os.environ.get("AIO_APP_READERS"))
#: Seconds that a creation takes, that a version is fresh, and that a reader stays in its block.
CREATES, EXPIRES = 1.0, 0.5
READS = 0.3 if _READERS else 0.0
#: Seconds between two looks at the clock.
_TICK = 0.005


async def create(target: str) -> None:
    record = Record(_PLACE / "record")
    record.write("begun")
    await anyio.sleep(CREATES)
    Path(target).write_text(f"{os.getpid()} {time.monotonic_ns()}")
    record.write("ended")


#: One that expires, and one that does not.
_reports = {
    "/": Datafile(_PLACE / "report", None if _READERS else EXPIRES, create, readers=_READERS, durable=False),
    "/quiet": Datafile(_PLACE / "quiet", None, create, readers=_READERS, durable=False),
}


async def _measure() -> None:
    """Write down how much later than asked for the loop wakes this task."""
    record, late = Record(_PLACE / "gaps"), []
    while True:
        before = time.monotonic()
        await anyio.sleep(_TICK)
        late.append((before, time.monotonic() - before - _TICK))
        if len(late) == 100:
            record.write("late", gaps=late)
            late = []


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_measure)
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    tasks.cancel_scope.cancel()
                    return
    async with _reports[scope["path"]].open() as file:
        if READS:
            await anyio.sleep(READS)
        body = file.read()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
