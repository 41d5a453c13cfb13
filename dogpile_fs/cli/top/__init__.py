"""``dogpile-fs top``: all datafiles below a directory, live: their ages, creations, failures and sizes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

from ..arguments import Arguments
from ..child.signals import Signals, die_of
from ..commands.lookup import refuse_descriptor
from ..commands.status import as_object, is_expiry_known
from ..exits import NOINPUT, OK, UNAVAILABLE, Exit
from ..output import Reporter
from ..terminal import Display, is_capable
from .survey import Finding, Survey

__all__ = ["main"]

#: Seconds from one look at the resources to the next.
_EVERY = 1.0
#: Looks that take long are made less often: at most this part of the time is spent on them.
_MOST = 0.2


def main(arguments: Arguments) -> int:
    """Show the resources until Ctrl-C, or once.

    :raises Exit: with status 69, if rich is not installed.
    :raises OSError: if the directory cannot be listed.
    """
    refuse_descriptor(arguments.below)
    try:
        survey = Survey(arguments.below)
    except NotADirectoryError as error:
        raise Exit(NOINPUT, f"{arguments.below!r} is no directory. Hint: status shows a single file.") from error
    if arguments.json:
        print(json.dumps([_as_object(finding) for finding in survey.findings()], indent=2))
        return OK
    try:
        from . import table
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        raise Exit(
            UNAVAILABLE,
            "top needs the package rich. Hint: python -m pip install 'dogpile_fs[top]'; top --json needs none.",
        ) from error
    if sys.stdout is None:  # closed: as status, which then prints nothing
        return OK
    look = table.Look.of(sys.stdout, os.environ)
    if arguments.once or not is_capable(sys.stdout):
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(*table.listing(survey.findings(), survey.directory, look, width), sep="\n")
        return OK
    Reporter(-1)  # a warning would break the picture; --once prints it
    with Signals() as signals, Display(sys.stdout) as display, _woken_by_resizing():
        while not signals.received:
            began = monotonic()
            findings = survey.findings()
            due = monotonic() + max(_EVERY, (monotonic() - began) / _MOST)
            is_new = True
            while not signals.received and (is_new or monotonic() < due):
                if is_new or display.is_outdated:
                    display.show(table.frame(findings, survey.directory, look, *display.size))
                    is_new = False
                signals.wait(max(0.0, due - monotonic()))
    return die_of(signals.received[0])


def _as_object(finding: Finding) -> dict[str, object]:
    """Return what ``--json`` says of *finding*: what ``status --json`` says, the size, and why it is not known."""
    about: dict[str, object] = {"path": finding.path}
    if finding.status is not None:
        about = as_object(finding.path, finding.status, is_expiry_known(finding.status))
    elif finding.keys is not None:
        about |= {"keys": finding.keys, "failing": finding.failing}
    return {**about, "size": finding.size, "error": finding.complaint or None}


@contextmanager
def _woken_by_resizing() -> Iterator[None]:
    """End a wait for signals in the block when the terminal gets another size."""

    def note(number: int, frame: FrameType | None) -> None:
        pass

    before = signal.signal(signal.SIGWINCH, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
