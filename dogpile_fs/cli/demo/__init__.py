"""``dogpile-fs demo``: worker processes that share one datafile over several expiries, shown live as a timeline.

What is shown was recorded by real processes, which use the datafile as a user's do. At the end it is held against
what is promised: that is the exit status.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from typing import Protocol, TextIO

from ..._datafile.atomic import atomic_write
from ..child.signals import Signals, die_of
from ..exits import CANTCREAT, NOPERM, USAGE, Exit
from ..output import printable_name
from . import frame
from .frame import ASCII, MONOCHROME, UNICODE, Glyphs, paint
from .story import sentence
from .svg import svg
from .terminal import Display, is_capable
from .timeline import Event, Timeline
from .verdict import faults, summary, totals
from .workers import Crew, Plan

__all__ = ["add_arguments", "main"]

_SHORTEST, _LONGEST, _USUAL = 4.0, 20.0, 12.0
_FEWEST_WORKERS, _MOST_WORKERS = 2, 32
#: Seconds from one frame to the next.
_FRAME = 0.1
#: Columns beyond which a timeline is not easier to read.
_WIDEST = 140


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``demo`` understands to *parser*."""
    parser.description = """\
Shows worker processes that share one datafile over several expiries, live: who reads, who creates, who waits. It
takes a quarter of a minute and leaves nothing behind. The exit status is 0 if all was as promised, else 1."""
    parser.add_argument(
        "--plain", action="store_true", help="a line per event and no control codes, as when stdout is no terminal"
    )
    parser.add_argument("--svg", metavar="FILE", help="also write the timeline to FILE, as a picture")
    parser.add_argument(
        "--seconds",
        metavar="N",
        type=_seconds,
        default=_USUAL,
        help=f"how long it takes: {_SHORTEST:g} to {_LONGEST:g} (default: {_USUAL:g})",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=_workers,
        default=8,
        help=f"how many processes: {_FEWEST_WORKERS} to {_MOST_WORKERS} (default: 8); of 3 or more, one is killed",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not _SHORTEST <= seconds <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not from {_SHORTEST:g} to {_LONGEST:g} seconds")
    return seconds


def _workers(text: str) -> int:
    number = int(text[:9]) if text.isascii() and text.isdigit() else 0
    if not _FEWEST_WORKERS <= number <= _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not from {_FEWEST_WORKERS} to {_MOST_WORKERS} processes")
    return number


def main(arguments: argparse.Namespace) -> int:
    """Run the demo; in the main thread only. A signal that ends it ends the process, when all is tidy.

    :returns: the exit status: 0 if all was as promised, 1 if not.
    :raises Exit: if there is no place for the picture.
    """
    if arguments.svg is not None:
        _make_sure_that_it_can_be_written(arguments.svg)
    plan = Plan(arguments.workers, arguments.seconds)
    timeline = Timeline(plan.workers, plan.expiretime)
    stdout = _standard_output()
    live = is_capable(stdout) and not arguments.plain
    stage: Stage = _Live(plan, timeline, stdout) if live else _Plain(plan, timeline, stdout)
    with Signals() as signals:
        wrong = _run(plan, timeline, stage, signals)
    if signals.received:
        return die_of(signals.received[0])
    stage.conclude(wrong)
    if arguments.svg is not None:
        counts = totals(timeline).lines()
        with atomic_write(arguments.svg, "w", encoding="utf-8") as file:
            file.write(svg(timeline, *_headlines(plan), counts, _conclusion(timeline, wrong)))
        print(f"The picture is in {printable_name(arguments.svg)}")
    return 1 if wrong else 0


class Stage(Protocol):
    """Where the demo is shown."""

    def open(self, stack: ExitStack) -> None:
        """Begin; what is to be done at the end, *stack* does."""

    def tell(self, event: Event) -> None:
        """*event* has just been added to the timeline."""

    def show(self, now: float) -> None:
        """The timeline stands as it is *now*."""

    def conclude(self, wrong: list[str]) -> None:
        """All is over, and this is *wrong*."""


def _run(plan: Plan, timeline: Timeline, stage: Stage, signals: Signals) -> list[str]:
    """Let the workers do what they do and *stage* show it; what was not as promised, unless a signal came."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="dogpile-fs-demo-"))
        crew = stack.enter_context(Crew(plan, directory))
        stage.open(stack)
        while not crew.over:
            for event in crew.events(_FRAME):
                timeline.add(event)
                stage.tell(event)
            stage.show(crew.now)
            if signals.wait(0):
                return []
            if crew.is_stuck:
                return [*faults(timeline), f"{crew.busy} did not end"]
        killed = {event.worker for event in timeline.events("killed")}
        return [*faults(timeline), *crew.unexpected_ends(killed), *_left_behind(directory)]


def _left_behind(directory: str) -> list[str]:
    """What stands in *directory* of creations that came to nothing; the next one should have removed it."""
    return [f"{name} was left behind" for name in sorted(os.listdir(directory)) if name.startswith(".dogpile-")]


def _headlines(plan: Plan) -> tuple[str, str]:
    return (
        f"{plan.workers} processes share one datafile",
        f"Stale after {plan.expiretime:g} s, created in {plan.build:g} s: one creates, all others go on reading.",
    )


def _conclusion(timeline: Timeline, wrong: list[str]) -> list[str]:
    return [f"NOT AS PROMISED: {fault}." for fault in wrong] or [summary(timeline)]


def _glyphs(stream: TextIO) -> Glyphs:
    """Those that *stream* can tell."""
    try:
        "".join([*UNICODE.states.values(), UNICODE.border, UNICODE.stale]).encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return ASCII
    return UNICODE


class _Plain:
    """For logs: what happens, a line each; at the end the timeline."""

    def __init__(self, plan: Plan, timeline: Timeline, stream: TextIO) -> None:
        self.plan = plan
        self.timeline = timeline
        self.stream = stream
        self.glyphs = _glyphs(stream)
        self.colours = MONOCHROME

    def open(self, stack: ExitStack) -> None:
        self._print(*_headlines(self.plan), "")

    def tell(self, event: Event) -> None:
        told = sentence(event, self.timeline)
        if told is not None:
            self._print(f"{event.at:6.2f} s  {told}")

    def show(self, now: float) -> None:
        self.stream.flush()

    def conclude(self, wrong: list[str]) -> None:
        self._print("")
        self._conclude(wrong)

    def _conclude(self, wrong: list[str]) -> None:
        width = self._width()
        end = self.timeline.end or 1.0
        lines = [
            *frame.picture(self.timeline, self.glyphs, width, end, end),
            [],
            *frame.legend(self.glyphs, width),
            [],
            *frame.table(totals(self.timeline).lines(), width),
            [],
        ]
        for said in _conclusion(self.timeline, wrong):
            lines += frame.paragraph(said, "killed" if wrong else "title", width)
        self._print(*(paint(line, self.colours, width) for line in lines))

    def _width(self) -> int:
        return min(shutil.get_terminal_size().columns - 1, _WIDEST)

    def _print(self, *lines: str) -> None:
        for line in lines:
            print(line, file=self.stream)
        self.stream.flush()


class _Live(_Plain):
    """For people: a picture that grows; at the end it stays, with the totals."""

    def __init__(self, plan: Plan, timeline: Timeline, stream: TextIO) -> None:
        super().__init__(plan, timeline, stream)
        self.colours = frame.palette(os.environ)
        self.display = Display(stream)

    def open(self, stack: ExitStack) -> None:
        stack.enter_context(self.display)
        self.show(0.0)

    def tell(self, event: Event) -> None:
        pass

    def show(self, now: float) -> None:
        columns, lines = self.display.size
        width = max(1, min(columns - 1, _WIDEST))
        counts = totals(self.timeline)
        shown = frame.frame(
            self.timeline,
            self.glyphs,
            width,
            lines,
            max(self.plan.seconds, now),
            now,
            _headlines(self.plan),
            f"{now:5.1f} s   {counts.reads} reads: {counts.fresh} fresh, {counts.stale} stale, "
            f"{counts.waited} waited   {counts.creations} creations   {counts.torn} torn",
        )
        self.display.show(paint(line, self.colours, width) for line in shown)

    def conclude(self, wrong: list[str]) -> None:
        title, subtitle = _headlines(self.plan)
        width = self._width()
        for line in [*frame.paragraph(title, "title", width), *frame.paragraph(subtitle, "quiet", width), []]:
            self._print(paint(line, self.colours))
        self._conclude(wrong)


def _standard_output() -> TextIO:
    """Where it is shown; nowhere, if that is closed: its exit status and picture may be wanted all the same."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return sys.stdout


def _make_sure_that_it_can_be_written(path: str) -> None:
    """Rather now than when the demo is over.

    :raises Exit, OSError: if not.
    """
    if os.path.basename(path) in ("", os.curdir, os.pardir) and not os.path.isdir(path):
        raise Exit(USAGE, f"--svg {path!r} names no file")
    directory = os.path.dirname(path) or "."
    try:
        os.stat(directory)
    except FileNotFoundError as error:
        raise Exit(CANTCREAT, f"{path!r}: the directory {directory!r} does not exist: make it first") from error
    if os.path.isdir(path):
        raise Exit(CANTCREAT, f"{path!r} is a directory: name a file in it")
    if not os.path.isdir(directory):
        raise Exit(CANTCREAT, f"{path!r}: {directory!r} is no directory")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise Exit(NOPERM, f"{path!r}: this user may not write in {directory!r}")
