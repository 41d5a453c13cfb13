"""Origins of each kind, each a new one, on real servers."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support import servers

#: Azurite comes with npm, so that few have it: ``tox -e campaign-hosts`` does.
KINDS = ("directory", "redis", "s3", *(["az"] if shutil.which("azurite-blob") else []))


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return new_url(request.param, tmp_path, monkeypatch)


def new_url(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = secrets.token_hex(4)
    if kind == "directory":
        return str(tmp_path / name)
    if kind == "redis":
        return f"redis://127.0.0.1:{servers.redis().port}/0/{name}"
    if kind == "az":
        environment = servers.azure_environment(servers.azurite().port)
    else:
        environment = {**servers.ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{servers.moto().port}"}
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    return f"{kind}://tests/{name}"


def listeners(hint: str) -> int:
    """Return how many connections listen to the hints at this URL."""
    import redis

    parts = urlsplit(hint)
    with redis.Redis(port=parts.port or 6379) as client:
        [(_, count)] = client.pubsub_numsub(f"dogpile_fs:{{{parts.path.split('/')[2]}}}")
        return int(count)
