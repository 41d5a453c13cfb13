"""A host that has published tells the others at once, where the origin has hints."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from dogpile_fs import Datafile, Origin
from tests.support import servers
from tests.support.processes import ended_well, wait_for
from tests.unit.origin.conftest import listeners

HOUR = 3600


def host(root: Path, origin: Origin) -> Datafile:
    root.mkdir()
    return Datafile(
        root / "report", HOUR, lambda target: Path(target).write_text(os.urandom(8).hex()), origin=origin
    )


def contents(report: Datafile) -> str:
    with report.open("r") as file:
        return file.read()


@pytest.fixture
def hint(tmp_path: Path) -> str:
    return f"redis://127.0.0.1:{servers.redis().port}/0/{tmp_path.name}-hints"


def test_a_new_version_and_an_invalidation_are_seen_long_before_the_next_question(
    tmp_path: Path, url: str, hint: str
) -> None:
    origin = Origin(url, check=HOUR, hint=hint)
    one, other = host(tmp_path / "one", origin), host(tmp_path / "other", origin)
    assert contents(one) == contents(other)
    wait_for(lambda: listeners(hint) == 2, "both to listen")
    for _ in range(3):
        one.refresh(force=True)
        wait_for(lambda: contents(other) == contents(one), "the new version")
    one.invalidate()
    wait_for(lambda: other.status().state == "stale", "the invalidation")


def test_a_datafile_that_is_not_used_any_more_listens_no_longer_than_until_the_next_hint(
    tmp_path: Path, hint: str
) -> None:
    origin = Origin(tmp_path / "origin", hint=hint)
    reports = [host(tmp_path / str(number), origin) for number in range(3)]
    for report in reports:
        contents(report)
    wait_for(lambda: listeners(hint) == 3, "all to listen")
    last = reports.pop()
    del reports, report
    gc.collect()
    wait_for(lambda: last.refresh(force=True) and listeners(hint) == 1, "the end of the others")


def test_what_was_missed_while_the_server_of_the_hints_was_away_is_seen_when_it_is_back(tmp_path: Path) -> None:
    server = servers.new_redis()
    try:
        hint = f"redis://127.0.0.1:{server.port}/0/hints"
        origin = Origin(tmp_path / "origin", check=HOUR, hint=hint)
        one, other = host(tmp_path / "one", origin), host(tmp_path / "other", origin)
        assert contents(one) == contents(other)
        wait_for(lambda: listeners(hint) == 2, "both to listen")
        server.kill()
        one.refresh(force=True)  # it is published, and nobody is told
        server.restart()
        wait_for(lambda: contents(other) == contents(one), "the new version")
    finally:
        server.end()


def test_a_forked_child_listens_from_its_first_question_on(tmp_path: Path, hint: str) -> None:
    origin = Origin(tmp_path / "origin", check=HOUR, hint=hint)
    one, other = host(tmp_path / "one", origin), host(tmp_path / "other", origin)
    assert contents(one) == contents(other)
    wait_for(lambda: listeners(hint) == 2, "both to listen")
    pid = os.fork()
    if not pid:
        try:
            (tmp_path / "third").mkdir()
            other.refresh(force=True)
            wait_for(lambda: listeners(hint) == 3, "the child to listen")
            os._exit(0)
        finally:
            os._exit(1)
    assert ended_well(pid)
    wait_for(lambda: contents(one) == contents(other), "the child's version")
