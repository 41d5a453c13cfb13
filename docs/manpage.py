"""Make the manual page ``docs/dogpile-fs.1`` from the command's parser; ``--check``: say whether it is current.

It needs argparse-manpage. An installation puts the page into ``share/man/man1``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("dogpile-fs.1")

#: What the parser does not say.
SECTIONS = {
    "environment": """\
.TP
.BR DOGPILE_FS_OUTPUT ", " DOGPILE_FS_PREVIOUS ", " DOGPILE_FS_NOTE ", " DOGPILE_FS_NOTE_FILE
Set for COMMAND: where it makes the new file; the old file; the note that was left with it; where it may leave one.
.TP
.BR DOGPILE_FS_FAILURE ", " DOGPILE_FS_FAILURES
Set for the command of
.BR \\-\\-on\\-failure :
how the attempt failed; how many in a row have.
.TP
.BR NO_COLOR ", " FORCE_COLOR
Not empty: no colours; colours also where standard output is no terminal.
.B NO_COLOR
comes first.""",
    "files": """\
.TP
.IR FILE .dogpile
The sidecar: when FILE was made, by which process, and what failed since. Without it FILE is as old as its
modification time says.
.TP
.IR FILE ".dogpile.lock, " FILE .dogpile.rwlock
Locks. Never remove them from a running system.
.TP
.IR FILE .dogpile.journal
How the last 64 attempts ended, for
.BR "dogpile\\-fs history" .
.TP
.I .dogpile/
Beside FILE: what is being made, and earlier versions.""",
    "see also": """\
.BR crontab (5),
.BR flock (1)""",
}


def page() -> str:
    """Return the manual page, the same from each Python."""
    # Before the parser is made: it wraps lines for the terminal.
    os.environ.update(COLUMNS="80", NO_COLOR="1")
    from argparse_manpage.manpage import Manpage

    from dogpile_fs.cli.arguments import whole_parser
    from dogpile_fs.version import VERSION

    parser = whole_parser()
    assert parser.epilog is not None
    durations, statuses = (part.partition(": ")[2] for part in parser.epilog.split("\n\n"))
    parser.epilog = None
    manual = Manpage(parser)
    manual.description = "files that one process rebuilds, while all others read the old ones"
    manual.date = ""
    manual.source = f"dogpile_fs {VERSION}"
    manual.manual = "User Commands"
    manual.add_section("durations", "=", durations)
    manual.add_section("exit status", "=", statuses)
    for heading, text in SECTIONS.items():
        manual.add_section(heading, "=", text)
    return str(manual)


def main() -> int:
    """Write the page, or look at it; return the exit status."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--check", action="store_true", help="exit status 1 unless it is what the parser says")
    check = options.parse_args().check
    made = page()
    if not check:
        PAGE.write_text(made)
    elif PAGE.read_text() != made:
        print(f"{PAGE} is not what the parser says. Hint: python docs/manpage.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
