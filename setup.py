"""For tools that expect it; everything is said in pyproject.toml."""

from setuptools import setup

setup()
