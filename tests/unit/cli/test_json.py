"""What ``--json`` prints has the names that ``docs/cli.rst`` lists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dogpile_fs import Datafiles
from tests.support.cli_processes import Cli, bytecode, cli

__all__ = ["bytecode", "cli"]  # fixtures

PAGE = Path(__file__).parents[3] / "docs" / "cli.rst"


def section() -> str:
    return PAGE.read_text().partition("\nJSON\n====\n")[2].partition("\nDurations\n=====")[0]


def names_of(command: str) -> set[str]:
    """Return the names that the first table has for *command*."""
    found = re.search(rf"^``{command}`` +((?:.+\n)(?:  +.+\n)*)", section(), re.MULTILINE)
    assert found is not None
    return set(re.findall(r"``([\w ]+)``", found[1]))


def names_of_status() -> set[str]:
    """Return the names in the left column of the second table."""
    table = section().partition("The names of ``status``:")[2]
    return {name for line in table.splitlines() for name in re.findall(r"``(\w+)``", line[:30])}


def printed(cli: Cli, *words: str) -> Any:
    return json.loads(cli.run(*words).stdout)


def test_the_page_lists_the_names_of_each_object(cli: Cli) -> None:
    origin = str(cli.directory / "origin")
    cli.run("run", "--expire", "1h", "--output", "copy", "--origin", origin, "--stdout", "--", "echo", "it")
    cli.make()
    (status,) = printed(cli, "status", "--json", "file")
    assert set(status) == names_of_status()
    assert set(printed(cli, "wait", "--json", "file")) == set(status)
    (attempt,) = printed(cli, "history", "--json", "file")
    assert set(attempt) == names_of("history")
    for action in ("check", "status", "prune"):
        assert set(printed(cli, "origin", action, "--json", origin)) == names_of(f"origin {action}") - {"null"}
    (cli.directory / "keys").mkdir()
    Datafiles(cli.directory / "keys" / "{key}", 3600, lambda key, target: Path(target).touch())["one"].refresh()
    (cli.directory / "broken.dogpile").touch()
    objects = {each["path"]: set(each) for each in printed(cli, "top", "--json")}
    more = names_of("top") - {"null"}
    assert objects["file"] == set(status) | {"size", "error"}
    assert objects["broken"] == {"path", "size", "error"}
    assert objects["keys/{key}"] == more == {"path", "keys", "failing", "size", "error"}
