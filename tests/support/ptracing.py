"""Stop a child at each of its system calls by ptrace(2), and let single calls fail.

Mechanism only: callers decide which child is killed, and which call fails.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from . import machine
from .processes import PATIENCE

__all__ = ["BEGIN", "Call", "Ended", "NotTraceable", "Tracee", "mark"]

_TRACEME, _POKEUSER, _CONT, _DETACH, _SYSCALL = 0, 6, 7, 17, 24
_SETOPTIONS, _GET_SYSCALL_INFO = 0x4200, 0x420E
_O_TRACESYSGOOD, _O_TRACEEXEC, _O_EXITKILL = 0x1, 0x10, 0x100000
_AT_CALL = signal.SIGTRAP | 0x80  # the stop at a call, by the first of these options
_ENTRY = 1  # struct ptrace_syscall_info's op
_REFUSED = 77

#: Offsets in x86_64's struct user (sys/user.h) of the registers of the call's number and of its result.
_ORIG_RAX, _RAX = 15 * 8, 10 * 8
_TGKILL = 234
_NO_CALL = -1


class NotTraceable(Exception):
    """This system has no ptrace(2) as it is used here, or does not permit it."""


class Ended(Exception):
    """The child has ended, with exit status *status*, or -n by signal n."""

    def __init__(self, status: int) -> None:
        super().__init__(f"ended with {status}")
        self.status = status


#: Python code that a program executes where the counting of its system calls is to begin.
BEGIN = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"


def mark() -> None:
    """Stop, so that the tracer knows that this point is reached."""
    # To this thread: a thread that is about to end, and is not traced, could take a signal to the process.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


@dataclass(frozen=True)
class Call:
    """A system call that is about to be made, by its number."""

    number: int
    arguments: tuple[int, ...]

    @property
    def is_mark(self) -> bool:
        """Whether :func:`mark` makes this call. True only where :meth:`Tracee.fail` works, too."""
        return (self.number, self.arguments[2]) == (_TGKILL, signal.SIGSTOP) and machine.NAME == "x86_64"


class Tracee:
    """A forked child that runs *life*, stopped before it begins.

    Processes that the child starts are not traced, and live on.

    :param executes: *life* becomes another program, which executes :data:`BEGIN`: the child is stopped there.
    :raises NotTraceable: if children cannot be traced here.
    :raises Ended: here and in all methods that resume it, if it ends instead.
    """

    def __init__(self, life: Callable[[], object], *, executes: bool = False) -> None:
        self._pending = 0  # a signal to deliver when it is resumed
        self._gone = False
        self.pid = os.fork()
        if self.pid == 0:
            _live(life, executes)
        try:
            self._wait_for_stop()
            _ptrace(_SETOPTIONS, self.pid, 0, _O_TRACESYSGOOD | _O_TRACEEXEC | _O_EXITKILL)
            self.go_to_mark()
        except BaseException as error:
            self.kill()
            if isinstance(error, Ended) and error.status == _REFUSED:
                raise NotTraceable("ptrace(2) is not permitted here") from None
            raise

    def next_call(self) -> Call | None:
        """Resume it until the entry of its next system call, and return that; None at a :func:`mark`."""
        while True:
            stopped_by = self._go_on(_SYSCALL)
            if stopped_by == signal.SIGSTOP:
                return None
            if stopped_by == _AT_CALL:
                op, call = self._call()
                if op == _ENTRY:
                    return call

    def fail(self, code: int) -> None:
        """Let the call at whose entry it is stopped fail with the error *code*, without any effect.

        :raises NotTraceable: on other machines than x86_64.
        """
        self._poke(_ORIG_RAX, _NO_CALL)
        self.spoil(code)

    def spoil(self, code: int) -> None:
        """Let the call at whose entry it is stopped take effect, and then return the error *code*.

        :raises NotTraceable: on other machines than x86_64.
        """
        stopped_by = self._go_on(_SYSCALL)
        assert stopped_by == _AT_CALL, stopped_by
        self._poke(_RAX, -code)

    def go_to_mark(self) -> None:
        """Resume it until its next :func:`mark`."""
        while self._go_on(_CONT) != signal.SIGSTOP:
            pass

    def detach(self) -> int:
        """Cease to trace it, wait for its end, and return its exit status, or -n for signal n."""
        _ptrace(_DETACH, self.pid, 0, self._pending)
        return self._end()

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        if not self._gone:
            os.kill(self.pid, signal.SIGKILL)
            self._end()

    def _end(self) -> int:
        self._gone = True
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _go_on(self, request: int) -> int:
        """Resume it until its next stop, and return the signal of that stop."""
        signum, self._pending = self._pending, 0
        _ptrace(request, self.pid, 0, signum)
        stopped_by = self._wait_for_stop()
        if stopped_by not in (_AT_CALL, signal.SIGTRAP, signal.SIGSTOP):
            self._pending = stopped_by
        return stopped_by

    def _wait_for_stop(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        if not os.WIFSTOPPED(status):
            self._gone = True
            raise Ended(os.waitstatus_to_exitcode(status))
        return os.WSTOPSIG(status)

    def _call(self) -> tuple[int, Call]:
        info = ctypes.create_string_buffer(128)
        _ptrace(_GET_SYSCALL_INFO, self.pid, len(info), ctypes.addressof(info))
        number, *arguments = struct.unpack_from("=7Q", info.raw, 24)
        return info.raw[0], Call(number, tuple(arguments))

    def _poke(self, register: int, value: int) -> None:
        if machine.NAME != "x86_64":
            raise NotTraceable(f"the registers of {machine.NAME} are not known here")
        _ptrace(_POKEUSER, self.pid, register, value)


def _live(life: Callable[[], object], executes: bool) -> None:
    """Run *life* in the child, and exit."""
    try:
        if _libc().ptrace(_TRACEME, 0, None, None) != 0:
            os._exit(_REFUSED)
        signal.alarm(int(PATIENCE))
        mark()
        if not executes:
            mark()
        life()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def _ptrace(request: int, pid: int, addr: int, data: int) -> None:
    if _libc().ptrace(request, pid, addr, data) < 0:
        code = ctypes.get_errno()
        raise NotTraceable(f"ptrace(2), request {request}: {os.strerror(code)}")


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    return libc
