"""The guides in ``docs/``: every example in them is run, in the order in which they stand.

``python`` blocks are executed and ``pycon`` blocks are doctests, in one namespace per page. A ``python`` block
that begins with the name of a file is put there and imported. A shell runs the text after a ``$`` in ``console``
blocks, which must print the text that follows it. Lines of a crontab are read as ``dogpile-fs`` reads them.
"""

from __future__ import annotations

import doctest
import functools
import importlib
import json
import logging
import os
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dogpile_fs._sidecar.record import FIELDS
from dogpile_fs.cli.arguments import Arguments, parsed
from dogpile_fs.cli.options import Settings, scan
from tests.support.places import ours_in
from tests.support.plugin import python_path
from tests.support.processes import PATIENCE

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n\n((?: {4}.*\n|\n)+)", re.MULTILINE)
#: A table, with the width of its first column.
_TABLE = re.compile(r"^(=+ +)=[= ]*\n(?:.+\n)+?=[= ]+(?=\n\n|\n?\Z)", re.MULTILINE)
#: What is shown and not run: crontabs, which a test of their own reads, and command lines of servers.
_NOT_RUN = ("text",)
_AS_PRINTED = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """One example: which language it is in, what it says, and the line of the page where it begins."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        yield Block(found[1], textwrap.dedent(found[2]), text.count("\n", 0, found.start(2)))


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to work in, where the shell finds ``dogpile-fs`` and what the pages take for granted."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "words.txt").write_text("two\none\nthree\n")
    (work / "report.sh").write_text("""echo '{"orders": 3}'\n""")
    command = tmp_path / "bin" / "dogpile-fs"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dogpile_fs "$@"\n')
    pytests = command.with_name("pytest")
    pytests.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m pytest -p no:cacheprovider -p xdist -p dogpile_fs "$@"\n'
    )
    python = command.with_name("python")
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for each in (command, pytests, python):
        each.chmod(0o755)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # else lines of several processes are mixed
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", python_path(tmp_path / "installed"))
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(logging.getLogger("dogpile_fs"), "handlers", [])  # some pages add one
    monkeypatch.syspath_prepend(work)
    monkeypatch.chdir(work)
    return work


def names() -> dict[str, Any]:
    """What the pages leave to their reader: the data, and functions that make something of them."""
    orders = [(1, 50), (2, 60), (3, 10)]
    made = []

    def new_prices(target: str) -> None:
        made.append(target)
        Path(target).write_text(f"prices {len(made)}")

    return {
        "orders": orders,
        "all_orders": lambda: orders,
        "totals_of_all_orders": lambda: {"orders": len(orders), "total": sum(amount for _, amount in orders)},
        "new_prices": new_prices,
        "new_rates": lambda target: Path(target).write_text("1.1"),
        "__name__": "__main__",
    }


class Session:
    """Runs the examples of one page."""

    def __init__(self, page: Path) -> None:
        self.page = page
        self.names = names()
        self.status = 0
        self.failures: list[str] = []

    def run(self, block: Block) -> None:
        match block.language:
            case "python":
                code = "\n" * block.line + block.text
                if named := re.match(r"# (\w+)\.py\n", block.text):
                    Path(f"{named[1]}.py").write_text(block.text)
                    sys.modules.pop(named[1], None)  # of another page, or of an earlier state of this file
                    importlib.invalidate_caches()
                    code = f"from {named[1]} import *"
                exec(compile(code, str(self.page), "exec"), self.names)
            case "pycon":
                self._run_doctest(block)
            case "console":
                for command, expected in self._commands(block.text):
                    self._run_command(command, expected, block.line)
            case "json":
                json.loads(block.text)
            case _ if block.language in _NOT_RUN:
                pass
            case _:
                self.failures.append(f"{self.page}:{block.line}: no example of {block.language!r} can be run")

    def _run_doctest(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(
            block.text, self.names, self.page.name, str(self.page), block.line
        )
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(test, out=self.failures.append, clear_globs=False)
        self.names.update(test.globs)

    def _commands(self, text: str) -> Iterator[tuple[str, str]]:
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            yield command, expected.strip("\n") + "\n" if expected.strip() else ""

    def _run_command(self, command: str, expected: str, line: int) -> None:
        done = subprocess.run(
            ["/bin/sh", "-c", f"(exit {self.status}); {command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        self.status = done.returncode
        expected = re.sub(r"\n\.\.\.\n\Z", "...\n", expected)  # a last line "..." also stands for nothing
        if not doctest.OutputChecker().check_output(expected, done.stdout, _AS_PRINTED):
            self.failures.append(
                f"{self.page}:{line}: $ {command}\nprinted:\n{done.stdout}instead of:\n{expected}"
            )


#: Pages whose examples are run elsewhere, because they need real servers: ``tests/system``.
RUN_ELSEWHERE = {"recipes.rst": "test_recipes.py", "web.rst": "test_web_page.py"}


def pages() -> list[str]:
    """Return the pages that have examples to run here, below ``docs/``."""
    found = {str(page.relative_to(ROOT / "docs")): page for page in (ROOT / "docs").rglob("*.rst")}
    return sorted(
        name
        for name, page in found.items()
        if name not in RUN_ELSEWHERE and any(block.language not in _NOT_RUN for block in blocks(page))
    )


@pytest.mark.parametrize("name", pages())
def test_every_example_does_what_the_page_says(name: str, terminal: Path) -> None:
    page = ROOT / "docs" / name
    session = Session(page)
    for block in blocks(page):
        session.run(block)
    assert not session.failures, "\n".join(session.failures)
    assert [left for left in ours_in(terminal) if left.startswith(".dogpile-new")] == []


def test_the_examples_of_the_readme_run(terminal: Path) -> None:
    session = Session(ROOT / "README.rst")
    calls: list[str] = []
    for name in ("fill_the_tables", "query_the_tables"):
        session.names[name] = functools.partial(calls.append, name)
    for block in blocks(session.page):
        session.run(block)
    assert not session.failures, "\n".join(session.failures)
    assert session.names["view"]() == {"orders": 3}
    assert calls == ["fill_the_tables", "query_the_tables"]


def test_examples_that_are_not_run_here_are_run_elsewhere() -> None:
    for page, module in RUN_ELSEWHERE.items():
        assert any(block.language in ("python", "pycon") for block in blocks(ROOT / "docs" / page))
        assert page in (ROOT / "tests" / "system" / module).read_text()


def test_the_diagrams_are_what_their_program_draws() -> None:
    program = runpy.run_path(str(ROOT / "docs" / "diagrams" / "draw.py"))
    files = {path.stem: path.read_text() for path in (ROOT / "docs" / "diagrams").glob("*.svg")}
    assert files == {name: program["drawn"](name) for name in program["DIAGRAMS"]}


def test_a_telephone_shows_the_text_of_the_diagrams_at_nine_pixels_or_more() -> None:
    program = runpy.run_path(str(ROOT / "docs" / "diagrams" / "draw.py"))
    sizes = [int(size) for size in re.findall(r"font(?:-size)?:(\d+)px", program["_STYLE"])]
    assert min(sizes) * 358 / program["WIDTH"] >= 9  # 358 of 390 pixels are left beside the margins


def test_no_row_of_a_table_begins_in_the_middle_of_a_cell() -> None:
    """In these tables each line with text in the first column begins a row; the cell above cannot go on there."""
    found = []
    folders = ("docs", "benchmarks", "examples", "tests")
    for page in [*ROOT.glob("*.rst"), *(page for folder in folders for page in (ROOT / folder).rglob("*.rst"))]:
        for table in _TABLE.finditer(page.read_text()):
            second = len(table[1])
            lines = [line for line in table[0].splitlines()[1:-1] if line[:second].strip(" =")]
            found += [f"{page.relative_to(ROOT)}: {line}" for line in lines if not line[second:].strip()]
    assert not found, "\n".join(found)


def test_the_page_of_the_sidecar_has_all_fields() -> None:
    text = (ROOT / "docs" / "reference" / "sidecar.rst").read_text()
    rows = re.findall(r"^((?:``\w+``(?:, )?)+) +(version|failures|resource) ", text, re.MULTILINE)
    told = {field: group for names, group in rows for field in re.findall(r"\w+", names)}
    assert told == {name: field.group for name, field in FIELDS.items()}


def test_an_example_that_does_something_else_is_found(terminal: Path) -> None:
    session = Session(Path("page"))
    for block in (
        Block("pycon", ">>> 1 + 1\n3\n", 1),
        Block("console", "$ echo one\ntwo\n", 2),
        Block("console", "$ false\n$ echo $?\n0\n", 3),
        Block("pascal", "", 4),
    ):
        session.run(block)
    assert len(session.failures) == 4, session.failures


def test_every_crontab_line_is_one_that_dogpile_fs_understands() -> None:
    sources = [*(ROOT / "docs").rglob("*.rst"), *(ROOT / "examples").glob("*/crontab")]
    lines = [line.strip() for page in sources for line in page.read_text().splitlines()]
    jobs = [line.split(maxsplit=5)[5] for line in lines if re.match(r"(\S*[*\d]\S* +){5}.*dogpile-fs ", line)]
    assert len(jobs) >= 4
    for job in jobs:
        command, *words = shlex.split(job.partition("dogpile-fs ")[2])
        # A fresh run must be cheap, so its line must be one that is scanned.
        assert isinstance(scan(words) if command == "run" else parsed([command, *words]), Settings | Arguments), (
            job
        )
        assert "%" not in job.replace(r"\%", "")
