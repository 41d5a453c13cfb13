"""A small simulated fleet: ``python -m tests.campaign.hosts --fleet 200`` has the large ones."""

from __future__ import annotations

import pytest

from dogpile_fs._sidecar.origin_watch import OriginWatch
from tests.campaign.hosts import fleet
from tests.campaign.hosts.fleet import Settings, run_fleet

pytest.importorskip("greenlet")


def test_a_fleet_creates_once_for_each_expiry() -> None:
    result = run_fleet(Settings(hosts=8, workers=2, seed=1, lifetimes=3))
    assert result.violations == []
    assert result.creations == result.versions == 3


def test_a_disturbed_fleet_publishes_nothing_that_was_fenced() -> None:
    result = run_fleet(Settings(hosts=6, workers=2, seed=5, lifetimes=4, is_disturbed=True))
    assert result.violations == []
    assert result.versions + result.fenced == result.creations
    assert result.fenced > 0


def test_requests_grow_with_hosts_and_not_with_workers() -> None:
    one, same, twice = (
        run_fleet(Settings(hosts, workers, seed=1, lifetimes=3, every=0.5)).later
        for hosts, workers in ((4, 1), (4, 4), (8, 1))
    )
    assert same < 1.25 * one
    assert 1.7 * one < twice < 2.3 * one


def test_the_same_seed_gives_the_same_run() -> None:
    one, same, other = (run_fleet(Settings(hosts=4, workers=2, seed=seed, lifetimes=2)) for seed in (1, 1, 2))
    assert one.requests == same.requests
    assert one.requests != other.requests


def test_the_judge_finds_hosts_that_take_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OriginWatch, "seen_for", lambda self: 1e9)
    assert "took over from" in "\n".join(run_fleet(Settings(hosts=6, workers=2, seed=1, lifetimes=2)).violations)


def test_the_judge_finds_a_register_that_ignores_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    swap = fleet._Client.swap
    monkeypatch.setattr(
        fleet._Client, "swap", lambda self, value, tag: swap(self, value, self._register.tag or None)
    )
    found = run_fleet(Settings(hosts=6, workers=2, seed=1, lifetimes=3)).violations
    assert found
