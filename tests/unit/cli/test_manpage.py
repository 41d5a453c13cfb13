"""The manual page is made from the parser, and belongs to an installation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dogpile_fs import __version__
from dogpile_fs.cli.arguments import _grammar
from tests.support.processes import PATIENCE

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "dogpile-fs.1"


def test_the_page_is_what_the_parser_says() -> None:
    pytest.importorskip("argparse_manpage")
    subprocess.run(
        [sys.executable, str(ROOT / "docs" / "manpage.py"), "--check"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        check=True,
        timeout=PATIENCE,
    )


def test_the_page_has_every_command_and_option_and_the_version() -> None:
    page = PAGE.read_text().replace("\\-", "-")
    assert f'"dogpile_fs {__version__}"' in page.splitlines()[0]
    for name, parser in _grammar()[1].items():
        assert f"usage: dogpile-fs {name} " in page
        for action in parser._actions:
            assert all(option in page for option in action.option_strings if option not in ("-h", "--help"))


def test_man_shows_the_page_without_a_complaint() -> None:
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("man or groff is not installed")
    shown = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", str(PAGE)],
        env={**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert shown.stderr == ""
    assert "EXIT STATUS" in re.sub(".\b", "", shown.stdout)  # bold is overprinted


def test_an_installation_has_the_page_where_man_looks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["data-files"] == {"share/man/man1": ["docs/dogpile-fs.1"]}
