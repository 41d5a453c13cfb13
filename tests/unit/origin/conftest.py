"""Origins of each kind, each a new one, on real servers."""

from __future__ import annotations

import secrets
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support import servers

KINDS = ("directory", "redis", "s3")


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return new_url(request.param, tmp_path, monkeypatch)


def new_url(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = secrets.token_hex(4)
    if kind == "directory":
        return str(tmp_path / name)
    if kind == "redis":
        return f"redis://127.0.0.1:{servers.redis().port}/0/{name}"
    for variable, value in servers.ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{servers.moto().port}")
    return f"s3://tests/{name}"


def listeners(hint: str) -> int:
    """Return how many connections listen to the hints at this URL."""
    import redis

    parts = urlsplit(hint)
    with redis.Redis(port=parts.port or 6379) as client:
        [(_, count)] = client.pubsub_numsub(f"dogpile_fs:{{{parts.path.split('/')[2]}}}")
        return int(count)
