"""Real servers for the tests, on loopback: started at the first use, ended with the test process."""

from __future__ import annotations

import atexit
import base64
import hmac
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from email.utils import formatdate
from functools import cache
from pathlib import Path

import pytest

from tests.support.processes import wait_for

__all__ = [
    "ENVIRONMENT",
    "Server",
    "azure_environment",
    "azurite",
    "free_port",
    "moto",
    "new_redis",
    "redis",
    "rgw",
]

#: With these, obstore speaks to the server that :func:`moto` has started.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}
#: The account of Azurite, whose key is public.
_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_API = "2021-12-02"

#: One request at a time: moto's own server looks at a condition and writes in two steps, between which another
#: request of the same moment may come.
_MOTO = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""


class Server:
    """A process that listens on a port of loopback."""

    def __init__(self, command: list[str], port: int, directory: str) -> None:
        self.command, self.port, self.directory = command, port, directory
        self._start()

    def _start(self) -> None:
        with open(os.path.join(self.directory, "log"), "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, cwd=self.directory, process_group=0
            )
        wait_for(self._listens, f"{self.command[0]} on port {self.port}")

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(Path(self.directory, "log").read_text(errors="replace"))
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def restart(self) -> None:
        """End it as by a crash, and start it again."""
        self.kill()
        self._start()

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def new_redis() -> Server:
    """Start a Redis without persistence; skip the test if none is installed."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server here")
    pytest.importorskip("redis")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    return Server([program, *options], port, tempfile.mkdtemp(prefix="redis-"))


@cache
def redis() -> Server:
    """Return the Redis of this test process."""
    server = new_redis()
    atexit.register(server.end)
    return server


@cache
def moto() -> Server:
    """Return the S3 server of this test process, which has the bucket ``tests``; skip the test without moto."""
    pytest.importorskip("moto")
    pytest.importorskip("obstore")
    port = free_port()
    command = [sys.executable, "-c", _MOTO, str(port)]
    server = Server(command, port, tempfile.mkdtemp(prefix="moto-"))
    atexit.register(server.end)
    wait_for(lambda: _bucket_made(port), "the bucket")
    return server


def _bucket_made(port: int) -> bool:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}/tests", method="PUT"), timeout=10
        ):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 409  # it is there
    except OSError:
        return False


_CEPH = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon}]
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
run dir = {directory}
keyring = {directory}/keyring
mon data = {directory}/mon
osd data = {directory}/osd
rgw data = {directory}
log file =
mon cluster log file =
admin socket =
osd objectstore = memstore
memstore device bytes = 1073741824
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
rgw frontends = beast endpoint=127.0.0.1:{port}
"""


@cache
def rgw() -> Server:
    """Return the Ceph gateway of this test process, which has the bucket ``tests``; skip the test without it.

    Its key is that of :data:`ENVIRONMENT`. It uses cephx: without, radosgw 16.2 did not connect to its
    monitor.
    """
    for program in ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here: Debian has it in ceph-common, ceph-mon, ceph-osd and radosgw")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("obstore")
    directory, fsid, osd = tempfile.mkdtemp(prefix="ceph-"), str(uuid.uuid4()), str(uuid.uuid4())
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    mon, port = free_port(), free_port()
    conf, keyring = os.path.join(directory, "ceph.conf"), os.path.join(directory, "keyring")
    Path(conf).write_text(_CEPH.format(fsid=fsid, mon=mon, port=port, directory=directory))

    def run(program: str, *words: str) -> str:
        command = [program, *words]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    Path(keyring).touch()
    for name in ("mon.", "client.admin", "osd.0"):
        caps = [word for of in ("mon", "osd", "mgr") for word in ("--cap", of, "allow *")]
        run("ceph-authtool", keyring, "--gen-key", "-n", name, *caps)
    run("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{mon}]", "--fsid", fsid, "monmap")
    for each in ("mon", "osd"):
        os.mkdir(os.path.join(directory, each))
    run("ceph-mon", "-c", conf, "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", keyring)
    _ceph_part(["ceph-mon", "-c", conf, "-i", "a", "-f"], mon, directory)
    run("ceph", "-c", conf, "osd", "new", osd)
    run("ceph-osd", "-c", conf, "-i", "0", "--mkfs", "--osd-uuid", osd)
    with open(os.path.join(directory, "log"), "ab") as log:  # its ports are its own choice
        process = subprocess.Popen(
            ["ceph-osd", "-c", conf, "-i", "0", "-f"], stdout=log, stderr=log, cwd=directory, process_group=0
        )
    atexit.register(process.wait)
    atexit.register(process.kill)
    wait_for(lambda: "1 up" in run("ceph", "-c", conf, "osd", "stat"), "ceph-osd")
    keys = "--access-key=testing", "--secret=testing"
    run("radosgw-admin", "-c", conf, "user", "create", "--uid=tests", "--display-name=tests", *keys)
    server = _ceph_part(["radosgw", "-c", conf, "-n", "client.admin", "-f"], port, directory)
    options = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **options).create_bucket(Bucket="tests")
    return server


def _ceph_part(command: list[str], port: int, directory: str) -> Server:
    server = Server(command, port, directory)
    atexit.register(server.kill)
    return server


def azure_environment(port: int) -> dict[str, str]:
    """Return the variables with which obstore speaks to the Azurite on *port*."""
    return {
        "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": _ACCOUNT_KEY,
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/{_ACCOUNT}",
        "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
    }


@cache
def azurite() -> Server:
    """Return the Azure server of this test process, which has the container ``tests``; skip the test without
    it."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("no azurite-blob here")
    pytest.importorskip("obstore")
    port = free_port()
    command = [program, "--blobPort", str(port), "--inMemoryPersistence", "--silent", "--skipApiVersionCheck"]
    command += ["--disableTelemetry"]
    server = Server(command, port, tempfile.mkdtemp(prefix="azurite-"))
    atexit.register(server.end)
    wait_for(lambda: _container_made(port), "the container")
    return server


def _container_made(port: int) -> bool:
    date = formatdate(usegmt=True)
    headers = f"x-ms-date:{date}\nx-ms-version:{_API}\n"
    resource = f"/{_ACCOUNT}/{_ACCOUNT}/tests\nrestype:container"
    signed = "PUT" + "\n" * 12 + headers + resource
    digest = hmac.digest(base64.b64decode(_ACCOUNT_KEY), signed.encode(), "sha256")
    signature = base64.b64encode(digest).decode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/{_ACCOUNT}/tests?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": _API,
            "Authorization": f"SharedKey {_ACCOUNT}:{signature}",
            "Content-Length": "0",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=10):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 409  # it is there
    except OSError:
        return False
