"""The command ``datafiles``."""

from __future__ import annotations

from ..._command import Command

__all__ = ["Command"]
