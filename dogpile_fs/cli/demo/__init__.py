"""``dogpile-fs demo``: worker processes that share one datafile over several expiries, shown live as a timeline.

Real processes, which use the datafile as a user's do, record what is shown. At the end it is checked against the
promises: the exit status says whether they were kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import TextIO

from ..._datafile.atomic import atomic_write
from ..._datafile.names import names_in
from ..._layout import HIDDEN_DIRECTORY, TEMP_PREFIX
from ..child.signals import Signals, die_of
from ..exits import CANTCREAT, NOPERM, USAGE, Exit
from ..output import printable_name
from ..terminal import Display, can_encode, is_capable, wants_colours
from . import frame
from .frame import ASCII, UNICODE, Glyphs, paint
from .story import sentence
from .svg import svg
from .timeline import Event, Timeline
from .verdict import faults, summary, totals
from .workers import Crew, Plan

__all__ = ["add_arguments", "main"]

#: Seconds and processes, least and most. In less time no expiry is seen; more is no easier to follow.
_SECONDS = (4.0, 20.0)
_WORKERS = (2, 32)
#: Seconds from one frame to the next.
_FRAME = 0.1
#: Columns of a timeline; a wider one is no easier to read.
_WIDEST = 140


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``demo`` to *parser*."""
    parser.description = """\
Show worker processes that share one datafile over several expiries, live: which ones read, which creates, which
wait. One creation fails, one is killed, and one runs in the background. It takes a quarter of a minute and leaves
nothing behind. Exit status: 0 all promises were kept; else 1."""
    parser.add_argument(
        "--plain", action="store_true", help="a line per event and no control codes, as when stdout is no terminal"
    )
    parser.add_argument("--svg", metavar="FILE", help="also write the timeline to FILE, as a picture")
    parser.add_argument(
        "--seconds",
        metavar="N",
        type=_between(float, *_SECONDS, "seconds"),
        default=15.0,
        help=f"how long it takes: {_SECONDS[0]:g} to {_SECONDS[1]:g} (default: 15)",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=_between(int, *_WORKERS, "processes"),
        default=8,
        help=f"how many processes: {_WORKERS[0]} to {_WORKERS[1]} (default: 8); of 3 or more, one is killed",
    )


def _between(kind: type[int] | type[float], least: float, most: float, unit: str) -> Callable[[str], float]:
    """Return a function that reads a number from *least* to *most*."""

    def read(text: str) -> float:
        try:
            if least <= (number := kind(text)) <= most:
                return number
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text!r} is not from {least:g} to {most:g} {unit}")

    return read


def main(arguments: argparse.Namespace) -> int:
    """Run the demo; in the main thread only. A signal that ends it ends the process, after all is tidied up.

    :returns: the exit status: 0 if all promises were kept, 1 if not.
    :raises Exit: if the picture cannot be written.
    """
    if arguments.svg is not None:
        _check_that_it_can_be_written(arguments.svg)
    if sys.stdout is None:  # closed: exit status and picture may be wanted all the same
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    plan = Plan(arguments.workers, arguments.seconds)
    timeline = Timeline(plan.workers, plan.expiretime, backoff=plan.backoff)
    colours = frame.MONOCHROME
    if not arguments.plain and wants_colours(sys.stdout, os.environ):
        colours = frame.palette(os.environ)
    kind = _Plain if arguments.plain or not is_capable(sys.stdout) else _Live
    stage = kind(plan, timeline, sys.stdout, colours)
    with Signals() as signals:
        broken = _run(plan, timeline, stage, signals)
    if signals.received:
        return die_of(signals.received[0])
    conclusion = [f"NOT AS PROMISED: {fault}." for fault in broken] or [summary(timeline)]
    stage.conclude(conclusion, "killed" if broken else "title")
    if arguments.svg is not None:
        with atomic_write(arguments.svg, "w", encoding="utf-8") as file:
            file.write(svg(timeline, *_headlines(plan), totals(timeline).lines(), conclusion))
        print(f"The picture is in {printable_name(arguments.svg)}")
    return 1 if broken else 0


def _run(plan: Plan, timeline: Timeline, stage: _Plain, signals: Signals) -> list[str]:
    """Let the workers work and *stage* show it; return the broken promises, unless a signal came."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="dogpile-fs-demo-"))
        crew = stack.enter_context(Crew(plan, directory))
        stage.open(stack)
        while not crew.over:
            for event in crew.events(_FRAME):
                timeline.add(event)
                stage.report(event)
            stage.show(crew.now)
            if signals.wait(0):
                return []
            if crew.is_stuck:
                busy = [
                    f"worker {n} did not end" for n, process in enumerate(crew.processes, 1) if process.is_alive()
                ]
                return [*faults(timeline), *(busy or ["the background process did not end"])]
        killed = {event.worker for event in timeline.events("killed")}
        # A creation that failed leaves a file, which the next creation should have removed.
        hidden = os.path.join(directory, HIDDEN_DIRECTORY)
        left = [f"{name} was left behind" for name in sorted(names_in(hidden, TEMP_PREFIX))]
        return [*faults(timeline), *crew.unexpected_ends(killed), *left]


def _headlines(plan: Plan) -> tuple[str, str]:
    return (
        f"{plan.workers} processes share one datafile",
        f"Stale after {plan.expiretime:g} s, created in {plan.build:g} s: one creates, all others go on reading.",
    )


def _glyphs(stream: TextIO) -> Glyphs:
    """Return the glyphs that *stream* can encode."""
    every = "".join([*UNICODE.states.values(), *UNICODE.datafile.values(), UNICODE.border])
    return UNICODE if can_encode(stream, every) else ASCII


class _Plain:
    """The demo in a log: a line per event, and the timeline at the end."""

    def __init__(self, plan: Plan, timeline: Timeline, stream: TextIO, colours: frame.Palette) -> None:
        self.plan = plan
        self.timeline = timeline
        self.stream = stream
        self.glyphs = _glyphs(stream)
        self.colours = colours

    def open(self, stack: ExitStack) -> None:
        """Show the beginning; *stack* gets what is to be done at the end."""
        print(*_headlines(self.plan), "", sep="\n", file=self.stream, flush=True)

    def report(self, event: Event) -> None:
        """Show *event*, which has just been added to the timeline."""
        line = sentence(event, self.timeline)
        if line is not None:
            print(f"{event.at:6.2f} s  {line}", file=self.stream, flush=True)

    def show(self, now: float) -> None:
        """Show the timeline as it is *now*."""

    def conclude(self, conclusion: list[str], style: frame.Style) -> None:
        """Show the whole timeline, the totals and the *conclusion*."""
        width = min(shutil.get_terminal_size().columns - 1, _WIDEST)
        end = self.timeline.end or 1.0
        lines = [
            *self.heading(width),
            [],
            *frame.picture(self.timeline, self.glyphs, width, end, end),
            [],
            *frame.legend(self.glyphs, width),
            [],
            *frame.table(totals(self.timeline).lines(), width),
            [],
            *(line for sentence in conclusion for line in frame.paragraph(sentence, style, width)),
        ]
        print(*(paint(line, self.colours, width) for line in lines), sep="\n", file=self.stream, flush=True)

    def heading(self, width: int) -> list[frame.Line]:
        """Return the lines above the whole timeline."""
        return []


class _Live(_Plain):
    """The demo in a terminal: a picture that grows; the whole of it stays, with the totals."""

    def open(self, stack: ExitStack) -> None:
        self.display = stack.enter_context(Display(self.stream))
        self.show(0.0)

    def report(self, event: Event) -> None:
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
            f"{now:5.1f} s   reads {counts.reads}   {counts.torn} torn",
        )
        self.display.show(paint(line, self.colours, width) for line in shown)

    def heading(self, width: int) -> list[frame.Line]:
        title, subtitle = _headlines(self.plan)
        return [*frame.paragraph(title, "title", width), *frame.paragraph(subtitle, "quiet", width)]


def _check_that_it_can_be_written(path: str) -> None:
    """Refuse a *path* that the picture cannot be written to, before the demo and not after it.

    :raises Exit, OSError: if it cannot.
    """
    directory = os.path.dirname(path) or "."
    if os.path.basename(path) in ("", os.curdir, os.pardir) and not os.path.isdir(path):
        raise Exit(USAGE, f"--svg {path!r} names no file")
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
