"""The COMMAND of ``dogpile-fs run`` in a round: a creator that is a program of its own.

Executed without the site's packages, because it shall start fast: it imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
import time
import zlib


def main() -> int:
    directory, name, of_process, of_op, mood, size, target = sys.argv[1:]
    journal = os.open(
        os.path.join(directory, f"{name}c.{os.getpid()}"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666
    )

    def note(what: str, **more: object) -> None:
        os.write(journal, (json.dumps([1, what, time.monotonic(), time.time(), more]) + "\n").encode())

    version = time.monotonic_ns()
    note("began", do="creator")
    note("creating", version=version, for_process=of_process, for_op=int(of_op))
    if mood == "slow":
        time.sleep(0.2)
    if mood == "raises":
        return 3
    # As subjects.contents_of().
    body = (b"%d " % version) * (int(size) // 20 + 1)
    try:
        with open(target, "wb") as file:
            file.write(json.dumps({"version": version, "checksum": zlib.crc32(body)}).encode() + b"\n" + body)
    except FileNotFoundError:  # its directory was moved away
        return 3
    note("created")
    return 0


if __name__ == "__main__":
    sys.exit(main())
