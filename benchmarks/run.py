"""Run the benchmarks: ``python benchmarks/run.py [--quick] [--only ROW] [--out DIRECTORY]``.

Each module of scenarios is measured by a process of its own, so that none inherits the imports, open files and
leftovers of another. The results are kept as JSON, a table and pictures; see README.rst.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Run as a script, this file's own directory is on the path, but the package benchmarks is that directory itself.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.measuring import machine  # noqa: E402
from benchmarks.measuring.harness import KEPT  # noqa: E402
from benchmarks.measuring.measures import Scenario  # noqa: E402
from benchmarks.report import page as report  # noqa: E402
from benchmarks.report.words import with_spread  # noqa: E402

#: The modules that measure, and the rows of each. Rows that are compared are measured together.
MODULES = {
    "rows_01_to_04_single_calls": (1, 2, 3, 4),
    "row_05_cold_start": (5,),
    "row_06_writer_among_readers": (6,),
    "row_07_expiry_under_load": (7,),
    "row_08_web": (8,),
    "row_09_swap": (9,),
    "row_10_many_paths": (10,),
    "row_11_start": (11,),
    "row_12_scaling": (12,),
    "row_13_slow_creator": (13,),
    "row_14_handing_over": (14,),
    "row_15_many_keys": (15,),
    "row_16_tasks": (16,),
    "row_17_serving": (17,),
    "row_18_directory_swap": (18,),
}
#: Where page and pictures, and where the figures of a full run go.
PAGES = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = "benchmarks.json"
PICTURES = "benchmarks"
#: Seconds for one module, which takes a minute or two; row 15 took 22 minutes on a busy machine.
_TIME_LIMIT = 1800


def main(words: Sequence[str] | None = None) -> int:
    """:returns: 0 if all checks passed, whether or not the bars are met; bars are for people to judge."""
    parser = argparse.ArgumentParser(prog="run.py", description="Run the benchmarks.")
    rows = [row for some in MODULES.values() for row in some]
    parser.add_argument("--quick", action="store_true", help="see that the scripts work; the figures mean nothing")
    parser.add_argument(
        "--only", type=int, choices=rows, action="append", metavar="ROW", help="measure this row again (1 to 18)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIRECTORY",
        help="write the page, its pictures and the figures here, beside those of other rows "
        "(default: docs and benchmarks/results; with --quick: nowhere)",
    )
    parser.add_argument("--scratch", type=Path, help="make the files of the scenarios in this directory")
    parser.add_argument("--module", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.module:
        return _measure_module(options.module, options.quick, options.scratch, options.out)
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.scratch) as scratch:
        out = options.out or (Path(scratch) / "out" if options.quick else None)
        return _run(out or PAGES, out or RESULTS, Path(scratch), options.quick, options.only or rows)


def _run(out: Path, keep_in: Path, scratch: Path, quick: bool, rows: Sequence[int]) -> int:
    here = machine.described(scratch)
    results: dict[str, Any] = {"machine": here, "runs": {}, "scenarios": []}
    (out / PICTURES).mkdir(parents=True, exist_ok=True)
    keep_in.mkdir(parents=True, exist_ok=True)
    file = keep_in / FIGURES
    modules = [module for module, its_rows in MODULES.items() if set(its_rows) & set(rows)]
    if file.exists() and len(modules) < len(MODULES):
        results = json.loads(file.read_text())
    bad = []
    for module in modules:
        print(f"{module} (row {', '.join(map(str, MODULES[module]))}) ...", flush=True)
        run, scenarios = _in_process_of_its_own(module, quick, scratch, keep_in)
        results["runs"][module] = {**run, "elsewhere": elsewhere(results["machine"], here)}
        measured = {scenario.number: scenario for scenario in scenarios}
        kept = [data for data in results["scenarios"] if data["number"] not in measured]
        results["scenarios"] = sorted(
            kept + [scenario.as_json() for scenario in scenarios], key=lambda data: data["number"]
        )
        for scenario in scenarios:
            bad += _print_outcome(scenario)
        print(f"  {run['took']:.0f} s; others had {run['others']:.0f} % of the processors", flush=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {_written(out, results)}")
    for text in bad:
        print(f"FAILED: {text}")
    return 1 if bad else 0


def elsewhere(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return in what the machine *now* differs from that of the existing results, *before*; which packages do.

    A figure is compared with those of its own module only. So rows of different machines may be on one page, which
    says so.
    """
    differ = {name: value for name, value in now.items() if before.get(name) != value}
    if "packages" in differ:
        differ["packages"] = elsewhere(before["packages"], now["packages"])
    return differ


def _in_process_of_its_own(
    module: str, quick: bool, scratch: Path, keep_in: Path
) -> tuple[dict[str, Any], list[Scenario]]:
    with tempfile.TemporaryDirectory(prefix=f"{module}-", dir=scratch) as place:
        found = Path(place) / "found.json"
        command = [sys.executable, str(Path(__file__).resolve()), "--module", module, "--out", str(found)]
        command += ["--scratch", place, *(["--quick"] if quick else [])]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        started = time.monotonic()
        with machine.watched() as meanwhile:
            subprocess.run(command, check=True, timeout=_TIME_LIMIT, env={**os.environ, "PYTHONPATH": path})
        for kept in Path(place).glob(f"{KEPT}/*"):
            shutil.copy(kept, keep_in)
        run = {
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "took": round(time.monotonic() - started, 1),
            "quick": quick,
            "others": round(meanwhile.others, 1),
            "stolen": round(meanwhile.stolen, 1),
        }
        return run, [Scenario.from_json(data) for data in json.loads(found.read_text())]


def _measure_module(module: str, quick: bool, scratch: Path, out: Path) -> int:
    scenarios = importlib.import_module(f"benchmarks.scenarios.{module}").measure(quick, scratch)
    out.write_text(json.dumps([scenario.as_json() for scenario in scenarios]))
    return 0


def _print_outcome(scenario: Scenario) -> list[str]:
    """Print the outcome, and return the checks that failed."""
    print(f"  {scenario.number}. {scenario.title}")
    for bar in scenario.bars:
        print(f"     {bar.verdict:28} {with_spread(bar.measured, bar.unit):28} {bar.text}")
    failed = [check for check in scenario.checks if not check.passed]
    print(f"     {len(scenario.checks) - len(failed)} of {len(scenario.checks)} checks passed", flush=True)
    return [f"row {scenario.number}: {check.text}: {check.seen}" for check in failed]


def _written(out: Path, results: dict[str, Any]) -> Path:
    from benchmarks.report import plots

    pictures: dict[int, Sequence[str]] = {}
    for data in results["scenarios"]:
        scenario = Scenario.from_json(data)
        pictures[scenario.number] = [f"{PICTURES}/{name}" for name in plots.draw(scenario, out / PICTURES)]
    return report.write(out, results, pictures)


if __name__ == "__main__":
    sys.exit(main())
