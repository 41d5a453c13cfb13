"""Guests of User Mode Linux: a server of NFS and its clients, which a bridge joins.

All of it is in namespaces of its own, so that guests and devices go with the process that made them. A guest is
cut off by setting down its end of the bridge.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["CannotBoot", "Fleet", "Guest", "booted", "in_namespaces", "refuse_unless_bootable"]

_NEEDED = {
    "linux.uml": "user-mode-linux",
    "rpc.nfsd": "nfs-kernel-server",
    "exportfs": "nfs-kernel-server",
    "mkfs.ext4": "e2fsprogs",
    "ip": "iproute2",
    "unshare": "util-linux",
}
_ROOT = Path(__file__).parents[3]
_PATIENCE = 60.0
Record = dict[str, Any]


class CannotBoot(Exception):
    """This machine cannot run the guests."""


def refuse_unless_bootable() -> None:
    """:raises CannotBoot: if something is missing here that the guests need."""
    if os.getuid() != 0:
        raise CannotBoot("root is needed, for network devices and namespaces")
    if not os.path.exists("/dev/net/tun"):
        raise CannotBoot("there is no /dev/net/tun")
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = {package for command, package in _NEEDED.items() if shutil.which(command, path=path) is None}
    if missing:
        raise CannotBoot(f"not installed: {', '.join(sorted(missing))} (packages of Debian)")


def in_namespaces(*command: str) -> int:
    """Run a command where no process and no device outlives it; return its exit status."""
    new = ["unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
    return subprocess.run([*new, *command]).returncode


class Guest:
    """A host of the trial."""

    def __init__(self, name: str, number: int, directory: Path, options: str, lease: int, *devices: str) -> None:
        self.name, self._tap, self._records = name, f"tap{number}", directory / "records"
        _ip("tuntap", "add", "dev", self._tap, "mode", "tap")
        _ip("link", "set", self._tap, "master", "bridge", "up")
        self._console = (directory / f"{name}.console").open("wb")
        self._process = subprocess.Popen(
            [
                "linux.uml",
                "mem=192M",
                f"umid={name}",
                f"uml_dir={directory}",
                "rootfstype=hostfs",
                "rootflags=/",
                "ro",
                "quiet",
                f"eth0=tuntap,{self._tap}",
                *devices,
                *("con0=fd:0,fd:1", "con=null", "ssl=null"),
                f"init={sys.executable}",
                f"RECORDS={self._records}",
                f"PYTHONPATH={_ROOT}",
                "PYTHONDONTWRITEBYTECODE=1",
                *("--", "-m", f"{__package__}.guest", name, f"10.77.0.{number}", options, str(lease)),
            ],
            stdin=subprocess.PIPE,
            stdout=self._console,
            stderr=subprocess.STDOUT,
        )

    def tell(self, *command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def start(self, worker: str, **arguments: Any) -> None:
        self.tell("start", worker, arguments)

    def wait(self, *names: str, patience: float = _PATIENCE) -> None:
        """Wait until workers have ended, well."""
        for name in names:
            self.tell("wait", name)
            status = self.seen(patience, name=name)["status"]
            assert status == 0, f"worker {name} of {self.name} has ended with {status}"

    def seen(self, patience: float = _PATIENCE, **fields: Any) -> Record:
        """Wait for a record with these *fields*, and return the first."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            for record in self.records():
                if fields.items() <= record.items():
                    return record
            time.sleep(0.02)
        raise AssertionError(f"timed out after {patience} s of waiting for {fields} of {self.name}")

    def records(self) -> list[Record]:
        texts = [path.read_text() for path in self._records.glob(f"{self.name}.*")]
        lines = [line for text in texts for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return sorted((json.loads(line) for line in lines), key=lambda record: record["time"])

    def set_clock(self) -> float:
        """Have the guest's clock agree with this machine's; return by how many seconds it may differ."""
        for number in ("first", "last"):
            before = time.time()
            self.tell("clock", number)
            told: float = self.seen(clock=number)["time"]
            after = time.time()
            if number == "first":
                self.tell("step", (before + after) / 2 - told)
        return max(after - told, told - before)

    def cut(self) -> None:
        _ip("link", "set", self._tap, "down")

    def mend(self) -> None:
        _ip("link", "set", self._tap, "up")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._console.close()
        _ip("link", "del", self._tap)


class Fleet:
    """A server, and two clients."""

    def __init__(self, directory: Path, options: str, lease: int) -> None:
        self._directory, self._guests = directory, list[Guest]()
        self._options, self._lease = options, lease

    def boot(self) -> None:
        (self._directory / "records").mkdir(parents=True)
        image = self._directory / "share.img"
        with image.open("wb") as file:
            file.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "bridge", "type", "bridge")
        _ip("link", "set", "bridge", "up")
        for number, name in enumerate(("server", "a", "b"), 1):
            devices = [] if self._guests else [f"ubd0={image}"]
            guest = Guest(name, number, self._directory, self._options, self._lease, *devices)
            self._guests.append(guest)
            guest.seen(what="up")
            guest.set_clock()

    @property
    def a(self) -> Guest:
        return self._guests[1]

    @property
    def b(self) -> Guest:
        return self._guests[2]

    @property
    def server(self) -> Guest:
        return self._guests[0]

    @property
    def clients(self) -> list[Guest]:
        return self._guests[1:]

    def allow(self, name: str) -> None:
        """Make the file that a creator waits for."""
        (self._directory / "records" / name).touch()

    def records(self, path: str) -> list[Record]:
        """Return what the workers with this datafile have put on record."""
        records = [record for guest in self.clients for record in guest.records()]
        return sorted((each for each in records if each.get("path") == path), key=lambda record: record["time"])

    def stop(self) -> None:
        for guest in self._guests:
            guest.stop()
        _ip("link", "del", "bridge")


@contextmanager
def booted(directory: Path, options: str, lease: int) -> Iterator[Fleet]:
    """Boot all guests, and end them."""
    fleet = Fleet(directory, options, lease)
    try:
        fleet.boot()
        yield fleet
    finally:
        fleet.stop()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
