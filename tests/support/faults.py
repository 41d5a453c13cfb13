"""Let one system call of a process fail once, with a chosen error.

The call is not made: at its entry, the tracer replaces its number by an invalid one, and at its exit the result by
the error. ``close`` is made, because Linux has freed the descriptor when it reports an error (close(2)); only its
result is replaced.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from .ptracing import Call, Ended, Tracee

__all__ = ["CANNOT_FAIL", "ERRORS", "count_calls", "fail_call"]

#: The errors of a disk, a network file system, a quota, a signal, a limit and a lock daemon.
ERRORS = tuple(
    getattr(errno, name)
    for name in ("EIO", "ENOSPC", "EDQUOT", "EINTR", "EMFILE", "ENOLCK", "EACCES", "EROFS", "ESTALE")
)

_CLOSE = 3

#: Number on x86_64, name, and kinds of the arguments: a descriptor (f), a path (p), or any other (.). The C
#: library chooses which call makes a stat, so all of them have one name.
_CALLS = """
0 read f|1 write f|3 close f|4 stat p|5 stat f|6 stat p|7 poll|8 lseek f|9 mmap|10 mprotect
11 munmap|12 brk|13 rt_sigaction|14 rt_sigprocmask
15 rt_sigreturn|16 ioctl f|17 pread64 f|18 pwrite64 f|24 sched_yield|25 mremap|28 madvise
32 dup f|33 dup2 ff|37 alarm|39 getpid|40 sendfile ff|56 clone|57 fork|58 vfork|59 execve p|60 exit|61 wait4
62 kill|63 uname|72 fcntl f|73 flock f|74 fsync f|77 ftruncate f|79 getcwd|82 rename pp|83 mkdir p|84 rmdir p
86 link pp|87 unlink p|88 symlink pp|89 readlink p|90 chmod p|91 fchmod f|93 fchown f|102 getuid|104 getgid
107 geteuid|108 getegid|109 setpgid|110 getppid|121 getpgid|131 sigaltstack|186 gettid|190 fsetxattr f
191 getxattr p|192 lgetxattr p|193 fgetxattr f|199 fremovexattr f|202 futex
217 getdents64 f|228 clock_gettime|230 clock_nanosleep|231 exit_group|257 openat .p|262 stat fp
263 unlinkat .p|265 linkat .p.p|268 fchmodat .p|277 sync_file_range f|280 utimensat .p|293 pipe2|316 renameat2 .p.p
318 getrandom|326 copy_file_range f.f|332 stat .p|334 rseq|435 clone3
"""
_NAMES: dict[int, tuple[str, str]] = {}
for _each in _CALLS.replace("\n", "|").strip("|").split("|"):
    _number, _name, _kinds = [*_each.split(), ""][:3]
    _NAMES[int(_number)] = (_name, _kinds)

#: Calls that are never made to fail, with the reason.
CANNOT_FAIL = {
    **dict.fromkeys(
        ("mmap", "munmap", "mremap", "mprotect", "madvise", "brk"), "the interpreter's own: its memory, not ours"
    ),
    **dict.fromkeys(("futex", "sched_yield", "rseq"), "the interpreter's own: its locks of threads"),
    **dict.fromkeys(
        ("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "alarm"),
        "fails only for arguments that make no sense",
    ),
    **dict.fromkeys(
        ("getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid"),
        "its page says: always successful",
    ),
    **dict.fromkeys(("uname", "clock_gettime"), "fails only for a bad address"),
    "ioctl": "queries whether it is a terminal, and its width; an error means that it is none",
    "getrandom": "never fails for so few bytes once the system is up (getrandom(2))",
    "clock_nanosleep": "touches no file; ends early only for a signal, which Python handles (PEP 475)",
    "wait4": "fails only for a process that is no child, or for a signal, which Python handles (wait(2))",
    **dict.fromkeys(("exit", "exit_group"), "does not return"),
}
_LEFT_ALONE = {number for number, (name, _) in _NAMES.items() if name in CANNOT_FAIL}
_IOCTL, _FIONBIO = 16, 0x5421
#: The interpreter's handler of signals writes so to wake its main thread. No code of ours writes to a pipe.
_WAKES_UP = "write(pipe:"
#: argparse looks for translations in twelve places for each of its words. The interpreter reads a module's source
#: where it has not kept the compiled one.
_NOT_OURS = ("(messages.mo)", ".py)")


def fail_call(tracee: Tracee, number: int, code: int, begin: str = "") -> str | None:
    """Let *tracee*'s call *number* fail with the error *code*, counted from 1 on without those that cannot fail.

    :param begin: count only calls whose :func:`description` begins with this.
    :returns: the description of the call; None if there were fewer before its :func:`~.ptracing.mark`.
    :raises Ended: if there were fewer before its end.
    :raises NotTraceable: on other machines than x86_64.
    """
    while (call := _next_that_can_fail(tracee)) is not None:
        what = description(tracee.pid, call)
        number -= what.startswith(begin)
        if number == 0:
            if call.number == _CLOSE:
                tracee.spoil(code)
            else:
                tracee.fail(code)
            return what
    return None


def count_calls(tracee: Tracee) -> list[str]:
    """Return descriptions of *tracee*'s calls that can fail, until its :func:`~.ptracing.mark` or its end."""
    calls = []
    with suppress(Ended):
        while (call := _next_that_can_fail(tracee)) is not None:
            calls.append(description(tracee.pid, call))
    return calls


def _next_that_can_fail(tracee: Tracee) -> Call | None:
    while (call := tracee.next_call()) is not None:
        if call.is_mark:
            tracee.go_to_mark()
            return None
        alone = call.number in _LEFT_ALONE and (call.number != _IOCTL or call.arguments[1] != _FIONBIO)
        if not alone:
            what = description(tracee.pid, call)
            if not what.endswith(_NOT_OURS) and not what.startswith(_WAKES_UP):
                return call
    return None


def description(pid: int, call: Call) -> str:
    """Return *call* of the process *pid* as ``name(files)``."""
    name, kinds = _NAMES.get(call.number, (f"call {call.number}", ""))
    files = []
    for kind, argument in zip(kinds, call.arguments, strict=False):
        with suppress(OSError):
            if kind == "f":
                files.append(os.path.basename(os.readlink(f"/proc/{pid}/fd/{argument & 0xFFFFFFFF}")))
            elif kind == "p":
                files.append(os.path.basename(_text_at(pid, argument)))
    return f"{name}({', '.join(file for file in files if file)})"


def _text_at(pid: int, address: int) -> str:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        text = memory.read(4096 - address % 4096)  # the next page may not be mapped
    return os.fsdecode(text.split(b"\0")[0])
