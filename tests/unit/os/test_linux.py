"""The system calls by ctypes: what they return, and that nothing imports ctypes before one is made."""

from __future__ import annotations

import ctypes
import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dogpile_fs
from dogpile_fs._os import linux


class LibcWithout:
    """The C library, without a function of this *name*."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Any:
        if name == self.name:
            raise AttributeError(name)
        return getattr(ctypes.CDLL(None, use_errno=True), name)


def test_only_one_module_imports_ctypes() -> None:
    package = Path(dogpile_fs.__file__).parent
    importers = [file.name for file in package.rglob("*.py") if "import ctypes" in file.read_text()]
    assert importers == ["linux.py"]


@pytest.mark.parametrize("name", ["Datafile", "DataDirectory", "SyncReaderDogpile", "atomic_write"])
def test_importing_a_public_name_does_not_import_ctypes(name: str) -> None:
    script = f"import sys; from dogpile_fs import {name}; assert 'ctypes' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("missing", ["nothing", "renameat2"])
def test_an_exchange_works_with_and_without_a_function_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(linux, "_libc", lambda: LibcWithout(missing))
    if missing == "renameat2" and linux._renameat2_number() is None:
        pytest.skip("the number of the call is not known for this machine")
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("one")
    other.write_text("other")
    linux.exchange(str(one), str(other))
    assert (one.read_text(), other.read_text()) == ("other", "one")
    with pytest.raises(FileNotFoundError):
        linux.exchange(str(one), str(tmp_path / "missing"))


def test_a_call_that_the_c_library_does_not_have_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "_libc", object)
    for call in (
        lambda: linux.sync_file_range(0, 0),
        linux.inotify_init,
        lambda: linux.exchange("/one", "/other"),
    ):
        with pytest.raises(OSError, match="not implemented") as caught:
            call()
        assert caught.value.errno == errno.ENOSYS


def test_a_process_that_may_not_read_ctypes_waits_swaps_and_syncs_without_it(tmp_path: Path) -> None:
    """A worker that gave up root's privileges, whose Python lies in root's home, cannot import it any more."""
    script = """
import sys, threading
from dogpile_fs import Datafile
from dogpile_fs._locks import mutex, readwrite
from dogpile_fs._os import linux
sys.modules["ctypes"] = None
refused = []
asked = threading.Event()
def inotify_init(original=linux.inotify_init):
    asked.set()
    try:
        return original()
    except OSError as error:
        refused.append(error)
        raise
linux.inotify_init = inotify_init
waiter = threading.Thread(target=Datafile("report", 60).load, args=(lambda file: file.read(),))
waiter.start()
asked.wait()
def create(target):
    with open(target, "w") as file:
        file.write("whole")
Datafile("report", 60, create, durable=True).refresh()
waiter.join()
print(refused[0])
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60
    )
    assert "Function not implemented: import of ctypes" in ended.stdout
    assert (tmp_path / "report").read_text() == "whole"


def test_a_failed_call_raises_its_errno() -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        linux.sync_file_range(-1, 0)
    assert caught.value.errno == errno.EBADF
