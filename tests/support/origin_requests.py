"""How many requests of each kind an origin was asked, counted where they arrive."""

from __future__ import annotations

import re
import secrets
import socket
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from tests.support import servers
from tests.support.processes import PATIENCE, wait_for

__all__ = ["Requests", "requests_at"]


class Requests(ABC):
    """Counts what one origin is asked, from its begin on. Kinds: ``head read``, ``head written``, ``blob read``,
    ``blob written``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._last = Counter[str]()

    def since_last(self) -> dict[str, int]:
        """Return how many there were since this was called last."""
        now = self._total()
        last, self._last = self._last, now
        return dict(sorted((now - last).items()))

    @abstractmethod
    def _total(self) -> Counter[str]:
        """Return how many there were up to now."""

    def command(self, words: list[str]) -> list[str]:
        """Return the command by which a process with these *words* is started."""
        return words

    def close(self) -> None:
        """End it."""
        return


class _OfRedis(Requests):
    """What ``MONITOR`` tells: each command, as the server executes it."""

    _KINDS: ClassVar = {"hmget": "head read", "eval": "head written", "get": "blob read", "set": "blob written"}

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._monitor, self._client = (
            socket.create_connection(("127.0.0.1", servers.redis().port), PATIENCE) for _ in range(2)
        )
        self._told = self._monitor.makefile("rb")
        self._counts = Counter[str]()
        self._monitor.sendall(b"MONITOR\r\n")
        assert self._told.readline() == b"+OK\r\n"

    def _total(self) -> Counter[str]:
        mark, key = secrets.token_hex(8), f'"dogpile_fs:{{{self.name}}}'
        self._client.sendall(f"ECHO {mark}\r\n".encode())
        while mark not in (line := self._told.readline().decode(errors="replace")):
            # +1339518083.107412 [0 127.0.0.1:60866] "get" "key"
            command = line.partition('] "')[2].partition('"')[0].lower()
            kind = self._KINDS.get(command, "")
            is_of_it = f'{key}"' in line if kind.startswith("head") else f"{key}:" in line
            self._counts[kind] += bool(kind) and is_of_it and "lua]" not in line
        return self._counts.copy()

    def close(self) -> None:
        for each in (self._told, self._monitor, self._client):
            each.close()


class _OfBucket(Requests):
    """The log of moto, which answers one request after the other, and may colour what it has not found."""

    _LINE = re.compile(r'"(?:\x1b\[\d+m)*(GET|HEAD|PUT) /tests/(\w+)/(head|blobs)[^"]*" (\d+)')

    def _total(self) -> Counter[str]:
        server, mark = servers.moto(), secrets.token_hex(8)
        with suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/tests/{mark}", timeout=PATIENCE)
        log = Path(server.directory, "log")
        wait_for(lambda: mark in log.read_text(errors="replace"), "what was asked before")
        counts = Counter[str]()
        for method, name, of, _ in self._LINE.findall(log.read_text(errors="replace")):
            if name == self.name:
                counts[f"{of.removesuffix('s')} {'written' if method == 'PUT' else 'read'}"] += 1
        return counts


class _OfDirectory(Requests):
    """The system calls of the processes that are started with :meth:`command`, as strace tells them.

    A question ends with a look for the head after the last one. So does a write that has succeeded.
    """

    _CALL = re.compile(r"(\w+)\((.*)\) = (-?\d+)")

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._count = 0
        self._traces = Path(url).parent / "traces"
        self._traces.mkdir()

    def command(self, words: list[str]) -> list[str]:
        self._count += 1
        options = [
            "-ff",
            "-qq",
            "-s",
            "4096",
            "-e",
            "trace=openat,?link,linkat,?lstat,newfstatat",
            "-e",
            "signal=none",
        ]
        return ["strace", *options, "-o", str(self._traces / str(self._count)), *words]

    def _total(self) -> Counter[str]:
        counts = Counter[str]()
        for trace in self._traces.iterdir():
            for call, arguments, answer in self._CALL.findall(trace.read_text(errors="replace")):
                if f'"{self.name}/head-' in arguments:
                    if "stat" in call:
                        counts["head read"] += answer == "-1"
                    elif call.startswith("link"):
                        counts["head written"] += 1
                        counts["head read"] -= answer == "0"
                elif f'"{self.name}/blobs/' in arguments and call == "openat":
                    counts["blob written"] += "O_CREAT" in arguments
                    counts["blob read"] += re.search(r"/[0-9a-f]{64}\"", arguments) is not None
        return counts


def requests_at(url: str) -> Requests:
    """Return what counts the requests to the origin at *url*, which is new."""
    name = url.rpartition("/")[2]
    if url.startswith("redis:"):
        return _OfRedis(name)
    return _OfBucket(name) if url.startswith("s3:") else _OfDirectory(url)
