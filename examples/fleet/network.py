"""The network of the example: two hosts, each joined to the origin by a link that can be cut.

As root, hosts and origin are network namespaces joined by pairs of veth devices, and a link is cut by setting its
device down. As another user they are processes of the same network, and the relay that is the host's way to the
origin is stopped. In both cases packets vanish, and connections outlast that.

Each host finds the origin on its own loopback, behind a relay: the library speaks plain HTTP to no other address.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Host", "Network", "find_program"]

_RELAY = Path(__file__).with_name("relay.py")
#: Of the relays inside namespaces, where no other program can have it.
_PORT = 7000


def find_program(name: str) -> str | None:
    """Return the path of a program, also where ordinary users do not look for it."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


class Network:
    """The network of *names* hosts and an origin that listens on the Unix socket *origin*.

    The end of the ``with`` block ends the processes that it has started, and removes what it has made.
    """

    def __init__(self, names: Sequence[str], origin: Path, logs: Path, *, namespaces: bool | None = None) -> None:
        self.logs = logs
        self.has_namespaces = _can_make_namespaces() if namespaces is None else namespaces
        self._stack = ExitStack()
        try:
            if self.has_namespaces:
                middle = self._namespace()
                self.start([*_inside(middle), *_relay("0.0.0.0", _PORT, str(origin))], "relay-origin")
                self.hosts = [self._joined(name, number, middle) for number, name in enumerate(names, 1)]
            else:
                self.hosts = [Host(self, name, "", "", str(origin)) for name in names]
        except BaseException:
            self._stack.close()
            raise

    def _namespace(self) -> str:
        name = f"fleet-{secrets.token_hex(4)}"
        _ip("netns", "add", name)
        self._stack.callback(_ip, "netns", "del", name)
        _ip("-n", name, "link", "set", "lo", "up")
        return name

    def _joined(self, name: str, number: int, middle: str) -> Host:
        namespace, device = self._namespace(), f"host{number}"
        _ip("-n", middle, "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("-n", middle, "addr", "add", f"10.0.{number}.1/30", "dev", device)
        _ip("-n", namespace, "addr", "add", f"10.0.{number}.2/30", "dev", "eth0")
        _ip("-n", middle, "link", "set", device, "up")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        return Host(self, name, namespace, f"-n {middle} link set {device}", f"10.0.{number}.1:{_PORT}")

    def start(
        self,
        command: Sequence[str],
        name: str,
        environment: Mapping[str, str] | None = None,
        *,
        reads: bool = True,
    ) -> tuple[subprocess.Popen[bytes], str]:
        """Start a process, which ends with the network.

        :param name: of its log.
        :param reads: wait for the first line that it prints.
        :returns: the process and that line.
        :raises RuntimeError: if it ends before.
        """
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if reads else log,
                stderr=log,
                start_new_session=True,  # so that the whole family can be ended by one signal
            )
        self._stack.callback(_kill, process)
        if process.stdout is None:
            return process, ""
        line = process.stdout.readline().decode().strip()
        if not line:
            raise RuntimeError(f"{name} has not started:\n{self.log(name)}")
        return process, line

    def log(self, name: str, characters: int = 3000) -> str:
        """Return the last that a process has said."""
        return (self.logs / f"{name}.log").read_text(errors="replace")[-characters:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


class Host:
    """One host. *port*: of its loopback, where it finds the origin. *prefix*: what a command line begins with,
    whose process runs on it."""

    def __init__(self, network: Network, name: str, namespace: str, link: str, target: str) -> None:
        self.name, self._link = name, link
        self.prefix = _inside(namespace) if namespace else []
        listens = _PORT if namespace else 0
        self._relay, line = network.start([*self.prefix, *_relay("127.0.0.1", listens, target)], f"relay-{name}")
        self.port = int(line)

    def cut(self) -> None:
        """Have all packets to and from the origin vanish."""
        if self._link:
            _ip(*self._link.split(), "down")
        else:
            self._relay.send_signal(signal.SIGSTOP)

    def mend(self) -> None:
        """Have the link back."""
        if self._link:
            _ip(*self._link.split(), "up")
        else:
            self._relay.send_signal(signal.SIGCONT)


def _relay(address: str, port: int, target: str) -> list[str]:
    return [sys.executable, str(_RELAY), address, str(port), target]


def _inside(namespace: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{namespace}", "--"]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process with its whole family: each line of the record is one write, and nothing else is kept."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _can_make_namespaces() -> bool:
    if os.geteuid() != 0 or find_program("ip") is None or shutil.which("nsenter") is None:
        return False
    name = f"fleet-{secrets.token_hex(4)}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except subprocess.CalledProcessError:  # a container that may not
        return False
    return True


def _ip(*words: str) -> None:
    subprocess.run([find_program("ip") or "ip", *words], check=True, capture_output=True)
