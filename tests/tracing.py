"""A process that is killed before its n-th system call: by ptrace(2), and before that call has done anything.

``SIGKILL`` that comes while a process is stopped at the entry of a system call ends it without the call. So to
kill it before each of its calls in turn, is to kill it at every point that others could tell from the next one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from .processes import PATIENCE

__all__ = ["BEGIN", "NotTraceable", "Traced", "killed_before"]

_TRACEME, _CONT, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 7, 24, 0x4200, 0x420E
_O_TRACESYSGOOD, _O_TRACEEXEC, _O_EXITKILL = 0x1, 0x10, 0x100000
_AT_CALL = signal.SIGTRAP | 0x80  # so told by the first of these options
_ENTRY = 1  # struct ptrace_syscall_info's op
_REFUSED = 77


class NotTraceable(Exception):
    """This system has no such thing, or does not let us."""


#: What a program executes (as Python code) to have its system calls counted from there on.
BEGIN = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"


@dataclass(frozen=True)
class Traced:
    """What became of a traced child: it was killed before the call of the system's number *call*, after so many
    *calls*; or it ended well (None)."""

    calls: int
    call: int | None


def killed_before(number: int, action: Callable[[], object], *, executes: bool = False) -> Traced:
    """Run *action* in a forked child, and kill it before its system call *number*, counted from 1 on.

    What the child starts is not traced, and lives on.

    :param executes: *action* becomes another program, which executes :data:`BEGIN`.
    :raises AssertionError: if it ended before, and not well.
    :raises NotTraceable: if children cannot be traced here.
    """
    pid = os.fork()
    if pid == 0:
        _be_traced(action, executes)
    ended, calls = False, 0
    try:
        _wait_for_stop(pid)
        _ptrace(_SETOPTIONS, pid, 0, _O_TRACESYSGOOD | _O_TRACEEXEC | _O_EXITKILL)
        _go_on_until(pid, signal.SIGSTOP, _CONT)
        while (call := _next_call(pid)) is not None:
            calls += 1
            if calls == number:
                return Traced(calls - 1, call)
        return Traced(calls, None)
    except ChildProcessError as error:
        ended = True
        if error.args[0] == _REFUSED:
            raise NotTraceable("ptrace(2) is not permitted here") from None
        if error.args[0] == 0:
            return Traced(calls, None)  # another program, that ended well
        raise AssertionError(f"what was to be killed ended by itself, with {error.args[0]}") from None
    finally:
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _be_traced(action: Callable[[], object], executes: bool) -> None:
    """The child's whole life: at the last stop it is killed."""
    try:
        if _libc().ptrace(_TRACEME, 0, None, None) != 0:
            os._exit(_REFUSED)
        signal.alarm(int(PATIENCE))
        _stop()
        if not executes:
            _stop()
        action()
        _stop()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _next_call(pid: int) -> int | None:
    """Let *pid* go on to the entry of its next system call; its number, or None at its last stop."""
    while True:
        stopped_by = _go_on(pid, _SYSCALL)
        if stopped_by == signal.SIGSTOP:
            return None
        if stopped_by == _AT_CALL:
            op, call = _call_of(pid)
            if op == _ENTRY:
                return call


def _go_on_until(pid: int, stopped_by: int, request: int) -> None:
    while _go_on(pid, request) != stopped_by:
        pass


_pending: dict[int, int] = {}


def _go_on(pid: int, request: int) -> int:
    """Let the stopped process *pid* go on to its next stop; what that is."""
    _ptrace(request, pid, 0, _pending.pop(pid, 0))
    stopped_by = _wait_for_stop(pid)
    if stopped_by not in (_AT_CALL, signal.SIGTRAP, signal.SIGSTOP):
        _pending[pid] = stopped_by  # a signal that it shall have
    return stopped_by


def _wait_for_stop(pid: int) -> int:
    """:raises ChildProcessError: if it ended instead; with its exit status, or -n for signal n."""
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        _pending.pop(pid, None)
        raise ChildProcessError(os.waitstatus_to_exitcode(status))
    return os.WSTOPSIG(status)


def _call_of(pid: int) -> tuple[int, int]:
    info = ctypes.create_string_buffer(128)
    _ptrace(_GET_SYSCALL_INFO, pid, len(info), ctypes.addressof(info))
    return info.raw[0], struct.unpack_from("=Q", info.raw, 24)[0]


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
