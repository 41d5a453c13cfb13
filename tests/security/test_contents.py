"""Of a hostile sidecar or name nothing is executed, and only a sound record counts."""

from __future__ import annotations

import ast
import json
import pickle
import time
import zlib
from fcntl import LOCK_EX, flock
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dogpile_fs
from dogpile_fs import Datafile, Dogpile, SyncReaderDogpile
from dogpile_fs._sidecar.record import CHECKSUM_AT, FIELDS, SIZE
from dogpile_fs.cli.dispatch import dispatch
from tests.support.cli_processes import Cli, bytecode, cli, logger_as_before

__all__ = ["bytecode", "cli", "logger_as_before"]

#: The largest numbers that a record may hold.
MOST, MOST_PID, MOST_DIGITS = 2**53, 2**32, 2**96


def sealed(**fields: Any) -> bytes:
    """Return a record with *fields* under a correct checksum."""
    groups: dict[str, Any] = {"dogpile_fs": 1, "version": {"host": "h"}, "failures": {}, "resource": {}}
    for name, value in fields.items():
        groups[FIELDS[name].group][name] = value
    text = json.dumps(groups).encode()
    body = text.ljust(CHECKSUM_AT)
    return body + b"%08x\n" % zlib.crc32(body)


def test_no_module_of_the_package_executes_or_unpickles_data_that_it_reads() -> None:
    forbidden = {"eval", "exec", "compile", "pickle", "marshal", "shelve", "dill", "ctypes.string_at"}
    met = set()
    package = Path(dogpile_fs.__file__).parent
    exempt = {
        # What is pickled there goes from a process to its own child, through memory that has no name.
        package / "_datafile" / "child.py",
        package / "_datafile" / "child_main.py",
        # Django's caches hold what is pickled; the directory is its user's alone.
        package / "integrations" / "django" / "_cache.py",
    }
    for module in package.rglob("*.py"):
        if module in exempt:
            continue
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Name):
                met.add(node.id)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                met.update(alias.name.partition(".")[0] for alias in node.names)
                met.add((getattr(node, "module", None) or "").partition(".")[0])
    assert "json" in met
    assert not met & forbidden


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize(
    "contents",
    [
        pickle.dumps(Bomb()),
        b"__import__('pathlib').Path('executed').touch()",
        b"#!/bin/sh\ntouch executed\n",
        sealed(host="$(touch executed)"),
        sealed(host="'; touch executed; '"),
        b"[" * SIZE,
        b"\0" * SIZE,
        sealed(createdtime=1e308, cost=1e308, generation=MOST, pid=MOST_PID, invalidations=MOST, expiretime=1e308),
        sealed(
            createdtime=-1e308,
            generation=MOST,
            fingerprint=["file", 0, -MOST_DIGITS, 2**64],
            attempt={"host": "h" * 40, "pid": MOST_PID, "since": -1e308},
        ),
        sealed(
            createdtime=1.0,
            generation=MOST,
            fingerprint=["tagged", 0, MOST_DIGITS, 2**64],
            attempt={"host": "\x1b[31m", "pid": MOST_PID, "since": 1e308},
        ),
        sealed(createdtime=1.0, generation=10**400),
        sealed(createdtime=1.0, fingerprint=["file", 10**300, 1, 1]),
        sealed(createdtime=True),
        sealed(createdtime=float("inf")),
        sealed(host=["h"]),
        sealed(invalidated="never"),
        sealed(expiretime=-1.0),
    ],
    ids=range(17),
)
def test_a_sidecar_with_any_contents_costs_one_more_creation_at_most(
    contents: bytes, path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in (Dogpile, SyncReaderDogpile):
        Path(path + ".dogpile").write_bytes(contents)
        dogpile = kind(3600, path)
        dogpile.status()
        calls: list[int] = []
        for _ in range(3):
            with dogpile.acquire(partial(calls.append, 1)):
                pass
        assert len(calls) <= 1
        assert dogpile.status().state == "fresh"
        dogpile.invalidate()
        assert dogpile.status().state == "stale"
        assert dogpile.refresh(lambda: None)
    assert not (tmp_path / "executed").exists()


def test_a_forged_sidecar_makes_a_file_fresh_for_no_longer_than_the_expiretime_from_now(path: str) -> None:
    """A user who may write the sidecar may decide when a creation is due: see SECURITY.rst."""
    now = time.time()
    Path(path + ".dogpile").write_bytes(sealed(createdtime=now, generation=1))
    assert Dogpile(3600, path).status().state == "fresh"
    Path(path + ".dogpile").write_bytes(sealed(createdtime=now + 10, generation=2))
    assert Dogpile(3600, path).status().state == "stale"


def test_nothing_that_a_sidecar_says_reaches_a_terminal_as_a_command(
    path: str, capsys: pytest.CaptureFixture[str], logger_as_before: None
) -> None:
    hostile = "\x1b]0;owned\x07\n\u202eevil"
    Path(path).write_text("old")
    attempt = {"host": hostile, "pid": 7, "since": time.time()}
    Path(path + ".dogpile").write_bytes(
        sealed(createdtime=time.time(), generation=1, host=hostile, attempt=attempt)
    )
    with open(path + ".dogpile.lock", "w") as lock:
        flock(lock, LOCK_EX)
        for words in (
            ("status", path),
            ("status", "--json", path),
            ("watch", "--count", "1", path),
            ("run", "-v", "--force", "--wait", "0.01", "--expire", "1h", "--output", path, "--", "true"),
        ):
            dispatch(list(words))
            told = "".join(capsys.readouterr())
            assert "evil" not in told, "a host name with such characters makes it no record"
            assert all(character.isprintable() or character == "\n" for character in told)


def test_no_name_of_a_file_is_executed_however_the_user_quotes_it(cli: Cli) -> None:
    name = "$(touch executed)`touch executed`';touch executed;'\";touch executed;\""
    shown = """echo {} "{}" '{}' "at {}" '"{}"' > shown"""
    words = ("run", "--expire", "0", "--output", name, "--stdout", "--validate", shown, "--then", shown)
    cli.run(*words, "--", "echo", "new")
    assert cli.text(name) == "new\n"
    assert name in cli.text("shown")
    assert not (cli.directory / "executed").exists()


def test_the_command_is_what_the_command_line_says_and_its_words_are_not_read_by_a_shell(cli: Cli) -> None:
    name = "$(touch executed); touch executed"
    cli.run("run", "--expire", "0", "--output", name, "--", "sh", "-c", 'echo new > "$1"', "sh", "{}")
    assert cli.text(name) == "new\n"
    assert not (cli.directory / "executed").exists()


def test_only_the_users_loader_makes_the_loaded_object(path: str) -> None:
    report = Datafile(path, 3600, lambda target: Path(target).write_bytes(pickle.dumps(Bomb())))
    assert report.load(lambda file: file.read()) == pickle.dumps(Bomb())
    assert not Path("executed").exists()
