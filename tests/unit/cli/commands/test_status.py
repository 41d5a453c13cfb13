from __future__ import annotations

import json
import os
import re
import subprocess
import time

import pytest

from dogpile_fs import DataDirectory, Dogpile
from dogpile_fs._sidecar.record import Record, encode
from tests.support.cli_processes import Cli, bytecode, cli

__all__ = ["bytecode", "cli"]  # fixtures

HEADS = ["PATH", "STATE", "AGE", "EXPIRES IN", "GENERATION", "COST", "BY", "NOW"]


def table(cli: Cli, *words: str, status: int = 0) -> list[list[str]]:
    """The rows of ``status``, without the heads."""
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


def test_what_the_user_says_of_its_expiry_comes_first(cli: Cli) -> None:
    cli.make()
    assert table(cli, "--expire", "0", "file", status=1)[0][1] == "stale"
    assert table(cli, "--expire", "never", "file")[0][3] == "never"


def test_the_worst_state_is_the_exit_status(cli: Cli) -> None:
    cli.make("one")
    cli.make("two")
    cli.run("invalidate", "two")
    assert [row[:2] for row in table(cli, "one", "two", status=1)] == [["one", "fresh"], ["two", "stale"]]
    rows = table(cli, "two", "missing", "one", status=2)
    assert [row[1] for row in rows] == ["stale", "nothing", "fresh"]
    assert rows[1] == ["missing", "nothing", "-", "-", "0", "-", "-", "-"]


def test_a_path_that_cannot_be_asked_does_not_keep_the_others_from_being_shown(cli: Cli) -> None:
    cli.make()
    result = cli.run("status", "missing/file", "file", status=66)
    assert result.stderr.startswith("dogpile-fs: the directory ")
    assert result.stderr.count("\n") == 1
    assert "file  fresh" in result.stdout


def test_who_is_creating_and_who_failed_is_told(cli: Cli) -> None:
    cli.make()
    creator = cli.start_gated()
    cli.wait_for_line("started")
    me = re.escape(f"{os.uname().nodename}:{creator.pid}")
    assert re.fullmatch(rf"creating since .*s ago, by {me}", table(cli, "file")[0][7])
    creator.kill()
    creator.wait()
    assert re.fullmatch(rf"failed: begun .*s ago, by {me}", table(cli, "file")[0][7])
    cli.run("invalidate", "file")
    assert table(cli, "file", status=1)[0][7].startswith("invalidated (soft); failed: ")


def test_a_lock_that_a_foreign_hand_holds_is_told(cli: Cli) -> None:
    cli.make()
    dogpile = Dogpile(None, cli.directory / "file")
    with dogpile.dogpilelock:  # type: ignore[attr-defined]
        assert table(cli, "file")[0][7] == "creating"


def test_a_file_of_unknown_origin_has_an_age_and_expires_nobody_knows_when(cli: Cli) -> None:
    (cli.directory / "file").write_text("shipped")
    os.utime(cli.directory / "file", (time.time() - 7200,) * 2)
    row = table(cli, "file")[0]
    assert row[1] == "fresh"
    assert row[2].startswith("2h")
    assert row[3] == "unknown"
    assert table(cli, "--expire", "never", "file")[0][3] == "never"
    (told,) = json.loads(cli.run("status", "--json", "file").stdout)
    assert (told["expiretime"], told["remaining"], told["expiry_known"]) == (None, None, False)
    (told,) = json.loads(cli.run("status", "--json", "--expire", "never", "file").stdout)
    assert (told["remaining"], told["expiry_known"]) == (None, True)
    cli.run("touch", "file")
    assert table(cli, "file")[0][3] == "unknown"


@pytest.mark.parametrize("touched", [False, True])
def test_a_file_of_which_no_run_has_made_anything_is_stale_by_what_the_last_one_said(
    cli: Cli, touched: bool
) -> None:
    (cli.directory / "file").write_text("shipped")
    os.utime(cli.directory / "file", (time.time() - 7200,) * 2)
    cli.run("run", "--expire", "1h", "--output", "file", "--", "false", status=1)
    row = table(cli, "file", status=1)[0]
    assert (row[1], row[3]) == ("stale", "-")
    assert row[7].startswith("failed: ")
    cli.run("wait", "--fresh", "--timeout", "0", "file", status=75)
    cli.run("wait", "--timeout", "0", "file")
    if touched:
        cli.run("touch", "file")
        assert table(cli, "file")[0][3].startswith(("1h", "59m"))
    cli.run("run", "--expire", "never", "--force", "--output", "file", "--", "false", status=1)
    # What was stamped goes on by what its stamp goes by.
    assert table(cli, "file")[0][3].startswith(("1h", "59m") if touched else "never")
    assert json.loads(cli.run("status", "--json", "file").stdout)[0]["expiry_known"] is True


def test_directories_have_a_status_too(cli: Cli) -> None:
    def creator(target: str) -> None:
        os.mkdir(target)

    DataDirectory(cli.directory / "index", 3600, creator).refresh()
    (row,) = table(cli, "index")
    assert row[:2] == ["index", "fresh"]
    assert row[4] == "1"


def test_the_name_of_what_is_no_file_has_a_status_too(cli: Cli) -> None:
    dogpile = Dogpile(3600, cli.directory / "warm-up")
    dogpile.refresh(lambda: None)
    assert table(cli, "warm-up")[0][:2] == ["warm-up", "fresh"]


def test_a_datafile_that_was_removed_is_nothing(cli: Cli) -> None:
    cli.make()
    (cli.directory / "file").unlink()
    assert table(cli, "file", status=2)[0][1] == "nothing"


def test_json_tells_everything_in_seconds(cli: Cli) -> None:
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
    assert missing["state"] == "nothing"
    assert missing["age"] is None


@pytest.mark.parametrize(
    ("host", "encoding", "told"),
    [
        ("b\u00fcro", "ascii", b"b\\xfcro:7"),
        ("\u6771", "latin-1", b"\\u6771:7"),
        ("\ud800", "utf-8", b"?:7"),
        ("\udcff", "ascii", b"?:7"),
    ],
    ids=ascii,
)
def test_a_host_that_the_terminal_has_no_characters_for_is_told_escaped(
    cli: Cli, host: str, encoding: str, told: bytes
) -> None:
    (cli.directory / "file.dogpile").write_bytes(encode(Record(1000.0, 1, 1.0, host, 7)))
    done = subprocess.run(
        cli.command("status", "file"),
        cwd=cli.directory,
        env={**cli.environment, "PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert told in done.stdout


@pytest.mark.parametrize(("words", "status"), [(("status", ""), 64), (("invalidate", "missing"), 66)])
@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_what_is_wrong_shows_in_the_exit_status_if_nobody_can_be_told(
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
