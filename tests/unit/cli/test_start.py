"""A fresh run is cheap: cron asks every minute, and nearly always finds a fresh file."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.cli_processes import Cli, bytecode, cli

__all__ = ["bytecode", "cli"]  # fixtures

FRESH = ("run", "--expire", "1h", "--output", "file", "--stdout", "--then", "true", "--", "date")
HEAVY = (
    "argparse",
    "asyncio",
    "contextlib",
    "ctypes",
    "dataclasses",
    "dogpile_fs.cli.arguments",
    "dogpile_fs.cli.top",
    "dogpile_fs.errors",
    "enum",
    "filelock",
    "inspect",
    "json",
    "logging",
    "multiprocessing",
    "pathlib",
    "portalocker",
    "re",
    "rich",
    "signal",
    "shtab",
    "shutil",
    "subprocess",
    "tempfile",
    "threading",
    "typing",
)


def test_a_fresh_run_imports_no_heavy_module(cli: Cli) -> None:
    cli.make()
    # Without site, which imports more or less in each installation.
    script = "import sys; from dogpile_fs.cli import main; print(main(sys.argv[1:]), *sys.modules)"
    status, *modules = subprocess.run(
        [sys.executable, "-S", "-c", script, *FRESH],
        cwd=cli.directory,
        env=cli.environment,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split()
    assert status == "0"
    assert "dogpile_fs._sidecar.quick_check" in modules
    assert [module for module in HEAVY if module in modules] == []


def processor_seconds(cli: Cli, *words: str) -> float:
    """Return the processor time of a process with the command line *words*; other processes do not count."""
    environment = {name: value for name, value in cli.environment.items() if not name.startswith("COVERAGE")}
    pid = os.posix_spawn(words[0], words, environment)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("how", ["module", "script", "without a sidecar"])
def test_a_fresh_run_takes_at_most_three_times_the_start_of_a_bare_interpreter(
    cli: Cli, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.make()
    monkeypatch.chdir(cli.directory)
    bare = [sys.executable, "-c", "pass"]
    fresh = cli.command(*FRESH)
    if how == "script":  # as an installer makes it of the entry point
        script = cli.directory / "dogpile-fs"
        script.write_text("import sys\nfrom dogpile_fs.cli import main\nsys.exit(main())\n")
        fresh = [sys.executable, str(script), *FRESH]
    if how == "without a sidecar":
        (cli.directory / "file.dogpile").unlink()
    assert cli.run(*FRESH).returncode == 0
    ratio = 0.0
    for _ in range(5):
        rounds = [(processor_seconds(cli, *bare), processor_seconds(cli, *fresh)) for _ in range(10)]
        ratio = min(one[1] for one in rounds) / min(one[0] for one in rounds)
        if ratio <= 3:
            break
    assert ratio <= 3
