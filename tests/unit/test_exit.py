"""The end of a process whose objects outlive the modules: it makes no noise, and nothing stays locked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dogpile_fs import FileMutex, ReadWriteFileLock, SyncReaderDogpile

_KEPT = """
import builtins, os, pathlib, threading, time
from dogpile_fs import Datafile, Datafiles, Dogpile, FileMutex, ReadWriteFileLock, SyncReaderDogpile

def write(target):
    open(target, "w").close()

report = Datafile("report", 3600, write, readers=True, durable=False)
report.load(lambda file: file.read())
report.on_new_version(lambda report: None)
keys = Datafiles("key-{key}", 3600, lambda key, target: write(target), durable=False)
keys["a"].load(lambda file: file.read())
dogpile = SyncReaderDogpile(3600, "dogpile", init=True)
reading = dogpile.acquire()
reading.__enter__()
nested = dogpile.acquire()
nested.__enter__()
mutex = FileMutex("mutex")
mutex.acquire()
lock = ReadWriteFileLock("lock")
lock.acquire_write_lock()
of_threads = Dogpile(3600)
of_threads.refresh(lambda: None)
for wait in (FileMutex("mutex").acquire, ReadWriteFileLock("lock").acquire_read_lock):
    threading.Thread(target=wait, daemon=True).start()
# Until both wait in the kernel: a free-threaded interpreter may hang at its end if a daemon thread is in the
# middle of sys.modules.get().
def has_waiter(path):
    locks, inode = pathlib.Path("/proc/locks").read_text(), os.stat(path).st_ino
    return any("->" in line and f":{inode} " in line for line in locks.splitlines())

while not (has_waiter("mutex") and has_waiter("lock")):
    time.sleep(0.001)
# Objects that builtins keep outlive the modules in every Python; in free-threaded ones those of the program do.
builtins.kept = [report, keys, dogpile, reading, nested, mutex, lock, of_threads]
"""


def test_objects_that_outlive_the_modules_make_no_noise(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", _KEPT], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert FileMutex(tmp_path / "mutex").acquire(wait=False)
    assert ReadWriteFileLock(tmp_path / "lock").acquire_write_lock(wait=False)
    with SyncReaderDogpile(3600, tmp_path / "dogpile").acquire_write_lock(timeout=0):
        pass
