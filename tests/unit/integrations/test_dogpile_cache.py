"""The backend of dogpile.cache: its own tests of backends, and what they do not ask."""

from __future__ import annotations

import os
import tempfile
import time
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest

cache: Any = pytest.importorskip("dogpile.cache")
fixtures: Any = pytest.importorskip("dogpile.testing.fixtures")

from dogpile_fs.integrations.dogpile_cache import FilesBackend  # noqa: E402
from tests.support.processes import Processes, Record, wait_for  # noqa: E402

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


class _Arguments:
    """What dogpile.cache's classes of tests want to know of a backend."""

    backend = "dogpile_fs.files"
    config_args: ClassVar[dict[str, Any]]
    _directory: ClassVar[tempfile.TemporaryDirectory[str]]

    @classmethod
    def setup_class(cls) -> None:
        cls._directory = tempfile.TemporaryDirectory()
        cls.config_args = {"arguments": {"directory": os.path.join(cls._directory.name, "values")}}

    @classmethod
    def teardown_class(cls) -> None:
        cls._directory.cleanup()


class TestItsBackendSuite(_Arguments, fixtures._GenericBackendTestSuite):  # type: ignore[misc]
    pass


class TestItsMutexSuite(_Arguments, fixtures._GenericMutexTestSuite):  # type: ignore[misc]
    pass


class TestItsSerializerSuite(
    _Arguments,
    fixtures._GenericSerializerTestSuite,  # type: ignore[misc]
    fixtures._GenericBackendTestSuite,  # type: ignore[misc]
):
    #: They take seconds, and have run above.
    test_threaded_dogpile = test_threaded_get_multi = None


def region_of(directory: Path | str, expiration_time: float = 3600, **arguments: Any) -> Any:
    return cache.make_region().configure(
        "dogpile_fs.files",
        expiration_time=expiration_time,
        arguments={"directory": str(directory), **arguments},
    )


def test_it_is_found_by_its_entry_point() -> None:
    points = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]["dogpile.cache"]
    module, _, name = points["dogpile_fs.files"].partition(":")
    assert getattr(import_module(module), name) is FilesBackend


def test_it_is_configured_from_a_config_file(tmp_path: Path) -> None:
    config = {
        "cache.backend": "dogpile_fs.files",
        "cache.expiration_time": "3600",
        "cache.arguments.directory": str(tmp_path / "values"),
        "cache.arguments.expiretime": "7200",
    }
    region = cache.make_region().configure_from_config(config, "cache.")
    region.set("one", 1)
    assert region.get("one") == 1
    assert (tmp_path / "values").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, TypeError),
        ({"directory": "values", "expiretime": 0}, ValueError),
        ({"directory": "values", "expiretime": "soon"}, ValueError),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        FilesBackend(arguments)


def _create(directory: Path, key: str, record: Record, together: int) -> None:
    def creator() -> str:
        record.write("create", key=key)
        wait_for(lambda: len(record.events("create")) >= together, f"{together} creators")
        record.write("created", key=key)
        return f"value of {key}"

    assert region_of(directory).get_or_create(key, creator) == f"value of {key}"
    record.write("got")


def test_creators_of_different_keys_run_at_the_same_time(
    tmp_path: Path, record: Record, processes: Processes
) -> None:
    for number in range(20):
        processes.start(_create, tmp_path / "values", f"key {number}", record, 20)
    processes.join()
    assert len(record.events("create")) == 20


def test_one_key_is_created_once_by_all_processes(tmp_path: Path, record: Record, processes: Processes) -> None:
    processes.start_many(8, _create, tmp_path / "values", "one", record, 1)
    processes.join()
    assert len(record.events("create")) == 1
    assert len(record.events("got")) == 8


def test_the_old_value_is_read_while_a_process_creates_and_after_it_was_killed_another_creates(
    tmp_path: Path, record: Record, processes: Processes
) -> None:
    region = region_of(tmp_path / "values")
    region.set("one", "old")
    region.invalidate(hard=False)
    process = processes.start(_create_in_place_of, tmp_path / "values", record)
    record.wait("create")
    assert region.get_or_create("one", lambda: pytest.fail("two creators")) == "old"
    process.kill()
    process.join()
    assert region.get_or_create("one", lambda: "new") == "new"


def _create_in_place_of(directory: Path, record: Record) -> None:
    region = region_of(directory, expiration_time=0.000001)

    def creator() -> None:
        record.write("create")
        record.wait("never")

    region.get_or_create("one", creator)


def test_several_values_are_set_and_read_at_a_time(tmp_path: Path) -> None:
    region = region_of(tmp_path / "values")
    region.set_multi({"one": 1, "two": [2], "../three": {"3": 3}})
    assert region.get_multi(["two", "four", "../three"]) == [[2], cache.api.NO_VALUE, {"3": 3}]
    assert os.listdir(tmp_path) == ["values"]
    region.delete_multi(["one", "two", "four"])
    assert not region.get("one")


def test_there_is_one_lock_file_for_all_keys(tmp_path: Path) -> None:
    region = region_of(tmp_path / "values")
    for number in range(10):
        region.get_or_create(f"key {number}", lambda: 1)
    assert len(os.listdir(tmp_path / "values")) == 10 + 1


def test_a_value_is_not_read_after_its_expiretime_and_prune_removes_it(tmp_path: Path) -> None:
    region = region_of(tmp_path / "values", expiretime=0.05)
    lasting = region_of(tmp_path / "values")
    region.set("one", 1)
    lasting.set("two", 2)
    wait_for(lambda: not region.get("one"), "the end of a value")
    assert region.backend.prune() == 1
    assert region.backend.prune() == 0
    assert lasting.get("two") == 2


def _file_of(region: Any, key: str) -> str:
    path: str = region.backend._files[key].path
    return path


def _age(region: Any, key: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(_file_of(region, key), (then, then))


def test_prune_removes_what_is_old_and_the_oldest_until_the_rest_is_small(tmp_path: Path) -> None:
    region = region_of(tmp_path / "values")
    for age, key in enumerate("abcd"):
        region.set(key, key * 1000)
        _age(region, key, 100 * age)
    size = sum(os.path.getsize(_file_of(region, key)) for key in "ab")
    assert region.backend.prune(older_than=250) == 1
    assert not region.get("d")
    assert region.backend.prune(max_bytes=size) == 1
    assert [bool(region.get(key)) for key in "abcd"] == [True, True, False, False]
    assert region.backend.prune(max_bytes=0) == 2
    for wrong in ({"max_bytes": -1}, {"older_than": -1}, {"older_than": float("nan")}):
        with pytest.raises(ValueError, match="must be a number"):
            region.backend.prune(**wrong)


def test_prune_removes_what_killed_writers_have_left_and_nothing_else(tmp_path: Path) -> None:
    region = region_of(tmp_path / "values")
    region.set("one", 1)
    left, recent = (Path(f"{_file_of(region, 'one')}.{digit * 16}.new") for digit in "ab")
    for each in (left, recent, tmp_path / "values" / "of another program"):
        each.write_bytes(b"")
    then = time.time() - 7200
    os.utime(left, (then, then))
    assert region.backend.prune(older_than=3600) == 0
    assert not left.exists()
    assert recent.exists()
    assert (tmp_path / "values" / "of another program").exists()
    assert region.get("one") == 1


@pytest.mark.parametrize("harm", [b"", b"\0" * 4096, b"dogpile\1"], ids=["empty", "zeros", "short"])
def test_a_file_that_a_crash_of_the_machine_has_harmed_is_no_value(tmp_path: Path, harm: bytes) -> None:
    region = region_of(tmp_path / "values")
    region.set("one", 1)
    Path(_file_of(region, "one")).write_bytes(harm)
    assert not region.get("one")
    assert region.get_or_create("one", lambda: 2) == 2


def test_a_file_with_one_wrong_byte_is_no_value(tmp_path: Path) -> None:
    region = region_of(tmp_path / "values")
    region.set("one", 1)
    file = Path(_file_of(region, "one"))
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert not region.get("one")
    file.write_bytes(whole)
    assert region.get("one") == 1


def test_a_value_that_cannot_be_written_leaves_the_old_one_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = region_of(tmp_path / "values")
    region.set("one", 1)
    before = sorted(os.listdir(tmp_path / "values"))

    def full(fd: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            region.set("one", 2)
    assert region.get("one") == 1
    assert sorted(os.listdir(tmp_path / "values")) == before


def _set_and_prune(directory: Path, number: int) -> None:
    region = region_of(directory)
    for turn in range(100):
        region.set(f"key {turn % 5}", (number, turn) * 100)
        value = region.get(f"key {turn % 5}")
        assert not value or value == (value[0], value[1]) * 100
        if number == 0:
            region.backend.prune(max_bytes=3000)


def test_processes_set_read_and_prune_at_the_same_time(tmp_path: Path, processes: Processes) -> None:
    for number in range(4):
        processes.start(_set_and_prune, tmp_path / "values", number)
    processes.join()
    assert not [name for name in os.listdir(tmp_path / "values") if name.endswith(".new")]


def test_an_asynchronous_creator_gives_the_mutex_back_from_its_own_thread(tmp_path: Path) -> None:
    import threading

    done: list[threading.Thread] = []

    def runner(region: Any, key: str, creator: Any, mutex: Any) -> None:
        def run() -> None:
            try:
                region.set(key, creator())
            finally:
                mutex.release()

        done.append(threading.Thread(target=run))
        done[0].start()

    region = cache.make_region(async_creation_runner=runner).configure(
        "dogpile_fs.files", expiration_time=0.000001, arguments={"directory": str(tmp_path / "values")}
    )
    region.set("one", "old")
    assert region.get_or_create("one", lambda: "new") == "old"
    done[0].join()
    assert not region.key_is_locked("one")
    assert region.get("one", ignore_expiration=True) == "new"
