"""Real processes on two hosts, one fault, and a judge of what all of them have seen: ``python -m
tests.campaign.hosts`` does it at length, with each fault on each kind of origin.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.campaign.hosts.mutants import FAULTS as FAULTS_OF_MUTANTS
from tests.campaign.hosts.trial import run_trial

#: Those of which a fault of this package would show first. The campaign has all, on each kind of origin.
TRIALS = [
    ("directory", "none"),
    ("s3", "stop"),
    ("directory", "kill"),
    ("redis", "cut"),
    ("directory", "lost"),
    ("directory", "stop-for-long"),
    ("redis", "set-back"),
    ("s3", "unfit"),
]
#: Trials with other seeds in which the judge must find a broken variant out.
_TRIES = 8


@pytest.mark.parametrize(("kind", "fault"), TRIALS)
def test_hosts_agree_under_a_fault(kind: str, fault: str, tmp_path: Path) -> None:
    report = run_trial(kind, fault, 1, root=tmp_path)
    assert report.violations == []


@pytest.mark.skipif("DOGPILE_FS_ROUNDS" not in os.environ, reason="it takes long: tox -e endurance")
@pytest.mark.parametrize("mutant", FAULTS_OF_MUTANTS)
def test_the_judge_finds_a_broken_variant_out(mutant: str, tmp_path: Path) -> None:
    fault, kind = FAULTS_OF_MUTANTS[mutant]
    trials = (run_trial(kind, fault, seed, mutant=mutant, root=tmp_path) for seed in range(1, 1 + _TRIES))
    assert any(report.violations for report in trials)
