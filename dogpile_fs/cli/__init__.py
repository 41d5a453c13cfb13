"""``dogpile-fs``, the command: the main job for cron, and what people want to know and do from a terminal.

The way of a fresh ``run`` is short, because cron takes it most of the time: the options are scanned, the datafile
is glanced at, and that is all. Nothing heavy is imported on it: whoever adds an import here, to :mod:`.options`,
:mod:`.durations` or :mod:`dogpile_fs.glance` pays for it at every run.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line *argv* (default: the process's own, without its name) asks for.

    :returns: the exit status; :mod:`.exits` says what they mean.

    To be called in the main thread. If a signal ended the work, the process dies by that signal instead.
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

    return is_fresh(settings.output, settings.expire, settings.directory)
