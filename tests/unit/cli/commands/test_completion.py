"""``completion``: what real shells make of a line when a user types it and presses the tab key."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dogpile_fs.cli.arguments import _grammar
from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.processes import PATIENCE
from tests.support.terminals import control_terminal

__all__ = ["bytecode", "cli"]  # fixtures

#: How each shell is started without a user's configuration, and what makes it read the script.
SHELLS = {
    "bash": (("bash", "--norc", "--noprofile", "-i"), "source ./_dogpile-fs; PS1='@''@'"),
    "zsh": (("zsh", "-f", "-i"), "fpath=($PWD $fpath); autoload -U compinit; compinit -u -D; PS1='@''@'"),
    "fish": (("fish", "--no-config", "-i"), "source ./_dogpile-fs; function fish_prompt; echo -n '@''@'; end"),
}
#: The prompt that they set there. It is not in the line that sets it.
PROMPT = b"@@"
WITHOUT = """
import sys
sys.modules[{module!r}] = None
from dogpile_fs.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Shell:
    """An interactive shell in a terminal of its own, in which ``dogpile-fs`` writes down its arguments."""

    def __init__(self, cli: Cli, name: str) -> None:
        self.directory = cli.directory
        home = cli.directory / "home"
        (home / "bin").mkdir(parents=True)
        command = home / "bin" / "dogpile-fs"
        command.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" . > arguments\necho written\n")
        command.chmod(0o755)
        environment = {
            **cli.environment,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
            "XDG_DATA_HOME": str(home),
            "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
            "TERM": "dumb" if name == "bash" else "xterm",
        }
        self.master, slave = os.openpty()
        self.process = subprocess.Popen(
            SHELLS[name][0],
            cwd=cli.directory,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=control_terminal,
        )
        os.close(slave)
        self.sent = b""

    def arguments(self, typed: str) -> list[str]:
        """Type a line; return the arguments that the command got."""
        file = self.directory / "arguments"
        file.unlink(missing_ok=True)
        self.sent = b""
        self.type(typed)
        self.wait_for_prompt(after=b"written")
        return file.read_text().splitlines()[:-1]

    def type(self, line: str) -> None:
        """Type *line* and the return key."""
        os.write(self.master, f"{line}\r".encode())

    def wait_for_prompt(self, *, after: bytes = b"") -> None:
        """Wait until the shell reads a line: what is typed sooner may get lost. *after*: text that comes first."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(re.escape(after) + b".*" + PROMPT, self.sent, re.DOTALL):
            assert select.select([self.master], [], [], deadline - time.monotonic())[0], self.sent
            self.sent += os.read(self.master, 65536)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self.master)


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, cli: Cli) -> Iterator[Shell]:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    pytest.importorskip("shtab")
    # The name that zsh looks for.
    (cli.directory / "_dogpile-fs").write_text(cli.run("completion", request.param).stdout)
    (cli.directory / "some-file").touch()
    (cli.directory / "some-directory").mkdir()
    shell = Shell(cli, request.param)
    try:
        shell.type(SHELLS[request.param][1])
        shell.wait_for_prompt()
        yield shell
    finally:
        shell.end()


#: Lines with tab keys, and the arguments that the command gets.
LINES = (
    ("hist\tsome-f\t", ["history", "some-file"]),
    ("origin --old\t1h pr\turl", ["origin", "--older-than", "1h", "prune", "url"]),
    ("top --js\tsome-d\t", ["top", "--json", "some-directory"]),
    ("demo --pl\t--work\t2", ["demo", "--plain", "--workers", "2"]),
    ("run --outp\tsome-f\t--exp\t1h", ["run", "--output", "some-file", "--expire", "1h"]),
)


def test_the_shells_complete_commands_options_choices_and_paths(shell: Shell) -> None:
    for typed, arguments in LINES:
        # Some shells leave the slash behind a directory, and some take it away at the end of the line.
        assert [each.rstrip("/") for each in shell.arguments(f"dogpile-fs {typed}")] == arguments


@pytest.mark.parametrize("name", SHELLS)
def test_the_scripts_have_every_command_and_the_shells_find_no_fault(cli: Cli, name: str) -> None:
    pytest.importorskip("shtab")
    script = cli.run("completion", name).stdout
    assert [command for command in _grammar()[1] if not re.search(rf"\b{command}\b", script)] == []
    if shutil.which(name):
        subprocess.run([name, "-n"], input=script, text=True, check=True, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [(("completion", "bash"), "shtab", "completion"), (("top", "--once"), "rich", "top")],
)
def test_an_extra_that_is_not_installed_is_named(
    tmp_path: Path, cli: Cli, words: tuple[str, ...], module: str, extra: str
) -> None:
    script = WITHOUT.format(module=module)
    ended = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=tmp_path,
        env=cli.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stdout) == (69, "")
    assert f"needs the package {module}. Hint: python -m pip install 'dogpile_fs[{extra}]'" in ended.stderr
    assert ended.stderr.count("\n") == 1
