"""The options of ``run``: one table for the quick scan of a fresh run and for argparse.

The scan takes only plain words (whole names, valid values) and leaves all others, such as errors, to argparse:
what the scan accepts, argparse accepts with the same meaning. A fresh run imports this module, so it imports
little.
"""

from __future__ import annotations

from .durations import parse, parse_or_never

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal

__all__ = ["RUN_OPTIONS", "Option", "Settings", "names_descriptor", "scan", "split_at_command"]


class Settings:
    """The options of a ``run``, as attributes."""

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
    #: Seconds after a first failure, and at most; ``None``: try again at once.
    backoff: tuple[float, float] | None = None
    stale_if_error: bool | float = False
    max_stale: float | None = None
    refresh_early: float | None = None
    jitter: float = 0.0
    depends_on: Sequence[str] = ()
    origin: str | None = None
    hint: str | None = None
    unchanged_status: int | None = None
    on_failure: str | None = None
    verbose: int = 0
    quiet: bool = False
    #: COMMAND and its arguments.
    command: list[str]
    #: The attributes of the options that were given.
    given: set[str]

    def __init__(self) -> None:
        self.command = []
        self.given = set()

    def complaint(self) -> str | None:
        """Return what is wrong with the options together; ``None`` if nothing is."""
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
        if self.max_stale is not None and self.stale_if_error is not True and self.stale_if_error > self.max_stale:
            return "--stale-if-error is longer than --max-stale, after which no process uses FILE: make it shorter"
        if "" in self.depends_on:
            return "--depends-on names no file"
        if self.origin is not None and (self.directory is not None or self.depends_on):
            return "--origin goes with neither --directory nor --depends-on: each host has files of its own"
        if self.hint is not None and self.origin is None:
            return "--hint goes with --origin"
        if not self.command:
            return "COMMAND is missing: put it at the end, after --"
        return None


class Option:
    """One option: its names, the function that reads its value (``None``: it takes none), and its help.

    *values*: ``"?"`` where the value may be left out, ``"+"`` where there may be several.
    """

    __slots__ = ("attribute", "flag", "help", "metavar", "read", "short", "values")

    def __init__(
        self,
        flag: str,
        read: Callable[[str], object] | None,
        metavar: str,
        help: str,
        short: str = "",
        values: Literal["", "?", "+"] = "",
    ) -> None:
        self.values = values
        self.flag: str = flag
        self.short: str = short
        self.attribute: str = flag[2:].replace("-", "_")
        self.read: Callable[[str], object] | None = read
        self.metavar: str = metavar
        self.help: str = help


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is not a number of versions: write it as 0, 1, 2 and so on")
    return int(text)


def _backoff(text: str) -> tuple[float, float] | None:
    first, dots, longest = text.partition("..")
    if not first or bool(dots) != bool(longest):
        raise ValueError(f"{text!r} is no backoff: write it as 30s..10m, or 30s, or 0")
    seconds = parse(first), parse(longest or first)
    if seconds[0] > seconds[1]:
        raise ValueError(f"{text!r} is no backoff: the longest delay, {longest}, is shorter than the first")
    if not seconds[0] and seconds[1]:
        raise ValueError(f"{text!r} is no backoff: a delay of 0 does not grow; write it as 1s..{longest}")
    return seconds if seconds[0] else None


def _fraction(text: str) -> float:
    try:
        fraction = float(text)
    except ValueError:
        fraction = -1.0
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"{text!r} is not a fraction: write it as 0.1 or 0.8, between 0 and 1")
    return fraction


def _status(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= 255):
        raise ValueError(f"{text!r} is not an exit status of this kind: write a number from 1 to 255")
    return int(text)


#: An option of all commands.
DIRECTORY = Option(
    "--directory", str, "DIR", "where the coordination files are, if not beside PATH; all processes must agree"
)

#: An option of the commands that name an origin.
HINT = Option("--hint", str, "URL", "redis://host:port/db/name: hosts that have published tell the others at once")

KILL_AFTER = Option(
    "--kill-after",
    parse,
    "DURATION",
    "send SIGKILL so long after SIGTERM to a COMMAND that has not ended (default: 10s)",
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
    Option("--force", None, "", "run COMMAND even if FILE is fresh, after the process that is creating now"),
    Option("--readers", None, "", "swap only when no reader is inside, of processes that use readers=True"),
    Option("--timeout", parse, "DURATION", "end COMMAND if it takes longer, and exit with 124"),
    KILL_AFTER,
    Option("--then", str, "CMD", "a shell command to run after a swap, by the process that made it"),
    Option("--keep", _count, "N", "keep so many earlier versions, for rollback (default: 0)"),
    Option("--skip-unchanged", None, "", "do not swap in what equals FILE; it is fresh all the same"),
    Option(
        "--backoff",
        _backoff,
        "FIRST..LONGEST",
        "after failures, try again no sooner than this: the delay grows from the first to the longest "
        "(default: 1s..60s; 0: at once)",
    ),
    Option(
        "--stale-if-error",
        parse,
        "DURATION",
        "exit with 0 if COMMAND fails and the old FILE is there; or only until so long past its expiry",
        values="?",
    ),
    Option("--max-stale", parse, "DURATION", "no process uses a FILE that expired so long ago"),
    Option("--refresh-early", _fraction, "FRACTION", "make it anew from this fraction of its lifetime on"),
    Option("--jitter", _fraction, "FRACTION", "let each new FILE expire up to this fraction sooner, at random"),
    Option("--depends-on", str, "PATH", "FILE is stale as soon as one of these has changed", values="+"),
    Option(
        "--origin",
        str,
        "URL",
        "have all hosts that name it share FILE: one makes it, the others fetch it; s3://bucket/name, az://..., "
        "gs://..., redis://host:port/db/name, or a directory on a shared mount",
    ),
    HINT,
    Option("--unchanged-status", _status, "N", "COMMAND says by exit status N that FILE is still right"),
    Option("--on-failure", str, "CMD", "a shell command to run after each attempt that failed"),
    DIRECTORY,
    Option("--verbose", None, "", "print what is decided and why; twice: more", "-v"),
    Option("--quiet", None, "", "print nothing, not even failures", "-q"),
)

#: With these a fresh file is not told from its age alone: they ask for more, or print more.
_THOROUGH = ("refresh_early", "depends_on", "verbose")

_BY_NAME = {name: option for option in RUN_OPTIONS for name in (option.flag, option.short) if name}


def names_descriptor(path: str) -> bool:
    """Return whether *path* names a descriptor of this process, such as ``/dev/stdout``, and not a file.

    It may lead to a file, but can be neither coordinated nor replaced.
    """
    return path in ("/dev/stdin", "/dev/stdout", "/dev/stderr") or path.startswith(("/dev/fd/", "/proc/"))


def split_at_command(words: list[str]) -> tuple[list[str], list[str]]:
    """Split the *words* after ``run`` at the first ``--``: into options, and COMMAND with its arguments."""
    end = words.index("--") if "--" in words else len(words)
    return words[:end], words[end + 1 :]


def scan(words: list[str]) -> Settings | None:
    """Return the settings of a ``run`` with *words*; ``None`` unless all of them are plain."""
    settings = Settings()
    options, settings.command = split_at_command(words)
    options.reverse()
    while options:
        name, equals, value = options.pop().partition("=")
        option = _BY_NAME.get(name)
        if option is None or option.attribute in _THOROUGH:
            return None
        is_last = not options or options[-1].startswith("-")
        if option.read is None or (option.values == "?" and is_last and not equals):
            if equals:
                return None
            setattr(settings, option.attribute, True)
        else:
            if not equals:
                if is_last:
                    return None
                value = options.pop()
            elif not name.startswith("--") or value == "--":
                return None
            try:
                setattr(settings, option.attribute, option.read(value))
            except ValueError:
                return None
        settings.given.add(option.attribute)
    return None if settings.complaint() else settings
