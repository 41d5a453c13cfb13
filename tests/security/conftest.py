from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .neighbours import Outside


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of root that every user may enter, for the files of one test."""
    if os.geteuid() != 0:
        pytest.skip("only root can act in the name of other users")
    directory = Path(tempfile.mkdtemp(prefix="dogpile_fs-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def outside(place: Path) -> Iterator[Outside]:
    """What must not be touched. It is looked at when the test has ended."""
    outside = Outside(place / "outside")
    yield outside
    outside.assert_untouched()


@pytest.fixture
def sticky(place: Path) -> Path:
    """A directory of root that every user may write, as ``/tmp``."""
    directory = place / "sticky"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory
