"""Places that a test may make narrow: short of room, of descriptors, of permissions; and what is left in them."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dogpile_fs import DogpileError

from .processes import ended_well, in_child

__all__ = [
    "descriptors",
    "files_no_longer_than",
    "left_beside",
    "survives_few_descriptors",
    "umask",
    "writing",
]


def left_beside(path: str) -> list[str]:
    """What is in the directory of *path* under a name that only dogpile_fs gives, but for what it keeps there."""
    names = os.listdir(os.path.dirname(path))
    return sorted(name for name in names if name.startswith((".dogpile-tmp-", ".dogpile-new-")))


def writing(text: str) -> Callable[[str], None]:
    """A creator that writes *text*."""

    def creator(target: str) -> None:
        Path(target).write_text(text)

    return creator


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """This process may write no file beyond *size* bytes: how a full disk looks to it, without one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def descriptors() -> dict[str, str]:
    """The open descriptors of this process, but for the one that lists them."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return {fd: name for fd, name in found.items() if name != f"/proc/{os.getpid()}/fd"}


@contextmanager
def _only(free: int) -> Iterator[None]:
    """At most *free* descriptors can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, descriptors())) + 32, limits[1]))
    filling: list[int] = []
    try:
        with suppress(OSError):
            while True:
                filling.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(free):
            os.close(filling.pop())
        yield
    finally:
        for fd in filling:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def survives_few_descriptors(action: Callable[[], object], most: int = 16) -> None:
    """*action* succeeds or raises a DogpileError, and leaks nothing, with 0 to *most* descriptors left.

    It is called before, so that what has to be imported, or is kept open, is; and in a child of its own.
    """

    def try_all() -> None:
        for _ in range(3):
            action()
        before = descriptors()
        outcomes = []
        for free in range(most + 1):
            with _only(free):
                try:
                    action()
                except DogpileError:
                    outcomes.append(False)
                else:
                    outcomes.append(True)
            # What is kept open may have been closed.
            more = {fd: name for fd, name in descriptors().items() if before.get(fd) != name}
            assert len(descriptors()) <= len(before), f"with {free} descriptors left, {more} were leaked"
        assert outcomes[0] is False, "it needs no descriptor: this tests nothing"
        assert outcomes[-1] is True, f"{most} descriptors are not enough"

    assert ended_well(in_child(try_all))
