"""Make a process short of disk space, descriptors or permissions, and list the files and descriptors that are
left."""

from __future__ import annotations

import gc
import os
import re
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dogpile_fs import DogpileError

from .processes import PATIENCE, ended_well, in_child

__all__ = [
    "descriptors",
    "files_in",
    "files_no_longer_than",
    "hidden",
    "hidden_names",
    "left_beside",
    "ours_in",
    "survives_few_descriptors",
    "umask",
    "writing",
]


def hidden(path: str | Path) -> str:
    """Return the path of the hidden sub-directory of this process's user beside *path*."""
    directory = os.path.dirname(path)
    found = os.stat(directory)
    is_shared = found.st_mode & stat.S_ISVTX or found.st_uid != os.geteuid()
    return os.path.join(directory, f".dogpile-{os.geteuid()}" if is_shared else ".dogpile")


def hidden_names(path: str | Path) -> list[str]:
    """Return the names in the hidden sub-directory beside *path*; none if there is no such directory."""
    return sorted(os.listdir(hidden(path))) if os.path.isdir(hidden(path)) else []


def files_in(directory: str | Path) -> list[str]:
    """Return the names in *directory* and in its hidden sub-directories, without the names of the latter."""
    found = []
    for name in os.listdir(directory):
        if re.fullmatch(r"\.dogpile(-[0-9]+)?", name) and os.path.isdir(os.path.join(directory, name)):
            found += os.listdir(os.path.join(directory, name))
        else:
            found.append(name)
    return sorted(found)


def ours_in(directory: str | Path) -> list[str]:
    """Return those of :func:`files_in` that begin with ``.dogpile-``."""
    return [name for name in files_in(directory) if name.startswith(".dogpile-")]


def left_beside(path: str) -> list[str]:
    """Return the names of temporary files and unfinished versions of resources in the directory of *path*."""
    return [name for name in ours_in(os.path.dirname(path)) if name.startswith((".dogpile-tmp-", ".dogpile-new-"))]


def writing(text: str) -> Callable[[str], None]:
    """Return a creator that writes *text*."""

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
    """Let writes of this process fail beyond *size* bytes of a file, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def descriptors() -> dict[str, str]:
    """Return the open descriptors of this process with their files, but for the one that lists them."""
    gc.collect()  # else those of earlier tests may be closed at any moment
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return {fd: name for fd, name in found.items() if name != f"/proc/{os.getpid()}/fd"}


@contextmanager
def _only(free: int) -> Iterator[None]:
    """Let this process open at most *free* more descriptors."""
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
    """Check that *action* succeeds or raises a DogpileError, and leaks nothing, with 0 to *most* descriptors left.

    It runs in a child of its own, and there a few times before: modules are imported then, and kept files are
    open.
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
            # A file that is kept open may have been closed, and its number taken.
            more = {fd: name for fd, name in descriptors().items() if before.get(fd) != name}
            assert len(descriptors()) <= len(before), f"with {free} descriptors left, {more} were leaked"
        assert outcomes[0] is False, "it needs no descriptor: this tests nothing"
        assert outcomes[-1] is True, f"{most} descriptors are not enough"

    assert ended_well(in_child(try_all), 5 * PATIENCE)  # some of the tries wait for a second
