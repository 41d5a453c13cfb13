"""Threads, tasks and forks under stress, for a few seconds; ``python -m tests.campaign.stress`` does it at
length."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_threads_tasks_and_forks_get_on_while_another_program_replaces_their_sidecars() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.campaign.stress", "--seconds", "3"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    result = json.loads(done.stdout.partition("RESULT ")[2] or '{"violations": ["no result"]}')
    assert (result["violations"], done.stderr, done.returncode) == ([], "", 0)
