"""Print, as JSON, how much disk space each directory in a directory takes.

Called by cron, and by hand: ``python usage.py DIRECTORY``. It does not depend on its caller, nor on where its
output goes: any script that prints a report, or writes one to a given path, can take its place. If the directory
cannot be read, it says so and exits with 1.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TypedDict


class Directory(TypedDict):
    """The size of one directory, with all files in it."""

    name: str
    bytes: int
    files: int


class Report(TypedDict):
    """The report that the application reads. The directories come largest first."""

    root: str
    began: float  # epoch seconds
    took: float  # seconds
    bytes: int
    files: int
    directories: list[Directory]


def report_on(root: str) -> Report:
    """Measure each directory in *root*; files in *root* itself are listed as ``.``.

    A file with several names counts once, and links are not followed.

    :raises OSError: if *root* cannot be listed. Files below it that cannot be read, or vanish meanwhile, are left
        out.
    """
    began = time.time()
    known: set[tuple[int, int]] = set()
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    found = [_measured(name, os.path.join(root, name), known) for name in sorted(names)]
    found.append(_measured(".", root, known, deep=False))
    return Report(
        root=root,
        began=began,
        took=time.time() - began,
        bytes=sum(directory["bytes"] for directory in found),
        files=sum(directory["files"] for directory in found),
        directories=sorted(found, key=lambda directory: -directory["bytes"]),
    )


def _measured(name: str, top: str, known: set[tuple[int, int]], *, deep: bool = True) -> Directory:
    size = count = 0
    for folder, folders, files in os.walk(top):
        for file in files:
            try:
                st = os.lstat(os.path.join(folder, file))
            except OSError:
                continue
            if (st.st_dev, st.st_ino) not in known:
                known.add((st.st_dev, st.st_ino))
                size += st.st_blocks * 512  # st_blocks counts 512 bytes, whatever the file system's block size is
                count += 1
        if not deep:
            folders.clear()
    return Directory(name=name, bytes=size, files=count)


def main(arguments: list[str]) -> None:
    """Print the report on the one directory that is named."""
    if len(arguments) != 1:
        sys.exit("usage: usage.py DIRECTORY")
    try:
        report = report_on(os.path.abspath(arguments[0]))
    except OSError as error:
        sys.exit(f"usage.py: {error.filename}: {error.strerror}")
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main(sys.argv[1:])
