"""Let the kernel refuse system calls of this process, as it does for a file system that has no such call.

By seccomp(2): the calls are made in earnest, and any user may do it. It cannot be undone, so it is for a child.
"""

from __future__ import annotations

import ctypes
import os
import struct

import pytest

from . import machine

__all__ = ["refuse_calls", "skip_unless_refusable"]

_NUMBERS: dict[str, dict[str, tuple[int, ...]]] = {
    "x86_64": {"flock": (73,), "link": (86, 265), "fchmod": (91,), "renameat2": (316,)},
    "aarch64": {"flock": (32,), "link": (37,), "fchmod": (52,), "renameat2": (276,)},
}
_SET_SECCOMP, _SET_NO_NEW_PRIVILEGES, _FILTER = 22, 38, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def skip_unless_refusable() -> None:
    if machine.NAME not in _NUMBERS or not os.path.exists("/proc/sys/kernel/seccomp"):
        pytest.skip("needs seccomp(2), on x86-64 or ARM")


def refuse_calls(**errors: int) -> None:
    """Let each call of these names fail with the given error from now on."""
    numbers = _NUMBERS[machine.NAME]
    instructions = [struct.pack("HBBI", _LOAD, 0, 0, 0)]
    for name, code in errors.items():
        for number in numbers[name]:
            instructions.append(struct.pack("HBBI", _JUMP_IF_EQUAL, 0, 1, number))
            instructions.append(struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | code))
    instructions.append(struct.pack("HBBI", _RETURN, 0, 0, _ALLOW))
    program = _Program(len(instructions), b"".join(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())
    assert libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program)) == 0, os.strerror(ctypes.get_errno())
