"""The names that the package gives to files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dogpile_fs
from dogpile_fs import _layout
from dogpile_fs._layout import coordination_base, temp_affixes
from dogpile_fs._os.directory_mark import known_as


def test_names_of_one_kind_and_owner_differ_from_all_others() -> None:
    kinds = [
        temp_affixes(kind, f"/directory/{name}", owner)
        for kind in ("tmp", "new", "dir")
        for name in ("a", "a.b", "b", "\udcff", "x" * 255)
        for owner in ("", "/directory/link", "/directory/linked")
    ]
    # A given owner counts instead of the name.
    assert len({begin for begin, _ in kinds}) == 3 * (5 + 2)
    assert temp_affixes("new", "/one/a") == temp_affixes("new", "/other/a")
    for begin, end in kinds:
        assert begin.startswith(".dogpile-")
        assert len(os.fsencode(begin + "12345678" + end)) < 200


def test_no_suffix_is_longer_than_the_longest() -> None:
    suffixes = [_layout.SIDECAR_SUFFIX, _layout.LOCK_SUFFIX, _layout.RWLOCK_SUFFIX, _layout.JOURNAL_SUFFIX]
    assert max(map(len, suffixes)) == len(_layout.LONGEST_SUFFIX)


def test_the_hint_for_a_name_that_is_too_long_says_by_how_much() -> None:
    hints = (Path(dogpile_fs.__file__).parent / "errors.py").read_text()
    assert f"appends up to {len(_layout.LONGEST_SUFFIX)} characters" in hints


def test_a_resource_has_one_base_by_whichever_link_its_directory_is_reached(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    places = [(str(tmp_path / way / "data"), known_as(str(tmp_path / way), None)) for way in ("real", "link")]
    bases = {coordination_base(path, "/locks", place) for path, place in places}
    assert len(bases) == 1
    assert bases.pop().startswith("/locks/data-")
    assert coordination_base("/one/data", "/locks", "/one") != coordination_base("/other/data", "/locks", "/other")
    assert coordination_base("/one/data", None) == "/one/data"
    assert len(os.fsencode(coordination_base("/" + "x" * 255, "/d") + _layout.LONGEST_SUFFIX)) < 200


def test_a_base_has_the_same_bytes_in_every_locale() -> None:
    script = (
        "import os, sys; from dogpile_fs._layout import coordination_base; "
        "print(*os.fsencode(coordination_base(sys.argv[1], '/locks', 'mark')))"
    )
    resource = "/srv/\u6771" + "x" * 98 + "\u6771\udcff"
    bases = set()
    for locale in ({"PYTHONUTF8": "1"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        bases.add(
            subprocess.run(
                [sys.executable, "-c", script, os.fsencode(resource)],
                env={**os.environ, "PYTHONPATH": str(Path(dogpile_fs.__file__).parents[1]), **locale},
                capture_output=True,
                check=True,
            ).stdout
        )
    assert len(bases) == 1
