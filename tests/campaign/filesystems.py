"""Run the whole suite on each file system: ``python -m tests.campaign.filesystems [tmpfs ext4 ...] [-- ...]``.

Each is made in an image of its own, mounted where no other process sees it, and removed afterwards. Both layers of
``overlayfs`` are on the file system of the images. Words after ``--`` are handed to pytest.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from .mounts import (
    CannotMount,
    keep_mounts_to_ourselves,
    make_image,
    mount,
    mounted,
    refuse_unless_mountable,
    unmount,
)

ALL = ("tmpfs", "ext4", "xfs", "btrfs", "overlayfs")

_SIZE = 4 << 30
#: Characters of pytest's output that are shown of a failed run: its end has the failures.
_SHOWN = 20_000
_COUNTS = re.compile(r"(\d+) (passed|failed|skipped|xfailed|xpassed|errors?)\b")
_FAILURE = re.compile(r"^(?:FAILED|ERROR) .*", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """The tests that pytest counted on *filesystem*, the seconds that it took, and the lines of the failed
    tests."""

    filesystem: str
    seconds: float
    status: int
    counts: dict[str, int]
    failures: list[str]

    def violations(self) -> list[str]:
        failures = self.failures or ([f"pytest ended with {self.status}"] if self.status else [])
        return [f"{self.filesystem}: {each}" for each in failures]


@contextmanager
def on(filesystem: str, directory: Path) -> Iterator[Path]:
    """An empty *filesystem*, that all may write to as to ``/tmp``; what it consists of is in *directory*."""
    directory.chmod(0o755)
    place = directory / "mounted"
    place.mkdir()
    if filesystem == "tmpfs":
        mount("tmpfs", place, "tmpfs", f"size={_SIZE}")
    elif filesystem == "overlayfs":
        layers = {name: directory / name for name in ("lowerdir", "upperdir", "workdir")}
        for layer in layers.values():
            layer.mkdir()
        mount("overlay", place, "overlay", ",".join(f"{name}={layer}" for name, layer in layers.items()))
    else:
        image = directory / "image"
        make_image(image, filesystem, _SIZE)
        with mounted(filesystem, image, place):
            place.chmod(0o1777)
            yield place
        return
    try:
        place.chmod(0o1777)
        yield place
    finally:
        unmount(place)


def run(filesystem: str, directory: Path, arguments: list[str]) -> Outcome:
    """Run the suite with all its temporary files on *filesystem*."""
    with on(filesystem, directory) as place:
        began = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rfE",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            *arguments,
        ]
        environment = {**os.environ, "TMPDIR": str(place)}
        pytest = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            output, _ = pytest.communicate()
        except BaseException:
            pytest.send_signal(signal.SIGINT)  # it ends what it has started
            pytest.communicate()
            raise
        took = time.monotonic() - began
    last = output.rstrip().rpartition("\n")[2]
    counts = {what: int(count) for count, what in _COUNTS.findall(last)}
    failures = _FAILURE.findall(output)
    if pytest.returncode != 0:
        print(output[-_SHOWN:], flush=True)
    return Outcome(filesystem, round(took, 1), pytest.returncode, counts, failures)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.filesystems", description=__doc__)
    parser.add_argument("filesystems", nargs="*", metavar="filesystem", help=f"some of {', '.join(ALL)}; or all")
    parser.add_argument("--directory", help="where the images are made; default: that of temporary files")
    own, handed = _divided(sys.argv[1:])
    options = parser.parse_args(own)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores it, and so do tests
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is unmounted
    chosen = options.filesystems or list(ALL)
    if unknown := set(chosen) - set(ALL):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(ALL)}")
    try:
        refuse_unless_mountable(*("overlay" if name == "overlayfs" else name for name in chosen))
        keep_mounts_to_ourselves()
    except CannotMount as error:
        print("RESULT " + json.dumps({"skipped": str(error), "violations": []}))
        return 2
    outcomes = []
    for filesystem in chosen:
        with tempfile.TemporaryDirectory(prefix="dogpile-fs-", dir=options.directory) as directory:
            outcome = run(filesystem, Path(directory), handed)
        print(f"{filesystem}: {outcome.counts} in {outcome.seconds} s", flush=True)
        outcomes.append(outcome)
    violations = [violation for outcome in outcomes for violation in outcome.violations()]
    print("RESULT " + json.dumps({"suites": [asdict(o) for o in outcomes], "violations": violations}))
    return 1 if violations else 0


def _divided(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the words before ``--`` and those after it."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


if __name__ == "__main__":
    sys.exit(main())
