"""Which processes have locked a file by ``flock``, for messages: as /proc/locks says (proc_locks(5))."""

from __future__ import annotations

import os

__all__ = ["lock_holders"]


def lock_holders(path: str) -> str:
    """Return a clause that names the processes which have locked the file at *path*; ``""`` if that is not known.

    Unknown are processes of other containers and hosts, and some file systems' (btrfs) device numbers.
    """
    try:
        st = os.stat(path)
        file = f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}:{st.st_ino}"
        with open("/proc/locks") as locks:
            fields = [line.split() for line in locks]
    except OSError:
        return ""
    # Not those that wait, which have an arrow before the kind, and not open-file-description locks (pid -1).
    pids = sorted({int(each[4]) for each in fields if each[1] == "FLOCK" and each[5] == file and int(each[4]) > 0})
    if not pids:
        return ""
    return f" (locked by process{'es' if len(pids) > 1 else ''} {', '.join(map(str, pids))})"
