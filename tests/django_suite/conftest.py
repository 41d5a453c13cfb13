"""What is here runs in Django's own runner, beside Django's tests, and not in pytest."""

from __future__ import annotations

collect_ignore = ["suite.py"]
