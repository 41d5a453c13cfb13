"""Other users of the machine: what a test has done in their name, and what of ours they must not have touched."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import ended_well, in_child

__all__ = ["NEIGHBOUR", "OTHER", "ROOT", "Outside", "acting_as", "as_user", "outcome"]

#: Users without a name, as most services in containers are. Each is its group's only member.
ROOT, NEIGHBOUR, OTHER = 0, 10001, 10002


@contextmanager
def acting_as(uid: int, mask: int = 0o022) -> Iterator[None]:
    """A block in which this process is the user *uid*, with a umask of *mask*."""
    before = os.umask(mask)
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(-1, uid, -1)
    os.setresuid(-1, uid, -1)
    try:
        yield
    finally:
        os.setresuid(-1, 0, -1)
        os.setresgid(-1, 0, -1)
        os.setgroups(groups)
        os.umask(before)


def as_user(uid: int, action: Callable[[], object], mask: int = 0o022) -> None:
    """Run *action* in a process of the user *uid*; what it raises, or a hang, fails the test."""

    def in_their_name() -> None:
        with acting_as(uid, mask):
            action()

    assert ended_well(in_child(in_their_name)), f"user {uid} failed: see what the process printed"


def outcome(uid: int, action: Callable[[], object], mask: int = 0o022) -> str:
    """What *action* returns or raises in a process of the user *uid*, as text; a hang fails the test."""
    read, write = os.pipe()

    def in_their_name() -> None:
        try:
            with acting_as(uid, mask):
                text = repr(action())
        except Exception as error:
            text = "".join(traceback.format_exception_only(error))
        os.write(write, text.encode(errors="backslashreplace")[:4000])

    try:
        assert ended_well(in_child(in_their_name))
        os.close(write)
        write = -1
        with open(read, closefd=False) as pipe:
            return pipe.read()
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)


class Outside:
    """A directory of root with files that no process may change."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o755)
        self.directory = directory
        self.canary = directory / "canary"
        self.canary.write_text("sings")
        self.canary.chmod(0o600)
        self.within = directory / "within"
        self.within.mkdir(mode=0o755)
        self._before = self._all()

    def _all(self) -> dict[str, tuple[object, ...]]:
        found: dict[str, tuple[object, ...]] = {}
        for path in (self.directory, *sorted(self.directory.rglob("*"))):
            st = path.lstat()
            contents = path.read_text() if path.is_file() else sorted(os.listdir(path))
            found[str(path)] = (oct(st.st_mode), st.st_uid, st.st_gid, st.st_ino, st.st_mtime_ns, contents)
        return found

    def assert_untouched(self) -> None:
        before, after = self._before, self._all()
        changed = {path: (before.get(path), after.get(path)) for path in {**before, **after}}
        changed = {path: pair for path, pair in changed.items() if pair[0] != pair[1]}
        assert not changed, f"what was before, and is now: {changed}"
