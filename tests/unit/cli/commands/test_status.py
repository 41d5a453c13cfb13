from __future__ import annotations

import json
import os
import re
import subprocess
import time

import pytest

from dogpile_fs import DataDirectory, Dogpile
from dogpile_fs._sidecar.encoding import encode
from dogpile_fs._sidecar.record import Record
from tests.support.cli_processes import Cli, bytecode, cli

__all__ = ["bytecode", "cli"]  # fixtures

FORCED = ("run", "--force", "--backoff", "1h", "--expire", "1h", "--output", "file")
HEADS = ["PATH", "STATE", "AGE", "EXPIRES IN", "GENERATION", "COST", "BY", "NOW"]


def table(cli: Cli, *words: str, status: int = 0) -> list[list[str]]:
    """Return the rows of ``status``, without the heads."""
    heads, *rows = cli.run("status", *words, status=status).stdout.splitlines()
    assert re.split("  +", heads) == HEADS
    return [re.split("  +", row) for row in rows]


def test_a_file_is_fresh_or_stale_as_its_creator_said(cli: Cli) -> None:
    cli.make()
    ((path, state, age, expires, generation, cost, by, now),) = table(cli, "file")
    assert (path, state, generation, now) == ("file", "fresh", "1", "-")
    assert age.endswith("s")
    assert expires in ("1h", "59m59s", "59m58s") or expires.startswith("59m")
    assert cost.endswith("s")
    assert re.fullmatch(re.escape(os.uname().nodename) + r":\d+", by)
    cli.run("run", "--expire", "0", "--output", "file", "--stdout", "--", "date")
    assert table(cli, "file", status=1)[0][1:4:2] == ["stale", "-"]
    cli.run("run", "--expire", "never", "--force", "--output", "file", "--stdout", "--", "date")
    assert table(cli, "file")[0][1:4:2] == ["fresh", "never"]


def test_the_expire_option_comes_before_the_creators_expiretime(cli: Cli) -> None:
    cli.make()
    assert table(cli, "--expire", "0", "file", status=1)[0][1] == "stale"
    assert table(cli, "--expire", "never", "file")[0][3] == "never"


def test_the_worst_state_is_the_exit_status(cli: Cli) -> None:
    cli.make("one")
    cli.make("two")
    cli.run("invalidate", "two")
    assert [row[:2] for row in table(cli, "one", "two", status=1)] == [["one", "fresh"], ["two", "stale"]]
    rows = table(cli, "two", "missing", "one", status=2)
    assert [row[1] for row in rows] == ["stale", "missing", "fresh"]
    assert rows[1] == ["missing", "missing", "-", "-", "0", "-", "-", "-"]


def test_an_error_at_one_path_does_not_hide_the_others(cli: Cli) -> None:
    cli.make()
    result = cli.run("status", "missing/file", "file", status=66)
    assert result.stderr.startswith("dogpile-fs: the directory ")
    assert result.stderr.count("\n") == 1
    assert "file  fresh" in result.stdout


def test_the_process_that_creates_or_failed_is_shown(cli: Cli) -> None:
    cli.make()
    creator = cli.start_gated()
    cli.wait_for_line("started")
    me = re.escape(f"{os.uname().nodename}:{creator.pid}")
    assert re.fullmatch(rf"creating since .*s ago, by {me}(, overdue)?", table(cli, "file")[0][7])
    creator.kill()
    creator.wait()
    died = rf"failed once, .*s ago: died \(pid {creator.pid}\)"
    assert re.fullmatch(died, table(cli, "file")[0][7])
    cli.run("invalidate", "file")
    assert re.fullmatch(rf"invalidated \(soft\); {died}; next attempt due", table(cli, "file", status=1)[0][7])


def test_failures_are_shown_until_a_creation_succeeds_also_while_one_runs(cli: Cli) -> None:
    cli.make()
    told = r"failed 2 times, first \S+ ago: SIGKILL \(pid \d+\); next attempt in \S+"
    for script, status in (("exit 3", 3), ("kill -9 $$", 137)):
        cli.run(*FORCED, "--", "sh", "-c", script, status=status)
    assert re.fullmatch(told, table(cli, "file")[0][7])
    creator = cli.start_gated("--force")
    cli.wait_for_line("started")
    assert re.fullmatch(
        rf"creating since \S+ ago, by \S+:{creator.pid}(, overdue)?; {told}", table(cli, "file")[0][7]
    )
    (status,) = json.loads(cli.run("status", "--json", "file").stdout)
    assert (status["failures"], status["failures_total"], status["failed_type"]) == (2, 2, "SIGKILL")
    assert status["failed_since"] < status["failed_at"] < status["retry_at"]
    cli.open_gate()
    cli.end(creator)
    (status,) = json.loads(cli.run("status", "--json", "--expire", "never", "file").stdout)
    assert (status["failures"], status["failures_total"], status["failed_type"]) == (0, 2, None)
    assert table(cli, "--expire", "never", "file")[0][7] == "-"


def test_a_file_that_is_too_old_for_readers_is_expired(cli: Cli) -> None:
    cli.run("run", "--expire", "0", "--max-stale", "0", "--output", "file", "--stdout", "--", "date")
    (row,) = table(cli, "file", status=2)
    assert (row[1], row[3]) == ("expired", "-")
    assert json.loads(cli.run("status", "--json", "file", status=2).stdout)[0]["state"] == "expired"
    cli.run("wait", "--timeout", "0", "file", status=75)
    assert " file is expired\n" in cli.run("watch", "--count", "1", "file").stdout


def test_a_lock_that_another_program_holds_is_shown_as_creating(cli: Cli) -> None:
    cli.make()
    dogpile = Dogpile(None, cli.directory / "file")
    with dogpile.dogpilelock:  # type: ignore[attr-defined]
        assert table(cli, "file")[0][7] == "creating"


def test_a_file_without_a_sidecar_has_an_age_and_an_unknown_expiry(cli: Cli) -> None:
    (cli.directory / "file").write_text("shipped")
    os.utime(cli.directory / "file", (time.time() - 7200,) * 2)
    row = table(cli, "file")[0]
    assert row[1] == "fresh"
    assert row[2].startswith("2h")
    assert row[3] == "unknown"
    assert table(cli, "--expire", "never", "file")[0][3] == "never"
    (status,) = json.loads(cli.run("status", "--json", "file").stdout)
    assert (status["expiretime"], status["remaining"], status["expiry_known"]) == (None, None, False)
    (status,) = json.loads(cli.run("status", "--json", "--expire", "never", "file").stdout)
    assert (status["remaining"], status["expiry_known"]) == (None, True)
    cli.run("touch", "file")
    assert table(cli, "file")[0][3] == "unknown"


@pytest.mark.parametrize("touched", [False, True])
def test_a_file_that_every_run_failed_to_make_is_stale_by_the_last_runs_expiretime(
    cli: Cli, touched: bool
) -> None:
    (cli.directory / "file").write_text("shipped")
    os.utime(cli.directory / "file", (time.time() - 7200,) * 2)
    cli.run("run", "--expire", "1h", "--output", "file", "--", "false", status=1)
    row = table(cli, "file", status=1)[0]
    assert (row[1], row[3]) == ("stale", "-")
    assert row[7].startswith("failed once, ")
    cli.run("wait", "--fresh", "--timeout", "0", "file", status=75)
    cli.run("wait", "--timeout", "0", "file")
    if touched:
        cli.run("touch", "file")
        assert table(cli, "file")[0][3].startswith(("1h", "59m"))
    cli.run("run", "--expire", "never", "--force", "--output", "file", "--", "false", status=1)
    # A touched file keeps the expiretime of its stamp.
    assert table(cli, "file")[0][3].startswith(("1h", "59m") if touched else "never")
    assert json.loads(cli.run("status", "--json", "file").stdout)[0]["expiry_known"] is True


def test_directories_have_a_status_too(cli: Cli) -> None:
    def creator(target: str) -> None:
        os.mkdir(target)

    DataDirectory(cli.directory / "index", 3600, creator).refresh()
    (row,) = table(cli, "index")
    assert row[:2] == ["index", "fresh"]
    assert row[4] == "1"


def test_a_resource_that_is_no_file_has_a_status_too(cli: Cli) -> None:
    dogpile = Dogpile(3600, cli.directory / "warm-up")
    dogpile.refresh(lambda: None)
    assert table(cli, "warm-up")[0][:2] == ["warm-up", "fresh"]


def test_a_datafile_that_was_removed_is_missing(cli: Cli) -> None:
    cli.make()
    (cli.directory / "file").unlink()
    assert table(cli, "file", status=2)[0][1] == "missing"


def test_json_has_everything_in_seconds(cli: Cli) -> None:
    cli.make()
    file, missing = json.loads(cli.run("status", "--json", "file", "missing", status=2).stdout)
    assert file["path"] == "file"
    assert file["state"] == "fresh"
    assert 0 <= file["age"] < 60
    assert 3540 < file["remaining"] <= 3600
    assert file["expiretime"] == 3600
    assert file["generation"] == 1
    assert file["host"] == os.uname().nodename
    assert file["creating"] is False
    assert missing["state"] == "missing"
    assert missing["age"] is None


@pytest.mark.parametrize(
    ("host", "encoding", "printed"),
    [
        ("b\u00fcro", "ascii", b"b\\xfcro:7"),
        ("\u6771", "latin-1", b"\\u6771:7"),
        ("\ud800", "utf-8", b"?:7"),
        ("\udcff", "ascii", b"?:7"),
    ],
    ids=ascii,
)
def test_a_host_that_stdout_cannot_encode_is_printed_escaped(
    cli: Cli, host: str, encoding: str, printed: bytes
) -> None:
    (cli.directory / "file.dogpile").write_bytes(
        encode(Record(createdtime=1000.0, generation=1, cost=1.0, host=host, pid=7))
    )
    done = subprocess.run(
        cli.command("status", "file"),
        cwd=cli.directory,
        env={**cli.environment, "PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert printed in done.stdout


@pytest.mark.parametrize(("words", "status"), [(("status", ""), 64), (("invalidate", "missing"), 66)])
@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_the_exit_status_shows_an_error_if_stderr_cannot_be_written(
    cli: Cli, words: tuple[str, ...], status: int, stderr: str
) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {stderr}', "sh", *cli.command(*words)],
        cwd=cli.directory,
        env=cli.environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (status, "")
