"""File systems that are mounted for a while: visible to no other process, and gone with the one that mounted them.

Promised: in a mount namespace of its own (:func:`keep_mounts_to_ourselves`), the kernel unmounts everything and
detaches the loop devices when the last process in it has ended, however that came. A process that ends normally
has unmounted before. It needs root, and a kernel that knows the file system; :class:`CannotMount` says what is
missing.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.support.processes import wait_for

__all__ = [
    "CannotMount",
    "keep_mounts_to_ourselves",
    "make_image",
    "mount",
    "mounted",
    "refuse_unless_mountable",
    "unmount",
]

_NEW_NAMESPACE = 0x0002_0000  # CLONE_NEWNS
_SYS_ADMIN = 21  # CAP_SYS_ADMIN
_RECURSIVE, _PRIVATE, _DETACH = 0x4000, 1 << 18, 2

#: The command that makes each file system on an image: quiet, and over any contents.
_MAKE: dict[str, Sequence[str]] = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}


class CannotMount(Exception):
    """This system has no such file system or device, or does not permit it."""


def keep_mounts_to_ourselves() -> None:
    """Give this process, and those that it starts from now on, a mount namespace of their own.

    :raises CannotMount: if that is not permitted.
    """
    if _libc().unshare(_NEW_NAMESPACE) != 0:
        raise CannotMount(f"no mount namespace of our own: {os.strerror(ctypes.get_errno())}")
    mount("none", "/", "", flags=_RECURSIVE | _PRIVATE)


def refuse_unless_mountable(*kinds: str) -> None:
    """:raises CannotMount: if one of *kinds* cannot be made and mounted on a loop device here."""
    capabilities = re.search(r"^CapEff:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if capabilities is None or not int(capabilities[1], 16) >> _SYS_ADMIN & 1:
        raise CannotMount("mounting needs CAP_SYS_ADMIN")
    known = Path("/proc/filesystems").read_text().split()
    for kind in kinds:
        if kind not in known:
            raise CannotMount(f"this kernel does not know {kind}")
        if kind in _MAKE and shutil.which(_MAKE[kind][0]) is None:
            raise CannotMount(f"there is no {_MAKE[kind][0]}")
    if any(kind in _MAKE for kind in kinds) and not os.path.exists("/dev/loop-control"):
        raise CannotMount("there are no loop devices")
    if "fuse" in kinds and not os.path.exists("/dev/fuse"):
        raise CannotMount("there is no /dev/fuse")


def make_image(path: Path, kind: str, size: int) -> None:
    """Make an empty file system of *kind* in a sparse file of *size* bytes."""
    with open(path, "wb") as file:
        file.truncate(size)
    _run(*_MAKE[kind], str(path))


def mount(source: str, target: str | Path, kind: str, options: str = "", flags: int = 0) -> None:
    """Call mount(2). :raises CannotMount: with the system's reason."""
    if _libc().mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode()) != 0:
        raise CannotMount(f"{kind} {source} on {target}: {os.strerror(ctypes.get_errno())}")


def unmount(target: str | Path) -> None:
    """Unmount *target*, once no process uses it any more: a loop device closes its file a moment late.

    :raises AssertionError: if a process keeps using it. It is out of sight then all the same.
    """
    try:
        wait_for(lambda: _libc().umount2(os.fsencode(target), 0) == 0, f"{target} to be left by all", patience=10)
    except AssertionError:
        _libc().umount2(os.fsencode(target), _DETACH)
        raise


@contextmanager
def mounted(kind: str, source: Path, target: Path, options: str = "") -> Iterator[Path]:
    """Mount the image *source* on a loop device, which goes when it is unmounted.

    :raises CannotMount: if it cannot be mounted, with the reason of mount(8).
    """
    target.mkdir(exist_ok=True)
    _run("mount", "-t", kind, "-o", f"loop,{options}".rstrip(","), str(source), str(target))
    try:
        yield target
    finally:
        unmount(target)


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode != 0:
        raise CannotMount(f"{' '.join(command)}: {ended.stderr.strip() or ended.stdout.strip()}")


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
