"""A fleet of real processes over a real server, which counts what it is asked: a check of the simulated one.

The processes are the trial's workers, and its judge looks at what they have seen.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.support import servers

from ..history import operations_in
from .judge import violations
from .tale import tale_of
from .worker import CHECK, TTL

__all__ = ["run_real_fleet"]

#: Bytes of a version: one piece in Redis, one request in a bucket.
_SIZE = 64 * 1024
#: Seconds that a version lives.
_EXPIRETIME = 4.0
#: Seconds by which hosts differ about the clock of the origin: a bucket tells whole seconds.
_CLOCKS = {"redis": 0.05, "s3": 1.1}
#: Seconds for which processes are waited for.
_PATIENCE = 60.0
_LOOK = 0.05
_REDIS = {"hmget": "head read", "eval": "head written", "get": "blob read", "set": "blob stored", "time": "clock"}
_REQUEST = re.compile(r'"(GET|HEAD|PUT) /tests/(\w+)/(\w+)[^"]*" (\d+)')


def run_real_fleet(kind: str, hosts: int, workers: int, seconds: float, root: Path) -> dict[str, Any]:
    """Run so many *hosts* of so many processes each for some *seconds*, and return what came of it.

    :param kind: of the origin: ``redis`` or ``s3``.
    :returns: *requests*: by kind, as the server has counted them from the first version of each host on.
    """
    name = secrets.token_hex(4)
    server = servers.new_redis() if kind == "redis" else servers.moto()
    control, histories = Path(tempfile.mkdtemp(dir=root)), Path(tempfile.mkdtemp(dir=root))
    environment, url = dict(os.environ), f"redis://127.0.0.1:{server.port}/0/{name}"
    if kind == "s3":
        url = f"s3://tests/{name}"
        environment |= {**servers.ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}
    running: list[subprocess.Popen[bytes]] = []
    directories = [Path(tempfile.mkdtemp(dir=root)) for _ in range(hosts)]
    try:
        for number, directory in enumerate(directories, 1):
            for worker in range(1, workers + 1):
                words = [sys.executable, "-m", f"{__package__}.worker", "--name", f"h{number}w{worker}"]
                words += ["--directory", str(directory), "--control", str(control), "--url", url]
                words += ["--histories", str(histories), "--size", str(_SIZE)]
                words += ["--expiretime", str(_EXPIRETIME)]
                with open(root / f"h{number}w{worker}.log", "wb") as log:
                    running.append(
                        subprocess.Popen(
                            words,
                            stdin=subprocess.DEVNULL,
                            stdout=log,
                            stderr=log,
                            env=environment,
                            process_group=0,
                        )
                    )
        _wait_for(lambda: all((directory / "report").exists() for directory in directories))
        before, began = _counted(kind, server, name), time.monotonic()
        time.sleep(seconds)  # it runs; no condition is waited for
        after, took = _counted(kind, server, name), time.monotonic() - began
    finally:
        (control / "end").touch()
        for each in running:
            try:
                each.wait(10)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()
        if kind == "redis":
            server.end()
    tale = tale_of(operations_in(histories), ttl=TTL, is_unfit=False, has_settled=True)
    published = {each.tells.sha for each in tale.requests if each.tells is not None and each.tells.sha}
    in_time = [each for each in tale.creations if began <= each.began <= began + took]
    return {
        "kind": kind,
        "hosts": hosts,
        "workers": workers,
        "seconds": round(took, 2),
        "expiretime": _EXPIRETIME,
        "check": CHECK,
        "requests": dict(sorted((after - before).items())),
        "versions": len(published),
        "creations": len(tale.creations),
        "creations_in_time": len(in_time),
        "violations": [*violations(tale), *_too_early(kind, tale.creations, published)],
    }


def _too_early(kind: str, creations: Any, published: set[str]) -> list[str]:
    """Nothing is created before the version before it has expired, and nothing for nothing."""
    found = []
    made = sorted((each for each in creations if each.ended != float("inf")), key=lambda each: each.began)
    for one, other in pairwise(made):
        if other.began < one.ended + _EXPIRETIME - _CLOCKS[kind]:
            found.append(
                f"{other.process} began to create {other.began - one.ended:.2f} s after {one.process} had"
            )
    lost = [each for each in made[:-1] if each.sha not in published]
    return [*found, *(f"{each.process} has created for nothing" for each in lost)]


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not all hosts have a version within {_PATIENCE} s")
        time.sleep(_LOOK)


def _counted(kind: str, server: servers.Server, name: str) -> Counter[str]:
    """Return what the server has been asked so far."""
    counts = Counter[str]()
    if kind == "redis":
        client = import_module("redis").Redis("127.0.0.1", server.port)
        for command, told in client.info("commandstats").items():
            kind_of = _REDIS.get(command.removeprefix("cmdstat_"))
            if kind_of is not None:
                counts[kind_of] += told["calls"]
        client.close()
        return counts
    for method, of, what, status in _REQUEST.findall(Path(server.directory, "log").read_text(errors="replace")):
        if of == name and what == "clock":
            counts["clock"] += 1
        elif of == name:
            blob, put = what == "blobs", method == "PUT"
            kind_of = ("blob stored" if put else "blob read") if blob else ("head written" if put else "head read")
            counts["head unchanged" if status == "304" else kind_of] += 1
    return counts
