"""``dogpile-fs``, the command: ``run`` for cron, and commands for people at a terminal.

Most runs find a fresh file. Such a run only scans its options and checks the datafile, and imports no heavy
module: an import that is added here, to :mod:`.options`, :mod:`.durations` or
:mod:`dogpile_fs._sidecar.quick_check` costs time at every run.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line *argv* (default: that of this process, without its name) asks for.

    Call it in the main thread. If a signal ended the work, the process ends by that signal.

    :returns: the exit status, one of :mod:`.exits`.
    """
    try:
        if argv is None:
            import sys

            argv = sys.argv[1:]
        words = list(argv)
        if _is_fresh_run(words):
            return 0
        from .dispatch import dispatch

        return dispatch(words)
    except KeyboardInterrupt:
        import signal

        from .child.signals import die_of

        return die_of(signal.SIGINT)


def _is_fresh_run(words: list[str]) -> bool:
    if words[:1] != ["run"]:
        return False
    from .options import names_descriptor, scan

    settings = scan(words[1:])
    if settings is None or settings.force or names_descriptor(settings.output):
        return False
    from .._sidecar.quick_check import is_fresh

    return is_fresh(settings.output, settings.expire, settings.directory, has_origin=settings.origin is not None)
