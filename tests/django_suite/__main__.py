"""Run Django's own tests of caches and of sessions in a cache, with ``DatafileCache``.

    python -m tests.django_suite [--sdist FILE] [LABEL ...]

The tests are in Django's source distribution, of the version that is installed: pip downloads it, unless
``--sdist`` names it. The LABELs are those of Django's runner. The exit status is the runner's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import django

__all__ = ["main"]

_HERE = Path(__file__).parent
_LABELS = [
    "cache.dogpile_fs_tests",
    "sessions_tests.tests.CacheSessionTests",
    "sessions_tests.tests.CacheDBSessionTests",
]
_SETTINGS = """
from test_sqlite import *

CACHES = {{"default": {{"BACKEND": "dogpile_fs.integrations.django.DatafileCache", "LOCATION": {location!r}}}}}
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the tests, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.django_suite", description=__doc__)
    parser.add_argument("--sdist", type=Path, help="Django's source distribution; default: download it")
    parser.add_argument("labels", nargs="*", default=_LABELS, metavar="LABEL")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="dogpile_fs-") as directory:
        place = Path(directory)
        sdist = options.sdist or _downloaded(place)
        with tarfile.open(sdist) as archive:
            archive.extractall(place, filter="data")
        [tests] = place.glob("[Dd]jango-*/tests")
        shutil.copy(_HERE / "suite.py", tests / "cache" / "dogpile_fs_tests.py")
        (tests / "dogpile_fs_settings.py").write_text(_SETTINGS.format(location=str(place / "default")))
        command = ["runtests.py", "--settings", "dogpile_fs_settings", "--parallel", "1", *options.labels]
        path = os.pathsep.join(filter(None, (str(_HERE.parents[1]), os.environ.get("PYTHONPATH"))))
        return subprocess.run(
            [sys.executable, *command], cwd=tests, env={**os.environ, "PYTHONPATH": path}
        ).returncode


def _downloaded(place: Path) -> Path:
    """Return the source distribution, in *place*."""
    words = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(place)]
    subprocess.run([sys.executable, "-m", "pip", *words, f"Django=={django.__version__}"], check=True)
    [sdist] = place.glob("*.tar.gz")
    return sdist


if __name__ == "__main__":
    sys.exit(main())
