"""A child that stops at each of its system calls: ptrace(2), and what can be done to it there.

Mechanism only. Nothing here knows what is killed, or which call shall fail.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from .processes import PATIENCE

__all__ = ["BEGIN", "Call", "Ended", "NotTraceable", "Tracee", "mark"]

_TRACEME, _POKEUSER, _CONT, _DETACH, _SYSCALL = 0, 6, 7, 17, 24
_SETOPTIONS, _GET_SYSCALL_INFO = 0x4200, 0x420E
_O_TRACESYSGOOD, _O_TRACEEXEC, _O_EXITKILL = 0x1, 0x10, 0x100000
_AT_CALL = signal.SIGTRAP | 0x80  # so told by the first of these options
_ENTRY = 1  # struct ptrace_syscall_info's op
_REFUSED = 77

#: Of x86_64: where struct user (sys/user.h) has the registers that tell which call it is, and then its result.
_ORIG_RAX, _RAX = 15 * 8, 10 * 8
_TGKILL = 234
_NO_CALL = -1


class NotTraceable(Exception):
    """This system has no such thing, or does not let us."""


class Ended(Exception):
    """The child has ended, with exit status *status*, or -n by signal n."""

    def __init__(self, status: int) -> None:
        super().__init__(f"ended with {status}")
        self.status = status


#: What a program executes (as Python code) to have its system calls counted from there on.
BEGIN = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"


def mark() -> None:
    """Stop, for the tracer to know that this point is reached."""
    # This thread itself: another that is about to end may take what is sent to the process, and is not traced.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


@dataclass(frozen=True)
class Call:
    """A system call that is about to be made: the system's number of it, and its arguments."""

    number: int
    arguments: tuple[int, ...]

    @property
    def is_mark(self) -> bool:
        """Whether it is a :func:`mark`'s own. Only where :meth:`Tracee.fail` works, too."""
        return (self.number, self.arguments[2]) == (_TGKILL, signal.SIGSTOP) and platform.machine() == "x86_64"


class Tracee:
    """A forked child that lives *life*, stopped before it begins.

    What the child starts is not traced, and lives on.

    :param executes: *life* becomes another program, which executes :data:`BEGIN`, and stands there now.
    :raises NotTraceable: if children cannot be traced here.
    :raises Ended: here and in all methods that let it go on, if it ends instead.
    """

    def __init__(self, life: Callable[[], object], *, executes: bool = False) -> None:
        self._pending = 0  # a signal that it shall have
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
        """Let it go on to the entry of its next system call; None at a :func:`mark`."""
        while True:
            stopped_by = self._go_on(_SYSCALL)
            if stopped_by == signal.SIGSTOP:
                return None
            if stopped_by == _AT_CALL:
                op, call = self._call()
                if op == _ENTRY:
                    return call

    def fail(self, code: int) -> None:
        """Let the call at whose entry it stands fail with the error *code*, not having done anything.

        :raises NotTraceable: on other machines than x86_64.
        """
        self._poke(_ORIG_RAX, _NO_CALL)
        self.spoil(code)

    def spoil(self, code: int) -> None:
        """Let the call at whose entry it stands do what it does, and then tell of the error *code*.

        :raises NotTraceable: on other machines than x86_64.
        """
        stopped_by = self._go_on(_SYSCALL)
        assert stopped_by == _AT_CALL, stopped_by
        self._poke(_RAX, -code)

    def go_to_mark(self) -> None:
        """Let it go on to its next :func:`mark`."""
        while self._go_on(_CONT) != signal.SIGSTOP:
            pass

    def let_go(self) -> int:
        """Trace it no more, and wait for its end: its exit status, or -n for signal n."""
        _ptrace(_DETACH, self.pid, 0, self._pending)
        return self._end()

    def kill(self) -> None:
        """End it; nothing happens if it has ended."""
        if not self._gone:
            os.kill(self.pid, signal.SIGKILL)
            self._end()

    def _end(self) -> int:
        self._gone = True
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _go_on(self, request: int) -> int:
        """Let it go on to its next stop; what that is."""
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
        if platform.machine() != "x86_64":
            raise NotTraceable(f"which register is which is not known of {platform.machine()}")
        _ptrace(_POKEUSER, self.pid, register, value)


def _live(life: Callable[[], object], executes: bool) -> None:
    """The child's whole life."""
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
