"""A real Prometheus node_exporter, which takes all ``*.prom`` files of a directory, hidden ones included."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from dogpile_fs import atomic_write
from tests.support.cli_processes import Cli, bytecode, cli
from tests.support.places import files_in, hidden
from tests.support.processes import PATIENCE, wait_for

__all__ = ["bytecode", "cli"]  # fixtures

#: What COMMAND does: it writes half a line, prints what the exporter says meanwhile, and writes the rest.
_WRITE_SLOWLY = """\
import os, sys
from urllib.request import urlopen
url, number = sys.argv[1:]
with open(os.environ["DOGPILE_FS_OUTPUT"], "w") as file:
    file.write("shop_orders{half")
    file.flush()
    with urlopen(url) as answer:
        print(answer.read().decode())
    file.seek(0)
    file.truncate()
    file.write(f"shop_orders {number}\\n")
"""


@pytest.fixture
def exporter(cli: Cli) -> Iterator[str]:
    """The URL of an exporter of the directory of *cli*."""
    program = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
    if program is None:
        pytest.skip("node_exporter is not installed (Debian: prometheus-node-exporter)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*free.getsockname())
    process = subprocess.Popen(
        [
            program,
            f"--web.listen-address={address}",
            "--collector.disable-defaults",
            "--collector.textfile",
            f"--collector.textfile.directory={cli.directory}",
        ],
        stderr=subprocess.DEVNULL,
    )
    url = f"http://{address}/metrics"
    try:
        wait_for(lambda: _answers(url), "the exporter to answer")
        yield url
    finally:
        process.kill()
        process.wait(PATIENCE)


def _answers(url: str) -> bool:
    try:
        return bool(asked(url))
    except URLError:
        return False


def asked(url: str) -> str:
    with urlopen(url) as answer:
        return answer.read().decode()  # type: ignore[no-any-return]


def published(answer: str) -> tuple[list[str], list[str]]:
    """Return the lines of the shop's orders, and those that tell of files that cannot be read."""
    lines = answer.splitlines()
    return (
        [line for line in lines if line.startswith("shop_orders")],
        [line for line in lines if line.startswith("node_textfile_scrape_error")],
    )


def test_it_publishes_the_current_value_and_no_error_over_ten_swaps(cli: Cli, exporter: str) -> None:
    options = ("--force", "--expire", "1h", "--keep", "2", "--output", "shop.prom")
    command = ("--", sys.executable, "-c", _WRITE_SLOWLY, exporter)
    for number in range(10):
        meanwhile = cli.run("run", *options, *command, str(number)).stdout
        before = [f"shop_orders {number - 1}"] if number else []
        assert published(meanwhile) == (before, ["node_textfile_scrape_error 0"])
        assert published(asked(exporter)) == ([f"shop_orders {number}"], ["node_textfile_scrape_error 0"])
    assert len(files_in(hidden(cli.directory / "shop.prom"))) == 2


def test_it_publishes_no_half_of_what_atomic_write_writes(cli: Cli, exporter: str) -> None:
    def check(expected: list[str]) -> None:
        assert published(asked(exporter)) == (expected, ["node_textfile_scrape_error 0"])

    for number in range(3):
        with atomic_write(cli.directory / "shop.prom", "w", durable=False) as file:
            file.write("shop_orders{half")
            file.flush()
            check([f"shop_orders {number - 1}"] if number else [])
            file.seek(0)
            file.truncate()
            file.write(f"shop_orders {number}\n")
        check([f"shop_orders {number}"])


def test_it_publishes_what_dogpile_fs_metrics_has_written(cli: Cli, exporter: str) -> None:
    name = 'the "daily" report\n'
    cli.make(name)
    for creations in (1, 2):
        cli.run("metrics", "--output", "dogpile.prom", name, "missing/file")
        answer = asked(exporter)
        assert published(answer) == ([], ["node_textfile_scrape_error 0"])
        labels = f'{{path="{cli.directory}/the \\"daily\\" report\\n"}}'
        assert f"dogpile_fs_creations_total{labels} {creations}" in answer.splitlines()
        assert f'dogpile_fs_up{{path="{cli.directory}/missing/file"}} 0' in answer.splitlines()
        assert 'node_textfile_mtime_seconds{file="' in answer
        cli.run("touch", name)
