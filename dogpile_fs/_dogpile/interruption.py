"""Errors that come to a creator from outside: they end its creation, and say nothing about it."""

from __future__ import annotations

import signal
import sys
from types import CodeType, TracebackType
from typing import Any

__all__ = ["is_interruption"]


def is_interruption(error: BaseException) -> bool:
    """Return whether *error* interrupted a creator: Ctrl-C, a cancelled task, or what a signal handler has raised.

    Such as the soft time limits of task queues and test runners. SystemExit is none: it ends the process.
    """
    if isinstance(error, KeyboardInterrupt | GeneratorExit) or _is_cancellation(error):
        return True
    if not isinstance(error, Exception):
        return False
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    return any(each is not None and _passed_through(each, handlers) for each in (error, error.__cause__))


def _is_cancellation(error: BaseException) -> bool:
    """Return whether *error* ends a task of asyncio or trio that was cancelled."""
    for module, name in (("asyncio", "CancelledError"), ("trio", "Cancelled")):
        kind = getattr(sys.modules.get(module), name, None)  # not imported: there are no such tasks
        if kind is not None and isinstance(error, kind):
            return True
    return False


def _code_of(handler: Any) -> CodeType | None:
    if not callable(handler):
        return None  # SIG_DFL and the like
    code = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None


def _passed_through(error: BaseException, codes: set[CodeType | None]) -> bool:
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False
