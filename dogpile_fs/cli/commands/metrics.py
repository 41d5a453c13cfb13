"""``metrics``: what Prometheus is told of files, on stdout or in a file for node_exporter's textfile collector."""

from __future__ import annotations

import sys
from io import TextIOWrapper

from ... import atomic_write
from ...errors import DogpileError
from ...metrics import Collector
from ..arguments import Arguments
from ..exits import CANTCREAT, OK, Exit, message_of, status_of
from .lookup import refuse_descriptor

__all__ = ["main"]


def main(arguments: Arguments) -> int:
    """Write the metrics of all paths. One that cannot be looked at is a line on stderr, and no failure.

    The exit status would make a caller throw away the metrics of the other paths.
    """
    for path in arguments.paths:
        refuse_descriptor(path)
    text = Collector(arguments.paths, directory=arguments.directory).text()
    if arguments.output is None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # the format's, whatever the locale says
        print(text, end="")
    else:
        refuse_descriptor(arguments.output)
        try:
            # After a crash of the machine the next run writes it anew.
            with atomic_write(arguments.output, "w", durable=False, encoding="utf-8") as file:
                file.write(text)
        except (DogpileError, OSError) as error:
            raise Exit(status_of(error, CANTCREAT), message_of(error)) from error
    return OK
