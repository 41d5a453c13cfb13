"""The options of ``run``: one table, read by the quick scan of a fresh run and by argparse alike.

The scan takes only what is plain (whole names, sound values) and leaves everything else, errors among it, to
argparse: whatever the scan accepts, argparse accepts with the same meaning. Light to import.
"""

from __future__ import annotations

from .durations import parse, parse_or_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RUN_OPTIONS", "Option", "Settings", "names_descriptor", "scan", "split_at_command"]


class Settings:
    """What a ``run`` shall do; its attributes are the options."""

    expire: float | None = None
    output: str = ""
    stdout: bool = False
    validate: str | None = None
    wait: float | None = None
    no_wait: bool = False
    force: bool = False
    readers: bool = False
    timeout: float | None = None
    kill_after: float = 10.0
    then: str | None = None
    keep: int = 0
    skip_unchanged: bool = False
    directory: str | None = None
    verbose: int = 0
    quiet: bool = False
    #: COMMAND and its arguments.
    command: list[str]
    #: The options given, by attribute.
    given: set[str]

    def __init__(self) -> None:
        self.command = []
        self.given = set()

    def complaint(self) -> str | None:
        """What is wrong with the options together; None if nothing is."""
        for flag in ("expire", "output"):
            if flag not in self.given:
                return f"--{flag} is missing"
        if not self.output:
            return "--output names no file"
        for one, other in (("wait", "no_wait"), ("verbose", "quiet")):
            if one in self.given and other in self.given:
                return f"--{one} and --{other.replace('_', '-')} exclude each other"
        if self.timeout == 0:
            return "--timeout 0 leaves COMMAND no time at all: leave it out to let it run as long as it takes"
        if not self.command:
            return "COMMAND is missing: put it at the end, after --"
        return None


class Option:
    """One option: its names, how its value is read (None: it takes none), and what is said of it."""

    __slots__ = ("attribute", "flag", "help", "metavar", "read", "short")

    def __init__(
        self, flag: str, read: Callable[[str], object] | None, metavar: str, help: str, short: str = ""
    ) -> None:
        self.flag = flag
        self.short = short
        self.attribute = flag[2:].replace("-", "_")
        self.read = read
        self.metavar = metavar
        self.help = help


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is no number of versions: write it as 0, 1, 2 and so on")
    return int(text)


#: What all commands understand.
DIRECTORY = Option(
    "--directory", str, "DIR", "where the coordination files are, if not beside PATH; all users must agree"
)

RUN_OPTIONS = (
    Option("--expire", parse_or_never, "DURATION", "FILE is stale this long after it was made; or 'never'"),
    Option("--output", str, "FILE", "the file that COMMAND makes"),
    Option("--stdout", None, "", "what COMMAND prints is the contents of FILE"),
    Option(
        "--validate",
        str,
        "CMD",
        "a shell command that looks at the new file before the swap; if it fails, FILE stays",
    ),
    Option("--wait", parse, "DURATION", "wait at most so long for another process that makes the first FILE"),
    Option("--no-wait", None, "", "do not wait for it: exit with 75 at once"),
    Option("--force", None, "", "run COMMAND however fresh FILE is, after whoever is creating now"),
    Option("--readers", None, "", "swap only when no reader is inside, of those who use readers=True"),
    Option("--timeout", parse, "DURATION", "end COMMAND if it takes longer, and exit with 124"),
    Option(
        "--kill-after", parse, "DURATION", "who does not end on SIGTERM gets SIGKILL so much later (default: 10s)"
    ),
    Option("--then", str, "CMD", "a shell command to run after a swap, by the process that made it"),
    Option("--keep", _count, "N", "keep so many earlier versions, for rollback (default: 0)"),
    Option("--skip-unchanged", None, "", "do not swap in what equals FILE; it is fresh all the same"),
    DIRECTORY,
    Option("--verbose", None, "", "tell what is decided and why; twice: more", "-v"),
    Option("--quiet", None, "", "tell nothing, not even failures: the exit status does", "-q"),
)

_BY_NAME = {name: option for option in RUN_OPTIONS for name in (option.flag, option.short) if name}


def names_descriptor(path: str) -> bool:
    """Whether *path* is a name of whatever this process has open, such as ``/dev/stdout``, and not of a file.

    It may lead to a file all the same, but can neither be coordinated nor replaced.
    """
    return path in ("/dev/stdin", "/dev/stdout", "/dev/stderr") or path.startswith(("/dev/fd/", "/proc/"))


def split_at_command(words: list[str]) -> tuple[list[str], list[str]]:
    """The options among the *words* after ``run``, and COMMAND with its arguments, after the first ``--``."""
    if "--" not in words:
        return words, []
    end = words.index("--")
    return words[:end], words[end + 1 :]


def scan(words: list[str]) -> Settings | None:
    """The settings of a ``run`` with *words*; None where anything is not plain, for argparse to look at."""
    settings = Settings()
    options, settings.command = split_at_command(words)
    remaining = iter(options)
    for word in remaining:
        name, equals, value = word.partition("=")
        option = _BY_NAME.get(name)
        if option is None:
            return None
        if option.read is None:
            if equals or option.attribute == "verbose":
                return None  # who is to be told wants more than the glance
            setattr(settings, option.attribute, True)
        else:
            if not equals:
                value = next(remaining, "-")
                if value.startswith("-"):
                    return None
            elif not name.startswith("--") or value == "--":
                return None
            try:
                setattr(settings, option.attribute, option.read(value))
            except ValueError:
                return None
        settings.given.add(option.attribute)
    return None if settings.complaint() else settings
