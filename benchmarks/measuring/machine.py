"""The machine of a measurement, and its other load meanwhile. No names of hosts or paths."""

from __future__ import annotations

import os
import platform
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["Meanwhile", "described", "others", "watched"]

PACKAGES = (
    "dogpile_fs",
    "dogpile.cache",
    "filelock",
    "portalocker",
    "fasteners",
    "diskcache",
    "cachier",
    "joblib",
    "Django",
    "pyperf",
    "matplotlib",
    "gunicorn",
    "starlette",
    "uvicorn",
)


def described(scratch: Path) -> dict[str, Any]:
    """Return machine, kernel, Python and versions; *scratch* is the directory of the scenarios' files."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": _file_system(scratch),
        "Python": f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}",
        "SQLite": _sqlite(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    virtual = " (virtual machine)" if _is_virtual() else ""
    return (found[1] if found else platform.machine()) + virtual


def _is_virtual() -> bool:
    try:
        return " hypervisor" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _file_system(place: Path) -> str:
    """Return its type, as the mount table has it: the last mount that *place* is in."""
    try:
        lines = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return "unknown"
    found = "unknown"
    longest = -1
    for line in lines:
        _, mounted_at, kind, *_ = line.split(" ")
        if place.resolve().is_relative_to(mounted_at) and len(mounted_at) >= longest:
            found, longest = kind, len(mounted_at)
    return found


def _sqlite() -> str:
    import sqlite3

    return sqlite3.sqlite_version


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


@dataclass
class Meanwhile:
    """The load of the processors during a measurement, in percent of all of them."""

    #: The percentages of other programs, and of what the host of a virtual machine gave to other machines.
    others: float = 0.0
    stolen: float = 0.0


@contextmanager
def watched() -> Iterator[Meanwhile]:
    """Yield an object that has, after the block, the other load during the block."""
    seen = Meanwhile()
    before, own_before = _ticks(), _own()
    yield seen
    after, own_after = _ticks(), _own()
    seen.others, seen.stolen = others(before, after, own_after - own_before)


def others(before: list[int], after: list[int], own: float) -> tuple[float, float]:
    """Return the percentages of others and stolen, between two readings of the first line of /proc/stat.

    *own*: ticks of ours among them. The fields are those of proc_pid_stat(5): user, nice, system, idle, iowait,
    irq, softirq, steal.

    >>> others([0] * 8, [50, 0, 30, 100, 10, 0, 0, 10], own=60)
    (10.0, 5.0)
    """
    user, nice, system, idle, iowait, irq, softirq, steal = (b - a for a, b in zip(before, after, strict=True))
    busy = user + nice + system + irq + softirq
    total = busy + idle + iowait + steal
    if total <= 0:
        return 0.0, 0.0
    return max(0.0, 100 * (busy - own) / total), 100 * steal / total


def _ticks() -> list[int]:
    try:
        with open("/proc/stat") as file:
            return [int(word) for word in file.readline().split()[1:9]]
    except OSError:
        return [0] * 8


def _own() -> float:
    """Return the ticks of this process and of its children that have ended."""
    used = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        used += usage.ru_utime + usage.ru_stime
    return used * os.sysconf("SC_CLK_TCK")
