"""The first process of a guest: makes it a server or a client of NFS, then starts and kills workers when told to.

The guest's root is the root of this machine, read-only, so that no image is needed. Commands come by the console,
one JSON list in a line. The directory of records is the only one that the guest writes on this machine.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["MOUNT", "RECORDS", "SERVER", "record"]

MOUNT, RECORDS, SERVER = Path("/mnt/nfs"), Path("/mnt/records"), "10.77.0.1"
_FINIT_MODULE, _POWER_OFF = 313, 0x4321FEDC


def record(**what: Any) -> None:
    """Put one line on record, at once: a hostfs writes to this machine when it is told to sync."""
    line = json.dumps({"time": time.time(), "pid": os.getpid(), "host": os.uname().nodename, **what})
    fd = os.open(RECORDS / f"{os.uname().nodename}.{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(fd, f"{line}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _mount(kind: str, source: str, target: Path, options: str = "") -> None:
    target.mkdir(exist_ok=True)
    # -i: mount.nfs would ask programs that a guest does not have.
    _run("mount", "-i", "-t", kind, *(["-o", options] if options else []), source, str(target))


def _load(name: str) -> None:
    """Load a module of the kernel and those that it needs."""
    modules = Path("/usr/lib/uml/modules", os.uname().release)
    needed = dict(line.split(":") for line in (modules / "modules.dep").read_text().splitlines())
    (path,) = (path for path in needed if path.endswith(f"/{name}.ko"))
    libc = ctypes.CDLL(None)
    for each in [*reversed(needed[path].split()), path]:
        with open(modules / each, "rb") as file:
            libc.syscall(_FINIT_MODULE, file.fileno(), b"", 0)  # fails if it is there already


def _serve(lease: int) -> None:
    _load("nfsd")
    _mount("tmpfs", "none", Path("/var/lib/nfs"))
    for name in ("etab", "rmtab"):
        Path("/var/lib/nfs", name).touch()
    Path("/var/lib/nfs/v4recovery").mkdir()  # the clients that may have their locks back after a restart
    _mount("nfsd", "none", Path("/proc/fs/nfsd"))
    for name in ("nfsv4leasetime", "nfsv4gracetime"):
        Path("/proc/fs/nfsd", name).write_text(f"{lease}\n")
    _mount("ext4", "/dev/ubda", Path("/mnt/share"))
    _run("rpc.mountd", "--no-nfs-version", "3")
    _run("exportfs", "-o", "rw,no_root_squash,fsid=0,no_subtree_check", "10.77.0.0/24:/mnt/share")
    _start_server()


def _start_server() -> None:
    _run("rpc.nfsd", "--no-nfs-version", "3", "4")


def _main(role: str, address: str, options: str, lease: int) -> None:
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    os.environ["TMPDIR"] = "/run"  # the only one of this guest's own; portalocker wants one
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run"), ("tmpfs", "/mnt")):
        _mount(kind, "none", Path(target))
    _run("hostname", role)
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
    _run("ip", "link", "set", "eth0", "up")
    _mount("hostfs", "none", RECORDS, os.environ["RECORDS"])
    if role == "server":
        _serve(lease)
    else:
        _load("nfsv4")
        _mount("nfs4", f"{SERVER}:/", MOUNT, f"vers=4.2,addr={SERVER},clientaddr={address},{options}")
    record(what="up")
    _obey()


def _obey() -> None:
    running: dict[str, subprocess.Popen[bytes]] = {}

    def clock(number: str) -> None:
        record(what="time", clock=number)

    def step(seconds: float) -> None:
        time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)

    def start(name: str, arguments: dict[str, Any]) -> None:
        module = arguments.pop("module", "worker")
        words = [sys.executable, "-m", f"{__package__}.{module}", json.dumps(arguments)]
        running[name] = subprocess.Popen(words, stdin=subprocess.DEVNULL)

    def restart(seconds: float) -> None:
        _run("rpc.nfsd", "0")
        record(what="server stopped")
        time.sleep(seconds)
        _start_server()
        record(what="server started")

    def kill(name: str) -> None:
        record(what="signal", killed=name)
        running.pop(name).kill()

    def wait(name: str) -> None:
        record(what="ended", name=name, status=running.pop(name).wait())

    commands: dict[str, Callable[..., None]] = {
        "clock": clock,
        "step": step,
        "start": start,
        "restart": restart,
        "kill": kill,
        "wait": wait,
    }
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        commands[name](*arguments)


if __name__ == "__main__":
    try:
        _main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
    except BaseException:
        traceback.print_exc()
    finally:
        time.sleep(0.5)  # for the console
        ctypes.CDLL(None).reboot(ctypes.c_uint(_POWER_OFF))
