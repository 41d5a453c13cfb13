"""The models of the protocols hold, and mistakes are caught; all: ``python -m tests.campaign.model_search``."""

from __future__ import annotations

import pytest

from tests.campaign.model_search import MUTATIONS, SMALL, Search, outcome, why_not_here

pytestmark = pytest.mark.skipif(bool(why_not_here()), reason=why_not_here() or "spin and gcc are there")


@pytest.mark.parametrize("search", [SMALL[1], SMALL[4], SMALL[6], SMALL[7], SMALL[9]], ids=str)
def test_the_protocol_keeps_its_promises_at_every_step_and_death(search: Search) -> None:
    assert outcome(search).complaint(search) == ""


@pytest.mark.parametrize(
    "search",
    [
        MUTATIONS[2],
        MUTATIONS[11],
        *(each for each in MUTATIONS if "FAILURES" in each.defined or each.model == "origin"),
    ],
    ids=str,
)
def test_a_mistake_is_caught(search: Search) -> None:
    assert outcome(search).complaint(search) == ""
