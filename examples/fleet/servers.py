"""The servers of the example: Redis or moto as the origin, gunicorn on each host, nginx before both.

All of them listen on Unix sockets in one directory, so that no port is guessed. What a host sends to its origin
goes over the network; what nginx sends to a host does not, so that a host which is cut off is still asked.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from fleet.network import Host, Network, find_program
from fleet.record import ANSWERS

__all__ = ["Bucket", "Redis", "Store", "ask", "listens", "missing", "start_gunicorn", "start_nginx", "wait_until"]

_HERE = Path(__file__).resolve().parent
#: Seconds for which a server has time to start.
_PATIENCE = 60.0

_NGINX = """\
daemon off;
worker_processes 1;
pid nginx.pid;
{user}
events {{ worker_connections 256; }}
http {{
    log_format answer escape=json '{{"time":"$msec","took":"$request_time","status":"$status",'
        '"host":"$upstream_http_x_host","pid":"$upstream_http_x_pid","token":"$upstream_http_x_token",'
        '"generation":"$upstream_http_x_generation","age":"$upstream_http_x_age"}}';
    access_log {record} answer;
    {paths}
    upstream fleet {{
        {servers}
    }}
    server {{
        listen unix:{socket};
        location / {{
            proxy_pass http://fleet;
            proxy_read_timeout 120s;
            # A request that fails on one host is not hidden by another host.
            proxy_next_upstream off;
        }}
    }}
}}
"""


def missing(kinds: Sequence[str]) -> list[str]:
    """Return one sentence for each program and each package that the origins *kinds* need and that is missing."""
    found = []
    for program in ["nginx", *(["redis-server"] if "redis" in kinds else [])]:
        if find_program(program) is None:
            found.append(f"{program} is missing. Hint: apt-get install {program}")
    modules = {"gunicorn": "gunicorn"}
    modules |= {"redis": "'dogpile_fs[redis]'"} if "redis" in kinds else {}
    modules |= {"obstore": "'dogpile_fs[s3]'", "moto": "'moto[s3,server]'"} if "s3" in kinds else {}
    for module, package in modules.items():
        if find_spec(module) is None:
            found.append(f"the Python package {module} is missing. Hint: pip install {package}")
    return found


class Store(ABC):
    """A server that is the origin; it listens on *socket*. *clocks*: seconds by which a host may be wrong about
    its clock."""

    title: str
    clocks: float

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "origin"
        self.directory = directory

    @abstractmethod
    def start(self, network: Network) -> None:
        """Start it, and wait until it answers."""

    @abstractmethod
    def environment(self, port: int) -> dict[str, str]:
        """Return the variables by which a host uses it that finds it on this *port* of loopback."""

    @abstractmethod
    def requests(self) -> Counter[str]:
        """Return how many requests the server has had so far, by what they are for."""


class Redis(Store):
    title, clocks = "Redis", 0.05
    _PURPOSES: ClassVar = {
        "hmget": "head read",
        "eval": "head written",
        "get": "blob read",
        "set": "blob written",
        "time": "clock read",
    }

    def start(self, network: Network) -> None:
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        program = find_program("redis-server") or "redis-server"
        network.start([program, *options, "--dir", str(self.directory)], "redis", reads=False)
        wait_until(lambda: listens(self.socket), "redis-server", lambda: network.log("redis"))

    def environment(self, port: int) -> dict[str, str]:
        return {"FLEET_ORIGIN": f"redis://127.0.0.1:{port}/0/report"}

    def requests(self) -> Counter[str]:
        import redis

        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            told = client.info("commandstats")
        assert isinstance(told, dict)
        return Counter(
            {
                what: told[f"cmdstat_{name}"]["calls"]
                for name, what in self._PURPOSES.items()
                if f"cmdstat_{name}" in told
            }
        )


class Bucket(Store):
    title, clocks = "S3 (moto)", 1.1

    def start(self, network: Network) -> None:
        self._record = self.directory / "requests"
        command = [sys.executable, str(_HERE / "storage.py"), str(self.socket), str(self._record)]
        network.start(command, "moto", {"PYTHONPATH": _with_examples()}, reads=False)
        wait_until(self._has_bucket, "moto", lambda: network.log("moto"))

    def _has_bucket(self) -> bool:
        try:
            return ask(self.socket, "PUT", "/fleet")[0] in (200, 409)
        except OSError:
            return False

    def environment(self, port: int) -> dict[str, str]:
        return {
            "FLEET_ORIGIN": "s3://fleet/report",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
        }

    def requests(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for line in map(json.loads, self._record.read_text().splitlines()):
            part = line["path"].removeprefix("/fleet/report/").partition("/")[0]
            if "report/" in line["path"] and part in ("head", "blobs", "clock"):
                verb = "written" if line["method"] in ("PUT", "POST") else "read"
                counts[f"{part.removesuffix('s')} {verb}"] += 1
        return counts


def start_gunicorn(network: Network, host: Host, socket: Path, workers: int, settings: Mapping[str, str]) -> None:
    """Start gunicorn on a *host*, which will listen on *socket*."""
    configuration = str(_HERE / "gunicorn_conf.py")
    words = [sys.executable, "-m", "gunicorn", "-c", configuration, "--workers", str(workers)]
    command = [*host.prefix, *words, "--bind", f"unix:{socket}"]
    network.start(command, f"gunicorn-{host.name}", settings, reads=False)


def start_nginx(network: Network, directory: Path, sockets: Sequence[Path], record: Path) -> Path:
    """Start nginx before the *sockets* of gunicorn, and return the socket on which it listens."""
    path = directory / "nginx"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    configuration = _NGINX.format(
        # Another user may not enter the directory of root's sockets.
        user="user root;" if os.geteuid() == 0 else "",
        record=record / ANSWERS,
        paths="\n    ".join(f"{kind}_temp_path {directory}/temp-{kind};" for kind in kinds),
        servers="\n        ".join(f"server unix:{socket} max_fails=0;" for socket in sockets),
        socket=path,
    )
    (directory / "nginx.conf").write_text(configuration)
    program = find_program("nginx") or "nginx"
    words = ["-p", str(directory), "-c", "nginx.conf", "-e", str(network.logs / "nginx-errors.log")]
    network.start([program, *words], "nginx", reads=False)
    wait_until(lambda: listens(path), "nginx", lambda: network.log("nginx"))
    return path


class _UnixConnection(http.client.HTTPConnection):
    """Speaks HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str = "GET", target: str = "/", timeout: float = 120.0) -> tuple[int, str]:
    """Send one request to the Unix socket at *path*, and return the status and the text of its answer."""
    connection = _UnixConnection(path, timeout)
    try:
        connection.request(method, target, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def wait_until(
    condition: Callable[[], bool], what: str, say: Callable[[], str] = lambda: "", seconds: float = _PATIENCE
) -> None:
    """Wait until *condition* holds.

    :raises TimeoutError: after so many *seconds*, with *what* did not come and what *say* tells of it.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds:g} s. {say()}")
        time.sleep(0.02)


def listens(path: Path) -> bool:
    """Return whether a server listens on the Unix socket at *path*."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def _with_examples() -> str:
    return os.pathsep.join(filter(None, [str(_HERE.parent), os.environ.get("PYTHONPATH", "")]))
