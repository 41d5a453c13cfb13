"""Names like ours in a directory of data, links that lead anywhere, and resources with any name.

What must hold: an error is a ``DogpileError``; nothing hangs; after a creation its version is read, and a rollback
brings back the version before, whichever other files are there; files under names that are not ours stay as they
are.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from dogpile_fs import DataDirectory, Datafile, DogpileError
from dogpile_fs._layout import temp_affixes
from dogpile_fs._sidecar.quick_check import is_fresh

from .hostile_place import EXPIRETIME, HostilePlace, no_hang, sure

__all__ = ["HostileNames"]

#: Texts that may stand in a name of ours where a number should.
_NUMBERS = [
    "",
    "0",
    "00",
    "01",
    "-1",
    "+1",
    "1.0",
    "1 ",
    " 1",
    "1\n",
    "\n",
    "1_0",
    "\u0661",
    "\u0669" * 3,
    "\uff11",
    "\u00b2",
    "\u0bf0",
    "\U0001d7d8",
    "\udcff",
    "9" * 30,
    "9" * 70,
    "8" * 120,
    "9" * 19,
    "0x1",
    "1e3",
    "nan",
    "1-0",
    "1-1",
    "01-0",
    "2-\u0661",
    "1-" + "9" * 40,
    "9" * 40 + "-0",
    "-",
    "1-",
    "-1-0",
    "kept",
    "deadbeef",
]
#: Lengths of a name in bytes.
_LONGEST = 255
_KINDS = ["new", "kept", "dir", "old", "tmp"]
_NAMES = [
    "report.txt",
    "-rf",
    " ",
    "a\nb",
    "caf\u00e9",
    "\u6771" * 20,
    "\udcff\udc80.db",
    "~",
    "*",
    "%s%n",
    "{}",
    "$HOME",
    "'\"",
    "..report",
    ".dogpile",
    ".dogpile-new-",
    "report.dogpile",
    "report.txt (deleted)",
    "x" * 120,
    "x" * 200,
    "x" * 239,
    "x" * 240,
    "x" * 248,
    "x" * 255,
    "x" * 256,
    "\u6771" * 80,
    "",
    ".",
    "..",
    "name/",
    "name/.",
    "missing/name",
    "nul\0nul",
    "\ud800",
    "x" * 5000,
]


class HostileNames(HostilePlace):
    """The names that are parsed."""

    def meet(self, seconds: float) -> tuple[dict[str, int], list[str]]:
        """Use resources among names like ours, links that lead anywhere, and with any name."""
        counts = {"directories_of_names": 0, "links": 0, "resources": 0}
        with no_hang():
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                self.attempt(self._keep_versions_among_such_names)
                self.attempt(self._follow_a_link)
                for _ in range(5):
                    self.attempt(self._coordinate_a_name)
                counts["directories_of_names"] += 1
                counts["links"] += 1
                counts["resources"] += 5
        return counts, self.violations

    def _keep_versions_among_such_names(self) -> None:
        place = self.fresh_place()
        foreign = self._foreign_tree()
        path = str(place / self.random.choice(_NAMES[:13]))
        kind = self.random.choice(["file", "directory"])
        for _ in range(self.random.randrange(1, 25)):
            self._put_name(path, foreign)
        versions = [f"version {number}" for number in range(1, 4)]
        for version in versions:
            _data(kind, path, version).refresh(force=True)
            sure(_contents(kind, path) == version, f"{_contents(kind, path)!r} instead of {version!r}")
        for version in (versions[1], versions[0]):
            _data(kind, path, "").rollback()
            sure(_contents(kind, path) == version, f"back to {_contents(kind, path)!r} instead of {version!r}")
        _data(kind, path, "again").refresh(force=True)
        sure(_contents(kind, path) == "again", "nothing was created")
        _sure_untouched(foreign)

    def _put_name(self, path: str, foreign: Path) -> None:
        begin, end = temp_affixes(self.random.choice(_KINDS), path)
        number = self.random.choice([*_NUMBERS, "9" * (_LONGEST - len(os.fsencode(begin + end)))])
        hidden = os.path.join(os.path.dirname(path), ".dogpile")
        with suppress(OSError):
            os.mkdir(hidden)
        name = os.path.join(self.random.choice([os.path.dirname(path), hidden]), begin + number + end)
        with suppress(OSError):
            match self.random.randrange(4):
                case 0:
                    with open(name, "x") as file:  # not through a link
                        file.write("foreign")
                case 1:
                    os.mkdir(name)
                    Path(name, "text").write_text("foreign")
                case 2:
                    os.symlink(foreign, name)
                case _:
                    os.symlink(self._target(foreign), name)

    def _follow_a_link(self) -> None:
        place = self.fresh_place()
        foreign = self._foreign_tree()
        path = str(place / "index")
        with suppress(OSError):
            os.symlink(self._target(foreign), path)
        kind = self.random.choice(["file", "directory"])
        try:
            data = _data(kind, path, "new")
            with suppress(DogpileError):
                data.status()
            data.refresh(force=True)
            sure(_contents(kind, path) == "new", "nothing was created")
        except DogpileError:
            pass
        except FileNotFoundError:  # the creator's own error: no file can be made where that link leads
            sure(os.path.realpath(path).startswith("/proc/"), f"the creator could make no file for {path!r}")
        if os.path.realpath(path) != str(foreign / "text"):  # a link may lead there
            _sure_untouched(foreign)

    def _target(self, foreign: Path) -> str:
        descriptor = os.open(foreign, os.O_RDONLY | os.O_DIRECTORY)  # closed with the next place
        self.open.append(descriptor)
        gone = str(foreign) + "-gone"
        os.mkdir(gone)
        self.open.append(os.open(gone, os.O_RDONLY | os.O_DIRECTORY))
        os.rmdir(gone)
        return self.random.choice(
            [
                ".",
                "index",
                "./index/../index",
                "nowhere",
                ".dogpile-dir-" + "0" * 16 + "-1-0.index",
                ".dogpile-dir-\u0661",
                "x" * 255,
                "x" * 300,
                "a/" * 1500,
                str(foreign),
                str(foreign / "text"),
                str(foreign / "text") + "/",
                str(foreign) + "/../" + foreign.name,
                f"/proc/self/fd/{self.open[0]}",
                f"/proc/self/fd/{self.open[-1]}",
                "/proc/self/fd/99999",
                "\udcff\n",
            ]
        )

    def _coordinate_a_name(self) -> None:
        place = self.fresh_place()
        name = self.random.choice(_NAMES)
        if self.random.random() < 0.3:
            name += self.random.choice(_NAMES)
        beside = self.random.random() < 0.5
        directory = None if beside else str(self.top / f"locks {self.number}")
        if directory is not None:
            os.mkdir(directory)
        path = f"{place}/{name}"
        kind = self.random.choice(["file", "directory"])
        if name.rstrip("/") == "":
            kind = "file"  # the place itself is a directory, and fresh
        try:
            data = _data(kind, path, "new", directory)
        except DogpileError:
            sure(not any(place.iterdir()), f"{list(place.iterdir())} for a name that was refused")
            return
        try:
            sure(bool(data.refresh()), "nothing was created")
        except DogpileError as error:
            sure(len(os.fsencode(name)) > 200 or "/" in name, f"{error!r} for {name!r}")
            return
        sure(_contents(kind, path) == "new", "nothing was created")
        sure(data.status().state == "fresh", f"it is {data.status().state}")
        if kind == "file":
            sure(is_fresh(path, EXPIRETIME, directory), "not fresh at a glance")

    def _foreign_tree(self) -> Path:
        foreign = self.top / "foreign"
        foreign.mkdir()
        (foreign / "text").write_text("theirs")
        return foreign


def _sure_untouched(foreign: Path) -> None:
    sure(
        os.listdir(foreign) == ["text"] and (foreign / "text").read_text() == "theirs",
        f"another program's directory was touched: {os.listdir(foreign)}, {(foreign / 'text').read_text()!r}",
    )


def _data(kind: str, path: str, text: str, directory: str | None = None) -> Datafile | DataDirectory:
    if kind == "file":

        def write(target: str) -> None:
            Path(target).write_text(text)

        return Datafile(path, EXPIRETIME, write, keep=3, durable=False, timeout=5, directory=directory)

    def make(target: str) -> None:
        os.mkdir(target)
        Path(target, "text").write_text(text)

    return DataDirectory(path, EXPIRETIME, make, keep=3, durable=False, timeout=5, directory=directory)


def _contents(kind: str, path: str) -> str:
    return (Path(path) if kind == "file" else Path(path, "text")).read_text()
