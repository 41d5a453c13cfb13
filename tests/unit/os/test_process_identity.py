"""Which process has an id."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dogpile_fs._os.process_identity import Identity, has_ended, own_identity, start_of


@pytest.fixture
def ended() -> tuple[int, Identity]:
    """The id and the identity of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = own_identity()._replace(start=start_of(process.pid))
    assert not has_ended(process.pid, identity)
    process.communicate(b"\n")
    return process.pid, identity


def test_a_process_that_is_no_more_has_ended(ended: tuple[int, Identity]) -> None:
    assert has_ended(*ended)


def test_a_later_process_with_the_same_id_is_another_one() -> None:
    own = own_identity()
    assert own.start is not None
    assert not has_ended(os.getpid(), own)
    assert has_ended(os.getpid(), own._replace(start=own.start - 1))


def test_another_users_process_has_not_ended() -> None:
    identity = own_identity()._replace(start=start_of(1))
    assert not has_ended(1, identity)


def test_what_is_not_known_is_no_end(ended: tuple[int, Identity]) -> None:
    pid, identity = ended
    assert not has_ended(1 << 40, identity)
    for unknown in (identity._replace(boot=None), identity._replace(pid_ns=None), identity._replace(start=None)):
        assert not has_ended(pid, unknown)


def test_a_process_of_another_boot_or_container_has_not_ended_for_this_one(ended: tuple[int, Identity]) -> None:
    pid, identity = ended
    assert not has_ended(pid, identity._replace(boot="0123456789abcdef"))
    assert not has_ended(pid, identity._replace(pid_ns=1))
