"""A network namespace: what a host is in a trial that runs as root.

A pair of veth devices joins it to the namespace of the servers. When one of them is set down, packets vanish, and
connections outlast that.
"""

from __future__ import annotations

import ctypes
import os
import random
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

__all__ = ["Namespace", "can_be_made"]

T = TypeVar("T")
#: Of setns(2).
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A namespace of its own. *inner*: the address of the host; *outer*: where it finds the servers."""

    def __init__(self) -> None:
        self.name = f"dogpile-{secrets.token_hex(4)}"
        self._device = f"dp{secrets.token_hex(4)}"  # 15 characters at most
        three, four = random.SystemRandom().randrange(1 << 16), random.SystemRandom().randrange(64) * 4
        subnet = f"10.{three >> 8}.{three & 255}"
        self.outer, self.inner = f"{subnet}.{four + 1}", f"{subnet}.{four + 2}"
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self._device, "type", "veth", "peer", "name", "eth0", "netns", self.name)
            _ip("addr", "add", f"{self.outer}/30", "dev", self._device)
            _ip("-n", self.name, "addr", "add", f"{self.inner}/30", "dev", "eth0")
            _ip("-n", self.name, "link", "set", "lo", "up")
            _ip("-n", self.name, "link", "set", "eth0", "up")
            self.mend()
        except BaseException:
            self.remove()
            raise

    @property
    def command(self) -> list[str]:
        """What a command line begins with, whose process runs inside."""
        return ["nsenter", f"--net={self._path}", "--"]

    def cut(self) -> None:
        """Have packets vanish."""
        _ip("link", "set", self._device, "down")

    def mend(self) -> None:
        _ip("link", "set", self._device, "up")

    def remove(self) -> None:
        """Remove it, and its devices with it."""
        _ip("netns", "del", self.name)

    def call(self, do: Callable[[], T]) -> T:
        """Return what *do* returns, in a thread inside; the threads that it starts are inside as well."""
        answers: list[T] = []

        def enter() -> None:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(fd, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns", str(self._path))
            finally:
                os.close(fd)
            answers.append(do())

        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        thread.join()
        return answers[0]

    @property
    def _path(self) -> Path:
        return Path("/run/netns", self.name)


@cache
def can_be_made() -> bool:
    """Return whether this user may make one."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("nsenter") is None:
        return False
    try:
        Namespace().remove()
    except subprocess.CalledProcessError:
        return False
    return True


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
