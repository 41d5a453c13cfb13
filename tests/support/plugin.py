"""Let the pytest of another process find this checkout's plugin, whether or not the checkout is installed."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

__all__ = ["python_path"]

ROOT = Path(__file__).parents[2]


def python_path(directory: Path) -> str:
    """Return a ``PYTHONPATH`` by which this checkout is an installed package, with the plugin that it declares.

    :param directory: made, for the metadata.
    """
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    metadata = directory / "dogpile_fs-0.2.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: dogpile_fs\nVersion: 0.2.0\n")
    lines = ["[pytest11]", *(f"{name} = {module}" for name, module in declared.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return os.pathsep.join(filter(None, (str(directory), str(ROOT), os.environ.get("PYTHONPATH"))))
