"""``docs/questions/where.rst``: the messages that it shows for a user that may not are the real ones."""

from __future__ import annotations

import doctest
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from dogpile_fs import Datafile
from tests.support.places import writing
from tests.unit.test_docs import blocks

from .neighbours import NEIGHBOUR, ROOT, acting_as

PAGE = Path(__file__).parents[2] / "docs" / "questions" / "where.rst"

#: The first is a command line.
_, READING, CREATING, PASSING = (block.text.strip() for block in blocks(PAGE) if block.language == "text")


def fits(shown: str, message: str, place: Path) -> bool:
    """Return whether *message*, of another place and user than those of the page, is the one that is *shown*."""
    here = message.replace(str(place), "/var/lib/shop").replace(f"user {NEIGHBOUR}", "user 33")
    return doctest.OutputChecker().check_output(shown, here, doctest.ELLIPSIS)


def error_of(action: Any) -> str:
    with pytest.raises(OSError) as raised:  # noqa: PT011
        action()
    return f"{type(raised.value).__name__}: {raised.value}"


def test_a_reader_where_the_creator_worked_under_a_strict_umask(place: Path, caplog: Any) -> None:
    path = place / "report.json"
    with acting_as(ROOT, 0o077):
        Datafile(path, 3600, writing("contents")).refresh()
    with acting_as(NEIGHBOUR):
        assert fits(READING, error_of(Datafile(path).open().__enter__), place)
    path.chmod(0o644)
    os.utime(path, (0, 0))
    with acting_as(NEIGHBOUR), caplog.at_level(logging.WARNING):
        Datafile(path, 3600, writing("contents")).path()
    assert any(fits(PASSING, record.getMessage(), place) for record in caplog.records)


def test_a_second_user_that_tries_to_create(place: Path) -> None:
    path = place / "report.json"
    with acting_as(ROOT):
        Datafile(path, 3600, writing("contents")).refresh()
    with acting_as(NEIGHBOUR):
        creating = Datafile(path, 3600, writing("contents"))
        assert fits(CREATING, error_of(lambda: creating.refresh(force=True)), place)
