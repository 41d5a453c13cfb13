"""Ceph's gateway as an origin: only where ``DOGPILE_FS_RGW`` is set, as it takes a cluster."""

from __future__ import annotations

import os

import pytest

from dogpile_fs import Origin
from dogpile_fs.cli import main
from dogpile_fs.origin import find_fault
from tests.support import servers

pytestmark = pytest.mark.skipif(not os.environ.get("DOGPILE_FS_RGW"), reason="DOGPILE_FS_RGW is not set")


@pytest.fixture(autouse=True)
def gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**servers.ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{servers.rgw().port}"}
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)


def test_the_gateway_keeps_its_conditions_though_it_does_not_know_the_quotes_of_its_etags() -> None:
    Origin("s3://tests/rgw")._engine().now()
    for _ in range(3):
        assert find_fault(Origin("s3://tests/rgw/probe")._engine) == ""


def test_the_command_finds_it_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["origin", "check", "s3://tests/rgw"]) == 0, capsys.readouterr().err
