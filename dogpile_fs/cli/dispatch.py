"""From the words of a command line to the function that does what they ask for, and to an exit status.

All commands come through here, except a fresh ``run``. An error that a user can cause is one line on stderr and
its status of :mod:`.exits`; a traceback shows an internal error of this package.
"""

from __future__ import annotations

import codecs
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper

from ..errors import DogpileError
from . import exits
from .arguments import Arguments, parsed
from .child.runner import Interrupted
from .child.signals import delivered, die_of
from .options import Settings
from .output import Reporter, discard, say

__all__ = ["dispatch"]

_ESCAPED = "dogpile_fs.escaped"


def dispatch(words: Sequence[str]) -> int:
    """Do what *words* ask for; return the exit status.

    :raises KeyboardInterrupt: on Ctrl-C.
    """
    with delivered():
        return _dispatch(words)


def _dispatch(words: Sequence[str]) -> int:
    _fill_standard_descriptors()
    reporter = Reporter()
    missing = exits.NOINPUT
    try:
        asked = parsed(words)
        if isinstance(asked, Settings):
            from .commands.run import run

            reporter = Reporter(-1 if asked.quiet else asked.verbose)
            missing = exits.CANTCREAT
            status = run(asked, reporter)
        elif asked is None:
            status = exits.OK
        else:
            if isinstance(sys.stdout, TextIOWrapper):
                codecs.register_error(_ESCAPED, _as_bytes_or_escaped)
                with _printing():
                    sys.stdout.reconfigure(errors=_ESCAPED)
            status = _main_of(asked.command)(asked)
        if sys.stdout is not None:
            with _printing():
                sys.stdout.flush()
    except Interrupted as interruption:
        reporter.report(str(interruption))
        status = die_of(interruption.number)
    except BrokenPipeError:
        discard(1)
        status = exits.BY_SIGNAL + signal.SIGPIPE
    except Exception as error:
        status = exits.status_of(error, missing)
        if _is_of_loading(error):
            status = exits.IOERR
            say(f"a part of dogpile-fs cannot be loaded: {error}. Hint: look at its disk, or install it again.")
        elif status == exits.USAGE or reporter.loudness >= 0:
            say(exits.message_of(error))
        if not isinstance(error, (exits.Exit, DogpileError, OSError, ImportError)):
            traceback.print_exc()
    return status


def _is_of_loading(error: Exception) -> bool:
    """Return whether a module was not found, or could not be looked for."""
    if isinstance(error, ImportError):
        return True
    where = error.filename if isinstance(error, OSError) and not isinstance(error, DogpileError) else None
    # The packages that are installed are below the directory of Python's own modules.
    ours = (os.path.dirname(os.path.dirname(__file__)), os.path.dirname(os.__file__))
    return isinstance(where, str) and any(where == each or where.startswith(each + os.sep) for each in ours)


def _main_of(command: str) -> Callable[[Arguments], int]:
    """Return the function that does *command*."""
    # By plain imports: PyInstaller puts no other modules into a program.
    if command == "demo":
        from .demo import main as demo

        return demo
    if command == "top":
        from .top import main as top

        return top
    from .commands import (
        cancel,
        completion,
        follow,
        history,
        invalidate,
        metrics,
        origin,
        rollback,
        status,
        touch,
        wait,
        watch,
    )

    return {
        "cancel": cancel.main,
        "completion": completion.main,
        "follow": follow.main,
        "history": history.main,
        "invalidate": invalidate.main,
        "metrics": metrics.main,
        "origin": origin.main,
        "rollback": rollback.main,
        "status": status.main,
        "touch": touch.main,
        "wait": wait.main,
        "watch": watch.main,
    }[command]


def _as_bytes_or_escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what is printed for a character that stdout cannot encode: in a file's name, or in a host's."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


def _fill_standard_descriptors() -> None:
    """Open the standard descriptors that are closed, leading nowhere.

    Else the next file that is opened, perhaps a lock file, would get what is printed.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


@contextmanager
def _printing() -> Iterator[None]:
    """Report an error of the block as one of standard output."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard(1)
        raise exits.Exit(exits.status_of(error), f"cannot write to standard output: {error.strerror}") from error
