from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.processes import Processes, Record

# A shell that starts the tests in the background lets them ignore Ctrl-C, and the programs that they start would
# as well.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A loaded machine is no failure.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that act as a user without privileges."""
    for item in items:
        if "unprivileged" in getattr(item, "fixturenames", ()):
            item.add_marker("permissions")


def pytest_collection_finish() -> None:
    """Have the garbage collector leave alone what there is before the first test: thousands of collected tests.

    Else each look for garbage takes a fraction of a second, and in a forked child it copies all memory besides.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A resource in a directory of its own; the file itself does not exist."""
    return str(tmp_path / "resource")


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "record")


@pytest.fixture
def processes() -> Iterator[Processes]:
    processes = Processes()
    yield processes
    processes.end()
