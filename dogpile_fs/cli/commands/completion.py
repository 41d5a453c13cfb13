"""``completion``: what a shell needs to complete command lines; shtab makes it from the parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from ..arguments import Arguments, whole_parser
from ..exits import OK, UNAVAILABLE, Exit

__all__ = ["main"]

#: What is completed as a value, by the name that the help has for it. Other values are not completed.
_KINDS = {"FILE": "FILE", "PATH": "FILE", "DIR": "DIRECTORY"}


def main(arguments: Arguments) -> int:
    """Print the completion of the shell.

    :raises Exit: with status 69, if shtab is not installed.
    """
    try:
        import shtab
    except ModuleNotFoundError as error:
        if error.name != "shtab":
            raise
        raise Exit(
            UNAVAILABLE,
            "completion needs the package shtab. Hint: python -m pip install 'dogpile_fs[completion]'",
        ) from error
    parser = whole_parser()
    for action in _actions(parser):
        if isinstance(action.metavar, str) and action.metavar in _KINDS:
            action.complete = getattr(shtab, _KINDS[action.metavar])  # where shtab looks for it
    print(shtab.complete(parser, shell=arguments.shell))
    return OK


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    """Yield the options and arguments of *parser* and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
