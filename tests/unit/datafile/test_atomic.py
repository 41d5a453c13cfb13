"""atomic_write: the file is whole or not there, whatever is in the way and whichever writer is killed or forks."""

from __future__ import annotations

import errno
import fcntl
import gc
import io
import multiprocessing
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import DatafileError, DatafileExists, DogpileError, PathError, atomic_write
from dogpile_fs._datafile import atomic
from dogpile_fs._layout import temp_affixes
from tests.hostile.test_broken_environments import (
    Unprivileged,
    foreign,
    may_mount,
    mounted,
    promptly,
    tells,
    unprivileged,
)
from tests.support.places import (
    descriptors,
    files_in,
    files_no_longer_than,
    hidden,
    left_beside,
    survives_few_descriptors,
    umask,
)
from tests.support.processes import Processes, Record, ended_well, in_child, wait_for

__all__ = ["foreign", "may_mount", "mounted", "unprivileged"]  # fixtures

#: Longer than any buffer.
MUCH = b"new contents " * 100_000


def put(path: str, data: bytes = b"old", mode: int | None = None) -> str:
    Path(path).write_bytes(data)
    if mode is not None:
        os.chmod(path, mode)
    return path


def contents(path: str) -> bytes:
    return Path(path).read_bytes()


def bits(path: str) -> str:
    return f"{stat.S_IMODE(os.stat(path).st_mode):04o}"


def write(path: str, data: bytes = b"new", **options: Any) -> None:
    with atomic_write(path, **options) as file:
        file.write(data)


# What it is for.


@pytest.mark.parametrize("durable", [True, False])
def test_until_the_block_ends_there_is_the_old_and_then_the_new(path: str, durable: bool) -> None:
    for before, after in ((None, b"first"), (b"first", MUCH), (MUCH, b"")):
        with atomic_write(path, durable=durable) as file:
            file.write(after)
            file.flush()
            assert (contents(path) if os.path.exists(path) else None) == before
        assert contents(path) == after
    assert files_in(os.path.dirname(path)) == [os.path.basename(path)]


def test_a_reader_that_has_the_old_file_open_keeps_it(path: str) -> None:
    put(path)
    with open(path, "rb") as old:
        write(path)
        assert (old.read(), contents(path)) == (b"old", b"new")


def test_the_file_in_the_block_is_in_the_hidden_directory_and_ends_like_the_path(tmp_path: Path) -> None:
    path = tmp_path / "report.csv.gz"
    with atomic_write(path) as file:
        directory, name = os.path.split(file.name)
        assert directory == str(tmp_path / ".dogpile")
        assert name.startswith(".")
        assert name.endswith(".csv.gz")
        assert [name] == files_in(tmp_path)
        assert file.writable()
        assert not os.get_inheritable(file.fileno())


@pytest.mark.parametrize("mode", ["w", "wt", "w+", "wt+", "w+t"])
def test_text_is_written_in_the_encoding_and_with_the_newlines_asked_for(path: str, mode: str) -> None:
    with atomic_write(path, mode, encoding="utf-16-le", newline="\r\n") as file:
        file.write("ä\n")
        assert file.mode == mode
        assert file.readable() == ("+" in mode)
    assert contents(path) == "ä\r\n".encode("utf-16-le")


@pytest.mark.parametrize("mode", ["wb+", "w+b", "w+"])
def test_with_a_plus_what_was_written_can_be_read_and_mended(path: str, mode: str) -> None:
    data: Any = "first line\n" if "b" not in mode else b"first line\n"
    with atomic_write(path, mode) as file:
        file.write(data + data)
        file.seek(0)
        assert file.read() == data + data
        file.seek(len(data))
        file.truncate()
    assert contents(path) == b"first line\n"


@pytest.mark.parametrize("mode", ["r", "rb", "a", "ab", "x", "xb", "r+", "a+b", "", "wbt", "wU", "ww"])
def test_a_mode_that_does_not_write_anew_is_refused_at_once(path: str, mode: str) -> None:
    with pytest.raises(ValueError, match="mode must be one that writes anew"):
        atomic_write(path, mode)


@pytest.mark.parametrize("text", [{"encoding": "utf-8"}, {"newline": ""}, {"encoding": "a", "newline": "b"}])
@pytest.mark.parametrize("mode", ["wb", "wb+", "w+b"])
def test_encoding_and_newline_are_refused_for_bytes(path: str, mode: str, text: Any) -> None:
    with pytest.raises(ValueError, match="for text"):
        atomic_write(path, mode, **text)


@pytest.mark.parametrize(
    ("text", "error"), [({"encoding": "no such"}, LookupError), ({"newline": "x"}, ValueError)]
)
def test_an_encoding_or_newline_that_open_does_not_know_leaves_all_as_it_was(
    path: str, text: Any, error: type[Exception]
) -> None:
    put(path)
    before = descriptors()
    with pytest.raises(error), atomic_write(path, "w", **text):
        pytest.fail("entered")
    assert (contents(path), left_beside(path), descriptors()) == (b"old", [], before)


def test_the_caller_may_close_the_file(path: str) -> None:
    with atomic_write(path) as file:
        file.write(MUCH)
        file.close()
        assert not os.path.exists(path)
    assert contents(path) == MUCH
    assert left_beside(path) == []


def test_a_file_that_was_closed_is_in_use_until_the_block_ends(path: str) -> None:
    with atomic_write(path) as file:
        file.write(b"slow")
        file.close()
        write(path, b"quick")
        assert contents(path) == b"quick"
    assert contents(path) == b"slow"


def test_the_current_directory_may_change_inside_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    with atomic_write("file") as file:
        monkeypatch.chdir(there)
        file.write(b"new")
    assert (files_in(here), files_in(there)) == (["file"], [])


def test_no_descriptor_is_left_open(path: str) -> None:
    before = descriptors()
    for ends in (lambda: None, lambda: 1 / 0):
        with suppress(ZeroDivisionError), atomic_write(path):
            ends()
    with suppress(DatafileExists):
        write(path, overwrite=False)
    assert descriptors() == before


# An end that is not a good one.


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration])
@pytest.mark.parametrize("mode", ["w", "wb"])
@pytest.mark.parametrize("old", [True, False])
def test_if_the_block_raises_nothing_has_changed_and_nothing_is_left(
    path: str, error: type[BaseException], mode: str, old: bool
) -> None:
    if old:
        put(path)
    before = os.stat(path) if old else None
    mine = error("mine")
    files = []

    def write_and_raise() -> None:
        with atomic_write(path, mode) as file:
            files.append(file)
            file.write(MUCH if mode == "wb" else "much")
            raise mine

    with pytest.raises(error) as caught:
        write_and_raise()
    assert caught.value is mine
    assert files[0].closed
    assert (os.stat(path) if old else None) == before
    assert files_in(os.path.dirname(path)) == (["resource"] if old else [])


def test_a_generator_that_is_abandoned_in_the_block_changes_nothing(path: str) -> None:
    put(path)

    def generate() -> Any:
        with atomic_write(path) as file:
            file.write(b"new")
            yield

    generator = generate()
    next(generator)
    assert left_beside(path) != []
    del generator
    gc.collect()
    assert (contents(path), left_beside(path)) == (b"old", [])


def test_an_error_reaches_a_caller_that_has_detached_the_file(path: str) -> None:
    def detach_and_raise() -> None:
        with atomic_write(path, "w") as file:
            assert isinstance(file, io.TextIOWrapper)
            file.detach().close()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        detach_and_raise()
    assert files_in(os.path.dirname(path)) == []


def test_a_signal_that_raises_inside_the_block_changes_nothing(path: str) -> None:
    put(path)

    def write_and_interrupt() -> None:
        with atomic_write(path) as file:
            file.write(MUCH)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    def interrupted() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            write_and_interrupt()

    assert ended_well(in_child(interrupted))
    assert (contents(path), left_beside(path)) == (b"old", [])


# Permissions and owner.

MODES = [0o644, 0o600, 0o755, 0o400, 0o444, 0o000, 0o666, 0o1644, 0o4755, 0o2755]


@pytest.mark.parametrize(
    ("mask", "expected"), [(0o022, "0644"), (0o077, "0600"), (0o000, "0666"), (0o777, "0000")]
)
@pytest.mark.parametrize("preserve", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_new_file_has_what_the_umask_leaves(
    path: str, mask: int, expected: str, preserve: bool, overwrite: bool
) -> None:
    with umask(mask):
        write(path, preserve=preserve, overwrite=overwrite)
    assert bits(path) == expected


@pytest.mark.parametrize("mode", MODES, ids="{:04o}".format)
def test_the_permission_bits_of_a_file_that_is_replaced_are_kept(path: str, mode: int) -> None:
    put(path, mode=mode)
    with umask(0o077):
        write(path, MUCH)
    assert bits(path) == f"{mode:04o}"
    os.chmod(path, 0o600)
    assert contents(path) == MUCH


def test_without_preserve_the_umask_decides_anew(path: str) -> None:
    put(path, mode=0o751)
    with umask(0o027):
        write(path, preserve=False)
    assert bits(path) == "0640"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_for_no_moment_is_the_new_one_more_open_than_the_old(path: str, mode: int) -> None:
    put(path, mode=mode)
    with umask(0), atomic_write(path) as file:
        assert bits(file.name) == f"{mode:04o}"


def test_not_even_when_it_is_made(path: str) -> None:
    put(path, mode=0o600)
    trace = traced(WRITE, path, "?open,openat")
    made = [line for line in trace if ".dogpile-tmp-" in line and "O_CREAT" in line]
    assert made
    assert [line for line in made if ", 0600)" not in line] == []


def test_the_owner_and_group_of_a_file_that_is_replaced_are_kept_where_that_is_allowed(
    foreign: Unprivileged,
) -> None:
    os.chown(put(foreign.path), 1234, 5678)
    os.chmod(foreign.path, 0o4750)
    write(foreign.path)
    st = os.stat(foreign.path)
    assert (st.st_uid, st.st_gid, bits(foreign.path)) == (1234, 5678, "4750")
    write(foreign.path, preserve=False)
    assert os.stat(foreign.path).st_uid == os.geteuid()


def test_a_user_that_may_not_give_files_away_keeps_the_bits_but_not_those_that_lend_rights_or_were_another_groups(
    foreign: Unprivileged,
) -> None:
    foreign.writable()
    os.chown(put(foreign.path), 1234, 5678)
    os.chmod(foreign.path, 0o6754)
    foreign.run(lambda: write(foreign.path))
    st = os.stat(foreign.path)
    assert (st.st_uid, bits(foreign.path), contents(foreign.path)) == (65534, "0744", b"new")


@pytest.mark.parametrize("mode", MODES, ids="{:04o}".format)
def test_a_user_that_is_not_root_keeps_all_bits_of_its_own_file(unprivileged: Unprivileged, mode: int) -> None:
    # write(2): "if the set-user-ID bit is set, writing by who has no CAP_FSETID clears it".
    unprivileged.writable()

    def replace() -> None:
        put(unprivileged.path, mode=mode)
        write(unprivileged.path, MUCH)
        assert bits(unprivileged.path) == f"{mode:04o}"

    unprivileged.run(replace)


def test_an_owner_that_this_user_namespace_does_not_know_is_no_obstacle(foreign: Unprivileged) -> None:
    if not shutil.which("unshare") or subprocess.run(["unshare", "-Ur", "true"], capture_output=True).returncode:
        pytest.skip("user namespaces are not to be had here")
    foreign.writable()
    os.chown(put(foreign.path, mode=0o644), 1234, 5678)  # shows as 65534, to whom nothing can be given there
    python(WRITE, foreign.path, before=["unshare", "-Ur"])
    assert (contents(foreign.path), bits(foreign.path)) == (b"new", "0644")


WRITE = """import sys
from dogpile_fs import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"new")
"""


def python(script: str, path: str, *, before: list[str] | None = None) -> None:
    """Run *script* with *path* as its argument, in a process that the command *before* starts."""
    result = subprocess.run(
        [*(before or []), sys.executable, "-c", script, path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])},
    )
    assert result.returncode == 0, result.stderr


def traced(script: str, path: str, calls: str) -> list[str]:
    """What strace(1) tells of the system *calls* of a process that runs *script*."""
    if not shutil.which("strace"):
        pytest.skip("strace(1) is not installed")
    log = path + ".trace"
    python(script, path, before=["strace", "-f", "-y", "-s", "300", "-e", f"trace={calls}", "-o", log])
    trace = Path(log).read_text().splitlines()
    os.unlink(log)
    return trace


# On the disk.


def test_durable_syncs_the_file_before_the_rename_and_the_directory_after_it(path: str) -> None:
    trace = traced(WRITE, path, "fsync,fdatasync,rename,renameat,renameat2")
    steps = [line.split("(")[0].split()[-1] for line in trace if "+++" not in line]
    assert [step.rstrip("at2") for step in steps] == ["fsync", "rename", "fsync"], trace
    assert ".dogpile-tmp-" in trace[0]
    assert f"<{os.path.dirname(path)}>" in trace[2]


def test_without_durable_nothing_is_synced(path: str) -> None:
    script = WRITE.replace("sys.argv[1]", "sys.argv[1], durable=False")
    trace = traced(script, path, "fsync,fdatasync,sync,syncfs,rename,renameat,renameat2")
    assert not [line for line in trace if "sync" in line], trace


def test_without_overwrite_the_directory_is_synced_after_the_link(path: str) -> None:
    script = WRITE.replace("sys.argv[1]", "sys.argv[1], overwrite=False")
    trace = traced(script, path, "fsync,link,linkat")
    steps = [line.split("(")[0].split()[-1] for line in trace if "+++" not in line]
    assert [step.removesuffix("at") for step in steps] == ["fsync", "link", "fsync"], trace


# Symbolic links.


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("old", [True, False])
def test_a_link_stays_one_and_what_it_points_to_is_replaced(tmp_path: Path, relative: bool, old: bool) -> None:
    there = tmp_path / "there"
    there.mkdir()
    if old:
        put(str(there / "file"), mode=0o640)
    link = tmp_path / "link"
    link.symlink_to("there/file" if relative else there / "file")
    with atomic_write(link) as file:
        assert os.path.dirname(file.name) == str(there / ".dogpile")
        file.write(b"new")
    assert link.is_symlink()
    assert link.read_bytes() == b"new"
    assert not (there / "file").is_symlink()
    assert (files_in(there), set(files_in(tmp_path))) == (["file"], {"link", "there"})
    if old:
        assert bits(str(there / "file")) == "0640"


def test_a_link_to_a_link_to_a_file_is_followed_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("deep/c")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c").symlink_to("../d")
    write(str(tmp_path / "a"))
    assert not (tmp_path / "d").is_symlink()
    assert all((tmp_path / name).is_symlink() for name in ("a", "b", "deep/c"))
    assert (tmp_path / "a").read_bytes() == b"new"


def test_links_among_the_parents_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/sub")
    write(str(tmp_path / "link" / ".." / "file"))
    assert set(files_in(tmp_path / "real")) == {"file", "sub"}


@pytest.mark.parametrize("where", ["loop", "loop/file", "one"])
def test_a_link_that_leads_to_itself_is_an_error(tmp_path: Path, where: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    with pytest.raises(DatafileError) as caught:
        write(str(tmp_path / where))
    assert caught.value.errno == errno.ELOOP
    tells(caught.value, str(tmp_path), "Hint: remove the symbolic link")
    assert sorted(files_in(tmp_path)) == ["loop", "one", "other"]


@pytest.mark.parametrize("old", [True, False])
def test_without_overwrite_what_counts_is_where_the_link_leads(tmp_path: Path, old: bool) -> None:
    (tmp_path / "link").symlink_to("file")
    if old:
        put(str(tmp_path / "file"))
        with pytest.raises(DatafileExists):
            write(str(tmp_path / "link"), overwrite=False)
    else:
        write(str(tmp_path / "link"), overwrite=False)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == (b"old" if old else b"new")
    assert left_beside(str(tmp_path / "file")) == []


# Something else at the path.


def _directory(path: str) -> None:
    os.mkdir(path)


def _socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(".", os.O_RDONLY)  # a socket's name may be 107 bytes long
        os.chdir(os.path.dirname(path))
        try:
            server.bind(os.path.basename(path))
        finally:
            os.fchdir(here)
            os.close(here)


def _device(path: str) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


ODD = {"fifo": os.mkfifo, "directory": _directory, "socket": _socket, "device": _device}


@pytest.mark.parametrize("through_a_link", [False, True])
@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("odd", ODD)
def test_a_path_that_is_no_regular_file_is_an_error_and_not_replaced(
    path: str, odd: str, overwrite: bool, through_a_link: bool
) -> None:
    ODD[odd](path)
    before = os.lstat(path)
    given = path
    if through_a_link:
        given = path + ".link"
        os.symlink(path, given)
    with pytest.raises(DatafileError) as caught:
        promptly(lambda: write(given, overwrite=overwrite))
    tells(caught.value, repr(path), "Hint: ")
    assert not isinstance(caught.value, DatafileExists)
    assert (os.lstat(path).st_mode, os.lstat(path).st_ino) == (before.st_mode, before.st_ino)
    assert left_beside(path) == []


def test_something_else_that_comes_during_the_block_is_not_replaced_either(path: str) -> None:
    with pytest.raises(DatafileError), atomic_write(path):
        os.mkdir(path)
    assert os.path.isdir(path)
    assert left_beside(path) == []


@pytest.mark.parametrize("given", ["", "\0", "a\0b", "\ud800"])
def test_a_path_that_names_no_file_is_a_path_error(given: str) -> None:
    with pytest.raises(PathError):
        atomic_write(given)


@pytest.mark.parametrize("given", [b"bytes", 3, None])
def test_an_argument_that_is_no_path_is_a_type_error(given: Any) -> None:
    with pytest.raises(TypeError):
        atomic_write(given)


@pytest.mark.parametrize("end", ["/", "//", "/."])
def test_a_path_that_ends_like_a_directorys_is_not_written_as_a_file(path: str, end: str) -> None:
    # As with open(path + "/", "w") and with Datafile(path + "/").
    with pytest.raises(DogpileError):
        write(path + end)
    assert files_in(os.path.dirname(path)) == []


# Names.

LONG = ["n" * 255, "ä" * 127, "€" * 85, "n" + "€" * 84, "nn" + "€" * 84, "😀" * 63, ".csv".rjust(255, "n")]
ODD_NAMES = [
    "-rf",
    ".hidden",
    " ",
    "new\nline",
    "'quotes\"",
    "\\",
    "*?[x]",
    "\udcff\udcfe",
    "%s{}",
    "x" * 100,
    "...",
]


@pytest.mark.parametrize("name", LONG + ODD_NAMES, ids=lambda name: ascii(name[:6]))
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    for data in (b"one", b"two"):
        with atomic_write(path) as file:
            assert len(os.fsencode(os.path.basename(file.name))) <= 255
            file.write(data)
        assert contents(path) == data
    with pytest.raises(DatafileExists):
        write(path, overwrite=False)
    assert files_in(tmp_path) == [name]


@pytest.mark.parametrize("name", LONG, ids=lambda name: ascii(name[:6]))
def test_the_temp_files_name_is_text_where_the_name_is(tmp_path: Path, name: str) -> None:
    # There are file systems that take nothing else (APFS; ext4 and ZFS where told so).
    with atomic_write(tmp_path / name) as file:
        file.name.encode()


def test_a_name_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatafileError) as caught:
        write(str(tmp_path / ("n" * 256)))
    assert caught.value.errno == errno.ENAMETOOLONG
    assert files_in(tmp_path) == []


def test_one_name_that_begins_like_another_shares_nothing_with_it(tmp_path: Path) -> None:
    names = ["file", "file.", "file.txt", ".file", "e", "le", "ile"]
    blocks = [atomic_write(tmp_path / name) for name in names]
    for name, block in zip(names, blocks, strict=True):
        block.__enter__().write(name.encode())
    assert len(left_beside(str(tmp_path / "file"))) == len(names)
    for block in reversed(blocks):
        block.__exit__(None, None, None)
    assert {name: (tmp_path / name).read_text() for name in files_in(tmp_path)} == {name: name for name in names}


# No room, no permission.


@pytest.mark.parametrize("size", [0, 1, 100])
def test_where_there_is_no_room_at_the_end_of_the_block_the_old_one_stays(path: str, size: int) -> None:
    put(path)

    def write_in_vain() -> None:
        for mode, data in (("wb", b"x" * 101), ("w", "x" * 101)):
            with (
                files_no_longer_than(size),
                pytest.raises(DatafileError) as caught,
                atomic_write(path, mode) as file,
            ):
                file.write(data)
            assert caught.value.errno == errno.EFBIG
            tells(caught.value, repr(path), "Hint: ")

    assert ended_well(in_child(write_in_vain))
    assert (contents(path), left_beside(path)) == (b"old", [])


def test_where_there_is_no_room_inside_the_block_its_own_error_comes_through(path: str) -> None:
    put(path)

    def write_in_vain() -> None:
        before = descriptors()
        with (
            files_no_longer_than(5000),
            pytest.raises(OSError, match="too large") as caught,
            atomic_write(path) as f,
        ):
            f.write(MUCH)
        assert type(caught.value) is OSError
        assert descriptors() == before

    assert ended_well(in_child(write_in_vain))
    assert (contents(path), left_beside(path)) == (b"old", [])


def test_a_full_disk_leaves_the_old_one_and_takes_the_new_one_when_there_is_room_again(
    mounted: Callable[..., None], tmp_path: Path
) -> None:
    place = tmp_path / "mount"

    def fill() -> None:
        path = put(str(place / "file"))
        filler = place / "filler"
        with suppress(OSError), open(filler, "wb") as file:
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(OSError, match="No space left"):
            write(path, MUCH)
        with pytest.raises(DatafileError) as caught:
            write(path, b"x" * 100)
        assert caught.value.errno == errno.ENOSPC
        tells(caught.value, "Hint: free space")
        assert (contents(path), left_beside(path)) == (b"old", [])
        filler.unlink()
        write(path, b"x" * 5000)
        assert contents(path) == b"x" * 5000

    mounted(place, "size=64k", fill)


def test_a_read_only_file_system_is_an_error(mounted: Callable[..., None], tmp_path: Path) -> None:
    place = tmp_path / "mount"

    def write_in_vain() -> None:
        path = put(str(place / "file"))
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        with pytest.raises(DatafileError) as caught:
            write(path)
        assert caught.value.errno == errno.EROFS
        tells(caught.value, repr(path), "Hint: ")
        assert contents(path) == b"old"

    mounted(place, "size=64k", write_in_vain)


def test_a_directory_that_may_not_be_written_is_an_error(unprivileged: Unprivileged) -> None:
    unprivileged.writable()
    put(unprivileged.path, mode=0o666)
    unprivileged.read_only()

    def write_in_vain() -> None:
        with pytest.raises(DatafileError) as caught:
            write(unprivileged.path)
        assert caught.value.errno == errno.EACCES
        tells(
            caught.value, repr(unprivileged.path), f"user {os.geteuid()}", "its directory has mode 0555", "Hint: "
        )

    unprivileged.run(write_in_vain)
    assert contents(unprivileged.path) == b"old"
    assert files_in(unprivileged.directory) == ["resource"]


def test_a_directory_that_may_be_written_but_not_listed_will_do(unprivileged: Unprivileged) -> None:
    unprivileged.directory.chmod(0o333)

    def write_twice() -> None:
        write(unprivileged.path, b"one")
        write(unprivileged.path, b"two")
        with pytest.raises(DatafileExists):
            write(unprivileged.path, overwrite=False)

    unprivileged.run(write_twice)
    unprivileged.directory.chmod(0o777)
    assert contents(unprivileged.path) == b"two"
    assert files_in(unprivileged.directory) == ["resource"]


@pytest.mark.parametrize("where", ["missing/file", "file/file"])
def test_a_directory_that_is_missing_or_none_is_an_error(tmp_path: Path, where: str) -> None:
    put(str(tmp_path / "file"))
    with pytest.raises(DatafileError) as caught:
        write(str(tmp_path / where))
    assert caught.value.errno == (errno.ENOENT if where.startswith("missing") else errno.ENOTDIR)
    tells(caught.value, repr(str(tmp_path / where)), "Hint: ")
    assert files_in(tmp_path) == ["file"]


def test_a_directory_that_is_removed_during_the_block_is_an_error(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with pytest.raises(DatafileError) as caught, atomic_write(home / "file"):
        shutil.rmtree(home)
    assert caught.value.errno == errno.ENOENT


def test_with_too_few_descriptors_it_says_so_and_leaves_nothing(path: str) -> None:
    put(path)
    survives_few_descriptors(lambda: write(path))
    assert left_beside(path) == []
    assert contents(path) == b"new"


# overwrite=False.


@pytest.mark.parametrize("at_once", [True, False])
def test_without_overwrite_there_must_be_no_file(path: str, at_once: bool) -> None:
    if at_once:
        put(path)

    def write_what_another_writes() -> None:
        with atomic_write(path, overwrite=False) as file:
            assert not at_once
            file.write(b"new")
            put(path)

    with pytest.raises(DatafileExists) as caught:
        write_what_another_writes()
    assert isinstance(caught.value, FileExistsError)
    assert isinstance(caught.value, DatafileError)
    assert caught.value.errno == errno.EEXIST
    tells(caught.value, repr(path), "Hint: ")
    assert (contents(path), left_beside(path)) == (b"old", [])


def test_without_overwrite_a_new_file_is_written_as_any_other(path: str) -> None:
    write(path, MUCH, overwrite=False)
    assert contents(path) == MUCH
    assert os.stat(path).st_nlink == 1
    assert left_beside(path) == []


def _write_if_first(path: str, barrier: Any, record: Record, rounds: int) -> None:
    for number in range(rounds):
        barrier.wait()
        try:
            with atomic_write(f"{path}.{number}", overwrite=False, durable=False) as file:
                file.write(b"%d" % os.getpid() * 1000)
                if number % 2:
                    barrier.wait()  # all are inside
        except DatafileExists:
            pass
        else:
            record.write("won", number=number)


def test_of_twenty_processes_that_must_not_overwrite_one_wins(
    path: str, record: Record, processes: Processes
) -> None:
    # In the odd rounds all see that there is no file, and meet at the end of the block.
    writers, rounds = 20, 6
    barrier = multiprocessing.Barrier(writers)
    processes.start_many(writers, _write_if_first, path, barrier, record, rounds)
    processes.join()
    for number in range(rounds):
        [winner] = [e.pid for e in record.events("won") if e.more["number"] == number]
        assert contents(f"{path}.{number}") == b"%d" % winner * 1000
    assert left_beside(path) == []


# Several at once.


def _write_many(path: str, times: int) -> None:
    for number in range(times):
        write(path, b"%d %d\n" % (os.getpid(), number) * 5000, durable=False)


def test_of_many_writers_the_last_wins_and_none_meets_another(path: str, processes: Processes) -> None:
    writers = processes.start_many(6, _write_many, path, 30)
    seen = 0
    while any(writer.is_alive() for writer in writers):
        with suppress(FileNotFoundError):
            lines = contents(path).splitlines()
            assert len(lines) == 5000
            assert len(set(lines)) == 1
            seen += 1
    processes.join()
    assert seen > 0
    assert files_in(os.path.dirname(path)) == ["resource"]


def test_threads_write_the_same_path_without_meeting(path: str) -> None:
    together = threading.Barrier(8)
    errors: list[BaseException] = []

    def write_with_the_others(number: int) -> None:
        try:
            for _ in range(10):
                together.wait()
                with atomic_write(path, durable=False) as file:
                    file.write(b"%d" % number * 1000)
                    together.wait()
        except BaseException as error:
            errors.append(error)
            together.abort()

    threads = [threading.Thread(target=write_with_the_others, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(contents(path))) == 1
    assert left_beside(path) == []


# What killed writers leave.


def _write_for_ever(path: str, record: Record) -> None:
    with atomic_write(path) as file:
        file.write(MUCH)
        record.write("writing", name=file.name)
        time.sleep(3600)


def killed_writers(count: int, path: str, record: Record, processes: Processes) -> None:
    """As many processes are killed while all of them write."""
    before = len(record.events("writing"))
    writers = processes.start_many(count, _write_for_ever, path, record)
    record.wait("writing", before + count)
    for writer in writers:
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()


def test_what_a_killed_writer_left_is_recognised_and_removed_by_the_next(
    path: str, record: Record, processes: Processes
) -> None:
    put(path)
    killed_writers(1, path, record, processes)
    assert len(left_beside(path)) == 1
    assert contents(path) == b"old"
    with atomic_write(path) as file:
        assert left_beside(path) == [os.path.basename(file.name)]
    assert left_beside(path) == []


def test_the_next_writer_removes_the_files_of_many_killed_writers(
    path: str, record: Record, processes: Processes
) -> None:
    killed_writers(10, path, record, processes)
    assert len(left_beside(path)) == 10
    for number in range(10, 50):  # what many more would have left
        put(place(path, number))
    write(path)
    assert left_beside(path) == []


def place(path: str, token: object) -> str:
    """Where the temp file of the writer with that *token* is."""
    begin, end = temp_affixes("tmp", path)
    os.makedirs(hidden(path), exist_ok=True)
    return os.path.join(hidden(path), f"{begin}{token}{end}")


def test_the_file_of_the_last_of_many_writers_is_removed_though_the_others_ended_well(
    path: str, record: Record, processes: Processes
) -> None:
    blocks = [atomic_write(path, durable=False) for _ in range(20)]
    for block in blocks:
        block.__enter__()
    killed_writers(1, path, record, processes)
    for block in blocks:
        block.__exit__(None, None, None)
    assert len(left_beside(path)) == 1
    write(path)
    assert left_beside(path) == []


def test_a_writer_that_fails_removes_what_others_left_too(path: str, record: Record, processes: Processes) -> None:
    killed_writers(2, path, record, processes)
    with pytest.raises(ZeroDivisionError), atomic_write(path):
        raise ZeroDivisionError
    assert left_beside(path) == []


def _write_when_told(path: str, record: Record, number: int) -> None:
    with atomic_write(path) as file:
        file.write(b"%d" % number)
        record.write("inside", number=number)
        record.wait("leave")
    record.write("left", number=number)


def test_what_is_in_use_by_other_processes_is_never_removed(
    path: str, record: Record, processes: Processes
) -> None:
    writers = [processes.start(_write_when_told, path, record, number) for number in range(6)]
    record.wait("inside", 6)
    killed_writers(2, path, record, processes)
    before = set(left_beside(path))
    assert len(before) == 8
    for number in range(5):
        write(path, b"%d" % number)
    assert len(left_beside(path)) == 6
    assert set(left_beside(path)) < before
    record.write("leave")
    processes.join(*writers)
    assert len(record.events("left")) == 6
    assert int(contents(path)) in range(6)
    assert left_beside(path) == []


def test_a_file_in_use_by_this_process_is_never_removed(path: str) -> None:
    with atomic_write(path) as outer:
        outer.write(b"outer")
        with atomic_write(path) as inner:
            inner.write(b"inner")
            write(path, b"innermost")
        assert contents(path) == b"inner"
    assert contents(path) == b"outer"


def test_an_abandoned_file_of_another_path_is_left_alone(
    tmp_path: Path, record: Record, processes: Processes
) -> None:
    killed_writers(1, str(tmp_path / "file"), record, processes)
    killed_writers(1, str(tmp_path / "file.txt"), record, processes)
    write(str(tmp_path / "file.txt"))
    assert len(left_beside(str(tmp_path / "file"))) == 1
    write(str(tmp_path / "file"))
    assert left_beside(str(tmp_path / "file")) == []


def test_a_writer_that_was_killed_between_link_and_unlink_left_a_second_name_that_goes(path: str) -> None:
    with atomic_write(path, overwrite=False) as file:
        temp = file.name
    os.mkdir(hidden(path))
    os.link(path, temp)
    write(path + ".other")
    assert os.path.exists(temp)
    with pytest.raises(DatafileExists):
        write(path, overwrite=False)
    write(path)
    assert (contents(path), os.stat(path).st_nlink, left_beside(path)) == (b"new", 1, [])


def test_an_abandoned_file_that_no_user_may_read_is_removed(unprivileged: Unprivileged) -> None:
    unprivileged.writable()

    def leave_and_remove() -> None:
        put(unprivileged.path, mode=0)
        with atomic_write(unprivileged.path) as file:
            temp = file.name
        os.mkdir(os.path.dirname(temp))
        put(temp, mode=0)
        write(unprivileged.path)
        assert left_beside(unprivileged.path) == []

    unprivileged.run(leave_and_remove)


def test_a_writer_does_not_take_for_its_own_what_another_made_in_its_place_before_it_had_locked_it(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its file was taken for an abandoned one and removed, and a third writer came, all before it could lock it.
    lock, gate = fcntl.flock, threading.Event()

    def lock_later(descriptor: int, how: int) -> None:
        gate.wait(30)
        lock(descriptor, how)

    monkeypatch.setattr(atomic, "flock", lock_later)
    writer = threading.Thread(target=write, args=(path,))
    writer.start()
    wait_for(lambda: left_beside(path), "its file")
    its_file = os.path.join(hidden(path), *left_beside(path))
    os.unlink(its_file)
    third = os.open(its_file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    gate.set()
    writer.join()
    assert contents(path) == b"new"
    assert os.stat(path).st_ino != os.fstat(third).st_ino
    assert os.pread(third, 100, 0) == b""
    os.close(third)


def test_foreign_things_under_the_names_of_temp_files_are_removed_and_lead_nowhere(path: str) -> None:
    victim = put(path + ".victim")
    places = [place(path, number) for number in range(5)]
    os.mkdir(places[0])
    os.symlink(victim, places[1])
    os.symlink(places[2], places[2])
    os.mkfifo(places[3])
    os.symlink("nowhere", places[4])
    for _ in range(2):
        promptly(lambda: write(path))
        assert (contents(path), contents(victim)) == (b"new", b"old")
    assert left_beside(path) == []
    assert not os.path.exists(os.path.join(os.path.dirname(path), "nowhere"))


# fork.


def child_of(block: Callable[[Any], object], path: str, mode: str = "wb") -> None:
    """Write *path*, and meanwhile fork a child that does *block* with the file and leaves the block."""
    me = os.getpid()
    pid = 0
    try:
        with atomic_write(path, mode) as file:
            file.write(b"parent's " if "b" in mode else "parent's ")
            pid = os.fork()
            if pid == 0:
                block(file)
            else:
                ended_well(pid)
                assert not os.path.exists(path)
                assert len(left_beside(path)) == 1
                file.write(b"own" if "b" in mode else "own")
    finally:
        if os.getpid() != me:
            os._exit(0)
    assert contents(path) == b"parent's own"
    assert left_beside(path) == []


def _raise(file: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("mode", ["wb", "w"])
@pytest.mark.parametrize(
    "block",
    [
        lambda file: None,
        lambda file: os._exit(0),
        lambda file: sys.exit(0),
        _raise,
        lambda file: file.write(b"child's" if "b" in file.mode else "child's"),
        lambda file: gc.collect(),
    ],
    ids=["leaves", "os._exit", "sys.exit", "raises", "writes", "collects"],
)
def test_a_child_that_was_forked_inside_the_block_changes_nothing_when_it_leaves(
    path: str, block: Callable[[Any], object], mode: str
) -> None:
    child_of(block, path, mode)


def test_a_child_that_was_forked_inside_the_block_can_write_the_same_path_itself(path: str) -> None:
    with atomic_write(path) as file:
        file.write(b"parent's")
        file.flush()
        assert ended_well(in_child(lambda: write(path, b"child's")))
        assert contents(path) == b"child's"
    assert contents(path) == b"parent's"
    assert left_beside(path) == []


@pytest.mark.parametrize("by", ["the writer", "another thread"])
def test_a_child_that_lives_on_does_not_keep_its_dead_parents_temp_file_in_use(
    path: str, record: Record, processes: Processes, by: str
) -> None:
    def live_on() -> None:
        record.write("child")
        record.wait("end")

    def write_and_fork() -> None:
        def fork_and_wait() -> None:
            in_child(live_on)
            time.sleep(3600)

        def inside(then: Callable[[], object]) -> None:
            with atomic_write(path) as file:
                file.write(b"new")
                then()
                time.sleep(3600)

        if by == "the writer":
            inside(fork_and_wait)
        else:
            entered = threading.Event()
            threading.Thread(target=inside, args=(entered.set,), daemon=True).start()
            entered.wait()
            fork_and_wait()

    parent = processes.start(write_and_fork)
    record.wait("child")
    assert parent.pid is not None
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    try:
        write(path)
        assert left_beside(path) == []
    finally:
        record.write("end")


def test_a_program_that_is_started_inside_the_block_inherits_nothing_of_it(path: str) -> None:
    with atomic_write(path):
        listed = subprocess.run(
            [sys.executable, "-c", "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in "
             "os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{n}')])"],
            capture_output=True, text=True, check=True, close_fds=False,
        )  # fmt: skip
    assert ".dogpile-tmp-" not in listed.stdout


# The parts in swap.py that only it promises.


def test_the_affixes_of_two_names_are_never_the_same_and_end_like_the_name() -> None:
    names = ["a", "b", "a.b", "x" * 255, "y" + "x" * 254, "ä", "a\n"]
    begins = {temp_affixes("tmp", f"/d/{name}")[0] for name in names}
    assert len(begins) == len(names)
    assert all(temp_affixes("tmp", f"/d/{name}")[1].endswith(name[-50:]) for name in names)
