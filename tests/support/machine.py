"""The kind of machine that this process runs on, as far as the numbers of system calls depend on it."""

from __future__ import annotations

import platform
import sys

__all__ = ["NAME"]

#: As ``uname`` says, unless this is a program of 32 bits, which may run on a machine of 64.
NAME = platform.machine() if sys.maxsize > 2**32 else f"{platform.machine()}, 32 bits"
