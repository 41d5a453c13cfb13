"""Coordination files in a sticky directory that every user may write, where a neighbour came first."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import time
from collections.abc import Callable
from fcntl import LOCK_EX, LOCK_SH, flock
from pathlib import Path

import pytest

from dogpile_fs import Datafile, Dogpile, DogpileError, LockTimeout, SyncReaderDogpile
from tests.support.processes import Processes, Record

from .neighbours import NEIGHBOUR, OTHER, ROOT, Outside, acting_as, as_user, outcome

SIDECAR = ".dogpile"
JOURNAL = ".dogpile.journal"
FILES = (SIDECAR, ".dogpile.lock", ".dogpile.rwlock")
PLANTED = "planted"


def use(path: str) -> str:
    """Do everything that a creator does, and print the errors, one per line."""
    dogpile = SyncReaderDogpile(0, path, timeout=5)

    def creator() -> None:
        with dogpile.acquire_write_lock():
            pass

    met = []
    deeds: list[Callable[[], object]] = [
        dogpile.status,
        lambda: dogpile.refresh(creator),
        dogpile.invalidate,
        lambda: enter(dogpile, creator),
        lambda: dogpile.refresh(creator, force=True),
    ]
    for deed in deeds:
        try:
            deed()
        except DogpileError as error:
            met.append(str(error))
    return "\n".join(met)


def enter(dogpile: Dogpile, creator: Callable[[], object]) -> None:
    with dogpile.acquire(creator):
        pass


def plant_link(place: str, outside: Outside) -> None:
    os.symlink(outside.canary, place)


def plant_dangling_link(place: str, outside: Outside) -> None:
    os.symlink(outside.directory / "new", place)


def plant_fifo(place: str, outside: Outside) -> None:
    os.mkfifo(place)
    os.chmod(place, 0o666)


def plant_socket(place: str, outside: Outside) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)


def plant_directory(place: str, outside: Outside) -> None:
    os.mkdir(place)


def plant_closed_file(place: str, outside: Outside) -> None:
    os.close(os.open(place, os.O_WRONLY | os.O_CREAT, 0o600))


def plant_second_name(place: str, outside: Outside) -> None:
    Path(place).write_text("whatever")
    os.chmod(place, 0o666)
    os.link(place, place + ".other")


#: Planted files, and a part of the error that an unprivileged user gets who cannot remove them: kind or owner.
PLANTS: dict[Callable[[str, Outside], None], tuple[str, ...]] = {
    plant_link: ("a symbolic link to", PLANTED),
    plant_dangling_link: ("a symbolic link to", PLANTED),
    plant_fifo: ("a FIFO", PLANTED),
    plant_socket: ("a socket", PLANTED),
    plant_directory: ("Is a directory", "Hint: move the directory away"),
    plant_closed_file: ("mode 0600", f"owner {NEIGHBOUR}", "sticky"),
}


@pytest.mark.parametrize("suffix", FILES)
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_file_leads_no_process_elsewhere_and_the_error_says_what_it_is(
    plant: Callable[[str, Outside], None], suffix: str, sticky: Path, outside: Outside
) -> None:
    path = str(sticky / "resource")
    with acting_as(NEIGHBOUR):
        plant(path + suffix, outside)
    told = outcome(OTHER, lambda: use(path))
    for part in PLANTS[plant]:
        assert part in told
    assert path + suffix in told
    outside.assert_untouched()
    # Root may do more, and is not led elsewhere either.
    told = outcome(ROOT, lambda: use(path))
    if plant is plant_directory:
        assert "Hint: move the directory away" in told
    else:
        assert told == "''"
        assert stat.S_ISREG(os.lstat(path + suffix).st_mode)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_journal_leads_no_process_elsewhere_and_fails_no_creation(
    plant: Callable[[str, Outside], None], sticky: Path, outside: Outside
) -> None:
    path = str(sticky / "resource")
    with acting_as(NEIGHBOUR):
        plant(path + JOURNAL, outside)
    assert outcome(OTHER, lambda: use(path)) == "''"
    outside.assert_untouched()
    assert outcome(ROOT, lambda: use(path)) == "''"
    assert stat.S_ISREG(os.lstat(path + JOURNAL).st_mode) == (plant is not plant_directory)


@pytest.mark.parametrize("suffix", [*FILES, JOURNAL])
@pytest.mark.parametrize("uid", [ROOT, OTHER])
def test_nothing_is_written_through_a_hard_link_and_a_sidecar_that_is_one_is_replaced(
    uid: int, suffix: str, sticky: Path
) -> None:
    precious = sticky / "precious"  # a file of the victim's own, of which a neighbour has made another name
    precious.write_text("precious")
    os.chown(precious, uid, uid)
    precious.chmod(0o600)
    before = precious.stat()
    path = str(sticky / "resource")
    os.link(precious, path + suffix)  # in a neighbour's name, this needs fs.protected_hardlinks=0
    assert outcome(uid, lambda: use(path)) == "''"
    assert precious.read_text() == "precious"
    after = precious.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, uid, before.st_mtime_ns)
    assert (os.stat(path + suffix).st_nlink == 1) == (suffix in (SIDECAR, JOURNAL))
    assert Dogpile(3600, path).status().generation == 3
    ours = {f"resource{each}" for each in (*FILES, JOURNAL)}
    assert {name for name in os.listdir(sticky) if name.startswith("resource")} <= ours


def test_a_hard_linked_sidecar_that_may_not_be_replaced_is_not_written_and_raises_an_error(sticky: Path) -> None:
    path = str(sticky / "resource")
    with acting_as(NEIGHBOUR, mask=0):
        plant_second_name(path + SIDECAR, None)  # type: ignore[arg-type]
    told = outcome(OTHER, lambda: use(path))
    for part in (
        path + SIDECAR,
        "hard link, one of 2 names",
        PLANTED,
        f"owner {NEIGHBOUR}",
        "Hint: let its owner",
    ):
        assert part in told
    assert (sticky / ("resource" + SIDECAR + ".other")).read_text() == "whatever"


def test_a_sidecar_of_which_a_backup_has_made_a_hard_link_keeps_its_record_and_permissions(place: Path) -> None:
    path = str(place / "resource")
    os.chown(place, NEIGHBOUR, NEIGHBOUR)
    as_user(NEIGHBOUR, lambda: Dogpile(3600, path, mode=0o640).refresh(lambda: None))
    os.link(path + SIDECAR, place / "backup")
    saved = (place / "backup").read_bytes()
    as_user(ROOT, lambda: Dogpile(3600, path).invalidate())
    assert (place / "backup").read_bytes() == saved
    found = os.stat(path + SIDECAR)
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_nlink) == (0o640, NEIGHBOUR, 1)
    status = Dogpile(3600, path).status()
    assert (status.generation, status.state) == (1, "stale")


def test_a_huge_sidecar_costs_no_more_than_a_small_one(sticky: Path) -> None:
    path = str(sticky / "resource")
    with acting_as(NEIGHBOUR, mask=0), open(path + SIDECAR, "wb") as file:
        file.truncate(1 << 40)
    began = time.process_time()
    told = outcome(OTHER, lambda: use(path))
    assert told == "''"
    assert time.process_time() - began < 5
    assert os.path.getsize(path + SIDECAR) < 1 << 13


def test_a_sidecar_with_a_lease_on_it_raises_an_error_and_does_not_hang(
    sticky: Path, processes: Processes, record: Record
) -> None:
    path = str(sticky / "resource")
    as_user(NEIGHBOUR, lambda: Dogpile(3600, path, mode=0o666).refresh(lambda: None))

    def hold_a_lease() -> None:
        with acting_as(NEIGHBOUR):
            signal.signal(signal.SIGIO, signal.SIG_IGN)
            fd = os.open(path + SIDECAR, os.O_RDWR)
            try:
                fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
                what = "holds"
            except OSError:
                what = "cannot"
        record.write(what)
        signal.pause()

    holder = processes.start(hold_a_lease)
    while not record.events():
        time.sleep(0.001)
    if record.events("cannot"):
        pytest.skip("this file system gives no leases")
    told = outcome(OTHER, lambda: Dogpile(3600, path).status())
    assert "SidecarError" in told
    assert "lease" in told
    holder.kill()
    holder.join()
    assert "state='fresh'" in outcome(OTHER, lambda: Dogpile(3600, path).status())


def holding(path: str, kind: int, record: Record) -> None:
    with acting_as(NEIGHBOUR):
        fd = os.open(path, os.O_RDONLY)  # more is not needed
        flock(fd, kind)
    record.write("holds")
    signal.pause()


def test_a_mutex_that_a_neighbour_holds_for_ever_stops_no_stale_pass(
    sticky: Path, processes: Processes, record: Record
) -> None:
    path = str(sticky / "resource")
    as_user(OTHER, lambda: Dogpile(0, path).refresh(lambda: None))
    processes.start(holding, path + ".dogpile.lock", LOCK_EX, record)
    record.wait("holds")

    def others_go_on() -> None:
        dogpile = Dogpile(0, path)
        for _ in range(3):
            enter(dogpile, lambda: None)
        assert not dogpile.refresh(lambda: None)
        assert dogpile.status().creating
        with pytest.raises(LockTimeout, match=r"fuser\(1\)"):
            dogpile.refresh(lambda: None, force=True, timeout=0.05)

    as_user(OTHER, others_go_on)


def test_a_sidecar_that_a_neighbour_keeps_locked_holds_up_a_stamp_no_longer_than_its_timeout(
    sticky: Path, processes: Processes, record: Record
) -> None:
    path = str(sticky / "resource")
    as_user(OTHER, lambda: Dogpile(3600, path).refresh(lambda: None))
    processes.start(holding, path + SIDECAR, LOCK_SH, record)
    record.wait("holds")

    def others_go_on() -> None:
        dogpile = Dogpile(3600, path, timeout=0.05)
        enter(dogpile, lambda: None)
        with pytest.raises(LockTimeout, match=r"fuser\(1\)"):
            dogpile.refresh(lambda: None, force=True)

    as_user(OTHER, others_go_on)


def test_files_in_a_shared_directory_lead_no_process_elsewhere_either(
    place: Path, sticky: Path, outside: Outside
) -> None:
    path = str(place / "report")
    as_user(ROOT, lambda: Datafile(path, 3600, lambda target: Path(target).touch(), directory=sticky).refresh())
    (name,) = (name.removesuffix(SIDECAR) for name in os.listdir(sticky) if name.endswith(SIDECAR))
    for suffix in (*FILES, JOURNAL):
        (sticky / (name + suffix)).unlink(missing_ok=True)
        with acting_as(NEIGHBOUR):
            os.symlink(outside.canary, sticky / (name + suffix))

    def create() -> bool:
        datafile = Datafile(path, 0, lambda target: Path(target).touch(), directory=sticky, readers=True)
        return bool(datafile.refresh())

    assert outcome(ROOT, create) == "True"
    assert all(stat.S_ISREG(os.lstat(sticky / (name + suffix)).st_mode) for suffix in (*FILES, JOURNAL))
