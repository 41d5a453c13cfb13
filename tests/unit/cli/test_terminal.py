"""Colours are for terminals, as NO_COLOR and FORCE_COLOR ask for them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import TextIO

import pytest

from dogpile_fs.cli.terminal import can_encode, wants_colours
from tests.support.cli_processes import Cli, bytecode, cli

__all__ = ["bytecode", "cli"]  # fixtures


@pytest.fixture
def terminal() -> Iterator[TextIO]:
    master, slave = os.openpty()
    with open(slave, "w") as stream:
        yield stream
    os.close(master)


@pytest.mark.parametrize(
    ("environment", "on_terminal", "elsewhere"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
    ],
)
def test_colours_are_for_terminals_unless_the_environment_says_otherwise(
    terminal: TextIO,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    on_terminal: bool,
    elsewhere: bool,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colours(terminal, environment) is on_terminal
    assert wants_colours(io.StringIO(), environment) is elsewhere
    monkeypatch.setenv("TERM", "dumb")
    assert wants_colours(terminal, environment) is elsewhere


def test_what_a_stream_can_encode_is_known() -> None:
    assert can_encode(io.TextIOWrapper(io.BytesIO(), "utf-8"), "█")
    assert not can_encode(io.TextIOWrapper(io.BytesIO(), "ascii"), "█")
    assert can_encode(io.StringIO(), "#")


def test_force_color_has_colours_where_there_is_no_terminal(cli: Cli) -> None:
    pytest.importorskip("rich")
    cli.make()
    environment = {**cli.environment, "FORCE_COLOR": "1"}
    environment.pop("NO_COLOR", None)
    shown = cli.run("top", env=environment).stdout
    assert "\x1b[32mfresh" in shown
    assert "\x1b[?" not in shown
    assert "\x1b" not in cli.run("top", env={**environment, "NO_COLOR": "1"}).stdout
