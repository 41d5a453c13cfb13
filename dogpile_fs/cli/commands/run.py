"""``run``: have FILE made by COMMAND if it is stale, by one process at a time, and swapped in whole."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from stat import S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFSOCK, S_ISREG

from ... import Backoff, Datafile, DatafileError, DogpileError, Outcome, Policy, SidecarError, Status
from ..._datafile.made_instead import made_instead, signature
from ..._dogpile.status import creator_in
from ..._os.replace import lstat, remove
from ..._sidecar.record import LONGEST_NOTE
from ...errors import os_errors_as
from ..child.progress import line_on_terminal, progress_on_terminal
from ..child.runner import OUTPUT_VARIABLE, Interrupted, Runner, shell_status
from ..child.signals import Signals
from ..durations import format_seconds
from ..exits import CANTCREAT, DATAERR, OK, TEMPFAIL, UNAVAILABLE, USAGE, Exit, message_of, status_of
from ..options import Settings
from ..output import Reporter, failure_told, process_name, say
from .lookup import refuse_descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ... import Origin
    from ..._datafile.target import Target

__all__ = ["run"]

_PLACEHOLDER = "{}"
#: The states in which callers wait for a creation.
_NOTHING = ("expired", "missing")
#: Bytes of a note that are read: more than a note may have.
_MOST_NOTE = 4096
_KINDS = {S_IFDIR: "a directory", S_IFIFO: "a FIFO", S_IFLNK: "a symbolic link", S_IFSOCK: "a socket"}


def run(settings: Settings, reporter: Reporter) -> int:
    """Do what *settings* ask for; return 0.

    :raises Exit: with COMMAND's own status if that failed and its failure is not tolerated, and for whatever else
        ends the run early.
    :raises Interrupted: if a signal came while a child ran, or while the new file was swapped in.
    :raises DogpileError: if FILE cannot be coordinated or swapped.
    """
    creation = _Creation(settings, reporter)
    try:
        creation.refresh()
    except (Exit, DogpileError, OSError) as error:
        if not creation.was_tried or isinstance(error, SidecarError):  # the latter: the new file was not stamped
            raise
        creation.fail(error)
    if settings.then is not None and creation.swapped:
        creation.follow_up(settings.then)
    return OK


def _origin_of(settings: Settings) -> Origin | None:
    """:raises ValueError: if what was given names none."""
    if settings.origin is None:
        return None
    from ... import Origin  # here: few runs have one

    return Origin(settings.origin, hint=settings.hint)


class _Creation:
    def __init__(self, settings: Settings, reporter: Reporter) -> None:
        self.settings = settings
        self.reporter = reporter
        refuse_descriptor(settings.output)
        policy = Policy(
            stale_if_error=settings.stale_if_error,
            max_stale=settings.max_stale,
            refresh_early=settings.refresh_early,
            jitter=settings.jitter,
            depends_on=settings.depends_on,
        )
        if "backoff" in settings.given:
            policy = replace(policy, backoff=settings.backoff and Backoff(*settings.backoff))
        try:
            self.datafile = Datafile(
                settings.output,
                settings.expire,
                self.create,
                validate=None if settings.validate is None else self.validate,
                keep=settings.keep,
                skip_unchanged=settings.skip_unchanged,
                readers=settings.readers,
                directory=settings.directory,
                policy=policy,
                origin=_origin_of(settings),
            )
        except ValueError as error:
            raise Exit(USAGE, str(error)) from error  # FILE is among its own inputs
        # After the datafile, which has a hint for a current directory that was deleted.
        self.file = os.path.abspath(settings.output)
        # Signals are only noted from the start of COMMAND until the swap is complete: a signal in the middle of
        # the swap waits for its end. Before, there is nothing to tidy up, and a signal ends this process.
        self._noting = ExitStack()
        self._signals = Signals()
        self._is_noting = False
        self._before: tuple[int, ...] | None = None
        #: Whether this process has begun to create.
        self.was_tried = False
        #: Whether this process has put a new version in place.
        self.swapped = False

    def refresh(self) -> None:
        """Create if FILE is stale or missing, or if that is forced."""
        settings = self.settings
        shared = self.datafile._dogpile._shared
        shared.kind, shared.creator_timeout = "command", settings.timeout
        with nullcontext() if settings.quiet else self._reporting(self.datafile.status()), self._noting:
            outcome = self.datafile.refresh(settings.force, timeout=self._timeout())
        if self._signals.received:
            raise Interrupted(self._signals.received[0])
        self.swapped = bool(outcome) and self.datafile._dogpile.version != self._before
        if outcome == Outcome.backing_off and (status := self.datafile.status()).state in _NOTHING:
            raise Exit(
                TEMPFAIL, f"{settings.output} is not made: {failure_told(status)}. Hint: --force tries at once."
            )
        if self.reporter.loudness > 0:
            self._report_result(outcome, self.datafile.status())

    def fail(self, error: Exception) -> None:
        """Do what is to be done after a failed attempt; raise *error*, unless the old FILE will do."""
        message = message_of(error)
        try:
            status = self.datafile.status()
            is_tolerated = status.state not in _NOTHING and self._is_tolerated()
            self.reporter.report(f"{self.settings.output}: {failure_told(status)}")
        except DogpileError:  # it must not hide the first error
            status, is_tolerated = None, False
        if self.settings.on_failure is not None and (complaint := self._on_failure(error, status)):
            message += f"; {complaint}"
        if not is_tolerated:
            raise Exit(status_of(error, CANTCREAT), message) from error
        if not self.settings.quiet:
            say(message)

    def _is_tolerated(self) -> bool:
        stale_from = self.datafile._dogpile._record.stale_from(self.settings.expire)
        return self.datafile._dogpile._policy._tolerates(time.time() - stale_from)

    def _on_failure(self, error: Exception, status: Status | None) -> str:
        """Run ``--on-failure``, with nothing locked; return what went wrong with it."""
        assert self.settings.on_failure is not None
        variables = {
            "DOGPILE_FS_FAILURE": getattr(error, "failure_name", type(error).__name__),
            "DOGPILE_FS_FAILURES": "" if status is None else str(status.failures),
        }
        try:
            with Signals() as signals:
                ended = self._run_shell(signals, self.settings.on_failure, self.file, "--on-failure", variables)
        except Exit as failure:
            return str(failure)
        return f"--on-failure {_end(ended)}" if ended else ""

    def create(self, target: Target) -> object:
        """Make the file at *target* by COMMAND: the datafile's creator."""
        self.was_tried = True
        if not self._is_noting:  # it may be called again
            self._noting.enter_context(self._signals)
            self._is_noting = True
        self._before = self.datafile._dogpile.version
        before = signature(self.file)
        settings = self.settings
        words = [word.replace(_PLACEHOLDER, target) for word in settings.command]
        self.reporter.report(f"{settings.output}: creating: {shlex.join(words)}")
        progress = None
        if not settings.quiet:
            progress = progress_on_terminal(os.path.basename(self.file), self.datafile.status().cost)
        note_file = f"{target}.note"
        variables = {
            OUTPUT_VARIABLE: target,
            "DOGPILE_FS_PREVIOUS": target.previous or "",
            "DOGPILE_FS_NOTE": target.note.replace("\0", ""),  # no variable can have that
            "DOGPILE_FS_NOTE_FILE": note_file,
        }
        with ExitStack() as stack:
            stdout = None
            if settings.stdout:
                stack.enter_context(os_errors_as(DatafileError, target, "write"))
                # The permissions of the file that it replaces may be narrower than what the umask leaves: until it
                # has these, only this user may open it.
                replaces = os.path.exists(self.file)
                stdout = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if replaces else 0o666)
                stack.callback(os.close, stdout)
            with self._not_replaced(), _removing(note_file):
                runner = Runner(self._signals, settings.timeout, settings.kill_after)
                ended = runner.run(words, variables, name="COMMAND", stdout=stdout, progress=progress)
                is_unchanged = ended == settings.unchanged_status
                if is_unchanged or not ended:
                    _take_note(target, note_file)
            if stdout is not None and replaces and not os.path.exists(self.file):
                os.fchmod(stdout, 0o666 & ~_umask())  # the old file was removed meanwhile: this is a first one
            is_empty = stdout is not None and not os.fstat(stdout).st_size
        if is_unchanged:
            if target.previous is None:
                why = f"COMMAND says by status {ended} that it is unchanged, but there is no file"
                raise self._refusal(DATAERR, why, "no file")
            return target.unchanged()
        if ended:
            name = f"status {ended}" if ended > 0 else _signal_name(-ended)
            raise self._refusal(shell_status(ended), f"COMMAND ({words[0]}) {_end(ended)}", name, ended)
        found = lstat(target)
        if (found is None or not S_ISREG(found.st_mode)) and not self.datafile._dogpile.dogpilelock.lost:
            instead = "" if found is None else f", but {_KINDS.get(S_IFMT(found.st_mode), 'a device')}"
            if found is None and (made := made_instead(target, self.file, before)):
                instead = f", {made[0]}. Hint: {made[1]}."
            raise self._refusal(DATAERR, f"COMMAND made no file at ${OUTPUT_VARIABLE}{instead}", "no file")
        if is_empty and (made := made_instead(target, self.file, before)):
            hint = "leave --stdout out, or let COMMAND print the contents"
            raise self._refusal(DATAERR, f"COMMAND printed nothing, {made[0]}. Hint: {hint}.", "no file")
        if settings.validate is None:
            self._allow_interruption()
        return None

    def validate(self, target: str) -> None:
        """Have *target* looked at by ``--validate``: the datafile's validator."""
        assert self.settings.validate is not None
        with self._not_replaced(DATAERR):
            ended = self._run_shell(self._signals, self.settings.validate, target, "--validate", {})
        if ended:
            raise self._refusal(DATAERR, f"--validate refused the new one: it {_end(ended)}", "refused", ended)
        self._allow_interruption()

    def follow_up(self, then: str) -> None:
        """Run *then*, after the swap, with nothing locked."""
        output = self.settings.output
        try:
            with Signals() as signals:
                ended = self._run_shell(signals, then, self.file, "--then", {})
        except Exit as error:
            raise Exit(UNAVAILABLE, f"{output} is new, but {error}") from error
        if ended:
            raise Exit(UNAVAILABLE, f"{output} is new, but --then {_end(ended)}")

    def _run_shell(self, signals: Signals, line: str, path: str, name: str, variables: dict[str, str]) -> int:
        # Within the user's own quotes, ours would end them. So a path that needs quotes is left to the variable,
        # whose value no shell takes for a command.
        variable = f'"${OUTPUT_VARIABLE}"'
        for quoted in (f'"{_PLACEHOLDER}"', f"'{_PLACEHOLDER}'"):
            line = line.replace(quoted, variable)
        line = line.replace(_PLACEHOLDER, path if shlex.quote(path) == path else variable)
        return Runner(signals, self.settings.timeout, self.settings.kill_after).run(
            ["/bin/sh", "-c", line], {OUTPUT_VARIABLE: path, **variables}, name=name
        )

    def _allow_interruption(self) -> None:
        """Let a signal end the swap's wait for readers, which may be long; it does no harm there."""
        if self.settings.readers:
            self._signals.raise_from_now_on(Interrupted)

    def _timeout(self) -> float | None:
        settings = self.settings
        if not settings.no_wait:
            return settings.wait
        if not settings.readers:
            return 0.0
        # --no-wait is about other creators, and not about the swap's wait for readers.
        status = self.datafile.status()
        if status.creating and (settings.force or status.state in _NOTHING):
            raise Exit(TEMPFAIL, f"{settings.output}: {creator_in(status)}: try again later")
        return None

    def _refusal(self, status: int, why: str, failure_name: str, returncode: int | None = None) -> Exit:
        return Exit(status, f"{self.settings.output} is not replaced: {why}", failure_name, returncode)

    @contextmanager
    def _not_replaced(self, status: int | None = None) -> Iterator[None]:
        """Report an :class:`Exit` of the block as the reason why FILE is not replaced."""
        try:
            yield
        except Exit as error:
            status = error.status if status is None else status
            raise self._refusal(status, str(error), error.failure_name, error.returncode) from error

    def _reporting(self, status: Status) -> AbstractContextManager[None]:
        """Report *status*; in the block, show at a terminal which process is waited for."""
        output = self.settings.output
        age = "" if status.age is None else f", {format_seconds(status.age)} old"
        self.reporter.report(f"{output}: {status.state}{age}")
        if not status.creating or not (status.state in _NOTHING or self.settings.force):
            return nullcontext()
        name = process_name(status.creating_host, status.creating_pid)
        process = f"another process ({name})" if name else "another process"
        self.reporter.report(f"{output}: {process} is creating: waiting")
        return line_on_terminal(f"{os.path.basename(self.file)}: waiting, {process} is creating")

    def _report_result(self, outcome: Outcome, status: Status) -> None:
        if outcome == Outcome.unchanged:
            result = "unchanged: the old file stays and is fresh again"
        elif outcome and not self.swapped:
            result = "equal to the old file, which stays and is fresh again"
        elif outcome == Outcome.backing_off:
            result = f"backing off: {failure_told(status)}"
        elif outcome:
            result = f"new, generation {status.generation}, created in {format_seconds(status.cost or 0)}"
        elif status.state == "stale" and status.creating:
            result = "another process is creating: nothing to do"
        else:
            result = f"{status.state}: nothing to do"
        self.reporter.report(f"{self.settings.output}: {result}")


@contextmanager
def _removing(note_file: str) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(OSError):  # the next creation tries again
            remove(note_file)


def _take_note(target: Target, note_file: str) -> None:
    """Leave the note with the new version that COMMAND has written to *note_file*, if any."""
    try:
        fd = os.open(note_file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            target.note = file.read(_MOST_NOTE).decode().removesuffix("\n")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Exit(DATAERR, f"the note that COMMAND left cannot be read: {error.strerror}", "note") from error
    except ValueError as error:
        why = f"the note that COMMAND left has more than {LONGEST_NOTE} bytes, or is not UTF-8"
        raise Exit(DATAERR, why, "note") from error


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _end(ended: int) -> str:
    return f"ended with status {ended}" if ended > 0 else f"was ended by {_signal_name(-ended)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal
