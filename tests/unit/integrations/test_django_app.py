"""The application for Django: what is registered, the command ``datafiles`` and the checks, in a real project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django")

from dogpile_fs import Datafile, aio
from dogpile_fs.integrations.django import register, registered
from dogpile_fs.integrations.django._mounted import filesystem_of, is_shared
from tests.campaign.mounts import CannotMount, keep_mounts_to_ourselves, refuse_unless_mountable
from tests.support.fuse_directory import fuse_directory
from tests.support.plugin import ROOT
from tests.support.processes import PATIENCE, ended_well, in_child

#: The id of a user that owns nothing: nobody's.
NOBODY = 65534

SETTINGS = """
SECRET_KEY = "secret"
USE_TZ = True
INSTALLED_APPS = ["dogpile_fs.integrations.django", "shop"]
"""

DATAFILES = """
from pathlib import Path
from dogpile_fs import Backoff, DataDirectory, Datafile, Datafiles
from dogpile_fs.integrations.django import register

VAR = Path(__file__).parents[1] / "var"

def create(target):
    Path(target).write_text("prices")

def refuse(target):
    raise ZeroDivisionError("no rates today")

def create_directory(target):
    Path(target).mkdir()

prices = register("prices", Datafile(VAR / "prices.json", 3600, create))
register("rates", Datafile(VAR / "rates.json", 3600, refuse, backoff=None))
register("tree", DataDirectory(VAR / "tree", None, create_directory))
register("reports", Datafiles(VAR / "reports" / "{key}", 3600, lambda key, target: create(target), parents=True))
register("read", Datafile(VAR / "read.json"))
"""


#: Another user may read neither the directory of root's Python nor what Django imports late: it checks twice.
AS_NOBODY = f"""
import os, django
from django.core.management import call_command
django.setup()
try:
    call_command("check")
except Exception:
    pass
if os.geteuid() == 0:
    os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
call_command("check")
"""

#: Runs several commands, one after the other, because to import Django takes longer than all of them.
SEVERAL = """
import contextlib, io, json, sys
from django.core.management import execute_from_command_line
ended = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
        status = 0
        try:
            execute_from_command_line(["manage.py", *words])
        except SystemExit as error:
            status = error.code
    ended.append([words, status, out.getvalue(), errors.getvalue()])
print(json.dumps(ended))
"""


class Project:
    """A project of Django in a directory, with an application that registers datafiles."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.var = directory / "var"
        self.var.mkdir()
        (directory / "shop").mkdir()
        (directory / "shop" / "__init__.py").touch()
        self.write(settings=SETTINGS, datafiles=DATAFILES)

    def write(self, *, settings: str | None = None, datafiles: str | None = None) -> None:
        if settings is not None:
            (self.directory / "settings.py").write_text(textwrap.dedent(settings))
        if datafiles is not None:
            (self.directory / "shop" / "datafiles.py").write_text(textwrap.dedent(datafiles))

    def manage(self, *commands: str) -> list[subprocess.CompletedProcess[str]]:
        """Run ``manage.py`` with each of these *commands* in turn, and return how each has ended."""
        done = self.run(SEVERAL, json.dumps([command.split() for command in commands]))
        assert done.returncode == 0, done.stderr
        return [subprocess.CompletedProcess(*ended) for ended in json.loads(done.stdout)]

    def check(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Django's checks."""
        return self.manage(" ".join(["check", *words]))[0]

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a *program* in the project."""
        path = os.pathsep.join(filter(None, (str(self.directory), str(ROOT), os.environ.get("PYTHONPATH"))))
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", program, *words],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "settings", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_the_names_can_be_imported_without_settings_and_applications() -> None:
    code = (
        "import sys, tempfile; from dogpile_fs.integrations.django import *; from dogpile_fs import Datafile; "
        "from django.conf import settings; from django.apps import apps; "
        "import dogpile_fs.integrations.django.apps; "
        "register('a', Datafile(tempfile.mkdtemp() + '/a', 3600, print)); assert list(registered()) == ['a']; "
        "assert not settings.configured and not apps.ready"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT, timeout=PATIENCE)


def test_a_name_is_given_once_and_only_what_creates_or_reads_files_has_one(tmp_path: Path) -> None:
    one, other = Datafile(tmp_path / "one", 3600, print), Datafile(tmp_path / "other", 3600, print)
    name = f"one of {tmp_path}"
    assert register(name, one) is register(name, one) is registered()[name] is one
    with pytest.raises(ValueError, match=r"is that of Datafile.*one"):
        register(name, other)
    with pytest.raises(ValueError, match="must not be empty"):
        register("", one)
    with pytest.raises(TypeError, match="must be a str"):
        register(1, one)  # type: ignore[arg-type]
    for wrong in (tmp_path, aio.Datafile(tmp_path / "one", 3600, print)):
        with pytest.raises(TypeError, match="can be registered"):
            register("other", wrong)  # type: ignore[type-var]
    registered().clear()
    assert registered()[name] is one


def test_the_command_lists_what_the_modules_of_all_applications_have_registered(project: Project) -> None:
    [done] = project.manage("datafiles")
    assert done.stderr == ""
    assert done.returncode == 2  # some are missing
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["NAME", "STATE", "AGE", "FAILURES", "PATH", "NOW"]
    assert rows[1:] == [
        ["prices", "missing", "-", "0", str(project.var / "prices.json")],
        ["rates", "missing", "-", "0", str(project.var / "rates.json")],
        ["read", "missing", "-", "0", str(project.var / "read.json")],
        ["reports", "-", "-", "-", str(project.var / "reports" / "{key}")],
        ["tree", "missing", "-", "0", str(project.var / "tree")],
    ]
    assert list(project.var.iterdir()) == []  # nothing was created


def test_the_exit_status_is_that_of_the_worst_state(project: Project) -> None:
    (project.var / "read.json").write_text("put there by hand")
    (project.var / "prices.json").write_text("of long ago")
    os.utime(project.var / "prices.json", (1, 1))
    (project.var / "tree.dogpile").mkdir()
    fresh, stale, missing, unknown, as_json = project.manage(
        "datafiles --status read",
        "datafiles prices read prices",
        "datafiles prices rates",
        "datafiles",
        "datafiles --json read reports tree",
    )
    assert fresh.returncode == 0
    assert stale.returncode == 1
    assert [line.split()[:2] for line in stale.stdout.splitlines()[1:]] == [["prices", "stale"], ["read", "fresh"]]
    assert missing.returncode == 2
    assert unknown.returncode == 3
    assert "tree     unknown" in unknown.stdout
    assert as_json.returncode == 3
    read, reports, tree = json.loads(as_json.stdout)
    assert read["state"] == "fresh"
    assert reports == {"name": "reports", "pattern": str(project.var / "reports" / "{key}")}
    assert tree.keys() == {"name", "path", "error"}


def test_refresh_creates_what_is_stale_and_tells_which_failed(project: Project) -> None:
    done, again, forced, silent, table = project.manage(
        "datafiles --refresh",
        "datafiles --refresh prices tree",
        "datafiles --refresh --force --json prices",
        "datafiles --refresh -v0 prices",
        "datafiles rates",
    )
    assert done.returncode == 1
    assert done.stdout == "prices: created\ntree: created\n"
    assert done.stderr.endswith("rates: ZeroDivisionError: no rates today\nCommandError: not refreshed: rates\n")
    assert (again.returncode, again.stdout) == (0, "prices: fresh\ntree: fresh\n")
    assert (forced.returncode, json.loads(forced.stdout)) == (0, [{"name": "prices", "outcome": "created"}])
    assert (silent.returncode, silent.stdout) == (0, "")
    assert "missing" in table.stdout
    assert "failed once" in table.stdout


def test_in_its_backoff_a_datafile_counts_as_failed_only_where_there_is_none(project: Project) -> None:
    project.write(datafiles=DATAFILES.replace(", backoff=None", ", backoff=Backoff(3600, 3600)"))
    failed, backing_off = project.manage("datafiles --refresh rates", "datafiles --refresh rates")
    assert failed.returncode == backing_off.returncode == 1
    assert "rates: missing: failed once" in backing_off.stderr
    (project.var / "rates.json").write_text("old rates")
    os.utime(project.var / "rates.json", (1, 1))
    [with_old] = project.manage("datafiles --refresh rates")
    assert (with_old.returncode, with_old.stderr) == (0, "")
    assert with_old.stdout.startswith("rates: backing off (failed once")


def test_wrong_arguments_are_told(project: Project) -> None:
    unknown, forced, reading, of_keys = project.manage(
        "datafiles price rates X", "datafiles --force", "datafiles --refresh read", "datafiles --refresh reports"
    )
    assert unknown.returncode == forced.returncode == 64
    assert unknown.stderr == (
        "CommandError: no datafile is called 'price', 'X': registered are prices, rates, read, reports, tree\n"
    )
    assert forced.stderr == "CommandError: --force goes with --refresh\n"
    assert reading.returncode == of_keys.returncode == 1
    assert "was made without a creator" in reading.stderr
    assert "has a datafile for each key" in of_keys.stderr


def test_without_any_the_command_says_so(project: Project) -> None:
    project.write(datafiles="")
    none, unknown = project.manage("datafiles", "datafiles prices")
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "No datafile is registered.\n")
    assert "none is registered" in unknown.stderr


def ids(done: subprocess.CompletedProcess[str]) -> list[str]:
    return sorted(word.strip("():") for word in done.stderr.split() if word.startswith("(dogpile_fs."))


def caches(**entries: Any) -> str:
    backend = "dogpile_fs.integrations.django.DatafileCache"
    return f"CACHES = { ({name: {'BACKEND': backend, **entry} for name, entry in entries.items()})!r}\n"


def test_a_sound_project_has_no_complaints(project: Project) -> None:
    project.write(settings=SETTINGS + caches(default={"LOCATION": str(project.var / "new" / "cache")}))
    done = project.check("--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr
    assert not (project.var / "new").exists()


def test_a_directory_that_is_missing_is_an_error(project: Project) -> None:
    (project.var / "file").touch()
    project.write(
        settings=SETTINGS + caches(default={"LOCATION": str(project.var / "file" / "cache")}),
        datafiles=DATAFILES + "register('lost', Datafile(VAR / 'lost' / 'file', 3600, create))\n"
        "register('made', Datafile(VAR / 'made' / 'file', 3600, create, parents=True))\n",
    )
    done = project.check()
    assert done.returncode == 1
    assert ids(done) == ["dogpile_fs.E002", "dogpile_fs.E002"]
    assert f"The datafile 'lost' is to be made in '{project.var}/lost', which does not exist" in done.stderr
    assert f"The cache 'default' is to be made in '{project.var}/file', which is no directory" in done.stderr


def test_a_directory_that_may_not_be_written_is_an_error_for_what_creates() -> None:
    with tempfile.TemporaryDirectory(prefix="dogpile_fs-") as place:  # pytest's are for their user alone
        os.chmod(place, 0o755)
        project = Project(Path(place))
        project.write(settings=SETTINGS + caches(default={"LOCATION": str(project.var / "cache")}))
        user = NOBODY if os.geteuid() == 0 else os.geteuid()
        for mode, expected in ((0o555, ["dogpile_fs.E001"] * 5), (0o777, [])):
            project.var.chmod(mode)
            done = project.run(AS_NOBODY)
            assert ids(done) == expected, done.stderr
            assert (f"the user with the id {user} may not" in done.stderr) == bool(expected)
            assert "The datafile 'read'" not in done.stderr  # it has no creator


def test_a_file_system_that_hosts_may_share_is_a_warning(project: Project) -> None:
    try:
        refuse_unless_mountable("fuse")
    except CannotMount as error:
        pytest.skip(str(error))
    shared = project.var / "shared"
    shared.mkdir()
    project.write(
        settings=SETTINGS + caches(default={"LOCATION": str(shared / "cache")}),
        datafiles=DATAFILES + "register('shared', Datafile(VAR / 'shared' / 'file', 3600, create))\n"
        "register('shared read', Datafile(VAR / 'shared' / 'file'))\n",
    )

    def look() -> None:
        keep_mounts_to_ourselves()
        with fuse_directory(shared, "sshfs"):
            done = project.check()
        assert done.returncode == 0, done.stderr
        assert ids(done) == ["dogpile_fs.W001"] * 3, done.stderr
        for what in ("The cache 'default'", "The datafile 'shared'", "The datafile 'shared read'"):
            assert f"{what} is in '{shared}', on a file system (fuse.sshfs) that" in done.stderr

    assert ended_well(in_child(look))


def test_the_file_system_of_a_directory_is_found() -> None:
    assert filesystem_of("/proc") == "proc"
    assert filesystem_of("/proc/self/fd") == "proc"
    with pytest.raises(FileNotFoundError):
        filesystem_of("/proc/nothing")


@pytest.mark.parametrize(
    ("filesystem", "expected"),
    [
        *((each, True) for each in ("nfs", "nfs4", "cifs", "ceph", "9p", "virtiofs", "fuse", "fuse.glusterfs")),
        *((each, False) for each in ("ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk")),
    ],
)
def test_file_systems_that_hosts_may_share_are_known(filesystem: str, expected: bool) -> None:
    assert is_shared(filesystem) is expected


def test_a_location_that_is_missing_or_relative_is_told(project: Project) -> None:
    project.write(settings=SETTINGS + caches(default={}, other={"LOCATION": "var/cache"}))
    done = project.check()
    assert ids(done) == ["dogpile_fs.E003", "dogpile_fs.W002"], done.stderr
    assert "The cache 'default' has no LOCATION" in done.stderr
    assert "cache 'other', 'var/cache', is relative" in done.stderr


def test_a_cache_among_files_for_visitors_is_a_warning_at_deployment(project: Project) -> None:
    project.write(
        settings=SETTINGS
        + caches(default={"LOCATION": str(project.var / "media" / "cache")})
        + f"MEDIA_ROOT = {str(project.var / 'media')!r}\n"
        + f"STATICFILES_DIRS = [('a', {str(project.var / 'css')!r})]\n"
    )
    assert "dogpile_fs.W003" not in project.check().stderr
    done = project.check("--deploy")
    assert ids(done) == ["dogpile_fs.W003"], done.stderr
    assert "MEDIA_ROOT" in done.stderr
