"""A real program that PyInstaller has made of the command. ``python -m tox -e frozen`` has PyInstaller."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from dogpile_fs.cli.arguments import _grammar

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from dogpile_fs.cli import main
sys.exit(main())
"""

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("PyInstaller") is None, reason="PyInstaller is not installed"),
    pytest.mark.skipif(not shutil.which("objdump"), reason="PyInstaller needs objdump (binutils)"),
    pytest.mark.skipif(not sysconfig.get_config_var("Py_ENABLE_SHARED"), reason="PyInstaller needs libpython"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The frozen command."""
    place = tmp_path_factory.mktemp("frozen")
    script = place / "dogpile-fs.py"
    script.write_text(PROGRAM)
    built = subprocess.run(
        [sys.executable, "-m", "PyInstaller", "--noconfirm", "--paths", str(ROOT), str(script)],
        cwd=place,
        env={**os.environ, "PYINSTALLER_CONFIG_DIR": str(place / "cache")},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return str(place / "dist" / "dogpile-fs" / "dogpile-fs")


RUN = ("run", "--expire", "0", "--keep", "1", "--output", "file")
#: For each command: command lines, which must end with status 0 unless :data:`ENDS` says something else.
LINES: dict[str, list[tuple[str, ...]]] = {
    "run": [
        (*RUN, "--stdout", "--", "echo", "old"),
        (*RUN, "--validate", "true", "--", "sh", "-c", "echo new > {}"),
    ],
    "status": [("status", "--json", "--expire", "1h", "file")],
    "metrics": [("metrics", "file"), ("metrics", "--output", "file.prom", "file")],
    "touch": [("touch", "file")],
    "rollback": [("rollback", "file")],
    "wait": [("wait", "--fresh", "--expire", "1h", "--timeout", "1m", "file")],
    "watch": [("watch", "--count", "1", "file")],
    "history": [("history", "--json", "file")],
    "cancel": [("cancel", "file")],
    "invalidate": [("invalidate", "--hard", "file")],
    "origin": [
        ("origin", "check", "origin"),
        ("run", "--expire", "1h", "--output", "copy", "--origin", "origin", "--stdout", "--", "echo", "it"),
        ("origin", "status", "--json", "origin"),
    ],
    "follow": [("follow", "file")],
    "top": [("top", "--once"), ("top", "--json")],
    "completion": [("completion", "bash")],
    "demo": [("demo", "--plain", "--seconds", "4", "--workers", "2")],
}


#: The exit statuses of others: no creation runs; the package of an extra is not there; on a loaded machine the
#: demo may take too long; the file has no origin.
ENDS = {"cancel": (66,), "completion": (0, 69), "demo": (0, 1), "follow": (64,), "top": (0, 69)}


def test_each_command_is_tried() -> None:
    assert set(LINES) == set(_grammar()[1])


def test_a_frozen_program_finds_the_modules_of_each_command(program: str, tmp_path: Path) -> None:
    for words in (words for lines in LINES.values() for words in lines):
        ended = subprocess.run([program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert ended.returncode in ENDS.get(words[0], (0,)), (words, ended.stderr)
        assert ended.stderr == "" or words[0] in ENDS, words


@pytest.mark.parametrize("given", [{}, {"LD_LIBRARY_PATH": "/nowhere"}])
def test_a_command_has_the_libraries_of_its_caller_and_not_those_of_the_program(
    program: str, tmp_path: Path, given: dict[str, str]
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    words = ("--stdout", "--", "sh", "-c", 'echo "${LD_LIBRARY_PATH-none}"')
    subprocess.run([program, *RUN, *words], cwd=tmp_path, env={**environment, **given}, check=True)
    assert (tmp_path / "file").read_text() == given.get("LD_LIBRARY_PATH", "none") + "\n"
