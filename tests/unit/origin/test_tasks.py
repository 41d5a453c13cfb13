"""Datafiles of several hosts for tasks: of asyncio and of trio."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from dogpile_fs import Datafile, Origin, Outcome, aio
from tests.support.processes import PATIENCE

HOUR = 3600
BACKENDS = ("asyncio", "trio")


def replicas(
    tmp_path: Path, url: str, creator: Any, expiretime: float = HOUR, **options: Any
) -> list[aio.Datafile]:
    origin, made = Origin(url, check=0.1), []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "report"
        made.append(aio.Datafile(path, expiretime, creator, origin=origin, timeout=60, **options))
    return made


async def becomes(condition: Callable[[], Any], what: str) -> None:
    with anyio.fail_after(PATIENCE):
        while not await condition():
            await anyio.sleep(0.01)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_coroutine_function_has_created_is_fetched_by_the_tasks_of_other_hosts(
    backend: str, tmp_path: Path, url: str
) -> None:
    created: list[int] = []

    async def create(target: Any) -> None:
        created.append(1)
        await anyio.sleep(0.05)
        Path(target).write_text(json.dumps(len(created)))

    async def valid(path: str) -> bool:
        await anyio.sleep(0)
        return True

    async def main() -> None:
        one, other = replicas(tmp_path, url, create, validate=valid)
        async with one.open("r") as file:
            assert file.read() == "1"
        assert await other.load(json.load) == 1
        assert await other.refresh(force=True) == Outcome.created

        async def is_told() -> bool:
            return await one.load(json.load) == 2  # type: ignore[no-any-return]

        await becomes(is_told, "the second version")
        await one.invalidate()
        assert await one.refresh() == Outcome.created
        status = await one.status()
        assert (status.generation, status.origin) == (3, url)

    anyio.run(main, backend=backend)
    assert len(created) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_event_loop_goes_on_while_an_origin_does_not_answer(backend: str, tmp_path: Path) -> None:
    gaps: list[float] = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await anyio.sleep(0.01)
            gaps.append(time.monotonic() - before)

    async def main() -> None:
        # A port on which nothing accepts: connections to it wait for their timeout.
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", backlog=1)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        pytest.importorskip("redis")
        path = tmp_path / "report"
        path.write_text("shipped")
        report = aio.Datafile(path, None, origin=Origin(f"redis://127.0.0.1:{port}/0/x", check=0.1), timeout=60)
        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            for _ in range(5):
                async with report.open("r") as file:
                    assert file.read() == "shipped"
                await anyio.sleep(0.2)
            group.cancel_scope.cancel()
        assert (await report.status()).origin_down_since is not None
        await listener.aclose()

    anyio.run(main, backend=backend)
    assert len(gaps) > 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_creation_whose_task_is_cancelled_is_published(backend: str, tmp_path: Path) -> None:
    begun: list[int] = []

    async def create(target: Any) -> None:
        begun.append(1)
        await anyio.sleep(0.3)
        Path(target).write_text("made")

    async def main() -> None:
        one, _ = replicas(tmp_path, str(tmp_path / "origin"), create)
        async with anyio.create_task_group() as group:
            group.start_soon(one.refresh)

            async def has_begun() -> bool:
                return bool(begun)

            await becomes(has_begun, "the creation")
            group.cancel_scope.cancel()
        sync = Datafile(
            tmp_path / "other" / "report", HOUR, origin=Origin(tmp_path / "origin", check=0.1), timeout=60
        )
        content = await anyio.to_thread.run_sync(lambda: Path(sync.path()).read_text())
        assert content == "made"

    anyio.run(main, backend=backend)
    assert len(begun) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", [aio.Dogpile, aio.SyncReaderDogpile])
def test_of_the_tasks_of_two_hosts_one_creates(
    backend: str, kind: type[aio.Dogpile], tmp_path: Path, url: str
) -> None:
    created: list[int] = []

    async def create() -> str:
        created.append(1)
        await anyio.sleep(0.05)
        return "made"

    async def main() -> None:
        dogpiles = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            origin = Origin(url, check=0.1)
            dogpiles.append(kind(HOUR, tmp_path / name / "rows", origin=origin, timeout=60))
        values = []

        async def use(dogpile: aio.Dogpile) -> None:
            async with dogpile.acquire(create) as value:
                values.append(value)

        async with anyio.create_task_group() as group:
            for dogpile in dogpiles * 5:
                group.start_soon(use, dogpile)
        assert sorted(values, key=str) == [None] * 9 + ["made"]
        assert await dogpiles[1].refresh(create, force=True) == Outcome.created

    anyio.run(main, backend=backend)
    assert len(created) == 2
