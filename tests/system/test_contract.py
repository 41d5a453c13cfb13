"""``docs/contract.rst``: every promise names its tests, and every test that it names exists."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import dogpile_fs

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "contract.rst"

#: The sections that promise nothing.
_WITHOUT_PROMISES = ("The contract", "Words", "Where nothing is promised", "The tests")
_UNDERLINE = re.compile(r"([=-])\1{2,}$")
#: Where a list's item, or the name of a file that a definition belongs to, begins.
_ITEM = re.compile(r"- |\d+\. |``\S*\.dogpile\S*``$")
_REFERENCE = re.compile(r"\[(C\d+)\]_")
_CITATION = re.compile(r"^\.\. \[(C\d+)\] ((?:.+\n)(?: {3}.+\n)*)", re.MULTILINE)
_TEST = re.compile(r"``([\w/]+\.py)::(test_\w+)``")
#: A promise's last sentence may lead elsewhere instead of promising: it begins with a link.
_LEADS_ELSEWHERE = re.compile(r"`[^`]+`__? (says|has) ")
#: A heading in the text: signatures in literals, and no sentence.
_SIGNATURE = re.compile(r"``\w+\(.*``( and the rest)?$")


class Promise(NamedTuple):
    """One item or paragraph of the page: the line where it begins, its section and its text, on one line."""

    line: int
    section: str
    text: str


def promises(page: str) -> Iterator[Promise]:
    """Yield every paragraph and item outside of the sections that promise nothing."""
    section, lines, begin = "", list[str](), 0
    all_lines = [*page.splitlines(), ""]
    for number, line in enumerate(all_lines, 1):
        ends = not line.strip() or _ITEM.match(line) or _UNDERLINE.match(line)
        if ends and lines:
            if _UNDERLINE.match(line):
                section = lines[-1]
                lines = []
            elif section not in _WITHOUT_PROMISES and not lines[0].startswith(".."):
                text = " ".join(part.strip() for part in lines)
                if not _SIGNATURE.match(text):
                    yield Promise(begin, section, text)
            lines = []
        if line.strip() and not _UNDERLINE.match(line):
            if not lines:
                begin = number
            lines.append(line)


def faults(page: str) -> list[str]:
    """Return promises without tests, references to nothing and tests that do not exist, each as a sentence."""
    found: list[str] = []
    citations = {match[1]: match[2] for match in _CITATION.finditer(page)}
    for promise in promises(page):
        *_, rest = _REFERENCE.split(promise.text)
        if _LEADS_ELSEWHERE.match(promise.text) and not _REFERENCE.search(promise.text):
            continue
        if not _REFERENCE.search(promise.text):
            found.append(f"line {promise.line}, {promise.section}: no test is named: {promise.text}")
        elif rest.strip() and not _LEADS_ELSEWHERE.match(rest.strip()):
            found.append(f"line {promise.line}, {promise.section}: no test is named for: {rest.strip()}")
    referred = set(_REFERENCE.findall(page))
    found += [f"[{name}] has no tests" for name in referred - citations.keys()]
    found += [f"[{name}] belongs to no promise" for name in citations.keys() - referred]
    if len(citations) != len(_CITATION.findall(page)):
        found.append("a number is defined twice")
    for name, text in citations.items():
        tests = _TEST.findall(text)
        if not tests or _TEST.sub("", text).strip(" ,\n"):
            found.append(f"[{name}] is no list of tests: {text}")
        found += [
            f"[{name}]: there is no {file}::{test}" for file, test in tests if test not in functions_in(file)
        ]
    return found


_known: dict[str, set[str]] = {}


def functions_in(file: str) -> set[str]:
    """Return the names of the test functions of the module *file* below ``tests/``."""
    if file not in _known:
        path = ROOT / "tests" / file
        body = ast.parse(path.read_text()).body if path.is_file() else []
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        _known[file] = {node.name for node in body if isinstance(node, functions)}
    return _known[file]


def test_every_promise_names_tests_and_every_named_test_exists() -> None:
    page = PAGE.read_text()
    assert len(list(promises(page))) > 100
    assert not faults(page), "\n".join(faults(page))


_SOUND = """
Files
=====

- A file is whole. [C1]_ `cli.rst <cli.rst>`_ says more.
- A file is there. [C1]_

.. [C1] ``system/test_contract.py::test_a_page_with_a_fault_is_found_out``
"""


@pytest.mark.parametrize(
    ("sound", "faulty"),
    [
        ("A file is there. [C1]_", "A file is there."),
        ("A file is there. [C1]_", "A file is there. [C1]_ It is new."),
        ("A file is there. [C1]_", "A file is there. [C2]_"),
        ("test_a_page_with_a_fault_is_found_out", "test_that_nobody_has_written"),
        ("system/test_contract.py", "system/test_nothing.py"),
        ("``system/test_contract.py::test_a_page_with_a_fault_is_found_out``", "all of them"),
        (".. [C1]", ".. [C2] ``system/test_contract.py::test_a_page_with_a_fault_is_found_out``\n.. [C1]"),
    ],
)
def test_a_page_with_a_fault_is_found_out(sound: str, faulty: str) -> None:
    assert faults(_SOUND) == []
    assert sound in _SOUND
    assert faults(_SOUND.replace(sound, faulty)) != []


@pytest.mark.parametrize("page", ["README.rst", "docs/contract.rst"])
def test_every_public_name_is_documented(page: str) -> None:
    text = (ROOT / page).read_text()
    assert [name for name in dogpile_fs.__all__ if not re.search(rf"\b{name}\b", text)] == []


def test_the_page_names_the_pythons_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environments = re.search(r"^env_list = (.*)$", (ROOT / "tox.ini").read_text(), re.MULTILINE)
    assert environments is not None
    pythons = [int(minor) for minor in re.findall(r"\bpy3(\d+)\b", environments[1])]
    assert project["requires-python"] == f">=3.{pythons[0]}"
    assert f"Python 3.{pythons[0]} and later" in PAGE.read_text()
    assert f"from 3.{pythons[0]} to 3.{pythons[-1]}" in PAGE.read_text()


def test_the_page_names_the_logger() -> None:
    sources = [file.read_text() for file in (ROOT / "dogpile_fs").rglob("*.py")]
    loggers = {name for source in sources for name in re.findall(r"getLogger\((.*?)\)", source)}
    assert loggers == {'"dogpile_fs"', '"dogpile_fs.events"'}
    assert "The logger is called ``dogpile_fs``" in PAGE.read_text()
