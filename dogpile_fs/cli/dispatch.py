"""From the words of a command line to what they ask for, and from whatever happens there to an exit status.

Everything but the way of a fresh ``run`` comes through here. What a user can cause is one line on stderr and the
fitting status of :mod:`.exits`; a traceback shows a defect of this package.
"""

from __future__ import annotations

import codecs
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper

from . import exits
from .arguments import parsed
from .child.runner import Interrupted
from .child.signals import die_of
from .options import Settings
from .output import Voice

__all__ = ["dispatch"]

_UNTOLD = "dogpile_fs.untold"


def dispatch(words: Sequence[str]) -> int:
    """Do what *words* ask for; returns the exit status.

    :raises KeyboardInterrupt: on Ctrl-C, for the caller to die of.
    """
    _fill_standard_descriptors()
    voice = Voice()
    missing = exits.NOINPUT
    try:
        asked = parsed(words)
        if isinstance(asked, Settings):
            from .commands.run import run

            voice = Voice(-1 if asked.quiet else asked.verbose)
            missing = exits.CANTCREAT
            status = run(asked, voice)
        elif asked is None:
            status = exits.OK
        else:
            if isinstance(sys.stdout, TextIOWrapper):
                codecs.register_error(_UNTOLD, _as_bytes_or_escaped)
                with _printing():
                    sys.stdout.reconfigure(errors=_UNTOLD)
            module = ".demo" if asked.command == "demo" else f".commands.{asked.command}"
            status = import_module(module, __package__).main(asked)
        if sys.stdout is not None:
            with _printing():
                sys.stdout.flush()
    except Interrupted as interruption:
        voice.tell(str(interruption))
        status = die_of(interruption.number)
    except BrokenPipeError:
        _stop_printing()
        status = exits.BY_SIGNAL + signal.SIGPIPE
    except Exception as error:
        status = exits.status_of(error, missing)
        if status == exits.USAGE:
            voice.say(exits.told(error))
        else:
            voice.fail(exits.told(error))
        if exits.is_defect(error):
            traceback.print_exc()
    return status


def _as_bytes_or_escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """What is printed for what stdout cannot encode: file names need not be text, and hosts may be foreign."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


def _fill_standard_descriptors() -> None:
    """Let standard descriptors that are closed lead nowhere.

    Else the next file that is opened, a lock file perhaps, would be what is printed to.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


@contextmanager
def _printing() -> Iterator[None]:
    """A block that writes what was printed: an error that is met is told as what it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        _stop_printing()
        raise exits.Exit(exits.status_of(error), f"cannot write to standard output: {error.strerror}") from error


def _stop_printing() -> None:
    """Let what is still buffered go nowhere, so that the interpreter's end does not complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
