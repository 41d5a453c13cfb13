"""``run``: have FILE made by COMMAND if it is stale, by one process at a time, and swapped in whole."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from stat import S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFSOCK, S_ISREG

from ... import Datafile, DatafileError, Status
from ..._os.replace import lstat
from ...errors import explaining
from ..child.progress import line_on_terminal, progress_on_terminal
from ..child.runner import OUTPUT_VARIABLE, Interrupted, Runner, shell_status
from ..child.signals import Signals
from ..durations import format_seconds
from ..exits import DATAERR, OK, TEMPFAIL, UNAVAILABLE, Exit
from ..options import Settings
from ..output import Voice, printable
from .lookup import refuse_descriptor

__all__ = ["run"]

_PLACEHOLDER = "{}"
_KINDS = {S_IFDIR: "a directory", S_IFIFO: "a FIFO", S_IFLNK: "a symbolic link", S_IFSOCK: "a socket"}


def run(settings: Settings, voice: Voice) -> int:
    """Do what *settings* ask for; returns 0.

    :raises Exit: with COMMAND's own status if that failed, and for whatever else ends it early.
    :raises Interrupted: if a signal ended it while a child ran, or while the new file was swapped in.
    :raises DogpileError: if FILE cannot be coordinated or swapped.
    """
    creation = _Creation(settings, voice)
    if not creation.refresh():
        return OK
    if settings.then is not None and creation.swapped:
        creation.follow_up(settings.then)
    return OK


class _Creation:
    def __init__(self, settings: Settings, voice: Voice) -> None:
        self.settings = settings
        self.voice = voice
        refuse_descriptor(settings.output)
        self.datafile = Datafile(
            settings.output,
            settings.expire,
            self.create,
            validate=None if settings.validate is None else self.validate,
            keep=settings.keep,
            skip_unchanged=settings.skip_unchanged,
            readers=settings.readers,
            directory=settings.directory,
        )
        # Not before: where the current directory was deleted, the datafile knows the cure.
        self.file = os.path.abspath(settings.output)
        # Noted from the moment that COMMAND is started until the swap is complete: a signal that comes in the
        # middle of the swap waits for its end. Before, nothing needs tidying: it does what it does to anybody.
        self._noting = ExitStack()
        self._signals = Signals()
        self._is_noting = False
        self._before: tuple[int, ...] | None = None
        #: Whether this process has put a new version in place.
        self.swapped = False
        self._runner = Runner(self._signals, settings.timeout, settings.kill_after)

    def refresh(self) -> bool:
        """Create if need be; whether this process did."""
        settings = self.settings
        with ExitStack() as told:
            if not settings.quiet:
                told.enter_context(self._telling_what_is(self.datafile.status()))
            with self._noting:
                created = self.datafile.refresh(settings.force, timeout=self._timeout())
        if self._signals.received:
            raise Interrupted(self._signals.received[0])
        self.swapped = created and self.datafile.dogpile.version != self._before
        if self.voice.loudness > 0:
            self._tell_what_was_done(created, self.datafile.status())
        return created

    def create(self, target: str) -> None:
        """The datafile's creator."""
        if not self._is_noting:  # it may be called again
            self._noting.enter_context(self._signals)
            self._is_noting = True
        self._before = self.datafile.dogpile.version
        settings = self.settings
        words = [word.replace(_PLACEHOLDER, target) for word in settings.command]
        self.voice.tell(f"{settings.output}: creating: {shlex.join(words)}")
        progress = None
        if not settings.quiet:
            progress = progress_on_terminal(os.path.basename(self.file), self.datafile.status().cost)
        with ExitStack() as stack:
            stdout = None
            if settings.stdout:
                stack.enter_context(explaining(DatafileError, target, "write"))
                # What replaces a file is nobody else's until it has that one's permissions: these may be narrower
                # than what the umask leaves.
                replaces = os.path.exists(self.file)
                mode = 0o600 if replaces else 0o666
                stdout = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                stack.callback(os.close, stdout)
            try:
                ended = self._runner.run(words, target, name="COMMAND", stdout=stdout, progress=progress)
            except Interrupted:
                raise
            except Exit as error:
                raise Exit(error.status, f"{settings.output} is not replaced: {error}") from error
            if stdout is not None and replaces and not os.path.exists(self.file):
                os.fchmod(stdout, 0o666 & ~_umask())  # it was removed meanwhile: this will be a first one
        if ended:
            raise Exit(
                shell_status(ended), f"{settings.output} is not replaced: COMMAND ({words[0]}) {_told(ended)}"
            )
        found = lstat(target)
        is_made = found is not None and S_ISREG(found.st_mode)
        if not is_made and not self.datafile.dogpile.dogpilelock.lost:
            instead = "" if found is None else f", but {_KINDS.get(S_IFMT(found.st_mode), 'a device')}"
            raise Exit(
                DATAERR,
                f"{settings.output} is not replaced: COMMAND made no file at ${OUTPUT_VARIABLE}{instead}",
            )

        if settings.readers and settings.validate is None:
            self._signals.raise_from_now_on(Interrupted)

    def validate(self, target: str) -> None:
        """The datafile's validator."""
        assert self.settings.validate is not None
        try:
            ended = self._runner.run(_shell(self.settings.validate, target), target, name="--validate")
        except Interrupted:
            raise
        except Exit as error:
            raise Exit(DATAERR, f"{self.settings.output} is not replaced: {error}") from error
        if ended:
            raise Exit(
                DATAERR,
                f"{self.settings.output} is not replaced: --validate refused the new one: it {_told(ended)}",
            )
        if self.settings.readers:
            # Readers may be waited for, for long. Whoever is killed in a swap does no harm; nor does who raises.
            self._signals.raise_from_now_on(Interrupted)

    def _timeout(self) -> float | None:
        settings = self.settings
        if not settings.no_wait:
            return settings.wait
        if not settings.readers:
            return 0.0
        # The swap's wait for readers is not what is not to be waited for.
        status = self.datafile.status()
        if status.creating and (settings.force or status.state == "nothing"):
            raise Exit(TEMPFAIL, f"another process is creating {settings.output}: try again later")
        return None

    def follow_up(self, then: str) -> None:
        """Run *then*, after the swap, with nothing locked."""
        try:
            with Signals() as signals:
                runner = Runner(signals, self.settings.timeout, self.settings.kill_after)
                ended = runner.run(_shell(then, self.file), self.file, name="--then")
        except Interrupted:
            raise
        except Exit as error:
            raise Exit(UNAVAILABLE, f"{self.settings.output} is new, but {error}") from error
        if ended:
            raise Exit(UNAVAILABLE, f"{self.settings.output} is new, but --then {_told(ended)}")

    def _telling_what_is(self, status: Status) -> AbstractContextManager[None]:
        """Tell it, and as long as the block lasts, at a terminal, who is waited for."""
        output = self.settings.output
        if status.age is None:
            self.voice.tell(f"{output}: nothing yet")
        else:
            self.voice.tell(f"{output}: {status.state}, {format_seconds(status.age)} old")
        if not status.creating or not (status.state == "nothing" or self.settings.force):
            return nullcontext()
        who = "another process"
        if status.creating_host:
            who += f" ({printable(status.creating_host)}:{status.creating_pid})"
        self.voice.tell(f"{output}: {who} is creating: waiting")
        return line_on_terminal(f"{os.path.basename(self.file)}: waiting, {who} is creating")

    def _tell_what_was_done(self, created: bool, status: Status) -> None:
        output = self.settings.output
        if created and not self.swapped:
            self.voice.tell(f"{output}: made, and the same as before: it stays, and is fresh")
        elif created:
            self.voice.tell(
                f"{output}: new, generation {status.generation}, created in {format_seconds(status.cost or 0)}"
            )
        elif status.state == "stale" and status.creating:
            self.voice.tell(f"{output}: another process is creating: nothing to do")
        else:
            self.voice.tell(f"{output}: {status.state}: nothing to do")


def _shell(line: str, path: str) -> Sequence[str]:
    # Within the user's own quotes, ours would be none: a path that needs them is left to the variable, whose value
    # no shell takes for a command.
    variable = f'"${OUTPUT_VARIABLE}"'
    for quoted in (f'"{_PLACEHOLDER}"', f"'{_PLACEHOLDER}'"):
        line = line.replace(quoted, variable)
    return ["/bin/sh", "-c", line.replace(_PLACEHOLDER, path if shlex.quote(path) == path else variable)]


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _told(ended: int) -> str:
    return f"ended with status {ended}" if ended > 0 else f"was ended by {signal.Signals(-ended).name}"
