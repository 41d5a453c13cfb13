"""The system calls of one creation: how many, and which of them wait for the disk."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dogpile_fs._os.filesystem import is_on_disk
from tests.support.places import hidden

#: Calls of a creation, and calls for each part of the path, which is resolved before the creator runs and before
#: the swap. Each is there for a promise; a call that says the same again is one too many.
MOST, FOR_EACH_PART = 140, 2
#: Calls of the C library for memory. One library also says FD_CLOEXEC twice.
_OF_THE_LIBRARY = ("brk(", "madvise(", "mmap(", "mremap(", "munmap(")
#: Calls more where the file system is on no disk of this host: it might be NFS.
WITHOUT_A_DISK = 4

SCRIPT = """
import os, sys
from dogpile_fs import Datafile

def creator(target):
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))

datafile = Datafile(sys.argv[1], 3600, creator, durable=sys.argv[2] == "durable")
for _ in range(3):
    datafile.refresh(force=True)
os.access("/begin", os.F_OK)
datafile.refresh(force=True)
os.access("/end", os.F_OK)
"""


@pytest.mark.parametrize("kind", ["durable", "not durable"])
def test_a_creation_makes_no_more_calls_than_it_needs(kind: str, path: str) -> None:
    if not shutil.which("strace"):
        pytest.skip("strace(1) is not installed")
    log = path + ".trace"
    command = ["strace", "-f", "-y", "-s", "300", "-o", log, sys.executable, "-c", SCRIPT, path, kind]
    subprocess.run(command, check=True)
    lines = Path(log).read_text().splitlines()
    begin, end = (next(at for at, line in enumerate(lines) if f'"/{name}"' in line) for name in ("begin", "end"))
    calls = [line.split(maxsplit=1)[1] for line in lines[begin + 1 : end]]
    calls = [call for call in calls if not call.startswith(_OF_THE_LIBRARY) and "F_SETFD" not in call]
    names = [call.split("(")[0] for call in calls]
    most = MOST + FOR_EACH_PART * path.count(os.sep) + (0 if is_on_disk(os.stat(path)) else WITHOUT_A_DISK)
    assert len(calls) <= most, "\n".join(calls)
    synced = [re.findall(r"<(.*?)>", call)[0] for call in calls if call.startswith(("fsync", "fdatasync"))]
    if kind == "durable":
        assert os.path.dirname(synced[0]) == hidden(path)
        assert synced[1:] == [os.path.dirname(path)]
        order = [name for name in names if name in ("fsync", "rename")]
        assert order == ["fsync", "rename", "fsync"]
    else:
        assert synced == []
    assert names.count("mkdir") == names.count("rmdir") == 1
    assert "getdents64" not in names
